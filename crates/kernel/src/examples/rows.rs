//! Examples with folds over lanes.

use calor_ir::dtype::DType;
use calor_ir::op::{Binary, Fold, Unary};

use crate::examples::Example;
use crate::examples::builder::{At, Builder, numbers};
use crate::program::{Level, Reg};

pub(super) fn all() -> Vec<Example> {
    vec![
        layer_norm(),
        softmax("softmax", 4, 50),
        softmax("softmax_narrow", 70, 8),
        softmax("softmax_wide", 2, 20_000),
        rms_norm(),
        whole_folds(),
    ]
}

fn mean(b: &mut Builder, x: Reg, width: f64) -> Reg {
    let sum = b.fold_lanes(Fold::Sum, x);
    let width = b.number(DType::F32, width);
    b.binary(Binary::Div, sum, width)
}

/// `norm(x + residual) * gamma + beta`, 768 wide, with the sum and the mean as outputs too.
fn layer_norm() -> Example {
    let mut b = Builder::new(&[3], 768);
    let x = b.read(DType::F32, numbers(DType::F32, 3 * 768));
    let residual = b.read(DType::F32, numbers(DType::F32, 3 * 768 + 5).split_off(5));
    let gamma = b.read(DType::F32, numbers(DType::F32, 768));
    let beta = b.read(DType::F32, numbers(DType::F32, 768));
    let y = b.write(DType::F32, 3 * 768);
    let total = b.write(DType::F32, 3 * 768);
    let means = b.write(DType::F32, 3);
    let row = At { outer: &[768], lane: 1, ..At::default() };
    let same = At { outer: &[0], lane: 1, ..At::default() };
    let (x, residual) = (b.load(x, Level::Lane, row), b.load(residual, Level::Lane, row));
    let x = b.binary(Binary::Add, x, residual);
    let mean_of_row = mean(&mut b, x, 768.0);
    let centred = b.binary(Binary::Sub, x, mean_of_row);
    let square = b.binary(Binary::Mul, centred, centred);
    let variance = mean(&mut b, square, 768.0);
    let epsilon = b.number(DType::F32, 1e-12);
    let variance = b.binary(Binary::Add, variance, epsilon);
    let deviation = b.unary(Unary::Sqrt, variance);
    let normal = b.binary(Binary::Div, centred, deviation);
    let (gamma, beta) = (b.load(gamma, Level::Lane, same), b.load(beta, Level::Lane, same));
    let scaled = b.binary(Binary::Mul, normal, gamma);
    let shifted = b.binary(Binary::Add, scaled, beta);
    b.store(y, row, shifted);
    b.store(total, row, x);
    b.store(means, At { outer: &[1], ..At::default() }, mean_of_row);
    b.finish("layer_norm")
}

/// Softmax of rows: shared by a team, held by one thread, or too wide to be held.
fn softmax(name: &'static str, row_count: i64, width: u32) -> Example {
    let mut b = Builder::new(&[row_count], width);
    let count = row_count as usize * width as usize;
    let x = b.read(DType::F32, numbers(DType::F32, count));
    let y = b.write(DType::F32, count);
    let row = At { outer: &[width.into()], lane: 1, ..At::default() };
    let x = b.load(x, Level::Lane, row);
    let largest = b.fold_lanes(Fold::Max, x);
    let below = b.binary(Binary::Sub, x, largest);
    let power = b.unary(Unary::Exp, below);
    let sum = b.fold_lanes(Fold::Sum, power);
    let share = b.binary(Binary::Div, power, sum);
    b.store(y, row, share);
    b.finish(name)
}

/// `x / sqrt(mean(x²) + ε) * weight` in f16, 2,048 wide.
fn rms_norm() -> Example {
    let mut b = Builder::new(&[3], 2048);
    let x = b.read(DType::F16, numbers(DType::F16, 3 * 2048));
    let weight = b.read(DType::F16, numbers(DType::F16, 2048));
    let y = b.write(DType::F16, 3 * 2048);
    let row = At { outer: &[2048], lane: 1, ..At::default() };
    let x = b.load(x, Level::Lane, row);
    let x = b.cast(DType::F32, x);
    let square = b.binary(Binary::Mul, x, x);
    let mean = mean(&mut b, square, 2048.0);
    let epsilon = b.number(DType::F32, 1e-6);
    let mean = b.binary(Binary::Add, mean, epsilon);
    let root = b.unary(Unary::Sqrt, mean);
    let normal = b.binary(Binary::Div, x, root);
    let same = At { outer: &[0], lane: 1, ..At::default() };
    let weight = b.load(weight, Level::Lane, same);
    let weight = b.cast(DType::F32, weight);
    let scaled = b.binary(Binary::Mul, normal, weight);
    let result = b.cast(DType::F16, scaled);
    b.store(y, row, result);
    b.finish("rms_norm")
}

/// Sum, maximum and minimum of whole numbers, and whether any flag is set, 37 wide.
fn whole_folds() -> Example {
    let mut b = Builder::new(&[9], 37);
    let x = b.read(DType::I32, (0..333).map(|at| f64::from((at * 7919) % 2003 - 1000)).collect());
    let flags = b.read(DType::Bool, (0..333).map(|at| f64::from(u8::from(at == 50))).collect());
    let y = b.write(DType::I32, 27);
    let any = b.write(DType::Bool, 9);
    let row = At { outer: &[37], lane: 1, ..At::default() };
    let (x, flag) = (b.load(x, Level::Lane, row), b.load(flags, Level::Lane, row));
    for (at, fold) in Fold::ALL.into_iter().enumerate() {
        let folded = b.fold_lanes(fold, x);
        b.store(y, At { offset: at as i64, outer: &[3], ..At::default() }, folded);
    }
    let set = b.fold_lanes(Fold::Max, flag);
    b.store(any, At { outer: &[1], ..At::default() }, set);
    b.finish("whole_folds")
}
