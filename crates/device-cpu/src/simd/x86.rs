//! AVX2 with FMA, and AVX-512 F. One instruction a method.

use std::arch::x86_64::*;

use super::{Kernel, Simd};

/// Proof of AVX2 and FMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

impl Avx2 {
    /// The proof, where the machine has them.
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

/// Proof of AVX-512 F (and of AVX2 and FMA).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512(());

impl Avx512 {
    /// The proof, where the machine has them.
    pub fn detect() -> Option<Self> {
        (Avx2::detect().is_some() && is_x86_feature_detected!("avx512f")).then_some(Self(()))
    }
}

/// Methods that are one expression of intrinsics.
macro_rules! methods {
    ($( $name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr; )*) => { $(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: the value of this type proves that the machine has the instruction.
            unsafe { $body }
        }
    )* };
}

impl Simd for Avx2 {
    type F = __m256;

    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx2,fma")]
        fn body<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: the value of this type proves that the machine has the features.
        unsafe { body(self, kernel) }
    }

    #[inline(always)]
    unsafe fn load(self, start: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(start) }
    }

    #[inline(always)]
    unsafe fn store(self, start: *mut f32, x: __m256) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(start, x) }
    }

    #[inline(always)]
    unsafe fn load_part(self, start: *const f32, count: usize) -> __m256 {
        // SAFETY: the caller's promise; lanes that the mask leaves out are not touched.
        unsafe { _mm256_maskload_ps(start, mask(count)) }
    }

    #[inline(always)]
    unsafe fn store_part(self, start: *mut f32, x: __m256, count: usize) {
        if count == 8 {
            // A masked store is a slow program on some machines.
            // SAFETY: eight floats are writable.
            return unsafe { _mm256_storeu_ps(start, x) };
        }
        // SAFETY: the caller's promise; lanes that the mask leaves out are not touched.
        unsafe { _mm256_maskstore_ps(start, mask(count), x) }
    }

    methods! {
        splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        select_less(a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 =
            _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b));
        add_exponent(x: __m256, shifted: __m256) -> __m256 = _mm256_castsi256_ps(_mm256_add_epi32(
            _mm256_castps_si256(x),
            _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted)),
        ));
        sum(x: __m256) -> f32 = {
            let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        };
        largest(x: __m256) -> f32 = {
            let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        };
    }
}

impl Simd for Avx512 {
    type F = __m512;

    const LANES: usize = 16;
    const TILE_ROWS: usize = 12;

    #[inline]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx2,fma")]
        fn body<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: the value of this type proves that the machine has the features.
        unsafe { body(self, kernel) }
    }

    #[inline(always)]
    unsafe fn load(self, start: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(start) }
    }

    #[inline(always)]
    unsafe fn store(self, start: *mut f32, x: __m512) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(start, x) }
    }

    #[inline(always)]
    unsafe fn load_part(self, start: *const f32, count: usize) -> __m512 {
        // SAFETY: the caller's promise; lanes that the mask leaves out are not touched.
        unsafe { _mm512_maskz_loadu_ps(mask16(count), start) }
    }

    #[inline(always)]
    unsafe fn store_part(self, start: *mut f32, x: __m512, count: usize) {
        // SAFETY: the caller's promise; lanes that the mask leaves out are not touched.
        unsafe { _mm512_mask_storeu_ps(start, mask16(count), x) }
    }

    methods! {
        splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        select_less(a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 =
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes);
        add_exponent(x: __m512, shifted: __m512) -> __m512 = _mm512_castsi512_ps(_mm512_add_epi32(
            _mm512_castps_si512(x),
            _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted)),
        ));
        sum(x: __m512) -> f32 = _mm512_reduce_add_ps(x);
        largest(x: __m512) -> f32 = _mm512_reduce_max_ps(x);
    }
}

/// All bits set in the first `count` of eight lanes.
///
/// # Safety
/// The machine has AVX.
#[inline(always)]
unsafe fn mask(count: usize) -> __m256i {
    static BITS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    debug_assert!(count <= 8);
    // SAFETY: eight words from index `8 - count` lie within the sixteen.
    unsafe { _mm256_loadu_si256(BITS.as_ptr().wrapping_add(8 - count).cast()) }
}

#[inline(always)]
fn mask16(count: usize) -> __mmask16 {
    debug_assert!(count <= 16);
    ((1u32 << count) - 1) as __mmask16
}
