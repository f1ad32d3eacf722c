//! Primitives that move elements and compute nothing.

use super::Tensor;
use crate::shape::{RANK_MAX, Shape};

/// Calls `f` with each index of a shape, in row-major order.
pub(super) fn each_index(shape: &Shape, mut f: impl FnMut(&[usize])) {
    let mut index = [0; RANK_MAX];
    let rank = shape.rank();
    for _ in 0..shape.element_count() {
        f(&index[..rank]);
        for axis in (0..rank).rev() {
            index[axis] += 1;
            if index[axis] < shape.sizes()[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

/// Elements at `Σ index[i] · strides[i] + offset` for each index of `shape`.
fn walk(data: &[f64], shape: &Shape, strides: &[usize], offset: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(shape.element_count());
    each_index(shape, |index| {
        let at: usize = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
        out.push(data[offset + at]);
    });
    out
}

pub(super) fn broadcast(x: &Tensor, shape: &Shape, axes: &[usize]) -> Vec<f64> {
    if let [value] = x.data[..] {
        return vec![value; shape.element_count()];
    }
    let mut strides = [0; RANK_MAX];
    for (from, to) in axes.iter().enumerate() {
        if x.ty.shape.sizes()[from] > 1 {
            strides[*to] = x.ty.shape.strides()[from];
        }
    }
    walk(&x.data, shape, &strides, 0)
}

pub(super) fn permute(x: &Tensor, axes: &[usize]) -> Vec<f64> {
    let sizes: Vec<usize> = axes.iter().map(|axis| x.ty.shape.sizes()[*axis]).collect();
    let strides: Vec<usize> = axes.iter().map(|axis| x.ty.shape.strides()[*axis]).collect();
    walk(&x.data, &Shape::new(&sizes), &strides, 0)
}

pub(super) fn slice(x: &Tensor, shape: &Shape, start: &[usize], step: &[usize]) -> Vec<f64> {
    let from = x.ty.shape.strides();
    // A step past the dimension may be any number; it is then taken no second time.
    let stride = |(step, stride): (&usize, usize)| step.saturating_mul(stride);
    let strides: Vec<usize> = step.iter().zip(from).map(stride).collect();
    let offset = start.iter().zip(from).map(|(start, stride)| start * stride).sum();
    walk(&x.data, shape, &strides, offset)
}

pub(super) fn pad(x: &Tensor, shape: &Shape, low: &[usize], value: f64) -> Vec<f64> {
    let mut out = vec![value; shape.element_count()];
    let strides = shape.strides();
    let mut values = x.data.iter();
    each_index(&x.ty.shape, |index| {
        let at: usize =
            (0..index.len()).map(|axis| (index[axis] + low[axis]) * strides[axis]).sum();
        out[at] = *values.next().expect("one element for each index");
    });
    out
}

pub(super) fn concat(parts: &[Tensor], axis: usize) -> Vec<f64> {
    let sizes = parts[0].ty.shape.sizes();
    let outer_count: usize = sizes[..axis].iter().product();
    let inner_count: usize = sizes[axis + 1..].iter().product();
    let mut out = Vec::new();
    for outer in 0..outer_count {
        for part in parts {
            let len = part.ty.shape.sizes()[axis] * inner_count;
            out.extend_from_slice(&part.data[outer * len..(outer + 1) * len]);
        }
    }
    out
}

pub(super) fn gather(table: &Tensor, indices: &Tensor, axis: usize) -> Vec<f64> {
    let sizes = table.ty.shape.sizes();
    let outer_count: usize = sizes[..axis].iter().product();
    let inner_count: usize = sizes[axis + 1..].iter().product();
    let mut out = Vec::new();
    for outer in 0..outer_count {
        for index in &indices.data {
            let row = outer * sizes[axis] + clamped(*index, sizes[axis]);
            out.extend_from_slice(&table.data[row * inner_count..(row + 1) * inner_count]);
        }
    }
    out
}

/// An index moved into an axis of `size`, which is not empty.
pub(super) fn clamped(index: f64, size: usize) -> usize {
    (index.max(0.0) as usize).min(size - 1)
}
