//! The one place where a checkpoint's tensor names appear, and what we call the tensors.
//!
//! Canonical names say what a tensor is for; a family's table says where its files keep it.
//! A canonical tensor is a stored tensor or a range of its rows. No file is opened here.

use crate::{EncoderConfig, Family, Head, ModelConfig, Norm, Position};

/// What a tensor is for; decides its shape and whether it has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Token,
    Position,
    Type,
    Class,
    Patch,
    RelativeBias,
    Norm,
    Query,
    KeyValue,
    Out,
    FfnIn,
    FfnOut,
}

/// Canonical stem, stored stems in order of preference, role. `{l}` is the layer.
///
/// For roles with a bias the stems lack `.weight` and `.bias`. A stem `x#1/3` is the second
/// third of the rows of `x`.
type Row = (&'static str, &'static [&'static str], Role);

/// Prefixes under which one model's tensors may be kept.
pub(crate) static PREFIXES: &[&str] =
    &["", "bert.", "roberta.", "longformer.", "distilbert.", "mpnet.", "model.", "encoder."];

/// Endings of what lies beside a weight of four bits an element.
pub(crate) mod nf4 {
    pub(crate) const ABSMAX: &str = ".absmax";
    pub(crate) const QUANT_MAP: &str = ".quant_map";
    pub(crate) const NESTED_ABSMAX: &str = ".nested_absmax";
    pub(crate) const NESTED_MAP: &str = ".nested_quant_map";
    pub(crate) const STATE: &str = ".quant_state.bitsandbytes__nf4";
}

use Role::*;

// tidy: table
static BERT: &[Row] = &[
    ("embed.token", &["embeddings.word_embeddings.weight"], Token),
    ("embed.position", &["embeddings.position_embeddings.weight"], Position),
    ("embed.type", &["embeddings.token_type_embeddings.weight"], Type),
    ("embed.norm", &["embeddings.LayerNorm"], Norm),
    ("layer.{l}.attn.q", &["encoder.layer.{l}.attention.self.query"], Query),
    ("layer.{l}.attn.k", &["encoder.layer.{l}.attention.self.key"], KeyValue),
    ("layer.{l}.attn.v", &["encoder.layer.{l}.attention.self.value"], KeyValue),
    ("layer.{l}.attn.o", &["encoder.layer.{l}.attention.output.dense"], Out),
    ("layer.{l}.attn.norm", &["encoder.layer.{l}.attention.output.LayerNorm"], Norm),
    ("layer.{l}.ffn.up", &["encoder.layer.{l}.intermediate.dense"], FfnIn),
    ("layer.{l}.ffn.down", &["encoder.layer.{l}.output.dense"], FfnOut),
    ("layer.{l}.ffn.norm", &["encoder.layer.{l}.output.LayerNorm"], Norm),
];

// tidy: table
static LONGFORMER_GLOBAL: &[Row] = &[
    ("layer.{l}.attn.q_global", &["encoder.layer.{l}.attention.self.query_global"], Query),
    ("layer.{l}.attn.k_global", &["encoder.layer.{l}.attention.self.key_global"], KeyValue),
    ("layer.{l}.attn.v_global", &["encoder.layer.{l}.attention.self.value_global"], KeyValue),
];

// tidy: table
static DISTILBERT: &[Row] = &[
    ("embed.token", &["embeddings.word_embeddings.weight"], Token),
    ("embed.position", &["embeddings.position_embeddings.weight"], Position),
    ("embed.norm", &["embeddings.LayerNorm"], Norm),
    ("layer.{l}.attn.q", &["transformer.layer.{l}.attention.q_lin"], Query),
    ("layer.{l}.attn.k", &["transformer.layer.{l}.attention.k_lin"], KeyValue),
    ("layer.{l}.attn.v", &["transformer.layer.{l}.attention.v_lin"], KeyValue),
    ("layer.{l}.attn.o", &["transformer.layer.{l}.attention.out_lin"], Out),
    ("layer.{l}.attn.norm", &["transformer.layer.{l}.sa_layer_norm"], Norm),
    ("layer.{l}.ffn.up", &["transformer.layer.{l}.ffn.lin1"], FfnIn),
    ("layer.{l}.ffn.down", &["transformer.layer.{l}.ffn.lin2"], FfnOut),
    ("layer.{l}.ffn.norm", &["transformer.layer.{l}.output_layer_norm"], Norm),
];

// tidy: table
static MPNET: &[Row] = &[
    ("embed.token", &["embeddings.word_embeddings.weight"], Token),
    ("embed.position", &["embeddings.position_embeddings.weight"], Position),
    ("embed.norm", &["embeddings.LayerNorm"], Norm),
    ("attn.relative_bias", &["encoder.relative_attention_bias.weight"], RelativeBias),
    ("layer.{l}.attn.q", &["encoder.layer.{l}.attention.attn.q"], Query),
    ("layer.{l}.attn.k", &["encoder.layer.{l}.attention.attn.k"], KeyValue),
    ("layer.{l}.attn.v", &["encoder.layer.{l}.attention.attn.v"], KeyValue),
    ("layer.{l}.attn.o", &["encoder.layer.{l}.attention.attn.o"], Out),
    ("layer.{l}.attn.norm", &["encoder.layer.{l}.attention.LayerNorm"], Norm),
    ("layer.{l}.ffn.up", &["encoder.layer.{l}.intermediate.dense"], FfnIn),
    ("layer.{l}.ffn.down", &["encoder.layer.{l}.output.dense"], FfnOut),
    ("layer.{l}.ffn.norm", &["encoder.layer.{l}.output.LayerNorm"], Norm),
];

// tidy: table
static T5: &[Row] = &[
    ("embed.token", &["shared.weight", "encoder.embed_tokens.weight"], Token),
    (
        "attn.relative_bias",
        &["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"],
        RelativeBias,
    ),
    ("layer.{l}.attn.q", &["encoder.block.{l}.layer.0.SelfAttention.q"], Query),
    ("layer.{l}.attn.k", &["encoder.block.{l}.layer.0.SelfAttention.k"], KeyValue),
    ("layer.{l}.attn.v", &["encoder.block.{l}.layer.0.SelfAttention.v"], KeyValue),
    ("layer.{l}.attn.o", &["encoder.block.{l}.layer.0.SelfAttention.o"], Out),
    ("layer.{l}.attn.norm", &["encoder.block.{l}.layer.0.layer_norm"], Norm),
    ("layer.{l}.ffn.down", &["encoder.block.{l}.layer.1.DenseReluDense.wo"], FfnOut),
    ("layer.{l}.ffn.norm", &["encoder.block.{l}.layer.1.layer_norm"], Norm),
    ("final.norm", &["encoder.final_layer_norm"], Norm),
];

// tidy: table
static T5_PLAIN: &[Row] =
    &[("layer.{l}.ffn.up", &["encoder.block.{l}.layer.1.DenseReluDense.wi"], FfnIn)];

// tidy: table
static T5_GATED: &[Row] = &[
    ("layer.{l}.ffn.gate", &["encoder.block.{l}.layer.1.DenseReluDense.wi_0"], FfnIn),
    ("layer.{l}.ffn.up", &["encoder.block.{l}.layer.1.DenseReluDense.wi_1"], FfnIn),
];

// tidy: table
static CLIP_TEXT: &[Row] = &[
    ("embed.token", &["text_model.embeddings.token_embedding.weight"], Token),
    ("embed.position", &["text_model.embeddings.position_embedding.weight"], Position),
    ("layer.{l}.attn.q", &["text_model.encoder.layers.{l}.self_attn.q_proj"], Query),
    ("layer.{l}.attn.k", &["text_model.encoder.layers.{l}.self_attn.k_proj"], KeyValue),
    ("layer.{l}.attn.v", &["text_model.encoder.layers.{l}.self_attn.v_proj"], KeyValue),
    ("layer.{l}.attn.o", &["text_model.encoder.layers.{l}.self_attn.out_proj"], Out),
    ("layer.{l}.attn.norm", &["text_model.encoder.layers.{l}.layer_norm1"], Norm),
    ("layer.{l}.ffn.up", &["text_model.encoder.layers.{l}.mlp.fc1"], FfnIn),
    ("layer.{l}.ffn.down", &["text_model.encoder.layers.{l}.mlp.fc2"], FfnOut),
    ("layer.{l}.ffn.norm", &["text_model.encoder.layers.{l}.layer_norm2"], Norm),
    ("final.norm", &["text_model.final_layer_norm"], Norm),
];

// tidy: table
static CLIP_VISION: &[Row] = &[
    ("embed.class", &["vision_model.embeddings.class_embedding"], Class),
    ("embed.patch", &["vision_model.embeddings.patch_embedding.weight"], Patch),
    ("embed.position", &["vision_model.embeddings.position_embedding.weight"], Position),
    ("pre.norm", &["vision_model.pre_layrnorm"], Norm),
    ("layer.{l}.attn.q", &["vision_model.encoder.layers.{l}.self_attn.q_proj"], Query),
    ("layer.{l}.attn.k", &["vision_model.encoder.layers.{l}.self_attn.k_proj"], KeyValue),
    ("layer.{l}.attn.v", &["vision_model.encoder.layers.{l}.self_attn.v_proj"], KeyValue),
    ("layer.{l}.attn.o", &["vision_model.encoder.layers.{l}.self_attn.out_proj"], Out),
    ("layer.{l}.attn.norm", &["vision_model.encoder.layers.{l}.layer_norm1"], Norm),
    ("layer.{l}.ffn.up", &["vision_model.encoder.layers.{l}.mlp.fc1"], FfnIn),
    ("layer.{l}.ffn.down", &["vision_model.encoder.layers.{l}.mlp.fc2"], FfnOut),
    ("layer.{l}.ffn.norm", &["vision_model.encoder.layers.{l}.layer_norm2"], Norm),
    ("final.norm", &["vision_model.post_layernorm"], Norm),
];

// tidy: table
static MODERNBERT: &[Row] = &[
    ("embed.token", &["embeddings.tok_embeddings.weight"], Token),
    ("embed.norm", &["embeddings.norm"], Norm),
    ("layer.{l}.attn.norm", &["layers.{l}.attn_norm"], Norm),
    ("layer.{l}.attn.q", &["layers.{l}.attn.Wqkv#0/3"], Query),
    ("layer.{l}.attn.k", &["layers.{l}.attn.Wqkv#1/3"], KeyValue),
    ("layer.{l}.attn.v", &["layers.{l}.attn.Wqkv#2/3"], KeyValue),
    ("layer.{l}.attn.o", &["layers.{l}.attn.Wo"], Out),
    ("layer.{l}.ffn.norm", &["layers.{l}.mlp_norm"], Norm),
    ("layer.{l}.ffn.gate", &["layers.{l}.mlp.Wi#0/2"], FfnIn),
    ("layer.{l}.ffn.up", &["layers.{l}.mlp.Wi#1/2"], FfnIn),
    ("layer.{l}.ffn.down", &["layers.{l}.mlp.Wo"], FfnOut),
    ("final.norm", &["final_norm"], Norm),
];

// tidy: table
static QWEN2: &[Row] = &[
    ("embed.token", &["embed_tokens.weight"], Token),
    ("layer.{l}.attn.norm", &["layers.{l}.input_layernorm"], Norm),
    ("layer.{l}.attn.q", &["layers.{l}.self_attn.q_proj"], Query),
    ("layer.{l}.attn.k", &["layers.{l}.self_attn.k_proj"], KeyValue),
    ("layer.{l}.attn.v", &["layers.{l}.self_attn.v_proj"], KeyValue),
    ("layer.{l}.attn.o", &["layers.{l}.self_attn.o_proj"], Out),
    ("layer.{l}.ffn.norm", &["layers.{l}.post_attention_layernorm"], Norm),
    ("layer.{l}.ffn.gate", &["layers.{l}.mlp.gate_proj"], FfnIn),
    ("layer.{l}.ffn.up", &["layers.{l}.mlp.up_proj"], FfnIn),
    ("layer.{l}.ffn.down", &["layers.{l}.mlp.down_proj"], FfnOut),
    ("final.norm", &["norm"], Norm),
];

/// Masked-language heads: dense, norm, decoder weight, decoder bias.
pub(crate) struct MlmNames {
    pub(crate) dense: &'static str,
    pub(crate) norm: &'static str,
    pub(crate) decoder_weight: &'static str,
    pub(crate) decoder_bias: &'static [&'static str],
}

// tidy: table
const MLM_BERT: MlmNames = MlmNames {
    dense: "cls.predictions.transform.dense",
    norm: "cls.predictions.transform.LayerNorm",
    decoder_weight: "cls.predictions.decoder.weight",
    decoder_bias: &["cls.predictions.decoder.bias", "cls.predictions.bias"],
};
const MLM_ROBERTA: MlmNames = MlmNames {
    dense: "lm_head.dense",
    norm: "lm_head.layer_norm",
    decoder_weight: "lm_head.decoder.weight",
    decoder_bias: &["lm_head.decoder.bias", "lm_head.bias"],
};
const MLM_DISTILBERT: MlmNames = MlmNames {
    dense: "vocab_transform",
    norm: "vocab_layer_norm",
    decoder_weight: "vocab_projector.weight",
    decoder_bias: &["vocab_projector.bias"],
};
const MLM_MODERNBERT: MlmNames = MlmNames {
    dense: "head.dense",
    norm: "head.norm",
    decoder_weight: "decoder.weight",
    decoder_bias: &["decoder.bias"],
};

/// Tables of a tower, in order.
fn tables(config: &EncoderConfig, tower: &str) -> Vec<&'static [Row]> {
    match config.family {
        Family::Bert | Family::Roberta | Family::XlmRoberta => vec![BERT],
        Family::Longformer => vec![BERT, LONGFORMER_GLOBAL],
        Family::DistilBert => vec![DISTILBERT],
        Family::Mpnet => vec![MPNET],
        Family::T5 if config.gated => vec![T5, T5_GATED],
        Family::T5 => vec![T5, T5_PLAIN],
        Family::Clip if tower == "vision." => vec![CLIP_VISION],
        Family::Clip => vec![CLIP_TEXT],
        Family::ModernBert => vec![MODERNBERT],
        Family::Qwen2 => vec![QWEN2],
    }
}

