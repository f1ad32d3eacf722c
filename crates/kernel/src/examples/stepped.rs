//! Examples with a loop over steps: columns, segments, contractions, recurrences, scatters.

use calor_ir::dtype::DType;
use calor_ir::op::{Binary, Fold, Unary};

use crate::examples::Example;
use crate::examples::builder::{At, Builder, numbers};
use crate::program::{Level, Reg};

pub(super) fn all() -> Vec<Example> {
    vec![
        column_sum(),
        segment_mean(),
        contraction(),
        linear_scan(),
        column_softmax(),
        score_rows(),
        scatter_add(),
        histogram(),
    ]
}

/// Steps from zero to a launch word.
fn steps(b: &mut Builder, count: i64) -> Reg {
    let (lo, hi) = (b.number(DType::I32, 0.0), b.word(count));
    b.bounds(lo, hi);
    hi
}

/// Sums of columns in two chunks of rows, whose bounds follow from a launch word.
fn column_sum() -> Example {
    let mut b = Builder::new(&[2], 24);
    let x = b.read(DType::F32, numbers(DType::F32, 11 * 24));
    let y = b.write(DType::F32, 2 * 24);
    let (chunk, size, count) = (b.outer(0), b.number(DType::I32, 6.0), b.word(11));
    let lo = b.binary(Binary::Mul, chunk, size);
    let end = b.binary(Binary::Add, lo, size);
    let hi = b.binary(Binary::Min, end, count);
    b.bounds(lo, hi);
    let at = At { outer: &[0], step: 24, lane: 1, ..At::default() };
    let x = b.load(x, Level::StepLane, at);
    let sum = b.fold_steps(Fold::Sum, x);
    b.store(y, At { outer: &[24], lane: 1, ..At::default() }, sum);
    b.finish("column_sum")
}

/// Means of rows in segments whose ends are in a buffer; one segment is empty.
fn segment_mean() -> Example {
    let mut b = Builder::new(&[4], 16);
    let x = b.read(DType::F32, numbers(DType::F32, 9 * 16));
    let ends = b.read(DType::I32, vec![0.0, 3.0, 3.0, 8.0, 9.0]);
    let y = b.write(DType::F32, 4 * 16);
    let lo = b.load(ends, Level::Row, At { outer: &[1], ..At::default() });
    let hi = b.load(ends, Level::Row, At { offset: 1, outer: &[1], ..At::default() });
    b.bounds(lo, hi);
    let at = At { outer: &[0], step: 16, lane: 1, ..At::default() };
    let x = b.load(x, Level::StepLane, at);
    let sum = b.fold_steps(Fold::Sum, x);
    let one = b.number(DType::F32, 1.0);
    let count = b.fold_steps(Fold::Sum, one);
    let count = b.binary(Binary::Max, count, one);
    let mean = b.binary(Binary::Div, sum, count);
    b.store(y, At { outer: &[16], lane: 1, ..At::default() }, mean);
    b.finish("segment_mean")
}

/// `a [5, 17] · b [17, 20]`.
fn contraction() -> Example {
    let mut b = Builder::new(&[5], 20);
    let left = b.read(DType::F32, numbers(DType::F32, 5 * 17));
    let right = b.read(DType::F32, numbers(DType::F32, 17 * 20));
    let y = b.write(DType::F32, 5 * 20);
    steps(&mut b, 17);
    let left = b.load(left, Level::Step, At { outer: &[17], step: 1, ..At::default() });
    let at = At { outer: &[0], step: 20, lane: 1, ..At::default() };
    let right = b.load(right, Level::StepLane, at);
    let product = b.binary(Binary::Mul, left, right);
    let sum = b.fold_steps(Fold::Sum, product);
    b.store(y, At { outer: &[20], lane: 1, ..At::default() }, sum);
    b.finish("contraction")
}

/// `h = a * h + b` along the middle of `[2, 6, 8]`, every state stored.
fn linear_scan() -> Example {
    let mut b = Builder::new(&[2], 8);
    let a = b.read(DType::F32, numbers(DType::F32, 96));
    let x = b.read(DType::F32, numbers(DType::F32, 96));
    let initial = b.read(DType::F32, numbers(DType::F32, 16));
    let y = b.write(DType::F32, 96);
    steps(&mut b, 6);
    let at = At { outer: &[48], step: 8, lane: 1, ..At::default() };
    let initial = b.load(initial, Level::Lane, At { outer: &[8], lane: 1, ..At::default() });
    let (a, x) = (b.load(a, Level::StepLane, at), b.load(x, Level::StepLane, at));
    let state = b.scan(a, x, initial);
    b.store(y, at, state);
    b.finish("linear_scan")
}

