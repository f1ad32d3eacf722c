//! Products, attention, experts and the SPLADE head of sizes at which a device takes its fast
//! paths, against the oracle.

use calor_device::Driver;
use calor_ir::case::CaseBuilder;
use calor_ir::{DType, OpCase, ValueId, nn};
use calor_testkit::check_case;

/// Rows, columns and length of sums: few rows, odd ones, tiles that are full and ones that are not.
const PRODUCTS: [[usize; 3]; 12] = [
    [1, 64, 64],
    [7, 256, 128],
    [32, 384, 384],
    [33, 96, 3072],
    [64, 128, 96],
    [65, 72, 64],
    [200, 384, 256],
    [300, 136, 72],
    [257, 77, 35],
    [2048, 128, 64],
    [4096, 192, 64],
    [2100, 64, 64],
];

/// Products with every activation, with and without bias and residual, in every float type.
///
/// # Panics
/// When one is not what the oracle says.
pub fn check_products(driver: &dyn Driver) {
    let mut wrong = Vec::new();
    for (at, [rows, n, k]) in PRODUCTS.into_iter().enumerate() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (turn, activation) in nn::Activation::ALL.into_iter().enumerate() {
                // Each shape sees each activation in each type once, with changing companions.
                let (bias, residual) = ((turn + at) % 3 != 0, (turn + at) % 2 == 0);
                let mut case = CaseBuilder::new(&format!(
                    "{rows}x{n}x{k} {} {activation:?} bias {bias} residual {residual}",
                    dtype.name()
                ));
                case = case.tolerance(tolerance(dtype));
                let x = case.random("x", dtype, &[rows, k]);
                let w = case.random_in("w", dtype, &[n, k], -0.25, 0.25);
                let b = bias.then(|| case.random("b", dtype, &[n]));
                let more = residual.then(|| case.random("residual", dtype, &[rows, n]));
                let y = nn::linear(&mut case.graph, x, w, b, activation);
                let y = y.and_then(|y| match more {
                    Some(more) => case.graph.add(y, more),
                    None => Ok(y),
                });
                check(driver, "linear", &case.finish(y.map(|it| vec![it])), &mut wrong);
                if 1000 < rows && 1 < turn {
                    break;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} products:\n{}", wrong.len(), wrong.join("\n"));
}

/// Gated pairs of products in every float type.
///
/// # Panics
/// When one is not what the oracle says.
pub fn check_gates(driver: &dyn Driver) {
    let mut wrong = Vec::new();
    for (turn, [rows, n, k]) in PRODUCTS.into_iter().enumerate() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let bias = turn % 2 == 0;
            let activation = if bias { nn::Activation::Gelu } else { nn::Activation::Silu };
            let name = format!("gate {rows}x{n}x{k} {} {activation:?}", dtype.name());
            let tolerance = if dtype == DType::F32 { 1e-4 } else { 3e-2 };
            let mut case = CaseBuilder::new(&name).tolerance(tolerance);
            let size = 1.0 / (k as f64).sqrt();
            let x = case.random("x", dtype, &[rows, k]);
            let gate = case.random_in("gate", dtype, &[n, k], -size, size);
            let up = case.random_in("up", dtype, &[n, k], -size, size);
            let biases = bias.then(|| ["b", "c"].map(|it| case.random(it, dtype, &[n])));
            let y = nn::gated_linear(&mut case.graph, x, gate, up, biases, activation);
            check(driver, "gated_linear", &case.finish(y.map(|it| vec![it])), &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{} gates:\n{}", wrong.len(), wrong.join("\n"));
}

/// Products in fp8, int8 and tf32 with every activation, with and without bias and residual: rows
/// in a half type that are quantized first, weights that are codes already.
///
/// # Panics
/// When one is not what the oracle says.
pub fn check_narrow_products(driver: &dyn Driver) {
    let mut wrong = Vec::new();
    for (at, [rows, n, k]) in PRODUCTS.into_iter().enumerate() {
        for codes in [DType::F8E4M3, DType::I8, DType::F32] {
            let narrow = codes != DType::F32;
            for (turn, activation) in nn::Activation::ALL.into_iter().enumerate() {
                let (bias, residual) = ((turn + at) % 3 != 0, (turn + at) % 2 == 0);
                let mut case = CaseBuilder::new(&format!(
                    "{rows}x{n}x{k} {} {activation:?} bias {bias} residual {residual}",
                    if narrow { codes.name() } else { "tf32" }
                ));
                // Factors in tf32 are off by a part in 2048.
                case = case.tolerance(if narrow { 2e-2 } else { 1e-2 });
                let dtype = if narrow { DType::BF16 } else { DType::F32 };
                let x = case.random("x", dtype, &[rows, k]);
                let w = if narrow {
                    case.random_in("w", codes, &[n, k], codes.lowest(), codes.highest())
                } else {
                    case.random_in("w", dtype, &[n, k], -0.25, 0.25)
                };
                let most = 0.25 / codes.highest();
                let scales =
                    narrow.then(|| case.random_in("scales", DType::F32, &[n], 0.5 * most, most));
                let b = bias.then(|| case.random("b", dtype, &[n]));
                let more = residual.then(|| case.random("residual", dtype, &[rows, n]));
                let g = &mut case.graph;
                let y = match scales {
                    Some(scales) => nn::quantize_rows(g, x, codes).and_then(|x| {
                        let w = nn::Quantized { codes: w, scales };
                        nn::scaled_linear(g, x, w, b, activation, dtype)
                    }),
                    None => nn::tf32_linear(g, x, w, b, activation),
                };
                let y = y.and_then(|y| match more {
                    Some(more) => g.add(y, more),
                    None => Ok(y),
                });
                check(driver, "linear", &case.finish(y.map(|it| vec![it])), &mut wrong);
                if 1000 < rows && 1 < turn {
                    break;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} products:\n{}", wrong.len(), wrong.join("\n"));
}

/// Packed sequences of these lengths, then padding rows.
const LENGTHS: &[usize] = &[17, 1, 64, 33, 2, 90];

/// Rows without keys at the end.
const PADDING: usize = 5;

/// The forms of attention: full, causal, window with an extra key, table, and one row for each
/// sequence.
///
/// # Panics
/// When one is not what the oracle says.
pub fn check_attention(driver: &dyn Driver) {
    let mut wrong = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for d in [32, 64, 72, 80, 96, 128] {
            for form in ["full", "causal", "window", "table", "firsts"] {
                let name = format!("{form} d {d} {}", dtype.name());
                check(driver, "attention", &attention(&name, form, dtype, d), &mut wrong);
            }
        }
    }
    assert!(wrong.is_empty(), "{} attentions:\n{}", wrong.len(), wrong.join("\n"));
}

fn attention(name: &str, form: &str, dtype: DType, d: usize) -> OpCase {
    let (heads, kv_heads) = (4, if matches!(form, "causal" | "firsts") { 2 } else { 4 });
    let (mut lo, mut hi, mut extra) = (Vec::new(), Vec::new(), Vec::new());
    let mut start = 0_i32;
    for length in LENGTHS {
        let end = start + *length as i32;
        for row in start..end {
            let (from, to) = match form {
                "causal" => (start, row + 1),
                "window" => ((row - 8).max(start), (row + 9).min(end)),
                _ => (start, end),
            };
            lo.push(from);
            hi.push(to);
            extra.push(start);
        }
        start = end;
    }
    lo.extend([0; PADDING]);
    hi.extend([0; PADDING]);
    extra.extend([-1; PADDING]);
    let rows = lo.len();
    if form == "firsts" {
        // The first row of each sequence, and the first of the padding.
        let is_first = |row: &usize| *row == rows - PADDING || lo[*row] as usize == *row;
        let firsts: Vec<usize> = (0..=rows - PADDING).filter(is_first).collect();
        (lo, hi) = firsts.iter().map(|row| (lo[*row], hi[*row])).unzip();
    }
    let mut case = CaseBuilder::new(name).tolerance(tolerance(dtype));
    let q = case.random_in("q", dtype, &[lo.len(), heads, d], -2.0, 2.0);
    let k = case.random_in("k", dtype, &[rows, kv_heads, d], -2.0, 2.0);
    let v = case.random("v", dtype, &[rows, kv_heads, d]);
    let lo = case.indices("lo", &lo);
    let hi = case.indices("hi", &hi);
    let extra = (form == "window").then(|| case.indices("extra", &extra));
    let bias = (form == "table").then(|| case.random("bias", DType::F32, &[65, heads]));
    let scale = 1.0 / (d as f64).sqrt();
    let options = nn::AttentionOptions { lo, hi, extra, bias, scale };
    let out = nn::attention(&mut case.graph, q, k, v, &options);
    case.finish(out.map(|it: ValueId| vec![it]))
}

/// Rows, length, experts, hidden length, length of results: tiles that are full and ones that are
/// not, chunks of rows, more experts than rows.
const EXPERTS: [[usize; 5]; 7] = [
    [1, 136, 8, 72, 24],
    [4, 64, 8, 64, 40],
    [16, 200, 5, 32, 96],
    [33, 72, 3, 104, 48],
    [64, 320, 8, 64, 64],
    [70, 48, 8, 40, 8],
    [130, 32, 4, 24, 16],
];

/// Experts in every float type, each row with three of them at most.
///
/// # Panics
/// When one is not what the oracle says.
pub fn check_experts(driver: &dyn Driver) {
    let mut wrong = Vec::new();
    for sizes in EXPERTS {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let name = format!("{sizes:?} {}", dtype.name());
            let case =
                experts(&name, dtype, sizes, |row, expert| (expert * 3 + row) % sizes[2] < 3);
            check(driver, "experts", &case, &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{} mixtures:\n{}", wrong.len(), wrong.join("\n"));
}

/// A mixture whose rows have the experts that `takes` says, given a row and an expert.
pub(crate) fn experts(
    name: &str,
    dtype: DType,
    [n, d, e, h, o]: [usize; 5],
    takes: impl Fn(usize, usize) -> bool,
) -> OpCase {
    let mut case = CaseBuilder::new(name).tolerance(tolerance(dtype));
    let share = |at: usize| {
        let (row, expert) = (at / e, at % e);
        if takes(row, expert) { 0.25 + (at % 7) as f64 / 16.0 } else { 0.0 }
    };
    let shares: Vec<f64> = (0..n * e).map(share).collect();
    let x = case.random("x", dtype, &[n, d]);
    let shares = case.values("shares", DType::F32, &[n, e], &shares);
    let weights = nn::ExpertWeights {
        w1: case.random_in("w1", dtype, &[e, h, d], -0.25, 0.25),
        b1: case.random("b1", dtype, &[e, h]),
        w2: case.random_in("w2", dtype, &[e, o, h], -0.25, 0.25),
        b2: case.random("b2", dtype, &[e, o]),
    };
    let y = nn::experts(&mut case.graph, x, shares, &weights);
    case.finish(y.map(|it| vec![it]))
}

/// Rows, length of a row, terms: one tile of rows and several, terms that fill no tile.
const TERMS: [[usize; 3]; 9] = [
    [1, 8, 1],
    [5, 40, 77],
    [32, 64, 130],
    [33, 72, 128],
    [64, 128, 300],
    [100, 200, 129],
    [200, 64, 77],
    [300, 72, 256],
    [600, 40, 300],
];

/// SPLADE heads in every float type, with segments that are empty, long, outside and overlap.
///
/// # Panics
/// When one is not what the oracle says.
pub fn check_splade(driver: &dyn Driver) {
    let mut wrong = Vec::new();
    for sizes in TERMS {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let name = format!("{sizes:?} {}", dtype.name());
            check(driver, "splade", &splade(&name, dtype, sizes), &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{} heads:\n{}", wrong.len(), wrong.join("\n"));
}

pub(crate) fn splade(name: &str, dtype: DType, [t, k, v]: [usize; 3]) -> OpCase {
    let (mut lo, mut hi, mut at) = (Vec::new(), Vec::new(), 0);
    let rows = t as i32;
    for length in [17, 1, 64, 0, 33, 2, 300].into_iter().cycle() {
        if rows <= at {
            break;
        }
        lo.push(at);
        at = rows.min(at + length);
        hi.push(at);
    }
    for (from, to) in [(rows / 3, rows), (-3, 2), (rows - 1, rows + 50), (5, 5), (3, 1)] {
        lo.push(from);
        hi.push(to);
    }
    let mut case = CaseBuilder::new(name).tolerance(tolerance(dtype));
    let h = case.random_in("h", dtype, &[t, k], -2.0, 2.0);
    let w = case.random_in("w", dtype, &[v, k], -0.25, 0.25);
    let bias = case.random("bias", dtype, &[v]);
    let (lo, hi) = (case.indices("lo", &lo), case.indices("hi", &hi));
    let y = nn::splade_pool(&mut case.graph, h, [w, bias], lo, hi, 64);
    case.finish(y.map(|it| vec![it]))
}

fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::F32 { 1e-4 } else { 2e-2 }
}

fn check(driver: &dyn Driver, op: &str, case: &OpCase, wrong: &mut Vec<String>) {
    if let Err(failure) = check_case(driver, op, case) {
        wrong.push(format!("{}: {failure}", case.name));
    }
}
