#!/usr/bin/env bash
# The SPIR-V of every specialisation of every shader through spirv-val, Khronos's validator (Debian: spirv-tools).
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
WGPT_WGSL="$folder" cargo test --locked --all-features --test suite -- shaders::every_specialisation
cd "$folder"
for vulkan in vulkan1.0 vulkan1.1; do
    ls | grep "\.$vulkan\.spv\$" >modules || continue
    xargs -P "$(nproc)" -n 1 spirv-val --target-env "$vulkan" <modules
    echo "$(wc -l <modules) modules are valid for $vulkan"
done
