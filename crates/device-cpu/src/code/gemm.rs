//! The library calls: packing weights, and linear layers with packed weights.

use calor_ir::DType;
use calor_kernel::Call;

use super::{Code, Launch, Machine, NoCode, carve, holds, size, slice, slice_mut};
use crate::activation::Activation;
use crate::gemm::{Gemm, Linear, Panels, Residual, Tiled};
use crate::threads::TaskPanicked;
use crate::view::{Rows, RowsMut};
use crate::vm::Buffer;

/// The most columns that a panel of any level has; packed weights are that many rows longer at
/// most, so that their size does not depend on the level.
pub(crate) const PANEL_COLS_MAX: usize = 32;

/// Floats of packed `[n, k]` weights at any level.
pub(crate) fn packed_len_max(n: usize, k: usize) -> usize {
    n.next_multiple_of(PANEL_COLS_MAX).saturating_mul(k)
}

pub(super) fn new(call: &Call) -> Result<Box<dyn Code>, NoCode> {
    let only_f32 = |dtype: DType| {
        let unsupported = || NoCode::Unsupported(format!("matrix products in {dtype}"));
        (dtype == DType::F32).then_some(()).ok_or_else(unsupported)
    };
    match *call {
        Call::Pack { n, k, dtype } => {
            only_f32(dtype)?;
            Ok(Box::new(PackCode { n: n as usize, k: k as usize }))
        }
        Call::Gemm { tf32: true, .. } => Err(NoCode::Unsupported("matrix products in tf32".into())),
        Call::Gemm { n, k, dtype, bias, activation, residual, packed, .. } => {
            only_f32(dtype)?;
            let (n, k) = (n as usize, k as usize);
            let activation = activation_of(activation);
            Ok(Box::new(GemmCode { n, k, bias, activation, residual, packed }))
        }
    }
}

fn activation_of(activation: calor_kernel::Activation) -> Activation {
    match activation {
        calor_kernel::Activation::None => Activation::None,
        calor_kernel::Activation::Relu => Activation::Relu,
        calor_kernel::Activation::Gelu => Activation::Gelu,
        calor_kernel::Activation::GeluTanh => Activation::GeluTanh,
        calor_kernel::Activation::QuickGelu => Activation::QuickGelu,
        calor_kernel::Activation::Silu => Activation::Silu,
        calor_kernel::Activation::Tanh => Activation::Tanh,
    }
}

#[derive(Debug)]
struct PackCode {
    n: usize,
    k: usize,
}

impl Code for PackCode {
    fn check(&self, words: &[i64], buffers: &[Buffer]) -> Result<(), &'static str> {
        let Self { n, k } = *self;
        let [weights, packed] = buffers else { return Err("packing takes two arguments") };
        if !words.is_empty() {
            return Err("packing takes no words");
        }
        if !holds(weights, n, k, k) || !holds(packed, 1, packed_len_max(n, k), 0) {
            return Err("the weights or their packed form are too short");
        }
        Ok(())
    }

    fn scratch_bytes(&self, _machine: Machine, _words: &[i64]) -> usize {
        0
    }

    unsafe fn run(&self, launch: &Launch<'_>) -> Result<(), TaskPanicked> {
        let gemm = Tiled { level: launch.level };
        // SAFETY: `check` has seen that the weights are there.
        let weights = unsafe { slice(&launch.buffers[0], self.n * self.k) };
        pack(launch, &gemm, [self.n, self.k], weights, &launch.buffers[1])
    }
}

/// Packs weights `[n, k]` on all threads: what the panels of a level hold is a run of rows, so
/// runs that all levels can cut at are packed by themselves.
///
/// # Errors
/// [`TaskPanicked`], which would be a bug here.
pub(super) fn pack(
    launch: &Launch<'_>,
    gemm: &Tiled,
    [n, k]: [usize; 2],
    weights: &[f32],
    packed: &Buffer,
) -> Result<(), TaskPanicked> {
    let packed = SharedBuffer(*packed);
    launch.pool.run(n.div_ceil(PANEL_COLS_MAX), &|task_index, _| {
        let first = task_index * PANEL_COLS_MAX;
        let rows = PANEL_COLS_MAX.min(n - first);
        let layout = gemm.layout(rows, k);
        // SAFETY: the caller has seen that there is room for all; each task has its own part.
        let part = unsafe { slice_mut(&packed.from(first * k * 4), layout.packed_len()) };
        layout.pack(&weights[first * k..][..rows * k], part);
    })
}

/// A buffer that tasks cut their own parts from.
struct SharedBuffer(Buffer);

// SAFETY: it is an address; the parts that tasks take are disjoint.
unsafe impl Sync for SharedBuffer {}

impl SharedBuffer {
    /// The bytes from `offset` on.
    fn from(&self, offset: usize) -> Buffer {
        let Buffer { start, len_bytes } = self.0;
        Buffer { start: start.wrapping_add(offset), len_bytes: len_bytes - offset }
    }
}

