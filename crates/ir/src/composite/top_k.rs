//! The choice of experts.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, sizes, want_float};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, Fold};

/// The `k` largest weights of each row.
///
/// First result: the chosen weights in their places, divided by their sum, and zero elsewhere.
/// Second: the chosen indices, by decreasing weight. Of equal weights the lower index wins.
/// Attributes: `k: int`. Shapes: `q: [n, e]`, results `[n, e]` and `i32 [n, k]`.
pub static TOP_K: Composite = Composite {
    name: "top_k",
    about: "the k largest of each row, renormalised, and their indices",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = TOP_K.name;
    let [q] = exactly(g, op, inputs)?;
    let k = usize::try_from(attrs.need_int(op, "k")?).unwrap_or(0);
    want_float(g, op, q)?;
    let [n, e] = sizes(g, op, q)?;
    if k == 0 || e < k {
        return Err(g.refuse(op, inputs, "k is not between one and the row's size"));
    }
    let rank = ranks(g, q, n, e)?;
    let chosen = g.with_number(Binary::Lt, rank, k as f64)?;
    let zero = g.scalar(g.ty(q).dtype, 0.0)?;
    let kept = g.select(chosen, q, zero)?;
    let sum = g.reduce_rows(Fold::Sum, kept)?;
    let weights = g.div(kept, sum)?;

    // Index i goes where its rank says: [n, k, e], one hit in each row.
    let place = g.iota(DType::I32, &[n, k, e], 1)?;
    let rank = g.reshape(rank, &[n, 1, e])?;
    let hit = g.binary(Binary::Eq, place, rank)?;
    let index = g.iota(DType::I32, &[n, k, e], 2)?;
    let none = g.scalar(DType::I32, 0.0)?;
    let index = g.select(hit, index, none)?;
    let indices = g.reduce(Fold::Sum, index, 2)?;
    Ok(vec![weights, indices])
}

/// How many numbers of the row come before each: `i32 [n, e]`.
fn ranks(g: &mut Graph, q: ValueId, n: usize, e: usize) -> Result<ValueId, GraphError> {
    let own = g.reshape(q, &[n, e, 1])?;
    let other = g.reshape(q, &[n, 1, e])?;
    let larger = g.binary(Binary::Lt, own, other)?;
    let equal = g.binary(Binary::Eq, own, other)?;
    let own_index = g.iota(DType::I32, &[n, e, e], 1)?;
    let other_index = g.iota(DType::I32, &[n, e, e], 2)?;
    let earlier = g.binary(Binary::Lt, other_index, own_index)?;
    let tied = g.binary(Binary::And, equal, earlier)?;
    let before = g.binary(Binary::Or, larger, tied)?;
    let before = g.cast(before, DType::I32)?;
    g.reduce(Fold::Sum, before, 2)
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, n, e, k) in
        [("four of eight", 5, 8, 4), ("one", 3, 8, 1), ("all", 2, 5, 5), ("single", 1, 1, 1)]
    {
        let mut case = CaseBuilder::new(name);
        let q = case.random_in("q", DType::F32, &[n, e], 0.1, 1.0);
        out.push(case.of(&TOP_K, Attrs::NONE.int("k", k), &[q]));
    }
    let mut case = CaseBuilder::new("ties");
    let q = case.values("q", DType::F32, &[2, 4], &[0.25, 0.25, 0.25, 0.25, 0.1, 0.4, 0.1, 0.4]);
    out.push(case.of(&TOP_K, Attrs::NONE.int("k", 3), &[q]));
    out
}
