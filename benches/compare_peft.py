"""Tokens per second of LoRA training, here and in PyTorch with peft on the CPU, in turns: the shape of SmolLM2 135M or TinyLlama 1.1B
with random weights, rank 8 on all linear layers, one sequence of 512 tokens a step, f32.

    cargo bench --no-run --bench lora
    python benches/compare_peft.py target/release/deps/lora-... [--preset smollm2-135m] [--rounds 3] [--steps 2] [--warm-up 1]

The bench prints its own table; here each round is one line of each. Run with torch, transformers and peft installed.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS = 512
SHAPES = {
    "smollm2-135m": dict(
        vocab_size=49152, hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        intermediate_size=1536, max_position_embeddings=8192, tie_word_embeddings=True,
    ),
    "tinyllama-1.1b": dict(
        vocab_size=32000, hidden_size=2048, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4,
        intermediate_size=5632, max_position_embeddings=2048, tie_word_embeddings=False,
    ),
}


def of_peft(adapted, arguments):
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-4)
    ids = torch.arange(TOKENS).mul(2_654_435_761).remainder(SHAPES[arguments.preset]["vocab_size"])[None]
    def step():
        adapted(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for _ in range(arguments.warm_up):
        step()
    start = time.perf_counter()
    for _ in range(arguments.steps):
        step()
    return arguments.steps * TOKENS / (time.perf_counter() - start)


def of_wgpt(arguments):
    command = [arguments.bench, "--bases", "f32", "--preset", arguments.preset]
    command += ["--steps", str(arguments.steps), "--warm-up", str(arguments.warm_up)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(re.search(r"\| f32 \|.*\| ([\d.]+) \|", out).group(1))


def main():
    parser = argparse.ArgumentParser(description="LoRA training: wgpt beside PyTorch with peft.")
    parser.add_argument("bench")
    parser.add_argument("--preset", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SHAPES[arguments.preset]))
    adapted = get_peft_model(base, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    print(f"threads of PyTorch: {torch.get_num_threads()}", flush=True)
    speeds = []
    for _ in range(arguments.rounds):
        speeds.append((of_wgpt(arguments), of_peft(adapted, arguments)))
        print("wgpt {:.2f}, peft {:.1f} tokens/s".format(*speeds[-1]), flush=True)
    ours, theirs = (statistics.median(values) for values in zip(*speeds))
    print(f"medians: wgpt {ours:.2f}, peft {theirs:.1f} tokens/s, ratio {ours / theirs:.4f}")


main()
