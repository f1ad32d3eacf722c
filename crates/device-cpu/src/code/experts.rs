//! The sources `experts` and `pack_experts`.
//!
//! `pack_experts`: parameters `e`, `n`, `k`; no words; weights `[e, n, k]` to their packed
//! forms, one after another.
//!
//! `experts`: parameters `e`, `d`, `h`, `o`. Words: rows, stride of the rows.
//! Arguments: rows `[n, d]`, weights of the experts `[n, e]`, packed w1, b1 `[e, h]`, packed w2,
//! b2 `[e, o]`, result `[n, o]`. Experts whose weight is zero are left out.

use std::sync::Mutex;

use calor_kernel::Source;

use super::gemm::{pack, packed_len_max};
use super::{
    Code, Launch, Machine, NoCode, SourceRow, carve, holds, param, size, slice, slice_mut,
};
use crate::experts::{Expert, Experts, scratch_len};
use crate::gemm::{Gemm, Panels, Tiled};
use crate::threads::TaskPanicked;
use crate::view::{Rows, RowsMut};
use crate::vm::Buffer;

pub(super) const SOURCE: SourceRow =
    SourceRow { name: "experts", params: &["e", "d", "h", "o"], make };

pub(super) const PACK_SOURCE: SourceRow =
    SourceRow { name: "pack_experts", params: &["e", "n", "k"], make: make_pack };

#[derive(Debug)]
struct PackCode {
    e: usize,
    n: usize,
    k: usize,
}

fn make_pack(source: &Source) -> Result<Box<dyn Code>, NoCode> {
    let [e, n, k] = [param(source, "e")?, param(source, "n")?, param(source, "k")?];
    Ok(Box::new(PackCode { e, n, k }))
}

