//! Examples without folds: chains, gathers, padding, random numbers, integers.

use calor_ir::dtype::DType;
use calor_ir::op::{Binary, Unary};

use crate::examples::Example;
use crate::examples::builder::{At, Builder, numbers};
use crate::program::Level;

pub(super) fn all() -> Vec<Example> {
    vec![
        add_broadcast(),
        bias_gelu(),
        gather_rows(),
        pad(),
        philox_uniform(),
        integer_mix(),
        narrow_mix(),
        wide_mix(),
        transpose(),
    ]
}

/// `x [3, 5, 48] + row [48]`, two outer dimensions.
fn add_broadcast() -> Example {
    let mut b = Builder::new(&[3, 5], 48);
    let x = b.read(DType::F32, numbers(DType::F32, 3 * 5 * 48));
    let row = b.read(DType::F32, numbers(DType::F32, 48));
    let y = b.write(DType::F32, 3 * 5 * 48);
    let x = b.load(x, Level::Lane, At { outer: &[240, 48], lane: 1, ..At::default() });
    let row = b.load(row, Level::Lane, At { outer: &[0, 0], lane: 1, ..At::default() });
    let sum = b.binary(Binary::Add, x, row);
    b.store(y, At { outer: &[240, 48], lane: 1, ..At::default() }, sum);
    b.finish("add_broadcast")
}

/// `gelu(x + bias)` in bf16, by the error function.
fn bias_gelu() -> Example {
    let mut b = Builder::new(&[5], 64);
    let x = b.read(DType::BF16, numbers(DType::BF16, 5 * 64));
    let bias = b.read(DType::BF16, numbers(DType::BF16, 64));
    let y = b.write(DType::BF16, 5 * 64);
    let x = b.load(x, Level::Lane, At { outer: &[64], lane: 1, ..At::default() });
    let bias = b.load(bias, Level::Lane, At { outer: &[0], lane: 1, ..At::default() });
    let (x, bias) = (b.cast(DType::F32, x), b.cast(DType::F32, bias));
    let x = b.binary(Binary::Add, x, bias);
    let scale = b.number(DType::F32, std::f64::consts::FRAC_1_SQRT_2);
    let scaled = b.binary(Binary::Mul, x, scale);
    let erf = b.unary(Unary::Erf, scaled);
    let (one, half) = (b.number(DType::F32, 1.0), b.number(DType::F32, 0.5));
    let erf = b.binary(Binary::Add, erf, one);
    let gate = b.binary(Binary::Mul, erf, half);
    let product = b.binary(Binary::Mul, x, gate);
    let result = b.cast(DType::BF16, product);
    b.store(y, At { outer: &[64], lane: 1, ..At::default() }, result);
    b.finish("bias_gelu")
}

/// Rows of a table by index, one of them out of range.
fn gather_rows() -> Example {
    let mut b = Builder::new(&[6], 32);
    let table = b.read(DType::F32, numbers(DType::F32, 10 * 32));
    let ids = b.read(DType::I32, vec![3.0, 0.0, 9.0, 12.0, -1.0, 3.0]);
    let y = b.write(DType::F32, 6 * 32);
    let id = b.load(ids, Level::Row, At { outer: &[1], ..At::default() });
    let at = At { outer: &[0], lane: 1, terms: &[(id, 32, 10)], ..At::default() };
    let row = b.load(table, Level::Lane, at);
    b.store(y, At { outer: &[32], lane: 1, ..At::default() }, row);
    b.finish("gather_rows")
}

/// `x [4, 9]` with three columns of minus one before it and two after it.
fn pad() -> Example {
    let mut b = Builder::new(&[4], 14);
    let x = b.read(DType::F32, numbers(DType::F32, 4 * 9));
    let y = b.write(DType::F32, 4 * 14);
    let lane = b.lane();
    let (low, high) = (b.number(DType::I32, 3.0), b.number(DType::I32, 12.0));
    let after = b.binary(Binary::Le, low, lane);
    let before = b.binary(Binary::Lt, lane, high);
    let inside = b.binary(Binary::And, after, before);
    let at = At { offset: -3, outer: &[9], lane: 1, ..At::default() };
    let x = b.load_if(x, Level::Lane, at, Some(inside));
    let outside = b.number(DType::F32, -1.0);
    let padded = b.select(inside, x, outside);
    b.store(y, At { outer: &[14], lane: 1, ..At::default() }, padded);
    b.finish("pad")
}

/// Uniform numbers in [0, 1) from a key in a buffer.
fn philox_uniform() -> Example {
    let mut b = Builder::new(&[7], 16);
    let key = b.read(DType::U32, vec![123_456_789.0, 4_000_000_000.0]);
    let y = b.write(DType::F32, 7 * 16);
    let key0 = b.load(key, Level::Row, At { outer: &[0], ..At::default() });
    let key1 = b.load(key, Level::Row, At { offset: 1, outer: &[0], ..At::default() });
    let (row, lane, width) = (b.outer(0), b.lane(), b.number(DType::I32, 16.0));
    let first = b.binary(Binary::Mul, row, width);
    let counter = b.binary(Binary::Add, first, lane);
    let counter = b.cast(DType::U32, counter);
    let word = b.philox(key0, key1, counter);
    let eight = b.number(DType::U32, 8.0);
    let word = b.binary(Binary::Shr, word, eight);
    let word = b.cast(DType::F32, word);
    let unit = b.number(DType::F32, 2.0_f64.powi(-24));
    let uniform = b.binary(Binary::Mul, word, unit);
    b.store(y, At { outer: &[16], lane: 1, ..At::default() }, uniform);
    b.finish("philox_uniform")
}

