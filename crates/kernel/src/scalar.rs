//! What scalar operations mean, in `f64`.
//!
//! Results are rounded to `f32` where the type is a float of at most 32 bits; narrower floats
//! are rounded where they are constants, cast or stored, as generated kernels do. Integers wrap
//! and are exact up to 2^53.

use calor_ir::dtype::DType;
use calor_ir::op::{Binary, Unary};

/// One argument.
pub(crate) fn unary(op: Unary, dtype: DType, x: f64) -> f64 {
    let int = |value: i128| dtype.wrap(value);
    let value = match op {
        Unary::Neg if dtype.is_int() => int(-(x as i128)),
        Unary::Neg => -x,
        Unary::Abs if dtype.is_int() => int((x as i128).abs()),
        Unary::Abs => x.abs(),
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Tanh => x.tanh(),
        Unary::Erf => erf(x),
        Unary::Floor => x.floor(),
        Unary::Not if dtype == DType::Bool => 1.0 - x,
        Unary::Not => int(!(x as i128)),
    };
    dtype.wide().round(value)
}

/// Two arguments of one type.
pub(crate) fn binary(op: Binary, dtype: DType, a: f64, b: f64) -> f64 {
    if dtype.is_int() {
        return op.result(dtype).wrap(whole(op, dtype, a as i128, b as i128));
    }
    let flag = |it: bool| f64::from(u8::from(it));
    let value = match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Rem => {
            let rest = a % b;
            if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
        }
        Binary::Pow => a.powf(b),
        Binary::Max => {
            if b < a || a.is_nan() {
                a
            } else {
                b
            }
        }
        Binary::Min => {
            if a < b || a.is_nan() {
                a
            } else {
                b
            }
        }
        Binary::Lt => flag(a < b),
        Binary::Le => flag(a <= b),
        Binary::Eq => flag(a == b),
        Binary::And => a.min(b),
        Binary::Or => a.max(b),
        Binary::Xor => flag(a != b),
        Binary::Shl | Binary::Shr => unreachable!("shifts take integers"),
    };
    op.result(dtype).wide().round(value)
}

fn whole(op: Binary, dtype: DType, a: i128, b: i128) -> i128 {
    let in_width = (0..8 * dtype.size_bytes() as i128).contains(&b);
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div | Binary::Rem if b == 0 => 0,
        Binary::Div => a / b,
        Binary::Rem => match a % b {
            rest if rest != 0 && (rest < 0) != (b < 0) => rest + b,
            rest => rest,
        },
        Binary::Pow => unreachable!("powers take floats"),
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
        Binary::Lt => i128::from(a < b),
        Binary::Le => i128::from(a <= b),
        Binary::Eq => i128::from(a == b),
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        Binary::Shl if in_width => a << b,
        Binary::Shl => 0,
        Binary::Shr if in_width => a >> b,
        Binary::Shr => {
            if a < 0 {
                -1
            } else {
                0
            }
        }
    }
}

/// Another type.
pub(crate) fn cast(from: DType, to: DType, x: f64) -> f64 {
    if from.is_int() && to.is_int() { to.wrap(x as i128) } else { to.round(x) }
}

/// First word of Philox-4x32-10 for the counter (c, 0, 0, 0).
pub(crate) fn philox(key0: u32, key1: u32, counter: u32) -> u32 {
    let (mut key, mut c) = ([key0, key1], [counter, 0, 0, 0]);
    for _ in 0..10 {
        let first = u64::from(c[0]) * 0xD251_1F53;
        let second = u64::from(c[2]) * 0xCD9E_8D57;
        let high = [first, second].map(|it| (it >> 32) as u32);
        c = [high[1] ^ c[1] ^ key[0], second as u32, high[0] ^ c[3] ^ key[1], first as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    c[0]
}

/// The error function: `2/√π · e^-x² · Σ 2^n x^(2n+1) / (2n+1)!!`, whose terms are positive.
fn erf(x: f64) -> f64 {
    if x.is_nan() || x == 0.0 {
        return x;
    }
    if 6.0 < x.abs() {
        return x.signum();
    }
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while sum.abs() * 1e-17 < term.abs() {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[test]
fn known_values() {
    assert_eq!(philox(0, 0, 0), 0x6627_E8D5);
    assert!((erf(0.5) - 0.520_499_877_813_046_5).abs() < 1e-15);
    assert!((erf(-3.0) + 0.999_977_909_503_001_4).abs() < 1e-15);
    assert_eq!(binary(Binary::Div, DType::I32, f64::from(i32::MIN), -1.0), f64::from(i32::MIN));
    assert_eq!(binary(Binary::Rem, DType::I32, -7.0, 3.0), 2.0);
    assert_eq!(binary(Binary::Shl, DType::U8, 1.0, 9.0), 0.0);
    assert_eq!(binary(Binary::Shr, DType::I8, -5.0, 100.0), -1.0);
    assert!(binary(Binary::Max, DType::F32, 1.0, f64::NAN).is_nan());
    assert_eq!(cast(DType::F32, DType::U8, 300.0), 255.0);
    assert_eq!(cast(DType::I32, DType::U8, 300.0), 44.0);
}
