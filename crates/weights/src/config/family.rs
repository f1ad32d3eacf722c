//! How each family writes its config.json, and what its fields mean for the encoder.
//!
//! One function per family, from fields to [`EncoderConfig`]; reading and checking single
//! fields is in `fields.rs`.

use serde_json::Value;

use super::{
    Activation, EncoderConfig, FFN_LEN_MAX, Family, HEAD_COUNT_MAX, HIDDEN_LEN_MAX,
    LAYER_COUNT_MAX, ModelConfig, Norm, POSITION_COUNT_MAX, Position, RelativeBias, SpecialIds,
    VOCAB_COUNT_MAX, VisionConfig, fields::Fields,
};
use crate::{FieldProblem, WeightsError};

/// A post-norm encoder with biases, one set of full-attention layers and nothing else.
fn plain(fields: &Fields<'_>, family: Family, sizes: Sizes) -> Result<EncoderConfig, WeightsError> {
    let Sizes { vocab_count, layer_count, hidden_len, head_count, ffn_len } = sizes;
    let special = SpecialIds {
        pad: fields.id("pad_token_id", vocab_count)?,
        bos: fields.id("bos_token_id", vocab_count)?,
        eos: fields.id("eos_token_id", vocab_count)?,
        cls: fields.id("cls_token_id", vocab_count)?,
        sep: fields.id("sep_token_id", vocab_count)?,
    };
    Ok(EncoderConfig {
        family,
        vocab_count,
        layer_count,
        hidden_len,
        head_count,
        kv_head_count: head_count,
        head_len: hidden_len / head_count,
        ffn_len,
        activation: Activation::Gelu,
        gated: false,
        norm: Norm::Layer,
        norm_eps: 1e-12,
        pre_norm: false,
        first_norm: true,
        final_norm: false,
        embed_norm: true,
        causal: false,
        attention_scale: None,
        type_vocab_count: 0,
        position: Position::None,
        relative_bias: None,
        windows: vec![None; layer_count],
        global_first: false,
        qkv_bias: true,
        attn_out_bias: true,
        ffn_bias: true,
        norm_bias: true,
        special,
        max_tokens: None,
    })
}

pub(super) fn bert_like(
    fields: &Fields<'_>,
    family: Family,
) -> Result<EncoderConfig, WeightsError> {
    fields.expect_only("position_embedding_type", &["absolute"])?;
    fields.expect_false("is_decoder")?;
    let mut it = plain(fields, family, Sizes::read(fields, &SIZES_BERT)?)?;
    it.activation = fields.activation("hidden_act", "gelu")?;
    it.norm_eps = fields.eps("layer_norm_eps", 1e-12)?;
    if family != Family::Mpnet {
        it.type_vocab_count = fields.count("type_vocab_size", 0, 65_536, Some(2))?;
    }
    let offset = match family {
        Family::Roberta | Family::XlmRoberta | Family::Longformer => {
            it.special.pad.unwrap_or(1) as usize + 1
        }
        Family::Mpnet => 2, // Fixed in the reference, whatever the padding id.
        _ => 0,
    };
    learned(fields, &mut it, offset, 512)?;
    if family == Family::Mpnet {
        let bucket_count = fields.buckets("relative_attention_num_buckets")?;
        it.relative_bias =
            Some(RelativeBias { bucket_count, max_distance: 128, bidirectional: true });
    }
    if family == Family::Longformer {
        it.windows = longformer_windows(fields, it.layer_count)?;
        it.global_first = true;
    }
    Ok(it)
}

/// Sets learned positions and the limit that they imply.
fn learned(
    fields: &Fields<'_>,
    it: &mut EncoderConfig,
    offset: usize,
    default: usize,
) -> Result<(), WeightsError> {
    let name = "max_position_embeddings";
    let count = fields.count(name, offset + 1, POSITION_COUNT_MAX, Some(default))?;
    it.position = Position::Learned { count, offset };
    it.max_tokens = Some(count - offset);
    Ok(())
}

