//! Pooling of the rows of each segment.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, sizes, want, want_float};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, Fold};

/// One row for the rows `lo <= j < hi` of each segment; an empty segment gives zeros.
///
/// Attributes: `kind: word`: `mean`, `sum`, `max`, `min`, `first` or `last`. Shapes: `x: [t, d]`,
/// `lo` and `hi: i32 [n]`, result `[n, d]`.
pub static POOL: Composite = Composite {
    name: "pool",
    about: "one row for the rows of each segment",
    meaning: Meaning::Expand(expand),
    cases,
};

/// The rows of each segment, cut to those that exist.
pub(crate) struct Segments {
    /// Number of segments.
    pub(crate) n: usize,
    /// First row, `i32 [n]`.
    pub(crate) lo: ValueId,
    /// One past the last row, `i32 [n]`.
    pub(crate) hi: ValueId,
}

impl Segments {
    /// Segments of `t` rows.
    pub(crate) fn new(
        g: &mut Graph,
        op: &'static str,
        t: usize,
        lo: ValueId,
        hi: ValueId,
    ) -> Result<Self, GraphError> {
        let [n] = sizes(g, op, lo)?;
        want(g, op, lo, DType::I32, &[n])?;
        want(g, op, hi, DType::I32, &[n])?;
        let lo = g.with_number(Binary::Max, lo, 0.0)?;
        let hi = g.with_number(Binary::Min, hi, t as f64)?;
        Ok(Self { n, lo, hi })
    }

    /// Whether row `j` belongs to segment `i`: `bool [n, t]`.
    pub(crate) fn mask(&self, g: &mut Graph, t: usize) -> Result<ValueId, GraphError> {
        let row = g.iota(DType::I32, &[self.n, t], 1)?;
        let lo = g.reshape(self.lo, &[self.n, 1])?;
        let hi = g.reshape(self.hi, &[self.n, 1])?;
        let from = g.binary(Binary::Le, lo, row)?;
        let below = g.binary(Binary::Lt, row, hi)?;
        g.binary(Binary::And, from, below)
    }

    /// Row `index[i]` of `x` for each segment `i` that has rows, else zeros: [n, d].
    pub(crate) fn pick(
        &self,
        g: &mut Graph,
        x: ValueId,
        index: ValueId,
    ) -> Result<ValueId, GraphError> {
        let rows = g.gather(x, 0, index)?;
        self.or_zero(g, rows)
    }

    /// `rows: [n, d]` with zeros for empty segments.
    fn or_zero(&self, g: &mut Graph, rows: ValueId) -> Result<ValueId, GraphError> {
        let has_rows = g.binary(Binary::Lt, self.lo, self.hi)?;
        let has_rows = g.reshape(has_rows, &[self.n, 1])?;
        let zero = g.scalar(g.ty(rows).dtype, 0.0)?;
        g.select(has_rows, rows, zero)
    }
}

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = POOL.name;
    let [x, lo, hi] = exactly(g, op, inputs)?;
    let kind = attrs.need_word(op, "kind")?;
    want_float(g, op, x)?;
    let [t, _] = sizes(g, op, x)?;
    let segments = Segments::new(g, op, t, lo, hi)?;
    let dtype = g.ty(x).dtype;
    let lowest = f64::from(f32::MIN);
    let y = match kind {
        "sum" => fold(g, &segments, x, Fold::Sum, 0.0)?,
        "mean" => {
            let sum = fold(g, &segments, x, Fold::Sum, 0.0)?;
            let count = g.sub(segments.hi, segments.lo)?;
            let count = g.with_number(Binary::Max, count, 1.0)?;
            let count = g.cast(count, dtype.wide())?;
            let count = g.reshape(count, &[segments.n, 1])?;
            g.div(sum, count)?
        }
        "max" => {
            let rows = fold(g, &segments, x, Fold::Max, lowest)?;
            segments.or_zero(g, rows)?
        }
        "min" => {
            let rows = fold(g, &segments, x, Fold::Min, -lowest)?;
            segments.or_zero(g, rows)?
        }
        "first" => segments.pick(g, x, segments.lo)?,
        "last" => {
            let last = g.with_number(Binary::Sub, segments.hi, 1.0)?;
            segments.pick(g, x, last)?
        }
        _ => return Err(GraphError::Attribute { op, name: "kind" }),
    };
    Ok(vec![g.cast(y, dtype)?])
}

/// The rows of each segment folded in the wide type; the others count as `neutral`.
fn fold(
    g: &mut Graph,
    segments: &Segments,
    x: ValueId,
    fold: Fold,
    neutral: f64,
) -> Result<ValueId, GraphError> {
    let [t, d] = sizes(g, POOL.name, x)?;
    let wide = g.ty(x).dtype.wide();
    let mask = segments.mask(g, t)?;
    let mask = g.reshape(mask, &[segments.n, t, 1])?;
    let x = g.cast(x, wide)?;
    let x = g.reshape(x, &[1, t, d])?;
    let neutral = g.scalar(wide, neutral)?;
    let kept = g.select(mask, x, neutral)?;
    g.reduce(fold, kept, 1)
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for kind in ["mean", "sum", "max", "min", "first", "last"] {
        let attrs = Attrs::NONE.word("kind", kind);
        let mut case = CaseBuilder::new(&format!("{kind} of packed rows"));
        let x = case.random("x", DType::F32, &[9, 5]);
        let lo = case.indices("lo", &[0, 3, 4, 9]);
        let hi = case.indices("hi", &[3, 4, 9, 9]);
        out.push(case.of(&POOL, attrs.clone(), &[x, lo, hi]));
        let mut case = CaseBuilder::new(&format!("{kind} of overlapping and absent rows"));
        let x = case.random("x", DType::F32, &[4, 3]);
        let lo = case.indices("lo", &[-2, 1, 3, 2]);
        let hi = case.indices("hi", &[2, 100, 1, 2]);
        out.push(case.of(&POOL, attrs.clone(), &[x, lo, hi]));
        let mut case = CaseBuilder::new(&format!("{kind} of f16")).tolerance(2e-3);
        let x = case.random("x", DType::F16, &[6, 8]);
        let lo = case.indices("lo", &[0, 6]);
        let hi = case.indices("hi", &[6, 6]);
        out.push(case.of(&POOL, attrs, &[x, lo, hi]));
    }
    out
}
