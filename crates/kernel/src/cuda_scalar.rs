//! Scalar operations in CUDA C++.

use calor_ir::dtype::DType;
use calor_ir::op::{Binary, Unary};

use crate::dialect::decimal;

/// The type of a register.
pub(crate) fn register(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "bool",
        DType::U8 => "unsigned char",
        DType::I8 => "signed char",
        DType::I32 => "int",
        DType::U32 => "unsigned",
        DType::I64 => "long long",
        DType::F8E4M3 | DType::F16 | DType::BF16 | DType::F32 => "float",
        DType::F64 => "double",
    }
}

/// The type in which integers of this type wrap without undefined behaviour.
fn wrapping(dtype: DType) -> &'static str {
    if dtype == DType::I64 { "unsigned long long" } else { "unsigned" }
}

/// A number of this type, rounded to it.
pub(crate) fn constant(dtype: DType, value: f64) -> String {
    let value = dtype.round(value);
    match dtype {
        DType::Bool => if value == 0.0 { "false" } else { "true" }.into(),
        DType::U8 => format!("(unsigned char){value}"),
        DType::I8 => format!("(signed char){value}"),
        DType::I32 if value == f64::from(i32::MIN) => "(-2147483647 - 1)".into(),
        DType::I32 => format!("{value}"),
        DType::U32 => format!("{value}u"),
        DType::I64 if value == i64::MIN as f64 => "(-9223372036854775807ll - 1)".into(),
        DType::I64 => format!("{}ll", value as i64),
        DType::F8E4M3 | DType::F16 | DType::BF16 | DType::F32 => match value {
            value if value.is_nan() => "__uint_as_float(0x7fc00000u)".into(),
            f64::INFINITY => "__uint_as_float(0x7f800000u)".into(),
            f64::NEG_INFINITY => "__uint_as_float(0xff800000u)".into(),
            value => format!("{}f", decimal(dtype, value)),
        },
        DType::F64 => match value {
            value if value.is_nan() => "__longlong_as_double(0x7ff8000000000000ll)".into(),
            f64::INFINITY => "__longlong_as_double(0x7ff0000000000000ll)".into(),
            f64::NEG_INFINITY => "(-__longlong_as_double(0x7ff0000000000000ll))".into(),
            value => decimal(dtype, value),
        },
    }
}

/// One argument.
pub(crate) fn unary(op: Unary, dtype: DType, x: &str) -> String {
    let ty = register(dtype);
    // The double function has the plain name.
    let call = |name: &str| match dtype == DType::F64 {
        true => format!("{name}({x})"),
        false => format!("{name}f({x})"),
    };
    let negative = format!("({ty})(0 - ({}){x})", wrapping(dtype));
    match op {
        Unary::Neg if dtype.is_float() => format!("(-{x})"),
        Unary::Neg => negative,
        Unary::Abs if dtype.is_float() => call("fabs"),
        Unary::Abs => format!("({x} < 0 ? {negative} : {x})"),
        Unary::Exp => call("exp"),
        Unary::Log => call("log"),
        Unary::Sqrt => call("sqrt"),
        Unary::Sin => call("sin"),
        Unary::Cos => call("cos"),
        Unary::Tanh => call("tanh"),
        Unary::Erf => call("erf"),
        Unary::Floor => call("floor"),
        Unary::Not if dtype == DType::Bool => format!("(!{x})"),
        Unary::Not => format!("({ty})(~{x})"),
    }
}

/// Two arguments of one type.
pub(crate) fn binary(op: Binary, dtype: DType, a: &str, b: &str) -> String {
    let (ty, wide) = (register(dtype), wrapping(dtype));
    let wrapped = |sign: &str| match dtype.is_float() {
        true => format!("({a} {sign} {b})"),
        false => format!("({ty})(({wide}){a} {sign} ({wide}){b})"),
    };
    match op {
        Binary::Add => wrapped("+"),
        Binary::Sub => wrapped("-"),
        Binary::Mul => wrapped("*"),
        Binary::Div if dtype.is_float() => format!("({a} / {b})"),
        Binary::Div => format!("int_quotient<{ty}>({a}, {b})"),
        Binary::Rem if dtype.is_float() => format!("float_remainder({a}, {b})"),
        Binary::Rem => format!("int_remainder<{ty}>({a}, {b})"),
        Binary::Pow if dtype == DType::F64 => format!("pow({a}, {b})"),
        Binary::Pow => format!("powf({a}, {b})"),
        Binary::Max => format!("larger<{ty}>({a}, {b})"),
        Binary::Min => format!("smaller<{ty}>({a}, {b})"),
        Binary::Lt => format!("({a} < {b})"),
        Binary::Le => format!("({a} <= {b})"),
        Binary::Eq => format!("({a} == {b})"),
        Binary::And => format!("({ty})({a} & {b})"),
        Binary::Or => format!("({ty})({a} | {b})"),
        Binary::Xor => format!("({ty})({a} ^ {b})"),
        Binary::Shl => format!("shift_left<{ty}>({a}, ({wide}){b})"),
        Binary::Shr => format!("shift_right<{ty}>({a}, ({wide}){b})"),
    }
}

/// Another type.
pub(crate) fn cast(from: DType, to: DType, x: &str) -> String {
    let ty = register(to);
    let as_f32 = || if from == DType::F32 { x.into() } else { format!("(float){x}") };
    match to {
        DType::Bool => format!("({x} != 0)"),
        DType::U8 | DType::I8 | DType::I32 | DType::U32 | DType::I64 if from.is_float() => {
            let suffix = if from == DType::F64 { "" } else { "f" };
            let (least, most) = (constant(to, to.lowest()), most(to));
            let (float, lowest) = (register(from), to.lowest());
            // One past the highest value is a power of two in every type.
            let beyond = (to.highest() + 1.0).log2().round().exp2();
            let ends = format!("{lowest:?}{suffix}, {beyond:?}{suffix}, {least}, {most}");
            format!("whole_number<{ty}, {float}>({x}, {ends})")
        }
        DType::F8E4M3 => format!("f8_value(f8_bits({}))", as_f32()),
        DType::F16 => format!("f16_value(f16_bits({}))", as_f32()),
        DType::BF16 => format!("bf16_value(bf16_bits({}))", as_f32()),
        DType::U8 | DType::I8 | DType::I32 | DType::U32 | DType::I64 | DType::F32 | DType::F64 => {
            format!("({ty}){x}")
        }
    }
}

fn most(dtype: DType) -> String {
    if dtype == DType::I64 {
        "9223372036854775807ll".into()
    } else {
        constant(dtype, dtype.highest())
    }
}
