//! A linear layer whose weight has four bits for each element.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, row_len, want_float};
use crate::composite::nf4::{EXTENTS, Nf4Weight, drawn, extent, product, unpack};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};

/// `x · wᵀ`, the weight unpacked and rounded to the type of `x`.
///
/// Attributes: `n: int`. Shapes: `x: [.., k]`, `codes: u8 [⌈n k / 2⌉]`,
/// `scales: f32 [⌈n k / 64⌉]`, result `[.., n]`.
pub static NF4_LINEAR: Composite = Composite {
    name: "nf4_linear",
    about: "x times the transposed weight, which is codes of four bits and scales",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = NF4_LINEAR.name;
    let [x, codes, scales] = exactly(g, op, inputs)?;
    want_float(g, op, x)?;
    let sizes = [extent(attrs, op, "n")?, row_len(g, op, x)?];
    let dtype = g.ty(x).dtype;
    let w = unpack(g, op, Nf4Weight { codes, scales }, sizes, dtype)?;
    Ok(vec![product(g, x, w)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, [rows, n, k]) in EXTENTS {
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 2e-3), (DType::BF16, 1e-2)] {
            let mut case = CaseBuilder::new(&format!("{name}, {dtype}")).tolerance(tolerance);
            let x = case.random("x", dtype, &[rows, k]);
            let [codes, scales] = drawn(&mut case, "w", [n, k]);
            let attrs = Attrs::NONE.int("n", n as i64);
            out.push(case.of(&NF4_LINEAR, attrs, &[x, codes, scales]));
        }
    }
    let mut case = CaseBuilder::new("more dimensions");
    let x = case.random("x", DType::F32, &[2, 3, 64]);
    let [codes, scales] = drawn(&mut case, "w", [5, 64]);
    out.push(case.of(&NF4_LINEAR, Attrs::NONE.int("n", 5), &[x, codes, scales]));
    out
}
