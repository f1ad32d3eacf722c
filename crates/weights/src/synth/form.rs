//! Configuration and tokenizer of each synthetic model: all of a directory but its tensors.

use serde_json::{Value, json};

use super::{LARGE, SynthModel, SynthProfile, TINY, tokenizer};
use crate::Head;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Bert { prefix: &'static str, architecture: &'static str },
    Longformer,
    CodeT5,
    Clip,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) ffn: usize,
}

impl SynthModel {
    /// The directory's files at this size.
    pub(super) fn form(&self, profile: SynthProfile) -> Form {
        let full = profile == SynthProfile::Full;
        let size = if full { self.size } else { TINY };
        let pick = |full_value: usize, tiny: usize| if full { full_value } else { tiny };
        match self.layout {
            Layout::Bert { architecture, .. } => self.bert_form(architecture, size, &pick),
            Layout::Longformer => longformer_form(size, &pick),
            Layout::CodeT5 => code_t5_form(size, &pick),
            Layout::Clip => clip_form(size, &pick),
        }
    }

    fn bert_form(
        &self,
        architecture: &str,
        size: Size,
        pick: &dyn Fn(usize, usize) -> usize,
    ) -> Form {
        let vocab_count = pick(30_522, 1000);
        let Size { layers, hidden, heads, ffn } = size;
        let config = json!({
            "model_type": "bert", "architectures": [architecture], "vocab_size": vocab_count,
            "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
            "intermediate_size": ffn, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
            "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0,
            "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
            "initializer_range": 0.02, "position_embedding_type": "absolute",
        });
        let tokenizer_config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512,
            "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
            "pad_token": "[PAD]", "mask_token": "[MASK]",
        });
        let head = match self.head {
            Head::TokenProjection { out_len } => {
                Head::TokenProjection { out_len: pick(out_len, 16) }
            }
            other => other,
        };
        Form { config, tokenizer: tokenizer::wordpiece(vocab_count), tokenizer_config, head }
    }
}

/// Everything about a directory but its tensors' values.
pub(super) struct Form {
    pub(super) config: Value,
    pub(super) tokenizer: Value,
    pub(super) tokenizer_config: Value,
    pub(super) head: Head,
}

fn longformer_form(size: Size, pick: &dyn Fn(usize, usize) -> usize) -> Form {
    let vocab_count = pick(50_265, 1000);
    let token_count = pick(4096, 512);
    let Size { layers, hidden, heads, ffn } = size;
    let config = json!({
        "model_type": "longformer", "architectures": ["LongformerModel"],
        "vocab_size": vocab_count, "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": ffn, "hidden_act": "gelu",
        "layer_norm_eps": 1e-5, "max_position_embeddings": token_count + 2,
        "type_vocab_size": 1, "attention_window": vec![pick(512, 32); layers],
        "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "sep_token_id": 2,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
    });
    let specials = tokenizer::ByteLevel {
        first: &["<s>", "<pad>", "</s>", "<unk>"],
        extra_count: 0,
        last: &["<mask>"],
    };
    Form {
        config,
        tokenizer: tokenizer::byte_level(&specials, vocab_count),
        tokenizer_config: byte_level_config(token_count),
        head: Head::None,
    }
}

fn code_t5_form(size: Size, pick: &dyn Fn(usize, usize) -> usize) -> Form {
    let token_count = pick(32_100, 1000);
    let out_len = pick(256, 16);
    let Size { layers, hidden, heads, ffn } = size;
    let config = json!({
        "model_type": "codet5p_embedding", "architectures": ["CodeT5pEmbeddingModel"],
        // Three rows more than the tokenizer has, as published.
        "vocab_size": token_count + 3, "d_model": hidden, "d_kv": hidden / heads,
        "d_ff": ffn, "num_layers": layers, "num_decoder_layers": layers, "num_heads": heads,
        "feed_forward_proj": "relu", "dense_act_fn": "relu", "is_gated_act": false,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6, "dropout_rate": 0.1, "embed_dim": out_len,
        "n_positions": 512, "is_encoder_decoder": false, "use_cache": false,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0,
        "tie_word_embeddings": true,
    });
    let specials = tokenizer::ByteLevel {
        first: &["<pad>", "<s>", "</s>", "<unk>", "<mask>"],
        extra_count: 100,
        last: &[],
    };
    Form {
        config,
        tokenizer: tokenizer::byte_level(&specials, token_count),
        tokenizer_config: byte_level_config(512),
        head: Head::FirstTokenProjection { out_len },
    }
}

fn clip_form(size: Size, pick: &dyn Fn(usize, usize) -> usize) -> Form {
    let vocab_count = pick(49_408, 1000);
    let out_len = pick(768, 24);
    let vision_size = if vocab_count == 49_408 { LARGE } else { TINY };
    let tower = |size: Size| {
        let Size { layers, hidden, heads, ffn } = size;
        json!({
            "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
            "intermediate_size": ffn, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
            "projection_dim": out_len, "attention_dropout": 0.0, "initializer_range": 0.02,
            "initializer_factor": 1.0,
        })
    };
    let mut text = tower(size);
    text["model_type"] = json!("clip_text_model");
    text["vocab_size"] = json!(vocab_count);
    text["max_position_embeddings"] = json!(77);
    // The published values, which are older than the tokenizer's ids.
    text["bos_token_id"] = json!(0);
    text["pad_token_id"] = json!(1);
    text["eos_token_id"] = json!(2);
    let mut vision = tower(vision_size);
    vision["model_type"] = json!("clip_vision_model");
    vision["num_channels"] = json!(3);
    vision["image_size"] = json!(pick(224, 28));
    vision["patch_size"] = json!(14);
    let config = json!({
        "model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": out_len,
        "logit_scale_init_value": 2.6592, "initializer_factor": 1.0,
        "text_config": text, "vision_config": vision,
    });
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 77,
        "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
    });
    let head = Head::SharedProjection { out_len };
    Form { config, tokenizer: tokenizer::clip(vocab_count), tokenizer_config, head }
}

fn byte_level_config(token_count: usize) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": token_count,
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "cls_token": "<s>",
        "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>",
    })
}
