#!/bin/bash
# Many samples on many machines of a SLURM cluster, into tars that taming evaluate reads.
#
#   sbatch --array 0-15 configs/cluster/sample.sh CKPT -n 50000 --seed 0 -o SAMPLES
#
#SBATCH --job-name sample
#SBATCH --gpus 1
#SBATCH --cpus-per-task 4
#SBATCH --time 12:00:00
#SBATCH --requeue
#SBATCH --output runs/%x-%A_%a.log

exec "${PYTHON:-python}" -m taming sample "$@" --shard slurm --format shards