pub(crate) fn mlm_names(family: Family) -> Option<&'static MlmNames> {
    match family {
        Family::Bert => Some(&MLM_BERT),
        Family::Roberta | Family::XlmRoberta | Family::Longformer | Family::Mpnet => {
            Some(&MLM_ROBERTA)
        }
        Family::DistilBert => Some(&MLM_DISTILBERT),
        Family::ModernBert => Some(&MLM_MODERNBERT),
        Family::T5 | Family::Clip | Family::Qwen2 => None,
    }
}

/// Stored stem of a projection after the tower.
pub(crate) fn project_name(family: Family, tower: &str) -> Option<&'static str> {
    match family {
        Family::Clip if tower == "vision." => Some("visual_projection"),
        Family::Clip => Some("text_projection"),
        Family::T5 => Some("proj"),
        Family::Bert
        | Family::Roberta
        | Family::XlmRoberta
        | Family::DistilBert
        | Family::Mpnet
        | Family::Longformer
        | Family::ModernBert
        | Family::Qwen2 => Some("linear"),
    }
}

/// One tensor that a tower needs: canonical name and shape, where it may be stored.
#[derive(Clone, Debug)]
pub(crate) struct Need {
    pub(crate) canonical: String,
    pub(crate) shape: Vec<usize>,
    /// Shape of the whole stored tensor.
    pub(crate) stored_shape: Vec<usize>,
    /// Stored names without prefix, in order of preference.
    pub(crate) stored: Vec<String>,
    /// First stored row.
    pub(crate) first_row: usize,
}

