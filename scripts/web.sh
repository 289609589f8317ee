#!/usr/bin/env bash
# The exported demo page in headless Chromium, with WebGPU on the software device SwiftShader: greedy text, ten steps of training, what is
# inside, a model that is downloaded, and pictures of all views.
#
#     scripts/web.sh [FOLDER FOR PICTURES]
#
# Needs Chromium, Node.js 20.10 or later, unzip; WGPT names a binary that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
pictures=$(mkdir -p "${1:-runs/web}" && cd "${1:-runs/web}" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${WGPT:-}" ]; then
    cargo build --release --locked --all-features
    WGPT=target/release/wgpt
fi
"$WGPT" export --web "$folder/page" --model weights/demo -q
"$WGPT" export --web "$folder/page.html" --model weights/demo -q
size=$(stat -c %s "$folder/page.html")
[ "$size" -lt 2000000 ] || { echo "the page has $size bytes, more than 2 MB" >&2; exit 1; }

# What the binary says of the same: text, a start of random weights with ten steps on one window, and what is inside.
"$WGPT" sample --model weights/demo --prompt "The kind girl " --tokens 30 --strategy greedy --json -q > "$folder/greedy.json"
"$WGPT" train --preset demo --steps 1 --lr 1e-12 --eval-every 0 --eval-batches 1 --out "$folder/start" -q
printf 'A kind girl named Mia was at the park. She could not find her red ball. She looked by the tree, and then she saw it on the grass.' \
    | head -c 129 > "$folder/window.txt"
"$WGPT" train --init "$folder/start" --data "$folder/window.txt" --val "$folder/window.txt" --batch 4 --accumulate 1 --steps 10 \
    --lr 6e-3 --schedule constant --warmup 0 --beta2 0.99 --weight-decay 0.1 --eval-every 0 --eval-batches 1 --out "$folder/run" -q
"$WGPT" inspect --model weights/demo --prompt "The kind girl found the ball." --out "$folder/inside.html" -q
node --experimental-websocket --no-warnings scripts/web.mjs "$folder" "$pictures"
unzip -q "$folder/model.zip" -d "$folder"
"$WGPT" sample --model "$folder/model" --prompt "The" --tokens 5 -q > "$folder/downloaded.txt"
echo "the downloaded model is loaded; the page has $size bytes"
