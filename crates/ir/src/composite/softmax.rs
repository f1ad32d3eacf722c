//! Softmax over the last axis.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, row_len, want_float};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Fold, Unary};

/// `e^x` over the sum of its row, the row's largest number taken away first.
///
/// Shapes: `x: [.., n]`, result `[.., n]`.
pub static SOFTMAX: Composite = Composite {
    name: "softmax",
    about: "e^x divided by its sum over the last axis",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, _attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let [x] = exactly(g, SOFTMAX.name, inputs)?;
    want_float(g, SOFTMAX.name, x)?;
    row_len(g, SOFTMAX.name, x)?;
    let dtype = g.ty(x).dtype;
    let x = g.cast(x, dtype.wide())?;
    let largest = g.reduce_rows(Fold::Max, x)?;
    let below = g.sub(x, largest)?;
    let power = g.unary(Unary::Exp, below)?;
    let sum = g.reduce_rows(Fold::Sum, power)?;
    let share = g.div(power, sum)?;
    Ok(vec![g.cast(share, dtype)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, sizes) in
        [("rows", &[4, 16][..]), ("odd", &[3, 2, 7]), ("one", &[5, 1]), ("vector", &[33])]
    {
        let mut case = CaseBuilder::new(name);
        let x = case.random_in("x", DType::F32, sizes, -4.0, 4.0);
        out.push(case.of(&SOFTMAX, Attrs::NONE, &[x]));
    }
    let mut case = CaseBuilder::new("large numbers");
    let x = case.values("x", DType::F32, &[2, 3], &[1000.0, 999.0, -1000.0, -5e8, -5e8, 0.0]);
    out.push(case.of(&SOFTMAX, Attrs::NONE, &[x]));
    let mut case = CaseBuilder::new("bf16").tolerance(1e-2);
    let x = case.random_in("x", DType::BF16, &[3, 9], -4.0, 4.0);
    out.push(case.of(&SOFTMAX, Attrs::NONE, &[x]));
    out
}
