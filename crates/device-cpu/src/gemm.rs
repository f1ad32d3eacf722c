//! Linear layers: `C = act(A Wᵀ + bias) + residual` with the weights packed beforehand.
//!
//! Weights are stored in panels two vectors wide, so that the inner loop reads them in order.
//! Every sum runs over k in order (see `tile`): a row's result has the same bits whatever rows
//! are computed with it and however the work is split.

mod block;
mod pack;

pub(crate) use block::{Panel, panel_sums, sums_len};
pub use pack::{Layout, Packed, Panels};

use crate::{
    activation::{Activation, ActivationUser},
    simd::{Kernel, Level, Simd},
    threads::{Pool, TaskPanicked},
    tile::{PANEL_VECTORS, Spread, multiply, with_rows},
    view::{Rows, RowsMut, Shared},
};

/// A way to multiply by packed weights.
pub trait Gemm: Sync {
    /// Where the floats of `weights: [n, k]` go; [`Layout::pack`] puts them there.
    fn layout(&self, n: usize, k: usize) -> Layout;

    /// As [`Gemm::layout`] for two matrices `[n, k]` whose products gate each other.
    fn gated_layout(&self, n: usize, k: usize) -> Layout;

    /// Floats of scratch that [`Gemm::run`] needs on a pool of `thread_count` threads.
    fn scratch_len(&self, thread_count: usize) -> usize;

    /// Computes `linear`. Allocates nothing.
    ///
    /// # Errors
    /// [`TaskPanicked`], which would be a bug here.
    ///
    /// # Panics
    /// When the shapes do not fit each other, the weights were packed for another level, or the
    /// scratch is too short.
    fn run(&self, pool: &Pool, linear: Linear<'_>, scratch: &mut [f32])
    -> Result<(), TaskPanicked>;
}

/// One linear layer over some rows: `out = act(input Wᵀ + bias) + residual`, or with gated
/// weights `act(input W1ᵀ + b1) ⊙ (input W2ᵀ + b2) + residual`.
///
/// Shapes: `input: [m, k]`, `weights: [n, k]`, `bias: [n]` (gated: `b1` then `b2`, `[2 n]`),
/// `residual` and `out: [m, n]`.
pub struct Linear<'a> {
    /// What is multiplied.
    pub input: Rows<'a>,
    /// By what.
    pub weights: Panels<'a>,
    /// Added to each row.
    pub bias: Option<&'a [f32]>,
    /// Applied to the sum (gated: to the first one).
    pub activation: Activation,
    /// Added last.
    pub residual: Residual<'a>,
    /// Where the result goes.
    pub out: RowsMut<'a>,
}

/// What is added to a layer's result.
#[derive(Clone, Copy, Debug)]
pub enum Residual<'a> {
    /// Nothing.
    None,
    /// Rows of the result's shape.
    Rows(Rows<'a>),
    /// What stands in the result's place.
    InPlace,
}

/// Our own kernels at a level of instructions.
#[derive(Clone, Copy, Debug)]
pub struct Tiled {
    /// Which instructions.
    pub level: Level,
}

/// Floats of the input's rows that one task works on, so that they stay in the second-level
/// cache while the panels pass by.
const BLOCK_FLOATS: usize = 32 * 1024;

/// Most rows that one task works on.
pub(crate) const BLOCK_ROWS_MAX: usize = 96;

/// Tasks that each thread should get, so that a slow one does not hold up the rest.
const TASKS_PER_THREAD: usize = 4;

impl Gemm for Tiled {
    fn layout(&self, n: usize, k: usize) -> Layout {
        Layout::new(self.level, n, k, false)
    }

    fn gated_layout(&self, n: usize, k: usize) -> Layout {
        Layout::new(self.level, n, k, true)
    }

    fn scratch_len(&self, thread_count: usize) -> usize {
        thread_count * sums_len(self.level)
    }

    fn run(
        &self,
        pool: &Pool,
        linear: Linear<'_>,
        scratch: &mut [f32],
    ) -> Result<(), TaskPanicked> {
        linear.check(self.level);
        assert!(self.scratch_len(pool.thread_count()) <= scratch.len(), "scratch is too short");
        let (m, panel_count) = (linear.input.row_count(), linear.weights.layout.panel_count());
        if m == 0 || panel_count == 0 {
            return Ok(());
        }
        let split = Split::new(self.level, m, linear.weights.layout.k(), panel_count, pool);
        let scratch = Shared::new(scratch);
        let level = self.level;
        pool.run(split.task_count(), &|task_index, worker_index| {
            let sums = scratch.at(worker_index * sums_len(level));
            let (rows, panels) = split.task(task_index);
            let task = Task { linear: &linear, rows, panels, sums };
            if m <= level.tile_rows() {
                level.run(Skinny(task));
            } else {
                level.run(Broad(task));
            }
        })
    }
}