impl Code for PackCode {
    fn check(&self, words: &[i64], buffers: &[Buffer]) -> Result<(), &'static str> {
        let Self { e, n, k } = *self;
        let [weights, packed] = buffers else { return Err("packing takes two arguments") };
        if !words.is_empty() {
            return Err("packing takes no words");
        }
        if !holds(weights, 1, e * n * k, 0) || !holds(packed, 1, e * packed_len_max(n, k), 0) {
            return Err("the weights or their packed form are too short");
        }
        Ok(())
    }

    fn scratch_bytes(&self, _machine: Machine, _words: &[i64]) -> usize {
        0
    }

    unsafe fn run(&self, launch: &Launch<'_>) -> Result<(), TaskPanicked> {
        let Self { e, n, k } = *self;
        let gemm = Tiled { level: launch.level };
        let len = gemm.layout(n, k).packed_len();
        // SAFETY: `check` has seen that the weights are there.
        let weights = unsafe { slice(&launch.buffers[0], e * n * k) };
        let Buffer { start, .. } = launch.buffers[1];
        for expert in 0..e {
            let from = &weights[expert * n * k..][..n * k];
            let to = Buffer { start: start.wrapping_add(4 * expert * len), len_bytes: 4 * len };
            pack(launch, &gemm, [n, k], from, &to)?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct ExpertsCode {
    e: usize,
    d: usize,
    h: usize,
    o: usize,
    /// Room for the experts of a run.
    table: Mutex<Vec<Expert<'static>>>,
}

fn make(source: &Source) -> Result<Box<dyn Code>, NoCode> {
    let [e, d] = [param(source, "e")?, param(source, "d")?];
    let [h, o] = [param(source, "h")?, param(source, "o")?];
    Ok(Box::new(ExpertsCode { e, d, h, o, table: Mutex::new(Vec::with_capacity(e)) }))
}

impl Code for ExpertsCode {
    fn check(&self, words: &[i64], buffers: &[Buffer]) -> Result<(), &'static str> {
        let Self { e, d, h, o, .. } = *self;
        let [rows, weights, w1, b1, w2, b2, out] = buffers else {
            return Err("the experts take seven arguments");
        };
        if words.len() != 2 || words.iter().any(|it| *it < 0) {
            return Err("the experts take two sizes");
        }
        let (n, stride) = (size(words, 0), size(words, 1));
        if !holds(rows, n, d, stride)
            || !holds(weights, n, e, e)
            || !holds(w1, 1, e * packed_len_max(h, d), 0)
            || !holds(b1, e, h, h)
            || !holds(w2, 1, e * packed_len_max(o, h), 0)
            || !holds(b2, e, o, o)
            || !holds(out, n, o, o)
        {
            return Err("an argument of the experts is too short");
        }
        Ok(())
    }

    fn scratch_bytes(&self, machine: Machine, words: &[i64]) -> usize {
        let Self { e, d, h, o, .. } = *self;
        let floats = scratch_len(machine.level, d, h, o, machine.thread_count);
        4 * (floats + 2 * size(words, 0) * e) + 3 * 64
    }

    unsafe fn run(&self, launch: &Launch<'_>) -> Result<(), TaskPanicked> {
        let Self { e, d, h, o, .. } = *self;
        let [rows, weights, w1, b1, w2, b2, out] = launch.buffers else { return Ok(()) };
        let (n, stride) = (size(launch.words, 0), size(launch.words, 1));
        let gemm = Tiled { level: launch.level };
        let (up, down) = (gemm.layout(h, d), gemm.layout(o, h));
        let mut table = self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        table.clear();
        // SAFETY: `check` has seen that they are there; the table is emptied before the end.
        let (w1, w2) =
            unsafe { (slice(w1, e * up.packed_len()), slice(w2, e * down.packed_len())) };
        // SAFETY: as above.
        let (b1, b2) = unsafe { (slice(b1, e * h), slice(b2, e * o)) };
        table.extend((0..e).map(|at| Expert {
            w1: Panels::new(up, &w1[at * up.packed_len()..][..up.packed_len()]),
            b1: Some(&b1[at * h..][..h]),
            w2: Panels::new(down, &w2[at * down.packed_len()..][..down.packed_len()]),
            b2: Some(&b2[at * o..][..o]),
        }));
        let mut scratch = launch.scratch;
        let len = scratch_len(launch.level, d, h, o, launch.pool.thread_count());
        let working = carve(&mut scratch, 4 * len);
        let chosen = [(); 2].map(|()| carve(&mut scratch, 4 * n * e));
        // SAFETY: `check` has seen that the weights are there.
        let dense = unsafe { slice::<f32>(weights, n * e) };
        let top_k = most_chosen(dense, e);
        // SAFETY: the scratch was carved for it.
        let indices = unsafe { slice_mut::<i32>(&chosen[0], n * top_k) };
        // SAFETY: as above.
        let weights = unsafe { slice_mut::<f32>(&chosen[1], n * top_k) };
        choose(dense, e, top_k, indices, weights);
        let experts = Experts {
            // SAFETY: `check` has seen that the rows are there.
            input: unsafe { Rows::from_raw(rows.start.cast(), n, d, stride) },
            experts: &table,
            indices,
            weights,
            top_k,
            // SAFETY: `check` has seen that there is room, and nobody else uses it.
            out: unsafe { RowsMut::from_raw(out.start.cast(), n, o, o) },
        };
        // SAFETY: the scratch was carved for it.
        let outcome = experts.run(launch.level, launch.pool, unsafe { slice_mut(&working, len) });
        table.clear();
        outcome
    }
}

/// The most experts that a row has chosen.
fn most_chosen(dense: &[f32], e: usize) -> usize {
    let rows = dense.chunks_exact(e.max(1));
    rows.map(|row| row.iter().filter(|it| **it != 0.0).count()).max().unwrap_or(0)
}

/// The chosen experts of each row, in ascending order. A row with fewer than `top_k` repeats its
/// last one with weight zero.
fn choose(dense: &[f32], e: usize, top_k: usize, indices: &mut [i32], weights: &mut [f32]) {
    if top_k == 0 {
        return;
    }
    let to = indices.chunks_exact_mut(top_k).zip(weights.chunks_exact_mut(top_k));
    for (row, (indices, weights)) in dense.chunks_exact(e).zip(to) {
        let mut at = 0;
        let mut last = 0;
        for (expert, weight) in row.iter().enumerate().filter(|(_, it)| **it != 0.0) {
            (indices[at], weights[at]) = (expert as i32, *weight);
            (at, last) = (at + 1, expert as i32);
        }
        indices[at..].fill(last);
        weights[at..].fill(0.0);
    }
}

#[test]
fn zero_weights_are_not_chosen() {
    let dense = [0.0, 0.5, 0.0, 0.25, 0.0, 0.0, 0.0, 1.0];
    assert_eq!(most_chosen(&dense, 4), 2);
    let (mut indices, mut weights) = ([9; 4], [9.0; 4]);
    choose(&dense, 4, 2, &mut indices, &mut weights);
    assert_eq!((indices, weights), ([1, 3, 3, 3], [0.5, 0.25, 1.0, 0.0]));
}