fn longformer_windows(
    fields: &Fields<'_>,
    layer_count: usize,
) -> Result<Vec<Option<usize>>, WeightsError> {
    const NAME: &str = "attention_window";
    let list = match fields.get(NAME) {
        None => vec![512; layer_count],
        Some(Value::Array(list)) => {
            let found_count = list.len();
            if found_count != layer_count {
                let want_count = layer_count;
                return Err(fields.err(NAME, FieldProblem::Count { want_count, found_count }));
            }
            list.iter()
                .map(|it| fields.check_count(NAME, it, 2, POSITION_COUNT_MAX))
                .collect::<Result<_, _>>()?
        }
        Some(one) => vec![fields.check_count(NAME, one, 2, POSITION_COUNT_MAX)?; layer_count],
    };
    list.into_iter().map(|window| fields.reach(NAME, window).map(Some)).collect()
}

pub(super) fn distilbert(fields: &Fields<'_>) -> Result<EncoderConfig, WeightsError> {
    let mut it = plain(fields, Family::DistilBert, Sizes::read(fields, &SIZES_DISTILBERT)?)?;
    it.activation = fields.activation("activation", "gelu")?;
    learned(fields, &mut it, 0, 512)?;
    Ok(it)
}

pub(super) fn t5(fields: &Fields<'_>) -> Result<EncoderConfig, WeightsError> {
    let mut it = plain(fields, Family::T5, Sizes::read(fields, &SIZES_T5)?)?;
    it.head_len = fields.count("d_kv", 1, 4096, Some(64))?;
    let proj = fields.text("feed_forward_proj", Some("relu"))?;
    let (gated, name) = match proj.strip_prefix("gated-") {
        Some("gelu") => (true, "gelu_new"), // What the reference makes of exactly this value.
        Some(name) => (true, name),
        None => (false, proj.as_str()),
    };
    it.gated = gated;
    it.activation = fields.activation_named("feed_forward_proj", name)?;
    it.norm = Norm::Rms;
    it.norm_eps = fields.eps("layer_norm_epsilon", 1e-6)?;
    it.pre_norm = true;
    it.final_norm = true;
    it.embed_norm = false;
    it.attention_scale = Some(1.0);
    it.relative_bias = Some(RelativeBias {
        bucket_count: fields.buckets("relative_attention_num_buckets")?,
        max_distance: fields.count(
            "relative_attention_max_distance",
            2,
            POSITION_COUNT_MAX,
            Some(128),
        )?,
        bidirectional: true,
    });
    it.qkv_bias = false;
    it.attn_out_bias = false;
    it.ffn_bias = false;
    it.norm_bias = false;
    if fields.has("n_positions") {
        it.max_tokens = Some(fields.count("n_positions", 1, POSITION_COUNT_MAX, None)?);
    }
    Ok(it)
}

pub(super) fn modernbert(fields: &Fields<'_>) -> Result<EncoderConfig, WeightsError> {
    let mut it = plain(fields, Family::ModernBert, Sizes::read(fields, &SIZES_BERT)?)?;
    it.activation = fields.activation("hidden_activation", "gelu")?;
    it.gated = true;
    it.norm_eps = fields.eps("norm_eps", 1e-5)?;
    it.pre_norm = true;
    it.first_norm = false;
    it.final_norm = true;
    it.norm_bias = fields.flag("norm_bias", false)?;
    it.qkv_bias = fields.flag("attention_bias", false)?;
    it.attn_out_bias = it.qkv_bias;
    it.ffn_bias = fields.flag("mlp_bias", false)?;
    it.max_tokens =
        Some(fields.count("max_position_embeddings", 1, POSITION_COUNT_MAX, Some(8192))?);

    let local = fields.count("local_attention", 2, POSITION_COUNT_MAX, Some(128))?;
    let reach = fields.reach("local_attention", local)?;
    let every = fields.count("global_attn_every_n_layers", 1, LAYER_COUNT_MAX, Some(3))?;
    let is_local = match fields.layer_types(it.layer_count)? {
        Some(list) => list,
        None => (0..it.layer_count).map(|layer| !layer.is_multiple_of(every)).collect(),
    };
    it.windows = is_local.iter().map(|local| local.then_some(reach)).collect();

    let global = fields.theta("full_attention", "global_rope_theta", 160_000.0)?;
    let local = fields.theta("sliding_attention", "local_rope_theta", 10_000.0)?;
    rope(fields, &mut it, is_local.iter().map(|is| if *is { local } else { global }).collect())?;
    Ok(it)
}

