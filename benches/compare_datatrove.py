"""Filters, near-duplicates and speed of `wgpt data prepare` beside datatrove 0.10.1, on the same documents in one run.

    python -m venv venv && venv/bin/pip install 'datatrove[processing]==0.10.1' spacy
    venv/bin/python benches/compare_datatrove.py decisions --wgpt target/release/wgpt
    venv/bin/python benches/compare_datatrove.py duplicates --wgpt target/release/wgpt
    venv/bin/python benches/compare_datatrove.py speed --wgpt target/release/wgpt

Documents are texts that are installed on any machine: manuals and documentation below /usr/share, and documentation and docstrings of
installed Python packages; and copies of them that are damaged on purpose.
"""

import argparse
import glob
import gzip
import importlib.metadata
import json
import os
import random
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter

FILTERS = ["gopher-repetition", "gopher-quality", "c4", "fineweb"]
CHAIN = ",".join(FILTERS)


def installed_texts(limit):
    """Texts of 200 to 100,000 characters, each once."""
    lib = sysconfig.get_paths()["purelib"]
    patterns = ["/usr/share/doc/**/*", "/usr/share/common-licenses/*", "/usr/share/perl/**/*.pod", f"{lib}/**/*.md", f"{lib}/**/*.rst",
                f"{lib}/**/*.txt", f"{lib}/**/METADATA", os.path.expanduser("~/.cargo/registry/src/*/*/*.md")]
    seen, texts = set(), []

    def add(text):
        text = text.strip()
        if 200 <= len(text) <= 100_000 and text not in seen:
            seen.add(text)
            texts.append(text)

    for path in sorted({path for pattern in patterns for path in glob.glob(pattern, recursive=True)}):
        if not os.path.isfile(path):
            continue
        try:
            data = open(path, "rb").read(400_000)
            data = gzip.decompress(data) if path.endswith(".gz") else data
            add(data.decode("utf-8"))
        except (OSError, EOFError, UnicodeDecodeError):
            continue
    docstring = re.compile(r'"""(.*?)"""', re.S)
    for path in sorted(glob.glob(f"{lib}/**/*.py", recursive=True)):
        try:
            source = open(path, encoding="utf-8").read()
        except (OSError, UnicodeDecodeError):
            continue
        for found in docstring.findall(source):
            if len(found) >= 600:
                add("\n".join(line.strip() for line in found.splitlines()))
    random.Random(1).shuffle(texts)
    return texts[:limit]


def prose(texts, count, source):
    """Documents of sentences, as pages of the web have them: the lines of texts that read as prose, joined."""
    lines = [line for text in texts for line in re.split(r"\n\s*\n", text)]
    lines = [" ".join(line.split()) for line in lines]
    lines = [line for line in lines if len(line.split()) >= 12 and line[-1:] in ".!?" and line[:1].isupper()]
    return ["\n".join(source.sample(lines, source.randint(3, 14))) for _ in range(count)]


