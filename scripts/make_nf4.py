"""Makes the checkpoint of crates/weights/tests/nf4: weights that bitsandbytes quantised.

Each is stored as bitsandbytes stores it, beside what it was made from (`NAME.source`) and what
bitsandbytes unpacks it to in float32 (`NAME.unpacked`).

    python scripts/make_nf4.py

Needs torch, bitsandbytes and safetensors, no GPU. Written for bitsandbytes 0.50.
"""

import json
import pathlib

import bitsandbytes
import bitsandbytes.functional as functional
import torch
from safetensors.torch import save_file

SEED = 1234
FOLDER = pathlib.Path(__file__).resolve().parent.parent / "crates/weights/tests/nf4"

# Name -> shape, type, factor, whether scales are quantised. The first has more scales than share
# a scale; the factor of the third takes its mean scale to a small exponent.
WEIGHTS = {
    "nested.weight": ((160, 128), torch.bfloat16, 0.05, True),
    "plain.weight": ((24, 64), torch.float16, 0.05, False),
    "small.weight": ((16, 64), torch.float32, 2e-6, True),
    "across.weight": ((10, 44), torch.bfloat16, 1.0, True),
}


def main():
    torch.manual_seed(SEED)
    tensors = {}
    for name, (shape, dtype, factor, nested) in WEIGHTS.items():
        source = (torch.randn(shape) * factor).to(dtype)
        packed, state = functional.quantize_4bit(
            source, blocksize=64, quant_type="nf4", compress_statistics=nested
        )
        tensors[name] = packed
        for ending, tensor in state.as_dict(packed=True).items():
            tensors[f"{name}.{ending}"] = tensor
        tensors[f"{name}.source"] = source
        state.dtype = torch.float32
        tensors[f"{name}.unpacked"] = functional.dequantize_4bit(packed, state)
    FOLDER.mkdir(exist_ok=True)
    made_by = f"bitsandbytes {bitsandbytes.__version__}, torch {torch.__version__}"
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, FOLDER / "model.safetensors", metadata={"made_by": made_by})
    (FOLDER / "config.json").write_text(json.dumps({"model_type": "none"}) + "\n")


main()
