#!/bin/bash
# Training in slices of some seconds, for a machine that is lent for minutes: each call takes up
# where the last one stopped, saves after the batch at hand, and ends.
#
#   configs/cluster/slices.sh CONFIG SECONDS [key=value ...]
#
# CONFIG is a YAML or the name of one of ours, and the name of the run: runs/CONFIG. With OUT set,
# the weights as they are go there in half precision, without what only training needs, and the
# metrics beside them: what comes back where a machine's disk is lost.

set -u
config=$1 seconds=$2
shift 2
run=$(basename "$config" .yaml)
python=${PYTHON:-python}

words=(-n "$run" -b "$config" "$@")
[ -e "runs/$run/checkpoints/last.ckpt" ] && words=(-r "runs/$run")
timeout --signal INT --kill-after 60 "$seconds" "$python" -m taming train "${words[@]}"
code=$?
if [ -n "${OUT:-}" ] && [ -e "runs/$run/checkpoints/last.ckpt" ]; then
    "$python" -m taming convert --half "runs/$run" "$OUT/$run.safetensors"
    cp "runs/$run/metrics.csv" "$OUT/$run.csv"
fi
# 124: the time was over, as it should be
[ "$code" -eq 124 ] && exit 0
exit "$code"
