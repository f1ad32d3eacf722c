//! The rectifier.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, want_float};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::Binary;

/// `max(x, 0)`; its derivative at zero is zero.
///
/// Shapes: `x` and the result are alike.
pub static RELU: Composite =
    Composite { name: "relu", about: "max(x, 0)", meaning: Meaning::Expand(expand), cases };

fn expand(g: &mut Graph, _attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let [x] = exactly(g, RELU.name, inputs)?;
    want_float(g, RELU.name, x)?;
    // The zero comes first: where both are equal the derivative goes to the first.
    let zero = g.scalar(g.ty(x).dtype, 0.0)?;
    Ok(vec![g.binary(Binary::Max, zero, x)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, sizes) in [("rows", &[4, 16][..]), ("odd", &[3, 2, 7]), ("scalar", &[])] {
        let mut case = CaseBuilder::new(name);
        let x = case.random_in("x", DType::F32, sizes, -4.0, 4.0);
        out.push(case.of(&RELU, Attrs::NONE, &[x]));
    }
    let mut case = CaseBuilder::new("edges");
    let x = case.values("x", DType::F32, &[6], &[0.0, -0.0, 1e4, -1e4, 1e-30, -200.0]);
    out.push(case.of(&RELU, Attrs::NONE, &[x]));
    let mut case = CaseBuilder::new("f16").tolerance(2e-3);
    let x = case.random_in("x", DType::F16, &[3, 9], -4.0, 4.0);
    out.push(case.of(&RELU, Attrs::NONE, &[x]));
    out
}
