//! How each primitive hands the gradient of its result back to its arguments.

use super::contraction;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, Fold, Literal, Prim, Unary};

/// The gradient of each argument, or nothing where none passes.
pub(super) type Parts = Result<Vec<Option<ValueId>>, GraphError>;

/// Gradients of the arguments `x` of a node with result `y`, whose gradient is `dy`.
pub(super) fn pull_back(
    g: &mut Graph,
    prim: &Prim,
    x: &[ValueId],
    y: ValueId,
    dy: ValueId,
) -> Parts {
    let one = |value: Result<ValueId, GraphError>| Ok(vec![Some(value?)]);
    match prim {
        Prim::Unary(op) => Ok(vec![unary(g, *op, x[0], y, dy)?]),
        Prim::Binary(op) => binary(g, *op, x[0], x[1], y, dy),
        Prim::Select => {
            let zero = number(g, dy, 0.0)?;
            let (a, b) = (g.select(x[0], dy, zero)?, g.select(x[0], zero, dy)?);
            Ok(vec![None, Some(a), Some(b)])
        }
        Prim::Cast(_) if g.ty(x[0]).dtype.is_float() => one(g.cast(dy, g.ty(x[0]).dtype)),
        Prim::Cast(_) => Ok(vec![None]),
        Prim::Constant(_) | Prim::Iota { .. } => Ok(vec![]),
        Prim::Philox => Ok(vec![None, None]),
        Prim::Broadcast { axes, .. } => one(unbroadcast(g, axes, x[0], dy)),
        Prim::Reshape(_) => one(like(g, dy, x[0])),
        Prim::Permute(axes) => {
            let mut back = vec![0; axes.len()];
            for (to, from) in axes.iter().enumerate() {
                back[*from] = to;
            }
            one(g.permute(dy, &back))
        }
        Prim::Slice { start, step, .. } => one(unslice(g, start, step, x[0], dy)),
        Prim::Pad { low, .. } => one(unpad(g, low, x[0], dy)),
        Prim::Concat { axis } => {
            let mut start = 0;
            let mut parts = Vec::with_capacity(x.len());
            for part in x {
                let limit = start + g.shape(*part).sizes()[*axis];
                parts.push(Some(g.slice(dy, *axis, start, limit)?));
                start = limit;
            }
            Ok(parts)
        }
        Prim::Gather { axis } => {
            let rows = g.shape(x[1]).element_count();
            let indices = g.reshape(x[1], &[rows])?;
            let mut sizes = g.shape(x[0]).sizes().to_vec();
            sizes[*axis] = rows;
            let updates = g.reshape(dy, &sizes)?;
            let base = zeros(g, x[0])?;
            let table = g.prim(Prim::ScatterAdd { axis: *axis }, &[base, indices, updates])?;
            Ok(vec![Some(table), None])
        }
        Prim::ScatterAdd { axis } => {
            let updates = g.gather(dy, *axis, x[1])?;
            Ok(vec![Some(dy), None, Some(updates)])
        }
        Prim::Reduce { fold, axis } => one(unreduce(g, *fold, *axis, x[0], y, dy)),
        Prim::Dot(dims) => contraction::dot(g, dims, x[0], x[1], dy),
        Prim::LinearScan { axis } => contraction::linear_scan(g, *axis, [x[0], x[1], x[2]], y, dy),
    }
}

