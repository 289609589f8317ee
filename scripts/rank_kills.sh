#!/usr/bin/env bash
# Kills a rank of a run at random moments and resumes, until so many kills are done; fails unless the run ends with the bits of one that
# was not killed, and each kill with one sentence within ten seconds.
# Usage: scripts/rank_kills.sh [kills] [ranks]     (WGPT: a wgpt with the feature mpi; MORE: further flags, such as --sync-every 5; SEED)
set -euo pipefail
kills=${1:-20} ranks=${2:-2}
wgpt=$(realpath "${WGPT:-target/release/wgpt}")
RANDOM=${SEED:-1}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export WGPT_CACHE="$PWD/cache"
device="--device ${DEVICE:-cpu}"
train="train --layers 1 --heads 2 --width 32 --context 32 --batch 2 --accumulate $ranks --eval-every 20 --eval-batches 2 --save-every 10 $device ${MORE:-}"
start() { mpirun --allow-run-as-root --oversubscribe --quiet -n "$ranks" "$wgpt" "$@"; }

steps=${STEPS:-3000}
start $train --steps "$steps" --out whole -q
done_kills=0 slowest=0
while :; do
    if ls run/checkpoints 2>/dev/null | grep -q '^step-[0-9]*$'; then set -- train --out run --resume $device; else set -- $train --steps "$steps" --out run --overwrite; fi
    start "$@" 2>log &
    pid=$!
    if [ "$done_kills" -lt "$kills" ]; then
        # mpirun is the child of this function's process, and the ranks are its children.
        ranks_of() { for child in $(cat "/proc/$pid/task/$pid/children"); do cat "/proc/$child/task/$child/children"; done; }
        until [ "$(ranks_of 2>/dev/null | wc -w)" = "$ranks" ]; do sleep 0.02; done
        # Kills count from the first step on.
        until grep -q '^resuming\|^step' log || ! kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
        sleep "$(awk -v r=$RANDOM -v most="${MOST:-1.5}" 'BEGIN {print most * r / 32768}')"
        victims=($(ranks_of 2>/dev/null || true) '')
        victim=${victims[$((RANDOM % ranks))]:-}
        if [ -n "$victim" ] && kill -9 "$victim" 2>/dev/null; then
            done_kills=$((done_kills + 1)) began=$(date +%s%N)
            wait "$pid" && { echo "a run with a killed rank succeeded" >&2; exit 1; }
            ms=$((($(date +%s%N) - began) / 1000000))
            [ "$ms" -gt "$slowest" ] && slowest=$ms
            [ "$ms" -lt 10000 ] || { echo "a kill took $ms ms to end the run" >&2; exit 1; }
            [ "$(grep -c '^error: ' log)" = 1 ] || { echo "not one sentence: $(cat log)" >&2; exit 1; }
            continue
        fi
    fi
    wait "$pid" || { cat log >&2; exit 1; }
    [ "$done_kills" -ge "$kills" ] && break
    echo "the run was through after $done_kills kills: give more STEPS" >&2 && exit 1
done
cmp run/model.safetensors whole/model.safetensors
cmp run/optimizer.safetensors whole/optimizer.safetensors
echo "$done_kills kills of $ranks ranks, each ended all within $slowest ms with one sentence: the same bits as without"
