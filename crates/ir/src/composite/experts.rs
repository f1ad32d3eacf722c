//! A mixture of expert networks.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::activation::Activation;
use crate::composite::arguments::{exactly, sizes, want_float, want_sizes};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{DotDims, Fold};

/// `Σ weight · (w2 · gelu(w1 · x + b1) + b2)` over the experts, with the tanh GELU.
///
/// The expansion computes every expert. A device may leave out those of weight zero without
/// reading their weights: what is not a number there then does not reach the result.
/// Shapes: `x: [n, d]`, `weights: [n, e]`, `w1: [e, h, d]`, `b1: [e, h]`, `w2: [e, o, h]`,
/// `b2: [e, o]`, result `[n, o]`.
pub static EXPERTS: Composite = Composite {
    name: "experts",
    about: "weighted sum of two-layer networks",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, _attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = EXPERTS.name;
    let [x, weights, w1, b1, w2, b2] = exactly(g, op, inputs)?;
    want_float(g, op, x)?;
    let [n, d] = sizes(g, op, x)?;
    let [e, h, _] = sizes(g, op, w1)?;
    let [_, o, _] = sizes(g, op, w2)?;
    want_sizes(g, op, weights, &[n, e])?;
    want_sizes(g, op, w1, &[e, h, d])?;
    want_sizes(g, op, b1, &[e, h])?;
    want_sizes(g, op, w2, &[e, o, h])?;
    want_sizes(g, op, b2, &[e, o])?;
    let dtype = g.ty(x).dtype;
    let wide = dtype.wide();

    let dims = DotDims { batch: vec![], contract: vec![(1, 2)], out: wide };
    let hidden = g.dot(x, w1, dims)?; // [n, e, h]
    let b1 = g.cast(b1, wide)?;
    let hidden = g.add(hidden, b1)?;
    let hidden = Activation::GeluTanh.apply(g, hidden)?;
    let hidden = g.cast(hidden, dtype)?;

    let dims = DotDims { batch: vec![(1, 0)], contract: vec![(2, 2)], out: wide };
    let each = g.dot(hidden, w2, dims)?; // [e, n, o]
    let b2 = g.cast(b2, wide)?;
    let b2 = g.reshape(b2, &[e, 1, o])?;
    let each = g.add(each, b2)?;
    let weights = g.cast(weights, wide)?;
    let weights = g.permute(weights, &[1, 0])?;
    let weights = g.reshape(weights, &[e, n, 1])?;
    let weighted = g.mul(each, weights)?;
    let sum = g.reduce(Fold::Sum, weighted, 0)?;
    Ok(vec![g.cast(sum, dtype)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    let (f32, bf16) = (DType::F32, DType::BF16);
    for (name, dtype, tolerance, [n, d, e, h, o]) in [
        ("some experts", f32, 1e-5, [4, 6, 3, 5, 2]),
        ("one row", f32, 1e-5, [1, 3, 8, 2, 7]),
        ("one", f32, 1e-5, [3, 2, 1, 3, 1]),
        ("whole pieces", f32, 1e-4, [5, 40, 4, 24, 8]),
        ("bf16", bf16, 2e-2, [9, 16, 4, 8, 24]),
    ] {
        let mut case = CaseBuilder::new(name).tolerance(tolerance);
        let x = case.random("x", dtype, &[n, d]);
        // Every other weight is zero, as after the choice of experts.
        let parts: Vec<f64> = (0..n * e).map(|i| if i % 2 == 0 { 0.5 } else { 0.0 }).collect();
        let weights = case.values("weights", DType::F32, &[n, e], &parts);
        let inputs = [
            x,
            weights,
            case.random("w1", dtype, &[e, h, d]),
            case.random("b1", dtype, &[e, h]),
            case.random("w2", dtype, &[e, o, h]),
            case.random("b2", dtype, &[e, o]),
        ];
        out.push(case.of(&EXPERTS, Attrs::NONE, &inputs));
    }
    out
}
