#!/usr/bin/env bash
# Collect and train on machines of Hugging Face Jobs, from the Hub and to the Hub (after `hf auth login`):
#
#   scripts/hf_jobs.sh collect dark-room org/ad-histories
#   JOBS=2 FLAVOR=a10g-largex2 PROCESSES=2 scripts/hf_jobs.sh train dark-room org/ad-histories org/ad-darkroom
#   DRY_RUN=1 scripts/hf_jobs.sh train dark-room org/ad-histories org/ad-darkroom  # shows, and starts nothing
#
# What follows are further options of `ad-hf collect` and `ad-hf train`. Several jobs train as one: they share a
# network group, in which the first is called main. If one fails all do, are tried again on empty disks, and go on
# from what they have pushed: make org/ad-darkroom beforehand if it is to be private
# (`hf repos create org/ad-darkroom --private`), and remove an old one that is not to be gone on with.
set -euo pipefail

JOBS="${JOBS:-2}"                         # machines to train on
PROCESSES="${PROCESSES:-1}"               # on each of them: its GPUs
FLAVOR="${FLAVOR:-}"                      # of `hf jobs hardware`: by default a10g-small, to collect cpu-upgrade
TIMEOUT="${TIMEOUT:-6h}"
IMAGE="${IMAGE:-python:3.12.12-bookworm}" # with pip and git; torch brings CUDA
AD_HF="${AD_HF:-ad-hf}"                   # what pip is to install, for example git+https://...
GROUP="${GROUP:-ad-hf-$(date +%s)}"       # no other training may have it at the same time
NAMESPACE="${NAMESPACE:-}"                # who pays; by default you

verb="${1:?collect or train: see the head of $0}"
recipe="${2:?a recipe, for example dark-room}"
dataset="${3:?a dataset on the Hub, for example org/ad-histories}"

run() { # options of `hf jobs run` and the command
    hf jobs run ${DRY_RUN:+--dry-run} --detach --timeout "$TIMEOUT" --attempts 3 --secrets HF_TOKEN \
        ${NAMESPACE:+--namespace "$NAMESPACE"} --env "AD_HF=$AD_HF" "$@"
}

# What is in single quotes is for the shell of the job.
# shellcheck disable=SC2016
case "$verb" in
    collect)
        run --flavor "${FLAVOR:-cpu-upgrade}" "$IMAGE" bash -c '
            set -euo pipefail
            pip install --quiet "$AD_HF"
            exec ad-hf collect "$@"' \
            collect "$recipe" --output runs/histories --num-proc 8 --push-to-hub "$dataset" "${@:4}"
        ;;
    train)
        model="${4:?a model on the Hub, for example org/ad-darkroom}"
        FLAVOR="${FLAVOR:-a10g-small}"
        on_cpu=false
        if [[ $FLAVOR == cpu-* ]]; then
            on_cpu=true
        fi
        if [[ -z ${DRY_RUN:-} ]]; then
            hf repos create "$model" --exist-ok # that a job finds none would else look like a Hub that is down
        fi
        for ((rank = 0; rank < JOBS; rank++)); do
            name=""
            if ((rank == 0)); then
                name=main
            fi
            run --flavor "$FLAVOR" --network-group "$GROUP" ${name:+--network-alias "$name"} \
                --env "MACHINES=$JOBS" --env "MACHINE=$rank" --env "PROCESSES=$((JOBS * PROCESSES))" \
                --env "RECIPE=$recipe" --env "MODEL=$model" --env "ACCELERATE_USE_CPU=$on_cpu" \
                "$IMAGE" bash -c '
                set -euo pipefail
                pip install --quiet "$AD_HF"
                files="$(hf models list "$MODEL" --quiet)" # where the Hub does not answer this attempt ends
                start=("$RECIPE")
                if grep --quiet --line-regexp training_state.json <<< "$files"; then
                    start=("$MODEL" --resume)
                fi
                exec accelerate launch --multi_gpu --num_machines "$MACHINES" --num_processes "$PROCESSES" \
                    --machine_rank "$MACHINE" --main_process_ip "${HF_NETWORK_GROUP_PREFIX}main" \
                    --main_process_port 29500 --mixed_precision no --dynamo_backend no \
                    -m ad_hf train "${start[@]}" --output runs/model --push-to-hub --hub-model-id "$MODEL" "$@"' \
                train --dataset "$dataset" --streaming --push-every 500 "${@:5}"
        done
        ;;
    *)
        echo "$0: collect or train, not $verb" >&2
        exit 1
        ;;
esac
