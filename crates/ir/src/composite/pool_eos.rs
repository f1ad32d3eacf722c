//! Pooling at the end-of-text token.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, sizes, want, want_float};
use crate::composite::pool::Segments;
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, Fold};

/// The row of each segment's first id that is `eos`, else the segment's last row; an empty
/// segment gives zeros.
///
/// Attributes: `eos: int`. Shapes: `x: [t, d]`, `ids: i32 [t]`, `lo` and `hi: i32 [n]`, result
/// `[n, d]`.
pub static POOL_EOS: Composite = Composite {
    name: "pool_eos",
    about: "the row of each segment's first end-of-text token",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = POOL_EOS.name;
    let [x, ids, lo, hi] = exactly(g, op, inputs)?;
    let eos = attrs.need_int(op, "eos")?;
    want_float(g, op, x)?;
    let [t, _] = sizes(g, op, x)?;
    want(g, op, ids, DType::I32, &[t])?;
    let segments = Segments::new(g, op, t, lo, hi)?;
    let n = segments.n;
    let inside = segments.mask(g, t)?;
    let is_eos = g.with_number(Binary::Eq, ids, eos as f64)?;
    let is_eos = g.reshape(is_eos, &[1, t])?;
    let found = g.binary(Binary::And, inside, is_eos)?;
    let row = g.iota(DType::I32, &[n, t], 1)?;
    let last = g.with_number(Binary::Sub, segments.hi, 1.0)?;
    let last = g.reshape(last, &[n, 1])?;
    // No row of the segment lies behind its last, so the smallest is right in both cases.
    let row = g.select(found, row, last)?;
    let first = g.reduce(Fold::Min, row, 1)?;
    Ok(vec![segments.pick(g, x, first)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, ids, lo, hi) in [
        ("first of several", &[5, 9, 9, 1, 9, 2, 3][..], &[0, 3, 5][..], &[3, 5, 7][..]),
        ("none, empty, outside", &[1, 2, 3, 9], &[0, 2, 1], &[3, 2, 50]),
    ] {
        let mut case = CaseBuilder::new(name);
        let x = case.random("x", DType::F32, &[ids.len(), 3]);
        let inputs = [x, case.indices("ids", ids), case.indices("lo", lo), case.indices("hi", hi)];
        out.push(case.of(&POOL_EOS, Attrs::NONE.int("eos", 9), &inputs));
    }
    out
}
