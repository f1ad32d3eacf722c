import ctypes, math, multiprocessing as mp, os, sys, time, json
sys.path.insert(0, os.path.dirname(__file__))
HERE = os.path.dirname(os.path.abspath(__file__))
import build
T = lambda w, mt, bn, st, qr, bl, wg=0, sp=1, late=0: dict(WARPS=w, MTILES=mt, BN=bn, STAGES=st, Q_REGS=0 if wg else qr, BLOCKS=bl, WGMMA=wg, LATE=late)
def key(f, m): return (f, tuple(sorted(m.items())))
def job(a):
    f, m = a
    try:
        c, log = build.compile(f"{HERE}/attention_{f}.cu", m)
    except Exception as e: c, log = None, str(e)
    return key(f, m), c, (build.brief(log) if c else log[:1500])
def macros(**m):
    r = dict(build.BASE); r.update(m); return r
def smem(m):
    if "BN" not in m: return 0
    bm = 16 * m["MTILES"] * m["WARPS"]; rows = 2 * m["REACH"] + 1
    return 4*m["STAGES"]*m["BN"]*m["D"] + 2*bm*m["D"] + 12*bm + 256 + (4*rows if m["BIAS"] and rows <= 8192 else 0)
def bm_of(m):
    if "BN" in m: return 16 * m["MTILES"] * m["WARPS"], 32 * m["WARPS"]
    return (32 if m["D"] <= 128 else 8), 128

FORMS = {"plain": dict(HEADS=4, KV_HEADS=4), "extra": dict(HEADS=4, KV_HEADS=4, EXTRA=1, LSE=1),
         "bias": dict(HEADS=4, KV_HEADS=4, BIAS=1, REACH=24), "all": dict(HEADS=6, KV_HEADS=2, EXTRA=1, BIAS=1, LSE=1, REACH=130)}
MMA_TESTS = {"s": T(2,1,32,2,1,2), "m": T(4,2,32,2,1,2), "m64": T(4,2,64,3,0,1), "w": T(8,1,64,2,0,1,1), "w128": T(4,1,128,3,0,1,1,0), "wl": T(8,1,64,3,0,1,1,1,1), "w12": T(12,1,96,3,0,1,1,0,1), "w2": T(8,1,64,2,0,2,1), "w12s": T(12,1,64,3,0,1,1,1,1), "w32": T(4,1,32,2,0,2,1), "one": T(1,1,32,2,1,4), "three": T(3,1,32,2,1,4)}
def check_jobs(quick):
    jobs = []
    for form, fm in FORMS.items():
        for t in (0, 1, 2):
            for d in (32, 64, 80, 96, 128, 7, 40, 256):
                if quick and d in (40,): continue
                jobs.append(("plain", macros(TYPE=t, D=d, SCALE=f"{1/math.sqrt(d):.9f}f", **fm)))
        for t in (1, 2):
            for d in (32, 64, 80, 96, 128):
                for n, tm in MMA_TESTS.items():
                    if t == 1 and n in ("s", "m64", "w128", "w12", "w32", "one", "three") and quick: continue
                    jobs.append(("mma", macros(TYPE=t, D=d, SCALE=f"{1/math.sqrt(d):.9f}f", **fm, **tm)))
    jobs.append(("mma", macros(SCALE="-0.125f", **T(8,1,64,2,1,1,1))))
    jobs.append(("mma", macros(SCALE="-0.125f", **T(4,2,64,2,1,1))))
    return jobs

