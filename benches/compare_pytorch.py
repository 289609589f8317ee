"""Train the benchmark model in PyTorch, for comparison with

    wgpt train --layers 4 --heads 4 --width 128 --context 64 --batch 12 \\
        --tokenizer char --steps 200

Same model, data split, schedule and optimizer; the random numbers differ, so
compare averages over a few seeds.

    python compare_pytorch.py --data FILE --seed 1
    python compare_pytorch.py --data FILE --seeds 1,2,3

Prints one JSON line per seed, and with --seeds one more with the means.
train_loss is the mean over the last 20 steps, val_loss that over fixed windows
of the held-out last tenth (len // 10 characters) after the last step.
tokens_per_second covers the training steps alone, without the first.

Needs torch; written with 2.15.0.
"""

import argparse
import json
import math
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(b, t, c))

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, vocab, a):
        super().__init__()
        self.tokens = nn.Embedding(vocab, a.width)
        self.positions = nn.Embedding(a.context, a.width)
        self.blocks = nn.ModuleList(Block(a.width, a.heads) for _ in range(a.layers))
        self.norm = nn.LayerNorm(a.width)
        for name, p in self.named_parameters():
            residual = name.endswith(("proj.weight", "down.weight"))
            if p.dim() >= 2:
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * a.layers) if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, windows):
        """Mean loss over windows of context + 1 tokens."""
        ids, targets = windows[:, :-1], windows[:, 1:]
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def rate(it, a):
    if it < a.warmup:
        return a.lr * (it + 1) / (a.warmup + 1)
    ratio = (it - a.warmup) / max(1, a.steps - a.warmup)
    return a.min_lr + 0.5 * (1 + math.cos(math.pi * ratio)) * (a.lr - a.min_lr)


def windows(ids, starts, context):
    return ids[starts[:, None] + torch.arange(context + 1)]


@torch.no_grad()
def validate(model, held_out, a):
    n, last = a.eval_batches * a.batch, len(held_out) - a.context - 1
    starts = torch.tensor([i * last // max(1, n - 1) for i in range(n)])
    losses = [model(windows(held_out, s, a.context)).item() for s in starts.split(a.batch)]
    return sum(losses) / len(losses)


def run(seed, train, held_out, vocab, a):
    torch.manual_seed(seed)
    model = Gpt2(vocab, a)
    params = list(model.parameters())
    groups = [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": a.weight_decay},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=a.lr, betas=(a.beta1, a.beta2), eps=1e-8)
    losses = []
    for it in range(a.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(it, a)
        starts = torch.randint(len(train) - a.context, (a.batch,))
        loss = model(windows(train, starts, a.context))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, a.clip)
        optimizer.step()
        losses.append(loss.item())
        if it == 0:
            began = time.perf_counter()
    elapsed = time.perf_counter() - began
    tail = losses[-20:]
    return {
        "train_loss": round(sum(tail) / len(tail), 4),
        "val_loss": round(validate(model, held_out, a), 4),
        "tokens_per_second": round((a.steps - 1) * a.batch * a.context / elapsed),
    }


def main():
    p = argparse.ArgumentParser(description="Train the benchmark model in PyTorch.")
    p.add_argument("--data", required=True, metavar="FILE", help="UTF-8 text")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--seeds", metavar="N,N,...", help="several runs and their mean")
    for name, default in [
        ("steps", 200), ("layers", 4), ("heads", 4), ("width", 128), ("context", 64),
        ("batch", 12), ("lr", 1e-3), ("min-lr", 1e-4), ("warmup", 20),
        ("weight-decay", 0.1), ("beta1", 0.9), ("beta2", 0.95), ("clip", 1.0),
        ("eval-batches", 20),
    ]:
        p.add_argument(f"--{name}", type=type(default), default=default)
    a = p.parse_args()

    with open(a.data, encoding="utf-8", newline="") as f:
        text = f.read()
    index = {c: i for i, c in enumerate(sorted(set(text)))}
    ids = torch.tensor([index[c] for c in text])
    cut = len(ids) - len(ids) // 10
    train, held_out = ids[:cut], ids[cut:]
    if len(held_out) <= a.context or a.steps < 2:
        p.error("needs two steps or more and a held-out tenth longer than the context")

    seeds = [int(s) for s in a.seeds.split(",")] if a.seeds else [a.seed]
    results = []
    for seed in seeds:
        results.append(run(seed, train, held_out, len(index), a))
        print(json.dumps({"seed": seed} | results[-1]), flush=True)
    if a.seeds:
        mean = {k: sum(r[k] for r in results) / len(results) for k in results[0]}
        mean = {k: round(v, None if k == "tokens_per_second" else 4) for k, v in mean.items()}
        print(json.dumps({"mean_of_seeds": seeds} | mean))


if __name__ == "__main__":
    main()