fn unary(
    g: &mut Graph,
    op: Unary,
    x: ValueId,
    y: ValueId,
    dy: ValueId,
) -> Result<Option<ValueId>, GraphError> {
    let dx = match op {
        Unary::Neg => g.unary(Unary::Neg, dy)?,
        Unary::Abs => {
            let zero = number(g, x, 0.0)?;
            let minus = g.unary(Unary::Neg, dy)?;
            let (below, above) = (g.binary(Binary::Lt, x, zero)?, g.binary(Binary::Lt, zero, x)?);
            let negative = g.select(below, minus, zero)?;
            g.select(above, dy, negative)?
        }
        Unary::Exp => g.mul(dy, y)?,
        Unary::Log => g.div(dy, x)?,
        Unary::Sqrt => {
            let half = g.with_number(Binary::Mul, dy, 0.5)?;
            g.div(half, y)?
        }
        Unary::Sin => {
            let cos = g.unary(Unary::Cos, x)?;
            g.mul(dy, cos)?
        }
        Unary::Cos => {
            let sin = g.unary(Unary::Sin, x)?;
            let down = g.mul(dy, sin)?;
            g.unary(Unary::Neg, down)?
        }
        Unary::Tanh => {
            let square = g.mul(y, y)?;
            let one = number(g, y, 1.0)?;
            let slope = g.sub(one, square)?;
            g.mul(dy, slope)?
        }
        Unary::Erf => {
            let square = g.mul(x, x)?;
            let down = g.unary(Unary::Neg, square)?;
            let bell = g.unary(Unary::Exp, down)?;
            let slope = g.with_number(Binary::Mul, bell, std::f64::consts::FRAC_2_SQRT_PI)?;
            g.mul(dy, slope)?
        }
        Unary::Floor | Unary::Not => return Ok(None),
    };
    Ok(Some(dx))
}

fn binary(g: &mut Graph, op: Binary, a: ValueId, b: ValueId, y: ValueId, dy: ValueId) -> Parts {
    let (da, db) = match op {
        Binary::Add => (dy, dy),
        Binary::Sub => (dy, g.unary(Unary::Neg, dy)?),
        Binary::Mul => (g.mul(dy, b)?, g.mul(dy, a)?),
        Binary::Div => {
            // Through the quotient, so that a huge divisor is not squared.
            let da = g.div(dy, b)?;
            let up = g.mul(da, y)?;
            (da, g.unary(Unary::Neg, up)?)
        }
        Binary::Rem => {
            let quotient = g.div(a, b)?;
            let times = g.unary(Unary::Floor, quotient)?;
            let down = g.mul(dy, times)?;
            (dy, g.unary(Unary::Neg, down)?)
        }
        Binary::Pow => power(g, a, b, y, dy)?,
        Binary::Max | Binary::Min => {
            let first = match op {
                Binary::Max => g.binary(Binary::Le, b, a)?,
                Binary::Add
                | Binary::Sub
                | Binary::Mul
                | Binary::Div
                | Binary::Rem
                | Binary::Pow
                | Binary::Min
                | Binary::Lt
                | Binary::Le
                | Binary::Eq
                | Binary::And
                | Binary::Or
                | Binary::Xor
                | Binary::Shl
                | Binary::Shr => g.binary(Binary::Le, a, b)?,
            };
            let zero = number(g, dy, 0.0)?;
            (g.select(first, dy, zero)?, g.select(first, zero, dy)?)
        }
        Binary::Lt
        | Binary::Le
        | Binary::Eq
        | Binary::And
        | Binary::Or
        | Binary::Xor
        | Binary::Shl
        | Binary::Shr => return Ok(vec![None, None]),
    };
    Ok(vec![Some(da), Some(db)])
}

/// `d a^b`: the exponent gets nothing where the base is not positive, the base nothing where the
/// exponent is zero.
fn power(
    g: &mut Graph,
    a: ValueId,
    b: ValueId,
    y: ValueId,
    dy: ValueId,
) -> Result<(ValueId, ValueId), GraphError> {
    let (zero, one) = (number(g, a, 0.0)?, number(g, a, 1.0)?);
    let less = g.sub(b, one)?;
    let lower = g.binary(Binary::Pow, a, less)?;
    let slope = g.mul(b, lower)?;
    let flat = g.binary(Binary::Eq, b, zero)?;
    let slope = g.select(flat, zero, slope)?;
    let positive = g.binary(Binary::Lt, zero, a)?;
    let base = g.select(positive, a, one)?;
    let log = g.unary(Unary::Log, base)?;
    let growth = g.mul(y, log)?;
    let growth = g.select(positive, growth, zero)?;
    Ok((g.mul(dy, slope)?, g.mul(dy, growth)?))
}