class Kernels:
    def __init__(self, built):
        import torch
        self.torch = torch; torch.cuda.init(); torch.zeros(1, device="cuda")
        self.cu = ctypes.CDLL("libcuda.so.1"); self.built = built; self.fns = {}
    def ck(self, s):
        if s: 
            p = ctypes.c_char_p(); self.cu.cuGetErrorString(s, ctypes.byref(p)); raise RuntimeError(f"cuda {s} {p.value}")
    def fn(self, f, m):
        k = key(f, m)
        if k not in self.fns:
            mod, fn = ctypes.c_void_p(), ctypes.c_void_p()
            self.ck(self.cu.cuModuleLoadData(ctypes.byref(mod), self.built[k]))
            self.ck(self.cu.cuModuleGetFunction(ctypes.byref(fn), mod, f"calor_attention_{f}".encode()))
            if smem(m) > 48 * 1024: self.ck(self.cu.cuFuncSetAttribute(fn, 8, smem(m)))
            self.fns[k] = fn
        return self.fns[k]
    def occupancy(self, f, m):
        n = ctypes.c_int(); self.ck(self.cu.cuOccupancyMaxActiveBlocksPerMultiprocessor(ctypes.byref(n), self.fn(f, m), bm_of(m)[1], ctypes.c_size_t(smem(m)))); return n.value
    def prepare(self, f, m, buffers, words, rules, live):
        class W(ctypes.Structure): _fields_ = [("w", ctypes.c_longlong * 5)]
        class R(ctypes.Structure): _fields_ = [("w", ctypes.c_longlong * 10)]
        vals = [ctypes.c_void_p(b.data_ptr()) for b in buffers] + [W((ctypes.c_longlong*5)(*words)), ctypes.c_void_p(live.data_ptr()), R((ctypes.c_longlong*10)(*sum(rules, [])))]
        arr = (ctypes.c_void_p * len(vals))(*[ctypes.cast(ctypes.pointer(v), ctypes.c_void_p) for v in vals])
        bm, threads = bm_of(m); fn = self.fn(f, m); sm = smem(m)
        gx, gy = m["HEADS"], (words[0] + bm - 1) // bm
        cu, torch, ck = self.cu, self.torch, self.ck
        if m["PDL"]:
            class Attr(ctypes.Structure): _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("v", ctypes.c_int * 16)]
            class Cfg(ctypes.Structure): _fields_ = [("g", ctypes.c_uint*3), ("b", ctypes.c_uint*3), ("sm", ctypes.c_uint), ("st", ctypes.c_void_p), ("at", ctypes.c_void_p), ("n", ctypes.c_uint)]
            a = Attr(6, 0, (ctypes.c_int*16)(1))
            def run():
                c = Cfg((ctypes.c_uint*3)(gx, gy, 1), (ctypes.c_uint*3)(threads, 1, 1), sm, torch.cuda.current_stream().cuda_stream, ctypes.addressof(a), 1)
                ck(cu.cuLaunchKernelEx(ctypes.byref(c), fn, arr, None))
            run.keep = (vals, buffers, live, a)
            return run
        def run(): ck(cu.cuLaunchKernel(fn, gx, gy, 1, threads, 1, 1, sm, ctypes.c_void_p(torch.cuda.current_stream().cuda_stream), arr, None))
        run.keep = (vals, buffers, live)
        return run

