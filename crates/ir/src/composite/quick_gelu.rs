//! The GELU of CLIP.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, want_float};
use crate::composite::silu::times_sigmoid;
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};

/// `x · sigmoid(1.702 x)`.
///
/// Shapes: `x` and the result are alike.
pub static QUICK_GELU: Composite = Composite {
    name: "quick_gelu",
    about: "x * sigmoid(1.702 x)",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, _attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let [x] = exactly(g, QUICK_GELU.name, inputs)?;
    want_float(g, QUICK_GELU.name, x)?;
    Ok(vec![times_sigmoid(g, x, 1.702)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, sizes) in [("rows", &[4, 16][..]), ("odd", &[3, 2, 7]), ("scalar", &[])] {
        let mut case = CaseBuilder::new(name);
        let x = case.random_in("x", DType::F32, sizes, -4.0, 4.0);
        out.push(case.of(&QUICK_GELU, Attrs::NONE, &[x]));
    }
    let mut case = CaseBuilder::new("edges");
    let x = case.values("x", DType::F32, &[6], &[0.0, -0.0, 1e4, -1e4, 1e-30, -200.0]);
    out.push(case.of(&QUICK_GELU, Attrs::NONE, &[x]));
    let mut case = CaseBuilder::new("f16").tolerance(2e-3);
    let x = case.random_in("x", DType::F16, &[3, 9], -4.0, 4.0);
    out.push(case.of(&QUICK_GELU, Attrs::NONE, &[x]));
    out
}