fn unbroadcast(
    g: &mut Graph,
    axes: &[usize],
    x: ValueId,
    dy: ValueId,
) -> Result<ValueId, GraphError> {
    let (from, to) = (g.shape(x), g.shape(dy));
    let mut sum = dy;
    for axis in (0..to.rank()).rev() {
        let kept = axes.iter().position(|it| *it == axis);
        if kept.is_none_or(|it| from.sizes()[it] != to.sizes()[axis]) {
            sum = g.reduce(Fold::Sum, sum, axis)?;
        }
    }
    like(g, sum, x)
}

/// Zeros around and between the elements that were taken.
fn unslice(
    g: &mut Graph,
    start: &[usize],
    step: &[usize],
    x: ValueId,
    dy: ValueId,
) -> Result<ValueId, GraphError> {
    let to = g.shape(x);
    let mut spread = dy;
    for (axis, step) in step.iter().enumerate().filter(|(_, step)| **step > 1) {
        // [outer, n, inner] → [outer, n, step, inner] with zeros → [outer, n · step, inner].
        let mut sizes = g.shape(spread).sizes().to_vec();
        let outer = sizes[..axis].iter().product();
        let inner = sizes[axis + 1..].iter().product();
        let room = to.sizes()[axis] - start[axis];
        let step = (*step).min(room.max(1));
        let count = sizes[axis];
        spread = g.reshape(spread, &[outer, count, 1, inner])?;
        spread = pad(g, spread, vec![0; 4], vec![0, 0, step - 1, 0])?;
        spread = g.reshape(spread, &[outer, count * step, inner])?;
        sizes[axis] = (count * step).min(room);
        spread = g.slice(spread, 1, 0, sizes[axis])?;
        spread = g.reshape(spread, &sizes)?;
    }
    let sizes = g.shape(spread);
    let high = (0..to.rank()).map(|it| to.sizes()[it] - start[it] - sizes.sizes()[it]).collect();
    pad(g, spread, start.to_vec(), high)
}

fn unpad(g: &mut Graph, low: &[usize], x: ValueId, dy: ValueId) -> Result<ValueId, GraphError> {
    let sizes = g.shape(x);
    let limit = low.iter().zip(sizes.sizes()).map(|(low, size)| low + size).collect();
    let step = vec![1; low.len()];
    g.prim(Prim::Slice { start: low.to_vec(), limit, step }, &[dy])
}

fn unreduce(
    g: &mut Graph,
    fold: Fold,
    axis: usize,
    x: ValueId,
    y: ValueId,
    dy: ValueId,
) -> Result<ValueId, GraphError> {
    let shape = g.shape(x);
    let axes: Vec<usize> = (0..shape.rank()).filter(|it| *it != axis).collect();
    let spread = Prim::Broadcast { shape, axes };
    match fold {
        Fold::Sum => g.prim(spread, &[dy]),
        Fold::Max | Fold::Min => {
            let extreme = g.prim(spread.clone(), &[y])?;
            let equal = g.binary(Binary::Eq, x, extreme)?;
            let equal = g.cast(equal, g.ty(x).dtype)?;
            let count = g.reduce(Fold::Sum, equal, axis)?;
            let share = g.div(dy, count)?;
            let share = g.prim(spread, &[share])?;
            g.mul(share, equal)
        }
    }
}

pub(super) fn pad(
    g: &mut Graph,
    x: ValueId,
    low: Vec<usize>,
    high: Vec<usize>,
) -> Result<ValueId, GraphError> {
    if low.iter().chain(&high).all(|it| *it == 0) {
        return Ok(x);
    }
    g.prim(Prim::Pad { low, high, value: 0.0 }, &[x])
}

pub(super) fn like(g: &mut Graph, x: ValueId, shaped: ValueId) -> Result<ValueId, GraphError> {
    let shape = g.shape(shaped);
    g.reshape(x, shape.sizes())
}

fn number(g: &mut Graph, x: ValueId, value: f64) -> Result<ValueId, GraphError> {
    g.scalar(g.ty(x).dtype, value)
}

pub(super) fn zeros(g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    let (dtype, shape) = (g.ty(x).dtype, g.shape(x));
    g.prim(Prim::Constant(Literal { dtype, shape, values: vec![0.0] }), &[])
}
