#!/usr/bin/env bash
# Train on several machines, from the folder of this repository:
#
#   sbatch --nodes 2 --gpus-per-node 8 --cpus-per-task 32 scripts/slurm/train.sh \
#       dark-room --dataset runs/histories --output runs/model
#
# The arguments are those of `ad-hf train`, which has to be on the PATH where you submit. On CPUs, with four
# processes on each machine:
#
#   ACCELERATE_USE_CPU=true PROCESSES=4 sbatch --nodes 2 --cpus-per-task 4 scripts/slurm/train.sh ...
#
# If any process dies, all are started again and go on from the last checkpoint, twice at most. Preempted or at its
# time limit training saves, is queued again and goes on where it stopped, for which all machines that may become
# the first one need the same --output. SLURM's KillWait, 30 seconds by default, has to suffice for two updates
# and a checkpoint.
#
#SBATCH --job-name=ad-hf-train
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail

export CONFIG="${CONFIG:-scripts/accelerate/ddp.yaml}"    # or fsdp2.yaml, zero2.yaml
export PROCESSES="${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}" # on each machine
export PORT="${PORT:-29500}"                              # one that is free on the first machine
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then
    export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # which srun does not take from sbatch
fi

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MAIN_HOST="${hosts[0]}"

# SLURM queues again by itself what it preempts, but not what is at its time limit. Either way it sends SIGTERM
# to the tasks, which save.
queued_again=false
trap 'queued_again=true; scontrol requeue "$SLURM_JOB_ID"' USR1

# What is in single quotes is for the shell on each machine, the only one to know its SLURM_NODEID.
train() {
    # shellcheck disable=SC2016
    srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch \
        --config_file "$CONFIG" \
        --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * PROCESSES))" \
        --machine_rank "$SLURM_NODEID" --main_process_ip "$MAIN_HOST" --main_process_port "$PORT" \
        -m ad_hf train "$@" --resume' train "$@"
}

# Not --max_restarts: launchers on several machines do not agree when to start again, and may wait for ever.
for ((try = 1; try <= 3; try++)); do
    train "$@" &
    if wait $! || wait $! || $queued_again; then # a signal ends the first one
        exit 0
    fi
    echo "$0: try $try of 3 has failed" >&2
done
exit 1
