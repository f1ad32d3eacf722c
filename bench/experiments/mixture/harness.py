"""Checks and measures experts.cu, splade.cu, gate.cu and top_k.cu without the rest of Calor.

`python3 harness.py TEXTS [check] [time] [tune]`, where TEXTS is the folder of the kernels' texts.
Uses drv.py of ../products.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "products"))
import multiprocessing

import torch
import torch.nn.functional as F

import drv
import nv
from drv import bench, rules, words

TEXTS = sys.argv[1]
WHAT = sys.argv[2:] or ["check", "time"]
TYPES = {0: torch.float32, 1: torch.float16, 2: torch.bfloat16}
NAMES = {0: "f32", 1: "f16", 2: "bf16"}
FAILED = []


def compiled(job):
    text, macros = job
    prelude = open(f"{TEXTS}/prelude.cu").read()
    body = "".join(f"#define CALOR_{k} {v}\n" for k, v in macros) + prelude
    path = f"/tmp/mixture-{os.getpid()}-{abs(hash(job))}.cu"
    open(path, "w").write(body + open(f"{TEXTS}/{text}").read())
    code, log = nv.compile(path, {}, "sm_90a")
    if code is None:
        print("NOT COMPILED", job, log[:1500], flush=True)
    return code


CODE = {}


def prepare(jobs):
    jobs = [it for it in dict.fromkeys(jobs) if it not in CODE]
    with multiprocessing.get_context("fork").Pool(16) as pool:
        CODE.update(zip(jobs, pool.map(compiled, jobs, chunksize=1)))


def verdict(name, got, want, tolerance):
    got, want = got.double(), want.double()
    off = ((got - want).abs() / (1 + want.abs())).nan_to_num(1e9).max().item()
    if off > tolerance:
        FAILED.append(name)
    norm = ((got - want).norm() / want.norm().clamp_min(1e-30)).item()
    print(f"{'ok ' if off <= tolerance else 'BAD'} {name}: worst {off:.2e}, relative {norm:.2e}", flush=True)


# Experts: macros as sources/experts.rs writes them.


def experts_job(rows, e, d, h, o, ty, **other):
    tiles = 1
    while tiles * 8 < min(rows, 64):
        tiles *= 2
    if ty == 0:
        m, blocks, queue = (2, 2, 96) if tiles == 1 else (4, 1, 192)
    else:
        m, blocks, queue = (2, 3, 64) if tiles <= 2 else (2, 2, 80) if tiles == 4 else (4, 1, 192)
    m, blocks = other.get("M_TILES", m), other.get("BLOCKS", blocks)
    stages = other.get("STAGES", (queue << 10) // (m * 256 * (64 if ty == 0 else 32)))
    split = 1 << min(4, max(1, blocks * 132 // -(-o // (16 * m)))).bit_length() - 1
    split = other.get("SPLIT", split)
    values = dict(WORDS=1, TYPE=ty, D=d, H=h, O=o, E=e, ROWS=rows, M_TILES=m, ROW_TILES=tiles,
                  STAGES=stages, SPLIT=split, BLOCKS=blocks, PDL=1)
    return ("experts.cu", tuple(values.items()))


def experts_launch(job, buffers, live_rows):
    v = dict(job[1])
    step = v["M_TILES"] * 256 * (64 if v["TYPE"] == 0 else 32)
    shared = max(v["STAGES"] * step, 4096 * v["M_TILES"] * v["ROW_TILES"])
    columns, chunks = 16 * v["M_TILES"], -(-v["ROWS"] // 64)
    live = torch.tensor([live_rows], dtype=torch.int32, device="cuda")
    arguments = [*(it.data_ptr() for it in buffers), words(v["ROWS"]), live.data_ptr(), rules(1, [0])]
    grids = [v["E"] * -(-v["H"] // columns), v["SPLIT"] * -(-v["O"] // columns)]
    launches = []
    for name, grid in zip(["calor_experts_up", "calor_experts_down"], grids):
        kernel = drv.Kernel(CODE[job], name, shared)
        go = kernel.prepare((grid, chunks, 1), (256, 1, 1), arguments)
        launches.append(go)

    def both(stream):
        for go in launches:
            go.dependent(stream)

    both.keep = (launches, live, buffers)
    return both


def experts_data(rows, e, d, h, o, ty, takes, scale=None):
    dtype = TYPES[ty]
    make = lambda *sizes, s=1.0: ((torch.rand(*sizes, device="cuda") * 2 - 1) * s).to(dtype)
    shares = torch.tensor([[(0.25 + (r * e + i) % 7 / 16) * takes(r, i) for i in range(e)]
                           for r in range(rows)], device="cuda", dtype=torch.float32)
    return [make(rows, d), shares, make(e, h, d, s=scale or 0.25), make(e, h),
            make(e, o, h, s=scale or 0.25), make(e, o)]


def experts_want(x, shares, w1, b1, w2, b2):
    y = torch.zeros(x.shape[0], w2.shape[1], device="cuda", dtype=torch.float64)
    for e in range(w1.shape[0]):
        at = shares[:, e].nonzero().squeeze(1)
        if at.numel():
            hidden = F.gelu(x[at].double() @ w1[e].double().T + b1[e].double(), approximate="tanh")
            y[at] += shares[at, e, None].double() * (hidden @ w2[e].double().T + b2[e].double())
    return y


def check_experts():
    cases = [(1, 8, 136, 72, 24), (4, 8, 64, 64, 40), (16, 5, 200, 32, 96), (33, 3, 72, 104, 48),
             (64, 8, 320, 64, 64), (70, 8, 48, 40, 8), (130, 4, 32, 24, 16)]
    jobs = {(c, ty): experts_job(*c, ty) for c in cases for ty in TYPES}
    prepare(jobs.values())
    for (case, ty), job in jobs.items():
        rows, e, d, h, o = case
        for live in {rows, max(1, rows - 3)}:
            takes = lambda r, i: i != e - 1 and r != 2 and (i * 3 + r) % e < 3
            data = experts_data(*case, ty, takes)
            want = experts_want(*(it[:live] if i < 2 else it for i, it in enumerate(data)))
            for i, it in enumerate(data):
                (it[live:] if i < 2 else it[e - 1]).fill_(float("nan"))
            y = torch.full((rows, o), 7.0, device="cuda", dtype=TYPES[ty])
            hidden = torch.full((e, rows, h), float("nan"), device="cuda", dtype=TYPES[ty])
            experts_launch(job, [*data, y, hidden], live)(torch.cuda.current_stream().cuda_stream)
            torch.cuda.synchronize()
            verdict(f"experts {case} {NAMES[ty]} live {live}", y[:live], want, 1e-4 if ty == 0 else 2e-2)
            assert (y[live:] == 7.0).all(), "rows past the live ones were written"


REAL = (8, 8320, 4096, 1536)


def time_experts(tune):
    takes = lambda r, i: any((r * 5 + at * 3) % 8 == i for at in range(4))
    plans = {}
    for ty in (0, 2):
        for rows in (1, 4, 16, 32, 64):
            others = [{}]
            if tune:
                others += [dict(SPLIT=8)] if rows in (1, 64) else []
                others += [dict(M_TILES=2, BLOCKS=2, STAGES=3)] if ty == 0 and rows != 1 else []
                others += [dict(M_TILES=4, BLOCKS=1, STAGES=6)] if ty == 2 and 16 <= rows else []
                others += [dict(BLOCKS=2, STAGES=6)] if ty == 2 and rows == 1 else []
                others += [dict(BLOCKS=2, STAGES=3)] if ty == 2 and rows == 64 else []
            plans[ty, rows] = [(it, experts_job(rows, *REAL, ty, **it)) for it in others]
    prepare([job for them in plans.values() for _, job in them])
    for ty in (0, 2):
        weights = experts_data(1, *REAL, ty, takes, 0.02)[2:]
        for rows in (1, 4, 16, 32, 64):
            data = experts_data(rows, 8, 8, 8, 8, ty, takes)[:2]
            data[0] = (torch.rand(rows, 8320, device="cuda") * 2 - 1).to(TYPES[ty])
            y = torch.empty(rows, 1536, device="cuda", dtype=TYPES[ty])
            hidden = torch.empty(8, rows, 4096, device="cuda", dtype=TYPES[ty])
            want = experts_want(*data, *weights)
            active = len({i for r in range(rows) for i in range(8) if takes(r, i)})
            bytes_read = active * 4096 * (8320 + 1536) * (4 if ty == 0 else 2)
            flops = 2 * rows * 4 * 4096 * (8320 + 1536)
            for other, job in plans[ty, rows]:
                if CODE[job] is None:
                    continue
                go = experts_launch(job, [*data, *weights, y, hidden], rows)
                go(torch.cuda.current_stream().cuda_stream)
                torch.cuda.synchronize()
                if not other:
                    verdict(f"experts {rows} {NAMES[ty]}", y, want, 1e-4 if ty == 0 else 2e-2)
                us = bench([go], 0.08)
                parts = [bench([it.dependent], 0.05) for it in go.keep[0]]
                print(f"experts {rows} {NAMES[ty]} {other}: {us:.1f} us ({parts[0]:.1f} + {parts[1]:.1f}), "
                      f"{bytes_read / us / 1e3:.0f} GB/s, {flops / us / 1e6:.1f} TFLOP/s", flush=True)
        del weights
        torch.cuda.empty_cache()


# The head of SPLADE: macros as sources/splade.rs writes them.


def splade_job(rows, k, v, ty, **other):
    tokens = 32
    while tokens < min(rows, 128 if ty == 0 else 256):
        tokens *= 2
    tokens = other.get("TOKENS", tokens)
    stage = (2 if ty == 0 else 1) * (128 + tokens) * 128
    stages = other.get("STAGES", (200 << 10) // stage)
    values = dict(WORDS=2, TYPE=ty, V=v, K=k, TOKENS=tokens, STAGES=stages, PDL=1)
    return ("splade.cu", tuple(values.items()))


def splade_launch(job, buffers, rows, live):
    v = dict(job[1])
    ty, k, lines = v["TYPE"], v["K"], 2 if v["TYPE"] == 0 else 1
    padded = -(-k // 64) * 64
    shared = 1024 + v["STAGES"] * (lines * (128 + v["TOKENS"]) * 128 + 16)
    parts = torch.full((rows, 2 * padded), float("nan"), device="cuda", dtype=torch.bfloat16) if ty == 0 else None
    count = buffers[3].numel()
    live = torch.tensor(live, dtype=torch.int32, device="cuda")
    element = 2 if ty == 0 else ty
    if ty == 0:
        map_h = drv.tensor_map(parts.data_ptr(), 2, 2 * padded, rows, 4 * padded, (64, v["TOKENS"]))
    else:
        map_h = drv.tensor_map(buffers[0].data_ptr(), ty, k, rows, 2 * k, (64, v["TOKENS"]))
    map_w = drv.tensor_map(buffers[1].data_ptr(), element, lines * k, v["V"], 2 * lines * k, (64, 128))
    rule = words(0, 1) + words(1, 1)
    arguments = [*(it.data_ptr() for it in buffers), *([parts.data_ptr()] if ty == 0 else []),
                 words(rows, count), live.data_ptr(), rule, map_h, map_w]
    launches = []
    if ty == 0:
        launches.append(drv.Kernel(CODE[job], "calor_splade_split").prepare((-(-rows // 8), 1, 1), (256, 1, 1), arguments))
    grid = min(-(-v["V"] // 128), 132)
    launches.append(drv.Kernel(CODE[job], "calor_splade", shared).prepare((grid, 1, 1), (384, 1, 1), arguments))

    def all_of(stream):
        for go in launches:
            go.dependent(stream)

    all_of.keep = (launches, live, buffers, parts)
    return all_of


def splade_want(h, w, bias, lo, hi):
    out = torch.zeros(len(lo), w.shape[0], device="cuda", dtype=torch.float64)
    logits = h.double() @ w.double().T + bias.double()
    for i, (a, b) in enumerate(zip(lo, hi)):
        a, b = max(a, 0), min(b, h.shape[0])
        if a < b:
            out[i] = torch.log1p(logits[a:b].amax(0).clamp_min(0))
    return out


def segments(t):
    lo, hi, at = [], [], 0
    for i in range(1000):
        if at >= t:
            break
        lo.append(at)
        at = min(t, at + [17, 1, 64, 0, 33, 2, 300][i % 7])
        hi.append(at)
    for a, b in [(t // 3, t), (-3, 2), (t - 1, t + 50), (5, 5), (3, 1)]:
        lo.append(a)
        hi.append(b)
    return lo, hi


def check_splade():
    cases = [(1, 8, 1), (5, 40, 77), (32, 64, 130), (33, 72, 128), (64, 128, 300), (100, 200, 129),
             (200, 64, 77), (300, 72, 256), (600, 40, 300), (600, 768, 20000)]
    jobs = {(c, ty): splade_job(*c, ty) for c in cases for ty in TYPES}
    prepare(jobs.values())
    for (case, ty), job in jobs.items():
        rows, k, v = case
        for live in {rows, rows * 2 // 3}:
            make = lambda *sizes, s=1.0: ((torch.rand(*sizes, device="cuda") * 2 - 1) * s).to(TYPES[ty])
            h, w, bias = make(rows, k, s=2.0), make(v, k, s=0.25), make(v)
            lo, hi = segments(live)
            want = splade_want(h[:live], w, bias, lo, hi)
            h[live:] = float("nan")
            bounds = [torch.tensor(it + [0, 3, 1], dtype=torch.int32, device="cuda") for it in (lo, hi)]
            out = torch.full((len(lo) + 3, v), 7.0, device="cuda")
            splade_launch(job, [h, w, bias, *bounds, out], rows, [live, len(lo)])(torch.cuda.current_stream().cuda_stream)
            torch.cuda.synchronize()
            verdict(f"splade {case} {NAMES[ty]} live {live}", out[: len(lo)], want, 1e-4 if ty == 0 else 1e-3)
            assert (out[len(lo):] == 7.0).all(), "segments past the live ones were written"


def time_splade(tune):
    plans = {}
    for ty in (2, 0):
        for rows in (32, 256, 4096):
            others = [{}]
            if tune and rows != 32:
                others += [dict(TOKENS=128)]
            plans[ty, rows] = [(it, splade_job(rows, 768, 30522, ty, **it)) for it in others]
    prepare([job for them in plans.values() for _, job in them])
    for ty in (2, 0):
        ws = [(torch.randn(30522, 768, device="cuda") * 0.02).to(TYPES[ty]) for _ in range(6)]
        bias = (torch.randn(30522, device="cuda") * 0.02).to(TYPES[ty])
        for rows in (32, 256, 4096):
            h = torch.randn(rows, 768, device="cuda").to(TYPES[ty])
            for length in (128, 32) if rows == 4096 else (128,):
                lo = list(range(0, rows, length))
                hi = [min(rows, it + length) for it in lo]
                bounds = [torch.tensor(it, dtype=torch.int32, device="cuda") for it in (lo, hi)]
                out = torch.empty(len(lo), 30522, device="cuda")
                want = splade_want(h, ws[-1], bias, lo, hi)
                for other, job in plans[ty, rows]:
                    if CODE[job] is None:
                        continue
                    goes = [splade_launch(job, [h, w, bias, *bounds, out], rows, [rows, len(lo)]) for w in ws]
                    for go in goes:
                        go(torch.cuda.current_stream().cuda_stream)
                    torch.cuda.synchronize()
                    verdict(f"splade {rows} {NAMES[ty]}", out, want, 1e-4 if ty == 0 else 1e-3)
                    us = bench(goes, 0.1)
                    size = 4 if ty == 0 else 2
                    print(f"splade {rows} x {length} {NAMES[ty]} {other}: {us:.1f} us, "
                          f"{30522 * 768 * size / us / 1e3:.0f} GB/s, "
                          f"{2 * rows * 30522 * 768 / us / 1e6:.0f} TFLOP/s", flush=True)


def gate_and_choice():
    make = lambda *sizes: torch.randn(*sizes, device="cuda")
    macros = dict(WORDS=1, TYPE=0, D=8320, E=8, COLD="2.0f", SMOOTHING="0.01f", EPS="1e-5f", PDL=1)
    gate = ("gate.cu", tuple(macros.items()))
    choice = ("top_k.cu", tuple(dict(WORDS=1, TYPE=0, E=8, K=4, PDL=1).items()))
    prepare([gate, choice])
    for rows in (1, 5, 64):
        goes = []
        live = torch.tensor([rows], dtype=torch.int32, device="cuda")
        tail = [words(rows), live.data_ptr(), rules(1, [0])]
        keep = []
        for _ in range(6):
            x, norm_w, norm_b, w, b = make(rows, 8320), make(8320), make(8320), make(8, 8320) * 0.02, make(8)
            q, weights = torch.empty(rows, 8, device="cuda"), torch.empty(rows, 8, device="cuda")
            at = torch.empty(rows, 4, device="cuda", dtype=torch.int32)
            buffers = [x, norm_w, norm_b, w, b, q]
            first = drv.Kernel(CODE[gate], "calor_gate").prepare(
                (rows, 1, 1), (1024, 1, 1), [*(it.data_ptr() for it in buffers), *tail])
            second = drv.Kernel(CODE[choice], "calor_top_k").prepare(
                (-(-rows // 8), 1, 1), (256, 1, 1), [q.data_ptr(), weights.data_ptr(), at.data_ptr(), *tail])
            keep.append((buffers, weights, at, first, second))
            goes.append(lambda stream, a=first, b=second: (a.dependent(stream), b.dependent(stream)))
            goes[-1](torch.cuda.current_stream().cuda_stream)
        torch.cuda.synchronize()
        normal = F.layer_norm(x.double(), (8320,), norm_w.double(), norm_b.double(), 1e-5)
        want = F.softmax((normal @ w.double().T + b.double()) * 2, -1)
        want = (want + 0.01) / 1.08
        verdict(f"gate {rows}", q, want, 1e-4)
        top, where = want.topk(4)
        verdict(f"choice {rows}", at, where, 0.0)
        verdict(f"weights {rows}", weights, torch.zeros_like(want).scatter(1, where, top / top.sum(1, keepdim=True)), 1e-4)
        only = bench([lambda stream, it=it: it[3].dependent(stream) for it in keep], 0.05)
        print(f"gate and choice {rows}: {bench(goes, 0.05):.2f} us, the gate {only:.2f} us", flush=True)


if __name__ == "__main__":
    if "check" in WHAT:
        check_experts()
        check_splade()
        gate_and_choice()
    if "time" in WHAT or "tune" in WHAT:
        if "experts" not in WHAT:
            time_splade("tune" in WHAT)
        time_experts("tune" in WHAT)
    print(f"{len(FAILED)} failed", FAILED, flush=True)
