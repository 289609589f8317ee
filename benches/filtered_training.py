"""Held-out loss of a small model on a corpus that is damaged on purpose, filtered and unfiltered, over several seeds.

    python benches/filtered_training.py --wgpt target/release/wgpt

Clean documents are lines of prose of texts that are installed on any machine (`compare_datatrove.prose`). As many others are put among them:
3/5 of them are noise of the same lengths (shuffled letters, symbols and numbers, lines that repeat, random letters), and 2/5 are copies of ten
of the clean ones, with 1% of the words exchanged in each. Both runs take the same number of steps, and are measured on clean documents that are in neither.
"""

import argparse
import json
import os
import random
import statistics
import string
import subprocess
import tempfile

from compare_datatrove import changed, installed_texts, prose, write_lines

FILTERS = "gopher-repetition,gopher-quality:max-non-alpha-words-ratio=0.65,fineweb"


def noise(text, source):
    """A document of the same length that no model should learn."""
    way = source.randrange(4)
    if way == 0:
        return " ".join("".join(source.sample(word, len(word))) for word in text.split(" "))
    if way == 1:
        return " ".join(source.choice(["#", "|", "***", "...", str(source.randrange(10**6)), "=>"]) for _ in range(len(text) // 4))
    if way == 2:
        line = text.split("\n")[0]
        return "\n".join([line] * max(2, len(text) // (len(line) + 1)))
    return "".join(source.choice(string.ascii_lowercase + "   ") for _ in range(len(text)))


def corpus(documents):
    source = random.Random(11)
    clean = prose(installed_texts(4000), documents + documents // 10, source)
    clean, held_out = clean[:documents], clean[documents:]
    seen = {line for text in clean for line in text.split("\n")}
    held_out = ["\n".join(line for line in text.split("\n") if line not in seen) for text in held_out]
    damaged = [noise(text, source) for text in source.sample(clean, documents * 3 // 5)]
    copies = [changed(text, 0.01, source) for text in source.sample(clean, 10) for _ in range(documents // 25)]
    mixed = clean + damaged + copies
    source.shuffle(mixed)
    return mixed, [text for text in held_out if len(text) > 100], len(damaged), len(copies)


def run(*command):
    subprocess.run(command, check=True)


def held_out_loss(wgpt, folder, data, val, seed, options):
    out = os.path.join(folder, "run")
    run(wgpt, "train", "--data", data, "--val", val, "--out", out, "--overwrite", "-q", "--preset", "demo", "--steps", str(options.steps), "--seed", str(seed),
        "--eval-every", str(options.steps), "--eval-batches", "40", "--save-every", "0", "--tokenizer", os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(out, "log.jsonl"), encoding="utf-8") as log:
        return [row["val_loss"] for row in map(json.loads, log) if "val_loss" in row][-1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--wgpt", default="target/release/wgpt")
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    mixed, held_out, noisy, copies = corpus(options.documents)
    with tempfile.TemporaryDirectory() as folder:
        data, val = os.path.join(folder, "data.jsonl"), os.path.join(folder, "val.jsonl")
        write_lines(data, mixed)
        write_lines(val, held_out)
        print(f"{options.documents} clean documents, {noisy} of noise, {copies} near copies; {len(held_out)} held out")
        run(options.wgpt, "tokenizer", "train", "--data", data, "--vocab", "512", "--kind", "bpe", "--out", os.path.join(folder, "tokenizer.json"), "-q")
        shards = {}
        for name, choices in [("unfiltered", []), ("filtered", ["--filter", FILTERS, "--dedup", "exact,minhash"])]:
            shards[name] = os.path.join(folder, name)
            run(options.wgpt, "data", "prepare", "--data", data, "--val", val, "--tokenizer", os.path.join(folder, "tokenizer.json"), "--out", shards[name], *choices)
        print("| data | " + " | ".join(f"seed {seed}" for seed in range(1, options.seeds + 1)) + " | mean |\n|---|" + "---|" * (options.seeds + 1))
        for name, path in shards.items():
            losses = [held_out_loss(options.wgpt, folder, path, val, seed, options) for seed in range(1, options.seeds + 1)]
            print(f"| {name} | " + " | ".join(f"{loss:.4f}" for loss in losses) + f" | {statistics.mean(losses):.4f} |", flush=True)


if __name__ == "__main__":
    main()
