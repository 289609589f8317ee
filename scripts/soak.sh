#!/bin/sh
# 100,000 steps of a tiny model. Fails unless memory and the time of a step are late what they were early.
# Usage: scripts/soak.sh [folder] [steps]
set -eu
out=${1:-$(mktemp -d)/soak} steps=${2:-100000}
wgpt=${WGPT:-target/release/wgpt}
resident=$(mktemp)
"$wgpt" --quiet train --out "$out" --overwrite --layers 1 --heads 2 --width 16 --context 16 --batch 2 \
    --device "${DEVICE:-auto}" --steps "$steps" --eval-every 0 --save-every 0 --eval-batches 1 &
pid=$!
while kill -0 "$pid" 2>/dev/null; do
    done=$(cat "$out/log.jsonl" 2>/dev/null | wc -l)
    kib=$(awk '/VmRSS/ {print $2}' "/proc/$pid/status" 2>/dev/null || true)
    [ -n "$kib" ] && echo "$done $kib" >>"$resident"
    sleep 5
done
wait "$pid"
awk -F'"step_ms":' -v n="$steps" '{split($2, v, ","); if (NR > n / 50 && NR <= n / 5) {a += v[1]; i++} if (NR > n * 4 / 5) {b += v[1]; j++}}
    END {printf "mean step: %.3f ms in the first fifth, %.3f ms in the last\n", a / i, b / j}' "$out/log.jsonl"
# After the last step the run reads its log for the plot, which is no part of a step.
awk -v n="$steps" '$1 > n / 50 && $1 <= n / 5 {if ($2 > a) a = $2} $1 > n * 4 / 5 && $1 < n {if ($2 > b) b = $2}
    END {printf "most memory: %d KiB in the first fifth, %d KiB in the last\n", a, b; exit !(a && b && b < 1.02 * a)}' "$resident"
[ "$(wc -l <"$out/log.jsonl")" = "$steps" ]
