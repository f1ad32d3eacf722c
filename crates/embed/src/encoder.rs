//! Graphs of encoders: one builder for every family, led by the checkpoint's configuration.
//!
//! A text graph works on T packed token rows and N sequences. Its inputs are `ids`, `positions`,
//! `types` (where the model has token types), `lo` and `hi` (each row's sequence), `segment`
//! (each row's sequence number, where a row is global), all `i32 [T]`, and the sequences' bounds
//! `seg_lo` and `seg_hi`, `i32 [N]`. Live count 0 is the number of tokens, 1 that of sequences.
//! An image graph works on B images; its input is `patches`.
//!
//! Weights are graph inputs under the canonical names of `calor-weights`.

use calor_ir::nn::{self, AttentionOptions, PoolKind, RopeStyle};
use calor_ir::{
    Binary, CheckedGraph, DType, Fold, Graph, GraphError, Literal, Prim, Role, Shape, Type, ValueId,
};
use calor_weights::{Activation, EncoderConfig, Head, Norm, Position, RelativeBias, VisionConfig};

use crate::packing::Bucket;

/// Live count of tokens.
pub const LIVE_TOKENS: u8 = 0;
/// Live count of sequences.
pub const LIVE_SEQUENCES: u8 = 1;
/// Rows of logits that a SPLADE head holds at once where no device claims it.
const SPLADE_CHUNK_LEN: usize = 256;
/// Smallest norm that a vector is divided by.
const L2_EPS: f64 = 1e-12;

/// How token rows become the vector of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The mean of all rows.
    Mean,
    /// The first row.
    First,
    /// The last row.
    Last,
    /// The row of the first end-of-text token, else the last row.
    Eos {
        /// The token.
        id: u32,
    },
    /// The row of the first of the largest ids: where CLIP's published configuration names a
    /// legacy end of text (2), its text ends at the largest id, 49407.
    LargestId,
    /// The largest value of each column.
    Max,
    /// Term weights over the vocabulary, from the masked-language-model head.
    Splade,
    /// No pooling: the rows themselves.
    None,
}

/// One linear map of the pooled vector with a vector of its own as result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotMap {
    /// Name of the output, and of the weight `project.<name>` `[out_len, in_len]`.
    pub name: String,
    /// Width of the result.
    pub out_len: usize,
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
    /// Maps of the pooled vector, each normalised: one output each.
    pub slots: Vec<SlotMap>,
    /// A map of every token row, normalised: one more output.
    pub token_slot: Option<SlotMap>,
}

/// The graph of a text encoder for one bucket. `prefix` is `text.` for CLIP, else empty.
///
/// # Errors
/// When the configuration does not fit together; a checked one does.
pub fn text_graph(
    config: &EncoderConfig,
    head: Head,
    prefix: &str,
    bucket: Bucket,
    outputs: &TextOutputs,
) -> Result<CheckedGraph, GraphError> {
    let mut b = Builder { g: Graph::new(), config, prefix };
    let rows = b.text_rows(bucket);
    let x = b.embeddings(&rows)?;
    let x = b.layers(x, &rows)?;
    b.text_head(x, head, &rows, outputs)?;
    b.g.check()
}

/// The graph of a CLIP vision tower for `image_count` images. Its input is
/// `patches: f32 [images * patches, channels * side * side]`, its output `pooled`.
///
/// # Errors
/// When the configuration does not fit together; a checked one does.
pub fn image_graph(
    config: &VisionConfig,
    projection_len: Option<usize>,
    image_count: usize,
    normalize: bool,
) -> Result<CheckedGraph, GraphError> {
    let encoder = &config.encoder;
    let mut b = Builder { g: Graph::new(), config: encoder, prefix: "vision." };
    let side = config.image_len / config.patch_len;
    let (patches, hidden) = (side * side, encoder.hidden_len);
    let patch = config.channel_count * config.patch_len * config.patch_len;
    let input = Type::new(DType::F32, &[image_count * patches, patch]);
    let input = b.g.input("patches", Role::Data, input);
    let weight = b.weight("embed.patch", &[hidden, patch]);
    let x = nn::linear(&mut b.g, input, weight, None, nn::Activation::None)?;
    let x = b.g.reshape(x, &[image_count, patches, hidden])?;
    let class = b.weight("embed.class", &[hidden]);
    let class = b.g.broadcast_to(class, Shape::new(&[image_count, 1, hidden]))?;
    let x = b.g.concat(1, &[class, x])?;
    let rows = patches + 1;
    let positions = b.weight("embed.position", &[rows, hidden]);
    let x = b.g.add(x, positions)?;
    let x = b.g.reshape(x, &[image_count * rows, hidden])?;
    let x = b.norm(x, "pre.norm")?;
    let intervals = b.image_rows(image_count, rows)?;
    let x = b.layers(x, &intervals)?;
    let first = b.g.gather(x, 0, intervals.seg_lo)?;
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
    seg_lo: ValueId,
    seg_hi: ValueId,
}

