"""Tokens per second of LoRA training, here and in PyTorch with peft on the CPU, in turns: SmolLM2 135M's shape with random weights,
rank 8 on all linear layers, one sequence of 512 tokens a step, f32.

    cargo bench --no-run --bench lora
    python benches/compare_peft.py target/release/deps/lora-... [ROUNDS]

The bench prints its own table; here each round is one line of each. Run with torch, transformers and peft installed.
"""

import re
import statistics
import subprocess
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS, STEPS = 512, 2


def model():
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        intermediate_size=1536, max_position_embeddings=8192, tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return get_peft_model(LlamaForCausalLM(config), LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))


def of_peft(adapted):
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-4)
    ids = torch.arange(TOKENS).mul(2_654_435_761).remainder(49152)[None]
    def step():
        adapted(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    step()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return STEPS * TOKENS / (time.perf_counter() - start)


def of_wgpt(bench):
    out = subprocess.run([bench, "--bases", "f32", "--steps", str(STEPS)], capture_output=True, text=True, check=True).stdout
    return float(re.search(r"\| f32 \|.*\| ([\d.]+) \|", out).group(1))


def main():
    bench, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
    adapted = model()
    print(f"threads of PyTorch: {torch.get_num_threads()}", flush=True)
    speeds = []
    for _ in range(rounds):
        speeds.append((of_wgpt(bench), of_peft(adapted)))
        print("wgpt {:.1f}, peft {:.1f} tokens/s".format(*speeds[-1]), flush=True)
    ours, theirs = (statistics.median(values) for values in zip(*speeds))
    print(f"medians: wgpt {ours:.1f}, peft {theirs:.1f} tokens/s, ratio {ours / theirs:.2f}")


main()
