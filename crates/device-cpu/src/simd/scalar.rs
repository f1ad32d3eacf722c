//! The portable level: arrays that the compiler may put into whatever vectors it has.

use super::{Kernel, Simd};

/// The portable level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scalar;

/// Whether `f32::mul_add` is an instruction and not a call.
const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

impl Simd for Scalar {
    type F = [f32; 4];

    const LANES: usize = 4;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 4] {
        [x; 4]
    }

    #[inline(always)]
    unsafe fn load(self, start: *const f32) -> [f32; 4] {
        // SAFETY: four floats are readable; `f32` in an array needs the alignment of `f32`.
        unsafe { start.cast::<[f32; 4]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, start: *mut f32, x: [f32; 4]) {
        // SAFETY: four floats are writable.
        unsafe { start.cast::<[f32; 4]>().write_unaligned(x) }
    }

    #[inline(always)]
    unsafe fn load_part(self, start: *const f32, count: usize) -> [f32; 4] {
        debug_assert!(count <= 4);
        let mut x = [0.0; 4];
        // SAFETY: `count` floats are readable, and `x` has room for four.
        unsafe { std::ptr::copy_nonoverlapping(start, x.as_mut_ptr(), count) };
        x
    }

    #[inline(always)]
    unsafe fn store_part(self, start: *mut f32, x: [f32; 4], count: usize) {
        debug_assert!(count <= 4);
        // SAFETY: `count` floats are writable, and `x` has four.
        unsafe { std::ptr::copy_nonoverlapping(x.as_ptr(), start, count) };
    }

    #[inline(always)]
    fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn fma(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        if FUSED {
            [0, 1, 2, 3].map(|lane| a[lane].mul_add(b[lane], c[lane]))
        } else {
            [0, 1, 2, 3].map(|lane| a[lane] * b[lane] + c[lane])
        }
    }

    #[inline(always)]
    fn max(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn select_less(self, a: [f32; 4], b: [f32; 4], yes: [f32; 4], no: [f32; 4]) -> [f32; 4] {
        [0, 1, 2, 3].map(|lane| if a[lane] < b[lane] { yes[lane] } else { no[lane] })
    }

    #[inline(always)]
    fn add_exponent(self, x: [f32; 4], shifted: [f32; 4]) -> [f32; 4] {
        zip(x, shifted, |x, shifted| {
            f32::from_bits(x.to_bits().wrapping_add(shifted.to_bits() << 23))
        })
    }

    #[inline(always)]
    fn sum(self, x: [f32; 4]) -> f32 {
        (x[0] + x[2]) + (x[1] + x[3])
    }

    #[inline(always)]
    fn largest(self, x: [f32; 4]) -> f32 {
        x[0].max(x[1]).max(x[2].max(x[3]))
    }
}

#[inline(always)]
fn zip(a: [f32; 4], b: [f32; 4], f: impl Fn(f32, f32) -> f32) -> [f32; 4] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}