struct Builder<'a> {
    g: Graph,
    config: &'a EncoderConfig,
    prefix: &'a str,
}

type Made = Result<ValueId, GraphError>;

impl Builder<'_> {
    fn weight(&mut self, name: &str, sizes: &[usize]) -> ValueId {
        let name = format!("{}{name}", self.prefix);
        let known = self.g.input_named(&name);
        known.unwrap_or_else(|| self.g.input(&name, Role::Weight, Type::new(DType::F32, sizes)))
    }

    fn text_rows(&mut self, bucket: Bucket) -> Rows {
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
        Rows { count: token_count, ids, positions, types, lo, hi, segment, seg_lo, seg_hi }
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
            seg_lo: literal(seg_lo)?,
            seg_hi: literal(seg_hi)?,
        })
    }

    fn embeddings(&mut self, rows: &Rows) -> Made {
        let config = self.config;
        let hidden = config.hidden_len;
        let table = self.weight("embed.token", &[config.vocab_count, hidden]);
        let ids = rows.ids.unwrap_or(rows.lo);
        let mut x = nn::embedding(&mut self.g, table, ids)?;
        if let (Position::Learned { count, .. }, Some(positions)) =
            (&config.position, rows.positions)
        {
            let table = self.weight("embed.position", &[*count, hidden]);
            let at = nn::embedding(&mut self.g, table, positions)?;
            x = self.g.add(x, at)?;
        }
        if let Some(types) = rows.types {
            let table = self.weight("embed.type", &[config.type_vocab_count, hidden]);
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

    fn linear(
        &mut self,
        x: ValueId,
        name: &str,
        [out_len, in_len]: [usize; 2],
        bias: bool,
        activation: nn::Activation,
    ) -> Made {
        let weight = self.weight(&format!("{name}.weight"), &[out_len, in_len]);
        let bias = bias.then(|| self.weight(&format!("{name}.bias"), &[out_len]));
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

    /// `residual + o(attention(x))`.
    fn attention(
        &mut self,
        x: ValueId,
        residual: ValueId,
        layer: usize,
        rows: &Rows,
        bias: Option<ValueId>,
    ) -> Made {
        let config = self.config;
        let (h, hkv, d) = (config.head_count, config.kv_head_count, config.head_len);
        let name = |part: &str| format!("layer.{layer}.attn.{part}");
        let [mut q, mut k, v] = self.queries_keys_values(x, layer, rows.count)?;
        if let (Position::Rope { thetas }, Some(positions)) = (&config.position, rows.positions) {
            let theta = thetas[layer];
            q = nn::rope(&mut self.g, q, positions, theta, RopeStyle::Half)?;
            k = nn::rope(&mut self.g, k, positions, theta, RopeStyle::Half)?;
        }
        let [lo, hi] = self.interval(rows, config.windows[layer])?;
        let scale = config.attention_scale.unwrap_or(1.0 / (d as f64).sqrt());
        let windowed = config.windows[layer].is_some();
        let extra = (config.global_first && windowed).then_some(rows.lo);
        let options = AttentionOptions { lo, hi, extra, bias, scale };
        let mut mixed = nn::attention(&mut self.g, q, k, v, &options)?;
        let _ = hkv;
        if let Some(segment) = rows.segment {
            mixed = self.global_rows(x, mixed, layer, rows, segment, scale)?;
        }
        let mixed = self.g.reshape(mixed, &[rows.count, h * d])?;
        let sizes = [config.hidden_len, h * d];
        let out =
            self.linear(mixed, &name("o"), sizes, config.attn_out_bias, nn::Activation::None)?;
        self.g.add(out, residual)
    }

    /// One product for queries, keys and values: their weights are joined once, when they are
    /// loaded.
    fn queries_keys_values(
        &mut self,
        x: ValueId,
        layer: usize,
        count: usize,
    ) -> Result<[ValueId; 3], GraphError> {
        let config = self.config;
        let (h, hkv, d) = (config.head_count, config.kv_head_count, config.head_len);
        let hidden = config.hidden_len;
        let parts = [("q", h), ("k", hkv), ("v", hkv)];
        let mut weights = Vec::new();
        let mut biases = Vec::new();
        for (part, heads) in parts {
            let name = format!("layer.{layer}.attn.{part}");
            weights.push(self.weight(&format!("{name}.weight"), &[heads * d, hidden]));
            if config.qkv_bias {
                biases.push(self.weight(&format!("{name}.bias"), &[heads * d]));
            }
        }
        let weight = self.g.concat(0, &weights)?;
        let bias = if biases.is_empty() { None } else { Some(self.g.concat(0, &biases)?) };
        let all = nn::linear(&mut self.g, x, weight, bias, nn::Activation::None)?;
        let mut start = 0;
        let mut out = [all; 3];
        for (slot, (_, heads)) in out.iter_mut().zip(parts) {
            let part = self.g.slice(all, 1, start, start + heads * d)?;
            *slot = self.g.reshape(part, &[count, heads, d])?;
            start += heads * d;
        }
        Ok(out)
    }

    /// The keys of each row: its sequence, up to itself when causal, within the window.
    fn interval(&mut self, rows: &Rows, window: Option<usize>) -> Result<[ValueId; 2], GraphError> {
        let causal = self.config.causal;
        let (mut lo, mut hi) = (rows.lo, rows.hi);
        if window.is_none() && !causal {
            return Ok([lo, hi]);
        }
        let g = &mut self.g;
        let row = g.iota(DType::I32, &[rows.count], 0)?;
        if let Some(reach) = window {
            let first = g.with_number(Binary::Sub, row, reach as f64)?;
            lo = g.binary(Binary::Max, lo, first)?;
        }
        let reach = if causal { Some(0) } else { window };
        if let Some(reach) = reach {
            let end = g.with_number(Binary::Add, row, reach as f64 + 1.0)?;
            hi = g.binary(Binary::Min, hi, end)?;
        }
        Ok([lo, hi])
    }

    /// The first row of each sequence sees all of it through projections of its own.
    fn global_rows(
        &mut self,
        x: ValueId,
        mixed: ValueId,
        layer: usize,
        rows: &Rows,
        segment: ValueId,
        scale: f64,
    ) -> Made {
        let config = self.config;
        let (h, d, hidden) = (config.head_count, config.head_len, config.hidden_len);
        let count = self.g.shape(rows.seg_lo).element_count();
        let name = |part: &str| format!("layer.{layer}.attn.{part}_global");
        let plain = nn::Activation::None;
        let sizes = [h * d, hidden];
        let first = self.g.gather(x, 0, rows.seg_lo)?;
        let q = self.linear(first, &name("q"), sizes, config.qkv_bias, plain)?;
        let k = self.linear(x, &name("k"), sizes, config.qkv_bias, plain)?;
        let v = self.linear(x, &name("v"), sizes, config.qkv_bias, plain)?;
        let q = self.g.reshape(q, &[count, h, d])?;
        let k = self.g.reshape(k, &[rows.count, h, d])?;
        let v = self.g.reshape(v, &[rows.count, h, d])?;
        let (lo, hi) = (rows.seg_lo, rows.seg_hi);
        let options = AttentionOptions { lo, hi, extra: None, bias: None, scale };
        let global = nn::attention(&mut self.g, q, k, v, &options)?;
        let spread = self.g.gather(global, 0, segment)?;
        let row = self.g.iota(DType::I32, &[rows.count], 0)?;
        let is_first = self.g.binary(Binary::Eq, row, rows.lo)?;
        let is_first = self.g.reshape(is_first, &[rows.count, 1, 1])?;
        self.g.select(is_first, spread, mixed)
    }

    /// `residual + down(activation(up(x)))`, or its gated form.
    fn feed_forward(&mut self, x: ValueId, residual: ValueId, layer: usize) -> Made {
        let config = self.config;
        let (hidden, ffn) = (config.hidden_len, config.ffn_len);
        let name = |part: &str| format!("layer.{layer}.ffn.{part}");
        let activation = activation(config.activation);
        let inner = if config.gated {
            let gate = self.weight(&format!("{}.weight", name("gate")), &[ffn, hidden]);
            let up = self.weight(&format!("{}.weight", name("up")), &[ffn, hidden]);
            let biases = config.ffn_bias.then(|| {
                ["gate", "up"].map(|it| self.weight(&format!("{}.bias", name(it)), &[ffn]))
            });
            nn::gated_linear(&mut self.g, x, gate, up, biases, activation)?
        } else {
            self.linear(x, &name("up"), [ffn, hidden], config.ffn_bias, activation)?
        };
        let plain = nn::Activation::None;
        let out = self.linear(inner, &name("down"), [hidden, ffn], config.ffn_bias, plain)?;
        self.g.add(out, residual)
    }

    /// T5's buckets as a row for each distance: made once, from the table.
    fn distance_table(&mut self, relative: RelativeBias) -> Made {
        let heads = self.config.head_count;
        let table = self.weight("attn.relative_bias", &[relative.bucket_count, heads]);
        let reach = relative.max_distance as i64;
        let values: Vec<f64> =
            (-reach..=reach).map(|it| distance_bucket(it, relative) as f64).collect();
        let shape = Shape::new(&[values.len()]);
        let literal = Literal { dtype: DType::I32, shape, values };
        let buckets = self.g.prim(Prim::Constant(literal), &[])?;
        self.g.gather(table, 0, buckets)
    }

    fn text_head(
        &mut self,
        x: ValueId,
        head: Head,
        rows: &Rows,
        outputs: &TextOutputs,
    ) -> Result<(), GraphError> {
        let config = self.config;
        let hidden = config.hidden_len;
        let mut x = if config.final_norm { self.norm(x, "final.norm")? } else { x };
        if let Some(slot) = &outputs.token_slot {
            let mapped = self.slot(x, hidden, slot)?;
            self.g.output(&slot.name, mapped);
        }
        if let (true, Head::TokenProjection { out_len }) = (outputs.project, head) {
            x = self.projection(x, out_len)?;
            x = nn::l2_normalize(&mut self.g, x, L2_EPS)?;
        }
        let (lo, hi) = (rows.seg_lo, rows.seg_hi);
        let g = &mut self.g;
        let mut pooled = match outputs.pooling {
            Pooling::None => {
                let by_row = outputs.normalize && !matches!(head, Head::TokenProjection { .. });
                let x = if by_row { nn::l2_normalize(g, x, L2_EPS)? } else { x };
                g.output("tokens", x);
                return Ok(());
            }
            Pooling::Mean => nn::pool(g, x, lo, hi, PoolKind::Mean)?,
            Pooling::First => nn::pool(g, x, lo, hi, PoolKind::First)?,
            Pooling::Last => nn::pool(g, x, lo, hi, PoolKind::Last)?,
            Pooling::Max => nn::pool(g, x, lo, hi, PoolKind::Max)?,
            Pooling::Eos { id } => {
                let ids = rows.ids.unwrap_or(rows.lo);
                nn::pool_eos(g, x, ids, lo, hi, id as i32)?
            }
            Pooling::LargestId => {
                let row = largest_id_row(g, rows)?;
                g.gather(x, 0, row)?
            }
            Pooling::Splade => self.splade(x, rows)?,
        };
        if let (true, Head::FirstTokenProjection { out_len } | Head::SharedProjection { out_len }) =
            (outputs.project, head)
        {
            pooled = self.projection(pooled, out_len)?;
        }
        let in_len = self.g.shape(pooled).last();
        for slot in &outputs.slots {
            let mapped = self.slot(pooled, in_len, slot)?;
            self.g.output(&slot.name, mapped);
        }
        if outputs.normalize {
            pooled = nn::l2_normalize(&mut self.g, pooled, L2_EPS)?;
        }
        self.g.output("pooled", pooled);
        Ok(())
    }

    fn slot(&mut self, x: ValueId, in_len: usize, slot: &SlotMap) -> Made {
        let name = format!("project.{}", slot.name);
        let ty = Type::new(DType::F32, &[slot.out_len, in_len]);
        let weight = self.g.input(&name, Role::Weight, ty);
        let mapped = nn::linear(&mut self.g, x, weight, None, nn::Activation::None)?;
        nn::l2_normalize(&mut self.g, mapped, L2_EPS)
    }

    fn projection(&mut self, x: ValueId, out_len: usize) -> Made {
        let in_len = self.g.shape(x).last();
        let has_bias = self.config.family == calor_weights::Family::T5;
        self.linear(x, "head.project", [out_len, in_len], has_bias, nn::Activation::None)
    }

    fn splade(&mut self, x: ValueId, rows: &Rows) -> Made {
        let config = self.config;
        let hidden = config.hidden_len;
        let act = activation(config.activation);
        let x = self.linear(x, "head.mlm.dense", [hidden, hidden], true, act)?;
        let x = self.norm(x, "head.mlm.norm")?;
        let vocab = config.vocab_count;
        let weight = self.weight("head.mlm.decoder.weight", &[vocab, hidden]);
        let bias = self.weight("head.mlm.decoder.bias", &[vocab]);
        let (lo, hi) = (rows.seg_lo, rows.seg_hi);
        nn::splade_pool(&mut self.g, x, [weight, bias], lo, hi, SPLADE_CHUNK_LEN)
    }
}

/// The first row of each sequence that holds its largest id, `i32 [N]`.
fn largest_id_row(g: &mut Graph, rows: &Rows) -> Made {
    let ids = rows.ids.unwrap_or(rows.lo);
    let n = g.shape(rows.seg_lo).element_count();
    let sizes = [n, rows.count];
    let row = g.iota(DType::I32, &sizes, 1)?;
    let lo = g.reshape(rows.seg_lo, &[n, 1])?;
    let hi = g.reshape(rows.seg_hi, &[n, 1])?;
    let after = g.binary(Binary::Le, lo, row)?;
    let before = g.binary(Binary::Lt, row, hi)?;
    let inside = g.binary(Binary::And, after, before)?;
    let ids = g.reshape(ids, &[1, rows.count])?;
    let nothing = g.scalar(DType::I32, -1.0)?;
    let own = g.select(inside, ids, nothing)?;
    let largest = g.reduce_rows(Fold::Max, own)?;
    let is_largest = g.binary(Binary::Eq, own, largest)?;
    let found = g.binary(Binary::And, inside, is_largest)?;
    let past = g.scalar(DType::I32, rows.count as f64)?;
    let at = g.select(found, row, past)?;
    g.reduce(Fold::Min, at, 1)
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

/// The bucket of `key position - query position` (Raffel et al. 2020, as published models
/// compute it: in single precision).
fn distance_bucket(distance: i64, relative: RelativeBias) -> usize {
    let RelativeBias { bucket_count, max_distance, bidirectional } = relative;
    let (count, start, steps) = if bidirectional {
        let half = bucket_count / 2;
        (half, if distance > 0 { half } else { 0 }, distance.unsigned_abs() as usize)
    } else {
        (bucket_count, 0, (-distance).max(0) as usize)
    };
    let exact = count / 2;
    if steps < exact {
        return start + steps;
    }
    let ratio = (steps as f32 / exact as f32).ln() / (max_distance as f32 / exact as f32).ln();
    let far = exact + (ratio * (count - exact) as f32) as usize;
    start + far.min(count - 1)
}

#[test]
fn buckets_are_those_of_t5() {
    let relative = RelativeBias { bucket_count: 32, max_distance: 128, bidirectional: true };
    let got: Vec<usize> = [0, -1, -7, -8, -15, -16, -64, -127, -128, -500, 1, 8, 128]
        .map(|it| distance_bucket(it, relative))
        .to_vec();
    assert_eq!(got, [0, 1, 7, 8, 9, 10, 14, 15, 15, 15, 17, 24, 31]);
}