def reference(torch, q, k, v, lo, hi, extra, bias, scale, reach, m):
    tq, h, d = q.shape; tk, hkv, _ = k.shape
    q, k, v = q.double(), k.double(), v.double()
    k = k.repeat_interleave(h // hkv, 1); v = v.repeat_interleave(h // hkv, 1)
    s = torch.einsum("ihd,jhd->hij", q, k) * scale
    i = torch.arange(tq, device="cuda")[:, None]; j = torch.arange(tk, device="cuda")[None]
    if bias is not None: s = s + bias.double()[(j - i).clamp(-reach, reach) + reach].permute(2, 0, 1)
    mask = (j >= lo[:, None]) & (j < hi[:, None])
    if extra is not None: mask |= j == extra[:, None]
    s = s.masked_fill(~mask, -math.inf)
    lse = torch.logsumexp(s, -1) if tk else torch.full((h, tq), -math.inf, device="cuda", dtype=torch.double)
    p = torch.exp(s - lse[..., None]).masked_fill(~mask, 0.0)
    return torch.einsum("hij,jhd->ihd", p, v), lse.T

def datasets(torch):
    g = torch.Generator().manual_seed(5)
    ri = lambda a, b, n: torch.randint(a, b, (n,), generator=g)
    out = []
    lens = [2, 17, 64, 5, 128, 33, 1, 96, 200, 3, 70, 2, 9]
    lo, hi, first = [], [], []
    p = 0
    for n in lens:
        lo += [p]*n; hi += [p+n]*n; first += [p]*n; p += n
    lo, hi, first = map(torch.tensor, (lo, hi, first)); i = torch.arange(p)
    pad = lambda x, v=0: torch.cat([x, torch.full((37,), v)])
    out.append(("packed", pad(lo), pad(hi), pad(first, -1), p + 37, p + 37, 100, 0))
    out.append(("causal", pad(lo), pad(torch.minimum(hi, i+1)), pad(ri(-3, p + 40, p), 5), p + 37, p + 37, 0, 0))
    out.append(("window", pad(torch.maximum(lo, i-20)), pad(torch.minimum(hi, i+21)), pad(first, 3), p + 37, p + 37, 60, 60))
    n = 300; big = 2**31
    ch = lambda n, tk: torch.where(ri(0, 3, n) == 0, torch.tensor([-big, -7, big-1, tk, tk+1, 0, -1])[ri(0, 7, n)], ri(-5, tk + 9, n))
    out.append(("hostile", ch(n, 333), ch(n, 333), ch(n, 333), n, 333, 20, 40))
    a = ri(0, 900, n); out.append(("gaps", a, a + ri(0, 30, n), ri(0, 900, n), n, 900, 0, 0))
    out.append(("one", torch.tensor([0]), torch.tensor([1]), torch.tensor([0]), 1, 1, 31, 0))
    out.append(("onerow", torch.tensor([3]), torch.tensor([290]), torch.tensor([299]), 1, 300, 0, 11))
    out.append(("onekey", ri(-1, 2, 150), ri(0, 3, 150), ri(-1, 2, 150), 150, 1, 0, 0))
    out.append(("nokey", ri(-1, 2, 70), ri(0, 3, 70), ri(-1, 2, 70), 70, 0, 0, 64))
    return out

def check(K, jobs):
    torch = K.torch; sets = datasets(torch); worst = {}; bad = []
    types = {0: torch.float32, 1: torch.float16, 2: torch.bfloat16}
    cache = {}
    for f, m in jobs:
        if K.built.get(key(f, m)) is None: bad.append((f, m, "no build")); continue
        h, hkv, d, ty = m["HEADS"], m["KV_HEADS"], m["D"], types[m["TYPE"]]
        for name, lo, hi, extra, tq, tk, moreq, morek in sets:
            ck = (name, h, hkv, d, ty, m["EXTRA"], m["BIAS"], m["SCALE"], m["REACH"])
            if ck not in cache:
                gen = torch.Generator(device="cuda").manual_seed(len(cache))
                def rows(n, more, w, gap):
                    b = torch.full((n + more + 1, w + gap), math.nan, device="cuda", dtype=ty)
                    b[:n, :w] = (torch.randn(n, w, device="cuda", generator=gen) * 1.3).to(ty); return b
                gap = 8 if f == "mma" or d % 8 == 0 else 1
                qb, kb, vb = rows(tq, moreq, h*d, gap*2), rows(tk, morek, hkv*d, gap), rows(tk, morek, hkv*d, gap*3)
                ext = lambda x: torch.cat([x.int(), torch.full((moreq,), 5).int()]).cuda()
                bias = (torch.randn(2*m["REACH"]+1, h, device="cuda", generator=gen) * 2) if m["BIAS"] else None
                q, k, v = qb[:tq, :h*d].reshape(tq, h, d), kb[:tk, :hkv*d].reshape(tk, hkv, d), vb[:tk, :hkv*d].reshape(tk, hkv, d)
                ref, lse = reference(torch, q, k, v, lo.cuda(), hi.cuda(), extra.cuda() if m["EXTRA"] else None, bias, float(m["SCALE"][:-1]), m["REACH"], m)
                cache[ck] = (qb, kb, vb, ext(lo), ext(hi), ext(extra), bias, ref, lse)
                if len(cache) > 400: cache.pop(next(iter(cache)))
            qb, kb, vb, l_, h_, e_, bias, ref, lse = cache[ck]
            out = torch.full((tq + moreq, h, d), 77.0, device="cuda", dtype=ty); ls = torch.full((tq + moreq, h), 77.0, device="cuda")
            live = torch.tensor([9, tq, tk], device="cuda", dtype=torch.int32)
            bufs = [qb, kb, vb, l_, h_] + ([e_] if m["EXTRA"] else []) + ([bias] if m["BIAS"] else []) + [out] + ([ls] if m["LSE"] else [])
            words = [tq + moreq, tk + morek, qb.stride(0), kb.stride(0), vb.stride(0)]
            rules = [[1, 1] if moreq else [-1, 0], [2, 1] if morek else [-1, 0], [-1, 0], [-1, 0], [-1, 0]]
            K.prepare(f, m, bufs, words, rules, live)()
            o = out[:tq].double(); err = (o - ref).abs()
            rel = (err.norm() / ref.norm().clamp_min(1e-30)).item() if ref.norm() > 0 else err.norm().item()
            mx = err.max().item()
            lim = {0: (1e-6, 1e-5), 1: (8e-4, 8e-3), 2: (6e-3, 6e-2)}[m["TYPE"]]
            ok = rel <= lim[0] and mx <= lim[1] and bool((out[tq:] == 77).all())
            le = 0.0
            if m["LSE"]:
                both = torch.isinf(lse) & (ls[:tq] == -math.inf)
                le = torch.where(both, 0.0, (ls[:tq].double() - lse).abs()).max().item()
                ok = ok and le < (2e-5 if f == "plain" else 1e-4) and bool((ls[tq:] == 77).all())
            kk = (f + ("-w" if m.get("WGMMA") else ""), m["TYPE"])
            w = worst.setdefault(kk, [0, 0, 0, 0]); w[0] = max(w[0], rel); w[1] = max(w[1], mx); w[2] = max(w[2], le); w[3] += 1
            if not ok: bad.append((f, {k: v for k, v in m.items() if k not in ("PDL",)}, name, rel, mx, le))
    torch.cuda.synchronize()
    for k, w in sorted(worst.items()): print("CHECK", k, "cases", w[3], "worst rel %.2e max %.2e lse %.2e" % tuple(w[:3]))
    print("BAD", len(bad)); [print("  bad", b) for b in bad[:25]]

def timed(torch, run, reps=20, replays=7, prep=None):
    s = torch.cuda.Stream(); s.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(s):
        for _ in range(2): run()
    torch.cuda.synchronize()
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g, stream=s):
        for _ in range(reps): run()
    g.replay(); torch.cuda.synchronize(); ts = []
    for _ in range(replays):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record(); g.replay(); b.record(); torch.cuda.synchronize(); ts.append(a.elapsed_time(b) * 1e3 / reps)
    ts.sort(); return ts[len(ts)//2]

def mixed_lengths(total, seed=1):
    import random
    r = random.Random(seed); out = []
    while sum(out) < total:
        n = int(round(2 ** r.uniform(1, 12))); out.append(min(n, total - sum(out)))
    return out

class Case:
    def __init__(self, name, lens, heads, kv, d, form="full", window=0, extra=False, bias=0, tiles=None):
        self.name, self.lens, self.heads, self.kv, self.d, self.form, self.window, self.extra, self.bias, self.tiles = name, lens, heads, kv, d, form, window, extra, bias, tiles
    def macros(self, tile, **more):
        return macros(HEADS=self.heads, KV_HEADS=self.kv, D=self.d, SCALE=f"{1/math.sqrt(self.d):.9f}f", EXTRA=int(self.extra), BIAS=int(self.bias > 0), REACH=self.bias, **tile, **more)

def bench(K, cases, more_variants=(), peers=True):
    torch = K.torch; res = {}
    import torch.nn.functional as F
    from torch.nn.attention import sdpa_kernel, SDPBackend
    for c in cases:
        t = sum(c.lens); h, kv, d = c.heads, c.kv, c.d
        gen = torch.Generator(device="cuda").manual_seed(3)
        qkv = torch.randn(t, (h + 2*kv)*d, device="cuda", generator=gen).to(torch.bfloat16)
        starts = torch.tensor([0] + list(c.lens)).cumsum(0)
        st = torch.repeat_interleave(starts[:-1], torch.tensor(c.lens)).int(); en = torch.repeat_interleave(starts[1:], torch.tensor(c.lens)).int()
        i = torch.arange(t).int()
        lo, hi = st, en
        if c.form == "causal": hi = torch.minimum(hi, i + 1)
        if c.window: lo = torch.maximum(st, i - c.window); hi = torch.minimum(en, i + c.window + 1)
        ex = st
        pairs = (hi - lo).double().sum().item() + (((ex < lo)).double().sum().item() if c.extra else 0)
        flops = 4.0 * pairs * d * h
        bias = torch.randn(2*c.bias+1, h, device="cuda", generator=gen) if c.bias else None
        lo, hi, ex = lo.cuda(), hi.cuda(), ex.contiguous().cuda()
        out = torch.empty(t, h, d, device="cuda", dtype=torch.bfloat16)
        live = torch.tensor([t], device="cuda", dtype=torch.int32)
        S = (h + 2*kv)*d
        q, k, v = qkv[:, :h*d], qkv[:, h*d:(h+kv)*d], qkv[:, (h+kv)*d:]
        ref = None
        rows = []
        for tn, tm, extra_m in c.tiles:
            m = c.macros(tm, **extra_m)
            if K.built.get(key("mma", m)) is None: print("  no build", tn); continue
            bufs = [q, k, v, lo, hi] + ([ex] if c.extra else []) + ([bias] if c.bias else []) + [out]
            run = K.prepare("mma", m, bufs, [t, t, S, S, S], [[0, 1], [0, 1], [-1, 0], [-1, 0], [-1, 0]], live)
            out.fill_(math.nan)
            us = timed(torch, run, reps=100 if t <= 512 else 20)
            if ref is None: ref = out.float().clone(); e = 0.0
            else: e = ((out.float() - ref).norm() / ref.norm()).item()
            rows.append((us, tn, e, K.occupancy("mma", m), K.info.get(key("mma", m), "")))
        # peers
        def peer(name, fn, back=None):
            try:
                if back is not None:
                    with sdpa_kernel(back):
                        us = timed(torch, fn, reps=100 if t <= 512 else 20); o = fn()
                else: us = timed(torch, fn, reps=100 if t <= 512 else 20); o = fn()
                o = o[0] if isinstance(o, tuple) else o
                e = -1.0
                if ref is not None:
                    oo = o.float()
                    if oo.dim() == 4: oo = oo.transpose(1, 2).reshape(t, h, d)
                    if not c.extra: e = ((oo - ref).norm() / ref.norm()).item()
                rows.append((us, name, e, 0, ""))
            except Exception as x: print("  peer", name, "failed:", str(x).splitlines()[0][:150])
        if peers:
            qc, kc, vc = q.reshape(t, h, d).contiguous(), k.reshape(t, kv, d).contiguous(), v.reshape(t, kv, d).contiguous()
            causal = c.form == "causal"; scale = 1/math.sqrt(d)
            if len(set(c.lens)) == 1:
                n = c.lens[0]; b = t // n
                dense = lambda x: x.reshape(b, n, -1, d).transpose(1, 2).contiguous()
                qd, kd, vd = dense(qc), dense(kc), dense(vc)
                g = dict(enable_gqa=True) if h != kv else {}
                if not c.window and not c.bias:
                    peer("sdpa-flash", lambda: F.scaled_dot_product_attention(qd, kd, vd, is_causal=causal, **g), SDPBackend.FLASH_ATTENTION)
                    peer("sdpa-cudnn", lambda: F.scaled_dot_product_attention(qd, kd, vd, is_causal=causal, **g), SDPBackend.CUDNN_ATTENTION)
                if c.bias:
                    ii = torch.arange(n, device="cuda"); dm = bias[(ii[None] - ii[:, None]).clamp(-c.bias, c.bias) + c.bias].permute(2, 0, 1)[None].to(torch.bfloat16).contiguous()
                    peer("sdpa-effic+mask", lambda: F.scaled_dot_product_attention(qd, kd, vd, attn_mask=dm), SDPBackend.EFFICIENT_ATTENTION)
                    peer("sdpa-cudnn+mask", lambda: F.scaled_dot_product_attention(qd, kd, vd, attn_mask=dm), SDPBackend.CUDNN_ATTENTION)
            if not c.bias:
                cs = starts.int().cuda(); mx = max(c.lens)
                win = dict(window_size_left=c.window, window_size_right=c.window) if c.window else {}
                peer("flash-varlen", lambda: torch.ops.aten._flash_attention_forward(qc, kc, vc, cs, cs, mx, mx, 0.0, causal, False, scale=scale, **win))
        print(f"CASE {c.name} tokens {t} heads {h}/{kv} d {d} gflop {flops/1e9:.2f}")
        for us, n, e, occ, info in sorted(rows): print(f"   {n:28s} {us:9.2f} us {flops/us/1e6:7.1f} TF/s diff {e:.1e} occ {occ} {info}")
        res[c.name] = [(n, us, flops/us/1e6, e) for us, n, e, _, _ in sorted(rows)]
    if os.environ.get("OUT"): json.dump(res, open(os.environ["OUT"] + "/bench.json", "w"), indent=1)
    return res

def build_all(jobs):
    t = time.time(); uniq = {key(f, m): (f, m) for f, m in jobs}
    order = sorted(uniq.values(), key=lambda a: -a[1]["D"])
    with mp.get_context("fork").Pool(16) as p: r = p.map(job, order, chunksize=1)
    print(f"built {len(r)} in {time.time()-t:.1f} s", flush=True)
    for k, c, info in r:
        if c is None: print("FAILED", k, info[:800])
    return {k: c for k, c, _ in r}, {k: i for k, _, i in r}