/// Softmax over steps: three loops, the last one stores.
fn column_softmax() -> Example {
    let mut b = Builder::new(&[3], 6);
    let x = b.read(DType::F32, numbers(DType::F32, 3 * 10 * 6));
    let y = b.write(DType::F32, 3 * 10 * 6);
    steps(&mut b, 10);
    let at = At { outer: &[60], step: 6, lane: 1, ..At::default() };
    let x = b.load(x, Level::StepLane, at);
    let largest = b.fold_steps(Fold::Max, x);
    let below = b.binary(Binary::Sub, x, largest);
    let power = b.unary(Unary::Exp, below);
    let sum = b.fold_steps(Fold::Sum, power);
    let share = b.binary(Binary::Div, power, sum);
    b.store(y, at, share);
    b.finish("column_softmax")
}

/// For each query its largest product with the keys that it sees, and the sum of the keys weighted
/// by their products: folds over lanes within steps.
fn score_rows() -> Example {
    let mut b = Builder::new(&[4], 40);
    let query = b.read(DType::F32, numbers(DType::F32, 4 * 40));
    let key = b.read(DType::F32, numbers(DType::F32, 7 * 40));
    let best = b.write(DType::F32, 4);
    let y = b.write(DType::F32, 4 * 40);
    let trail = b.write(DType::F32, 4 * 7);
    steps(&mut b, 7);
    let query = b.load(query, Level::Lane, At { outer: &[40], lane: 1, ..At::default() });
    let at = At { outer: &[0], step: 40, lane: 1, ..At::default() };
    let key = b.load(key, Level::StepLane, at);
    let product = b.binary(Binary::Mul, query, key);
    let score = b.fold_lanes(Fold::Sum, product);
    let (step, row, more) = (b.step(), b.outer(0), b.number(DType::I32, 3.0));
    let last = b.binary(Binary::Add, row, more);
    let seen = b.binary(Binary::Le, step, last);
    let start = b.number(DType::F32, 0.0);
    let score = b.select(seen, score, start);
    let largest = b.fold_steps(Fold::Max, score);
    let weighted = b.binary(Binary::Mul, key, score);
    let sum = b.fold_steps(Fold::Sum, weighted);
    let half = b.number(DType::F32, 0.5);
    let smooth = b.scan(half, score, start);
    b.store(best, At { outer: &[1], ..At::default() }, largest);
    b.store(y, At { outer: &[40], lane: 1, ..At::default() }, sum);
    b.store(trail, At { outer: &[7], step: 1, ..At::default() }, smooth);
    b.finish("score_rows")
}

/// Rows added to a table at indices, two of them the same.
fn scatter_add() -> Example {
    let mut b = Builder::new(&[5], 33);
    let x = b.read(DType::F32, numbers(DType::F32, 5 * 33));
    let ids = b.read(DType::I32, vec![2.0, 0.0, 2.0, 7.0, -4.0]);
    let table = b.write(DType::F32, 4 * 33);
    let id = b.load(ids, Level::Row, At { outer: &[1], ..At::default() });
    let x = b.load(x, Level::Lane, At { outer: &[33], lane: 1, ..At::default() });
    let at = At { outer: &[0], lane: 1, terms: &[(id, 33, 4)], ..At::default() };
    b.add(table, at, x);
    b.finish("scatter_add")
}

/// Counts of values: lanes that may meet in one element.
fn histogram() -> Example {
    let mut b = Builder::new(&[3], 19);
    let x = b.read(DType::I32, (0..57).map(|at| f64::from(at * at % 7)).collect());
    let counts = b.write(DType::I32, 7);
    let x = b.load(x, Level::Lane, At { outer: &[19], lane: 1, ..At::default() });
    let one = b.number(DType::I32, 1.0);
    b.add(counts, At { outer: &[0], terms: &[(x, 1, 7)], ..At::default() }, one);
    b.finish("histogram")
}
