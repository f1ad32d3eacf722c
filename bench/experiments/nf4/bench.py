"""Checks each variant against a product in f64 with the unpacked weights, and times it beside
PyTorch's product with unpacked bf16 weights.

    python bench/experiments/nf4/bench.py

Launches are captured into a graph and walk over copies of the weights that together are larger
than L2. Needs a GPU and PyTorch.
"""
import ctypes
import multiprocessing

import variants
from variants import SIZES, VARIANTS, ceil


def image(variant):
    return variants.cubin(variant.source())


def main(images):
    import torch

    driver = ctypes.CDLL("libcuda.so.1")
    torch.manual_seed(0)
    torch.zeros(1, device="cuda")
    book = torch.tensor(variants.CODEBOOK, device="cuda")
    types = (torch.float32, torch.float16, torch.bfloat16)

    def demand(code):
        assert code == 0, code

    def function(image, variant):
        module, found, number = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int()
        demand(driver.cuModuleLoadData(ctypes.byref(module), image))
        entry = f"calor_nf4_{variant.kind}".encode()
        demand(driver.cuModuleGetFunction(ctypes.byref(found), module, entry))
        demand(driver.cuFuncSetAttribute(found, 8, variant.launch()[1]))
        demand(driver.cuFuncGetAttribute(ctypes.byref(number), 4, found))
        return found, number.value

    def launch(found, variant, buffers, words):
        threads, shared, x, y = variant.launch()
        values = [ctypes.c_void_p(it) for it in buffers]
        values += [(ctypes.c_longlong * 4)(*words), ctypes.c_void_p(0),
                   (ctypes.c_longlong * 8)(*[-1, 0] * 4)]
        places = (ctypes.c_void_p * len(values))(*[ctypes.addressof(it) for it in values])
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        demand(driver.cuLaunchKernel(found, x, y, 1, threads, 1, 1, shared, stream, places, None))

    def microseconds(run, copies):
        stream, count = torch.cuda.Stream(), max(copies, 8)
        with torch.cuda.stream(stream):
            run(0)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for turn in range(count):
                run(turn % copies)
        graph.replay()
        best = float("inf")
        for _ in range(5):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            graph.replay()
            last.record()
            torch.cuda.synchronize()
            best = min(best, first.elapsed_time(last) / count * 1e3)
        return best

    def unpacked(codes, scales, n, k, dtype):
        at = torch.stack([codes >> 4, codes & 15], -1).reshape(-1)[: n * k].long()
        return (book[at] * scales.repeat_interleave(64)[: n * k]).reshape(n, k).to(dtype)

    beside = {}

    def torch_time(n, k, rows, transposed):
        key = (n, k, rows, transposed)
        if key not in beside:
            copies = max(2, min(8, (320 << 20) // (n * k * 2)))
            w = torch.randn((copies, n, k), device="cuda").to(torch.bfloat16)
            x = torch.randn((rows, n if transposed else k), device="cuda").to(torch.bfloat16)
            run = lambda at: torch.mm(x, w[at] if transposed else w[at].t())
            beside[key] = microseconds(run, copies)
        return beside[key]

    weights, wrong = {}, 0
    for variant, image in zip(VARIANTS, images):
        n, k, parts, dtype = variant.n, variant.k, variant.parts, types[variant.dtype]
        if (n, k, parts) not in weights:
            copies = min(max((160 << 20) // (n * k * parts // 2), 2), 32)
            shape = (copies, parts, ceil(n * k, 2))
            codes = torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")
            scales = torch.rand((copies, parts, ceil(n * k, 64)), device="cuda") * 0.04 + 0.01
            weights[n, k, parts] = codes, scales, copies
        codes, scales, copies = weights[n, k, parts]
        found, registers = function(image, variant)
        x = torch.rand((variant.rows, n if variant.transposed else k), device="cuda") * 2 - 1
        x = x.to(dtype)
        dense = [unpacked(codes[0, it], scales[0, it], n, k, dtype).double() for it in range(parts)]
        want = [x.double() @ (it if variant.transposed else it.t()) for it in dense]
        if variant.form == 1:
            want = [want[0] * torch.sigmoid(want[0]) * want[1]]
        shape = (variant.rows, variant.columns)
        got = [torch.full(shape, float("nan"), dtype=dtype, device="cuda") for _ in want]

        def run(at):
            buffers = [x.data_ptr()]
            for part in range(parts):
                buffers += [codes[at, part].data_ptr(), scales[at, part].data_ptr()]
            buffers += [it.data_ptr() for it in got]
            launch(found, variant, buffers, [variant.rows, x.shape[1], shape[1], shape[1]])

        run(0)
        torch.cuda.synchronize()
        # What is left beside the rounding of the result.
        rounding = (0, 2.0**-11, 2.0**-8)[variant.dtype]
        off = [((g.double() - w).abs() - rounding * w.abs()).max() / w.pow(2).mean().sqrt()
               for g, w in zip(got, want)]
        off = max(it.item() if it == it else float("inf") for it in off)
        wrong += off >= 1e-3
        time = microseconds(run, copies)
        tflops = 2 * variant.rows * n * k * parts / time / 1e6
        other = parts * torch_time(n, k, variant.rows, variant.transposed) if variant.dtype else 0
        print(f"{variant.name()}: {registers} registers, off by {off:.1e}, {time:.2f} us, "
              f"{tflops:.0f} TFLOP/s; torch {other:.2f} us", flush=True)
    print(f"{wrong} wrong")


if __name__ == "__main__":
    with multiprocessing.Pool(16) as pool:
        images = pool.map(image, VARIANTS)
    main(images)
