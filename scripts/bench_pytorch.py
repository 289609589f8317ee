"""Training steps of GPT-2 124M in PyTorch, to hold wgpt's figures against on the same card in the same session.

    pip install torch transformers
    python scripts/bench_pytorch.py                      # T = 1024, batch 8, on the GPU
    python scripts/bench_pytorch.py --device cpu --layers 2 --context 64 --batch 2 --steps 3

Three ways: eager in f32 with TF32 off, the same with TF32 on, and torch.compile with bf16 autocast. Attention is PyTorch's
fused one in all of them, AdamW is its fused one on a GPU. Prints tokens per second (median of the steps after the warm-up, lowest
to highest), the peak of allocated memory, and model FLOPs by the PaLM paper's formula.
"""

import argparse
import statistics
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def model_flops_per_token(config):
    embeddings = config.n_positions * config.n_embd
    weights = sum(p.numel() for p in GPT2LMHeadModel(config).parameters()) - embeddings
    return 6 * weights + 12 * config.n_layer * config.n_embd * config.n_positions


def measure(arguments, config, tf32, compiled):
    device = torch.device(arguments.device)
    cuda = device.type == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.manual_seed(1)
    model = GPT2LMHeadModel._from_config(config, attn_implementation="sdpa").to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=cuda)
    forward = torch.compile(model) if compiled else model
    ids = torch.randint(config.vocab_size, (arguments.batch, config.n_positions + 1), device=device)

    def synchronize():
        if cuda:
            torch.cuda.synchronize()

    def step():
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=compiled):
            logits = forward(input_ids=ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(arguments.warmup):
        step()
    synchronize()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(arguments.steps):
        start = time.perf_counter()
        step()
        synchronize()
        seconds.append(time.perf_counter() - start)
    tokens = arguments.batch * config.n_positions
    speeds = sorted(tokens / s for s in seconds)
    memory = f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB" if cuda else "memory not measured"
    return statistics.median(speeds), speeds[0], speeds[-1], memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    arguments = parser.parse_args()
    config = GPT2Config(
        n_positions=arguments.context, n_layer=arguments.layers, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False
    )
    name = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else arguments.device
    print(f"PyTorch {torch.__version__}, {name}, batch {arguments.batch}, context {arguments.context}, {arguments.layers} layers")
    per_token = model_flops_per_token(config)
    for label, tf32, compiled in [
        ("eager f32, TF32 off", False, False),
        ("eager f32, TF32 on", True, False),
        ("compiled, bf16 autocast", True, True),
    ]:
        median, low, high, memory = measure(arguments, config, tf32, compiled)
        print(
            f"{label:26} {median:10.0f} tokens/s ({low:.0f} to {high:.0f})  {median * per_token / 1e12:7.2f} TFLOP/s  {memory}",
            flush=True,
        )


if __name__ == "__main__":
    main()
