//! Rotary position embedding.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, sizes, want, want_float};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, Literal, Prim, Unary};
use crate::shape::Shape;

/// Widest head: the frequencies of half a head are a literal.
const HEAD_DIM_MAX: usize = 1 << 14;

/// Turns pairs of each head by `position · theta^(-2i / d)` for pair `i`.
///
/// Attributes: `theta: float`; `style: word`: `half` pairs element `i` with `i + d/2`,
/// `interleaved` pairs `2i` with `2i + 1`. Shapes: `x: [t, h, d]`, `positions: i32 [t]`, result
/// `[t, h, d]`.
pub static ROPE: Composite = Composite {
    name: "rope",
    about: "pairs of each head rotated by an angle that grows with the position",
    meaning: Meaning::Expand(expand),
    cases: || cases(&ROPE),
};

/// Turns pairs back: the inverse of [`ROPE`], and since a rotation's inverse is its transpose,
/// also the way of gradients through it.
///
/// Attributes and shapes as those of [`ROPE`].
pub static ROPE_INVERSE: Composite = Composite {
    name: "rope_inverse",
    about: "pairs of each head rotated back by the angle of their position",
    meaning: Meaning::Expand(expand_inverse),
    cases: || cases(&ROPE_INVERSE),
};

fn expand_inverse(
    g: &mut Graph,
    attrs: &Attrs,
    inputs: &[ValueId],
) -> Result<Vec<ValueId>, GraphError> {
    let [x, positions] = exactly(g, ROPE_INVERSE.name, inputs)?;
    let back = g.unary(Unary::Neg, positions)?;
    g.composite(&ROPE, attrs.clone(), &[x, back])
}

fn expand(g: &mut Graph, attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let op = ROPE.name;
    let [x, positions] = exactly(g, op, inputs)?;
    let theta = attrs.need_float(op, "theta")?;
    let style = attrs.need_word(op, "style")?;
    want_float(g, op, x)?;
    let [t, h, d] = sizes(g, op, x)?;
    want(g, op, positions, DType::I32, &[t])?;
    if d % 2 == 1 || HEAD_DIM_MAX < d || d == 0 {
        return Err(g.refuse(op, inputs, "the head size is zero, odd or too large"));
    }
    let half = d / 2;
    let dtype = g.ty(x).dtype;
    let x = g.cast(x, dtype.wide())?;
    // Pairs are [t, h, half] twice, or interleaved [t, h, half, 1] twice.
    let (axis, pair_sizes) = match style {
        "half" => (2, vec![t, 1, half]),
        "interleaved" => (3, vec![t, 1, half, 1]),
        _ => return Err(GraphError::Attribute { op, name: "style" }),
    };
    let angle = angles(g, positions, theta, d, dtype.wide())?;
    let angle = g.reshape(angle, &pair_sizes)?;
    let cos = g.unary(Unary::Cos, angle)?;
    let sin = g.unary(Unary::Sin, angle)?;
    let (a, b) = if axis == 2 {
        (g.slice(x, 2, 0, half)?, g.slice(x, 2, half, d)?)
    } else {
        let pairs = g.reshape(x, &[t, h, half, 2])?;
        (g.slice(pairs, 3, 0, 1)?, g.slice(pairs, 3, 1, 2)?)
    };
    let (a_cos, b_sin) = (g.mul(a, cos)?, g.mul(b, sin)?);
    let (b_cos, a_sin) = (g.mul(b, cos)?, g.mul(a, sin)?);
    let turned = [g.sub(a_cos, b_sin)?, g.add(b_cos, a_sin)?];
    // Each half by itself: a kernel that writes its part of the whole does the cast as well.
    let turned = [g.cast(turned[0], dtype)?, g.cast(turned[1], dtype)?];
    let joined = g.concat(axis, &turned)?;
    Ok(vec![g.reshape(joined, &[t, h, d])?])
}

/// The angle of each position and pair: [t, d/2].
fn angles(
    g: &mut Graph,
    positions: ValueId,
    theta: f64,
    d: usize,
    dtype: DType,
) -> Result<ValueId, GraphError> {
    let t = g.shape(positions).element_count();
    let values = (0..d / 2).map(|i| theta.powf(-2.0 * i as f64 / d as f64)).collect();
    let literal = Literal { dtype, shape: Shape::new(&[1, d / 2]), values };
    let frequencies = g.prim(Prim::Constant(literal), &[])?;
    let positions = g.cast(positions, dtype)?;
    let positions = g.reshape(positions, &[t, 1])?;
    g.binary(Binary::Mul, positions, frequencies)
}

fn cases(composite: &'static Composite) -> Vec<OpCase> {
    let mut out = Vec::new();
    for style in ["half", "interleaved"] {
        let attrs = Attrs::NONE.float("theta", 10_000.0).word("style", style);
        for (name, t, h, d) in [("heads", 5, 2, 8), ("narrow", 3, 1, 2), ("odd", 7, 3, 6)] {
            let mut case = CaseBuilder::new(&format!("{style} {name}")).tolerance(1e-4);
            let x = case.random("x", DType::F32, &[t, h, d]);
            let counts: Vec<i32> = (0..t as i32).map(|it| (it * 11) % 40).collect();
            let positions = case.indices("positions", &counts);
            out.push(case.of(composite, attrs.clone(), &[x, positions]));
        }
    }
    let mut case = CaseBuilder::new("another theta, bf16").tolerance(2e-2);
    let x = case.random("x", DType::BF16, &[4, 2, 4]);
    let positions = case.indices("positions", &[0, 1, 2, 3]);
    let attrs = Attrs::NONE.float("theta", 1e6).word("style", "half");
    out.push(case.of(composite, attrs, &[x, positions]));
    out
}

#[test]
fn back_is_where_it_came_from() {
    for style in ["half", "interleaved"] {
        let mut case = CaseBuilder::new(style);
        let x = case.random("x", DType::F64, &[4, 2, 6]);
        let positions = case.indices("positions", &[0, 1, 7, 300]);
        let attrs = Attrs::NONE.float("theta", 500.0).word("style", style);
        let turned = case.graph.call(&ROPE, attrs.clone(), &[x, positions]).unwrap();
        let back = case.graph.call(&ROPE_INVERSE, attrs, &[turned, positions]);
        let case = case.finish(back.map(|it| vec![it]));
        let got = crate::oracle::eval(&case.graph, &case.inputs).unwrap();
        for (got, want) in got.outputs[0].data.iter().zip(&case.inputs[0].data) {
            assert!((got - want).abs() < 1e-12, "{style}: {got} {want}");
        }
    }
}