/// All tensors of one tower without its head.
pub(crate) fn tower_needs(config: &ModelConfig, tower: &str) -> Vec<Need> {
    let towers = config.towers();
    let Some((_, encoder)) = towers.iter().find(|it| it.0 == tower) else { return Vec::new() };
    let mut out = Vec::new();
    for row in tables(encoder, tower).into_iter().flatten() {
        let layers = if row.0.contains("{l}") { encoder.layer_count } else { 1 };
        for layer in 0..layers {
            let first_norm = row.0 == "layer.{l}.attn.norm" && layer == 0;
            let typeless = row.2 == Type && encoder.type_vocab_count == 0;
            if !typeless && (!first_norm || encoder.first_norm) {
                push_row(&mut out, config, encoder, tower, row, layer);
            }
        }
    }
    out
}

fn push_row(
    out: &mut Vec<Need>,
    config: &ModelConfig,
    encoder: &EncoderConfig,
    tower: &str,
    row: &Row,
    layer: usize,
) {
    let (canonical, stored, role) = row;
    let at = |text: &str| text.replace("{l}", &layer.to_string());
    let Shape { weight, stored: stored_shape, bias } = shape(config, encoder, *role);
    let bare = matches!(role, Token | Position | Type | Class | Patch | RelativeBias);
    let canonical = format!("{tower}{}", at(canonical));
    if bare {
        let stored = stored.iter().map(|it| at(it)).collect();
        out.push(Need { canonical, shape: weight, stored_shape, stored, first_row: 0 });
        return;
    }
    let (index, parts) = part_of(stored[0]);
    let stems: Vec<String> =
        stored.iter().map(|it| at(it.split('#').next().unwrap_or(it))).collect();
    let kinds: &[(&str, &str)] = match (bias, *role == Norm) {
        (false, false) => &[("weight", "weight")],
        (true, false) => &[("weight", "weight"), ("bias", "bias")],
        (false, true) => &[("weight", "gamma")],
        (true, true) => &[("weight", "gamma"), ("bias", "beta")],
    };
    for (kind, older) in kinds {
        let shape = if *kind == "weight" { weight.clone() } else { weight[..1].to_vec() };
        let mut stored_shape = shape.clone();
        stored_shape[0] *= parts;
        let mut names: Vec<String> = stems.iter().map(|it| format!("{it}.{kind}")).collect();
        if older != kind {
            names.extend(stems.iter().map(|it| format!("{it}.{older}")));
        }
        let first_row = index * shape[0];
        let canonical = format!("{canonical}.{kind}");
        out.push(Need { canonical, shape, stored_shape, stored: names, first_row });
    }
}