def damaged(text, source):
    """A copy that is damaged in one of ten ways."""
    words, lines = text.split(" "), text.splitlines()
    way = source.randrange(10)
    if way == 0:
        source.shuffle(words)
        return " ".join(words)
    if way == 1:
        part = source.sample(lines, max(1, len(lines) // 4))
        return "\n".join(lines + part * source.randint(1, 3))
    if way == 2:
        return " ".join(word + source.choice(["", "", "", " #", " ...", " |"]) for word in words)
    if way == 3:
        return "\n".join("- " + line if source.random() < 0.9 else line for line in lines)
    if way == 4:
        return "\n".join(line + source.choice(["...", "", "…"]) for line in lines)
    if way == 5:
        return "\n".join(" ".join(words[i : i + 3]) for i in range(0, len(words), 3))
    if way == 6:
        return text[: source.randint(60, 800)]
    if way == 7:
        phrase = " ".join(source.sample(words, min(len(words), source.randint(2, 12))))
        return text[:2000] + (" " + phrase) * source.randint(2, 30)
    if way == 8:
        return text + "\nThis page uses cookies.\nEnable javascript.\n" + source.choice(["", "lorem ipsum dolor sit.", "int main() { return 0; }"])
    return re.sub(r"[.!?]", lambda m: m[0] if source.random() < 0.3 else "", text)


def corpus(count):
    source = random.Random(7)
    texts = installed_texts(count)
    texts = texts + prose(texts, len(texts) // 2, source)
    documents = texts + [damaged(source.choice(texts), source) for _ in range(len(texts))]
    documents = [text for text in documents if text.strip()]
    source.shuffle(documents)
    return documents


def write_lines(path, texts):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def timed(wgpt, out, data, *choices, threads=None):
    """Runs `wgpt data prepare`; the seconds it took."""
    environment = dict(os.environ, **({"RAYON_NUM_THREADS": str(threads)} if threads else {}))
    began = time.perf_counter()
    subprocess.run([wgpt, "data", "prepare", "--data", data, "--tokenizer", "bytes", "--out", out, "--overwrite", "-q", *choices], check=True, env=environment)
    return time.perf_counter() - began


def prepare(wgpt, folder, data, *choices, threads=None):
    """Runs `wgpt data prepare` with filters; the rejected rows, and the seconds it took."""
    out = os.path.join(folder, "out")
    seconds = timed(wgpt, out, data, *choices, threads=threads)
    with gzip.open(os.path.join(out, "rejected.jsonl.gz"), "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file], seconds


def line_of(row):
    return int(row["place"].split()[1]) - 1


def theirs(name):
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

    made = {"gopher-repetition": GopherRepetitionFilter, "gopher-quality": GopherQualityFilter, "c4": C4QualityFilter, "fineweb": FineWebQualityFilter}
    return made[name]()


def their_reason(filters, text):
    from datatrove.data import Document

    document = Document(text=text, id="0")
    for one in filters:
        result = one.filter(document)
        kept, reason = result if isinstance(result, tuple) else (result, "dropped")
        if not kept:
            return reason
    return None


def decisions(options):
    documents = corpus(options.documents)
    print(f"{len(documents)} documents, {sum(map(len, documents)) / 1e6:.1f} million characters")
    print("| filter | dropped by datatrove | by wgpt | decisions alike | reasons alike |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "data.jsonl")
        write_lines(data, documents)
        for name in [*FILTERS, CHAIN]:
            filters = [theirs(part) for part in name.split(",")]
            want = [their_reason(filters, text) for text in documents]
            rejected, _ = prepare(options.wgpt, folder, data, "--filter", name)
            got = [None] * len(documents)
            for row in rejected:
                got[line_of(row)] = row["reason"]
            alike = sum((a is None) == (b is None) for a, b in zip(want, got))
            same = sum(a == b for a, b in zip(want, got))
            dropped = [sum(reason is not None for reason in side) for side in (want, got)]
            print(f"| {name} | {dropped[0]} | {dropped[1]} | {100 * alike / len(documents):.2f}% | {100 * same / len(documents):.2f}% |", flush=True)
            for pair, count in Counter((a, b) for a, b in zip(want, got) if a != b).most_common(options.show):
                at = next(i for i, (a, b) in enumerate(zip(want, got)) if (a, b) == pair)
                print(f"    datatrove {pair[0]}, wgpt {pair[1]}: {count}, such as {documents[at][:60]!r}")


def changed(text, share, source):
    """A copy with this share of its words exchanged."""
    words = text.split(" ")
    for _ in range(int(len(words) * share)):
        words[source.randrange(len(words))] = source.choice(words)
    return " ".join(words)


def their_groups(texts):
    """The documents that datatrove's signatures and clusters leave out, by number."""
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    class Signature(MinhashDedupSignature):
        def __init__(self):
            super().__init__("/tmp")

    from datatrove.utils.word_tokenizers import load_word_tokenizer

    signature = Signature()
    signature.word_tokenizer = load_word_tokenizer("eng")
    parent = list(range(len(texts)))

    def root(x):
        while parent[x] != x:
            x = parent[x]
        return x

    seen = {}
    for number, text in enumerate(texts):
        shingles = signature.get_shingles(text)
        if shingles.size == 0:
            continue
        for band, keys in enumerate(signature.get_signature(shingles)):
            other = seen.setdefault((band, tuple(keys)), number)
            a, b = root(number), root(other)
            parent[max(a, b)] = min(a, b)
    return {number for number in range(len(texts)) if root(number) != number}


def shingles(text):
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def duplicates(options):
    """Copies with a part of their words exchanged are planted among documents that share no run of 5 words with others."""
    source = random.Random(3)
    originals, taken = [], set()
    for text in installed_texts(20 * options.documents):
        own = shingles(text[:4000])
        if len(own) >= 60 and not own & taken:
            taken |= own
            originals.append(text[:4000])
        if len(originals) == options.documents:
            break
    print(f"{len(originals)} documents without a shingle in common")
    print("| words exchanged | shingles in common | found by wgpt | by datatrove | alike | others dropped by wgpt | by datatrove |\n|---|---|---|---|---|---|---|")
    for share in (0.01, 0.02, 0.04, 0.06, 0.1, 0.2):
        copies = [changed(text, share, source) for text in originals]
        common = [len(shingles(a) & shingles(b)) / max(1, len(shingles(a) | shingles(b))) for a, b in zip(originals, copies)]
        texts = originals + copies
        with tempfile.TemporaryDirectory() as folder:
            data = os.path.join(folder, "data.jsonl")
            write_lines(data, texts)
            rejected, _ = prepare(options.wgpt, folder, data, "--dedup", "minhash")
        ours, their = {line_of(row) for row in rejected}, their_groups(texts)
        count = len(originals)
        found = [sum(number >= count for number in side) for side in (ours, their)]
        wrong = [sum(number < count for number in side) for side in (ours, their)]
        alike = sum((number in ours) == (number in their) for number in range(len(texts)))
        print(f"| {100 * share:g}% | {sum(common) / count:.3f} | {100 * found[0] / count:.1f}% | {100 * found[1] / count:.1f}% "
              f"| {100 * alike / len(texts):.1f}% | {wrong[0]} | {wrong[1]} |", flush=True)


def speed(options):
    """Seconds of each filter on the same documents, in turn; datatrove's in one process, wgpt's on one thread and on all."""
    documents = corpus(options.documents)
    size = sum(len(text.encode()) for text in documents) / 1e6
    print(f"{len(documents)} documents, {size:.1f} MB; MB/s, medians of {options.rounds} rounds in turn")
    print("| step | datatrove, one process | wgpt, one thread | ratio | wgpt, all threads |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "data.jsonl")
        write_lines(data, documents)
        plain = [timed(options.wgpt, os.path.join(folder, "plain"), data, threads=threads) for threads in (1, None)]
        print(f"tokenising alone, which every step of wgpt includes: {size / plain[0]:.1f} and {size / plain[1]:.1f} MB/s")
        for name in [*FILTERS, CHAIN, "minhash"]:
            rounds = []
            for _ in range(options.rounds):
                began = time.perf_counter()
                if name == "minhash":
                    their_groups(documents)
                    choice = ["--dedup", "minhash"]
                else:
                    filters = [theirs(part) for part in name.split(",")]
                    for text in documents:
                        their_reason(filters, text)
                    choice = ["--filter", name]
                rounds.append([time.perf_counter() - began, *(prepare(options.wgpt, folder, data, *choice, threads=threads)[1] for threads in (1, None))])
            median = [sorted(column)[len(column) // 2] for column in zip(*rounds)]
            rate = [size / seconds for seconds in median]
            print(f"| {name} | {rate[0]:.2f} | {rate[1]:.2f} | {rate[1] / rate[0]:.1f} | {rate[2]:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["decisions", "duplicates", "speed"])
    parser.add_argument("--wgpt", default="target/release/wgpt")
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--show", type=int, default=0, help="kinds of differences to list")
    options = parser.parse_args()
    if importlib.metadata.version("datatrove") != "0.10.1":
        sys.exit("datatrove 0.10.1 is compared with: install that version")
    {"decisions": decisions, "duplicates": duplicates, "speed": speed}[options.command](options)


if __name__ == "__main__":
    main()
