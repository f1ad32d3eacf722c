//! Operations of two arguments.

use calor_ir::{Binary, DType};

use super::{Kept, Run, map};

/// `op` on arguments of `dtype`; nothing where it is not defined.
///
/// Results of narrow floats still have to be rounded.
pub(in crate::vm) fn binary(op: Binary, dtype: DType) -> Option<Run> {
    if !op.accepts(dtype) {
        return None;
    }
    if dtype == DType::Bool {
        return Some(truth(op));
    }
    Some(match Kept::of(dtype) {
        Kept::U8 => of_u8(op),
        Kept::I8 => of_i8(op),
        Kept::I32 => of_i32(op),
        Kept::U32 => of_u32(op),
        Kept::I64 => of_i64(op),
        Kept::F32 => return of_f32(op),
        Kept::F64 => return of_f64(op),
    })
}

fn truth(op: Binary) -> Run {
    match op {
        Binary::Lt => map!(u8 => u8, |a, b| !a & b),
        Binary::Le => map!(u8 => u8, |a, b| (a ^ 1) | b),
        Binary::Eq => map!(u8 => u8, |a, b| a ^ b ^ 1),
        Binary::Max | Binary::Or => map!(u8 => u8, |a, b| a | b),
        Binary::Xor => map!(u8 => u8, |a, b| a ^ b),
        // Sums and the like are not defined on truth values; `accepts` has said so.
        Binary::Min
        | Binary::And
        | Binary::Add
        | Binary::Sub
        | Binary::Mul
        | Binary::Div
        | Binary::Rem
        | Binary::Pow
        | Binary::Shl
        | Binary::Shr => map!(u8 => u8, |a, b| a & b),
    }
}

/// Never for unsigned types, which the compiler sees.
#[inline(always)]
fn is_negative(x: impl Into<i128>) -> bool {
    x.into() < 0
}

macro_rules! of_int {
    ($name:ident, $t:ty, $unsigned:ty) => {
        fn $name(op: Binary) -> Run {
            const BITS: $unsigned = <$t>::BITS as $unsigned;
            match op {
                Binary::Add => map!($t => $t, |a, b| a.wrapping_add(b)),
                Binary::Sub => map!($t => $t, |a, b| a.wrapping_sub(b)),
                Binary::Mul => map!($t => $t, |a, b| a.wrapping_mul(b)),
                Binary::Div => map!($t => $t, |a, b| if b == 0 { 0 } else { a.wrapping_div(b) }),
                Binary::Rem => map!($t => $t, |a, b| {
                    let rest = if b == 0 { 0 } else { a.wrapping_rem(b) };
                    let other_side = rest != 0 && is_negative(rest) != is_negative(b);
                    if other_side { rest.wrapping_add(b) } else { rest }
                }),
                Binary::Max => map!($t => $t, |a, b| if a < b { b } else { a }),
                Binary::Min => map!($t => $t, |a, b| if b < a { b } else { a }),
                Binary::Lt => map!($t => u8, |a, b| u8::from(a < b)),
                Binary::Le => map!($t => u8, |a, b| u8::from(a <= b)),
                Binary::Eq => map!($t => u8, |a, b| u8::from(a == b)),
                // Powers are of floats; `accepts` has said so.
                Binary::And | Binary::Pow => map!($t => $t, |a, b| a & b),
                Binary::Or => map!($t => $t, |a, b| a | b),
                Binary::Xor => map!($t => $t, |a, b| a ^ b),
                Binary::Shl => map!($t => $t, |a, b| {
                    if (b as $unsigned) < BITS { a.wrapping_shl(b as u32) } else { 0 }
                }),
                Binary::Shr => map!($t => $t, |a, b| {
                    // A sign fills what is shifted in, all of it when the distance is long.
                    let far = if is_negative(a) { !0 } else { 0 };
                    if (b as $unsigned) < BITS { a.wrapping_shr(b as u32) } else { far }
                }),
            }
        }
    };
}

of_int!(of_u8, u8, u8);
of_int!(of_i8, i8, u8);
of_int!(of_i32, i32, u32);
of_int!(of_u32, u32, u32);
of_int!(of_i64, i64, u64);

macro_rules! of_float {
    ($name:ident, $t:ty) => {
        fn $name(op: Binary) -> Option<Run> {
            Some(match op {
                Binary::Add => map!($t => $t, |a, b| a + b),
                Binary::Sub => map!($t => $t, |a, b| a - b),
                Binary::Mul => map!($t => $t, |a, b| a * b),
                Binary::Div => map!($t => $t, |a, b| a / b),
                Binary::Rem => map!($t => $t, |a, b| {
                    let rest = a % b;
                    if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
                }),
                Binary::Pow => map!($t => $t, |a, b| a.powf(b)),
                Binary::Max => map!($t => $t, |a, b| if a > b || a.is_nan() { a } else { b }),
                Binary::Min => map!($t => $t, |a, b| if a < b || a.is_nan() { a } else { b }),
                Binary::Lt => map!($t => u8, |a, b| u8::from(a < b)),
                Binary::Le => map!($t => u8, |a, b| u8::from(a <= b)),
                Binary::Eq => map!($t => u8, |a, b| u8::from(a == b)),
                Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr => {
                    return None;
                }
            })
        }
    };
}

of_float!(of_f32, f32);
of_float!(of_f64, f64);
