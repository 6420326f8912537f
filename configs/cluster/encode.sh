#!/bin/bash
# The codes of a large data set on many machines of a SLURM cluster: an array of jobs that share one
# folder. Each takes the shards of its number first, then what others leave; submit it again to
# finish what was cut short.
#
#   sbatch --array 0-63 configs/cluster/encode.sh CKPT 'data/{00000..09999}.tar' -o CODES --size 256
#   taming encode --status -o CODES
#
#SBATCH --job-name encode
#SBATCH --gpus 1
#SBATCH --cpus-per-task 12
#SBATCH --time 12:00:00
#SBATCH --requeue
#SBATCH --output runs/%x-%A_%a.log

exec "${PYTHON:-python}" -m taming encode "$@" --workers 8 --batch-size 64