#[derive(Debug)]
struct GemmCode {
    n: usize,
    k: usize,
    bias: bool,
    activation: Activation,
    residual: bool,
    packed: bool,
}

/// The arguments of a product.
struct Arguments<'a> {
    input: &'a Buffer,
    weights: &'a Buffer,
    bias: Option<&'a Buffer>,
    residual: Option<&'a Buffer>,
    out: &'a Buffer,
}

impl GemmCode {
    fn arguments<'a>(&self, buffers: &'a [Buffer]) -> Option<Arguments<'a>> {
        let (input, rest) = buffers.split_first()?;
        let (weights, rest) = rest.split_first()?;
        let (out, mut rest) = rest.split_last()?;
        let mut optional = |wanted: bool| match rest.split_first() {
            Some((first, others)) if wanted => {
                rest = others;
                Some(first)
            }
            Some(_) | None => None,
        };
        let (bias, residual) = (optional(self.bias), optional(self.residual));
        let complete = bias.is_some() == self.bias && residual.is_some() == self.residual;
        (complete && rest.is_empty()).then_some(Arguments { input, weights, bias, residual, out })
    }
}

impl Code for GemmCode {
    fn check(&self, words: &[i64], buffers: &[Buffer]) -> Result<(), &'static str> {
        let Self { n, k, packed, .. } = *self;
        let Some(it) = self.arguments(buffers) else {
            return Err("the arguments are not those of the product");
        };
        if words.len() != 4 || words.iter().any(|it| *it < 0) {
            return Err("a product takes four sizes");
        }
        let [m, in_stride, out_stride, add_stride] = [0, 1, 2, 3].map(|it| size(words, it));
        let weights_len = if packed { packed_len_max(n, k) } else { n * k };
        if !holds(it.input, m, k, in_stride)
            || !holds(it.out, m, n, out_stride)
            || !holds(it.weights, 1, weights_len, 0)
            || !it.bias.is_none_or(|it| holds(it, 1, n, 0))
            || !it.residual.is_none_or(|it| holds(it, m, n, add_stride))
        {
            return Err("an argument of the product is too short for its rows");
        }
        let over_itself = it
            .residual
            .is_some_and(|it_is| it_is.start == it.out.start && add_stride != out_stride);
        if over_itself {
            return Err("a residual in the result's place has another stride");
        }
        Ok(())
    }

    fn scratch_bytes(&self, machine: Machine, _words: &[i64]) -> usize {
        let gemm = Tiled { level: machine.level };
        let packed = if self.packed { 0 } else { gemm.layout(self.n, self.k).packed_len() };
        (gemm.scratch_len(machine.thread_count).next_multiple_of(16) + packed) * 4 + 64
    }

    unsafe fn run(&self, launch: &Launch<'_>) -> Result<(), TaskPanicked> {
        let Self { n, k, activation, packed, .. } = *self;
        let gemm = Tiled { level: launch.level };
        let layout = gemm.layout(n, k);
        let [m, in_stride, out_stride, add_stride] = [0, 1, 2, 3].map(|it| size(launch.words, it));
        let Some(it) = self.arguments(launch.buffers) else { return Ok(()) };
        let mut scratch = launch.scratch;
        let len = gemm.scratch_len(launch.pool.thread_count());
        let sums = carve(&mut scratch, len * 4);
        // SAFETY: the scratch was carved for it.
        let sums = unsafe { slice_mut::<f32>(&sums, len) };
        let panels = if packed {
            // SAFETY: `check` has seen that the packed weights are there.
            unsafe { slice(it.weights, layout.packed_len()) }
        } else {
            let place = carve(&mut scratch, layout.packed_len() * 4);
            // SAFETY: `check` has seen that the weights are there.
            let weights = unsafe { slice(it.weights, n * k) };
            pack(launch, &gemm, [n, k], weights, &place)?;
            // SAFETY: the scratch was carved for it.
            unsafe { slice(&place, layout.packed_len()) }
        };
        let residual = match it.residual {
            None => Residual::None,
            Some(rows) if rows.start == it.out.start => Residual::InPlace,
            Some(rows) => {
                // SAFETY: `check` has seen that the rows are there.
                Residual::Rows(unsafe { Rows::from_raw(rows.start.cast(), m, n, add_stride) })
            }
        };
        let linear = Linear {
            // SAFETY: `check` has seen that the rows are there.
            input: unsafe { Rows::from_raw(it.input.start.cast(), m, k, in_stride) },
            weights: Panels::new(layout, panels),
            // SAFETY: `check` has seen that the bias is there.
            bias: it.bias.map(|it| unsafe { slice(it, n) }),
            activation,
            residual,
            // SAFETY: `check` has seen that there is room, and nobody else uses it.
            out: unsafe { RowsMut::from_raw(it.out.start.cast(), m, n, out_stride) },
        };
        gemm.run(launch.pool, linear, sums)
    }
}