impl Linear<'_> {
    fn check(&self, level: Level) {
        let layout = self.weights.layout;
        assert_eq!(layout.panel_width(), level.lanes() * PANEL_VECTORS, "packed for another level");
        assert_eq!(self.input.col_count(), layout.k());
        assert_eq!(self.out.row_count(), self.input.row_count());
        assert_eq!(self.out.col_count(), layout.n());
        if let Some(bias) = self.bias {
            assert_eq!(bias.len(), layout.n() * if layout.gated() { 2 } else { 1 });
        }
        if let Residual::Rows(rows) = self.residual {
            assert_eq!(rows.row_count(), self.out.row_count());
            assert_eq!(rows.col_count(), self.out.col_count());
        }
    }
}

/// How a product is cut into tasks: blocks of rows times runs of panels.
struct Split {
    rows: usize,
    panels: usize,
    row_parts: usize,
    panel_parts: usize,
}

impl Split {
    fn new(level: Level, rows: usize, k: usize, panels: usize, pool: &Pool) -> Self {
        let threads = pool.thread_count();
        let block_rows = (BLOCK_FLOATS / k.max(1)).clamp(4 * level.tile_rows(), BLOCK_ROWS_MAX);
        let row_parts = rows.div_ceil(block_rows);
        let wanted = if threads == 1 { 1 } else { threads * TASKS_PER_THREAD };
        let panel_parts = wanted.div_ceil(row_parts).min(panels);
        Self { rows, panels, row_parts, panel_parts }
    }

    fn task_count(&self) -> usize {
        self.row_parts * self.panel_parts
    }

    /// First and end of the rows, and of the panels.
    fn task(&self, task_index: usize) -> ([usize; 2], [usize; 2]) {
        let (row_part, panel_part) = (task_index / self.panel_parts, task_index % self.panel_parts);
        let cut = |part: usize, parts: usize, whole: usize| whole * part / parts;
        let rows = [row_part, row_part + 1].map(|it| cut(it, self.row_parts, self.rows));
        let panels = [panel_part, panel_part + 1].map(|it| cut(it, self.panel_parts, self.panels));
        (rows, panels)
    }
}

/// A task's part of a layer, and the worker's scratch.
struct Task<'a> {
    linear: &'a Linear<'a>,
    rows: [usize; 2],
    panels: [usize; 2],
    sums: *mut f32,
}

/// Many rows: panel by panel, its sums for all rows in scratch, then the result.
struct Broad<'a>(Task<'a>);

impl Kernel for Broad<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Task { linear, rows: [first_row, end_row], panels: [first, end], sums } = self.0;
        let a = linear.input;
        let rows = end_row - first_row;
        for panel_index in first..end {
            let panel = Panel {
                a: Spread { start: a.row(first_row), row: a.stride(), step: 1 },
                rows,
                b: linear.weights.panel(panel_index),
                k: linear.weights.layout.k(),
                sums,
            };
            // SAFETY: the views were checked; this worker alone uses `sums`, which has room for
            // a block of rows.
            unsafe { panel_sums(simd, panel) };
            let width = linear.weights.layout.panel_width();
            finish(simd, linear, first_row, rows, panel_index, sums, width);
        }
    }
}

/// Few rows, one tile: each panel is read once, several at a time so that enough sums are in
/// flight to keep up with memory.
struct Skinny<'a>(Task<'a>);

impl Kernel for Skinny<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Task { linear, rows: [first_row, end_row], panels: [first, end], sums } = self.0;
        let rows = end_row - first_row;
        let mut index = first;
        while index < end {
            let left = end - index;
            let skinny = SkinnyTile { linear, first_row, index, sums };
            index += match rows {
                1 if 4 <= left => simd.call(SkinnyOf::<1, 4>(skinny)),
                2 if 2 <= left => simd.call(SkinnyOf::<2, 2>(skinny)),
                _ => with_rows!(S, rows, M => simd.call(SkinnyOf::<M, 1>(skinny))),
            };
        }
    }
}

struct SkinnyTile<'a> {
    linear: &'a Linear<'a>,
    first_row: usize,
    index: usize,
    sums: *mut f32,
}

/// `M` rows times `P` panels from `index` on; says how many panels that was.
struct SkinnyOf<'a, const M: usize, const P: usize>(SkinnyTile<'a>);

