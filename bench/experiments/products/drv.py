"""Driver access by ctypes, tensor maps, launching and timing."""
import ctypes, subprocess, time, statistics, datetime, os, multiprocessing
import nv
cu = ctypes.CDLL("libcuda.so.1")
def ck(s, what=""):
    if s != 0: raise RuntimeError(f"CUDA status {s} {what}")
F16, BF16, F32, E4M3, I8 = 1, 2, 0, 4, 3

def tensor_map(ptr, elem, cols, rows, stride_bytes, box, promo=3):
    buf = ctypes.create_string_buffer(128 + 64)
    a = (ctypes.addressof(buf) + 63) // 64 * 64
    dt = {1: 6, 2: 9, 4: 0}[elem]   # FLOAT16, BFLOAT16, UINT8
    u64, u32 = ctypes.c_uint64, ctypes.c_uint32
    ck(cu.cuTensorMapEncodeTiled(ctypes.c_void_p(a), dt, 2, ctypes.c_void_p(ptr), (u64 * 2)(cols, rows),
        (u64 * 1)(stride_bytes), (u32 * 2)(*box), (u32 * 2)(1, 1), 0, 3, promo, 0), "tensor map")
    return ctypes.string_at(a, 128)

class Kernel:
    def __init__(self, cubin, name, shared=0):
        m = ctypes.c_void_p(); ck(cu.cuModuleLoadData(ctypes.byref(m), cubin), "load")
        f = ctypes.c_void_p(); ck(cu.cuModuleGetFunction(ctypes.byref(f), m, name.encode()), "entry")
        self.m, self.f, self.shared = m, f, shared
        if shared > 48 * 1024: ck(cu.cuFuncSetAttribute(f, 8, shared), f"shared {shared}")
    def prepare(self, grid, block, args):
        """args: ints (pointers) or bytes."""
        keep, ptrs = [], []
        for x in args:
            b = ctypes.create_string_buffer(x if isinstance(x, bytes) else int(x).to_bytes(8, "little"), None if False else len(x) if isinstance(x, bytes) else 8)
            keep.append(b); ptrs.append(ctypes.addressof(b))
        arr = (ctypes.c_void_p * len(ptrs))(*ptrs)
        f, sh = self.f, self.shared
        def go(stream):
            ck(cu.cuLaunchKernel(f, *grid, *block, sh, ctypes.c_void_p(stream), arr, None), "launch")
        go.keep = keep
        class Attr(ctypes.Structure): _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int * 16)]
        class Config(ctypes.Structure): _fields_ = [("g", ctypes.c_uint * 3), ("b", ctypes.c_uint * 3), ("sh", ctypes.c_uint), ("s", ctypes.c_void_p), ("attrs", ctypes.c_void_p), ("n", ctypes.c_uint)]
        at = Attr(6, 0); at.value[0] = 1
        def go_dependent(stream):
            c = Config((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), sh, ctypes.c_void_p(stream), ctypes.addressof(at), 1)
            ck(cu.cuLaunchKernelEx(ctypes.byref(c), f, arr, None), "launch dependent")
        go_dependent.keep = (keep, at)
        go.dependent = go_dependent
        return go
def words(*v):
    return b"".join(int(x).to_bytes(8, "little", signed=True) for x in v)
def rules(n, live_words=()):
    return b"".join(words(0 if i in live_words else -1, 1) for i in range(n))

def _job(j):
    file, macros, arch = j
    t = time.time()
    c, log = nv.compile(file, dict(macros), arch)
    return j, c, log, time.time() - t
def compile_all(jobs):
    jobs = list(dict.fromkeys(jobs))
    with multiprocessing.get_context("fork").Pool(16) as p: out = p.map(_job, jobs, chunksize=1)
    res = {}
    for j, c, log, s in out:
        if c is None: print("COMPILE FAILED", j, log[:2000], flush=True)
        res[j] = c
    return res

class Clocks:
    def __init__(self):
        self.p = subprocess.Popen(["nvidia-smi", "--query-gpu=timestamp,clocks.sm,power.draw", "--format=csv,noheader,nounits", "-lms", "50"], stdout=open("/tmp/clk.log", "w"))
    def read(self, t0, t1):
        v = []
        for l in open("/tmp/clk.log"):
            try:
                ts, c, p = l.strip().split(", ")
                t = datetime.datetime.strptime(ts, "%Y/%m/%d %H:%M:%S.%f").timestamp()
                if t0 <= t <= t1: v.append((float(c), float(p)))
            except ValueError: pass
        if not v: return (0, 0)
        return statistics.median(x[0] for x in v), statistics.median(x[1] for x in v)
    def stop(self): self.p.terminate()

import torch
def bench(fns, seconds=0.3, per_graph_ms=8.0):
    """Median microseconds of one call; fns rotate. Each takes a stream handle."""
    s = torch.cuda.Stream()
    with torch.cuda.stream(s):
        for f in fns: f(s.cuda_stream)
        s.synchronize()
        e0, e1 = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        e0.record(s)
        for f in fns: f(s.cuda_stream)
        e1.record(s); s.synchronize()
        est = max(e0.elapsed_time(e1) / len(fns), 1e-3)
    n = len(fns) * max(1, int(per_graph_ms / est / len(fns)))
    n = min(n, max(len(fns), 400 // len(fns) * len(fns)))
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g, stream=s):
        for i in range(n): fns[i % len(fns)](torch.cuda.current_stream().cuda_stream)
    times, t0 = [], time.time()
    with torch.cuda.stream(s):
        g.replay(); s.synchronize()
        while time.time() - t0 < seconds or len(times) < 3:
            e0.record(s); g.replay(); e1.record(s); s.synchronize()
            times.append(e0.elapsed_time(e1) / n * 1e3)
    tail = times[len(times) // 4:]
    bench.window = (t0 + (time.time() - t0) * 0.25, time.time())
    return statistics.median(tail)
