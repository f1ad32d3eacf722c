//! Linear layers on codes of one byte.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::activation::Activation;
use crate::composite::arguments::{one_optional, row_len, want, want_sizes};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::DotDims;

/// `activation((x · wᵀ) · x_scale · w_scale + bias)` on codes in `f8e4m3`, summed in f32.
///
/// Attributes: `activation: word`, `out: word`, the result's type: `f32`, `f16` or `bf16`.
/// Shapes: codes `x: [.., k]` and scales `f32 [..]`, codes `w: [n, k]` and scales `f32 [n]`, as
/// `quantize_rows` gives them; optional `bias: [n]` of a float type; result `[.., n]`.
pub static FP8_LINEAR: Composite = Composite {
    name: "fp8_linear",
    about: "rows in fp8 times transposed weights in fp8, scaled, plus a bias, activated",
    meaning: Meaning::Expand(|g, attrs, inputs| expand(g, &FP8_LINEAR, attrs, inputs)),
    cases: || cases(&FP8_LINEAR, DType::F8E4M3),
};

/// As [`FP8_LINEAR`] on codes in `i8`, summed exactly.
pub static INT8_LINEAR: Composite = Composite {
    name: "int8_linear",
    about: "rows in int8 times transposed weights in int8, scaled, plus a bias, activated",
    meaning: Meaning::Expand(|g, attrs, inputs| expand(g, &INT8_LINEAR, attrs, inputs)),
    cases: || cases(&INT8_LINEAR, DType::I8),
};

fn expand(
    g: &mut Graph,
    composite: &'static Composite,
    attrs: &Attrs,
    inputs: &[ValueId],
) -> Result<Vec<ValueId>, GraphError> {
    let op = composite.name;
    let (codes, sum) = match composite.is(&FP8_LINEAR) {
        true => (DType::F8E4M3, DType::F32),
        false => (DType::I8, DType::I32),
    };
    let ([x, x_scales, w, w_scales], bias) = one_optional(g, op, inputs)?;
    let activation = Activation::of(attrs, op)?;
    let out = match attrs.need_word(op, "out")? {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        _ => return Err(GraphError::Attribute { op, name: "out" }),
    };
    let k = row_len(g, op, x)?;
    let [n, _] = *g.shape(w).sizes() else {
        return Err(g.refuse(op, inputs, "the weight has not two dimensions"));
    };
    let mut outer = g.shape(x).sizes().to_vec();
    outer.pop();
    let last = outer.len();
    want(g, op, x, codes, g.shape(x).sizes())?;
    want(g, op, w, codes, &[n, k])?;
    want(g, op, x_scales, DType::F32, &outer)?;
    want(g, op, w_scales, DType::F32, &[n])?;
    let y = g.dot(x, w, DotDims { batch: vec![], contract: vec![(last, 1)], out: sum })?;
    let y = g.cast(y, DType::F32)?;
    outer.push(1);
    let x_scales = g.reshape(x_scales, &outer)?;
    let y = g.mul(y, x_scales)?;
    let mut y = g.mul(y, w_scales)?;
    if let Some(bias) = bias {
        want_sizes(g, op, bias, &[n])?;
        let bias = g.cast(bias, DType::F32)?;
        y = g.add(y, bias)?;
    }
    let y = activation.apply(g, y)?;
    Ok(vec![g.cast(y, out)?])
}

fn cases(composite: &'static Composite, codes: DType) -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, sizes, n, activation, to, bias) in [
        ("plain", &[5, 16][..], 8, "none", "f32", true),
        ("bf16", &[17, 32], 24, "none", "bf16", true),
        ("gelu without bias", &[3, 2, 48], 16, "gelu", "bf16", false),
        ("f16, odd", &[7, 33], 9, "relu", "f16", true),
        ("one row", &[16], 8, "silu", "bf16", true),
    ] {
        let tolerance = if to == "f32" { 1e-4 } else { 2e-2 };
        let mut case = CaseBuilder::new(name).tolerance(tolerance);
        let (k, rows) = (sizes[sizes.len() - 1], &sizes[..sizes.len() - 1]);
        let (low, high) = (codes.lowest(), codes.highest());
        let (least, most) = (0.5 / high / high, 1.0 / high / high);
        let mut inputs = vec![
            case.random_in("x", codes, sizes, low, high),
            case.random_in("x_scales", DType::F32, rows, least, most),
            case.random_in("w", codes, &[n, k], low, high),
            case.random_in("w_scales", DType::F32, &[n], 0.5, 2.0),
        ];
        if bias {
            inputs.push(case.random("bias", DType::BF16, &[n]));
        }
        case.constant("x_scales");
        case.constant("w_scales");
        let attrs = Attrs::NONE.word("activation", activation).word("out", to);
        out.push(case.of(composite, attrs, &inputs));
    }
    out
}
