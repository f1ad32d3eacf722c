//! Products against a reference in f64.

use super::*;
use crate::{
    sample::{Sample, assert_close},
    view::Aligned,
};

struct Case {
    m: usize,
    n: usize,
    k: usize,
    activation: Activation,
    has_bias: bool,
    residual: Kind,
    gated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    None,
    Rows,
    InPlace,
}

/// Rows have gaps, so that strides are tested.
const GAP: usize = 3;

fn exact(case: &Case, a: &[f32], w: &[f32], bias: &[f32], residual: &[f32]) -> Vec<f64> {
    let Case { m, n, k, activation, .. } = *case;
    let dot = |i: usize, j: usize, b: usize| -> f64 {
        let terms = (0..k).map(|s| f64::from(a[i * (k + GAP) + s]) * f64::from(w[j * k + s]));
        terms.sum::<f64>() + if case.has_bias { f64::from(bias[b]) } else { 0.0 }
    };
    let mut out = Vec::new();
    for i in 0..m {
        for j in 0..n {
            let mut y = activation.exact(dot(i, j, j));
            if case.gated {
                y *= dot(i, n + j, n + j);
            }
            if case.residual != Kind::None {
                y += f64::from(residual[i * (n + GAP) + j]);
            }
            out.push(y);
        }
    }
    out
}

fn compute(case: &Case, level: Level, pool: &Pool, seed: u64) -> (Vec<f32>, Vec<f64>) {
    let Case { m, n, k, activation, has_bias, residual, gated } = *case;
    let mut sample = Sample::new(seed);
    let matrices = if gated { 2 } else { 1 };
    let a = sample.floats(m * (k + GAP));
    let w: Vec<f32> = sample.floats(matrices * n * k);
    // Sums near one, so that the product of two is as exact as each.
    let w: Vec<f32> = w.iter().map(|it| it / (1.0 + k as f32).sqrt()).collect();
    let bias = sample.floats(matrices * n);
    let rest = sample.floats(m * (n + GAP));
    let gemm = Tiled { level };
    let layout = if gated { gemm.gated_layout(n, k) } else { gemm.layout(n, k) };
    let packed = Packed::new(layout, &w);
    let mut scratch = Aligned::zeros(gemm.scratch_len(pool.thread_count()));
    let mut out = if residual == Kind::InPlace { rest.clone() } else { vec![9.0; rest.len()] };
    let linear = Linear {
        input: Rows::new(&a, m, k, k + GAP),
        weights: packed.panels(),
        bias: has_bias.then_some(&bias),
        activation,
        residual: match residual {
            Kind::None => Residual::None,
            Kind::Rows => Residual::Rows(Rows::new(&rest, m, n, n + GAP)),
            Kind::InPlace => Residual::InPlace,
        },
        out: RowsMut::new(&mut out, m, n, n + GAP),
    };
    gemm.run(pool, linear, &mut scratch).unwrap();
    let kept = if residual == Kind::InPlace { rest.clone() } else { vec![9.0; rest.len()] };
    let mut got = Vec::new();
    for (out, kept) in out.chunks(n + GAP).zip(kept.chunks(n + GAP)) {
        got.extend(&out[..n]);
        assert_eq!(out[n..], kept[n..], "a gap was written");
    }
    (got, exact(case, &a, &w, &bias, &rest))
}

#[track_caller]
fn check(case: Case) {
    let pool = Pool::new(2).unwrap();
    for level in Level::available() {
        let (got, want) = compute(&case, level, &pool, 7);
        let Case { m, n, k, activation, residual, gated, .. } = case;
        let what = format!("{level:?} {m}x{n}x{k} {activation:?} {residual:?} gated {gated}");
        assert_close(&got, &want, 2e-5, &what);
    }
}

#[test]
fn levels_that_are_tested() {
    println!("tested: {:?}", Level::available().collect::<Vec<_>>());
    if cfg!(target_arch = "x86_64") && Level::available().count() < 4 {
        println!("this machine lacks a level; its instructions are not tested, its shapes are");
    }
}

#[test]
fn shapes() {
    let plain = |m, n, k| Case {
        m,
        n,
        k,
        activation: Activation::None,
        has_bias: false,
        residual: Kind::None,
        gated: false,
    };
    for m in 1..=14 {
        check(plain(m, 70, 37));
    }
    for n in [1, 7, 8, 15, 16, 17, 31, 33, 65] {
        check(plain(5, n, 19));
        check(plain(40, n, 19));
    }
    for k in [0, 1, 2, 255, 256, 257, 700] {
        check(plain(3, 33, k));
        check(plain(33, 33, k));
    }
    check(plain(0, 5, 5));
    check(plain(500, 48, 64));
    check(plain(64, 1, 1));
}

#[test]
fn everything_after_the_sum() {
    for activation in Activation::ALL {
        for (index, residual) in [Kind::None, Kind::Rows, Kind::InPlace].into_iter().enumerate() {
            for gated in [false, true] {
                for m in [2, 29] {
                    let has_bias = index != 1;
                    check(Case { m, n: 43, k: 300, activation, has_bias, residual, gated });
                }
            }
        }
    }
}

/// The bits of a row do not depend on the rows around it, nor on the split.
#[test]
fn rows_stand_alone() {
    let (m, n, k) = (233, 75, 601);
    let mut sample = Sample::new(3);
    let (a, w) = (sample.floats(m * k), sample.floats(n * k));
    for level in Level::available() {
        let gemm = Tiled { level };
        let packed = Packed::new(gemm.layout(n, k), &w);
        let run = |pool: &Pool, first: usize, rows: usize| {
            let mut out = vec![0.0; rows * n];
            let mut scratch = Aligned::zeros(gemm.scratch_len(pool.thread_count()));
            let linear = Linear {
                input: Rows::dense(&a[first * k..(first + rows) * k], rows, k),
                weights: packed.panels(),
                bias: None,
                activation: Activation::Gelu,
                residual: Residual::None,
                out: RowsMut::dense(&mut out, rows, n),
            };
            gemm.run(pool, linear, &mut scratch).unwrap();
            out
        };
        let (one, three) = (Pool::new(1).unwrap(), Pool::new(3).unwrap());
        let whole = run(&one, 0, m);
        for (first, rows) in [(0, 1), (5, 2), (7, 3), (11, 6), (0, 8), (100, 13), (1, 232)] {
            for pool in [&one, &three] {
                assert_eq!(run(pool, first, rows), whole[first * n..(first + rows) * n]);
            }
        }
    }
}

#[test]
fn not_a_number_and_infinity_come_through() {
    for level in Level::available() {
        let gemm = Tiled { level };
        let packed = Packed::new(gemm.layout(2, 2), &[1.0, 0.0, 0.0, 1.0]);
        let input = [f32::NAN, 0.0, 0.0, f32::INFINITY, 3e38, -3e38];
        let mut out = [0.0; 6];
        let mut scratch = Aligned::zeros(gemm.scratch_len(1));
        let linear = Linear {
            input: Rows::dense(&input, 3, 2),
            weights: packed.panels(),
            bias: None,
            activation: Activation::Relu,
            residual: Residual::None,
            out: RowsMut::dense(&mut out, 3, 2),
        };
        gemm.run(&Pool::new(1).unwrap(), linear, &mut scratch).unwrap();
        assert!(out[0].is_nan() && out[3] == f32::INFINITY, "{out:?}");
        assert_eq!(out[4..], [3e38, 0.0]);
    }
}