/// `x#1/3` is part 1 of 3; a plain stem is part 0 of 1.
fn part_of(stem: &str) -> (usize, usize) {
    let parse = |text: &str| text.parse().expect("a number in the table");
    match stem.split_once('#').and_then(|it| it.1.split_once('/')) {
        Some((index, parts)) => (parse(index), parse(parts)),
        None => (0, 1),
    }
}

/// Canonical shape, stored shape where it differs by more than fused rows, and a bias.
struct Shape {
    weight: Vec<usize>,
    stored: Vec<usize>,
    bias: bool,
}

fn shape(config: &ModelConfig, encoder: &EncoderConfig, role: Role) -> Shape {
    let hidden = encoder.hidden_len;
    let (inner, kv) =
        (encoder.head_count * encoder.head_len, encoder.kv_head_count * encoder.head_len);
    let (weight, bias) = match role {
        Token => (vec![encoder.vocab_count, hidden], false),
        Position => match encoder.position {
            Position::Learned { count, .. } => (vec![count, hidden], false),
            Position::Rope { .. } | Position::None => unreachable!("no table has this row"),
        },
        Type => (vec![encoder.type_vocab_count, hidden], false),
        Class => (vec![hidden], false),
        Patch => {
            let vision = config.vision.as_ref().expect("only vision tables have this row");
            let (c, p) = (vision.channel_count, vision.patch_len);
            let (weight, stored) = (vec![hidden, c * p * p], vec![hidden, c, p, p]);
            return Shape { weight, stored, bias: false };
        }
        RelativeBias => {
            let bias = encoder.relative_bias.expect("only tables of such families");
            (vec![bias.bucket_count, encoder.head_count], false)
        }
        Norm => (vec![hidden], encoder.norm_bias && encoder.norm == Norm::Layer),
        Query => (vec![inner, hidden], encoder.qkv_bias),
        KeyValue => (vec![kv, hidden], encoder.qkv_bias),
        Out => (vec![hidden, inner], encoder.attn_out_bias),
        FfnIn => (vec![encoder.ffn_len, hidden], encoder.ffn_bias),
        FfnOut => (vec![hidden, encoder.ffn_len], encoder.ffn_bias),
    };
    Shape { stored: weight.clone(), weight, bias }
}

