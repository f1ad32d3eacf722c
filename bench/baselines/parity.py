"""Vectors that `calor-suite --parity` recorded, compared with those of transformers.

Usage: parity.py --models DIR --least COSINE [--device DEVICE] FILE...

Loads each checkpoint from its folder with the library that published its architecture, in
float32, computes the vectors of the recorded ids one list at a time, and prints the least cosine
of each checkpoint. Fails when one is below COSINE.
"""

import argparse
import json
import pathlib
import sys

import torch
import transformers
from safetensors import safe_open
from torch.nn.functional import normalize


def tensor(folder: pathlib.Path, name: str) -> torch.Tensor:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return file.get_tensor(name).float()


def mean(model, ids):
    return model(input_ids=ids).last_hidden_state.mean(1)[0]


def longformer(model, ids):
    first = torch.zeros_like(ids)
    first[:, 0] = 1
    states = model(input_ids=ids, global_attention_mask=first).last_hidden_state
    return states[0, : ids.shape[1]].mean(0)


def splade(model, ids):
    logits = model(input_ids=ids).logits[0]
    return torch.log1p(torch.relu(logits)).max(0).values


class Reference:
    """One checkpoint as its publisher's library computes it."""

    def __init__(self, folder: pathlib.Path, device: str) -> None:
        config = json.loads((folder / "config.json").read_text())
        kind, name = config["model_type"], folder.name
        load = dict(torch_dtype=torch.float32)
        self.images = None
        if kind == "clip":
            model = transformers.CLIPModel.from_pretrained(folder, **load)
            self.side = model.config.vision_config.image_size
        elif kind == "longformer":
            model = transformers.LongformerModel.from_pretrained(
                folder, add_pooling_layer=False, **load
            )
        elif "T5" in "".join(config["architectures"]) or "codet5" in kind:
            base = transformers.T5Config.from_pretrained(folder)
            model = transformers.T5EncoderModel.from_pretrained(folder, config=base, **load)
        elif "splade" in name:
            model = transformers.BertForMaskedLM.from_pretrained(folder, **load)
        else:
            model = transformers.BertModel.from_pretrained(
                folder, add_pooling_layer=False, **load
            )
        self.model = model.to(device).eval()
        self.device = device
        self.vector = self.choose(kind, folder, config)

    def choose(self, kind, folder, config):
        model = self.model
        if kind == "clip":
            self.images = lambda pixels: self.projected(
                model.vision_model(pixel_values=pixels).pooler_output, model.visual_projection
            )
            # The recorded texts end where they are pooled.
            return lambda ids: self.projected(
                model.text_model(input_ids=ids).last_hidden_state[:, -1], model.text_projection
            )
        if kind == "longformer":
            return lambda ids: normalize(longformer(model, ids), dim=0)
        if isinstance(model, transformers.T5EncoderModel):
            weight = tensor(folder, "proj.weight").to(self.device)
            bias = tensor(folder, "proj.bias").to(self.device)
            first = lambda ids: model(input_ids=ids).last_hidden_state[0, 0]
            return lambda ids: normalize(weight @ first(ids) + bias, dim=0)
        if isinstance(model, transformers.BertForMaskedLM):
            return lambda ids: splade(model, ids)
        if "colbert" in folder.name:
            weight = tensor(folder, "linear.weight").to(self.device)
            rows = lambda ids: model(input_ids=ids).last_hidden_state[0] @ weight.T
            return lambda ids: normalize(rows(ids), dim=-1).flatten()
        return lambda ids: normalize(mean(model, ids), dim=0)

    def projected(self, rows, projection):
        return normalize(projection(rows)[0], dim=0)

    @torch.inference_mode()
    def of_ids(self, ids: list[int]) -> torch.Tensor:
        return self.vector(torch.tensor([ids], device=self.device)).double().cpu()

    @torch.inference_mode()
    def of_image(self, at: int) -> torch.Tensor:
        count = 3 * self.side * self.side
        places = torch.arange(count, dtype=torch.int64)
        pixels = ((places * 7919 + at * 31) % 1009).float() / 504.5 - 1.0
        pixels = pixels.reshape(1, 3, self.side, self.side).to(self.device)
        return self.images(pixels).double().cpu()


def cosine(got: list[float], want: torch.Tensor) -> float:
    got = torch.tensor(got, dtype=torch.float64)
    assert got.shape == want.shape, f"{tuple(got.shape)} and {tuple(want.shape)}"
    return float(torch.dot(got, want) / (got.norm() * want.norm()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--least", type=float, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("files", nargs="+", type=argparse.FileType())
    arguments = parser.parse_args()
    # Products of the reference keep their 24 bits.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    failed = 0
    for line in (line for file in arguments.files for line in file):
        record = json.loads(line)
        reference = Reference(arguments.models / record["checkpoint"], arguments.device)
        found = [
            (f"{len(ids)} tokens", cosine(vector, reference.of_ids(ids)))
            for ids, vector in zip(record["ids"], record["vectors"], strict=True)
        ]
        found += [
            (f"image {at}", cosine(vector, reference.of_image(at)))
            for at, vector in enumerate(record["images"])
        ]
        where, least = min(found, key=lambda it: it[1])
        word = "ok" if arguments.least <= least else "FAILED"
        failed += word != "ok"
        print(
            f"{word:<6} {record['checkpoint']:<36} {record['precision']:<5} "
            f"least cosine {least:.8f} at {where}, of {len(found)}",
            flush=True,
        )
    sys.exit(min(failed, 1))


if __name__ == "__main__":
    main()
