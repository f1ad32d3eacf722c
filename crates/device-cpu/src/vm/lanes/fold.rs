//! Folding the lanes of a row into one value, in an order that depends on the row's width only.
//!
//! A block of partial results takes the row's blocks one after another; at the end its lanes are
//! folded in halves. A sum over narrow floats is kept in `f32`.

use calor_ir::{Binary, DType, Fold};

use super::{BLOCK, Kept};
use crate::simd::{Kernel, Level, Simd};

/// The operation that adds one value to a fold.
pub(in crate::vm) const fn binary_of(fold: Fold) -> Binary {
    match fold {
        Fold::Sum => Binary::Add,
        Fold::Max => Binary::Max,
        Fold::Min => Binary::Min,
    }
}

/// Adds `count` lanes at `from` (`step` bytes between blocks) to the block of partials at `to`.
///
/// # Safety
/// The lanes are readable and the block is writable; `count` lanes are initialised.
pub(in crate::vm) type FoldPart =
    unsafe fn(level: Level, to: *mut u8, from: *const u8, step: usize, count: usize);

/// Folds the lanes of the block at `to` and leaves the result in each of them.
///
/// # Safety
/// The block is writable.
pub(in crate::vm) type FoldEnd = unsafe fn(to: *mut u8);

struct Part<T, F> {
    to: *mut u8,
    from: *const u8,
    step: usize,
    count: usize,
    f: F,
    ty: std::marker::PhantomData<T>,
}

impl<T, F: Fn(T, T) -> T> Part<T, F> {
    /// A closure is only inlined by force where it is an argument.
    #[inline(always)]
    fn new([to, from]: [*mut u8; 2], step: usize, count: usize, f: F) -> Self {
        Self { to, from, step, count, f, ty: std::marker::PhantomData }
    }
}

impl<T: Copy, F: Fn(T, T) -> T> Kernel for Part<T, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let to = self.to.cast::<[T; BLOCK]>();
        // SAFETY: the promise of `FoldPart`.
        let mut sums = unsafe { to.read() };
        for block in 0..self.count / BLOCK {
            let from = self.from.wrapping_add(block * self.step).cast::<[T; BLOCK]>();
            // SAFETY: the promise of `FoldPart`.
            let x = unsafe { from.read() };
            sums = std::array::from_fn(|lane| (self.f)(sums[lane], x[lane]));
        }
        let rest = self.from.wrapping_add(self.count / BLOCK * self.step).cast::<T>();
        for (lane, sum) in sums.iter_mut().enumerate().take(self.count % BLOCK) {
            // SAFETY: the promise of `FoldPart`.
            let x = unsafe { rest.wrapping_add(lane).read() };
            *sum = (self.f)(*sum, x);
        }
        // SAFETY: the promise of `FoldPart`.
        unsafe { to.write(sums) };
    }
}

macro_rules! parts {
    ($t:ty, |$a:ident, $b:ident| $body:expr) => {{
        unsafe fn part(level: Level, to: *mut u8, from: *const u8, step: usize, count: usize) {
            level.run(Part::new(
                [to, from.cast_mut()],
                step,
                count,
                #[inline(always)]
                |$a: $t, $b: $t| -> $t { $body },
            ));
        }
        unsafe fn end(to: *mut u8) {
            let f = |$a: $t, $b: $t| -> $t { $body };
            let to = to.cast::<[$t; BLOCK]>();
            // SAFETY: the promise of `FoldEnd`.
            let mut lanes = unsafe { to.read() };
            let mut half = BLOCK / 2;
            while half > 0 {
                for lane in 0..half {
                    lanes[lane] = f(lanes[lane], lanes[lane + half]);
                }
                half /= 2;
            }
            // SAFETY: the promise of `FoldEnd`.
            unsafe { to.write([lanes[0]; BLOCK]) };
        }
        (part as FoldPart, end as FoldEnd)
    }};
}

macro_rules! ints {
    ($t:ty, $fold:expr) => {
        match $fold {
            Fold::Sum => parts!($t, |a, b| a.wrapping_add(b)),
            Fold::Max => parts!($t, |a, b| a.max(b)),
            Fold::Min => parts!($t, |a, b| a.min(b)),
        }
    };
}

macro_rules! floats {
    ($t:ty, $fold:expr) => {
        match $fold {
            Fold::Sum => parts!($t, |a, b| a + b),
            Fold::Max => parts!($t, |a, b| if a > b || a.is_nan() { a } else { b }),
            Fold::Min => parts!($t, |a, b| if a < b || a.is_nan() { a } else { b }),
        }
    };
}

/// The two halves of a fold over lanes of a type.
pub(in crate::vm) fn fold(fold: Fold, dtype: DType) -> (FoldPart, FoldEnd) {
    match Kept::of(dtype) {
        Kept::U8 => ints!(u8, fold),
        Kept::I8 => ints!(i8, fold),
        Kept::I32 => ints!(i32, fold),
        Kept::U32 => ints!(u32, fold),
        Kept::I64 => ints!(i64, fold),
        Kept::F32 => floats!(f32, fold),
        Kept::F64 => floats!(f64, fold),
    }
}

/// What a fold of nothing gives, as the bytes of one lane.
pub(in crate::vm) fn start(fold: Fold, dtype: DType) -> f64 {
    match fold {
        Fold::Sum => 0.0,
        Fold::Max => dtype.lowest(),
        Fold::Min => dtype.highest(),
    }
}
