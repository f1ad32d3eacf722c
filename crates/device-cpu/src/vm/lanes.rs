//! Vector operations of the interpreter: one function for each operation and element type.
//!
//! Registers are runs of blocks; an operation reads and writes whole blocks, so that no loop has
//! a remainder. What lies past the last lane is unspecified, and nothing here may trap on it.
//! Narrow floats are kept as `f32`; `bool` is a byte that is zero or one.

mod binary;
mod cast;
mod fold;
mod unary;

pub(super) use binary::binary;
pub(super) use cast::{bf16_of, bf16_to_f32};
pub(super) use cast::{cast, round};
pub(super) use fold::{FoldEnd, FoldPart, binary_of, fold, start};
pub(super) use unary::unary;

use calor_ir::DType;

use crate::simd::{Kernel, Level, Simd};

/// Lanes that are computed together.
pub(super) const BLOCK: usize = 16;

/// Operands of one vector operation.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// Where the results go; not the same as an argument unless at the same address.
    pub(super) to: *mut u8,
    /// Where the arguments are; unused ones are ignored.
    pub(super) from: [*const u8; 3],
    /// Bytes from one block of an argument to the next; zero repeats one block.
    pub(super) steps: [usize; 3],
    /// Number of blocks.
    pub(super) block_count: usize,
}

/// A vector operation.
///
/// # Safety
/// Each operand is readable, or writable, for the blocks that its step and the count imply.
pub(super) type Run = unsafe fn(Level, &Operands);

/// How a register of an element type is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// `u8`; `bool` too.
    U8,
    /// `i8`.
    I8,
    /// `i32`.
    I32,
    /// `u32`.
    U32,
    /// `i64`.
    I64,
    /// `f32`; narrower floats too.
    F32,
    /// `f64`.
    F64,
}

impl Kept {
    pub(super) const fn of(dtype: DType) -> Self {
        match dtype {
            DType::Bool | DType::U8 => Self::U8,
            DType::I8 => Self::I8,
            DType::I32 => Self::I32,
            DType::U32 => Self::U32,
            DType::I64 => Self::I64,
            DType::F8E4M3 | DType::F16 | DType::BF16 | DType::F32 => Self::F32,
            DType::F64 => Self::F64,
        }
    }

    pub(super) const fn size_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }
}

/// Whether a buffer holds this type otherwise than a register.
pub(super) const fn is_narrow(dtype: DType) -> bool {
    matches!(dtype, DType::F8E4M3 | DType::F16 | DType::BF16)
}

/// One argument, lane by lane.
struct Map1<'a, A, O, F> {
    operands: &'a Operands,
    f: F,
    types: std::marker::PhantomData<(A, O)>,
}

impl<'a, A, O, F: Fn(A) -> O> Map1<'a, A, O, F> {
    /// A closure is only inlined by force where it is an argument.
    #[inline(always)]
    fn new(operands: &'a Operands, f: F) -> Self {
        Self { operands, f, types: std::marker::PhantomData }
    }
}

impl<A: Copy, O: Copy, F: Fn(A) -> O> Kernel for Map1<'_, A, O, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let Operands { to, from: [a, ..], steps: [step, ..], block_count } = *self.operands;
        for block in 0..block_count {
            // SAFETY: the promise of `Run`.
            let x = unsafe { a.wrapping_add(block * step).cast::<[A; BLOCK]>().read() };
            let y: [O; BLOCK] = std::array::from_fn(|lane| (self.f)(x[lane]));
            // SAFETY: the promise of `Run`.
            unsafe { to.cast::<[O; BLOCK]>().wrapping_add(block).write(y) };
        }
    }
}

/// Two arguments of one type, lane by lane.
struct Map2<'a, A, O, F> {
    operands: &'a Operands,
    f: F,
    types: std::marker::PhantomData<(A, O)>,
}

impl<'a, A, O, F: Fn(A, A) -> O> Map2<'a, A, O, F> {
    /// A closure is only inlined by force where it is an argument.
    #[inline(always)]
    fn new(operands: &'a Operands, f: F) -> Self {
        Self { operands, f, types: std::marker::PhantomData }
    }
}

impl<A: Copy, O: Copy, F: Fn(A, A) -> O> Kernel for Map2<'_, A, O, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let Operands { to, from: [a, b, _], steps: [a_step, b_step, _], block_count } =
            *self.operands;
        for block in 0..block_count {
            // SAFETY: the promise of `Run`.
            let x = unsafe { a.wrapping_add(block * a_step).cast::<[A; BLOCK]>().read() };
            // SAFETY: the promise of `Run`.
            let y = unsafe { b.wrapping_add(block * b_step).cast::<[A; BLOCK]>().read() };
            let z: [O; BLOCK] = std::array::from_fn(|lane| (self.f)(x[lane], y[lane]));
            // SAFETY: the promise of `Run`.
            unsafe { to.cast::<[O; BLOCK]>().wrapping_add(block).write(z) };
        }
    }
}

/// Three arguments, lane by lane.
struct Map3<'a, A, B, O, F> {
    operands: &'a Operands,
    f: F,
    types: std::marker::PhantomData<(A, B, O)>,
}

