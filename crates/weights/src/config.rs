//! config.json as one typed description of an encoder, whatever family published it.
//!
//! A graph builder reads the fields and need not ask for the family. Tensor names are not
//! here (`names.rs`), pooling is in `sentence.rs`. Defaults are those that the families'
//! reference implementation applies when a field is absent.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{WeightsError, checkpoint::read_text};

mod family;
mod fields;

use family::{bert_like, clip, distilbert, modernbert, qwen2, t5};
use fields::Fields;

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
