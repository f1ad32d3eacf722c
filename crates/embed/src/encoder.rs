//! Graphs of encoders: one builder for every family, led by the checkpoint's configuration.
//!
//! A text graph works on T packed token rows and N sequences. Its inputs are `ids`, `positions`,
//! `types` (where the model has token types), `lo` and `hi` (each row's sequence), `segment`
//! (each row's sequence number, where a row is global), all `i32 [T]`, `keep` (0 for rows that
//! do not count in a mean of token rows, where there is one), `f32 [T]`, and the sequences' bounds
//! `seg_lo` and `seg_hi`, `i32 [N]`. Live count 0 is the number of tokens, 1 that of sequences.
//! An image graph works on B images; its input is `patches`.
//!
//! Weights are graph inputs under the canonical names of `calor-weights`, all f32. Tables of a text
//! are cast to the precision's type, so that its rows have it from the beginning; those of an image
//! are, behind its embeddings. They are cast back once, behind the layers; whatever stands between
//! takes the type of its rows, and what is made of weights is made at load.
//! Products of layers are those of the precision, all others of the type of their rows.

mod attention;
mod head;
mod product;

use calor_ir::nn;
use calor_ir::{CheckedGraph, DType, Graph, GraphError, Literal, Prim, Role, Shape, Type, ValueId};
use calor_weights::{Activation, EncoderConfig, Head, Norm, Position, VisionConfig};

use crate::packing::Bucket;
pub use crate::pooling::Pooling;
use crate::precision::InferencePrecision;

/// Live count of tokens.
pub const LIVE_TOKENS: u8 = 0;
/// Live count of sequences.
pub const LIVE_SEQUENCES: u8 = 1;
/// Rows of logits that a SPLADE head holds at once where no device claims it.
const SPLADE_CHUNK_LEN: usize = 256;
/// Smallest norm that a vector is divided by.
const L2_EPS: f64 = 1e-12;

/// A vector of its own that is made of the pooled one, or of every token row, and normalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotMap {
    /// Name of the result, and of the weight `project.<name>`.
    pub name: String,
    /// Width of the result.
    pub out_len: usize,
    /// How it is made.
    pub kind: SlotKind,
}

/// How a slot is made of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// It is the vector.
    Same,
    /// The vector, then zeros.
    Padded,
    /// Through a weight `[out_len, in_len]`.
    Mapped,
    /// Through a weight that is stored by rows of its input, `[in_len, out_len]`.
    MappedByRows,
}

/// What leaves a text graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextOutputs {
    /// How rows are pooled. The result is the output `pooled`, or `tokens` without pooling.
    pub pooling: Pooling,
    /// Whether the checkpoint's own projection is applied (to rows where its model does).
    pub project: bool,
    /// Whether vectors are divided by their length.
    pub normalize: bool,
    /// Slots made of the pooled vector before it is normalised: one output each.
    pub slots: Vec<SlotMap>,
    /// A map of every token row, normalised: the output `tokens`.
    pub token_slot: Option<SlotMap>,
    /// The direction of the mean of the rows of `tokens` that the input `keep` names: one more
    /// output of this name.
    pub token_mean: Option<String>,
}

/// The graph of a text encoder for one bucket. `prefix` is `text.` for CLIP, else empty;
/// `precision` is that of the layers. What leaves is f32.
///
/// # Errors
/// When the configuration does not fit together; a checked one does.
pub fn text_graph(
    config: &EncoderConfig,
    head: Head,
    prefix: &str,
    bucket: Bucket,
    outputs: &TextOutputs,
    precision: InferencePrecision,
) -> Result<CheckedGraph, GraphError> {
    let mut b = Builder { g: Graph::new(), config, prefix, precision };
    let rows = b.text_rows(bucket, outputs.token_mean.is_some());
    let x = b.embeddings(&rows)?;
    let x = b.g.cast(x, precision.rows())?;
    let x = b.layers(x, &rows)?;
    b.text_head(x, head, &rows, outputs)?;
    b.g.check()
}

