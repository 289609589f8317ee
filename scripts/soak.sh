#!/bin/sh
# 10,000 steps of a tiny model. Prints tokens per second and resident memory early and late: both must stay the same.
set -eu
out=${1:-$(mktemp -d)/soak}
./target/release/wgpt --quiet train --out "$out" --overwrite --layers 1 --heads 2 --width 16 --context 16 --batch 2 \
    --steps 10000 --eval-every 0 --save-every 0 --eval-batches 1 &
pid=$!
while kill -0 "$pid" 2>/dev/null; do
    [ -r "/proc/$pid/status" ] && printf '%s %s kB resident\n' "$(wc -l <"$out/log.jsonl" 2>/dev/null || echo 0)" \
        "$(awk '/VmRSS/ {print $2}' "/proc/$pid/status" 2>/dev/null || true)"
    sleep 5
done
wait "$pid"
awk -F'"step_ms":' '{split($2, v, ","); if (NR > 200 && NR <= 1200) a += v[1]; if (NR > 9000) b += v[1]}
    END {printf "mean step: %.3f ms in steps 201 to 1200, %.3f ms in steps 9001 to 10000\n", a / 1000, b / 1000}' "$out/log.jsonl"
