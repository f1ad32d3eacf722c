//! The head of SPLADE: term weights of each segment.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, sizes, want_float};
use crate::composite::linear::LINEAR;
use crate::composite::pool::POOL;
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, Unary};
use crate::shape::Shape;

/// Most chunks: each is a handful of nodes.
const CHUNK_COUNT_MAX: usize = 256;

/// `ln(1 + max(0, largest logit of the segment's rows))` for each term.
///
/// The logits `h · wᵀ + bias` exist for `chunk` rows at a time.
/// Attributes: `chunk: int`, rows. Shapes: `h: [t, k]`, `w: [v, k]`, `bias: [v]`, `lo` and
/// `hi: i32 [n]`, result `[n, v]` of the wide type.
pub static SPLADE_POOL: Composite = Composite {
    name: "splade_pool",
    about: "log-saturated largest logit of each term over the rows of a segment",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = SPLADE_POOL.name;
    let [h, w, bias, lo, hi] = exactly(g, op, inputs)?;
    let chunk = usize::try_from(attrs.need_int(op, "chunk")?).unwrap_or(0);
    let [t, _] = sizes(g, op, h)?;
    let [v, _] = sizes(g, op, w)?;
    let [n] = sizes(g, op, lo)?;
    want_float(g, op, h)?;
    if chunk == 0 || CHUNK_COUNT_MAX < t.div_ceil(chunk) {
        return Err(g.refuse(op, inputs, "the chunks are empty or too many"));
    }
    let dtype = g.ty(h).dtype;
    let zero = g.scalar(dtype, 0.0)?;
    let terms = Shape::try_new(&[n, v]);
    let terms = terms.ok_or_else(|| g.refuse(op, inputs, "the result is too large"))?;
    let mut best = g.broadcast_to(zero, terms)?;
    let plain = Attrs::NONE.word("activation", "none");
    for start in (0..t).step_by(chunk) {
        let rows = g.slice(h, 0, start, t.min(start + chunk))?;
        let logits = g.call(&LINEAR, plain.clone(), &[rows, w, bias])?;
        let lo = g.with_number(Binary::Sub, lo, start as f64)?;
        let hi = g.with_number(Binary::Sub, hi, start as f64)?;
        let largest = g.call(&POOL, Attrs::NONE.word("kind", "max"), &[logits, lo, hi])?;
        best = g.binary(Binary::Max, best, largest)?;
    }
    let best = g.cast(best, dtype.wide())?;
    let lifted = g.with_number(Binary::Add, best, 1.0)?;
    Ok(vec![g.unary(Unary::Log, lifted)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, t, k, v, chunk, lo, hi) in [
        ("one chunk", 5, 4, 6, 8, &[0, 3][..], &[3, 5][..]),
        ("three chunks", 8, 3, 5, 3, &[0, 2, 7], &[2, 7, 8]),
        ("empty and absent rows", 4, 3, 7, 2, &[0, 2, -1], &[0, 100, 1]),
        ("whole pieces", 40, 24, 10, 16, &[0, 7, 33], &[7, 40, 20]),
    ] {
        // Rows of whole pieces may go through tensor cores.
        let mut case = CaseBuilder::new(name).tolerance(if k % 8 == 0 { 1e-4 } else { 1e-5 });
        let h = case.random_in("h", DType::F32, &[t, k], -2.0, 2.0);
        let w = case.random("w", DType::F32, &[v, k]);
        let bias = case.random("bias", DType::F32, &[v]);
        let inputs = [h, w, bias, case.indices("lo", lo), case.indices("hi", hi)];
        out.push(case.of(&SPLADE_POOL, Attrs::NONE.int("chunk", chunk), &inputs));
    }
    out
}
