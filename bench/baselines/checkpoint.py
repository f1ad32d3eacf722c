"""A sentence encoder's checkpoint on a Python peer, as suites ask for it: ids in, unit vectors out.

Usage: checkpoint.py torch|torch-compile|onnxruntime DIR --size TEXTS --text-tokens N --samples N

`torch` is the composition that sentence-transformers makes of a checkpoint: the trunk as
transformers loads it, the mean of its rows, length one. The graph of ONNX Runtime is exported from
that very model with every optimisation, see `minilm.py`. Ids are those of `calor bench arm
embed.checkpoint`, so results can be compared.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from answer import measure  # noqa: E402

M64 = (1 << 64) - 1


def made_ids(text_count, token_count, vocab_count):
    """`made_items` of `crates/bench/src/embedder.rs`."""
    state, out = 1, np.empty(text_count * token_count, np.int64)
    for at in range(out.size):
        state = (state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) & M64
        out[at] = (state >> 33) % vocab_count
    return out.reshape(text_count, token_count)


def torch_peer(directory, ids, thread_count, compiled):
    import torch
    import transformers

    torch.set_num_threads(thread_count)
    trunk = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32).eval()

    def embed(ids, mask, types):
        states = trunk(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        keep = mask.unsqueeze(-1).to(states.dtype)
        mean = (states * keep).sum(1) / keep.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=-1)

    run = torch.compile(embed) if compiled else embed
    rows = torch.from_numpy(ids)
    mask, types = torch.ones_like(rows), torch.zeros_like(rows)

    @torch.inference_mode()
    def call():
        return run(rows, mask, types).numpy()

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return call, versions


def onnxruntime_peer(directory, ids, thread_count):
    from minilm import onnxruntime_peer as peer

    call, _, versions = peer(directory, ids, thread_count)
    return call, {name: str(versions[name]) for name in ("onnxruntime", "onnx", "graph")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=["torch", "torch-compile", "onnxruntime"])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--text-tokens", type=int, required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    vocab_count = json.loads((options.checkpoint / "config.json").read_text())["vocab_size"]
    ids = made_ids(options.size, options.text_tokens, vocab_count)
    versions = {"threads": str(options.threads)}

    def open_case():
        if options.peer == "onnxruntime":
            call, more = onnxruntime_peer(options.checkpoint, ids, options.threads)
        else:
            compiled = options.peer == "torch-compile"
            call, more = torch_peer(options.checkpoint, ids, options.threads, compiled)
        versions.update(more)
        return lambda: (call(), options.size), ids.size, None, None

    measure(open_case, options.samples, versions)


if __name__ == "__main__":
    main()
