//! Other element types, and rounding to the narrow ones.

use calor_ir::DType;

use super::{Kept, Run, map};

/// A register of one type as another. Floats to integers round towards zero and saturate, a NaN
/// gives zero; anything but zero is true.
///
/// Results of narrow floats still have to be rounded.
pub(in crate::vm) fn cast(from: DType, to: DType) -> Run {
    macro_rules! from_type {
        ($a:ty, $zero:expr) => {
            if to == DType::Bool {
                map!($a => u8, |x| u8::from(x != $zero))
            } else {
                match Kept::of(to) {
                    Kept::U8 => map!($a => u8, |x| x as u8),
                    Kept::I8 => map!($a => i8, |x| x as i8),
                    Kept::I32 => map!($a => i32, |x| x as i32),
                    Kept::U32 => map!($a => u32, |x| x as u32),
                    Kept::I64 => map!($a => i64, |x| x as i64),
                    Kept::F32 => map!($a => f32, |x| x as f32),
                    Kept::F64 => map!($a => f64, |x| x as f64),
                }
            }
        };
    }
    match Kept::of(from) {
        Kept::U8 => from_type!(u8, 0),
        Kept::I8 => from_type!(i8, 0),
        Kept::I32 => from_type!(i32, 0),
        Kept::U32 => from_type!(u32, 0),
        Kept::I64 => from_type!(i64, 0),
        Kept::F32 => from_type!(f32, 0.0),
        Kept::F64 => from_type!(f64, 0.0),
    }
}

/// Rounds `f32` to a narrow type and back; nothing for types that are not narrow.
pub(in crate::vm) fn round(dtype: DType) -> Option<Run> {
    Some(match dtype {
        DType::F16 => map!(f32 => f32, |x| half::f16::from_f32(x).to_f32()),
        DType::BF16 => map!(f32 => f32, |x| bf16_to_f32(bf16_of(x))),
        DType::F8E4M3 => map!(f32 => f32, |x| DType::F8E4M3.round(f64::from(x)) as f32),
        DType::Bool
        | DType::U8
        | DType::I8
        | DType::I32
        | DType::U32
        | DType::I64
        | DType::F32
        | DType::F64 => return None,
    })
}

/// The nearest `bf16`, ties to even.
#[inline(always)]
pub(in crate::vm) fn bf16_of(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    (if x.is_nan() { (bits >> 16) | 0x40 } else { rounded }) as u16
}

/// The value of a `bf16`.
#[inline(always)]
pub(in crate::vm) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[test]
fn bf16_agrees_with_the_definition() {
    for bits in (0..u32::MAX).step_by(65_521) {
        let x = f32::from_bits(bits);
        let want = DType::BF16.round(f64::from(x)) as f32;
        let got = bf16_to_f32(bf16_of(x));
        assert!(got == want || (got.is_nan() && want.is_nan()), "{x:e}: {got:e}, not {want:e}");
    }
}