pub(super) fn qwen2(fields: &Fields<'_>) -> Result<EncoderConfig, WeightsError> {
    let mut it = plain(fields, Family::Qwen2, Sizes::read(fields, &SIZES_BERT)?)?;
    it.activation = fields.activation("hidden_act", "silu")?;
    it.gated = true;
    it.norm = Norm::Rms;
    it.norm_eps = fields.eps("rms_norm_eps", 1e-6)?;
    it.pre_norm = true;
    it.final_norm = true;
    it.embed_norm = false;
    it.causal = fields.flag("is_causal", true)?;
    it.attn_out_bias = false;
    it.ffn_bias = false;
    it.norm_bias = false;
    it.head_len = fields.count("head_dim", 1, 4096, Some(it.head_len))?;
    it.kv_head_count = fields.divisor("num_key_value_heads", it.head_count, Some(it.head_count))?;
    it.max_tokens =
        Some(fields.count("max_position_embeddings", 1, POSITION_COUNT_MAX, Some(32_768))?);
    if fields.flag("use_sliding_window", false)? && fields.has("sliding_window") {
        let window = fields.count("sliding_window", 1, POSITION_COUNT_MAX, None)?;
        let from = fields.count("max_window_layers", 0, LAYER_COUNT_MAX, Some(28))?;
        let is_local = match fields.layer_types(it.layer_count)? {
            Some(list) => list,
            None => (0..it.layer_count).map(|layer| from <= layer).collect(),
        };
        // The reference counts the row itself.
        it.windows = is_local.iter().map(|local| local.then_some(window - 1)).collect();
    }
    let theta = fields.theta("", "rope_theta", 10_000.0)?;
    let thetas = vec![theta; it.layer_count];
    rope(fields, &mut it, thetas)?;
    Ok(it)
}

fn rope(fields: &Fields<'_>, it: &mut EncoderConfig, thetas: Vec<f64>) -> Result<(), WeightsError> {
    if !it.head_len.is_multiple_of(2) {
        return Err(fields.err("head_dim", FieldProblem::Odd { found: it.head_len }));
    }
    it.position = Position::Rope { thetas };
    Ok(())
}

pub(super) fn clip(fields: &Fields<'_>, model_type: &str) -> Result<ModelConfig, WeightsError> {
    let both = model_type == "clip";
    let (mut text, mut vision, mut projection_len) = (None, None, None);
    if both || model_type == "clip_text_model" {
        let part = if both { fields.nested("text_config")? } else { fields.clone() };
        text = Some(clip_text(&part)?);
    }
    if both || model_type == "clip_vision_model" {
        let part = if both { fields.nested("vision_config")? } else { fields.clone() };
        vision = Some(clip_vision(&part)?);
    }
    if both || fields.has("projection_dim") {
        projection_len = Some(fields.count("projection_dim", 1, HIDDEN_LEN_MAX, Some(512))?);
    }
    Ok(ModelConfig { family: Family::Clip, text, vision, projection_len })
}

fn clip_layers(fields: &Fields<'_>, sizes: &SizeNames) -> Result<EncoderConfig, WeightsError> {
    let mut it = plain(fields, Family::Clip, Sizes::read(fields, sizes)?)?;
    it.activation = fields.activation("hidden_act", "quick_gelu")?;
    it.norm_eps = fields.eps("layer_norm_eps", 1e-5)?;
    it.pre_norm = true;
    it.final_norm = true;
    it.embed_norm = false;
    Ok(it)
}

fn clip_text(fields: &Fields<'_>) -> Result<EncoderConfig, WeightsError> {
    let mut it = clip_layers(fields, &SIZES_CLIP_TEXT)?;
    it.causal = true;
    learned(fields, &mut it, 0, 77)?;
    Ok(it)
}

