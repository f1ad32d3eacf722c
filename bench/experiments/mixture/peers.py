"""Times of PyTorch for the pieces that `calor-suite --parts` measures, on the same sizes.

Each is done several times a run, on weights that do not stay in the cache: eager as people write
it, eager with everything fused by torch.compile, both replayed as a CUDA graph where the work does
not wait for the host.
"""

import statistics
import sys
import time

import torch
import torch.nn.functional as F

D, H, O, EXPERTS, TAKEN = 8320, 4096, 1536, 8, 4
HIDDEN, TERMS, TEXT = 768, 30522, 128


def median_us(work, copies, graph):
    """Median time of one of `copies` in microseconds."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(3):
            for copy in range(copies):
                work(copy)
    torch.cuda.synchronize()
    run = lambda: [work(copy) for copy in range(copies)]
    if graph:
        held = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(held):
            kept = run()
        run = held.replay
    times = []
    with torch.no_grad():
        for _ in range(15):
            torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - start) * 1e6 / copies)
    return statistics.median(times)


def takes(row, expert):
    return any((row * 5 + at * 3) % EXPERTS == expert for at in range(TAKEN))


def experts(rows, dtype):
    make = lambda *sizes: (torch.randn(*sizes, device="cuda") * 0.02).to(dtype)
    w1, b1, w2, b2 = make(EXPERTS, H, D), make(EXPERTS, H), make(EXPERTS, O, H), make(EXPERTS, O)
    xs = [make(rows, D) for _ in range(3)]
    shares = torch.tensor([[0.25 * takes(r, e) for e in range(EXPERTS)] for r in range(rows)]).cuda()

    def chosen(copy):
        """Only the chosen experts, whose rows the host asks for."""
        x, out = xs[copy], torch.zeros(rows, O, device="cuda", dtype=dtype)
        for e in range(EXPERTS):
            at = shares[:, e].nonzero().squeeze(1)
            if at.numel() == 0:
                continue
            hidden = F.gelu(F.linear(x[at], w1[e], b1[e]), approximate="tanh")
            y = F.linear(hidden, w2[e], b2[e]) * shares[at, e, None].to(dtype)
            out.index_add_(0, at, y)
        return out

    def dense(copy):
        """Every expert for every row, without the host."""
        x = xs[copy].expand(EXPERTS, rows, D)
        hidden = torch.baddbmm(b1[:, None], x, w1.transpose(1, 2))
        hidden = F.gelu(hidden, approximate="tanh")
        y = torch.baddbmm(b2[:, None], hidden, w2.transpose(1, 2))
        return (y * shares.t()[:, :, None].to(dtype)).sum(0)

    compiled = torch.compile(dense)
    return {
        "eager, chosen": median_us(chosen, 3, False),
        "graph, all": median_us(dense, 3, True),
        "compiled graph, all": median_us(compiled, 3, True),
    }


def splade(rows, dtype):
    make = lambda *sizes: (torch.randn(*sizes, device="cuda") * 0.02).to(dtype)
    ws = [make(TERMS, HIDDEN) for _ in range(6)]
    bias, h = make(TERMS), make(rows, HIDDEN)
    length = min(rows, TEXT)

    def head(copy):
        logits = F.linear(h, ws[copy], bias)
        logits = torch.log1p(torch.relu(logits.float()))
        return logits.view(rows // length, length, TERMS).amax(1)

    compiled = torch.compile(head)
    return {
        "eager": median_us(head, 6, False),
        "graph": median_us(head, 6, True),
        "compiled graph": median_us(compiled, 6, True),
    }


def gate(rows):
    make = lambda *sizes: torch.randn(*sizes, device="cuda") * 0.02
    ws = [(make(D), make(D), make(EXPERTS, D), make(EXPERTS)) for _ in range(6)]
    x = make(rows, D)

    def route(copy):
        norm_w, norm_b, w, b = ws[copy]
        q = F.softmax(F.linear(F.layer_norm(x, (D,), norm_w, norm_b, 1e-5), w, b), -1)
        q = (q + 0.01) / (1 + EXPERTS * 0.01)
        top, at = q.topk(TAKEN)
        return torch.zeros_like(q).scatter(1, at, top / top.sum(1, keepdim=True)), at

    compiled = torch.compile(route)
    return {
        "eager": median_us(route, 6, False),
        "graph": median_us(route, 6, True),
        "compiled graph": median_us(compiled, 6, True),
    }


def main():
    torch.backends.cuda.matmul.allow_tf32 = False
    names = sys.argv[1:] or ["gate", "experts", "splade"]
    print(torch.__version__, torch.cuda.get_device_name())
    sizes = {"gate": [1, 64], "experts": [1, 32, 64], "splade": [32, 256, 4096]}
    for name in names:
        for dtype in [torch.float32] if name == "gate" else [torch.float32, torch.bfloat16]:
            for rows in sizes[name]:
                torch._dynamo.reset()
                found = gate(rows) if name == "gate" else globals()[name](rows, dtype)
                line = ", ".join(f"{how} {us:.1f}" for how, us in found.items())
                print(f"{name} {rows} {str(dtype)[6:]}: {line} us", flush=True)
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
