//! The gated first half of a feed-forward layer whose weights have four bits for each element.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, row_len, want_float};
use crate::composite::nf4::{EXTENTS, Nf4Weight, drawn, extent, product, unpack};
use crate::composite::swiglu::SWIGLU;
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};

/// `silu(x · gateᵀ) · (x · upᵀ)` in the wide type, the weights rounded to the type of `x`.
///
/// Attributes: `n: int`. Shapes: `x: [.., k]`, twice (gate, up) `codes: u8 [⌈n k / 2⌉]` and
/// `scales: f32 [⌈n k / 64⌉]`, result `[.., n]`.
pub static NF4_SWIGLU: Composite = Composite {
    name: "nf4_swiglu",
    about: "silu(x gateᵀ) * (x upᵀ), both weights codes of four bits and scales",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = NF4_SWIGLU.name;
    let [x, gate_codes, gate_scales, up_codes, up_scales] = exactly(g, op, inputs)?;
    want_float(g, op, x)?;
    let sizes = [extent(attrs, op, "n")?, row_len(g, op, x)?];
    let dtype = g.ty(x).dtype;
    let wide = g.cast(x, dtype.wide())?;
    let mut products = Vec::with_capacity(2);
    for (codes, scales) in [(gate_codes, gate_scales), (up_codes, up_scales)] {
        let w = unpack(g, op, Nf4Weight { codes, scales }, sizes, dtype)?;
        let w = g.cast(w, dtype.wide())?;
        products.push(product(g, wide, w)?);
    }
    let y = g.call(&SWIGLU, Attrs::NONE, &products)?;
    Ok(vec![g.cast(y, dtype)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, [rows, n, k]) in EXTENTS {
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 4e-3), (DType::BF16, 2e-2)] {
            let mut case = CaseBuilder::new(&format!("{name}, {dtype}")).tolerance(tolerance);
            let x = case.random("x", dtype, &[rows, k]);
            let gate = drawn(&mut case, "gate", [n, k]);
            let up = drawn(&mut case, "up", [n, k]);
            let attrs = Attrs::NONE.int("n", n as i64);
            out.push(case.of(&NF4_SWIGLU, attrs, &[x, gate[0], gate[1], up[0], up[1]]));
        }
    }
    out
}
