//! Elements in buffers and what registers make of them.

use calor_ir::DType;

use super::lanes::{bf16_of, bf16_to_f32};

/// One element type as a buffer holds it.
pub(super) trait Stored {
    /// In a buffer.
    type Memory: Copy;
    /// In a register.
    type Lane: Copy;
    /// Whether the two are the same bits.
    const SAME: bool;

    fn load(memory: Self::Memory) -> Self::Lane;
    fn store(lane: Self::Lane) -> Self::Memory;
    /// The sum as a store that adds makes it.
    fn add(memory: Self::Memory, lane: Self::Lane) -> Self::Memory;
    fn zero() -> Self::Lane;
}

macro_rules! same {
    ($($name:ident: $t:ty = $zero:expr, |$a:ident, $b:ident| $add:expr;)*) => { $(
        pub(super) struct $name;

        impl Stored for $name {
            type Memory = $t;
            type Lane = $t;
            const SAME: bool = true;

            #[inline(always)]
            fn load(memory: $t) -> $t {
                memory
            }

            #[inline(always)]
            fn store(lane: $t) -> $t {
                lane
            }

            #[inline(always)]
            fn add($a: $t, $b: $t) -> $t {
                $add
            }

            #[inline(always)]
            fn zero() -> $t {
                $zero
            }
        }
    )* };
}

same! {
    Truth: u8 = 0, |a, b| a | b;
    OfU8: u8 = 0, |a, b| a.wrapping_add(b);
    OfI8: i8 = 0, |a, b| a.wrapping_add(b);
    OfI32: i32 = 0, |a, b| a.wrapping_add(b);
    OfU32: u32 = 0, |a, b| a.wrapping_add(b);
    OfI64: i64 = 0, |a, b| a.wrapping_add(b);
    OfF32: f32 = 0.0, |a, b| a + b;
    OfF64: f64 = 0.0, |a, b| a + b;
}

macro_rules! narrow {
    ($($name:ident: $t:ty, |$m:ident| $load:expr, |$x:ident| $store:expr;)*) => { $(
        pub(super) struct $name;

        impl Stored for $name {
            type Memory = $t;
            type Lane = f32;
            const SAME: bool = false;

            #[inline(always)]
            fn load($m: $t) -> f32 {
                $load
            }

            #[inline(always)]
            fn store($x: f32) -> $t {
                $store
            }

            #[inline(always)]
            fn add(memory: $t, lane: f32) -> $t {
                Self::store(Self::load(memory) + lane)
            }

            #[inline(always)]
            fn zero() -> f32 {
                0.0
            }
        }
    )* };
}

narrow! {
    OfF8: u8, |bits| DType::F8E4M3.decode(&[bits]) as f32, |x| f8_of(x);
    OfF16: u16, |bits| half::f16::from_bits(bits).to_f32(), |x| half::f16::from_f32(x).to_bits();
    OfBF16: u16, |bits| bf16_to_f32(bits), |x| bf16_of(x);
}

/// The nearest 8-bit float; saturates.
fn f8_of(x: f32) -> u8 {
    const MANTISSA_BITS: i32 = 3;
    const EXPONENT_MIN: i32 = -6;
    let sign = u8::from(x.is_sign_negative()) << 7;
    if x.is_nan() {
        return sign | 0x7F;
    }
    let rounded = DType::F8E4M3.round(f64::from(x)).abs();
    let exponent = (((rounded as f32).to_bits() >> 23) as i32 - 127).max(EXPONENT_MIN);
    let units = (rounded / 2.0_f64.powi(exponent - MANTISSA_BITS)) as u8;
    // A normal number's units carry the hidden bit, which adds one to the exponent field.
    sign | ((((exponent - EXPONENT_MIN) as u8) << MANTISSA_BITS) + units)
}

/// Runs `$body` with `$s` as the [`Stored`] of an element type.
macro_rules! with_stored {
    ($dtype:expr, $s:ident => $body:expr) => {
        match $dtype {
            calor_ir::DType::Bool => {
                type $s = $crate::vm::stored::Truth;
                $body
            }
            calor_ir::DType::U8 => {
                type $s = $crate::vm::stored::OfU8;
                $body
            }
            calor_ir::DType::I8 => {
                type $s = $crate::vm::stored::OfI8;
                $body
            }
            calor_ir::DType::I32 => {
                type $s = $crate::vm::stored::OfI32;
                $body
            }
            calor_ir::DType::U32 => {
                type $s = $crate::vm::stored::OfU32;
                $body
            }
            calor_ir::DType::I64 => {
                type $s = $crate::vm::stored::OfI64;
                $body
            }
            calor_ir::DType::F8E4M3 => {
                type $s = $crate::vm::stored::OfF8;
                $body
            }
            calor_ir::DType::F16 => {
                type $s = $crate::vm::stored::OfF16;
                $body
            }
            calor_ir::DType::BF16 => {
                type $s = $crate::vm::stored::OfBF16;
                $body
            }
            calor_ir::DType::F32 => {
                type $s = $crate::vm::stored::OfF32;
                $body
            }
            calor_ir::DType::F64 => {
                type $s = $crate::vm::stored::OfF64;
                $body
            }
        }
    };
}
pub(super) use with_stored;

#[test]
fn eight_bit_floats_are_encoded_as_defined() {
    for bits in 0..=u8::MAX {
        let value = DType::F8E4M3.decode(&[bits]) as f32;
        if value.is_nan() {
            assert_eq!(f8_of(value) & 0x7F, 0x7F);
        } else {
            assert_eq!(f8_of(value), bits);
            assert_eq!(f8_of(value * 1.01), bits, "rounds back to {value}");
        }
    }
    assert_eq!(f8_of(1e9), 0x7E);
}
