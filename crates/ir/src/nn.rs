//! Layers: composites on weights that are values of the graph, usually its inputs.
//!
//! Thin on purpose. A layer holds nothing and names nothing; the models do.

pub use crate::composite::activation::Activation;
use crate::composite::attention::ATTENTION;
use crate::composite::cross_entropy::CROSS_ENTROPY;
use crate::composite::embedding::EMBEDDING;
use crate::composite::experts::EXPERTS;
use crate::composite::gate::GATE;
use crate::composite::gated_linear::GATED_LINEAR;
use crate::composite::l2_normalize::L2_NORMALIZE;
use crate::composite::layer_norm::LAYER_NORM;
use crate::composite::linear::LINEAR;
pub use crate::composite::nf4::Nf4Weight;
use crate::composite::nf4_linear::NF4_LINEAR;
use crate::composite::nf4_linear_transposed::NF4_LINEAR_TRANSPOSED;
use crate::composite::nf4_pair::NF4_PAIR;
use crate::composite::nf4_swiglu::NF4_SWIGLU;
use crate::composite::pool::POOL;
use crate::composite::pool_eos::POOL_EOS;
use crate::composite::quantize_rows::QUANTIZE_ROWS;
use crate::composite::rms_norm::RMS_NORM;
use crate::composite::rope::{ROPE, ROPE_INVERSE};
use crate::composite::scaled_linear::{FP8_LINEAR, INT8_LINEAR};
use crate::composite::softmax::SOFTMAX;
use crate::composite::splade_pool::SPLADE_POOL;
use crate::composite::tf32_linear::TF32_LINEAR;
use crate::composite::top_k::TOP_K;
use crate::composite::{Attrs, Composite};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};

/// What a layer gives: a value, or why its arguments were refused.
pub type Layer = Result<ValueId, GraphError>;

/// `activation(x · wᵀ + bias)`.
///
/// Shapes: `x: [.., k]`, `w: [n, k]`, `bias: [n]`, result `[.., n]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn linear(
    g: &mut Graph,
    x: ValueId,
    w: ValueId,
    bias: Option<ValueId>,
    activation: Activation,
) -> Layer {
    let attrs = Attrs::NONE.word("activation", activation.word());
    with_optional(g, &LINEAR, attrs, &[x, w], bias)
}

/// `activation(x · gateᵀ) · (x · upᵀ)`; both biases or none.
///
/// Shapes: `x: [.., k]`, `gate` and `up: [n, k]`, biases `[n]`, result `[.., n]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn gated_linear(
    g: &mut Graph,
    x: ValueId,
    gate: ValueId,
    up: ValueId,
    biases: Option<[ValueId; 2]>,
    activation: Activation,
) -> Layer {
    let attrs = Attrs::NONE.word("activation", activation.word());
    let mut inputs = vec![x, gate, up];
    inputs.extend(biases.into_iter().flatten());
    g.call(&GATED_LINEAR, attrs, &inputs)
}

/// [`linear`] with factors rounded to tf32; all in f32.
///
/// # Errors
/// When types or shapes do not fit.
pub fn tf32_linear(
    g: &mut Graph,
    x: ValueId,
    w: ValueId,
    bias: Option<ValueId>,
    activation: Activation,
) -> Layer {
    let attrs = Attrs::NONE.word("activation", activation.word());
    with_optional(g, &TF32_LINEAR, attrs, &[x, w], bias)
}

/// Rows as codes of one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantized {
    /// The codes, `[.., k]` in `F8E4M3` or `I8`.
    pub codes: ValueId,
    /// What they are multiplied by, `f32 [..]`.
    pub scales: ValueId,
}

/// Rows as codes of type `codes`, each row by itself.
///
/// Shapes: `x: [.., k]`, result codes `[.., k]` and scales `[..]`.
///
/// # Errors
/// When `codes` is neither `F8E4M3` nor `I8`, or `x` is no float or a scalar.
pub fn quantize_rows(g: &mut Graph, x: ValueId, codes: DType) -> Result<Quantized, GraphError> {
    let results = g.composite(&QUANTIZE_ROWS, Attrs::NONE.word("codes", codes.name()), &[x])?;
    Ok(Quantized { codes: results[0], scales: results[1] })
}

