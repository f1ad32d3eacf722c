//! Primitives that fold many elements into one.

use super::Tensor;
use super::layout::{clamped, permute};
use crate::op::{DotDims, Fold};
use crate::shape::Shape;

/// A shape seen from one axis: how often, how many, how far apart.
struct Around {
    outer: usize,
    size: usize,
    inner: usize,
}

fn around(shape: &Shape, axis: usize) -> Around {
    let sizes = shape.sizes();
    Around {
        outer: sizes[..axis].iter().product(),
        size: sizes[axis],
        inner: sizes[axis + 1..].iter().product(),
    }
}

pub(super) fn reduce(fold: Fold, x: &Tensor, axis: usize) -> Vec<f64> {
    let Around { outer, size, inner } = around(&x.ty.shape, axis);
    let dtype = x.ty.dtype;
    let mut out = Vec::with_capacity(outer * inner);
    for at in 0..outer {
        for lane in 0..inner {
            let elements = (0..size).map(|i| x.data[(at * size + i) * inner + lane]);
            out.push(match fold {
                Fold::Sum if dtype.is_int() => dtype.wrap(elements.map(|it| it as i128).sum()),
                // A sum of flags is whether any is set.
                Fold::Sum if !dtype.is_float() => elements.fold(0.0, f64::max),
                Fold::Sum => elements.fold(0.0, |a, b| a + b),
                Fold::Max => elements.fold(dtype.lowest(), larger),
                Fold::Min => -elements.map(|it| -it).fold(-dtype.highest(), larger),
            });
        }
    }
    out
}

/// The larger; a NaN wins.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

pub(super) fn dot(dims: &DotDims, a: &Tensor, b: &Tensor) -> Vec<f64> {
    let left: Vec<usize> = dims.batch.iter().map(|it| it.0).collect();
    let right: Vec<usize> = dims.batch.iter().map(|it| it.1).collect();
    let left_summed: Vec<usize> = dims.contract.iter().map(|it| it.0).collect();
    let right_summed: Vec<usize> = dims.contract.iter().map(|it| it.1).collect();
    let (a_rows, a_count) = rows(a, &left, &left_summed);
    let (b_rows, b_count) = rows(b, &right, &right_summed);
    let batch_count: usize = left.iter().map(|it| a.ty.shape.sizes()[*it]).product();
    let len: usize = left_summed.iter().map(|it| a.ty.shape.sizes()[*it]).product();

    let (from, to) = (a.ty.dtype, dims.out);
    let row = |at: usize| at * len..(at + 1) * len;
    let mut out = Vec::with_capacity(batch_count * a_count * b_count);
    for batch in 0..batch_count {
        for i in 0..a_count {
            let left = &a_rows[row(batch * a_count + i)];
            for j in 0..b_count {
                let right = &b_rows[row(batch * b_count + j)];
                let pairs = left.iter().zip(right);
                out.push(if from.is_float() && to.is_float() {
                    pairs.fold(0.0, |sum, (x, y)| sum + x * y)
                } else if from.is_float() {
                    to.round(pairs.fold(0.0, |sum, (x, y)| sum + x * y))
                } else {
                    to.wrap(pairs.map(|(x, y)| *x as i128 * *y as i128).sum())
                });
            }
        }
    }
    out
}

/// Elements ordered batch, free, summed; and how many free rows a batch has.
fn rows(x: &Tensor, batch: &[usize], summed: &[usize]) -> (Vec<f64>, usize) {
    let rank = x.ty.shape.rank();
    let free: Vec<usize> =
        (0..rank).filter(|it| !batch.contains(it) && !summed.contains(it)).collect();
    let count = free.iter().map(|it| x.ty.shape.sizes()[*it]).product();
    (permute(x, &[batch, &free, summed].concat()), count)
}

pub(super) fn scatter_add(
    base: &Tensor,
    indices: &Tensor,
    updates: &Tensor,
    axis: usize,
) -> Vec<f64> {
    let Around { outer, size, inner } = around(&base.ty.shape, axis);
    let dtype = base.ty.dtype;
    let count = indices.data.len();
    let mut out = base.data.clone();
    for at in 0..outer {
        for (m, index) in indices.data.iter().enumerate() {
            let row = at * size + clamped(*index, size);
            for lane in 0..inner {
                let update = updates.data[(at * count + m) * inner + lane];
                let slot = &mut out[row * inner + lane];
                *slot = if dtype.is_int() {
                    dtype.wrap(*slot as i128 + update as i128)
                } else if dtype.is_float() {
                    *slot + update
                } else {
                    slot.max(update)
                };
            }
        }
    }
    out
}

pub(super) fn linear_scan(a: &Tensor, b: &Tensor, initial: &Tensor, axis: usize) -> Vec<f64> {
    let Around { outer, size, inner } = around(&a.ty.shape, axis);
    let mut out = vec![0.0; a.data.len()];
    for at in 0..outer {
        for lane in 0..inner {
            let mut state = initial.data[at * inner + lane];
            for i in 0..size {
                let element = (at * size + i) * inner + lane;
                state = a.data[element] * state + b.data[element];
                out[element] = state;
            }
        }
    }
    out
}
