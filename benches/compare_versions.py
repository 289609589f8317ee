"""Two builds of a bench beside each other: blocks in turn in one run, the median of each, the ratio of the medians.

    python benches/compare_versions.py --rounds 15 'OLD/training --serve ...' 'NEW/training --serve ...'
    python benches/compare_versions.py --rounds 9 'OLD/generation --positions 10 ...' 'NEW/generation --positions 10 ...'

OLD and NEW are folders with the benches of two checkouts (`cargo bench --no-run` says where they are). A command with `--serve`
is started once and measures a block for each line of its input; another one is run again for every block. The figure of a block
is the last number in the last line. The order within a round changes from round to round (A B, B A), so that a machine
that gets slower or faster favours neither.
"""

import argparse
import re
import shlex
import statistics
import subprocess


def figure(line):
    """The last number of a line."""
    return float(re.findall(r"\d+(?:\.\d+)?", line)[-1])


class Served:
    """A bench that stays and measures a block for each line."""

    def __init__(self, command):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(shlex.split(command), text=True, bufsize=1, **pipes)
        while self.process.stdout.readline().strip() != "ready":
            if self.process.poll() is not None:
                raise SystemExit(f"ended before it was ready: {command}")

    def block(self):
        self.process.stdin.write("\n")
        return figure(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Started:
    """A bench that is run again for every block."""

    def __init__(self, command):
        self.command = shlex.split(command)

    def block(self):
        done = subprocess.run(self.command, stdout=subprocess.PIPE, text=True, check=True)
        return figure(done.stdout.strip().splitlines()[-1])

    def close(self):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    commands = [arguments.old, arguments.new]
    benches = [(Served if "--serve" in command.split() else Started)(command) for command in commands]
    for bench in benches:
        bench.block()  # a block to warm up
    figures = [[], []]
    for number in range(arguments.rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            figures[side].append(benches[side].block())
    for bench in benches:
        bench.close()
    medians = [statistics.median(side) for side in figures]
    print("| | median | lowest | highest |\n|---|---|---|---|")
    for name, side, median in zip(["old", "new"], figures, medians):
        print(f"| {name} | {median:.1f} | {min(side):.1f} | {max(side):.1f} |")
    pairs = statistics.median(new / old for old, new in zip(*figures))
    print(f"\nnew / old: {medians[1] / medians[0]:.3f} (medians), {pairs:.3f} (median of the pairs), {arguments.rounds} rounds")


if __name__ == "__main__":
    main()