/// [`linear`] on quantized rows and weights.
///
/// Shapes: `x: [.., k]`, `w: [n, k]`, `bias: [n]`, result `[.., n]` of type `out`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn scaled_linear(
    g: &mut Graph,
    x: Quantized,
    w: Quantized,
    bias: Option<ValueId>,
    activation: Activation,
    out: DType,
) -> Layer {
    let int = g.ty(x.codes).dtype == DType::I8;
    let composite = if int { &INT8_LINEAR } else { &FP8_LINEAR };
    let attrs = Attrs::NONE.word("activation", activation.word()).word("out", out.name());
    with_optional(g, composite, attrs, &[x.codes, x.scales, w.codes, w.scales], bias)
}

/// Rows centred, divided by their standard deviation, scaled and shifted.
///
/// Shapes: `x: [.., n]`, `weight` and `bias: [n]`, result `[.., n]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn layer_norm(
    g: &mut Graph,
    x: ValueId,
    weight: ValueId,
    bias: Option<ValueId>,
    eps: f64,
) -> Layer {
    with_optional(g, &LAYER_NORM, Attrs::NONE.float("eps", eps), &[x, weight], bias)
}

/// Rows divided by their root mean square and scaled.
///
/// Shapes: `x: [.., n]`, `weight: [n]`, result `[.., n]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn rms_norm(g: &mut Graph, x: ValueId, weight: ValueId, eps: f64) -> Layer {
    g.call(&RMS_NORM, Attrs::NONE.float("eps", eps), &[x, weight])
}

/// An activation by itself.
///
/// Shapes: `x` and the result are alike.
///
/// # Errors
/// When `x` is no float.
pub fn activate(g: &mut Graph, x: ValueId, activation: Activation) -> Layer {
    activation.apply(g, x)
}

/// Softmax over the last axis.
///
/// Shapes: `x: [.., n]`, result `[.., n]`.
///
/// # Errors
/// When `x` is no float or a scalar.
pub fn softmax(g: &mut Graph, x: ValueId) -> Layer {
    g.call(&SOFTMAX, Attrs::NONE, &[x])
}

/// Rows of a table.
///
/// Shapes: `table: [v, d]`, `ids: i32 [t]`, result `[t, d]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn embedding(g: &mut Graph, table: ValueId, ids: ValueId) -> Layer {
    g.call(&EMBEDDING, Attrs::NONE, &[table, ids])
}

/// How the elements of a head are paired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Element `i` with `i + d/2`.
    Half,
    /// Element `2i` with `2i + 1`.
    Interleaved,
}

impl RopeStyle {
    /// The value of the attribute `style`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Half => "half",
            Self::Interleaved => "interleaved",
        }
    }
}

/// Heads turned by their position.
///
/// Shapes: `x: [t, h, d]`, `positions: i32 [t]`, result `[t, h, d]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn rope(g: &mut Graph, x: ValueId, positions: ValueId, theta: f64, style: RopeStyle) -> Layer {
    let attrs = Attrs::NONE.float("theta", theta).word("style", style.word());
    g.call(&ROPE, attrs, &[x, positions])
}

/// Heads turned back by their position: the way of gradients through [`rope`].
///
/// Shapes: `x: [t, h, d]`, `positions: i32 [t]`, result `[t, h, d]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn rope_inverse(
    g: &mut Graph,
    x: ValueId,
    positions: ValueId,
    theta: f64,
    style: RopeStyle,
) -> Layer {
    let attrs = Attrs::NONE.float("theta", theta).word("style", style.word());
    g.call(&ROPE_INVERSE, attrs, &[x, positions])
}

/// `x · wᵀ` for a weight `[n, k]` of four bits an element.
///
/// Shapes: `x: [.., k]`, result `[.., n]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn nf4_linear(g: &mut Graph, x: ValueId, w: Nf4Weight, n: usize) -> Layer {
    g.call(&NF4_LINEAR, Attrs::NONE.int("n", n as i64), &[x, w.codes, w.scales])
}

/// `x · w` for a weight `[n, k]` of four bits an element: the way of gradients through
/// [`nf4_linear`].
///
/// Shapes: `x: [.., n]`, result `[.., k]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn nf4_linear_transposed(g: &mut Graph, x: ValueId, w: Nf4Weight, k: usize) -> Layer {
    g.call(&NF4_LINEAR_TRANSPOSED, Attrs::NONE.int("k", k as i64), &[x, w.codes, w.scales])
}