/// Every integer operation, with zero, negative and far operands.
fn integer_mix() -> Example {
    let mut b = Builder::new(&[3], 8);
    let some = [7.0, -7.0, 2_147_483_647.0, -2_147_483_648.0, 0.0, 40.0, -1.0, 5.0];
    let others = [2.0, 3.0, 0.0, -1.0, -3.0, 31.0, 33.0, -5.0];
    let a = b.read(DType::I32, (0..24).map(|at| some[at % 8]).collect());
    let c = b.read(DType::I32, (0..24).map(|at| others[(at + at / 8) % 8]).collect());
    let y = b.write(DType::I32, 24);
    let z = b.write(DType::I32, 24);
    let a = b.load(a, Level::Lane, At { outer: &[8], lane: 1, ..At::default() });
    let c = b.load(c, Level::Lane, At { outer: &[8], lane: 1, ..At::default() });
    let prime = b.number(DType::I32, 31.0);
    let mut mix = b.number(DType::I32, 17.0);
    let whole = Binary::ALL.into_iter().filter(|op| *op != Binary::Pow);
    for op in whole {
        let mut value = b.binary(op, a, c);
        if op.result(DType::I32) == DType::Bool {
            value = b.cast(DType::I32, value);
        }
        mix = b.binary(Binary::Mul, mix, prime);
        mix = b.binary(Binary::Add, mix, value);
    }
    for op in [Unary::Neg, Unary::Abs, Unary::Not] {
        let value = b.unary(op, a);
        mix = b.binary(Binary::Xor, mix, value);
    }
    let less = b.binary(Binary::Lt, a, c);
    let chosen = b.select(less, a, c);
    b.store(y, At { outer: &[8], lane: 1, ..At::default() }, mix);
    b.store(z, At { outer: &[8], lane: 1, ..At::default() }, chosen);
    b.finish("integer_mix")
}

/// Every narrow type read, converted and written, with values past their ends.
fn narrow_mix() -> Example {
    let mut b = Builder::new(&[2], 12);
    let values = [0.0, -0.3, 1.0, 300.0, -300.0, 1e9, -1e9, 0.001, 70000.0, 447.9, f64::NAN, 17.0];
    let data = || (0..24).map(|at| DType::F32.round(values[at % 12] / (1 + at / 12) as f64));
    let x = b.read(DType::F32, data().collect());
    let at = At { outer: &[12], lane: 1, ..At::default() };
    let x = b.load(x, Level::Lane, at);
    for dtype in [DType::Bool, DType::U8, DType::I8, DType::F8E4M3, DType::F16, DType::BF16] {
        let input = b.read(dtype, data().map(|it| dtype.round(it)).collect());
        let output = b.write(dtype, 24);
        let input = b.load(input, Level::Lane, at);
        let narrow = b.cast(dtype, x);
        let result = b.binary(Binary::Max, input, narrow);
        b.store(output, at, result);
        if dtype == DType::U8 || dtype == DType::I8 {
            let wrapped = b.write(dtype, 24);
            let result = b.binary(Binary::Mul, input, narrow);
            b.store(wrapped, at, result);
        }
    }
    b.finish("narrow_mix")
}

/// 64-bit types, with the operations that floats have.
fn wide_mix() -> Example {
    let mut b = Builder::new(&[4], 3);
    let x = b.read(DType::F64, numbers(DType::F64, 12));
    let n = b.read(DType::I64, (0..12).map(|at| f64::from(at * at - 40)).collect());
    let y = b.write(DType::F64, 12);
    let z = b.write(DType::I64, 12);
    let at = At { outer: &[3], lane: 1, ..At::default() };
    let (x, n) = (b.load(x, Level::Lane, at), b.load(n, Level::Lane, at));
    let mut value = x;
    for op in [Unary::Sin, Unary::Exp, Unary::Cos, Unary::Tanh, Unary::Erf, Unary::Sqrt] {
        value = b.unary(op, value);
        value = b.unary(Unary::Abs, value);
    }
    let as_float = b.cast(DType::F64, n);
    let rest = b.binary(Binary::Rem, as_float, x);
    let power = b.binary(Binary::Pow, value, x);
    let log = b.unary(Unary::Log, power);
    let value = b.binary(Binary::Sub, log, rest);
    let floor = b.unary(Unary::Floor, value);
    let whole = b.cast(DType::I64, floor);
    let whole = b.binary(Binary::Div, whole, n);
    b.store(y, at, value);
    b.store(z, at, whole);
    b.finish("wide_mix")
}

/// `x [5, 6]` transposed, through strided lanes.
fn transpose() -> Example {
    let mut b = Builder::new(&[6], 5);
    let x = b.read(DType::F32, numbers(DType::F32, 30));
    let y = b.write(DType::F32, 30);
    let x = b.load(x, Level::Lane, At { outer: &[1], lane: 6, ..At::default() });
    b.store(y, At { outer: &[5], lane: 1, ..At::default() }, x);
    b.finish("transpose")
}
