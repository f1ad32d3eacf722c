//! Kernels that work row by row: norms, softmax, embeddings, rotations, pooling.
//!
//! Rows are computed in parallel, each by one thread and in one order. Nothing is allocated.

mod embed;
mod norm;
mod pointwise;
mod pool;
mod rope;

pub use embed::{Embed, Lookup};
pub use norm::{Moments, Norm, NormOver, softmax};
pub use pointwise::{Half, activate, add, gate};
pub use pool::{Pooling, pool};
pub use rope::{Pairing, Rope};

use crate::{
    simd::Simd,
    threads::{Pool, TaskPanicked},
};

/// Floats that a task should at least move, so that handing it out costs little beside it.
const TASK_FLOATS: usize = 16 * 1024;

/// Calls `f(first_row, end_row)` for parts of the rows, in parallel when they are worth it.
fn for_rows(
    pool: &Pool,
    row_count: usize,
    row_floats: usize,
    f: impl Fn(usize, usize) + Sync,
) -> Result<(), TaskPanicked> {
    let worth = (row_count * row_floats).div_ceil(TASK_FLOATS);
    let parts = worth.min(4 * pool.thread_count()).clamp(1, row_count.max(1));
    pool.run(parts, &|part, _| {
        f(row_count * part / parts, row_count * (part + 1) / parts);
    })
}

/// `out[c] = f(inputs[..][c])`.
///
/// # Safety
/// Each input is readable and `out` writable for `count` floats. An input may be `out`.
#[inline(always)]
unsafe fn map<S: Simd, const N: usize>(
    simd: S,
    count: usize,
    inputs: [*const f32; N],
    out: *mut f32,
    f: impl Fn([S::F; N]) -> S::F,
) {
    let mut c = 0;
    while c + S::LANES <= count {
        // SAFETY: a whole vector is left.
        unsafe {
            let x = inputs.map(|it| simd.load(it.wrapping_add(c)));
            simd.store(out.wrapping_add(c), f(x));
        }
        c += S::LANES;
    }
    if c < count {
        // SAFETY: `count - c` floats are left, fewer than a vector.
        unsafe {
            let x = inputs.map(|it| simd.load_part(it.wrapping_add(c), count - c));
            simd.store_part(out.wrapping_add(c), f(x), count - c);
        }
    }
}

/// Folds `f` over the row, from `start` in each lane: four vectors side by side, which the
/// caller joins. Lanes past the end stay as they are.
///
/// # Safety
/// `input` is readable for `count` floats.
#[inline(always)]
unsafe fn fold<S: Simd>(
    simd: S,
    count: usize,
    input: *const f32,
    start: f32,
    f: impl Fn(S::F, S::F) -> S::F,
) -> [S::F; 4] {
    let mut state = [simd.splat(start); 4];
    let mut c = 0;
    while c + 4 * S::LANES <= count {
        for (v, state) in state.iter_mut().enumerate() {
            // SAFETY: four vectors are left.
            let x = unsafe { simd.load(input.wrapping_add(c + v * S::LANES)) };
            *state = f(*state, x);
        }
        c += 4 * S::LANES;
    }
    while c + S::LANES <= count {
        // SAFETY: a whole vector is left.
        let x = unsafe { simd.load(input.wrapping_add(c)) };
        state[0] = f(state[0], x);
        c += S::LANES;
    }
    if c < count {
        let mut lanes = [0.0; LANES_MAX];
        // SAFETY: `count - c` floats are left, fewer than a vector, and `lanes` holds one.
        unsafe {
            let next = f(state[1], simd.load_part(input.wrapping_add(c), count - c));
            simd.store(lanes.as_mut_ptr(), state[1]);
            simd.store_part(lanes.as_mut_ptr(), next, count - c);
            state[1] = simd.load(lanes.as_ptr());
        }
    }
    state
}

/// Most lanes at any level.
const LANES_MAX: usize = 16;

/// Sum of what [`fold`] left.
#[inline(always)]
fn sum<S: Simd>(simd: S, state: [S::F; 4]) -> f32 {
    let [a, b, c, d] = state;
    simd.sum(simd.add(simd.add(a, b), simd.add(c, d)))
}
