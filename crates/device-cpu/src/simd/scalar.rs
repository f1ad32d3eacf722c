//! The portable level: arrays that the compiler may put into whatever vectors it has.
//!
//! It is written for any shape of vector and tile, so that tests can run every kernel with the
//! shapes of a machine that is not there.

use super::{Kernel, Simd};

/// The portable level.
pub type Scalar = Portable<4, 4>;

/// Vectors of `LANES` floats and tiles of `ROWS` rows, without any instruction of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portable<const LANES: usize, const ROWS: usize>;

/// Whether `f32::mul_add` is an instruction and not a call.
const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

impl<const LANES: usize, const ROWS: usize> Simd for Portable<LANES, ROWS> {
    type F = [f32; LANES];

    const LANES: usize = LANES;
    const TILE_ROWS: usize = ROWS;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; LANES] {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, start: *const f32) -> [f32; LANES] {
        // SAFETY: a vector's floats are readable; `f32` in an array needs the alignment of `f32`.
        unsafe { start.cast::<[f32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, start: *mut f32, x: [f32; LANES]) {
        // SAFETY: a vector's floats are writable.
        unsafe { start.cast::<[f32; LANES]>().write_unaligned(x) }
    }

    #[inline(always)]
    unsafe fn load_part(self, start: *const f32, count: usize) -> [f32; LANES] {
        debug_assert!(count <= LANES);
        let mut x = [0.0; LANES];
        // SAFETY: `count` floats are readable, and `x` is a vector.
        unsafe { std::ptr::copy_nonoverlapping(start, x.as_mut_ptr(), count) };
        x
    }

    #[inline(always)]
    unsafe fn store_part(self, start: *mut f32, x: [f32; LANES], count: usize) {
        debug_assert!(count <= LANES);
        // SAFETY: `count` floats are writable, and `x` is a vector.
        unsafe { std::ptr::copy_nonoverlapping(x.as_ptr(), start, count) };
    }

    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn fma(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        if FUSED {
            std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
        } else {
            std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
        }
    }

    #[inline(always)]
    fn max(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn select_less(
        self,
        a: [f32; LANES],
        b: [f32; LANES],
        yes: [f32; LANES],
        no: [f32; LANES],
    ) -> [f32; LANES] {
        std::array::from_fn(|lane| if a[lane] < b[lane] { yes[lane] } else { no[lane] })
    }

    #[inline(always)]
    fn add_exponent(self, x: [f32; LANES], shifted: [f32; LANES]) -> [f32; LANES] {
        zip(x, shifted, |x, shifted| {
            f32::from_bits(x.to_bits().wrapping_add(shifted.to_bits() << 23))
        })
    }

    #[inline(always)]
    fn sum(self, x: [f32; LANES]) -> f32 {
        let (mut x, mut width) = (x, LANES);
        while 1 < width {
            width /= 2;
            for lane in 0..width {
                x[lane] += x[lane + width];
            }
        }
        x[0]
    }

    #[inline(always)]
    fn largest(self, x: [f32; LANES]) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn prefetch(self, _address: *const f32) {}
}

#[inline(always)]
fn zip<const N: usize>(a: [f32; N], b: [f32; N], f: impl Fn(f32, f32) -> f32) -> [f32; N] {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}
