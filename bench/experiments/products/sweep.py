"""Tiles of the warpgroup form against each other and the vendor, by shape and live rows."""
import time; T0 = time.time()
from wg import *
import torch
SHAPES = [(3072,1024,0,0),(1024,1024,0,1),(4096,1024,2,0),(1024,4096,0,1),
          (2304,768,0,0),(768,768,0,1),(3072,768,2,0),(768,3072,0,1),
          (1152,384,0,0),(384,384,0,1),(1536,384,2,0),(384,1536,0,1)]
def T(rows, cols, groups, alt, stages, cm=1, cn=1, band=4): return dict(rows=rows, cols=cols, groups=groups, alt=alt, stages=stages, cm=cm, cn=cn, band=band)
TILES = [T(128,192,2,1,4), T(128,128,2,1,5), T(64,256,2,0,4,2,1,8), T(64,256,2,0,4), T(64,192,2,0,5,2), T(64,192,2,0,5), T(64,192,2,0,5,1,2),
         T(64,128,2,0,6,2), T(64,128,2,0,6), T(128,128,2,0,4,1,1,8), T(128,128,2,0,4,1,2,8), T(128,192,2,1,4,2), T(128,128,2,1,5,2), T(128,64,2,1,6), T(64,64,2,1,8), T(64,64,1,0,8)]
ROWS = [504, 1008, 2016, 3994, 8000]
def fit(kw, *a):
    w = Wg(*a, **kw)
    while w.shared() > 232448: w.stages -= 1
    return w
def main():
    all = {s: [fit(t, 2, s[0], s[1], s[2], 1, s[3], ) for t in TILES] for s in SHAPES}
    cub = compile_all([w.job() for l in all.values() for w in l])
    torch.zeros(1, device="cuda")
    print("compiled", len(cub), f"{time.time()-T0:.1f}s", flush=True)
    for l in all.values():
        for w in l: w.load(cub)
    for (n, k, act, r), ws in all.items():
        for m in ROWS:
            count = max(2, min(8, int(1.0e8 / (2 * (m*k + n*k + m*n)))))
            S = [(torch.randn(m, k, device="cuda", dtype=torch.bfloat16), torch.randn(n, k, device="cuda").mul(k**-0.5).bfloat16(), torch.empty(m, n, device="cuda", dtype=torch.bfloat16)) for _ in range(count)]
            b = torch.randn(n, device="cuda", dtype=torch.bfloat16); R = torch.randn(m, n, device="cuda", dtype=torch.bfloat16)
            live = torch.tensor([m], device="cuda", dtype=torch.int32)
            res = [(bench([w.call(m, *q, b, R, live=live) for q in S], 0.02, 2), w.name()) for w in ws]
            v = bench([lambda s, q=q: torch.mm(q[0], q[1].t(), out=q[2]) for q in S], 0.02, 2)
            first = res[0][0]; named = sorted(res)
            fl = 2 * m * n * k
            print(f"{n}x{k} m {m}: bare vendor {v:.1f}, " + ", ".join(f"{name} {us:.1f}={fl/us/1e6:.0f}" for us, name in named[:6]) + f" | P192 {first:.1f} P128 {res[1][0]:.1f}", flush=True)
    n, k, m = 768, 3072, 3994
    w = all[(768,3072,0,1)]
    for tag, A in (("normal", torch.randn(m, k, device="cuda")), ("zeros", torch.zeros(m, k, device="cuda")), ("relu", torch.randn(m, k, device="cuda").relu()), ("small", torch.randn(m, k, device="cuda") * 0.02)):
        A = A.bfloat16(); W = torch.randn(n, k, device="cuda").mul(k**-0.5).bfloat16(); C = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
        b = torch.randn(n, device="cuda", dtype=torch.bfloat16); R = torch.randn(m, n, device="cuda", dtype=torch.bfloat16)
        print("data", tag, [f"{x.name()} {bench([x.call(m, A, W, C, b, R)], 0.05, 2):.1f}" for x in w[:6]], flush=True)
    print(f"{time.time()-T0:.1f}s")
main()
