#!/usr/bin/env bash
# Every specialisation of every shader through Tint, the WGSL compiler of Chromium: Dawn as a package of Node, in a temporary folder.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
DAWN=${DAWN:-$folder/dawn}
export DAWN
mkdir -p "$DAWN" "$folder/wgsl"
[ -d "$DAWN/node_modules/webgpu" ] || npm install --silent --no-audit --no-fund --prefix "$DAWN" webgpu@0.6.2
WGPT_WGSL="$folder/wgsl" cargo test --locked --all-features --test suite -- shaders::every_specialisation
node scripts/tint.mjs "$folder/wgsl"
