"""Exact search, pooling, the arithmetic of fusion and two cases for the machine, by hand.

Usage: arrays.py LIBRARY CASE --size N --samples N [--threads N] [--device KIND]

LIBRARY is numpy, torch or torch-compile. Cases, sizes and numbers are those of
`calor bench arm CASE`. In NumPy products go through its BLAS with all threads that it is allowed.
"""

import argparse
import os
import sys

DIM, QUERIES, BEST = 384, 64, 10
TEXT_ROWS = 32
SLOTS, SLOT_DIM = 12, 256


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=["numpy", "torch", "torch-compile"])
    parser.add_argument("case")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


options = arguments()
# BLAS reads these when it is loaded.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(options.threads)

import numpy as np  # noqa: E402

from answer import field, measure  # noqa: E402


def numpy_case(case, size):
    if case == "vectors.search":
        corpus = field(0, size * DIM).reshape(size, DIM)
        queries = field(0x4000_0000, QUERIES * DIM).reshape(QUERIES, DIM)
        best = min(BEST, size)

        def call():
            scores = queries @ corpus.T
            top = np.partition(scores, size - best, axis=1)[:, size - best :]
            return np.sort(top, axis=1)[:, ::-1], size

        return call, 0, 4 * (size * DIM + QUERIES * (DIM + size)), 2 * QUERIES * DIM * size
    if case == "pooling.mean":
        states = field(0, size * DIM).reshape(size // TEXT_ROWS, TEXT_ROWS, DIM)

        def call():
            mean = states.mean(axis=1)
            return mean / np.linalg.norm(mean, axis=1, keepdims=True), len(mean)

        return call, 0, 4 * size * DIM, size * DIM
    if case == "fusion.mix":
        wide = SLOTS * SLOT_DIM
        slots = field(0, size * wide).reshape(size, wide)
        gate = field(0x4000_0000, SLOTS * wide).reshape(SLOTS, wide)
        gain, bias = field(0x5000_0000, SLOT_DIM), field(0x6000_0000, SLOT_DIM)

        def call():
            logits = slots @ gate.T
            shares = np.exp(logits - logits.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
            mixed = np.einsum("nk,nkd->nd", shares, slots.reshape(size, SLOTS, SLOT_DIM))
            mixed -= mixed.mean(axis=1, keepdims=True)
            mixed /= np.sqrt(np.square(mixed).mean(axis=1, keepdims=True) + np.float32(1e-5))
            mixed = mixed * gain + bias
            return mixed / np.linalg.norm(mixed, axis=1, keepdims=True), size

        return call, 0, 4 * size * wide, 2 * size * wide * (SLOTS + 1)
    if case == "machine.bandwidth":
        x = field(0, size).reshape(-1, 1024)
        return lambda: (x.sum(axis=1), size), 0, 4 * size, size
    if case == "machine.flops":
        x = field(0, size * size).reshape(size, size)
        w = field(0x4000_0000, size * size).reshape(size, size)
        return lambda: (x @ w.T, size), 0, 12 * size * size, 2 * size**3
    raise SystemExit(f"no case is called {case}")


def torch_case(case, size, compiled):
    import torch

    torch.set_num_threads(options.threads)
    put = lambda it: torch.from_numpy(it).to(options.device)
    functional = torch.nn.functional
    if case == "vectors.search":
        corpus = put(field(0, size * DIM).reshape(size, DIM))
        queries = torch.from_numpy(field(0x4000_0000, QUERIES * DIM).reshape(QUERIES, DIM))
        inner = lambda it: torch.topk(it @ corpus.T, min(BEST, size), dim=1).values
        given, items = queries, size
    elif case == "pooling.mean":
        states = put(field(0, size * DIM).reshape(size // TEXT_ROWS, TEXT_ROWS, DIM))
        inner = lambda it: functional.normalize(it.mean(dim=1), dim=1)
        given, items = states, size // TEXT_ROWS
    elif case == "fusion.mix":
        wide = SLOTS * SLOT_DIM
        gate = put(field(0x4000_0000, SLOTS * wide).reshape(SLOTS, wide))
        gain, bias = put(field(0x5000_0000, SLOT_DIM)), put(field(0x6000_0000, SLOT_DIM))

        def inner(it):
            shares = torch.softmax(it @ gate.T, dim=1)
            mixed = torch.einsum("nk,nkd->nd", shares, it.view(-1, SLOTS, SLOT_DIM))
            mixed = functional.layer_norm(mixed, (SLOT_DIM,), gain, bias, 1e-5)
            return functional.normalize(mixed, dim=1)

        given, items = torch.from_numpy(field(0, size * wide).reshape(size, wide)), size
    elif case == "machine.bandwidth":
        given, items = put(field(0, size).reshape(-1, 1024)), size
        inner = lambda it: it.sum(dim=1)
    elif case == "machine.flops":
        w = put(field(0x4000_0000, size * size).reshape(size, size))
        given, items = put(field(0, size * size).reshape(size, size)), size
        inner = lambda it: it @ w.T
    else:
        raise SystemExit(f"no case is called {case}")
    if compiled:
        inner = torch.compile(inner)

    @torch.inference_mode()
    def call():
        # Inputs come from the host and results go there, as in our own arm.
        return inner(given.to(options.device)).cpu().numpy(), items

    moved = 4 * size if case == "machine.bandwidth" else None
    flops = 2 * size**3 if case == "machine.flops" else None
    return call, 0, moved, flops


def main():
    case, size = options.case, options.size
    versions = {"numpy": np.__version__, "threads": str(options.threads)}
    if options.library == "numpy":
        measure(lambda: numpy_case(case, size), options.samples, versions)
        return
    import torch

    versions["torch"] = torch.__version__
    cuda = options.device.startswith("cuda")
    versions["tf32"] = str(torch.backends.cuda.matmul.allow_tf32)
    measure(
        lambda: torch_case(case, size, options.library == "torch-compile"),
        options.samples,
        versions,
        device=torch.cuda.get_device_name(options.device) if cuda else "cpu",
        peak_device=torch.cuda.max_memory_allocated if cuda else None,
    )


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main()
