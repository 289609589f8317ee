"""Compare GGUF files of wgpt with llama.cpp: do they agree, and how fast is each.

    python compare_llama.py check --wgpt ../target/release/wgpt
    python compare_llama.py speed --wgpt ../target/release/wgpt \\
        --against 'COMMAND'

check writes small random GPT-2 folders with transformers, exports them as f32,
f16 and q8_0, loads them in llama.cpp and compares tokens, logits and a greedy
continuation of 64 tokens with transformers in f32. Exits with 1 on a difference
beyond the stated bounds.

speed writes a random model of GPT-2's 124M size, exports it as a GGUF file of
--type, and measures llama.cpp's tokens per second when it decodes from positions 10 and
1000, or --positions, on. With --against, blocks alternate with a shell command that measures
the same: it runs with MODEL (the folder) and GGUF (the file) in its
environment, and the last line it prints must be JSON as this script prints it:
{"10": tokens per second, "1000": tokens per second}. For example
'cargo bench --bench generation -- --model "$MODEL"'.

llama.cpp runs on its CPU backend with --layers 0, and otherwise on the first
GPU backend that it was built with; "backend" in the output is what it said it
used. Its Vulkan backend leaves software adapters alone unless
GGML_VK_VISIBLE_DEVICES=0 is set.

Needs torch, transformers, tokenizers and llama-cpp-python (built with
CMAKE_ARGS=-DGGML_VULKAN=on for the Vulkan backend); written with torch 2.15.0,
transformers 5, llama-cpp-python 0.3.36.
"""

import argparse
import ctypes
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import llama_cpp
import numpy as np
import torch
from llama_cpp import Llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END = "<|endoftext|>"
TEXTS = [
    "The red cat doesn't sit on mat 42; it's 3 o'clock.",
    "  two leading spaces, a tab\there,\n\n  and lines   with gaps  \n",
    "naïve café – “quotes” … 数字 12345 и буквы, 🙂🙃",
    f"first text{END}second text",
    "x" * 70 + " == != <= >= ::= {}[]()",
]

LOG = []


@llama_cpp.llama_log_callback
def keep_log(level, text, user_data):
    LOG.append(text.decode(errors="replace"))


llama_cpp.llama_log_set(keep_log, ctypes.c_void_p(0))


def corpus(seed):
    """Sentences to learn merges from: no text but our own."""
    rng = random.Random(seed)
    words = ("the a red old big small cat dog bird tree house sits runs sings on under over and but it's don't "
             "we'll number line code for while if then café naïve größer число 数字").split()
    for _ in range(2000):
        line = " ".join(rng.choice(words) for _ in range(rng.randint(3, 12)))
        yield f"{line.capitalize()}, {rng.randint(0, 9999)}{rng.choice('.!?;:')}{rng.choice(['', '  ', chr(10)])}"


def learned_tokenizer(size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus(1), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END)