fn clip_vision(fields: &Fields<'_>) -> Result<VisionConfig, WeightsError> {
    let channel_count = fields.count("num_channels", 1, 64, Some(3))?;
    let image_len = fields.count("image_size", 1, 16_384, Some(224))?;
    let patch_len = fields.divisor("patch_size", image_len, Some(32))?;
    let mut encoder = clip_layers(fields, &SIZES_CLIP_VISION)?;
    let count = 1 + (image_len / patch_len).pow(2);
    encoder.position = Position::Learned { count, offset: 0 };
    encoder.max_tokens = Some(count);
    encoder.special = SpecialIds::default();
    Ok(VisionConfig { encoder, channel_count, image_len, patch_len })
}

/// Sizes that every family has, under different names.
struct Sizes {
    vocab_count: usize,
    layer_count: usize,
    hidden_len: usize,
    head_count: usize,
    ffn_len: usize,
}

/// A field's name and the value that stands in for it when it is absent.
type Named = (&'static str, Option<usize>);

struct SizeNames {
    vocab: Option<Named>,
    layers: Named,
    hidden: Named,
    heads: Named,
    ffn: Named,
    heads_divide: bool,
}

// tidy: table
const SIZES_BERT: SizeNames = SizeNames {
    vocab: Some(("vocab_size", None)),
    layers: ("num_hidden_layers", None),
    hidden: ("hidden_size", None),
    heads: ("num_attention_heads", None),
    ffn: ("intermediate_size", None),
    heads_divide: true,
};
const SIZES_DISTILBERT: SizeNames = SizeNames {
    vocab: Some(("vocab_size", None)),
    layers: ("n_layers", None),
    hidden: ("dim", None),
    heads: ("n_heads", None),
    ffn: ("hidden_dim", None),
    heads_divide: true,
};
const SIZES_T5: SizeNames = SizeNames {
    vocab: Some(("vocab_size", None)),
    layers: ("num_layers", None),
    hidden: ("d_model", None),
    heads: ("num_heads", None),
    ffn: ("d_ff", None),
    heads_divide: false,
};
const SIZES_CLIP_TEXT: SizeNames = SizeNames {
    vocab: Some(("vocab_size", Some(49_408))),
    layers: ("num_hidden_layers", Some(12)),
    hidden: ("hidden_size", Some(512)),
    heads: ("num_attention_heads", Some(8)),
    ffn: ("intermediate_size", Some(2048)),
    heads_divide: true,
};
const SIZES_CLIP_VISION: SizeNames = SizeNames {
    vocab: None,
    layers: ("num_hidden_layers", Some(12)),
    hidden: ("hidden_size", Some(768)),
    heads: ("num_attention_heads", Some(12)),
    ffn: ("intermediate_size", Some(3072)),
    heads_divide: true,
};

impl Sizes {
    fn read(fields: &Fields<'_>, names: &SizeNames) -> Result<Self, WeightsError> {
        let SizeNames { vocab, layers, hidden, heads, ffn, heads_divide } = names;
        let vocab_count = match vocab {
            Some((name, default)) => fields.count(name, 1, VOCAB_COUNT_MAX, *default)?,
            None => 0,
        };
        let hidden_len = fields.count(hidden.0, 1, HIDDEN_LEN_MAX, hidden.1)?;
        let head_count = fields.count(heads.0, 1, HEAD_COUNT_MAX, heads.1)?;
        if *heads_divide && !hidden_len.is_multiple_of(head_count) {
            let problem = FieldProblem::NotDivisor { found: head_count, whole: hidden_len };
            return Err(fields.err(heads.0, problem));
        }
        Ok(Self {
            vocab_count,
            layer_count: fields.count(layers.0, 1, LAYER_COUNT_MAX, layers.1)?,
            hidden_len,
            head_count,
            ffn_len: fields.count(ffn.0, 1, FFN_LEN_MAX, ffn.1)?,
        })
    }
}
