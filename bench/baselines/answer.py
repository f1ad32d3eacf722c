"""How a baseline answers a suite: the form of `calor bench arm`, in Python.

A case is a function that returns a call; the call computes everything anew and returns its result
as numbers in a NumPy array and how many items it computed. What a sample holds, how long calls warm
up, and which numbers of the result travel is the same as for our own arms.
"""

import json
import resource
import sys
import time

import numpy as np

SCHEMA = "calor.arm/1.0"
VALUE_COUNT_MAX = 64
WARM_NS = 200_000_000
WARM_CALL_COUNT_MAX = 200
SAMPLE_NS = 200_000
RUN_COUNT_MAX = 10_000


def field(start, count):
    """Numbers that follow from their places: MurmurHash3's finaliser, in 2^-24 parts from -0.5."""
    h = np.arange(start + 1, start + count + 1, dtype=np.uint32)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return (h >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)


def probes(result):
    """At most 64 numbers of a result: its mean, the root of its mean square, and a spread."""
    flat = np.asarray(result, dtype=np.float64).ravel()
    if flat.size == 0:
        return []
    count = min(flat.size, VALUE_COUNT_MAX - 2)
    places = [at * flat.size // count for at in range(count)]
    return [float(flat.mean()), float(np.sqrt(np.square(flat).mean())), *flat[places].tolist()]


def say(line):
    sys.__stdout__.write(json.dumps({"schema": SCHEMA, **line}) + "\n")
    sys.__stdout__.flush()


def timed(call):
    start = time.perf_counter_ns()
    out = call()
    return time.perf_counter_ns() - start, out


def measure(open_case, sample_count, versions, device=None, peak_device=None):
    """Opens the case, computes it once, warms up, takes samples and answers.

    `open_case` gives the call, the tokens of a call, and bytes moved and operations of one, if they
    are known.
    """
    # What libraries print must not come between the answers.
    sys.stdout = sys.stderr
    opened_ns, (call, token_count, moved_bytes, flop_count) = timed(open_case)
    first_ns, (result, item_count) = timed(call)
    say({"event": "first"})
    values = probes(result)
    start, call_ns, count = time.perf_counter_ns(), 1 << 62, 0
    while count < 2 or (
        time.perf_counter_ns() - start < WARM_NS and count < WARM_CALL_COUNT_MAX
    ):
        ns, _ = timed(call)
        call_ns, count = min(call_ns, ns), count + 1
    settled_ns = time.perf_counter_ns() - start
    run_count = max(1, min(SAMPLE_NS // max(call_ns, 1), RUN_COUNT_MAX))

    def repeated():
        for _ in range(run_count):
            out = call()
        return out

    samples = []
    for _ in range(sample_count):
        ns, (again, again_count) = timed(repeated)
        samples.append(ns)
        if again_count != item_count or not np.allclose(again, result, rtol=1e-4, atol=1e-4):
            raise SystemExit("a call gave another result than the first")
    say(
        {
            "event": "done",
            "first_ns": first_ns,
            "samples_ns": samples,
            "runs_per_sample_count": run_count,
            "item_count": item_count,
            "token_count": token_count,
            "values": values,
            "versions": {"python": sys.version.split()[0], **versions},
            "device": device,
            # Linux counts kilobytes.
            "peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "peak_device_bytes": peak_device() if peak_device else None,
            "moved_bytes": moved_bytes,
            "flop_count": flop_count,
            "warmup": [
                {"name": "open", "wall_ns": opened_ns},
                {"name": "first call", "wall_ns": first_ns},
                {"name": "settle", "wall_ns": settled_ns},
            ],
        }
    )
