//! Two linear layers of one input, such as keys and values, whose weights have four bits for each
//! element.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::exactly;
use crate::composite::nf4::{EXTENTS, drawn};
use crate::composite::nf4_linear::NF4_LINEAR;
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};

/// `x · aᵀ` and `x · bᵀ`, the weights unpacked and rounded to the type of `x`.
///
/// Attributes: `n: int`. Shapes: `x: [.., k]`, twice `codes: u8 [⌈n k / 2⌉]` and
/// `scales: f32 [⌈n k / 64⌉]`, two results `[.., n]`.
pub static NF4_PAIR: Composite = Composite {
    name: "nf4_pair",
    about: "two products of one x, both weights codes of four bits and scales",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let [x, a_codes, a_scales, b_codes, b_scales] = exactly(g, NF4_PAIR.name, inputs)?;
    let a = g.call(&NF4_LINEAR, attrs.clone(), &[x, a_codes, a_scales])?;
    Ok(vec![a, g.call(&NF4_LINEAR, attrs.clone(), &[x, b_codes, b_scales])?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, [rows, n, k]) in EXTENTS {
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 2e-3), (DType::BF16, 1e-2)] {
            let mut case = CaseBuilder::new(&format!("{name}, {dtype}")).tolerance(tolerance);
            let x = case.random("x", dtype, &[rows, k]);
            let a = drawn(&mut case, "a", [n, k]);
            let b = drawn(&mut case, "b", [n, k]);
            let attrs = Attrs::NONE.int("n", n as i64);
            out.push(case.of(&NF4_PAIR, attrs, &[x, a[0], a[1], b[0], b[1]]));
        }
    }
    out
}
