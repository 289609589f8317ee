#!/bin/sh
# Reads damaged files of every kind, 1,000,000 in all unless told otherwise. Usage: scripts/fuzz.sh [inputs]
set -eu
WGPT_FUZZ_CASES=${1:-1000000} cargo test --release --all-features --test fuzz
