#!/bin/sh
# One part of the demo model exchanged at a time: final validation loss of each, mean and range over three seeds, as a table.
#   scripts/ablations.sh [STEPS] [SEEDS]        WGPT=path of the program, OUT=folder for the runs
set -eu
steps=${1:-500}
seeds=${2:-"1 2 3"}
wgpt=${WGPT:-./target/release/wgpt}
out=${OUT:-$(mktemp -d)}
mkdir -p "$out"

echo "| model | parameters | validation loss, mean | lowest | highest |"
echo "|---|---|---|---|---|"
row() {
    name=$1
    shift
    losses=
    for seed in $seeds; do
        run="$out/$(echo "$name" | tr -c 'a-z0-9\n' '-')-$seed"
        "$wgpt" train --out "$run" --overwrite --steps "$steps" --seed "$seed" --eval-every 100 --eval-batches 100 \
            --save-every 0 "$@" 2>"$out/log" || { cat "$out/log" >&2; exit 1; }
        losses="$losses $(grep -o '"val_loss":[0-9.e-]*' "$run/log.jsonl" | tail -n 1 | cut -d: -f2)"
    done
    parameters=$(grep -o 'model: [0-9]* parameters' "$out/log" | cut -d' ' -f2)
    echo "$losses" | tr ' ' '\n' | awk -v name="$name" -v parameters="$parameters" '
        NF {sum += $1; n++; if (n == 1 || $1 < low) low = $1; if (n == 1 || $1 > high) high = $1}
        END {printf "| %s | %s | %.4f | %.4f | %.4f |\n", name, parameters, sum / n, low, high}'
}
row "demo (GPT-2)" --preset demo
row "demo with --norm rmsnorm" --preset demo --norm rmsnorm
row "demo with --position rope" --preset demo --position rope
row "demo with --feed-forward swiglu" --preset demo --feed-forward swiglu
row "llama-mini" --preset llama-mini
# Eight experts of half the size, of which a token uses two: as many values per token as llama-mini.
row "mixtral" --preset mixtral
