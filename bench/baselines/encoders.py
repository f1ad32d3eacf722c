"""BERT encoders of real size in PyTorch, with the weights and ids of `calor-suite --arm`.

Usage: encoders.py eager|compile ENCODER --samples N [--device KIND] [--dtype NAME]

Weights follow from their names and places by SplitMix64, as ours do, so results can be compared.
"""

import argparse
import os
import sys

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from answer import measure  # noqa: E402
from sizes import ENCODERS, WORDS, head_count, made_ids  # noqa: E402

# For a look at agreement where there is no GPU.
ALL = ENCODERS | {"tiny 3x5": (2, 128, 3, 5)}
M64 = (1 << 64) - 1


def signed(value):
    """A 64-bit word as the signed integer that has its bits."""
    return value - (1 << 64) if value >> 63 else value


def shifted(z, count):
    """A logical shift to the right of signed 64-bit words."""
    return (z >> count) & ((1 << (64 - count)) - 1)


class Weights:
    """Names weights in order and makes each from its name."""

    def __init__(self, device):
        self.device, self.count = device, 0

    def __call__(self, *shape):
        self.count += 1
        seed = 1469
        for byte in f"w{self.count}".encode():
            seed = (seed * 31 + byte) & M64
        size = 1
        for it in shape:
            size *= it
        z = torch.arange(1, size + 1, dtype=torch.int64, device=self.device)
        z = z * signed(0x9E3779B97F4A7C15) + signed(seed)
        z = (z ^ shifted(z, 30)) * signed(0xBF58476D1CE4E5B9)
        z = (z ^ shifted(z, 27)) * signed(0x94D049BB133111EB)
        unit = shifted(z ^ shifted(z, 31), 40).float() / float(1 << 24)
        return ((unit - 0.5) * 0.08).view(shape)


class Encoder(torch.nn.Module):
    """The graph of `calor-suite`: post-norm layers, GELU, mean of rows, length one."""

    def __init__(self, layers, hidden, device, dtype):
        super().__init__()
        self.heads, self.hidden, self.dtype = head_count(hidden), hidden, dtype
        make = Weights(device)
        norm = lambda: (make(hidden), make(hidden))
        linear = lambda to, of: (make(to, of).to(dtype), make(to).to(dtype))
        self.words = make(WORDS, hidden)
        self.first = norm()
        self.layers = []
        for _ in range(layers):
            qkv, out = linear(3 * hidden, hidden), linear(hidden, hidden)
            after = norm()
            up, down = linear(4 * hidden, hidden), linear(hidden, 4 * hidden)
            self.layers.append((qkv, out, after, up, down, norm()))

    def norm(self, x, weights):
        gain, bias = (it.to(x.dtype) for it in weights)
        return torch.nn.functional.layer_norm(x, (self.hidden,), gain, bias, 1e-12)

    def forward(self, ids):
        functional = torch.nn.functional
        x = self.norm(functional.embedding(ids, self.words), self.first).to(self.dtype)
        count, length, hidden = x.shape
        for qkv, out, after, up, down, last in self.layers:
            parts = functional.linear(x, *qkv).view(count, length, 3, self.heads, -1)
            q, k, v = parts.permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(q, k, v)
            mixed = mixed.transpose(1, 2).reshape(count, length, hidden)
            x = self.norm(functional.linear(mixed, *out) + x, after)
            inner = functional.gelu(functional.linear(x, *up))
            x = self.norm(functional.linear(inner, *down) + x, last)
        return functional.normalize(x.float().mean(1), dim=-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=["eager", "compile"])
    parser.add_argument("encoder", choices=list(ALL))
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    layers, hidden, sequences, length = ALL[options.encoder]
    cuda = options.device.startswith("cuda")

    def open_case():
        model = Encoder(layers, hidden, options.device, getattr(torch, options.dtype)).eval()
        inner = torch.compile(model, mode="reduce-overhead") if options.mode == "compile" else model
        ids = made_ids(torch, sequences, length)
        ids = ids.pin_memory() if cuda else ids

        @torch.inference_mode()
        def call():
            return inner(ids.to(options.device, non_blocking=True)).cpu().numpy(), sequences

        return call, sequences * length, None, None

    measure(
        open_case,
        options.samples,
        {"torch": torch.__version__, "precision": options.dtype},
        device=torch.cuda.get_device_name(options.device) if cuda else "cpu",
        peak_device=torch.cuda.max_memory_allocated if cuda else None,
    )


if __name__ == "__main__":
    main()
