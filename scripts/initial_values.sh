#!/bin/sh
# Initial values, as a table: validation loss, mean and range over seeds, largest gradient norm after the first step, largest rise of
# the loss above its lowest so far. Two questions: do projections onto the residual stream start scaled by 1 / sqrt(2 layers), as in
# GPT-2, or plain, as transformers draws LLaMA? And which standard deviation should sizes without a preset start from?
#   scripts/initial_values.sh [SEEDS]        WGPT=path of the program, OUT=folder for the runs, ONLY=part of a row's name
# About 25 minutes on two free cores.
set -eu
seeds=${1:-"1 2 3"}
wgpt=${WGPT:-./target/release/wgpt}
out=${OUT:-$(mktemp -d)}
mkdir -p "$out"

echo "| model | steps | initial values | validation loss, mean | lowest | highest | largest norm | loss above its lowest so far by |"
echo "|---|---|---|---|---|---|---|---|"
# measure NAME STEPS LABEL OPTIONS: one row of the table.
measure() {
    name=$1 steps=$2 label=$3
    shift 3
    case "$name" in *"${ONLY:-}"*) ;; *) return ;; esac
    : >"$out/rows"
    for seed in $seeds; do
        run="$out/run"
        "$wgpt" train --out "$run" --overwrite --steps "$steps" --seed "$seed" --eval-every 0 --eval-batches 20 \
            --save-every 0 --quiet "$@"
        val=$(grep -o '"val_loss":[0-9.e-]*' "$run/log.jsonl" | tail -n 1 | cut -d: -f2)
        norm=$(grep -o '"grad_norm":[0-9.e-]*' "$run/log.jsonl" | tail -n +2 | cut -d: -f2 | sort -g | tail -n 1)
        spike=$(grep -o '"loss":[0-9.e-]*' "$run/log.jsonl" | cut -d: -f2 |
            awk 'NR == 1 || $1 < low {low = $1} $1 - low > most {most = $1 - low} END {print most + 0}')
        echo "$val $norm $spike" >>"$out/rows"
    done
    awk -v name="$name" -v steps="$steps" -v label="$label" '
        {sum += $1; n++; if (n == 1 || $1 < low) low = $1; if (n == 1 || $1 > high) high = $1
         if ($2 > norm) norm = $2; if ($3 > spike) spike = $3}
        END {printf "| %s | %s | %s | %.4f | %.4f | %.4f | %.2f | %.2f |\n", name, steps, label, sum / n, low, high, norm, spike}
    ' "$out/rows"
}
# residual NAME STEPS OPTIONS: scaled and plain projections onto the residual stream.
residual() {
    name=$1 steps=$2
    shift 2
    for init in scaled plain; do measure "$name" "$steps" "$init" --residual-init $init "$@"; done
}
# deviations NAME STEPS OPTIONS: three standard deviations of a size without a preset.
deviations() {
    name=$1 steps=$2
    shift 2
    for std in 0.02 0.05 0.1; do measure "$name" "$steps" "std $std" --init-std $std "$@"; done
}
residual "SmolLM2 135M with 4 layers" 12 --preset smollm2-135m --layers 4 --batch 1 --accumulate 1 --context 128 --lr 6e-4 --warmup 2
residual "llama-mini, std 0.1" 200 --preset llama-mini
deviations "no preset, 4 layers, 128 wide" 100 --layers 4 --heads 4 --width 128 --context 64