/// `silu(x · gateᵀ) · (x · upᵀ)` for weights `[n, k]` of four bits an element.
///
/// Shapes: `x: [.., k]`, result `[.., n]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn nf4_swiglu(g: &mut Graph, x: ValueId, gate: Nf4Weight, up: Nf4Weight, n: usize) -> Layer {
    let inputs = [x, gate.codes, gate.scales, up.codes, up.scales];
    g.call(&NF4_SWIGLU, Attrs::NONE.int("n", n as i64), &inputs)
}

/// `x · aᵀ` and `x · bᵀ` for weights `[n, k]` of four bits an element.
///
/// Shapes: `x: [.., k]`, results `[.., n]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn nf4_pair(
    g: &mut Graph,
    x: ValueId,
    a: Nf4Weight,
    b: Nf4Weight,
    n: usize,
) -> Result<[ValueId; 2], GraphError> {
    let inputs = [x, a.codes, a.scales, b.codes, b.scales];
    let results = g.composite(&NF4_PAIR, Attrs::NONE.int("n", n as i64), &inputs)?;
    Ok([results[0], results[1]])
}

/// Which keys each query row attends to, and how scores are formed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionOptions {
    /// First key of each query row, `i32 [tq]`.
    pub lo: ValueId,
    /// One past the last key of each query row, `i32 [tq]`.
    pub hi: ValueId,
    /// One more key of each query row or -1, `i32 [tq]`; not counted twice.
    pub extra: Option<ValueId>,
    /// What is added to a score by the distance of its key, `f32 [2r + 1, h]`.
    pub bias: Option<ValueId>,
    /// Factor of the products of queries and keys.
    pub scale: f64,
}

impl AttentionOptions {
    fn call(
        &self,
        g: &mut Graph,
        qkv: [ValueId; 3],
        lse: bool,
    ) -> Result<Vec<ValueId>, GraphError> {
        let Self { lo, hi, extra, bias, scale } = *self;
        let attrs = Attrs::NONE
            .float("scale", scale)
            .int("extra", i64::from(extra.is_some()))
            .int("bias", i64::from(bias.is_some()))
            .int("lse", i64::from(lse));
        let mut inputs = [&qkv[..], &[lo, hi]].concat();
        inputs.extend(extra.into_iter().chain(bias));
        g.composite(&ATTENTION, attrs, &inputs)
    }
}

/// Attention of each query row over its keys.
///
/// Shapes: `q: [tq, h, d]`, `k: [tk, hkv, d]`, `v: [tk, hkv, dv]`, result `[tq, h, dv]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn attention(
    g: &mut Graph,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    options: &AttentionOptions,
) -> Layer {
    let results = options.call(g, [q, k, v], false)?;
    Ok(results[0])
}

/// As [`attention`], with the logarithm of each row's sum of exponentials for its derivative.
///
/// Shapes: as [`attention`]; the second result is `[tq, h]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn attention_with_lse(
    g: &mut Graph,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    options: &AttentionOptions,
) -> Result<[ValueId; 2], GraphError> {
    let results = options.call(g, [q, k, v], true)?;
    Ok([results[0], results[1]])
}

/// What stands for the rows of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// Their mean.
    Mean,
    /// Their sum.
    Sum,
    /// The largest number of each column.
    Max,
    /// The smallest number of each column.
    Min,
    /// The first of them.
    First,
    /// The last of them.
    Last,
}

impl PoolKind {
    /// The value of the attribute `kind`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Sum => "sum",
            Self::Max => "max",
            Self::Min => "min",
            Self::First => "first",
            Self::Last => "last",
        }
    }
}

/// One row for the rows `lo <= j < hi` of each segment; zeros for none.
///
/// Shapes: `x: [t, d]`, `lo` and `hi: i32 [n]`, result `[n, d]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn pool(g: &mut Graph, x: ValueId, lo: ValueId, hi: ValueId, kind: PoolKind) -> Layer {
    g.call(&POOL, Attrs::NONE.word("kind", kind.word()), &[x, lo, hi])
}

/// The row of each segment's first id `eos`, else its last row.
///
/// Shapes: `x: [t, d]`, `ids: i32 [t]`, `lo` and `hi: i32 [n]`, result `[n, d]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn pool_eos(
    g: &mut Graph,
    x: ValueId,
    ids: ValueId,
    lo: ValueId,
    hi: ValueId,
    eos: i32,
) -> Layer {
    g.call(&POOL_EOS, Attrs::NONE.int("eos", i64::from(eos)), &[x, ids, lo, hi])
}

