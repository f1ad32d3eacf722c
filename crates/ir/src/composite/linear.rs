//! The linear layer with its activation.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::activation::Activation;
use crate::composite::arguments::{one_optional, row_len, want_float, want_sizes};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::DotDims;

/// `activation(x · wᵀ + bias)`, summed and bent in the wide type.
///
/// Attributes: `activation: word`. Shapes: `x: [.., k]`, `w: [n, k]` of the type of `x`, optional
/// `bias: [n]`, result `[.., n]`.
pub static LINEAR: Composite = Composite {
    name: "linear",
    about: "x times the transposed weight, plus a bias, through an activation",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = LINEAR.name;
    let ([x, w], bias) = one_optional(g, op, inputs)?;
    let activation = Activation::of(attrs, op)?;
    want_float(g, op, x)?;
    let len = row_len(g, op, x)?;
    let [n, k] = *g.shape(w).sizes() else {
        return Err(g.refuse(op, inputs, "the weight has not two dimensions"));
    };
    if k != len {
        return Err(g.refuse(op, inputs, "the rows of x and of the weight differ in size"));
    }
    let dtype = g.ty(x).dtype;
    let last = g.shape(x).rank() - 1;
    let dims = DotDims { batch: vec![], contract: vec![(last, 1)], out: dtype.wide() };
    let mut y = g.dot(x, w, dims)?;
    if let Some(bias) = bias {
        want_sizes(g, op, bias, &[n])?;
        let bias = g.cast(bias, dtype.wide())?;
        y = g.add(y, bias)?;
    }
    let y = activation.apply(g, y)?;
    Ok(vec![g.cast(y, dtype)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for activation in Activation::ALL {
        let mut case = CaseBuilder::new(activation.word());
        let x = case.random("x", DType::F32, &[5, 8]);
        let w = case.random("w", DType::F32, &[6, 8]);
        let bias = case.random("bias", DType::F32, &[6]);
        let attrs = Attrs::NONE.word("activation", activation.word());
        out.push(case.of(&LINEAR, attrs, &[x, w, bias]));
    }
    let attrs = Attrs::NONE.word("activation", "none");
    for (name, sizes, n) in
        [("no bias", &[4, 16][..], 16), ("odd", &[3, 2, 7], 5), ("vector", &[9], 1)]
    {
        let mut case = CaseBuilder::new(name);
        let x = case.random("x", DType::F32, sizes);
        let w = case.random("w", DType::F32, &[n, sizes[sizes.len() - 1]]);
        out.push(case.of(&LINEAR, attrs.clone(), &[x, w]));
    }
    let mut case = CaseBuilder::new("bf16").tolerance(2e-2);
    let x = case.random("x", DType::BF16, &[17, 33]);
    let w = case.random("w", DType::BF16, &[9, 33]);
    let bias = case.random("bias", DType::BF16, &[9]);
    out.push(case.of(&LINEAR, attrs, &[x, w, bias]));
    out
}
