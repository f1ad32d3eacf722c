//! The rules of primitives that mix elements: contractions and recurrences.

use super::rules::{Parts, like, pad, zeros};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{DotDims, Prim};

pub(super) fn dot(g: &mut Graph, dims: &DotDims, a: ValueId, b: ValueId, dy: ValueId) -> Parts {
    if !g.ty(a).dtype.is_float() {
        return Ok(vec![None, None]);
    }
    let free = |x: ValueId, paired: &[usize]| -> Vec<usize> {
        (0..g.shape(x).rank()).filter(|it| !paired.contains(it)).collect()
    };
    let side = |pick: fn(&(usize, usize)) -> usize| Side {
        batch: dims.batch.iter().map(pick).collect(),
        summed: dims.contract.iter().map(pick).collect(),
        free: Vec::new(),
    };
    let (mut left, mut right) = (side(|it| it.0), side(|it| it.1));
    left.free = free(a, &[&left.batch[..], &left.summed].concat());
    right.free = free(b, &[&right.batch[..], &right.summed].concat());
    // The result's dimensions: batch, left free, right free.
    let first_left = left.batch.len();
    let first_right = first_left + left.free.len();
    let da = dot_side(g, dy, first_right, b, &right, &left, g.ty(a).dtype)?;
    let db = dot_side(g, dy, first_left, a, &left, &right, g.ty(b).dtype)?;
    Ok(vec![Some(da), Some(db)])
}

/// What happens to each dimension of one operand.
struct Side {
    batch: Vec<usize>,
    summed: Vec<usize>,
    free: Vec<usize>,
}

/// The gradient of operand `own`: `dy` summed with `other` over the free dimensions of `other`,
/// which are those of `dy` from `first` on.
fn dot_side(
    g: &mut Graph,
    dy: ValueId,
    first: usize,
    other: ValueId,
    other_side: &Side,
    own: &Side,
    dtype: DType,
) -> Result<ValueId, GraphError> {
    // Products are taken in the operand's type; eight bits are too few for a gradient.
    let common = match g.ty(other).dtype {
        DType::F8E4M3 => DType::F32,
        narrow @ (DType::F16 | DType::BF16 | DType::F32 | DType::F64) => narrow,
        whole @ (DType::Bool | DType::U8 | DType::I8 | DType::I32 | DType::U32 | DType::I64) => {
            whole
        }
    };
    let dy = g.cast(dy, common)?;
    let other = g.cast(other, common)?;
    let batch = other_side.batch.iter().enumerate().map(|(at, dim)| (at, *dim)).collect();
    let contract = other_side.free.iter().enumerate().map(|(at, dim)| (first + at, *dim)).collect();
    let product = g.dot(dy, other, DotDims { batch, contract, out: dtype.wide() })?;
    // Now batch, own free, then the summed dimensions in the order of the other operand.
    let mut summed: Vec<(usize, usize)> =
        other_side.summed.iter().copied().zip(own.summed.iter().copied()).collect();
    summed.sort_unstable();
    let mut places = [&own.batch[..], &own.free].concat();
    places.extend(summed.into_iter().map(|(_, own)| own));
    let mut axes = vec![0; places.len()];
    for (at, place) in places.into_iter().enumerate() {
        axes[place] = at;
    }
    let product = g.permute(product, &axes)?;
    g.cast(product, dtype)
}

/// `h[t] = a[t] h[t-1] + b[t]` backwards: `s[t] = dy[t] + a[t+1] s[t+1]` is the gradient of `b`.
pub(super) fn linear_scan(
    g: &mut Graph,
    axis: usize,
    [a, b, initial]: [ValueId; 3],
    y: ValueId,
    dy: ValueId,
) -> Parts {
    let sizes = g.shape(a).sizes().to_vec();
    let len = sizes[axis];
    if len == 0 {
        return Ok(vec![Some(zeros(g, a)?), Some(zeros(g, b)?), Some(zeros(g, initial)?)]);
    }
    let mut step = sizes;
    step[axis] = 1;
    let next = g.slice(a, axis, 1, len)?;
    let (low, mut high) = (vec![0; step.len()], vec![0; step.len()]);
    high[axis] = 1;
    let next = pad(g, next, low, high)?;
    let (next, back) = (reversed(g, next, axis)?, reversed(g, dy, axis)?);
    let start = zeros(g, initial)?;
    let sums = g.prim(Prim::LinearScan { axis }, &[next, back, start])?;
    let db = reversed(g, sums, axis)?;

    let first = g.reshape(initial, &step)?;
    let before = g.slice(y, axis, 0, len - 1)?;
    let before = g.concat(axis, &[first, before])?;
    let da = g.mul(db, before)?;
    let (a_first, db_first) = (g.slice(a, axis, 0, 1)?, g.slice(db, axis, 0, 1)?);
    let start = g.mul(a_first, db_first)?;
    Ok(vec![Some(da), Some(db), Some(like(g, start, initial)?)])
}

fn reversed(g: &mut Graph, x: ValueId, axis: usize) -> Result<ValueId, GraphError> {
    let len = g.shape(x).sizes()[axis];
    let up = g.iota(DType::I32, &[len], 0)?;
    let last = g.scalar(DType::I32, len as f64 - 1.0)?;
    let down = g.sub(last, up)?;
    g.gather(x, axis, down)
}
