//! Two vectors as one: the shapes of a wider machine on one that is here, for tests.

use super::{Kernel, Simd};

/// Vectors twice as long as `S`'s, and tiles as high as AVX-512's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<S>(pub(super) S);

struct InPairs<K>(K);

impl<K: Kernel> Kernel for InPairs<K> {
    type Output = K::Output;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> K::Output {
        self.0.run(Pair(simd))
    }
}

/// Methods that do the same to both halves.
macro_rules! halves {
    ($( $name:ident($($arg:ident),*); )*) => { $(
        #[inline(always)]
        fn $name(self, $($arg: [S::F; 2]),*) -> [S::F; 2] {
            [self.0.$name($($arg[0]),*), self.0.$name($($arg[1]),*)]
        }
    )* };
}

impl<S: Simd> Simd for Pair<S> {
    type F = [S::F; 2];

    const LANES: usize = 2 * S::LANES;
    const TILE_ROWS: usize = 12;

    #[inline]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        self.0.call(InPairs(kernel))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [S::F; 2] {
        [self.0.splat(x); 2]
    }

    #[inline(always)]
    unsafe fn load(self, start: *const f32) -> [S::F; 2] {
        // SAFETY: the caller's promise, for each half.
        unsafe { [self.0.load(start), self.0.load(start.wrapping_add(S::LANES))] }
    }

    #[inline(always)]
    unsafe fn store(self, start: *mut f32, x: [S::F; 2]) {
        // SAFETY: the caller's promise, for each half.
        unsafe {
            self.0.store(start, x[0]);
            self.0.store(start.wrapping_add(S::LANES), x[1]);
        }
    }

    #[inline(always)]
    unsafe fn load_part(self, start: *const f32, count: usize) -> [S::F; 2] {
        let first = count.min(S::LANES);
        let second = start.wrapping_add(S::LANES);
        // SAFETY: the caller's promise, for each half.
        unsafe { [self.0.load_part(start, first), self.0.load_part(second, count - first)] }
    }

    #[inline(always)]
    unsafe fn store_part(self, start: *mut f32, x: [S::F; 2], count: usize) {
        let first = count.min(S::LANES);
        // SAFETY: the caller's promise, for each half.
        unsafe {
            self.0.store_part(start, x[0], first);
            self.0.store_part(start.wrapping_add(S::LANES), x[1], count - first);
        }
    }

    halves! {
        add(a, b);
        sub(a, b);
        mul(a, b);
        div(a, b);
        fma(a, b, c);
        max(a, b);
        min(a, b);
        select_less(a, b, yes, no);
        add_exponent(x, shifted);
    }

    #[inline(always)]
    fn sum(self, x: [S::F; 2]) -> f32 {
        self.0.sum(self.0.add(x[0], x[1]))
    }

    #[inline(always)]
    fn largest(self, x: [S::F; 2]) -> f32 {
        self.0.largest(self.0.max(x[0], x[1]))
    }
}
