//! Loaded code: what the compiler makes and the queue runs.

mod attention;
mod digest;
mod experts;
mod gemm;
mod loops;
mod splade;

pub(crate) use gemm::packed_len_max;

use std::fmt;

use calor_kernel::{Source, Unit};

use crate::simd::Level;
use crate::threads::{Pool, TaskPanicked};
use crate::vm::Buffer;

/// What code may ask of the device when it is prepared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) level: Level,
    pub(crate) thread_count: usize,
}

/// One launch. Buffers are aligned as the code asked.
pub(crate) struct Launch<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) level: Level,
    /// Live counts are filled in; none is above what was checked.
    pub(crate) words: &'a [i64],
    pub(crate) buffers: &'a [Buffer],
    /// Aligned to 256 bytes, at least what the code asked for.
    pub(crate) scratch: Buffer,
}

/// Code that is ready to run.
pub(crate) trait Code: Send + Sync + fmt::Debug {
    /// Whether words (live ones at their most) and buffers are what it takes.
    ///
    /// # Errors
    /// What does not fit.
    fn check(&self, words: &[i64], buffers: &[Buffer]) -> Result<(), &'static str>;

    /// Bytes of scratch for these words.
    fn scratch_bytes(&self, machine: Machine, words: &[i64]) -> usize;

    /// Runs it. Allocates nothing.
    ///
    /// # Errors
    /// [`TaskPanicked`] when a task found something that it cannot compute.
    ///
    /// # Safety
    /// Words and buffers have passed [`Code::check`]; the buffers and the scratch are used by
    /// nobody else meanwhile.
    unsafe fn run(&self, launch: &Launch<'_>) -> Result<(), TaskPanicked>;
}

/// Why a unit has no code here.
#[derive(Debug)]
pub(crate) enum NoCode {
    /// The device does not do this.
    Unsupported(String),
    /// The unit contradicts itself.
    Wrong(String),
}

/// Code for a unit.
///
/// # Errors
/// [`NoCode`] when there is none.
pub(crate) fn code_of(unit: &Unit) -> Result<Box<dyn Code>, NoCode> {
    match unit {
        Unit::Loop(program) => loops::new(program),
        Unit::Call(call) => gemm::new(call),
        Unit::Source(source) => match SOURCES.iter().find(|it| it.name == source.name) {
            Some(known) => (known.make)(source),
            None => Err(NoCode::Unsupported(format!("the source `{}`", source.name))),
        },
    }
}

/// A named kernel.
pub(crate) struct SourceRow {
    /// Its name.
    pub(crate) name: &'static str,
    /// Names of its parameters, in order.
    pub(crate) params: &'static [&'static str],
    make: fn(&Source) -> Result<Box<dyn Code>, NoCode>,
}

/// Every named kernel.
pub(crate) static SOURCES: &[SourceRow] =
    &[attention::SOURCE, splade::SOURCE, experts::SOURCE, experts::PACK_SOURCE, digest::SOURCE];

/// A parameter that must be there and fit.
fn param(source: &Source, name: &'static str) -> Result<usize, NoCode> {
    let value = source.param(name).and_then(|it| usize::try_from(it).ok());
    value.ok_or_else(|| NoCode::Wrong(format!("`{}` needs the parameter `{name}`", source.name)))
}

/// A word as a size.
fn size(words: &[i64], index: usize) -> usize {
    words.get(index).map_or(0, |it| usize::try_from(*it).unwrap_or(0))
}

/// Whether `buffer` starts at a multiple of `bytes`.
fn aligned(buffer: &Buffer, bytes: usize) -> bool {
    buffer.start.addr().is_multiple_of(bytes)
}

/// Whether `buffer` holds `rows` rows of `cols` elements of four bytes, `stride` apart.
fn holds(buffer: &Buffer, rows: usize, cols: usize, stride: usize) -> bool {
    let last = rows.saturating_sub(1).saturating_mul(stride);
    let len = if rows == 0 { 0 } else { last.saturating_add(cols) };
    aligned(buffer, 4) && (rows <= 1 || cols <= stride) && len.saturating_mul(4) <= buffer.len_bytes
}

/// The buffer's elements, to read.
///
/// # Safety
/// The buffer is aligned for `T`, holds `len` of them, and nobody writes it for `'a`.
unsafe fn slice<'a, T>(buffer: &Buffer, len: usize) -> &'a [T] {
    debug_assert!(len * size_of::<T>() <= buffer.len_bytes);
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(buffer.start.cast::<T>(), len) }
}

/// The buffer's elements, to write.
///
/// # Safety
/// The buffer is aligned for `T`, holds `len` of them, and nobody else uses it for `'a`.
unsafe fn slice_mut<'a, T>(buffer: &Buffer, len: usize) -> &'a mut [T] {
    debug_assert!(len * size_of::<T>() <= buffer.len_bytes);
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(buffer.start.cast::<T>(), len) }
}

/// Cuts a piece of `bytes`, aligned, off the front of the scratch.
fn carve(scratch: &mut Buffer, bytes: usize) -> Buffer {
    let taken = bytes.next_multiple_of(64);
    assert!(taken <= scratch.len_bytes, "scratch is too short");
    let piece = Buffer { start: scratch.start, len_bytes: bytes };
    *scratch =
        Buffer { start: scratch.start.wrapping_add(taken), len_bytes: scratch.len_bytes - taken };
    piece
}