/// Rows of length one.
///
/// Shapes: `x: [.., n]`, result `[.., n]`.
///
/// # Errors
/// When `x` is no float or a scalar.
pub fn l2_normalize(g: &mut Graph, x: ValueId, eps: f64) -> Layer {
    g.call(&L2_NORMALIZE, Attrs::NONE.float("eps", eps), &[x])
}

/// Term weights of each segment, from `chunk_len` rows of logits at a time.
///
/// Shapes: `h: [t, k]`, `w: [v, k]`, `bias: [v]`, `lo` and `hi: i32 [n]`, result `[n, v]` of the
/// wide type.
///
/// # Errors
/// When types or shapes do not fit, or there are more than 256 chunks.
pub fn splade_pool(
    g: &mut Graph,
    h: ValueId,
    [w, bias]: [ValueId; 2],
    lo: ValueId,
    hi: ValueId,
    chunk_len: usize,
) -> Layer {
    let chunk = i64::try_from(chunk_len).unwrap_or(i64::MAX);
    g.call(&SPLADE_POOL, Attrs::NONE.int("chunk", chunk), &[h, w, bias, lo, hi])
}

/// The chosen weights of each row, renormalised, and their indices by decreasing weight.
///
/// Shapes: `q: [n, e]`, results `[n, e]` and `i32 [n, k]`.
///
/// # Errors
/// When `k` is not between one and `e`.
pub fn top_k(g: &mut Graph, q: ValueId, k: usize) -> Result<[ValueId; 2], GraphError> {
    let k = i64::try_from(k).unwrap_or(i64::MAX);
    let results = g.composite(&TOP_K, Attrs::NONE.int("k", k), &[q])?;
    Ok([results[0], results[1]])
}

/// Weights of the gate of a mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateWeights {
    /// Scale of the layer norm, `[d]`.
    pub norm_w: ValueId,
    /// Shift of the layer norm, `[d]`.
    pub norm_b: ValueId,
    /// Projection, `[e, d]`.
    pub w: ValueId,
    /// Its bias, `[e]`.
    pub b: ValueId,
}

/// Smoothed probabilities of the experts.
///
/// Shapes: `x: [n, d]`, result `[n, e]`.
///
/// # Errors
/// When types or shapes do not fit, or the temperature is not above zero.
pub fn gate(
    g: &mut Graph,
    x: ValueId,
    weights: &GateWeights,
    temperature: f64,
    smoothing: f64,
) -> Layer {
    let GateWeights { norm_w, norm_b, w, b } = *weights;
    let attrs = Attrs::NONE.float("temperature", temperature).float("smoothing", smoothing);
    g.call(&GATE, attrs, &[x, norm_w, norm_b, w, b])
}

/// Weights of a mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertWeights {
    /// First layers, `[e, h, d]`.
    pub w1: ValueId,
    /// Their biases, `[e, h]`.
    pub b1: ValueId,
    /// Second layers, `[e, o, h]`.
    pub w2: ValueId,
    /// Their biases, `[e, o]`.
    pub b2: ValueId,
}

/// The weighted sum of the experts.
///
/// Shapes: `x: [n, d]`, `shares: [n, e]`, result `[n, o]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn experts(g: &mut Graph, x: ValueId, shares: ValueId, weights: &ExpertWeights) -> Layer {
    let ExpertWeights { w1, b1, w2, b2 } = *weights;
    g.call(&EXPERTS, Attrs::NONE, &[x, shares, w1, b1, w2, b2])
}

/// Mean negative log-probability of the labels.
///
/// Shapes: `logits: [n, c]`, `labels: i32 [n]`, result `[]`.
///
/// # Errors
/// When types or shapes do not fit.
pub fn cross_entropy(g: &mut Graph, logits: ValueId, labels: ValueId) -> Layer {
    g.call(&CROSS_ENTROPY, Attrs::NONE, &[logits, labels])
}

fn with_optional(
    g: &mut Graph,
    composite: &'static Composite,
    attrs: Attrs,
    inputs: &[ValueId],
    last: Option<ValueId>,
) -> Layer {
    let mut inputs = inputs.to_vec();
    inputs.extend(last);
    g.call(composite, attrs, &inputs)
}
