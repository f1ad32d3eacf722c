//! The linear layer on f32 numbers that are multiplied as tf32.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{one_optional, want};
use crate::composite::linear::LINEAR;
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::Binary;

/// `linear` on numbers that are rounded to tf32 first: eleven significant bits. Products and sums
/// are in f32. A device may round by cutting off instead. Numbers are below 2^114.
///
/// Attributes, arguments and result are those of `linear`, in f32.
pub static TF32_LINEAR: Composite = Composite {
    name: "tf32_linear",
    about: "a linear layer whose factors are rounded to tf32",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = TF32_LINEAR.name;
    let ([x, w], bias) = one_optional(g, op, inputs)?;
    let mut rounded = Vec::new();
    for value in [x, w] {
        want(g, op, value, DType::F32, g.shape(value).sizes())?;
        rounded.push(round(g, value)?);
    }
    rounded.extend(bias);
    Ok(vec![g.call(&LINEAR, attrs.clone(), &rounded)?])
}

/// `x` to eleven significant bits: a sum with 2^13 times itself loses the other thirteen
/// (Dekker 1971).
fn round(g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    let large = g.with_number(Binary::Mul, x, 8193.0)?;
    let rest = g.sub(large, x)?;
    g.sub(large, rest)
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, sizes, n, activation, bias) in [
        ("bias", &[5, 16][..], 8, "none", true),
        ("gelu", &[33, 32], 24, "gelu", true),
        ("odd", &[3, 2, 7], 5, "relu", false),
    ] {
        // Numbers and what they become without rounding differ by a part in 2048.
        let mut case = CaseBuilder::new(name).tolerance(4e-3);
        let x = case.random("x", DType::F32, sizes);
        let w = case.random("w", DType::F32, &[n, sizes[sizes.len() - 1]]);
        let mut inputs = vec![x, w];
        if bias {
            inputs.push(case.random("bias", DType::F32, &[n]));
        }
        // Steps have no slope; what is trained is f32.
        ["x", "w", "bias"].iter().for_each(|it| case.constant(it));
        out.push(case.of(&TF32_LINEAR, Attrs::NONE.word("activation", activation), &inputs));
    }
    out
}