impl<'a, A, B, O, F: Fn(A, B, B) -> O> Map3<'a, A, B, O, F> {
    /// A closure is only inlined by force where it is an argument.
    #[inline(always)]
    fn new(operands: &'a Operands, f: F) -> Self {
        Self { operands, f, types: std::marker::PhantomData }
    }
}

impl<A: Copy, B: Copy, O: Copy, F: Fn(A, B, B) -> O> Kernel for Map3<'_, A, B, O, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let Operands { to, from: [a, b, c], steps, block_count } = *self.operands;
        for block in 0..block_count {
            // SAFETY: the promise of `Run`.
            let x = unsafe { a.wrapping_add(block * steps[0]).cast::<[A; BLOCK]>().read() };
            // SAFETY: the promise of `Run`.
            let y = unsafe { b.wrapping_add(block * steps[1]).cast::<[B; BLOCK]>().read() };
            // SAFETY: the promise of `Run`.
            let z = unsafe { c.wrapping_add(block * steps[2]).cast::<[B; BLOCK]>().read() };
            let w: [O; BLOCK] = std::array::from_fn(|lane| (self.f)(x[lane], y[lane], z[lane]));
            // SAFETY: the promise of `Run`.
            unsafe { to.cast::<[O; BLOCK]>().wrapping_add(block).write(w) };
        }
    }
}

/// A [`Run`] out of an expression over lanes.
macro_rules! map {
    ($a:ty => $o:ty, |$x:ident| $body:expr) => {{
        unsafe fn run(level: crate::simd::Level, operands: &$crate::vm::lanes::Operands) {
            level.run($crate::vm::lanes::Map1::new(
                operands,
                #[inline(always)]
                |$x: $a| -> $o { $body },
            ));
        }
        run as $crate::vm::lanes::Run
    }};
    ($a:ty => $o:ty, |$x:ident, $y:ident| $body:expr) => {{
        unsafe fn run(level: crate::simd::Level, operands: &$crate::vm::lanes::Operands) {
            level.run($crate::vm::lanes::Map2::new(
                operands,
                #[inline(always)]
                |$x: $a, $y: $a| -> $o { $body },
            ));
        }
        run as $crate::vm::lanes::Run
    }};
    ($a:ty, $b:ty => $o:ty, |$x:ident, $y:ident, $z:ident| $body:expr) => {{
        unsafe fn run(level: crate::simd::Level, operands: &$crate::vm::lanes::Operands) {
            level.run($crate::vm::lanes::Map3::new(
                operands,
                #[inline(always)]
                |$x: $a, $y: $b, $z: $b| -> $o { $body },
            ));
        }
        run as $crate::vm::lanes::Run
    }};
}
use map;

/// `condition ? a : b`.
pub(super) fn select(kept: Kept) -> Run {
    match kept.size_bytes() {
        1 => map!(u8, u8 => u8, |c, a, b| if c != 0 { a } else { b }),
        4 => map!(u8, u32 => u32, |c, a, b| if c != 0 { a } else { b }),
        _ => map!(u8, u64 => u64, |c, a, b| if c != 0 { a } else { b }),
    }
}

/// `a * b + c`, rounded after each of the two, as a recurrence step wants it.
pub(super) fn multiply_add(kept: Kept) -> Option<Run> {
    Some(match kept {
        Kept::F32 => map!(f32, f32 => f32, |a, b, c| a * b + c),
        Kept::F64 => map!(f64, f64 => f64, |a, b, c| a * b + c),
        Kept::U8 | Kept::I8 | Kept::I32 | Kept::U32 | Kept::I64 => return None,
    })
}

/// The same lanes in another register.
pub(super) fn copy(kept: Kept) -> Run {
    match kept.size_bytes() {
        1 => map!(u8 => u8, |x| x),
        4 => map!(u32 => u32, |x| x),
        _ => map!(u64 => u64, |x| x),
    }
}

/// First word of Philox-4x32-10 of key (`a`, `b`) and counter (`c`, 0, 0, 0).
pub(super) fn philox() -> Run {
    map!(u32, u32 => u32, |key0, key1, counter| philox_word(key0, key1, counter))
}

/// Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#[inline(always)]
fn philox_word(key0: u32, key1: u32, counter: u32) -> u32 {
    let (mut key0, mut key1) = (key0, key1);
    let mut c = [counter, 0, 0, 0];
    for _ in 0..10 {
        let a = u64::from(c[0]) * 0xD251_1F53;
        let b = u64::from(c[2]) * 0xCD9E_8D57;
        c = [(b >> 32) as u32 ^ c[1] ^ key0, b as u32, (a >> 32) as u32 ^ c[3] ^ key1, a as u32];
        key0 = key0.wrapping_add(0x9E37_79B9);
        key1 = key1.wrapping_add(0xBB67_AE85);
    }
    c[0]
}

#[test]
fn philox_follows_the_paper() {
    // Known answers of Random123: all zeros, and a counter of ones in the first word only is ours.
    assert_eq!(philox_word(0, 0, 0), 0x6627_e8d5);
}