/// What a file that we write ourselves must hold for `head`, in the family's first names.
///
/// The decoder's weight is left out: it is tied to the token embedding.
pub(crate) fn head_needs(config: &ModelConfig, head: Head) -> Vec<Need> {
    let mut out = Vec::new();
    for (tower, encoder) in config.towers() {
        let hidden = encoder.hidden_len;
        let mut push = |name: &str, shape: Vec<usize>, stored: String| {
            let canonical = format!("{tower}head.{name}");
            let (stored_shape, stored) = (shape.clone(), vec![stored]);
            out.push(Need { canonical, shape, stored_shape, stored, first_row: 0 });
        };
        match head {
            Head::None => {}
            Head::MaskedLm => {
                let Some(names) = mlm_names(encoder.family) else { continue };
                let MlmNames { dense, norm, decoder_bias, .. } = names;
                push("mlm.dense.weight", vec![hidden, hidden], format!("{dense}.weight"));
                push("mlm.dense.bias", vec![hidden], format!("{dense}.bias"));
                push("mlm.norm.weight", vec![hidden], format!("{norm}.weight"));
                push("mlm.norm.bias", vec![hidden], format!("{norm}.bias"));
                let bias = decoder_bias.last().expect("at least one");
                push("mlm.decoder.bias", vec![encoder.vocab_count], (*bias).into());
            }
            Head::TokenProjection { out_len }
            | Head::FirstTokenProjection { out_len }
            | Head::SharedProjection { out_len } => {
                let Some(stem) = project_name(encoder.family, tower) else { continue };
                push("project.weight", vec![out_len, hidden], format!("{stem}.weight"));
                if matches!(head, Head::FirstTokenProjection { .. }) {
                    push("project.bias", vec![out_len], format!("{stem}.bias"));
                }
            }
        }
    }
    out
}
