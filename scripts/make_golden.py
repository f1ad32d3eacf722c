"""Makes the small reference models of golden/ for families that have none yet.

Each is a random model of a few layers with a borrowed tokenizer, and what the reference
implementation computes with it: float32, on the CPU, one text at a time, without padding.

    python scripts/make_golden.py [family ...]

Needs torch, transformers and safetensors. Written for transformers 5; results carry versions.
"""

import json
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer

SEED = 1234
GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
SIZES = dict(hidden_size=64, num_attention_heads=4, intermediate_size=160)


def families():
    """Family -> (tokenizer donor, configuration, model class)."""
    t = transformers
    wordpiece = dict(vocab_size=900, pad_token_id=0)
    bpe = dict(vocab_size=800, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    roberta = dict(SIZES, **bpe, num_hidden_layers=2, max_position_embeddings=514,
                   type_vocab_size=1, layer_norm_eps=1e-5)
    return {
        "roberta": ("longformer", t.RobertaConfig(**roberta), t.RobertaModel),
        "xlm-roberta": (
            "longformer",
            t.XLMRobertaConfig(**dict(roberta, num_hidden_layers=3)),
            t.XLMRobertaModel,
        ),
        "distilbert": (
            "bert",
            t.DistilBertConfig(**wordpiece, dim=64, n_heads=4, n_layers=3, hidden_dim=160,
                               max_position_embeddings=128),
            t.DistilBertModel,
        ),
        "mpnet": (
            "longformer",
            t.MPNetConfig(**SIZES, **bpe, num_hidden_layers=2, max_position_embeddings=514,
                          layer_norm_eps=1e-5),
            t.MPNetModel,
        ),
        "modernbert": (
            "bert",
            t.ModernBertConfig(**SIZES, **wordpiece, num_hidden_layers=3, local_attention=8,
                               max_position_embeddings=128, bos_token_id=4, eos_token_id=5,
                               cls_token_id=4, sep_token_id=5, global_attn_every_n_layers=2),
            t.ModernBertModel,
        ),
        "t5-gated": (
            "longformer",
            t.T5Config(vocab_size=800, pad_token_id=1, eos_token_id=2, d_model=64, d_kv=16,
                       d_ff=128, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
                       is_encoder_decoder=False, tie_word_embeddings=True, use_cache=False),
            t.T5EncoderModel,
        ),
        "qwen2": (
            "longformer",
            t.Qwen2Config(**SIZES, **bpe, num_hidden_layers=2, num_key_value_heads=2,
                          max_position_embeddings=512, use_sliding_window=False),
            t.Qwen2Model,
        ),
    }


def randomise(model):
    """Values at which every part of the model matters: no zero bias, no identity norm."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            noise = torch.randn(value.shape, generator=generator)
            if "relative" in name:
                value.copy_(noise)
            elif value.dim() == 1:
                is_scale = name.endswith("weight")
                value.copy_(1.0 + 0.2 * noise if is_scale else 0.1 * noise)
            elif "embed" in name or "shared" in name:
                value.copy_(0.5 * noise)
            else:
                value.copy_(1.5 * noise / value.shape[1] ** 0.5)


def make(family, donor, config, model_class):
    texts = json.loads((GOLDEN / "bert" / "case.json").read_text())["texts"]
    tokenizer = Tokenizer.from_file(str(GOLDEN / donor / "tokenizer.json"))
    config._attn_implementation = "eager"
    torch.manual_seed(SEED)
    model = model_class(config).eval()
    randomise(model)
    if family == "t5-gated":  # T5 takes no scale on scores; keep the softmax away from one-hot.
        with torch.no_grad():
            for block in model.encoder.block:
                block.layer[0].SelfAttention.q.weight.mul_(0.25)

    rows = {name: [] for name in ("cls_norm", "last_norm", "mean", "mean_norm")}
    input_ids = [tokenizer.encode(text).ids for text in texts]
    for ids in input_ids:
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        mean = states.mean(0)
        for name, row in (("cls_norm", states[0]), ("last_norm", states[-1]), ("mean_norm", mean)):
            rows[name].append(torch.nn.functional.normalize(row, dim=0))
        rows["mean"].append(mean)
    expected = {name: torch.stack(row).contiguous() for name, row in rows.items()}
    expected["tokens_last_text"] = states.contiguous()

    folder = GOLDEN / family
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, safe_serialization=True)
    for extra in folder.glob("generation_config.json"):
        extra.unlink()
    shutil.copyfile(GOLDEN / donor / "tokenizer.json", folder / "tokenizer.json")
    save_file(expected, folder / "expected.safetensors")
    case = dict(texts=texts, input_ids=input_ids, transformers=transformers.__version__,
                torch=torch.__version__, seed=SEED)
    (folder / "case.json").write_text(json.dumps(case, ensure_ascii=False))
    size = sum(it.stat().st_size for it in folder.iterdir())
    longest = max(map(len, input_ids))
    print(f"{family}: {size} bytes, longest text {longest} tokens, |last| {states.std():.3f}")


def main():
    wanted = sys.argv[1:]
    for family, (donor, config, model_class) in families().items():
        if not wanted or family in wanted:
            make(family, donor, config, model_class)


main()
