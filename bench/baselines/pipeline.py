"""The pipeline of the mini profile on PyTorch: texts in, fused vectors out.

Usage: pipeline.py torch|torch-compile DIR --size TEXTS --samples N --threads N

What `crates/embed` computes for the profile, written as one would in Python: the trunk as
transformers loads it, on texts padded to the longest; its mean through a map for each of six slots,
its rows through one for E12; E6 from the text's own ids; E2, E3, E4 and E9 in NumPy; and the
mixture of experts. Nothing is trained but the trunk, so maps and weights are made from their seeds.
Fused vectors agree with ours; a case's reference compares them in every run.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from answer import measure  # noqa: E402
import seeded  # noqa: E402

SEED = 42
# The present of `crates/bench/src/arms/encoder.rs`.
NOW_S = 1_700_000_000
# Slots that are maps of the trunk's mean: place among the twelve, length.
MAPPED = {0: 1024, 4: 768, 6: 768, 7: 384, 9: 768, 10: 384}
SPARSE_LEN, TOKEN_LEN, HIDDEN_LEN, OUTPUT_LEN = 1536, 128, 256, 1536
EXPERTS, TOP_K, SMOOTHING = 8, 4, 0.01
SENTENCES = [
    "The river froze over before the first boats could leave the harbour.",
    'fn main() { println!("{}", 6 * 7); }',
    "A short note.",
    "Because the valve had been left open, the tank was empty by the morning, and nobody "
    "noticed until the pumps began to run dry.",
]


def texts_of(count):
    """`inputs` of `crates/bench/src/scenarios/pipeline.rs`."""
    return [f"{SENTENCES[at % len(SENTENCES)]} ({at})" for at in range(count)]


def temporal(now_s):
    """E2 of something that is new, E3 and E4 of the present."""
    place = np.arange(128)
    block = np.where(place < 64, np.cos(np.pi * place / 64.0), 0.0)
    recent = np.tile(block, 4) / (8.0 * np.sqrt(2.0))
    periodic = np.zeros(512)
    for at, period_s in enumerate([3_600, 86_400, 604_800, 2_592_000, 31_536_000]):
        angle = np.arange(1, 52) * (2.0 * np.pi * (now_s % period_s) / period_s)
        pair = np.stack([np.sin(angle), np.cos(angle)], axis=1)
        periodic[102 * at : 102 * (at + 1)] = pair.ravel() / np.sqrt(255.0)
    angle = now_s / 1e10 ** (2.0 * np.arange(256) / 512)
    position = np.stack([np.sin(angle), np.cos(angle)], axis=1).ravel() / 16.0
    return [it.astype(np.float32) for it in (recent, periodic, position)]


class Characters:
    """E9: each character's bits tied to its place, and their majority."""

    BITS, PLACES = 10_240, 512
    GOLDEN = 0x9E3779B97F4A7C15

    def __init__(self):
        self.places = np.stack([self.vector(1, at) for at in range(self.PLACES)])
        self.tie = self.vector(2, 0)
        self.known = {}

    @staticmethod
    def mix(z):
        with np.errstate(over="ignore"):
            z = z ^ z >> np.uint64(30)
            z = z * np.uint64(0xBF58476D1CE4E5B9)
            z = z ^ z >> np.uint64(27)
            z = z * np.uint64(0x94D049BB133111EB)
            return z ^ z >> np.uint64(31)

    def vector(self, kind, number):
        """Bits of a random vector, as 0 and 1."""
        key = np.uint64((SEED + self.GOLDEN * (4 * number + kind + 1)) & seeded.M64)
        steps = np.arange(1, self.BITS // 64 + 1, dtype=np.uint64)
        with np.errstate(over="ignore"):
            words = self.mix(self.mix(key) + np.uint64(self.GOLDEN) * steps)
        return np.unpackbits(words.view(np.uint8), bitorder="little")

    def embed(self, text):
        votes = np.empty((min(len(text), 4096), self.BITS), np.uint8)
        for at, character in enumerate(text[:4096]):
            if character not in self.known:
                self.known[character] = self.vector(0, ord(character))
            np.bitwise_xor(self.known[character], self.places[at % self.PLACES], out=votes[at])
        ones, count = votes.sum(0, dtype=np.int64), len(votes)
        if count % 2 == 0:
            ones, count = ones + self.tie, count + 1
        bits = (ones > count // 2).reshape(-1, 10).sum(1)
        vector = (bits / 5.0 - 1.0).astype(np.float32)
        return vector / np.linalg.norm(vector)


class Lexical:
    """E6: terms of a text by how often they occur, through Gaussian rows."""

    def __init__(self):
        self.rows = {}

    def row(self, term):
        if term not in self.rows:
            row = seeded.normals(SEED, term, SPARSE_LEN) / np.sqrt(SPARSE_LEN)
            self.rows[term] = row.astype(np.float32)
        return self.rows[term]

    def embed(self, ids):
        terms, counts = np.unique(ids, return_counts=True)
        shares = np.log1p(counts).astype(np.float32)
        vector = shares.astype(np.float64) @ np.stack([self.row(int(it)) for it in terms])
        return (vector / np.linalg.norm(vector)).astype(np.float32)


def fusion(torch):
    """The mixture of experts of a batch `[n, 8320]`."""
    from torch.nn.functional import gelu, layer_norm, linear

    input_len = 8320
    tensor = lambda stream, shape: torch.from_numpy(seeded.weights(SEED, stream, shape))
    gate = tensor(2, (EXPERTS, input_len))
    into = [tensor(4 * (it + 1), (HIDDEN_LEN, input_len)) for it in range(EXPERTS)]
    out = [tensor(4 * (it + 1) + 2, (OUTPUT_LEN, HIDDEN_LEN)) for it in range(EXPERTS)]

    def mix(x):
        shares = linear(layer_norm(x, (input_len,), eps=1e-5), gate).softmax(-1)
        shares = (shares + SMOOTHING) / (1.0 + EXPERTS * SMOOTHING)
        best, chosen = shares.topk(TOP_K, dim=-1)
        best = best / best.sum(-1, keepdim=True)
        fused = torch.zeros(len(x), OUTPUT_LEN)
        for expert in range(EXPERTS):
            rows, place = (chosen == expert).nonzero(as_tuple=True)
            if len(rows):
                hidden = gelu(linear(x[rows], into[expert]), approximate="tanh")
                fused[rows] += best[rows, place, None] * linear(hidden, out[expert])
        return fused

    return mix


def pipeline(directory, thread_count, compiled):
    import tokenizers
    import torch
    import transformers
    from torch.nn.functional import normalize

    torch.set_num_threads(thread_count)
    trunk = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    hidden = trunk.config.hidden_size
    run = torch.compile(trunk, dynamic=True) if compiled else trunk
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    tokenizer.no_padding()
    maps = {
        slot: torch.from_numpy(np.ascontiguousarray(seeded.orthonormal(SEED + slot, hidden, length)))
        for slot, length in MAPPED.items()
    }
    rows_map = np.ascontiguousarray(seeded.orthonormal(SEED + 11, hidden, TOKEN_LEN))
    rows_map = torch.from_numpy(rows_map)
    characters, lexical, mix = Characters(), Lexical(), fusion(torch)

    @torch.inference_mode()
    def fused(texts):
        encoded = [it.ids for it in tokenizer.encode_batch(texts)]
        longest = max(map(len, encoded))
        ids = torch.zeros(len(texts), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for at, own in enumerate(encoded):
            ids[at, : len(own)] = torch.tensor(own)
            mask[at, : len(own)] = 1
        states = run(
            input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids)
        ).last_hidden_state
        keep = mask.unsqueeze(-1).to(states.dtype)
        mean = (states * keep).sum(1) / keep.sum(1)
        slots = {slot: normalize(mean @ it.T, dim=-1) for slot, it in maps.items()}
        rows = normalize(states @ rows_map.T, dim=-1) * keep
        slots[11] = normalize(rows.sum(1), dim=-1)
        of_time = temporal(NOW_S)
        for slot, vector in zip((1, 2, 3), of_time):
            slots[slot] = torch.from_numpy(vector).expand(len(texts), -1)
        # The first and the last id are the tokenizer's own.
        slots[5] = torch.from_numpy(np.stack([lexical.embed(it[1:-1]) for it in encoded]))
        slots[8] = torch.from_numpy(np.stack([characters.embed(it) for it in texts]))
        return mix(torch.cat([slots[it] for it in range(12)], dim=1)).numpy()

    count = lambda texts: sum(len(it.ids) for it in tokenizer.encode_batch(texts))
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }
    return fused, count, versions


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=["torch", "torch-compile"])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    texts = texts_of(options.size)
    versions = {"threads": str(options.threads)}

    def open_case():
        compiled = options.peer == "torch-compile"
        fused, count, more = pipeline(options.checkpoint, options.threads, compiled)
        versions.update(more)
        return lambda: (fused(texts), len(texts)), count(texts), None, None

    measure(open_case, options.samples, versions)


if __name__ == "__main__":
    main()
