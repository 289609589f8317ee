# The commands a newcomer needs. Everything but `setup` works without this file, through cargo.

# Software Vulkan writes a warning about this folder where it is not set.
export XDG_RUNTIME_DIR ?= $(or $(TMPDIR),/tmp)
OUT ?= runs/demo

.PHONY: web-demo demo finetune-demo encoder-demo chat-demo align-demo zero-shot test bench soak check setup

## Trains the demo model on the built-in stories and samples three texts.
demo: setup
	cargo build --release --locked
	./target/release/wgpt train --preset demo --out $(OUT) --overwrite
	@echo
	printf '\n' | ./target/release/wgpt sample --model $(OUT) --count 3 --tokens 400 --stop '\n' --temperature 0.3

## What pre-training is worth: the demo model and random weights, fine-tuned on the four built-in tasks. Prints a table.
finetune-demo: setup
	cargo bench --locked --bench finetune

## The families side by side: BERT, GPT, T5 and Transformer-XL are pretrained, then fine-tuned against random weights on tasks with known
## answers. Prints tables.
encoder-demo: setup
	cargo bench --locked --bench encoders

## What fine-tuning on dialogues is worth: true answers before and after, of all parameters and of adapters. Prints a table and a
## conversation.
chat-demo: setup
	cargo bench --locked --bench chat

## What preferences are worth: true reward and the reward model's score after each method that learns from them. Prints a table and draws
## runs/align.svg.
align-demo: setup
	mkdir -p runs
	cargo bench --locked --bench align -- --out $(CURDIR)/runs/align.svg

## What a model learns about an unseen task while it is pre-trained: prints a table and draws runs/zero_shot.svg.
zero-shot: setup
	mkdir -p runs
	cargo bench --locked --bench zero_shot -- --preset demo --schedule cosine --examples 400 --out $(CURDIR)/runs/zero_shot.svg

## The demo model as a page that runs it in a browser: runs/web/demo.html.
web-demo:
	mkdir -p runs/web
	cargo build --release --locked
	./target/release/wgpt export --web runs/web/demo.html --model weights/demo --overwrite

## All tests, on whatever adapter there is.
test:
	@scripts/setup.sh --tests
	cargo test --locked --all-features

## Speed on this machine, in less than ten minutes: ceilings, kernels, matrix products, whole steps, decoding.
bench: setup
	scripts/bench.sh

## 10,000 tiny steps: throughput must stay flat and memory constant.
soak: setup
	cargo build --release --locked
	scripts/soak.sh

## Formatting and lints, as CI has them.
check:
	cargo fmt --check
	cargo clippy --locked --all-targets --all-features -- -D warnings

## Makes sure that a Vulkan driver is there (Debian and Ubuntu; macOS and Windows bring Metal and DX12).
setup:
	@scripts/setup.sh
