//! Root-mean-square normalisation.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, row_len, want_float, want_sizes};
use crate::composite::layer_norm::inverse_root_mean_square;
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};

/// `x / sqrt(mean(x²) + eps) · weight` over the last axis.
///
/// Attributes: `eps: float`. Shapes: `x: [.., n]`, `weight: [n]`, result `[.., n]`.
pub static RMS_NORM: Composite = Composite {
    name: "rms_norm",
    about: "rows divided by their root mean square and scaled",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = RMS_NORM.name;
    let [x, weight] = exactly(g, op, inputs)?;
    let eps = attrs.need_float(op, "eps")?;
    want_float(g, op, x)?;
    let len = row_len(g, op, x)?;
    want_sizes(g, op, weight, &[len])?;
    let dtype = g.ty(x).dtype;
    let x = g.cast(x, dtype.wide())?;
    let scale = inverse_root_mean_square(g, x, len, eps)?;
    let unit = g.mul(x, scale)?;
    let weight = g.cast(weight, dtype.wide())?;
    let y = g.mul(unit, weight)?;
    Ok(vec![g.cast(y, dtype)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, sizes) in [("rows", &[4, 16][..]), ("odd", &[2, 3, 7]), ("one", &[3, 1])] {
        let mut case = CaseBuilder::new(name);
        let x = case.random_in("x", DType::F32, sizes, -3.0, 5.0);
        let weight = case.random("weight", DType::F32, &sizes[sizes.len() - 1..]);
        out.push(case.of(&RMS_NORM, Attrs::NONE.float("eps", 1e-6), &[x, weight]));
    }
    let mut case = CaseBuilder::new("bf16").tolerance(2e-2);
    let x = case.random("x", DType::BF16, &[3, 10]);
    let weight = case.random("weight", DType::BF16, &[10]);
    out.push(case.of(&RMS_NORM, Attrs::NONE.float("eps", 1e-6), &[x, weight]));
    out
}
