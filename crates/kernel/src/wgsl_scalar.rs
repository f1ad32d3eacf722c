//! Scalar operations in WGSL.

use calor_ir::dtype::DType;
use calor_ir::op::{Binary, Unary};

use crate::dialect::decimal;

/// The type of a register.
pub(crate) fn register(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "bool",
        DType::U8 | DType::U32 => "u32",
        DType::I8 | DType::I32 => "i32",
        DType::F8E4M3 | DType::F16 | DType::BF16 | DType::F32 => "f32",
        DType::I64 | DType::F64 => unreachable!("`write` refuses what WGSL lacks"),
    }
}

/// Bits to a register.
pub(crate) type Decode = fn(&str) -> String;
/// A register to bits.
pub(crate) type Encode = fn(&str) -> String;

/// How a packed type is read and written; nothing for types of 32 bits.
pub(crate) fn narrow_type(dtype: DType) -> Option<(Decode, Encode)> {
    match dtype {
        DType::Bool => Some((|bits| format!("{bits} != 0u"), |x| format!("u32({x})"))),
        DType::U8 => Some((|bits| bits.into(), |x| x.into())),
        DType::I8 => {
            Some((|bits| wrapped(DType::I8, &format!("i32{bits}")), |x| format!("u32({x})")))
        }
        DType::F8E4M3 => Some((|bits| format!("f8_value{bits}"), |x| format!("f8_bits({x})"))),
        DType::F16 => Some((|bits| format!("f16_value{bits}"), |x| format!("f16_bits({x})"))),
        DType::BF16 => Some((|bits| format!("bf16_value{bits}"), |x| format!("bf16_bits({x})"))),
        DType::I32 | DType::U32 | DType::F32 => None,
        DType::I64 | DType::F64 => unreachable!("`write` refuses what WGSL lacks"),
    }
}

/// An integer expression brought back into its type. 32-bit integers wrap by themselves.
fn wrapped(dtype: DType, value: &str) -> String {
    match dtype {
        DType::I8 => format!("(({value} << 24u) >> 24u)"),
        DType::U8 => format!("({value} & 0xffu)"),
        DType::Bool
        | DType::I32
        | DType::U32
        | DType::I64
        | DType::F8E4M3
        | DType::F16
        | DType::BF16
        | DType::F32
        | DType::F64 => value.into(),
    }
}

/// A number of this type, rounded to it.
pub(crate) fn constant(dtype: DType, value: f64) -> String {
    let value = dtype.round(value);
    match register(dtype) {
        "bool" => if value == 0.0 { "false" } else { "true" }.into(),
        "i32" => format!("i32({value})"),
        "u32" => format!("{value}u"),
        _ => match value {
            value if value.is_nan() => "f32_of_bits(0x7fc00000u)".into(),
            f64::INFINITY => "f32_of_bits(0x7f800000u)".into(),
            f64::NEG_INFINITY => "f32_of_bits(0xff800000u)".into(),
            value => format!("{}f", decimal(dtype, value)),
        },
    }
}

/// One argument.
pub(crate) fn unary(op: Unary, dtype: DType, x: &str) -> String {
    let zero = if register(dtype) == "u32" { "0u" } else { "0" };
    match op {
        Unary::Neg if dtype.is_float() => format!("(-{x})"),
        Unary::Neg => wrapped(dtype, &format!("({zero} - {x})")),
        Unary::Abs if dtype.is_float() => format!("abs({x})"),
        Unary::Abs => wrapped(dtype, &format!("abs({x})")),
        Unary::Exp => format!("exp({x})"),
        Unary::Log => format!("log({x})"),
        Unary::Sqrt => format!("sqrt({x})"),
        Unary::Sin => format!("sin({x})"),
        Unary::Cos => format!("cos({x})"),
        Unary::Tanh => format!("tanh_f32({x})"),
        Unary::Erf => format!("erf_f32({x})"),
        Unary::Floor => format!("floor({x})"),
        Unary::Not if dtype == DType::Bool => format!("(!{x})"),
        Unary::Not => wrapped(dtype, &format!("(~{x})")),
    }
}

/// Two arguments of one type.
pub(crate) fn binary(op: Binary, dtype: DType, a: &str, b: &str) -> String {
    let (ty, width) = (register(dtype), 8 * dtype.size_bytes());
    let infix = |sign: &str| wrapped(dtype, &format!("({a} {sign} {b})"));
    let compare = |sign: &str| format!("({a} {sign} {b})");
    let shift = |name: &str| wrapped(dtype, &format!("{name}_{ty}({a}, u32({b}), {width}u)"));
    let is_bool = dtype == DType::Bool;
    match op {
        Binary::Add => infix("+"),
        Binary::Sub => infix("-"),
        Binary::Mul => infix("*"),
        Binary::Div if dtype.is_float() => infix("/"),
        Binary::Div => wrapped(dtype, &format!("quotient_{ty}({a}, {b})")),
        Binary::Rem => format!("remainder_{ty}({a}, {b})"),
        Binary::Pow => format!("power_f32({a}, {b})"),
        Binary::Max | Binary::Or if is_bool => format!("({a} || {b})"),
        Binary::Min | Binary::And if is_bool => format!("({a} && {b})"),
        Binary::Max if dtype.is_float() => format!("larger_f32({a}, {b})"),
        Binary::Min if dtype.is_float() => format!("smaller_f32({a}, {b})"),
        Binary::Max => format!("max({a}, {b})"),
        Binary::Min => format!("min({a}, {b})"),
        Binary::Lt if is_bool => format!("(!{a} && {b})"),
        Binary::Le if is_bool => format!("(!{a} || {b})"),
        Binary::Lt => compare("<"),
        Binary::Le => compare("<="),
        Binary::Eq => compare("=="),
        Binary::And => compare("&"),
        Binary::Or => compare("|"),
        Binary::Xor if is_bool => compare("!="),
        Binary::Xor => compare("^"),
        Binary::Shl => shift("shift_left"),
        Binary::Shr => shift("shift_right"),
    }
}

/// Another type.
pub(crate) fn cast(from: DType, to: DType, x: &str) -> String {
    match to {
        DType::Bool => format!("bool({x})"),
        DType::U8 if from.is_float() => format!("min(u32_of({x}), 255u)"),
        DType::I8 if from.is_float() => format!("clamp(i32_of({x}), -128, 127)"),
        DType::U32 if from.is_float() => format!("u32_of({x})"),
        DType::I32 if from.is_float() => format!("i32_of({x})"),
        DType::U8 | DType::U32 => wrapped(to, &format!("u32({x})")),
        DType::I8 | DType::I32 => wrapped(to, &format!("i32({x})")),
        DType::F8E4M3 => format!("f8_value(f8_bits(f32({x})))"),
        DType::F16 => format!("f16_value(f16_bits(f32({x})))"),
        DType::BF16 => format!("bf16_value(bf16_bits(f32({x})))"),
        DType::F32 => format!("f32({x})"),
        DType::I64 | DType::F64 => unreachable!("`write` refuses what WGSL lacks"),
    }
}
