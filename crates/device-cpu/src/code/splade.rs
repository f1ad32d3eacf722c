//! The source `splade`.
//!
//! Parameters: `v` and `k`, the sizes of the decoder.
//! Words: rows, segments, stride of the rows.
//! Arguments: rows `[t, k]`, packed decoder, bias `[v]`, lo and hi `[n]`, result `[n, v]`.
//! Segments are cut to the rows that are there.

use calor_kernel::Source;

use super::attention::cut_intervals;
use super::gemm::packed_len_max;
use super::{
    Code, Launch, Machine, NoCode, SourceRow, carve, holds, param, size, slice, slice_mut,
};
use crate::gemm::{Gemm, Panels, Tiled};
use crate::splade::{Splade, scratch_len};
use crate::threads::TaskPanicked;
use crate::view::{Rows, RowsMut};
use crate::vm::Buffer;

pub(super) const SOURCE: SourceRow = SourceRow { name: "splade", params: &["v", "k"], make };

#[derive(Debug)]
struct SpladeCode {
    v: usize,
    k: usize,
}

fn make(source: &Source) -> Result<Box<dyn Code>, NoCode> {
    Ok(Box::new(SpladeCode { v: param(source, "v")?, k: param(source, "k")? }))
}

impl Code for SpladeCode {
    fn check(&self, words: &[i64], buffers: &[Buffer]) -> Result<(), &'static str> {
        let Self { v, k } = *self;
        let [rows, decoder, bias, lo, hi, out] = buffers else {
            return Err("the SPLADE head takes six arguments");
        };
        if words.len() != 3 || words.iter().any(|it| *it < 0) {
            return Err("the SPLADE head takes three sizes");
        }
        let [t, n, stride] = [0, 1, 2].map(|it| size(words, it));
        if !holds(rows, t, k, stride)
            || !holds(decoder, 1, packed_len_max(v, k), 0)
            || !holds(bias, 1, v, 0)
            || ![lo, hi].iter().all(|it| holds(it, 1, n, 0))
            || !holds(out, n, v, v)
        {
            return Err("an argument of the SPLADE head is too short");
        }
        Ok(())
    }

    fn scratch_bytes(&self, machine: Machine, words: &[i64]) -> usize {
        4 * (scratch_len(machine.level, machine.thread_count) + 2 * size(words, 1)) + 3 * 64
    }

    unsafe fn run(&self, launch: &Launch<'_>) -> Result<(), TaskPanicked> {
        let Self { v, k } = *self;
        let [rows, decoder, bias, lo, hi, out] = launch.buffers else { return Ok(()) };
        let [t, n, stride] = [0, 1, 2].map(|it| size(launch.words, it));
        let layout = Tiled { level: launch.level }.layout(v, k);
        let mut scratch = launch.scratch;
        let len = scratch_len(launch.level, launch.pool.thread_count());
        let working = carve(&mut scratch, 4 * len);
        let cut = [(); 2].map(|()| carve(&mut scratch, 4 * n));
        // SAFETY: the scratch was carved for them.
        let [cut_lo, cut_hi] = cut.map(|it| unsafe { slice_mut::<i32>(&it, n) });
        // SAFETY: `check` has seen that the segments are there.
        let [lo, hi] = [lo, hi].map(|it| unsafe { slice::<i32>(it, n) });
        cut_intervals(lo, hi, t, cut_lo, cut_hi);
        let splade = Splade {
            // SAFETY: `check` has seen that the rows are there.
            hidden: unsafe { Rows::from_raw(rows.start.cast(), t, k, stride) },
            // SAFETY: `check` has seen that the packed weights are there.
            decoder: Panels::new(layout, unsafe { slice(decoder, layout.packed_len()) }),
            // SAFETY: `check` has seen that the bias is there.
            bias: Some(unsafe { slice(bias, v) }),
            lo: cut_lo,
            hi: cut_hi,
            // SAFETY: `check` has seen that there is room, and nobody else uses it.
            out: unsafe { RowsMut::from_raw(out.start.cast(), n, v, v) },
        };
        // SAFETY: the scratch was carved for it.
        splade.run(launch.level, launch.pool, unsafe { slice_mut(&working, len) })
    }
}
