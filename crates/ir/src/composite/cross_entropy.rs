//! The loss of a classifier.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, sizes, want, want_float};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, Fold, Unary};

/// Mean over the rows of `ln Σ e^logit - logit of the label`, in the wide type.
///
/// A row whose label is no class does not count; without any row the loss is zero.
/// Shapes: `logits: [n, c]`, `labels: i32 [n]`, result `[]`.
pub static CROSS_ENTROPY: Composite = Composite {
    name: "cross_entropy",
    about: "mean negative log-probability of the labels",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, _attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = CROSS_ENTROPY.name;
    let [logits, labels] = exactly(g, op, inputs)?;
    want_float(g, op, logits)?;
    let [n, c] = sizes(g, op, logits)?;
    want(g, op, labels, DType::I32, &[n])?;
    let wide = g.ty(logits).dtype.wide();
    let logits = g.cast(logits, wide)?;
    let largest = g.reduce_rows(Fold::Max, logits)?;
    let below = g.sub(logits, largest)?;
    let power = g.unary(Unary::Exp, below)?;
    let sum = g.reduce_rows(Fold::Sum, power)?;
    let log = g.unary(Unary::Log, sum)?;

    let class = g.iota(DType::I32, &[n, c], 1)?;
    let labels = g.reshape(labels, &[n, 1])?;
    let is_label = g.binary(Binary::Eq, class, labels)?;
    let zero = g.scalar(wide, 0.0)?;
    let picked = g.select(is_label, below, zero)?;
    let picked = g.reduce_rows(Fold::Sum, picked)?;
    let each = g.sub(log, picked)?;

    let lowest = g.with_number(Binary::Max, labels, 0.0)?;
    let from = g.binary(Binary::Eq, lowest, labels)?;
    let to = g.with_number(Binary::Lt, labels, c as f64)?;
    let counts = g.binary(Binary::And, from, to)?;
    let each = g.select(counts, each, zero)?;
    let counts = g.cast(counts, wide)?;
    let count = total(g, counts)?;
    let count = g.with_number(Binary::Max, count, 1.0)?;
    let sum = total(g, each)?;
    Ok(vec![g.div(sum, count)?])
}

/// The sum of `x: [n, 1]`, a scalar.
fn total(g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    let sum = g.reduce(Fold::Sum, x, 0)?;
    g.reshape(sum, &[])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, c, labels) in [
        ("classes", 10, &[3, 0, 9, 3][..]),
        ("rows that do not count", 5, &[-100, 4, 5, 0, 2]),
        ("nothing counts", 3, &[-1, 7]),
        ("one class", 1, &[0, 0, 0]),
    ] {
        let mut case = CaseBuilder::new(name);
        let logits = case.random_in("logits", DType::F32, &[labels.len(), c], -3.0, 3.0);
        let labels = case.indices("labels", labels);
        out.push(case.of(&CROSS_ENTROPY, Attrs::NONE, &[logits, labels]));
    }
    out
}
