#!/usr/bin/env bash
# Tokens per second of 1, 2 and 4 ranks with the same global batch, each rank pinned to a core.
# Usage: scripts/rank_speed.sh [ranks...]     (with Open MPI; WGPT: a wgpt with the feature mpi; MODEL, STEPS, ROUNDS)
#
# Rounds take the numbers of ranks in turn. Prints for each number the medians of all rounds: tokens per second, milliseconds of a
# step, and how much of it is sums and waiting for the slowest rank.
set -euo pipefail
counts=("${@:-1 2 4}")
read -ra counts <<<"${counts[*]}"
wgpt=$(realpath "${WGPT:-target/release/wgpt}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}" WGPT_CACHE="$folder/cache"
cores=$(nproc)
printf '#!/bin/sh\nexec taskset -c $((OMPI_COMM_WORLD_RANK %% %s)) "%s" "$@"\n' "$cores" "$wgpt" >"$folder/rank"
chmod +x "$folder/rank"
model="${MODEL:---preset demo} --accumulate ${ACCUMULATE:-4} --eval-every 0 --save-every 0 --eval-batches 1 --schedule constant -q"
"$wgpt" train $model --steps 2 --out "$folder/warm"
for round in $(seq "${ROUNDS:-3}"); do
    for ranks in "${counts[@]}"; do
        mpirun --allow-run-as-root --oversubscribe --quiet --bind-to none -np "$ranks" "$folder/rank" train $model \
            --steps "${STEPS:-20}" --out "$folder/run-$ranks-$round"
        # The first steps compile and open connections.
        tail -n +4 "$folder/run-$ranks-$round/log.jsonl" >>"$folder/$ranks.jsonl"
    done
done
median() { { grep -o "\"$2\":[0-9.e+-]*" "$folder/$1.jsonl" || echo :0; } | cut -d: -f2 | sort -g | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }
for ranks in "${counts[@]}"; do
    echo "$ranks $cores $(median "$ranks" tokens_per_second) $(median "$ranks" step_ms) $(median "$ranks" transfer_ms) $(median "$ranks" wait_ms)" |
        awk '{printf "%s ranks on %s cores: %.0f tokens/s; step %.1f ms, of which sums %.1f (%.0f%%) and waiting %.1f (%.0f%%)\n", \
            $1, ($1 < $2 ? $1 : $2), $3, $4, $5, 100 * $5 / $4, $6, 100 * $6 / $4}'
done
