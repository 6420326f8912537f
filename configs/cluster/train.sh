#!/bin/bash
# Training on several machines of a SLURM cluster, submitted again when its time runs out or the
# machines are wanted by somebody else.
#
#   sbatch --nodes 4 --gpus-per-node 8 configs/cluster/train.sh RUN -b my.yaml [key=value ...]
#
# RUN is the name of the run: its folder is runs/RUN, on a disk that all nodes see. Of the verbs'
# arguments, those after RUN are for the first start; a run that has a checkpoint resumes.
#
#SBATCH --job-name taming
#SBATCH --ntasks-per-node 1
#SBATCH --cpus-per-task 32
#SBATCH --time 24:00:00
#SBATCH --signal B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode append
#SBATCH --output runs/%x-%j.log

set -u
run=$1
shift
processes=${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
python=${PYTHON:-python}

# The last checkpoint, whole or in parts, decides whether this is a start
words=(-n "$run" "$@")
for checkpoint in "runs/$run/checkpoints/last.ckpt" "runs/$run"/checkpoints/last-*.sharded; do
    [ -e "$checkpoint" ] && words=(-r "runs/$run")
done

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))

# One torchrun on each node; a node that dies ends them all. No restarts by torchrun: SLURM does
# that, with what is left
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=150  # seconds in which a batch and a checkpoint are done
srun --kill-on-bad-exit=1 "$python" -m torch.distributed.run \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$processes" --max-restarts 0 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:$port" \
    -m taming train "${words[@]}" &
work=$!

# 180 seconds before the end: save after this batch, stop, and get in line again
stop() {
    kill -TERM "$work"
    wait "$work"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap stop USR1

wait "$work"
