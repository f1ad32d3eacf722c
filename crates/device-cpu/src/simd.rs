//! Vectors of floats: one generic text, three machines.
//!
//! A [`Level`] is a proof that the processor has the instructions; it is found once. A
//! [`Kernel`] is written over [`Simd`] and compiled for each level. Nothing here knows shapes.

mod functions;
#[cfg(all(test, target_arch = "x86_64"))]
mod pair;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
pub(crate) use functions::tests::erf_exact;
pub use functions::{erf, exp, exp_below, sigmoid, tanh};
pub use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

/// Which instructions kernels use. The variants carry the proof that the machine has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What every machine of the architecture has.
    Scalar(Scalar),
    /// The shapes of [`Avx512`] without its instructions.
    #[cfg(all(test, target_arch = "x86_64"))]
    Wide(pair::Pair<Avx2>),
    /// AVX2 and FMA: eight floats.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 F: sixteen floats and thirty-two registers.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Level {
    /// The highest level of this machine.
    pub fn detect() -> Self {
        Self::available().next().unwrap_or(Self::Scalar(Scalar))
    }

    /// Every level of this machine, the highest first.
    pub fn available() -> impl Iterator<Item = Self> {
        #[cfg(all(test, target_arch = "x86_64"))]
        let last = Avx2::detect().map(|it| Self::Wide(pair::Pair(it)));
        #[cfg(not(all(test, target_arch = "x86_64")))]
        let last = None;
        Self::all().into_iter().flatten().chain(last)
    }

    #[cfg(target_arch = "x86_64")]
    fn all() -> [Option<Self>; 3] {
        let scalar = Some(Self::Scalar(Scalar));
        [Avx512::detect().map(Self::Avx512), Avx2::detect().map(Self::Avx2), scalar]
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn all() -> [Option<Self>; 1] {
        [Some(Self::Scalar(Scalar))]
    }

    /// Runs `kernel` with this level's instructions.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Self::Scalar(simd) => simd.call(kernel),
            #[cfg(all(test, target_arch = "x86_64"))]
            Self::Wide(simd) => simd.call(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.call(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.call(kernel),
        }
    }

    /// Floats in a vector.
    pub fn lanes(self) -> usize {
        match self {
            Self::Scalar(_) => Scalar::LANES,
            #[cfg(all(test, target_arch = "x86_64"))]
            Self::Wide(_) => 16,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Avx512::LANES,
        }
    }

    /// Rows of a register tile.
    pub fn tile_rows(self) -> usize {
        match self {
            Self::Scalar(_) => Scalar::TILE_ROWS,
            #[cfg(all(test, target_arch = "x86_64"))]
            Self::Wide(_) => 12,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Avx2::TILE_ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Avx512::TILE_ROWS,
        }
    }
}

/// A body that is compiled for each level. `run` must be `#[inline(always)]`, or it is compiled
/// without the level's instructions.
pub trait Kernel {
    /// What `run` returns.
    type Output;

    /// The body.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// A level's vectors. A value of the implementing type proves that the machine has them.
///
/// Every method is meant to be inlined into a [`Kernel`].
pub trait Simd: Copy + Send + Sync + 'static {
    /// A vector of [`Self::LANES`] floats.
    type F: Copy;

    /// Floats in a vector.
    const LANES: usize;

    /// Rows of a register tile that is two vectors wide.
    const TILE_ROWS: usize;

    /// Runs `kernel` in a function of its own that may use the level's instructions. A tile's
    /// loop goes here, because among others its sums would not all stay in registers.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F;

    /// Lane `i` is `start[i]`.
    ///
    /// # Safety
    /// [`Self::LANES`] floats at `start` are readable.
    unsafe fn load(self, start: *const f32) -> Self::F;

    /// `start[i]` becomes lane `i`.
    ///
    /// # Safety
    /// [`Self::LANES`] floats at `start` are writable.
    unsafe fn store(self, start: *mut f32, x: Self::F);

    /// As [`Simd::load`] for the first `count` lanes; the others are 0 and not read.
    ///
    /// # Safety
    /// `count` floats at `start` are readable; `count` is at most [`Self::LANES`].
    unsafe fn load_part(self, start: *const f32, count: usize) -> Self::F;

    /// As [`Simd::store`] for the first `count` lanes; the others are not written.
    ///
    /// # Safety
    /// `count` floats at `start` are writable; `count` is at most [`Self::LANES`].
    unsafe fn store_part(self, start: *mut f32, x: Self::F, count: usize);

    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;

    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;

    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;

    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;

    /// `a * b + c`, rounded once where the machine can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    /// The larger one; `b` when either is not a number.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;

    /// The smaller one; `b` when either is not a number.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;

    /// `yes` where `a < b`, else `no`.
    fn select_less(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;

    /// Adds the low bits of `shifted` to the exponent of `x`: `x * 2^n` when `shifted` is
    /// `1.5 * 2^23 + n` and neither `x` nor the result is subnormal.
    fn add_exponent(self, x: Self::F, shifted: Self::F) -> Self::F;

    /// Sum of the lanes, in an order that is the level's.
    fn sum(self, x: Self::F) -> f32;

    /// The largest lane.
    fn largest(self, x: Self::F) -> f32;
}
