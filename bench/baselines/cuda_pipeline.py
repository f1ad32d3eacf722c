"""The eight encoders of the pipeline and its fusion in PyTorch on a GPU: eager, and compiled.

Usage: cuda_pipeline.py --models DIR [--compile] [--json FILE]

Takes the checkpoints that `calor-suite --pipeline --models DIR` makes. For each size it prints
the first call and the median of later ones, ids in and twelve slots with the fused vector out on
the host, in bfloat16 with the fusion in float32; tokenizing is outside.
"""

import argparse
import json
import pathlib
import statistics
import time

import torch
import transformers
from safetensors import safe_open
from torch import nn
from torch.nn.functional import gelu, layer_norm, normalize

SIZES = [(1, 32), (1, 128), (4, 32), (32, 128)]
RUNS = 60
# Slots that are arithmetic on the host: E2, E3, E4 and E9.
HOST_LENGTHS = {1: 512, 2: 512, 3: 512, 8: 1024}
TOP_K = 4


class Tower(nn.Module):
    """A checkpoint, and the vector that its slot holds."""

    def __init__(self, folder: pathlib.Path, slot: int) -> None:
        super().__init__()
        config = json.loads((folder / "config.json").read_text())
        kind = config["model_type"]
        self.slot, self.kind = slot, kind
        self.length_max = 77 if kind == "clip" else 512
        weights = {}
        with safe_open(folder / "model.safetensors", "pt") as file:
            for name in ("proj.weight", "proj.bias", "linear.weight"):
                if name in file.keys():
                    weights[name] = file.get_tensor(name)
        t = transformers
        if kind == "clip":
            model = t.CLIPTextModelWithProjection.from_pretrained(folder)
        elif kind == "longformer":
            model = t.LongformerModel.from_pretrained(folder, add_pooling_layer=False)
        elif "T5" in "".join(config["architectures"]):
            base = t.T5Config.from_pretrained(folder)
            model = t.T5EncoderModel.from_pretrained(folder, config=base)
            self.kind = "t5"
        elif "splade" in folder.name:
            model = t.BertForMaskedLM.from_pretrained(folder)
            self.kind = "splade"
            rows = torch.randn(config["vocab_size"], 1536) / 1536**0.5
            self.register_buffer("rows", rows)
        else:
            model = t.BertModel.from_pretrained(folder, add_pooling_layer=False)
            self.kind = "colbert" if "colbert" in folder.name else "bert"
        self.model = model
        for name, weight in weights.items():
            self.register_buffer(name.replace(".", "_"), weight)
        self.vocab_count = config.get("vocab_size") or config["text_config"]["vocab_size"]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if self.kind == "clip":
            return normalize(self.model(input_ids=ids).text_embeds.float(), dim=-1)
        if self.kind == "splade":
            logits = self.model(input_ids=ids).logits
            terms = torch.log1p(torch.relu(logits)).amax(1)
            return normalize(terms.float() @ self.rows.float(), dim=-1)
        if self.kind == "longformer":
            first = torch.zeros_like(ids)
            first[:, 0] = 1
            states = self.model(input_ids=ids, global_attention_mask=first).last_hidden_state
            return normalize(states[:, : ids.shape[1]].float().mean(1), dim=-1)
        states = self.model(input_ids=ids).last_hidden_state
        if self.kind == "t5":
            native = states[:, 0] @ self.proj_weight.T + self.proj_bias
            padded = nn.functional.pad(native.float(), (0, 768 - native.shape[-1]))
            return normalize(padded, dim=-1)
        if self.kind == "colbert":
            rows = normalize((states @ self.linear_weight.T).float(), dim=-1)
            return normalize(rows.mean(1), dim=-1)
        return normalize(states.float().mean(1), dim=-1)


