//! config.json as one typed description of an encoder, whatever family published it.
//!
//! A graph builder reads the fields and need not ask for the family. Tensor names are not
//! here (`names.rs`), pooling is in `sentence.rs`. Defaults are those that the families'
//! reference implementation applies when a field is absent.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{FieldProblem, WeightsError, checkpoint::read_text};

/// Largest width of a hidden state.
pub const HIDDEN_LEN_MAX: usize = 65_536;
/// Most layers.
pub const LAYER_COUNT_MAX: usize = 512;
/// Most entries of a vocabulary.
pub const VOCAB_COUNT_MAX: usize = 4_000_000;
/// Largest width inside a feed-forward block.
pub const FFN_LEN_MAX: usize = 1 << 20;
/// Most attention heads.
pub const HEAD_COUNT_MAX: usize = 1024;
/// Most positions, tokens or window rows.
pub const POSITION_COUNT_MAX: usize = 1 << 24;

/// `model_type` values that are understood, for messages.
pub static SUPPORTED: &[&str] = &[
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "mpnet",
    "longformer",
    "t5",
    "codet5p",
    "codet5p_embedding",
    "clip",
    "clip_text_model",
    "clip_vision_model",
    "modernbert",
    "qwen2",
];

/// What a checkpoint is. Sizes are within limits and agree with each other.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family; decides tensor names.
    pub family: Family,
    /// The text encoder; absent for a lone vision tower.
    pub text: Option<EncoderConfig>,
    /// The vision encoder; CLIP only.
    pub vision: Option<VisionConfig>,
    /// Width of the shared space of CLIP, or `embed_dim` of CodeT5+.
    pub projection_len: Option<usize>,
}

/// Who named the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// BERT; also what SPLADE and ColBERT are built on.
    Bert,
    /// RoBERTa.
    Roberta,
    /// XLM-RoBERTa: RoBERTa with another tokenizer.
    XlmRoberta,
    /// DistilBERT: BERT without token types.
    DistilBert,
    /// MPNet: RoBERTa's positions and a table of relative biases.
    Mpnet,
    /// Longformer: RoBERTa with windows and global rows.
    Longformer,
    /// The encoder of T5, and CodeT5+.
    T5,
    /// CLIP, text and vision.
    Clip,
    /// ModernBERT.
    ModernBert,
    /// Qwen2.
    Qwen2,
}

/// A stack of attention and feed-forward layers over tokens.
///
/// A layer reads `x + attn(norm(x))`, then `x + ffn(norm(x))`, where [`Self::pre_norm`]; else
/// `norm(x + attn(x))`, then `norm(x + ffn(x))`. A feed-forward block is
/// `down(activation(up(x)))`, or `down(activation(gate(x)) * up(x))` where [`Self::gated`].
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// The family.
    pub family: Family,
    /// Rows of the token embedding; 0 for a vision tower.
    pub vocab_count: usize,
    /// Layers.
    pub layer_count: usize,
    /// Width of a hidden state.
    pub hidden_len: usize,
    /// Query heads.
    pub head_count: usize,
    /// Key and value heads; each serves `head_count / kv_head_count` query heads.
    pub kv_head_count: usize,
    /// Width of a head. `head_count * head_len` need not be `hidden_len` (T5).
    pub head_len: usize,
    /// Width inside the feed-forward block.
    pub ffn_len: usize,
    /// Function inside the feed-forward block.
    pub activation: Activation,
    /// Whether the feed-forward block has a gate.
    pub gated: bool,
    /// Kind of all norms.
    pub norm: Norm,
    /// Added to the variance, or to the mean square.
    pub norm_eps: f64,
    /// Whether norms come before their block.
    pub pre_norm: bool,
    /// Whether layer 0 has its attention norm. ModernBERT's has none.
    pub first_norm: bool,
    /// Whether a norm follows the stack.
    pub final_norm: bool,
    /// Whether a norm follows the embeddings.
    pub embed_norm: bool,
    /// Whether a token sees only itself and what precedes it.
    pub causal: bool,
    /// Factor on attention scores; absent means `1 / sqrt(head_len)`.
    pub attention_scale: Option<f64>,
    /// Rows of the token type embedding; 0 when there is none.
    pub type_vocab_count: usize,
    /// How rows know where they are.
    pub position: Position,
    /// Bias on attention scores by distance, the same in every layer; beside any position.
    pub relative_bias: Option<RelativeBias>,
    /// For each layer how many rows a row sees to each side besides itself; absent means all.
    /// A causal layer sees only the earlier side.
    pub windows: Vec<Option<usize>>,
    /// Whether the first row of a sequence is global: it sees all rows through projections of
    /// its own, and all rows see it.
    pub global_first: bool,
    /// Whether `attn.{q,k,v}` have a bias.
    pub qkv_bias: bool,
    /// Whether `attn.o` has a bias.
    pub attn_out_bias: bool,
    /// Whether `ffn.*` have a bias.
    pub ffn_bias: bool,
    /// Whether norms have a bias.
    pub norm_bias: bool,
    /// Ids with a meaning.
    pub special: SpecialIds,
    /// Most tokens of a sequence, specials included; absent when nothing limits them.
    pub max_tokens: Option<usize>,
}

