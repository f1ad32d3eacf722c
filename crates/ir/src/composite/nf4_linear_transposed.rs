//! The product with a weight of four bits for each element as it lies: the way back through
//! [`NF4_LINEAR`](super::nf4_linear::NF4_LINEAR).

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, row_len, want_float};
use crate::composite::nf4::{EXTENTS, Nf4Weight, drawn, extent, product, unpack};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};

/// `x · w`, the weight unpacked and rounded to the type of `x`.
///
/// Attributes: `k: int`. Shapes: `x: [.., n]`, `codes: u8 [⌈n k / 2⌉]`,
/// `scales: f32 [⌈n k / 64⌉]`, result `[.., k]`.
pub static NF4_LINEAR_TRANSPOSED: Composite = Composite {
    name: "nf4_linear_transposed",
    about: "x times the weight, which is codes of four bits and scales",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = NF4_LINEAR_TRANSPOSED.name;
    let [x, codes, scales] = exactly(g, op, inputs)?;
    want_float(g, op, x)?;
    let sizes = [row_len(g, op, x)?, extent(attrs, op, "k")?];
    let dtype = g.ty(x).dtype;
    let w = unpack(g, op, Nf4Weight { codes, scales }, sizes, dtype)?;
    let w = g.permute(w, &[1, 0])?;
    Ok(vec![product(g, x, w)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, [rows, n, k]) in EXTENTS {
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 2e-3), (DType::BF16, 1e-2)] {
            let mut case = CaseBuilder::new(&format!("{name}, {dtype}")).tolerance(tolerance);
            let x = case.random("x", dtype, &[rows, n]);
            let [codes, scales] = drawn(&mut case, "w", [n, k]);
            let attrs = Attrs::NONE.int("k", k as i64);
            out.push(case.of(&NF4_LINEAR_TRANSPOSED, attrs, &[x, codes, scales]));
        }
    }
    out
}
