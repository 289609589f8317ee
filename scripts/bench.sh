#!/bin/sh
# Everything that BENCHMARKS.md says about speed, on one adapter, without a network, in less than ten minutes once it is built.
#
#   scripts/bench.sh [FOLDER]     writes what it prints, and profiles, to FOLDER [runs/bench]
#
# Beside PyTorch on the same card: python scripts/bench_pytorch.py, in the same session.
#
# DEVICE names the adapter (part of its name). Where there is no cargo, BIN is a folder with the binaries wgpt, ops, sweep,
# training and generation: `cargo bench --no-run` says where they are.
set -eu
cd "$(dirname "$0")/.."
out=${1:-runs/bench}
device=${DEVICE:-auto}
mkdir -p "$out"
out=$(cd "$out" && pwd)
export WGPT_CACHE="${WGPT_CACHE:-$out/cache}"
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-${TMPDIR:-/tmp}}"

if [ -z "${BIN:-}" ]; then
    cargo build --release --locked
    cargo bench --locked --no-run
fi

wgpt() {
    "${BIN:-target/release}/wgpt" --device "$device" "$@"
}

bench() {
    name=$1
    shift
    if [ -n "${BIN:-}" ]; then "$BIN/$name" --bench "$@"; else cargo bench --quiet --locked --bench "$name" -- "$@"; fi
}

# Says what is run, and keeps what it prints. What fails, for want of memory say, does not end the rest.
part() {
    title=$1
    shift
    echo "== $title"
    echo "== $title ($(date -u +%H:%M:%S))" >>"$out/bench.txt"
    "$@" 2>&1 | tee -a "$out/bench.txt" || true
}

: >"$out/bench.txt"
part "adapters, ops against the reference, ceilings, presets" wgpt doctor
kind=gpu
wgpt doctor --list | grep '^\*' | grep -q '(software,' && kind=software
part "matrix products: the tuner's choice and a sweep" bench sweep
if [ "$kind" = gpu ]; then
    gpt2="--preset gpt2 --context 1024 --batch 8 --repeat 10"
    part "GPT-2 124M, f32" wgpt profile $gpt2 --json "$out/gpt2_f32.json" --svg "$out/gpt2_f32.svg"
    part "GPT-2 124M, mixed" wgpt profile $gpt2 --precision mixed --json "$out/gpt2_mixed.json" --svg "$out/gpt2_mixed.svg"
    part "GPT-2 124M, whole steps, f32" bench training --block 10 --steps-of gpt2
    part "GPT-2 124M, whole steps, mixed" bench training --block 10 --steps-of gpt2 --precision mixed
    part "GPT-2 124M, decoding" wgpt profile --preset gpt2 --decode --repeat 10
else
    part "the demo's step" wgpt profile --preset demo --repeat 5 --json "$out/demo.json" --svg "$out/demo.svg"
    part "the demo's decoding" wgpt profile --preset demo --decode --repeat 5
fi
part "whole steps" bench training
part "contexts of 256, 1024 and 4096, as many tokens in each batch" bench training --contexts
echo "written to $out/bench.txt"
