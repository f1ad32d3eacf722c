//! Norms and pooling of sizes at which a device takes its fast paths, against the oracle.

use calor_device::Driver;
use calor_ir::case::CaseBuilder;
use calor_ir::{DType, OpCase, ValueId, nn};
use calor_testkit::check_case;
use calor_testkit::conformance::Form;

/// Rows and their lengths: few and many, of whole vectors and not, longer than a warp holds.
const ROWS: [[usize; 2]; 8] =
    [[1, 64], [7, 1024], [33, 768], [300, 384], [1100, 72], [1200, 77], [1061, 1536], [2, 9000]];

/// What is around a norm.
#[derive(Clone, Copy, Debug)]
enum Around {
    Nothing,
    /// A sum in front.
    Sum,
    /// One that leaves as well.
    KeptSum,
    /// Rows of two tables in front, a cast behind.
    Tables,
}

/// Norms of every kind and type, alone and with what a device may take along, and linear layers
/// that read one.
///
/// # Panics
/// When one is not what the oracle says.
pub fn check_norms(driver: &dyn Driver) {
    let mut wrong = Vec::new();
    // The kinds take turns, so that each meets every shape, type and neighbour.
    let mut turn = 0;
    for [rows, k] in ROWS {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for around in [Around::Nothing, Around::Sum, Around::KeptSum, Around::Tables] {
                check(driver, &norm([rows, k], dtype, around, turn % 2 == 0), &mut wrong);
                turn += 1;
            }
            turn += 1;
        }
    }
    for rows in [1, 8, 17, 32, 33, 64] {
        for [n, k] in [[64, 64], [384, 1024], [96, 72], [1024, 256]] {
            let (centred, is_read_twice) = (turn % 2 == 0, turn / 2 % 2 == 0);
            check(driver, &layer([rows, n, k], centred, is_read_twice), &mut wrong);
            turn += 1;
        }
        turn += 1;
    }
    // Tiles of real size.
    check(driver, &layer([32, 3072, 1024], true, false), &mut wrong);
    check(driver, &layer([32, 4096, 1024], true, true), &mut wrong);
    check(driver, &layer([32, 1024, 4096], false, true), &mut wrong);
    assert!(wrong.is_empty(), "{} norms:\n{}", wrong.len(), wrong.join("\n"));
}

fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::F32 { 1e-4 } else { 2e-2 }
}

fn norm([rows, k]: [usize; 2], dtype: DType, around: Around, centred: bool) -> OpCase {
    let name = format!("norm {rows}x{k} {} {around:?} centred {centred}", dtype.name());
    let mut case = CaseBuilder::new(&name).tolerance(tolerance(dtype));
    let x = case.random_in("x", dtype, &[rows, k], -2.0, 4.0);
    let gain = case.random("gain", DType::F32, &[k]);
    let shift = case.random("shift", DType::F32, &[k]);
    let (mut sum, mut narrow) = (Ok(x), None);
    match around {
        Around::Nothing => {}
        Around::Sum | Around::KeptSum => {
            let more = case.random("more", dtype, &[rows, k]);
            sum = case.graph.add(x, more);
        }
        Around::Tables => {
            let indices: Vec<i32> = (0..rows).map(|at| (at * 7 % 13) as i32 - 3).collect();
            let indices = case.indices("indices", &indices);
            let table = case.random("table", dtype, &[5, k]);
            let g = &mut case.graph;
            sum = nn::embedding(g, x, indices)
                .and_then(|a| nn::embedding(g, table, indices).and_then(|b| g.add(a, b)));
            narrow = (dtype == DType::F32).then_some(DType::BF16);
        }
    }
    if narrow.is_some() {
        case = case.tolerance(tolerance(DType::BF16));
    }
    let outputs = sum.and_then(|sum| {
        let g = &mut case.graph;
        let y = match centred {
            true => nn::layer_norm(g, sum, gain, Some(shift), 1e-5)?,
            false => nn::rms_norm(g, sum, gain, 1e-5)?,
        };
        let y = narrow.map_or(Ok(y), |it| g.cast(y, it))?;
        Ok(if matches!(around, Around::KeptSum) { vec![y, sum] } else { vec![y] })
    });
    case.finish(outputs)
}

/// A linear layer of bf16 over a norm, whose weights are prepared.
fn layer([rows, n, k]: [usize; 3], centred: bool, is_read_twice: bool) -> OpCase {
    let name = format!("layer {rows}x{n}x{k} centred {centred} read twice {is_read_twice}");
    let mut case = CaseBuilder::new(&name).tolerance(3e-2);
    let x = case.random_in("x", DType::BF16, &[rows, k], -2.0, 3.0);
    let gain = case.random_in("gain", DType::F32, &[k], 0.5, 1.5);
    let shift = case.random("shift", DType::F32, &[k]);
    let size = 1.0 / (k as f64).sqrt();
    let w = case.random_in("w", DType::F32, &[n, k], -size, size);
    let b = case.random("b", DType::F32, &[n]);
    let g = &mut case.graph;
    let mut build = || {
        let y = match centred {
            true => nn::layer_norm(g, x, gain, Some(shift), 1e-5)?,
            false => nn::rms_norm(g, x, gain, 1e-5)?,
        };
        let (w, b) = (g.cast(w, DType::BF16)?, g.cast(b, DType::BF16)?);
        let out = nn::linear(g, y, w, Some(b), nn::Activation::Gelu)?;
        Ok(if is_read_twice { vec![out, y] } else { vec![out] })
    };
    let outputs = build();
    let case = case.finish(outputs);
    Form::Weights.of(&case).unwrap_or(case)
}

const KINDS: [nn::PoolKind; 6] = [
    nn::PoolKind::Mean,
    nn::PoolKind::Sum,
    nn::PoolKind::Max,
    nn::PoolKind::Min,
    nn::PoolKind::First,
    nn::PoolKind::Last,
];

/// Pooling of every kind, alone and with what a device may take along.
///
/// # Panics
/// When one is not what the oracle says.
pub fn check_pools(driver: &dyn Driver) {
    let mut wrong = Vec::new();
    for (turn, d) in [8, 77, 1024, 3000].into_iter().enumerate() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (at, kind) in KINDS.into_iter().enumerate() {
                check(driver, &pool(d, dtype, kind, (turn + at) % 2 == 0), &mut wrong);
            }
        }
    }
    assert!(wrong.is_empty(), "{} pools:\n{}", wrong.len(), wrong.join("\n"));
}

fn pool(d: usize, dtype: DType, kind: nn::PoolKind, is_unit: bool) -> OpCase {
    let name = format!("pool {d} {} {} unit {is_unit}", dtype.name(), kind.word());
    let mut case = CaseBuilder::new(&name).tolerance(tolerance(dtype));
    let x = case.random("x", dtype, &[300, d]);
    let lo = case.indices("lo", &[0, 1, 18, 18, 90, 299, -4, 7]);
    let hi = case.indices("hi", &[1, 18, 18, 90, 299, 1000, 2, 3]);
    let g = &mut case.graph;
    let mut build = || -> Result<ValueId, _> {
        let x = g.cast(x, DType::F32)?;
        let pooled = nn::pool(g, x, lo, hi, kind)?;
        if is_unit { nn::l2_normalize(g, pooled, 1e-12) } else { Ok(pooled) }
    };
    let outputs = build().map(|it| vec![it]);
    case.finish(outputs)
}

fn check(driver: &dyn Driver, case: &OpCase, wrong: &mut Vec<String>) {
    if let Err(failure) = check_case(driver, "rows", case) {
        wrong.push(format!("{}: {failure}", case.name));
    }
}
