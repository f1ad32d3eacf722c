"""Measures Calor beside its peers: the same ids, the same threads, rounds in random order.

Every arm is one process that has embedded the texts before and waits; each round asks every arm,
in random order, for a few calls. An arm's figure for a round is its fastest call; ratios are
taken inside rounds. The second arm of Calor is the control: its ratio should be 1. Beside the
wall clock stands the time on processors, over all threads, as the kernel counts it: it hardly
depends on what else the machine does, but counts threads that wait without sleeping as busy.

The answers of all arms are compared before anything is timed: no figure without agreement.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import random
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SCHEMA = "calor.peers/1.0"
# Vectors have length one; the largest difference of any element.
AGREE_MAX = 5e-5
RESAMPLE_COUNT = 4000
# Arms that answer `steps`.
PROFILED = ("calor", "torch", "onnxruntime")


class Arm:
    """One process that embeds the same texts whenever it is asked to."""

    def __init__(self, name, command, threads):
        self.name = name
        one = {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [str(it) for it in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **one, "HF_HUB_OFFLINE": "1"},
            text=True,
        )
        self.ready = self.answer()
        self.rounds = []

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, question):
        self.process.stdin.write(f"{question}\n")
        self.process.stdin.flush()
        return self.answer()

    def on_processor_ns(self):
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total

    def round(self, call_count):
        before = self.on_processor_ns()
        samples = self.ask(call_count)["samples_ns"]
        if len(samples) != call_count:
            raise SystemExit(f"{self.name} made {len(samples)} of {call_count} calls")
        busy = (self.on_processor_ns() - before) // call_count
        self.rounds.append({"samples_ns": samples, "processor_ns": busy})

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def made_ids(text_count, token_count):
    """[CLS], words by a linear congruential generator, [SEP]; every token is real."""
    state, out = 1, []
    for _ in range(text_count):
        out.append(101)
        for _ in range(token_count - 2):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            out.append(1000 + (state >> 33) % 28000)
        out.append(102)
    return struct.pack(f"<{len(out)}I", *out)


def agreement(arms):
    want = arms[0].ready["vectors"]
    worst = {}
    for arm in arms[1:]:
        got = arm.ready["vectors"]
        if len(got) != len(want):
            raise SystemExit(f"{arm.name} gave {len(got)} numbers, {arms[0].name} {len(want)}")
        worst[arm.name] = max(abs(a - b) for a, b in zip(got, want))
        if not worst[arm.name] <= AGREE_MAX:
            raise SystemExit(f"{arm.name} differs by {worst[arm.name]}")
    return worst


def ratio(arm, base, figure):
    """Median of arm / base over rounds, with a bootstrap interval of 95 %."""
    logs = [math.log(figure(a) / figure(b)) for a, b in zip(arm.rounds, base.rounds)]
    draw = random.Random(1)
    medians = sorted(
        statistics.median(draw.choices(logs, k=len(logs))) for _ in range(RESAMPLE_COUNT)
    )
    at = lambda part: math.exp(medians[int(part * (RESAMPLE_COUNT - 1))])
    return {"median": math.exp(statistics.median(logs)), "low": at(0.025), "high": at(0.975)}


def wall(row):
    return min(row["samples_ns"])


def busy(row):
    return row["processor_ns"]


def summary(arm, base, token_count):
    walls, busies = [wall(it) for it in arm.rounds], [busy(it) for it in arm.rounds]
    return {
        "wall_min_ns": min(walls),
        "wall_median_ns": statistics.median(walls),
        "processor_min_ns": min(busies),
        "processor_median_ns": statistics.median(busies),
        "tokens_per_s": token_count / (min(walls) / 1e9),
        "wall_ratio": ratio(arm, base, wall),
        "processor_ratio": ratio(arm, base, busy),
    }


def git(*arguments):
    return subprocess.check_output(["git", "-C", str(ROOT), *arguments], text=True).strip()


def host():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = dict(it.split(":", 1) for it in lines if ":" in it)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    known = ("avx2", "fma", "avx512f", "amx_tile", "hypervisor")
    return {
        "cpu": fields.get("model name"),
        "family": fields.get("cpu family"),
        "model": fields.get("model"),
        "stepping": fields.get("stepping"),
        "flags": [it for it in known if it in fields.get("flags", "").split()],
        "processors": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def steal_ticks():
    return int(Path("/proc/stat").read_text().splitlines()[0].split()[8])


def commands(options, ids):
    """The arms; the first one is what the others are compared with."""
    common = [options.checkpoint, ids, options.texts, options.warm]
    budget = lambda tokens: [options.calor, *common, options.threads, tokens]
    if options.budgets:
        return {f"calor {tokens}": budget(tokens) for tokens in options.budgets}
    ours = budget(options.batch_tokens)
    python = [options.python, HERE / "minilm.py"]
    where = [options.checkpoint, ids, options.texts, options.warm, options.threads]
    arms = {
        "calor": ours,
        "calor again": ours,
        "torch": [*python, "torch", *where],
        "onnxruntime": [*python, "onnxruntime", *where],
        "candle": [options.candle, *common],
    }
    return {name: command for name, command in arms.items() if command[0]}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calor", required=True, help="the built example `minilm`")
    parser.add_argument("--candle", help="the built `candle-minilm`; left out without it")
    parser.add_argument("--python", default=sys.executable, help="Python with the peers")
    parser.add_argument("--checkpoint", required=True, help="directory of all-MiniLM-L6-v2")
    parser.add_argument("--revision", default="HEAD", help="what the example was built from")
    parser.add_argument("--out", required=True, help="results file")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--budgets", type=int, nargs="*", help="these, instead of any peer")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--warm", type=int, default=2)
    return parser.parse_args()


def main():
    options = arguments()
    ids = Path(options.out).with_suffix(".ids.tmp")
    ids.write_bytes(made_ids(options.texts, options.tokens))
    # Before the measurement: others may commit while it runs.
    revision = git("rev-parse", options.revision)
    dirty = git("status", "--porcelain", "--", "crates", "Cargo.toml", "Cargo.lock")
    start = {"at_s": int(time.time()), "load": os.getloadavg(), "steal_ticks": steal_ticks()}
    arms = [Arm(*it, options.threads) for it in commands(options, ids).items()]
    worst = agreement(arms)
    order = random.Random(options.texts * 1000 + options.tokens)
    for index in range(options.rounds):
        for arm in order.sample(arms, len(arms)):
            arm.round(options.calls)
        fastest = ", ".join(f"{it.name} {wall(it.rounds[-1]) / 1e6:.0f}" for it in arms)
        print(f"round {index + 1} of {options.rounds}: {fastest} ms", flush=True)
    end = {"at_s": int(time.time()), "load": os.getloadavg(), "steal_ticks": steal_ticks()}
    # What runs in each arm, by its own profiler, after everything was timed.
    steps = {it.name: it.ask("steps") for it in arms if it.name.split()[0] in PROFILED}
    for arm in arms:
        arm.end()
    token_count = options.texts * options.tokens
    result = {
        "schema": SCHEMA,
        "revision": revision,
        "dirty": bool(dirty),
        "binary_blake2b": hashlib.blake2b(Path(options.calor).read_bytes()).hexdigest()[:32],
        "host": host(),
        "work": {
            "checkpoint": "all-MiniLM-L6-v2",
            "texts": options.texts,
            "tokens_each": options.tokens,
            "tokens": token_count,
            "threads": options.threads,
            "rounds": options.rounds,
            "calls_per_round": options.calls,
            "batch_tokens_max": options.budgets or options.batch_tokens,
            "ids_blake2b": hashlib.blake2b(ids.read_bytes()).hexdigest()[:32],
        },
        "start": start,
        "end": end,
        "largest_difference": worst,
        "arms": {
            it.name: {
                "summary": summary(it, arms[0], token_count),
                "versions": it.ready["versions"],
                "first_ns": it.ready["first_ns"],
                "rounds": it.rounds,
            }
            for it in arms
        },
        "steps": steps,
    }
    ids.unlink()
    Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
    for arm in arms:
        row = result["arms"][arm.name]["summary"]
        print(
            f"{arm.name:12} min {row['wall_min_ns'] / 1e6:8.1f} ms"
            f"  median {row['wall_median_ns'] / 1e6:8.1f} ms"
            f"  processor {row['processor_min_ns'] / 1e6:8.1f} ms"
            f"  ratio {row['wall_ratio']['median']:.3f}"
            f" [{row['wall_ratio']['low']:.3f}, {row['wall_ratio']['high']:.3f}]"
            f"  processor ratio {row['processor_ratio']['median']:.3f}"
            f" [{row['processor_ratio']['low']:.3f}, {row['processor_ratio']['high']:.3f}]"
        )


if __name__ == "__main__":
    main()
