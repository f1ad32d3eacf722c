//! Rows of length one.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, row_len, want_float};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, Fold, Unary};

/// `x / max(‖x‖, eps)` over the last axis. The derivative of a row shorter than `eps` is that of
/// `x / eps`.
///
/// Attributes: `eps: float`; its square must not vanish in `f32`. Shapes: `x` and the result are
/// `[.., n]`.
pub static L2_NORMALIZE: Composite = Composite {
    name: "l2_normalize",
    about: "rows divided by their Euclidean length",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = L2_NORMALIZE.name;
    let [x] = exactly(g, op, inputs)?;
    let eps = attrs.need_float(op, "eps")?;
    want_float(g, op, x)?;
    row_len(g, op, x)?;
    let dtype = g.ty(x).dtype;
    let x = g.cast(x, dtype.wide())?;
    let square = g.mul(x, x)?;
    let sum = g.reduce_rows(Fold::Sum, square)?;
    // The maximum comes before the root, whose derivative at zero is infinite.
    let sum = g.with_number(Binary::Max, sum, eps * eps)?;
    let length = g.unary(Unary::Sqrt, sum)?;
    let y = g.div(x, length)?;
    Ok(vec![g.cast(y, dtype)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, sizes) in [("rows", &[4, 16][..]), ("odd", &[2, 3, 7]), ("vector", &[129])] {
        let mut case = CaseBuilder::new(name);
        let x = case.random_in("x", DType::F32, sizes, -3.0, 3.0);
        out.push(case.of(&L2_NORMALIZE, Attrs::NONE.float("eps", 1e-12), &[x]));
    }
    let mut case = CaseBuilder::new("shorter than eps");
    let x = case.random_in("x", DType::F32, &[3, 4], -0.1, 0.1);
    out.push(case.of(&L2_NORMALIZE, Attrs::NONE.float("eps", 0.5), &[x]));
    let mut case = CaseBuilder::new("zeros");
    let x = case.values("x", DType::F32, &[2, 2], &[0.0, 0.0, 3.0, 4.0]);
    out.push(case.of(&L2_NORMALIZE, Attrs::NONE.float("eps", 1e-8), &[x]));
    let mut case = CaseBuilder::new("f16").tolerance(2e-3);
    let x = case.random("x", DType::F16, &[3, 5]);
    out.push(case.of(&L2_NORMALIZE, Attrs::NONE.float("eps", 1e-8), &[x]));
    out
}
