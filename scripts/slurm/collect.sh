#!/usr/bin/env bash
# Collect learning histories as a job array, into one folder on the shared disk:
#
#   sbatch --array 1-8 scripts/slurm/collect.sh dark-room --output runs/histories --set collect.lockstep=64
#
# The arguments are those of `ad-hf collect`, which has to be on the PATH where you submit. Every task collects
# the lockstep runs that are its share, whole files only; the last one to end writes the card, and the folder is
# the one that a single process would have written. Whatever has died is done by submitting the same line again.
#
#SBATCH --job-name=ad-hf-collect
#SBATCH --output=%x-%A-%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
set -euo pipefail

# exec, so that SIGTERM reaches it.
exec ad-hf collect "$@" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