def byte_tokenizer():
    """One token per byte, as wgpt writes with --tokenizer bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    vocab = {chr(b if b in printable else next(others)): b for b in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def random_model(folder, tokenizer, seed, std, **sizes):
    torch.manual_seed(seed)
    end = tokenizer.eos_token_id
    config = GPT2Config(vocab_size=sizes.pop("vocab", len(tokenizer)), bos_token_id=end, eos_token_id=end,
                        initializer_range=std, **sizes)
    model = GPT2LMHeadModel(config).eval()
    for name, p in model.named_parameters():
        if p.dim() == 1:  # biases and layernorms that do something
            torch.nn.init.normal_(p, mean=1.0 if "ln_" in name and "weight" in name else 0.0, std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def export(wgpt, folder, out, dtype):
    subprocess.run([wgpt, "export", "--model", folder, "--out", out, "--dtype", dtype, "--overwrite", "--quiet"],
                   check=True)


def open_llama(path, layers, context, logits_all):
    """The model, and the buffers and device that llama.cpp said its weights are in."""
    start = len(LOG)
    f32 = 0  # the cache in f32, as wgpt's
    llama = Llama(str(path), n_gpu_layers=layers, n_ctx=context, n_batch=512, logits_all=logits_all, type_k=f32,
                  type_v=f32, verbose=False)
    lines = "".join(LOG[start:]).splitlines()
    backend = [line.split(":", 1)[1].strip() for line in lines if "model buffer size" in line]
    device = [line.strip() for line in "".join(LOG).splitlines() if line.startswith("ggml_vulkan: 0")]
    return llama, backend, device


def logits_of(llama, ids):
    llama.reset()
    llama.eval(ids)
    return np.array(llama.scores[: len(ids)], dtype=np.float64)


def greedy(llama, ids, count):
    llama.reset()
    llama.eval(ids)
    out = list(ids)
    for _ in range(count):
        token = int(np.argmax(llama.scores[len(out) - 1]))
        out.append(token)
        llama.eval([token])
    return out[len(ids):]


@torch.no_grad()
def torch_greedy(model, ids, count):
    """Greedy tokens, and the smallest lead of a first choice over the second."""
    out, lead = list(ids), float("inf")
    for _ in range(count):
        top = model(torch.tensor([out])).logits[0, -1].topk(2)
        lead = min(lead, float(top.values[0] - top.values[1]))
        out.append(int(top.indices[0]))
    return out[len(ids):], lead


# Largest difference of logits over the largest logit, through up to three layers. f32: llama.cpp's CPU backend rounds
# GELU to f16, its Vulkan backend what the prompt's matrix products multiply. f16: the latter and the weights. q8_0: weights
# of about 7 bits.
BOUNDS = {"f32": 2e-3, "f16": 1e-2, "q8_0": 5e-2}


def check(args):
    cases = {
        "bpe": (learned_tokenizer(600), dict(n_layer=3, n_embd=128, n_head=4, n_positions=256)),
        "bpe, padded vocabulary, rows not of 32":
            (learned_tokenizer(600), dict(n_layer=2, n_embd=72, n_head=6, n_positions=160, vocab=640)),
        "bytes": (byte_tokenizer(), dict(n_layer=2, n_embd=64, n_head=8, n_positions=128)),
    }
    failed = False
    for seed, (case, (tokenizer, sizes)) in enumerate(cases.items()):
        with tempfile.TemporaryDirectory(dir=args.work) as work:
            model = random_model(f"{work}/model", tokenizer, seed, 0.15, **sizes)
            ids = [random.Random(seed).randrange(len(tokenizer)) for _ in range(48)]
            with torch.no_grad():
                want = model(torch.tensor([ids])).logits[0].double().numpy()
            continuation, lead = torch_greedy(model, ids[:16], 64)
            for dtype in BOUNDS:
                export(args.wgpt, f"{work}/model", f"{work}/model.gguf", dtype)
                llama, backend, device = open_llama(f"{work}/model.gguf", args.layers, sizes["n_positions"], True)
                same_tokens = all(
                    llama.tokenize(text.encode(), add_bos=False, special=True) == tokenizer.encode(text)
                    for text in TEXTS)
                got = logits_of(llama, ids)
                error = float(np.abs(got - want).max() / np.abs(want).max())
                agreed = greedy(llama, ids[:16], 64)
                same = sum(a == b for a, b in zip(agreed, continuation))
                good = same_tokens and error <= BOUNDS[dtype] and (dtype != "f32" or same == 64)
                failed |= not good
                print(json.dumps({
                    "case": case, "dtype": dtype, "ok": good, "same_tokens": same_tokens, "logits_error": error,
                    "greedy_agrees": f"{same}/64", "distinct_tokens": len(set(continuation)), "smallest_lead": lead, "backend": backend, "device": device,
                }), flush=True)
                llama.close()
    sys.exit(failed)


def decode_speed(llama, start, tokens):
    """Tokens per second of single-token steps that begin at this position."""
    rng = random.Random(start)
    llama.reset()
    llama.eval([rng.randrange(llama.n_vocab()) for _ in range(start)])
    token = 1
    begin = time.perf_counter()
    for _ in range(tokens):
        llama.eval([token])
        row = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
        token = int(np.argmax(np.ctypeslib.as_array(row, (llama.n_vocab(),))))
    return tokens / (time.perf_counter() - begin)


def speed(args):
    folder, gguf = Path(args.work) / "gpt2-124m", Path(args.work) / f"gpt2-124m-{args.type}.gguf"
    if not (folder / "model.safetensors").exists():
        tokenizer = learned_tokenizer(600)
        random_model(folder, tokenizer, 0, 0.02, vocab=50257)
    if not gguf.exists():
        export(args.wgpt, str(folder), str(gguf), args.type)
    llama, backend, device = open_llama(gguf, args.layers, 1024, False)
    print(json.dumps({"backend": backend, "device": device}), flush=True)
    decode_speed(llama, 4, 4)  # compiles what has to be compiled
    places = {place: int(place) for place in args.positions.split(",")}
    rounds = {"llama.cpp": [], "against": []}
    for _ in range(args.rounds):
        block = {place: decode_speed(llama, start, args.tokens) for place, start in places.items()}
        rounds["llama.cpp"].append(block)
        print(json.dumps({"llama.cpp": block}), flush=True)
        if args.against:
            run = subprocess.run(args.against, shell=True, check=True, stdout=subprocess.PIPE, text=True,
                                 env={**os.environ, "MODEL": str(folder), "GGUF": str(gguf)})
            block = json.loads(run.stdout.strip().splitlines()[-1])
            rounds["against"].append(block)
            print(json.dumps({"against": block}), flush=True)
    medians = {side: {place: statistics.median(block[place] for block in blocks) for place in places}
               for side, blocks in rounds.items() if blocks}
    if args.against:
        medians["ratio"] = {place: medians["against"][place] / medians["llama.cpp"][place] for place in places}
    print(json.dumps({"medians": medians}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["check", "speed"])
    parser.add_argument("--wgpt", required=True, help="the wgpt binary")
    parser.add_argument("--work", default=tempfile.gettempdir(), help="folder for models")
    parser.add_argument("--layers", type=int, default=-1, help="layers on the GPU backend; 0 for the CPU backend")
    parser.add_argument("--against", help="shell command to alternate with")
    parser.add_argument("--type", default="f32", choices=["f32", "f16", "q8_0", "q4_0"], help="of the weights in the GGUF file")
    parser.add_argument("--positions", default="10,1000", help="tokens that stand before those that are timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16, help="tokens decoded per measurement")
    args = parser.parse_args()
    {"check": check, "speed": speed}[args.mode](args)


if __name__ == "__main__":
    main()