impl<const M: usize, const P: usize> Kernel for SkinnyOf<'_, M, P> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        let SkinnyTile { linear, first_row, index, sums } = self.0;
        let layout = linear.weights.layout;
        let a = linear.input;
        let a = Spread { start: a.row(first_row), row: a.stride(), step: 1 };
        let b: [_; P] = std::array::from_fn(|p| linear.weights.panel(index + p));
        let width = layout.panel_width();
        let zero = [[[simd.splat(0.0); PANEL_VECTORS]; P]; M];
        // SAFETY: the views were checked, and a packed panel has `k` steps of its width.
        let tile = unsafe {
            multiply::<S, M, P, PANEL_VECTORS, false>(simd, layout.k(), a, b, width, 0, zero)
        };
        for p in 0..P {
            for (i, row) in tile.iter().enumerate() {
                for (v, x) in row[p].iter().enumerate() {
                    // SAFETY: `sums` has room for a tile of `M` rows.
                    unsafe { simd.store(sums.wrapping_add(i * width + v * S::LANES), *x) };
                }
            }
            finish(simd, linear, first_row, M, index + p, sums, width);
        }
        P
    }
}

/// Turns the sums of one panel into results: bias, activation, gate, residual.
#[inline(always)]
fn finish<S: Simd>(
    simd: S,
    linear: &Linear<'_>,
    first_row: usize,
    rows: usize,
    panel_index: usize,
    sums: *const f32,
    width: usize,
) {
    simd.call(Finish { linear, first_row, rows, panel_index, sums, width });
}

#[derive(Clone, Copy)]
struct Finish<'a> {
    linear: &'a Linear<'a>,
    first_row: usize,
    rows: usize,
    panel_index: usize,
    sums: *const f32,
    width: usize,
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.linear.activation.with(simd, FinishWith { simd, finish: self });
    }
}

struct FinishWith<'a, S> {
    simd: S,
    finish: Finish<'a>,
}

impl<S: Simd> ActivationUser<S> for FinishWith<'_, S> {
    #[inline(always)]
    fn call(self, f: impl Fn(S::F) -> S::F) {
        let Self { simd, finish: Finish { linear, first_row, rows, panel_index, sums, width } } =
            self;
        let (n, gated) = (linear.weights.layout.n(), linear.weights.layout.gated());
        let vectors = if gated { 1 } else { PANEL_VECTORS };
        for v in 0..vectors {
            let col = (panel_index * vectors + v) * S::LANES;
            if n <= col {
                return;
            }
            let cols = (n - col).min(S::LANES);
            let bias = |offset: usize| match linear.bias {
                // SAFETY: the bias has `cols` floats from here.
                Some(bias) => unsafe { load(simd, bias.as_ptr().wrapping_add(offset), cols) },
                None => simd.splat(0.0),
            };
            let first = bias(col);
            let second = if gated { bias(n + col) } else { first };
            for i in 0..rows {
                let at = sums.wrapping_add(i * width + v * S::LANES);
                // SAFETY: the worker's sums hold `rows` rows of two vectors.
                let sum = unsafe { simd.load(at) };
                let mut y = f(simd.add(sum, first));
                if gated {
                    // SAFETY: as above; the second vector of the row.
                    let gate = unsafe { simd.load(at.wrapping_add(S::LANES)) };
                    y = simd.mul(y, simd.add(gate, second));
                }
                let out = linear.out.row(first_row + i).wrapping_add(col);
                let residual = match linear.residual {
                    Residual::None => None,
                    Residual::Rows(rows) => Some(rows.row(first_row + i).wrapping_add(col)),
                    Residual::InPlace => Some(out.cast_const()),
                };
                if let Some(residual) = residual {
                    // SAFETY: the residual has the result's shape.
                    y = simd.add(y, unsafe { load(simd, residual, cols) });
                }
                // SAFETY: the row has `cols` floats from here, which only this task writes.
                unsafe { store(simd, out, y, cols) };
            }
        }
    }
}

/// # Safety
/// `count` floats are readable; `count` is at most a vector.
#[inline(always)]
unsafe fn load<S: Simd>(simd: S, start: *const f32, count: usize) -> S::F {
    if count == S::LANES {
        // SAFETY: a whole vector is readable.
        unsafe { simd.load(start) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { simd.load_part(start, count) }
    }
}

/// # Safety
/// `count` floats are writable; `count` is at most a vector.
#[inline(always)]
unsafe fn store<S: Simd>(simd: S, start: *mut f32, x: S::F, count: usize) {
    if count == S::LANES {
        // SAFETY: a whole vector is writable.
        unsafe { simd.store(start, x) };
    } else {
        // SAFETY: the caller's promise.
        unsafe { simd.store_part(start, x, count) };
    }
}

#[cfg(test)]
mod tests;