class Fusion(nn.Module):
    """The chosen experts of a mixture; the gate alone sees the norm of its input."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        with safe_open(path, "pt") as file:
            get = file.get_tensor
            for name in ("layer_norm.weight", "layer_norm.bias", "projection.weight"):
                self.register_buffer(name.replace(".", "_"), get(f"gating.{name}"))
            self.register_buffer("projection_bias", get("gating.projection.bias"))
            for part in ("input_proj", "output_proj"):
                for kind in ("weight", "bias"):
                    all_experts = [get(f"experts.{e}.{part}.{kind}") for e in range(8)]
                    self.register_buffer(f"{part}_{kind}", torch.stack(all_experts))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = layer_norm(x, x.shape[-1:], self.layer_norm_weight, self.layer_norm_bias)
        shares = (normed @ self.projection_weight.T + self.projection_bias).softmax(-1)
        shares = (shares + 0.01) / 1.08
        top, chosen = shares.topk(TOP_K, dim=-1)
        mixture = torch.zeros_like(shares).scatter(1, chosen, top / top.sum(-1, keepdim=True))
        hidden = torch.einsum("nd,ehd->neh", x, self.input_proj_weight) + self.input_proj_bias
        hidden = gelu(hidden, approximate="tanh")
        each = torch.einsum("neh,eoh->neo", hidden, self.output_proj_weight)
        return ((each + self.output_proj_bias) * mixture[..., None]).sum(1)


SLOTS = {
    "e5-large-v2": 0,
    "longformer-base-4096": 4,
    "splade-cocondenser-ensembledistil": 5,
    "codet5p-110m-embedding": 6,
    "paraphrase-MiniLM-L6-v2": 7,
    "clip-vit-large-patch14": 9,
    "all-MiniLM-L6-v2": 10,
    "colbertv2.0": 11,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=argparse.FileType("a"), help="file to add samples to")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    start = time.perf_counter()
    towers = [
        Tower(arguments.models / name, slot).to("cuda", torch.bfloat16).eval()
        for name, slot in SLOTS.items()
    ]
    fusion = Fusion(arguments.models / "fusion.safetensors").to("cuda").eval()
    print(f"loaded in {time.perf_counter() - start:.1f} s", flush=True)
    run_tower, run_fusion = list(towers), fusion
    if arguments.compile:
        run_tower = [torch.compile(it, mode="reduce-overhead") for it in towers]
        run_fusion = torch.compile(fusion, mode="reduce-overhead")
    form = "compiled" if arguments.compile else "eager"
    for items, length in SIZES:
        times = []
        for turn in range(RUNS):
            ids = [
                (1000 + torch.randint(it.vocab_count - 1001, (items, min(length, it.length_max))))
                for it in towers
            ]
            for it, own in zip(towers, ids):
                if it.kind == "clip":
                    own[:, -1] = it.vocab_count - 1
            ids = [it.pin_memory() for it in ids]
            hosted = {slot: torch.randn(items, size) for slot, size in HOST_LENGTHS.items()}
            torch.cuda.synchronize()
            start = time.perf_counter()
            with torch.inference_mode():
                slots = {k: normalize(v, dim=-1).to("cuda") for k, v in hosted.items()}
                for it, run, own in zip(towers, run_tower, ids):
                    slots[it.slot] = run(own.to("cuda", non_blocking=True)).clone()
                x = torch.cat([slots[it] for it in range(12)], dim=-1)
                fused = run_fusion(x)
                x, fused = x.cpu(), fused.cpu()
            times.append(time.perf_counter() - start)
            assert x.shape == (items, 8320) and torch.isfinite(fused).all()
        median = statistics.median(times[RUNS // 6 :])
        print(
            f"{items:>3} x {length:<4} {form:<9} first {times[0] * 1e3:>10.1f} ms  "
            f"median {median * 1e3:>8.2f} ms  {items / median:>8.0f} items/s",
            flush=True,
        )
        if arguments.json:
            samples = {"what": "pipeline", "form": form, "items": items, "length": length}
            runs = {"runs_ns": [int(it * 1e9) for it in times], "torch": torch.__version__}
            print(json.dumps(samples | runs), file=arguments.json, flush=True)


if __name__ == "__main__":
    main()