/// The graph of a CLIP vision tower for `image_count` images. Its input is
/// `patches: f32 [images * patches, channels * side * side]`, its output `pooled`. `precision` is
/// that of the layers.
///
/// # Errors
/// When the configuration does not fit together; a checked one does.
pub fn image_graph(
    config: &VisionConfig,
    projection_len: Option<usize>,
    image_count: usize,
    normalize: bool,
    precision: InferencePrecision,
) -> Result<CheckedGraph, GraphError> {
    let (encoder, dtype) = (&config.encoder, precision.rows());
    let mut b = Builder { g: Graph::new(), config: encoder, prefix: "vision.", precision };
    let side = config.image_len / config.patch_len;
    let (patches, hidden) = (side * side, encoder.hidden_len);
    let patch = config.channel_count * config.patch_len * config.patch_len;
    let input = Type::new(DType::F32, &[image_count * patches, patch]);
    let input = b.g.input("patches", Role::Data, input);
    let input = b.g.cast(input, dtype)?;
    let weight = b.weight("embed.patch", &[hidden, patch]);
    let weight = b.g.cast(weight, dtype)?;
    let x = nn::linear(&mut b.g, input, weight, None, nn::Activation::None)?;
    let x = b.g.cast(x, DType::F32)?;
    let x = b.g.reshape(x, &[image_count, patches, hidden])?;
    let class = b.weight("embed.class", &[hidden]);
    let class = b.g.broadcast_to(class, Shape::new(&[image_count, 1, hidden]))?;
    let x = b.g.concat(1, &[class, x])?;
    let rows = patches + 1;
    let positions = b.weight("embed.position", &[rows, hidden]);
    let x = b.g.add(x, positions)?;
    let x = b.g.reshape(x, &[image_count * rows, hidden])?;
    let x = b.norm(x, "pre.norm")?;
    let x = b.g.cast(x, dtype)?;
    let intervals = b.image_rows(image_count, rows)?;
    let x = b.layers(x, &intervals)?;
    let first = b.g.gather(x, 0, intervals.seg_lo)?;
    let first = b.g.cast(first, DType::F32)?;
    let mut x = b.norm(first, "final.norm")?;
    if let Some(out_len) = projection_len {
        let weight = b.weight("head.project.weight", &[out_len, hidden]);
        x = nn::linear(&mut b.g, x, weight, None, nn::Activation::None)?;
    }
    if normalize {
        x = nn::l2_normalize(&mut b.g, x, L2_EPS)?;
    }
    b.g.output("pooled", x);
    b.g.check()
}

/// Rows of a batch: where each sequence is.
struct Rows {
    count: usize,
    ids: Option<ValueId>,
    positions: Option<ValueId>,
    types: Option<ValueId>,
    lo: ValueId,
    hi: ValueId,
    segment: Option<ValueId>,
    keep: Option<ValueId>,
    seg_lo: ValueId,
    seg_hi: ValueId,
}

struct Builder<'a> {
    g: Graph,
    config: &'a EncoderConfig,
    prefix: &'a str,
    precision: InferencePrecision,
}

type Made = Result<ValueId, GraphError>;

