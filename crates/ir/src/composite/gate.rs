//! The gate of a mixture of experts.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, sizes};
use crate::composite::layer_norm::LAYER_NORM;
use crate::composite::linear::LINEAR;
use crate::composite::softmax::SOFTMAX;
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::Binary;

/// What the layer norm of the gate adds to the variance.
const NORM_EPS: f64 = 1e-5;

/// `(softmax((LN(x) · wᵀ + b) / temperature) + smoothing) / (1 + e · smoothing)`.
///
/// Attributes: `temperature: float`, above zero; `smoothing: float`, zero for none. Shapes:
/// `x: [n, d]`, `norm_w` and `norm_b: [d]`, `w: [e, d]`, `b: [e]`, result `[n, e]`.
pub static GATE: Composite = Composite {
    name: "gate",
    about: "smoothed probabilities of the experts",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = GATE.name;
    let [x, norm_w, norm_b, w, b] = exactly(g, op, inputs)?;
    let temperature = attrs.need_float(op, "temperature")?;
    let smoothing = attrs.need_float(op, "smoothing")?;
    if temperature.is_nan() || temperature <= 0.0 {
        return Err(GraphError::Attribute { op, name: "temperature" });
    }
    let [_, _] = sizes(g, op, x)?;
    let [e, _] = sizes(g, op, w)?;
    let attrs = Attrs::NONE.float("eps", NORM_EPS);
    let normal = g.call(&LAYER_NORM, attrs, &[x, norm_w, norm_b])?;
    let logits = g.call(&LINEAR, Attrs::NONE.word("activation", "none"), &[normal, w, b])?;
    let logits = g.with_number(Binary::Mul, logits, 1.0 / temperature)?;
    let shares = g.call(&SOFTMAX, Attrs::NONE, &[logits])?;
    let lifted = g.with_number(Binary::Add, shares, smoothing)?;
    let scale = 1.0 / (1.0 + e as f64 * smoothing);
    Ok(vec![g.with_number(Binary::Mul, lifted, scale)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, n, d, e, temperature, smoothing) in [
        ("as published", 3, 20, 8, 1.0, 0.01),
        ("cold, not smoothed", 2, 7, 3, 0.25, 0.0),
        ("hot", 1, 5, 8, 100.0, 0.05),
    ] {
        let mut case = CaseBuilder::new(name).tolerance(1e-4);
        let inputs = [
            case.random_in("x", DType::F32, &[n, d], -2.0, 2.0),
            case.random("norm_w", DType::F32, &[d]),
            case.random("norm_b", DType::F32, &[d]),
            case.random("w", DType::F32, &[e, d]),
            case.random("b", DType::F32, &[e]),
        ];
        let attrs = Attrs::NONE.float("temperature", temperature).float("smoothing", smoothing);
        out.push(case.of(&GATE, attrs, &inputs));
    }
    out
}
