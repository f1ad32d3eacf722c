//! The gate of SwiGLU feed-forward layers.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::exactly;
use crate::composite::silu::SILU;
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};

/// `silu(gate) · up`.
///
/// Shapes: `gate`, `up` and the result are alike.
pub static SWIGLU: Composite =
    Composite { name: "swiglu", about: "silu(gate) * up", meaning: Meaning::Expand(expand), cases };

fn expand(g: &mut Graph, _attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let [gate, up] = exactly(g, SWIGLU.name, inputs)?;
    if g.ty(gate) != g.ty(up) {
        return Err(g.refuse(SWIGLU.name, inputs, "the two differ in type or shape"));
    }
    let open = g.call(&SILU, Attrs::NONE, &[gate])?;
    Ok(vec![g.mul(open, up)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, sizes) in [("rows", &[4, 16][..]), ("odd", &[3, 2, 7]), ("scalar", &[])] {
        let mut case = CaseBuilder::new(name);
        let gate = case.random_in("gate", DType::F32, sizes, -4.0, 4.0);
        let up = case.random("up", DType::F32, sizes);
        out.push(case.of(&SWIGLU, Attrs::NONE, &[gate, up]));
    }
    out
}
