//! Layer normalisation.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{one_optional, row_len, want_float, want_sizes};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, Fold, Unary};

/// `(x - mean) / sqrt(variance + eps) · weight + bias` over the last axis.
///
/// The variance is the biased one and is taken in a second pass, from the centred row.
/// Attributes: `eps: float`. Shapes: `x: [.., n]`, `weight: [n]`, optional `bias: [n]`, result
/// `[.., n]`.
pub static LAYER_NORM: Composite = Composite {
    name: "layer_norm",
    about: "rows centred, divided by their standard deviation, scaled and shifted",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = LAYER_NORM.name;
    let ([x, weight], bias) = one_optional(g, op, inputs)?;
    let eps = attrs.need_float(op, "eps")?;
    want_float(g, op, x)?;
    let len = row_len(g, op, x)?;
    want_sizes(g, op, weight, &[len])?;
    let dtype = g.ty(x).dtype;
    let x = g.cast(x, dtype.wide())?;
    let mean = row_mean(g, x, len)?;
    let centred = g.sub(x, mean)?;
    let scale = inverse_root_mean_square(g, centred, len, eps)?;
    let unit = g.mul(centred, scale)?;
    let weight = g.cast(weight, dtype.wide())?;
    let mut y = g.mul(unit, weight)?;
    if let Some(bias) = bias {
        want_sizes(g, op, bias, &[len])?;
        let bias = g.cast(bias, dtype.wide())?;
        y = g.add(y, bias)?;
    }
    Ok(vec![g.cast(y, dtype)?])
}

/// `1 / sqrt(mean of x² + eps)` of each row; the last axis stays with size one.
pub(crate) fn inverse_root_mean_square(
    g: &mut Graph,
    x: ValueId,
    len: usize,
    eps: f64,
) -> Result<ValueId, GraphError> {
    let square = g.mul(x, x)?;
    let mean = row_mean(g, square, len)?;
    let padded = g.with_number(Binary::Add, mean, eps)?;
    let root = g.unary(Unary::Sqrt, padded)?;
    let one = g.scalar(g.ty(x).dtype, 1.0)?;
    g.div(one, root)
}

fn row_mean(g: &mut Graph, x: ValueId, len: usize) -> Result<ValueId, GraphError> {
    let sum = g.reduce_rows(Fold::Sum, x)?;
    g.with_number(Binary::Mul, sum, 1.0 / len.max(1) as f64)
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    let eps = |eps| Attrs::NONE.float("eps", eps);
    for (name, sizes) in [("rows", &[4, 16][..]), ("odd", &[2, 3, 7]), ("vector", &[37])] {
        let mut case = CaseBuilder::new(name).tolerance(1e-4);
        let n = sizes[sizes.len() - 1];
        let x = case.random_in("x", DType::F32, sizes, -3.0, 5.0);
        let weight = case.random("weight", DType::F32, &[n]);
        let bias = case.random("bias", DType::F32, &[n]);
        out.push(case.of(&LAYER_NORM, eps(1e-12), &[x, weight, bias]));
    }
    let mut case = CaseBuilder::new("no bias").tolerance(1e-4);
    let x = case.random("x", DType::F32, &[5, 8]);
    let weight = case.random("weight", DType::F32, &[8]);
    out.push(case.of(&LAYER_NORM, eps(1e-5), &[x, weight]));
    // The two-pass form keeps digits where the mean is far larger than the spread.
    let mut case = CaseBuilder::new("far from zero").tolerance(1e-2);
    let x = case.random_in("x", DType::F32, &[2, 64], 1000.0, 1001.0);
    let weight = case.random("weight", DType::F32, &[64]);
    case.constant("x");
    out.push(case.of(&LAYER_NORM, eps(1e-5), &[x, weight]));
    let mut case = CaseBuilder::new("f16 rows, f32 weights").tolerance(1e-2);
    let x = case.random("x", DType::F16, &[3, 10]);
    let weight = case.random("weight", DType::F32, &[10]);
    let bias = case.random("bias", DType::F32, &[10]);
    case.constant("weight");
    case.constant("bias");
    out.push(case.of(&LAYER_NORM, eps(1e-5), &[x, weight, bias]));
    out
}
