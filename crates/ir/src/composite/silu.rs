//! The sigmoid-weighted linear unit.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, want_float};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, Unary};

/// `x · sigmoid(x)`.
///
/// Shapes: `x` and the result are alike.
pub static SILU: Composite =
    Composite { name: "silu", about: "x * sigmoid(x)", meaning: Meaning::Expand(expand), cases };

fn expand(g: &mut Graph, _attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let [x] = exactly(g, SILU.name, inputs)?;
    want_float(g, SILU.name, x)?;
    Ok(vec![times_sigmoid(g, x, 1.0)?])
}

/// `x · sigmoid(slope · x)`, kept in the wide type in between.
pub(crate) fn times_sigmoid(g: &mut Graph, x: ValueId, slope: f64) -> Result<ValueId, GraphError> {
    let dtype = g.ty(x).dtype;
    let x = g.cast(x, dtype.wide())?;
    let exponent = g.with_number(Binary::Mul, x, -slope)?;
    // Beyond this the result is zero anyway, and an infinite power would spoil the derivative.
    let exponent = g.with_number(Binary::Min, exponent, 80.0)?;
    let power = g.unary(Unary::Exp, exponent)?;
    let below = g.with_number(Binary::Add, power, 1.0)?;
    let y = g.div(x, below)?;
    g.cast(y, dtype)
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, sizes) in [("rows", &[4, 16][..]), ("odd", &[3, 2, 7]), ("scalar", &[])] {
        let mut case = CaseBuilder::new(name);
        let x = case.random_in("x", DType::F32, sizes, -4.0, 4.0);
        out.push(case.of(&SILU, Attrs::NONE, &[x]));
    }
    let mut case = CaseBuilder::new("edges");
    let x = case.values("x", DType::F32, &[6], &[0.0, -0.0, 1e4, -1e4, 1e-30, -200.0]);
    out.push(case.of(&SILU, Attrs::NONE, &[x]));
    let mut case = CaseBuilder::new("f16").tolerance(2e-3);
    let x = case.random_in("x", DType::F16, &[3, 9], -4.0, 4.0);
    out.push(case.of(&SILU, Attrs::NONE, &[x]));
    out
}