/// The vision tower of CLIP.
///
/// Rows are the class embedding and then one per patch, `(image_len / patch_len)²`, row-major.
/// `pre.norm` follows the embeddings; the final norm and the projection take the class row.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// The layers. `vocab_count` is 0; positions count the class row first.
    pub encoder: EncoderConfig,
    /// Colour channels.
    pub channel_count: usize,
    /// Side of the square image in pixels.
    pub image_len: usize,
    /// Side of a patch in pixels.
    pub patch_len: usize,
}

/// Function inside a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)`, by the error function.
    Gelu,
    /// GELU by the hyperbolic tangent.
    GeluTanh,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x sigmoid(x)`.
    Silu,
}

/// Kind of norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Subtracts the mean, divides by the deviation.
    Layer,
    /// Divides by the root of the mean square.
    Rms,
}

/// How rows know where they are.
#[derive(Clone, Debug, PartialEq)]
pub enum Position {
    /// Row `offset + i` of a table is added to token `i`.
    Learned {
        /// Rows of the table.
        count: usize,
        /// Row of the first token: `pad + 1` for RoBERTa and its kin, else 0.
        offset: usize,
    },
    /// Queries and keys are rotated: element `i` pairs with `i + head_len / 2`.
    Rope {
        /// Base of the frequencies, for each layer.
        thetas: Vec<f64>,
    },
    /// Nothing is added or rotated.
    None,
}

/// T5's bias on attention scores, by the bucket of `key position - query position`.
///
/// Half the buckets are for keys after the query. In each half the first half counts single
/// steps, the rest grow logarithmically up to `max_distance`; the last takes all beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelativeBias {
    /// Rows of the table, both directions together; the columns are heads.
    pub bucket_count: usize,
    /// Distance from which on the last bucket is used.
    pub max_distance: usize,
    /// Whether later keys have buckets of their own. True for every encoder.
    pub bidirectional: bool,
}

/// Token ids that config.json gives a meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Padding.
    pub pad: Option<u32>,
    /// Beginning of a sequence.
    pub bos: Option<u32>,
    /// End of a sequence; the first where the file lists several.
    pub eos: Option<u32>,
    /// Classification row.
    pub cls: Option<u32>,
    /// Separator.
    pub sep: Option<u32>,
}

impl ModelConfig {
    /// Reads and checks a config.json.
    ///
    /// # Errors
    /// [`WeightsError::MissingFile`], [`WeightsError::FileTooLarge`],
    /// [`WeightsError::NotUtf8`], and those of [`ModelConfig::from_json`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        Self::from_json(path, &read_text(path)?)
    }

    /// Checks the text of a config.json; `path` is for messages.
    ///
    /// # Errors
    /// [`WeightsError::Json`], [`WeightsError::UnsupportedFamily`], and
    /// [`WeightsError::Field`] naming the first field that is absent, absurd or unsupported.
    pub fn from_json(path: &Path, text: &str) -> Result<Self, WeightsError> {
        let map: Map<String, Value> = serde_json::from_str(text)
            .map_err(|source| WeightsError::Json { path: path.into(), source })?;
        let fields = Fields { path, prefix: String::new(), map };
        let model_type = fields.text("model_type", None)?;
        let family = match model_type.as_str() {
            "bert" => Family::Bert,
            "roberta" => Family::Roberta,
            "xlm-roberta" => Family::XlmRoberta,
            "distilbert" => Family::DistilBert,
            "mpnet" => Family::Mpnet,
            "longformer" => Family::Longformer,
            "t5" | "codet5p" | "codet5p_embedding" => Family::T5,
            "clip" | "clip_text_model" | "clip_vision_model" => Family::Clip,
            "modernbert" => Family::ModernBert,
            "qwen2" => Family::Qwen2,
            _ => {
                return Err(WeightsError::UnsupportedFamily { model_type, supported: SUPPORTED });
            }
        };
        let text = match family {
            Family::Clip => return clip(&fields, &model_type),
            Family::Bert
            | Family::Roberta
            | Family::XlmRoberta
            | Family::Mpnet
            | Family::Longformer => bert_like(&fields, family)?,
            Family::DistilBert => distilbert(&fields)?,
            Family::T5 => t5(&fields)?,
            Family::ModernBert => modernbert(&fields)?,
            Family::Qwen2 => qwen2(&fields)?,
        };
        let projection_len = match family == Family::T5 && fields.has("embed_dim") {
            true => Some(fields.count("embed_dim", 1, HIDDEN_LEN_MAX, None)?),
            false => None,
        };
        Ok(Self { family, text: Some(text), vision: None, projection_len })
    }

    /// All towers with their prefix in canonical tensor names: one without a prefix, or
    /// CLIP's with `text.` and `vision.`.
    pub fn towers(&self) -> Vec<(&'static str, &EncoderConfig)> {
        let clip = self.family == Family::Clip;
        let text = self.text.iter().map(|it| (if clip { "text." } else { "" }, it));
        text.chain(self.vision.iter().map(|it| ("vision.", &it.encoder))).collect()
    }
}

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

fn bert_like(fields: &Fields<'_>, family: Family) -> Result<EncoderConfig, WeightsError> {
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

fn distilbert(fields: &Fields<'_>) -> Result<EncoderConfig, WeightsError> {
    let mut it = plain(fields, Family::DistilBert, Sizes::read(fields, &SIZES_DISTILBERT)?)?;
    it.activation = fields.activation("activation", "gelu")?;
    learned(fields, &mut it, 0, 512)?;
    Ok(it)
}

fn t5(fields: &Fields<'_>) -> Result<EncoderConfig, WeightsError> {
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

fn modernbert(fields: &Fields<'_>) -> Result<EncoderConfig, WeightsError> {
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

fn qwen2(fields: &Fields<'_>) -> Result<EncoderConfig, WeightsError> {
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

fn clip(fields: &Fields<'_>, model_type: &str) -> Result<ModelConfig, WeightsError> {
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

/// One JSON object, its path in the file, and typed access to its fields.
#[derive(Clone)]
struct Fields<'a> {
    path: &'a Path,
    prefix: String,
    map: Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn err(&self, name: &str, problem: FieldProblem) -> WeightsError {
        let field = format!("{}{name}", self.prefix);
        WeightsError::Field { path: self.path.into(), field, problem }
    }

    /// The value; an explicit null counts as absent.
    fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|it| !it.is_null())
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The object at `name`, overlaid with the older `{name}_dict`; empty when absent.
    fn nested(&self, name: &str) -> Result<Fields<'a>, WeightsError> {
        let mut map = Map::new();
        for name in [name.to_owned(), format!("{name}_dict")] {
            match self.get(&name) {
                None => {}
                Some(Value::Object(part)) => map.extend(part.clone()),
                Some(_) => {
                    return Err(self.err(&name, FieldProblem::Type { want: "an object" }));
                }
            }
        }
        Ok(Fields { path: self.path, prefix: format!("{}{name}.", self.prefix), map })
    }

    fn count(
        &self,
        name: &str,
        min: usize,
        max: usize,
        default: Option<usize>,
    ) -> Result<usize, WeightsError> {
        match (self.get(name), default) {
            (Some(value), _) => self.check_count(name, value, min, max),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.err(name, FieldProblem::Missing)),
        }
    }

    fn check_count(
        &self,
        name: &str,
        value: &Value,
        min: usize,
        max: usize,
    ) -> Result<usize, WeightsError> {
        let found = value
            .as_f64()
            .ok_or_else(|| self.err(name, FieldProblem::Type { want: "a whole number" }))?;
        match value.as_u64().and_then(|it| usize::try_from(it).ok()) {
            Some(count) if (min..=max).contains(&count) => Ok(count),
            Some(_) => Err(self.out_of_range(name, found, min as f64, max as f64)),
            None if found.fract() != 0.0 => {
                Err(self.err(name, FieldProblem::Type { want: "a whole number" }))
            }
            None => Err(self.out_of_range(name, found, min as f64, max as f64)),
        }
    }

    fn out_of_range(&self, name: &str, found: f64, min: f64, max: f64) -> WeightsError {
        self.err(name, FieldProblem::Range { found, min, max })
    }

    /// A count that divides `whole`.
    fn divisor(
        &self,
        name: &str,
        whole: usize,
        default: Option<usize>,
    ) -> Result<usize, WeightsError> {
        let found = self.count(name, 1, HIDDEN_LEN_MAX, default)?;
        match whole.is_multiple_of(found) {
            true => Ok(found),
            false => Err(self.err(name, FieldProblem::NotDivisor { found, whole })),
        }
    }

    /// Buckets of a table of relative biases: an even number, two directions of two halves.
    fn buckets(&self, name: &str) -> Result<usize, WeightsError> {
        let found = self.count(name, 4, 4096, Some(32))?;
        match found.is_multiple_of(4) {
            true => Ok(found),
            false => Err(self.err(name, FieldProblem::NotDivisor { found: 4, whole: found })),
        }
    }

    /// Half a window of `width` rows.
    fn reach(&self, name: &str, width: usize) -> Result<usize, WeightsError> {
        match width.is_multiple_of(2) {
            true => Ok(width / 2),
            false => Err(self.err(name, FieldProblem::Odd { found: width })),
        }
    }

    fn number(&self, name: &str, min: f64, max: f64, default: f64) -> Result<f64, WeightsError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let found = value
            .as_f64()
            .ok_or_else(|| self.err(name, FieldProblem::Type { want: "a number" }))?;
        match min <= found && found <= max {
            true => Ok(found),
            false => Err(self.out_of_range(name, found, min, max)),
        }
    }

    fn eps(&self, name: &str, default: f64) -> Result<f64, WeightsError> {
        self.number(name, 1e-30, 1.0, default)
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, WeightsError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.err(name, FieldProblem::Type { want: "true or false" })),
        }
    }

    fn text(&self, name: &str, default: Option<&str>) -> Result<String, WeightsError> {
        match (self.get(name), default) {
            (Some(Value::String(text)), _) => Ok(text.clone()),
            (Some(_), _) => Err(self.err(name, FieldProblem::Type { want: "a string" })),
            (None, Some(default)) => Ok(default.into()),
            (None, None) => Err(self.err(name, FieldProblem::Missing)),
        }
    }

    fn expect_only(&self, name: &str, allowed: &[&str]) -> Result<(), WeightsError> {
        let found = self.text(name, Some(allowed[0]))?;
        match allowed.contains(&found.as_str()) {
            true => Ok(()),
            false => Err(self.err(name, FieldProblem::Unsupported { found })),
        }
    }

    fn expect_false(&self, name: &str) -> Result<(), WeightsError> {
        match self.flag(name, false)? {
            false => Ok(()),
            true => Err(self.err(name, FieldProblem::Unsupported { found: "true".into() })),
        }
    }

    /// A token id below `vocab_count`; the first where the file lists several.
    fn id(&self, name: &str, vocab_count: usize) -> Result<Option<u32>, WeightsError> {
        let value = match self.get(name) {
            Some(Value::Array(list)) => list.first(),
            other => other,
        };
        match value {
            Some(value) if vocab_count != 0 => {
                Ok(Some(self.check_count(name, value, 0, vocab_count - 1)? as u32))
            }
            _ => Ok(None),
        }
    }

    fn activation(&self, name: &str, default: &str) -> Result<Activation, WeightsError> {
        self.activation_named(name, &self.text(name, Some(default))?)
    }

    fn activation_named(&self, name: &str, value: &str) -> Result<Activation, WeightsError> {
        match value {
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "quick_gelu" => Ok(Activation::QuickGelu),
            "relu" => Ok(Activation::Relu),
            "silu" | "swish" => Ok(Activation::Silu),
            _ => Err(self.err(name, FieldProblem::Unsupported { found: value.into() })),
        }
    }

    /// `layer_types`: for each layer whether it has a window.
    fn layer_types(&self, layer_count: usize) -> Result<Option<Vec<bool>>, WeightsError> {
        const NAME: &str = "layer_types";
        let list = match self.get(NAME) {
            None => return Ok(None),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(self.err(NAME, FieldProblem::Type { want: "a list" })),
        };
        if list.len() != layer_count {
            let (want_count, found_count) = (layer_count, list.len());
            return Err(self.err(NAME, FieldProblem::Count { want_count, found_count }));
        }
        let local = |value: &Value| match value.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(self.err(NAME, FieldProblem::Unsupported { found: value.to_string() })),
        };
        list.iter().map(local).collect::<Result<_, _>>().map(Some)
    }

    /// The rotary base: in `rope_parameters`, there under `kind` if that is not empty, else in
    /// the older field `old`. Any scaling is refused.
    fn theta(&self, kind: &str, old: &str, default: f64) -> Result<f64, WeightsError> {
        let mut theta = self.number(old, 1.0, 1e12, default)?;
        for name in ["rope_scaling", "rope_parameters"] {
            let mut part = self.nested(name)?;
            if !kind.is_empty() && part.has(kind) {
                part = part.nested(kind)?;
            }
            part.expect_only("rope_type", &["default"])?;
            part.expect_only("type", &["default"])?;
            theta = part.number("rope_theta", 1.0, 1e12, theta)?;
        }
        Ok(theta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(family: &str) -> ModelConfig {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden");
        ModelConfig::from_file(root.join(family).join("config.json")).unwrap()
    }

    fn text(family: &str) -> EncoderConfig {
        golden(family).text.unwrap()
    }

    #[test]
    fn bert_is_plain() {
        let it = text("bert");
        assert_eq!((it.vocab_count, it.layer_count, it.hidden_len, it.ffn_len), (900, 3, 64, 160));
        assert_eq!((it.head_count, it.kv_head_count, it.head_len), (4, 4, 16));
        assert_eq!(it.position, Position::Learned { count: 64, offset: 0 });
        assert_eq!((it.norm_eps, it.type_vocab_count, it.max_tokens), (1e-12, 2, Some(64)));
        assert_eq!(it.special.pad, Some(0));
        assert!(it.embed_norm && !it.pre_norm && !it.final_norm && it.qkv_bias);
    }

    #[test]
    fn longformer_has_windows_and_an_offset() {
        let it = text("longformer");
        assert_eq!(it.windows, [Some(8), Some(8)]);
        assert_eq!(it.position, Position::Learned { count: 514, offset: 2 });
        assert_eq!(it.max_tokens, Some(512));
        assert!(it.global_first);
    }

    #[test]
    fn t5_has_buckets_and_no_scale() {
        let it = text("codet5p");
        let relative = RelativeBias { bucket_count: 32, max_distance: 128, bidirectional: true };
        assert_eq!(it.relative_bias, Some(relative));
        assert_eq!((it.attention_scale, it.norm), (Some(1.0), Norm::Rms));
        assert_eq!((it.activation, it.gated, it.ffn_bias), (Activation::Relu, false, false));
        assert_eq!((it.position, it.max_tokens), (Position::None, None));
    }

    #[test]
    fn clip_has_two_towers() {
        let it = golden("clip");
        assert_eq!(it.towers().iter().map(|it| it.0).collect::<Vec<_>>(), ["text.", "vision."]);
        let (text, vision) = (it.text.unwrap(), it.vision.unwrap());
        assert!(text.causal && text.pre_norm && !vision.encoder.causal);
        assert_eq!(text.activation, Activation::QuickGelu);
        assert_eq!(vision.encoder.position, Position::Learned { count: 17, offset: 0 });
        assert_eq!((vision.channel_count, vision.image_len, vision.patch_len), (3, 32, 8));
        assert_eq!(it.projection_len, Some(48));
    }

    const SIZES: &str = r#""vocab_size":100,"hidden_size":64,"num_hidden_layers":4,
        "num_attention_heads":4,"intermediate_size":128"#;

    fn parse(model_type: &str, extra: &str) -> Result<ModelConfig, WeightsError> {
        // Later fields win, so that a case may override a size.
        let text = format!(r#"{{"model_type":"{model_type}",{SIZES}{extra}}}"#);
        ModelConfig::from_json(Path::new("c"), &text)
    }

    #[test]
    fn modernbert_alternates_windows_and_bases() {
        let it = parse("modernbert", "").unwrap().text.unwrap();
        assert_eq!(it.windows, [None, Some(64), Some(64), None]);
        let thetas = vec![160_000.0, 10_000.0, 10_000.0, 160_000.0];
        assert_eq!(it.position, Position::Rope { thetas });
        assert!(it.gated && !it.first_norm && !it.qkv_bias && !it.norm_bias);
        let extra = r#","layer_types":["sliding_attention","full_attention","full_attention",
            "full_attention"],"local_attention":10,"rope_parameters":{"full_attention":
            {"rope_theta":5.0,"rope_type":"default"},"sliding_attention":{"rope_theta":3.0}}"#;
        let it = parse("modernbert", extra).unwrap().text.unwrap();
        assert_eq!(it.windows, [Some(5), None, None, None]);
        assert_eq!(it.position, Position::Rope { thetas: vec![3.0, 5.0, 5.0, 5.0] });
    }

    #[test]
    fn qwen2_groups_heads_and_may_slide() {
        let extra = r#","num_key_value_heads":2,"rope_theta":1e6"#;
        let it = parse("qwen2", extra).unwrap().text.unwrap();
        assert_eq!((it.kv_head_count, it.causal, it.attn_out_bias), (2, true, false));
        assert_eq!(it.position, Position::Rope { thetas: vec![1e6; 4] });
        assert_eq!(it.windows, [None; 4]);
        let extra = r#","use_sliding_window":true,"sliding_window":8,"max_window_layers":3"#;
        let it = parse("qwen2", extra).unwrap().text.unwrap();
        assert_eq!(it.windows, [None, None, None, Some(7)]);
    }

    #[test]
    fn roberta_and_mpnet_positions_begin_after_padding() {
        for (model_type, extra, offset) in
            [("roberta", r#","pad_token_id":1"#, 2), ("xlm-roberta", "", 2), ("mpnet", "", 2)]
        {
            let extra = format!(r#"{extra},"max_position_embeddings":130"#);
            let it = parse(model_type, &extra).unwrap().text.unwrap();
            assert_eq!(it.position, Position::Learned { count: 130, offset }, "{model_type}");
            assert_eq!(it.relative_bias.is_some(), model_type == "mpnet");
        }
    }

    #[track_caller]
    fn check(model_type: &str, extra: &str, message: &str) {
        let err = parse(model_type, extra).unwrap_err().to_string();
        assert!(err.contains(message), "wanted `{message}`, got `{err}`");
    }

    // tidy: table
    #[test]
    fn absurd_fields_are_named() {
        check("gpt2", "", "`gpt2` is not supported; supported are [\"bert\"");
        check("bert", r#","hidden_size":0"#, "`hidden_size` is 0, allowed are 1 to 65536");
        check("bert", r#","hidden_size":-4"#, "`hidden_size` is -4");
        check("bert", r#","hidden_size":65537"#, "`hidden_size` is 65537");
        check("bert", r#","hidden_size":1e300"#, "`hidden_size` is 1");
        check("bert", r#","hidden_size":64.5"#, "`hidden_size` must be a whole number");
        check("bert", r#","hidden_size":"64""#, "`hidden_size` must be a whole number");
        check("bert", r#","hidden_size":null"#, "`hidden_size` is missing");
        check("bert", r#","num_hidden_layers":513"#, "`num_hidden_layers` is 513");
        check("bert", r#","vocab_size":18446744073709551615"#, "`vocab_size` is 1844674407370955");
        check("bert", r#","vocab_size":4000001"#, "`vocab_size` is 4000001");
        check("bert", r#","num_attention_heads":5"#, "is 5, which does not divide 64");
        check("bert", r#","layer_norm_eps":0"#, "`layer_norm_eps` is 0");
        check("bert", r#","layer_norm_eps":-1e-5"#, "`layer_norm_eps` is -0.00001");
        check("bert", r#","layer_norm_eps":"NaN""#, "`layer_norm_eps` must be a number");
        check("bert", r#","layer_norm_eps":NaN"#, "expected value");
        check("bert", r#","pad_token_id":100"#, "`pad_token_id` is 100, allowed are 0 to 99");
        check("bert", r#","hidden_act":"mish""#, "`hidden_act` is `mish`, which is not");
        check("bert", r#","position_embedding_type":"relative_key""#, "`relative_key`");
        check("bert", r#","is_decoder":true"#, "`is_decoder` is `true`");
        check("roberta", r#","max_position_embeddings":2"#, "is 2, allowed are 3");
        check("longformer", r#","attention_window":7"#, "`attention_window` is 7, which is odd");
        check("longformer", r#","attention_window":[8,8]"#, "2 entries, 4 wanted");
        check("longformer", r#","attention_window":[8,8,8,0]"#, "is 0, allowed are 2");
        check("mpnet", r#","relative_attention_num_buckets":30"#, "does not divide 30");
        check("modernbert", r#","local_attention":9"#, "`local_attention` is 9, which is odd");
        check("modernbert", r#","layer_types":["full_attention"]"#, "1 entries, 4 wanted");
        check(
            "modernbert",
            r#","rope_parameters":{"full_attention":{"rope_type":"yarn"}}"#,
            "`yarn`",
        );
        check("qwen2", r#","num_key_value_heads":3"#, "is 3, which does not divide 4");
        check("qwen2", r#","rope_scaling":{"type":"linear","factor":2}"#, "`linear`");
        check("qwen2", r#","rope_theta":0"#, "`rope_theta` is 0");
        check("qwen2", r#","head_dim":15"#, "`head_dim` is 15, which is odd");
        check("t5", "", "`d_model` is missing");
        check("clip", r#","vision_config":{"patch_size":5}"#, "`vision_config.patch_size` is 5");
        check("clip", r#","text_config":3"#, "`text_config` must be an object");
    }
}
