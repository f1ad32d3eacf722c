"""BERT encoders of real size with random weights in PyTorch on a GPU: eager, and compiled.

Usage: cuda_encoder.py [--compile] [--json FILE] [NAME...]

Prints for each size: first call, and median of later calls with inputs from and vectors to the
host, in microseconds, and TFLOP/s. Sizes and inputs are those of `calor-suite --bench`.
"""

import argparse
import json
import os
import statistics
import sys
import time
import typing

import torch
import transformers

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from sizes import ENCODERS, head_count, made_ids  # noqa: E402


class Pooled(torch.nn.Module):
    """Mean of the last hidden rows as a unit vector."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.encoder(input_ids=ids).last_hidden_state.float()
        return torch.nn.functional.normalize(hidden.mean(1), dim=-1)


def measure(name: str, compiled: bool, record: typing.TextIO | None) -> None:
    layers, hidden, sequences, length = ENCODERS[name]
    config = transformers.BertConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=head_count(hidden),
        intermediate_size=4 * hidden,
    )
    torch.manual_seed(0)
    encoder = transformers.BertModel(config, add_pooling_layer=False)
    model = Pooled(encoder).to("cuda", torch.bfloat16).eval()
    if compiled:
        model = torch.compile(model, mode="reduce-overhead")
    ids = made_ids(torch, sequences, length).pin_memory()
    times = []
    with torch.inference_mode():
        for _ in range(110):
            start = time.perf_counter()
            vectors = model(ids.to("cuda", non_blocking=True)).cpu()
            times.append(time.perf_counter() - start)
    lengths = vectors.norm(dim=-1)
    assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-3), lengths
    median = statistics.median(times[10:])
    per_token = 2 * (4 * hidden**2 + 8 * hidden**2) + 4 * length * hidden
    flops = layers * sequences * length * per_token
    form = "compiled" if compiled else "eager"
    if record:
        sizes = {"layers": layers, "hidden": hidden, "sequences": sequences, "length": length}
        samples = {"encoder": name, "form": form, "runs_ns": [int(it * 1e9) for it in times]}
        print(json.dumps(sizes | samples | {"torch": torch.__version__}), file=record)
        record.flush()
    print(
        f"{name:<14} {form:<9} first {times[0] * 1e6:>11.0f} us  "
        f"median {median * 1e6:>9.1f} us  {flops / median / 1e12:>7.1f} TFLOP/s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", type=argparse.FileType("a"), help="file to add samples to")
    arguments = parser.parse_args()
    for name in ENCODERS:
        if not arguments.names or any(it in name for it in arguments.names):
            measure(name, arguments.compile, arguments.json)


if __name__ == "__main__":
    main()
