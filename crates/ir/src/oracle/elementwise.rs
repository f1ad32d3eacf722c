//! Primitives that work element by element.

use super::Tensor;
use crate::dtype::DType;
use crate::erf::erf;
use crate::op::{Binary, Unary};

pub(super) fn unary(op: Unary, x: &Tensor) -> Vec<f64> {
    let dtype = x.ty.dtype;
    let floats = |f: fn(f64) -> f64| x.data.iter().map(|it| f(*it)).collect();
    let ints = |f: fn(i128) -> i128| x.data.iter().map(|it| dtype.wrap(f(*it as i128))).collect();
    match op {
        Unary::Neg if dtype.is_int() => ints(|x| -x),
        Unary::Neg => floats(|x| -x),
        Unary::Abs if dtype.is_int() => ints(i128::abs),
        Unary::Abs => floats(f64::abs),
        Unary::Exp => floats(f64::exp),
        Unary::Log => floats(f64::ln),
        Unary::Sqrt => floats(f64::sqrt),
        Unary::Sin => floats(f64::sin),
        Unary::Cos => floats(f64::cos),
        Unary::Tanh => floats(f64::tanh),
        Unary::Erf => floats(erf),
        Unary::Floor => floats(f64::floor),
        Unary::Not if dtype == DType::Bool => floats(|x| 1.0 - x),
        Unary::Not => ints(|x| !x),
    }
}

pub(super) fn binary(op: Binary, a: &Tensor, b: &Tensor) -> Vec<f64> {
    let dtype = a.ty.dtype;
    let pairs = a.data.iter().zip(&b.data);
    if dtype.is_float() || dtype == DType::Bool {
        pairs.map(|(a, b)| binary_float(op, *a, *b)).collect()
    } else {
        pairs.map(|(a, b)| binary_int(op, dtype, *a as i128, *b as i128)).collect()
    }
}

/// Floats, and `bool` as zero and one.
fn binary_float(op: Binary, a: f64, b: f64) -> f64 {
    let flag = |it: bool| f64::from(u8::from(it));
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Rem => {
            let rest = a % b;
            if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
        }
        Binary::Pow => a.powf(b),
        Binary::Max if a.is_nan() || b.is_nan() => f64::NAN,
        Binary::Max => a.max(b),
        Binary::Min if a.is_nan() || b.is_nan() => f64::NAN,
        Binary::Min => a.min(b),
        Binary::Lt => flag(a < b),
        Binary::Le => flag(a <= b),
        Binary::Eq => flag(a == b),
        Binary::And => a * b,
        Binary::Or => a.max(b),
        Binary::Xor => flag(a != b),
        Binary::Shl | Binary::Shr => unreachable!("shifts take integers"),
    }
}

fn binary_int(op: Binary, dtype: DType, a: i128, b: i128) -> f64 {
    let width = 8 * dtype.size_bytes() as i128;
    let value = match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div if b == 0 => 0,
        Binary::Div => a / b,
        Binary::Rem if b == 0 => 0,
        Binary::Rem => a - b * floor_div(a, b),
        Binary::Pow => unreachable!("powers take floats"),
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
        Binary::Lt => i128::from(a < b),
        Binary::Le => i128::from(a <= b),
        Binary::Eq => i128::from(a == b),
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        // A negative distance reads as a huge unsigned one.
        Binary::Shl if (0..width).contains(&b) => a << b,
        Binary::Shl => 0,
        Binary::Shr if (0..width).contains(&b) => a >> b,
        Binary::Shr => {
            if a < 0 {
                -1
            } else {
                0
            }
        }
    };
    op.result(dtype).wrap(value)
}

fn floor_div(a: i128, b: i128) -> i128 {
    let quotient = a / b;
    if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient }
}

pub(super) fn select(condition: &Tensor, a: &Tensor, b: &Tensor) -> Vec<f64> {
    let pairs = a.data.iter().zip(&b.data);
    let chosen = pairs.zip(&condition.data);
    chosen.map(|((a, b), condition)| if *condition != 0.0 { *a } else { *b }).collect()
}

pub(super) fn cast(x: &Tensor, to: DType) -> Vec<f64> {
    let from = x.ty.dtype;
    if to == DType::F64 || from == to || (to == DType::F32 && from.wide() == to) {
        return x.data.clone(); // Nothing narrows.
    }
    if from.is_int() && to.is_int() {
        return x.data.iter().map(|it| to.wrap(*it as i128)).collect();
    }
    x.data.iter().map(|it| to.round(*it)).collect()
}

pub(super) fn philox(key: &Tensor, counter: &Tensor) -> Vec<f64> {
    let key = [key.data[0] as u32, key.data[1] as u32];
    let word = |c: &f64| f64::from(crate::philox::philox(key, [*c as u32, 0, 0, 0])[0]);
    counter.data.iter().map(word).collect()
}
