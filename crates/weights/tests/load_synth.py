"""Loads synthetic checkpoints in transformers and computes one text with each.

    cargo run -p calor-weights --example write_synth -- <dir> tiny
    python crates/weights/tests/load_synth.py <dir>

Fails when a tensor of the model is not in its file, or when states leave order one.
"""

import pathlib
import sys

import torch
import transformers

TEXT = "The kiln must be hot before the clay goes in, so we warm it up slowly overnight."
MODELS = {
    "e5-large-v2": transformers.AutoModel,
    "longformer-base-4096": transformers.LongformerModel,
    "splade-cocondenser-ensembledistil": transformers.AutoModelForMaskedLM,
    "codet5p-110m-embedding": transformers.T5EncoderModel,
    "paraphrase-MiniLM-L6-v2": transformers.AutoModel,
    "clip-vit-large-patch14": transformers.CLIPModel,
    "all-MiniLM-L6-v2": transformers.AutoModel,
    "colbertv2.0": transformers.BertModel,
}


def main(root):
    for name, model_class in MODELS.items():
        folder = root / name
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        config = None
        if name.startswith("codet5p"):  # Its own class is not part of the library.
            config = transformers.T5Config.from_json_file(folder / "config.json")
        model, info = model_class.from_pretrained(folder, config=config, output_loading_info=True)
        missing = [it for it in info["missing_keys"] if "pooler" not in it]
        assert not missing, (name, missing)
        assert not info["mismatched_keys"], (name, info["mismatched_keys"])
        batch = tokenizer(TEXT, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            if name.startswith("clip"):
                size = model.config.vision_config.image_size
                out = model(pixel_values=torch.randn(1, 3, size, size), **batch)
                states = out.text_model_output.last_hidden_state
                vision = out.vision_model_output.last_hidden_state
                assert vision.isfinite().all()
                note = f"vision deviation {vision.std():.2f}"
            elif name.startswith("splade"):
                logits = model(**batch).logits
                states = model.bert(**batch).last_hidden_state
                note = f"{(logits.amax(1) > 0).sum().item()} terms above zero"
            else:
                states = model(**batch).last_hidden_state
                note = ""
        deviation = states.std().item()
        assert states.isfinite().all() and 0.2 < deviation < 5, (name, deviation)
        tokens = batch["input_ids"].shape[1]
        print(f"{name}: {tokens} tokens, deviation {deviation:.2f} {note}")


main(pathlib.Path(sys.argv[1]))