impl Builder<'_> {
    fn weight(&mut self, name: &str, sizes: &[usize]) -> ValueId {
        let name = format!("{}{name}", self.prefix);
        let known = self.g.input_named(&name);
        known.unwrap_or_else(|| self.g.input(&name, Role::Weight, Type::new(DType::F32, sizes)))
    }

    /// A weight in the type of the rows that it meets.
    fn weight_for(&mut self, x: ValueId, name: &str, sizes: &[usize]) -> Made {
        let weight = self.weight(name, sizes);
        let dtype = self.g.ty(x).dtype;
        self.g.cast(weight, dtype)
    }

    /// A table of rows, in the type of those: tables are a large part of a small model's bytes.
    fn table(&mut self, name: &str, count: usize) -> Made {
        let table = self.weight(name, &[count, self.config.hidden_len]);
        self.g.cast(table, self.precision.rows())
    }

    fn text_rows(&mut self, bucket: Bucket, keeps: bool) -> Rows {
        let Bucket { token_count, sequence_count } = bucket;
        let tokens = Type::new(DType::I32, &[token_count]);
        let sequences = Type::new(DType::I32, &[sequence_count]);
        let config = self.config;
        let learned = matches!(config.position, Position::Learned { .. });
        let rotated = matches!(config.position, Position::Rope { .. });
        let g = &mut self.g;
        let mut row =
            |name: &str, wanted: bool| wanted.then(|| g.live_input(name, LIVE_TOKENS, tokens));
        let ids = row("ids", true);
        let positions = row("positions", learned || rotated);
        let types = row("types", config.type_vocab_count > 0);
        let segment = row("segment", config.global_first);
        let lo = g.live_input("lo", LIVE_TOKENS, tokens);
        let hi = g.live_input("hi", LIVE_TOKENS, tokens);
        let seg_lo = g.live_input("seg_lo", LIVE_SEQUENCES, sequences);
        let seg_hi = g.live_input("seg_hi", LIVE_SEQUENCES, sequences);
        let weights = Type::new(DType::F32, &[token_count]);
        let keep = keeps.then(|| g.live_input("keep", LIVE_TOKENS, weights));
        let count = token_count;
        Rows { count, ids, positions, types, lo, hi, segment, keep, seg_lo, seg_hi }
    }

    /// Every image has the same rows, so intervals are numbers.
    fn image_rows(&mut self, image_count: usize, rows: usize) -> Result<Rows, GraphError> {
        let starts = |count: usize, each: usize| -> Vec<f64> {
            (0..count).map(|at| (at / each * rows) as f64).collect()
        };
        let lo = starts(image_count * rows, rows);
        let seg_lo = starts(image_count, 1);
        let ends = |starts: &[f64]| starts.iter().map(|it| it + rows as f64).collect();
        let (hi, seg_hi) = (ends(&lo), ends(&seg_lo));
        let mut literal = |values: Vec<f64>| {
            let shape = Shape::new(&[values.len()]);
            self.g.prim(Prim::Constant(Literal { dtype: DType::I32, shape, values }), &[])
        };
        Ok(Rows {
            count: image_count * rows,
            ids: None,
            positions: None,
            types: None,
            lo: literal(lo)?,
            hi: literal(hi)?,
            segment: None,
            keep: None,
            seg_lo: literal(seg_lo)?,
            seg_hi: literal(seg_hi)?,
        })
    }

    fn embeddings(&mut self, rows: &Rows) -> Made {
        let config = self.config;
        let table = self.table("embed.token", config.vocab_count)?;
        let ids = rows.ids.unwrap_or(rows.lo);
        let mut x = nn::embedding(&mut self.g, table, ids)?;
        if let (Position::Learned { count, .. }, Some(positions)) =
            (&config.position, rows.positions)
        {
            let table = self.table("embed.position", *count)?;
            let at = nn::embedding(&mut self.g, table, positions)?;
            x = self.g.add(x, at)?;
        }
        if let Some(types) = rows.types {
            let table = self.table("embed.type", config.type_vocab_count)?;
            let kind = nn::embedding(&mut self.g, table, types)?;
            x = self.g.add(x, kind)?;
        }
        if config.embed_norm { self.norm(x, "embed.norm") } else { Ok(x) }
    }

    fn norm(&mut self, x: ValueId, name: &str) -> Made {
        let config = self.config;
        let sizes = [config.hidden_len];
        let weight = self.weight(&format!("{name}.weight"), &sizes);
        match config.norm {
            Norm::Rms => nn::rms_norm(&mut self.g, x, weight, config.norm_eps),
            Norm::Layer => {
                let bias = config.norm_bias.then(|| self.weight(&format!("{name}.bias"), &sizes));
                nn::layer_norm(&mut self.g, x, weight, bias, config.norm_eps)
            }
        }
    }

    /// A product of a layer, in its precision.
    fn layer_linear(
        &mut self,
        x: ValueId,
        name: &str,
        [out_len, in_len]: [usize; 2],
        bias: bool,
        activation: nn::Activation,
    ) -> Made {
        let weight = self.weight(&format!("{name}.weight"), &[out_len, in_len]);
        let bias = bias.then(|| self.weight(&format!("{name}.bias"), &[out_len]));
        self.product(x, &[weight], bias.as_slice(), activation)
    }

    /// A product outside the layers, in the type of its rows.
    fn linear(
        &mut self,
        x: ValueId,
        name: &str,
        [out_len, in_len]: [usize; 2],
        bias: bool,
        activation: nn::Activation,
    ) -> Made {
        let weight = self.weight_for(x, &format!("{name}.weight"), &[out_len, in_len])?;
        let bias = match bias {
            true => Some(self.weight_for(x, &format!("{name}.bias"), &[out_len])?),
            false => None,
        };
        nn::linear(&mut self.g, x, weight, bias, activation)
    }

    fn layers(&mut self, mut x: ValueId, rows: &Rows) -> Made {
        let config = self.config;
        let bias = match config.relative_bias {
            Some(relative) => Some(self.distance_table(relative)?),
            None => None,
        };
        for layer in 0..config.layer_count {
            let name = |part: &str| format!("layer.{layer}.{part}");
            let attn_norm = name("attn.norm");
            let ffn_norm = name("ffn.norm");
            if config.pre_norm {
                let skip_norm = layer == 0 && !config.first_norm;
                let normed = if skip_norm { x } else { self.norm(x, &attn_norm)? };
                x = self.attention(normed, x, layer, rows, bias)?;
                let normed = self.norm(x, &ffn_norm)?;
                x = self.feed_forward(normed, x, layer)?;
            } else {
                let sum = self.attention(x, x, layer, rows, bias)?;
                x = self.norm(sum, &attn_norm)?;
                let sum = self.feed_forward(x, x, layer)?;
                x = self.norm(sum, &ffn_norm)?;
            }
        }
        Ok(x)
    }

    /// `residual + down(activation(up(x)))`, or its gated form.
    fn feed_forward(&mut self, x: ValueId, residual: ValueId, layer: usize) -> Made {
        let config = self.config;
        let (hidden, ffn) = (config.hidden_len, config.ffn_len);
        let name = |part: &str| format!("layer.{layer}.ffn.{part}");
        let activation = activation(config.activation);
        let sizes = [ffn, hidden];
        let up = name("up");
        let inner = match (config.gated, self.precision.is_plain()) {
            (true, true) => {
                let mut part = |it: &str, sizes: &[usize]| self.weight_for(x, &name(it), sizes);
                let gate = part("gate.weight", &sizes)?;
                let up = part("up.weight", &sizes)?;
                let biases = match config.ffn_bias {
                    true => Some([part("gate.bias", &[ffn])?, part("up.bias", &[ffn])?]),
                    false => None,
                };
                nn::gated_linear(&mut self.g, x, gate, up, biases, activation)?
            }
            (true, false) => {
                let gate =
                    self.layer_linear(x, &name("gate"), sizes, config.ffn_bias, activation)?;
                let plain = nn::Activation::None;
                let up = self.layer_linear(x, &up, sizes, config.ffn_bias, plain)?;
                self.g.mul(gate, up)?
            }
            (false, _) => self.layer_linear(x, &up, sizes, config.ffn_bias, activation)?,
        };
        let plain = nn::Activation::None;
        let out = self.layer_linear(inner, &name("down"), [hidden, ffn], config.ffn_bias, plain)?;
        self.g.add(out, residual)
    }
}

fn activation(activation: Activation) -> nn::Activation {
    match activation {
        Activation::Gelu => nn::Activation::Gelu,
        Activation::GeluTanh => nn::Activation::GeluTanh,
        Activation::QuickGelu => nn::Activation::QuickGelu,
        Activation::Relu => nn::Activation::Relu,
        Activation::Silu => nn::Activation::Silu,
    }
}
