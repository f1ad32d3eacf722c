//! Two linear layers of one input, one gating the other.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::activation::Activation;
use crate::composite::linear::LINEAR;
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};

/// `activation(x · gateᵀ + gate_bias) · (x · upᵀ + up_bias)`.
///
/// Attributes: `activation: word`. Shapes: `x: [.., k]`, `gate` and `up: [n, k]`, optional (both
/// or none) `gate_bias` and `up_bias: [n]`, result `[.., n]`.
pub static GATED_LINEAR: Composite = Composite {
    name: "gated_linear",
    about: "one linear layer through an activation, times another",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = GATED_LINEAR.name;
    let activation = Activation::of(attrs, op)?;
    let (gate, up) = match *inputs {
        [x, gate, up] => (vec![x, gate], vec![x, up]),
        [x, gate, up, gate_bias, up_bias] => (vec![x, gate, gate_bias], vec![x, up, up_bias]),
        _ => return Err(g.refuse(op, inputs, "wrong number of arguments")),
    };
    if g.ty(gate[1]) != g.ty(up[1]) {
        return Err(g.refuse(op, inputs, "the two weights differ in type or shape"));
    }
    let bent = Attrs::NONE.word("activation", activation.word());
    let gate = g.call(&LINEAR, bent, &gate)?;
    let up = g.call(&LINEAR, Attrs::NONE.word("activation", "none"), &up)?;
    Ok(vec![g.mul(gate, up)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, word, sizes, n, bias) in [
        ("silu", "silu", &[5, 8][..], 6, false),
        ("gelu with bias", "gelu_tanh", &[3, 2, 7], 5, true),
        ("plain", "none", &[1, 3], 1, false),
    ] {
        let mut case = CaseBuilder::new(name);
        let k = sizes[sizes.len() - 1];
        let x = case.random("x", DType::F32, sizes);
        let mut inputs = vec![x];
        inputs.push(case.random("gate", DType::F32, &[n, k]));
        inputs.push(case.random("up", DType::F32, &[n, k]));
        if bias {
            inputs.push(case.random("gate_bias", DType::F32, &[n]));
            inputs.push(case.random("up_bias", DType::F32, &[n]));
        }
        out.push(case.of(&GATED_LINEAR, Attrs::NONE.word("activation", word), &inputs));
    }
    out
}
