//! What a machine reaches in one large product: what achieved work is set against.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use calor_device::Driver;
use calor_ir::{CheckedGraph, DType, Graph, GraphError, Role, Tensor, Type, nn};
use calor_runtime::{Build, Choices, ProgramSpec, WeightSource};
use calor_telemetry::clock::Stopwatch;
use calor_telemetry::counter::Plain;
use calor_telemetry::{Counters, Null};
use serde_json::json;

use crate::bench::Seeded;

/// Rows, columns and length of the sums: a square one, and one of a large model's layers.
pub const PRODUCTS: [[usize; 3]; 2] = [[4096, 4096, 4096], [16_384, 4096, 1024]];
/// Products in one program, so that its start is a small part of it.
const COPIES: usize = 8;
/// How long runs warm up at least.
const WARM_NS: u64 = 300_000_000;
const RUNS: usize = 30;
const DEADLINE: Duration = Duration::from_secs(60);
/// Elements of a result that are compared with the host's.
const CHECKED: usize = 64;

/// Measures products in bf16 and prints a line of JSON for each.
///
/// # Errors
/// When nothing can be written.
///
/// # Panics
/// When a product does not build or run, or gives other numbers than the host.
pub fn rates(
    driver: &dyn Driver,
    products: &[[usize; 3]],
    out: &mut dyn Write,
) -> std::io::Result<()> {
    for [rows, columns, len] in products.iter().copied() {
        let counters = Arc::new(Counters::new());
        let device = driver.open(0).unwrap();
        let model = device.signature.model.clone();
        let mut build = Build::new(device, u64::MAX, counters.clone(), Arc::new(Null));
        let graph = graph([rows, columns, len]).unwrap();
        let lane = build.lane();
        let spec = ProgramSpec {
            label: "product",
            token_count_max: rows as u32,
            sequence_count_max: 1,
            lane,
            graph: &graph,
            source: Some(Arc::new(Seeded)),
            choices: &Choices::default(),
            channels: &[],
        };
        let program = build.program(&spec).unwrap();
        let mut session = build.seal().unwrap();
        let x = values(rows * len);
        let slot = session.plan(program).input_index("x").unwrap();
        let x = Tensor::new(DType::BF16, &[x.len()], &x);
        session.write(program, slot, &x.to_bytes()).unwrap();
        let mut run = || {
            let watch = Stopwatch::start();
            session.run(program, &[], DEADLINE).unwrap();
            watch.elapsed_ns()
        };
        let warm = Stopwatch::start();
        while warm.elapsed_ns() < WARM_NS {
            run();
        }
        let scope = counters.scope();
        let mut runs_ns: Vec<u64> = (0..RUNS).map(|_| run()).collect();
        let flops = scope.change().get(Plain::Flops) as f64 / RUNS as f64;
        runs_ns.sort_unstable();
        let slot = session.plan(program).output_index("y0").unwrap();
        let mut bytes = vec![0; session.plan(program).buffers[slot].ty.size_bytes()];
        session.read(program, slot, &mut bytes).unwrap();
        check(&x.data, &bytes, [rows, columns, len]);
        let (median_ns, least_ns) = (runs_ns[RUNS / 2], runs_ns[0]);
        let line = json!({
            "what": "gemm_rate", "device": model, "dtype": "bf16", "rows": rows,
            "columns": columns, "sums": len, "products_per_run": COPIES, "flop_count": flops,
            "median_ns": median_ns, "least_ns": least_ns,
            "tflop_per_s": flops / median_ns as f64 / 1e3,
            "tflop_per_s_best": flops / least_ns as f64 / 1e3,
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// The same rows with weights that differ, so that no product is another's.
fn graph([rows, columns, len]: [usize; 3]) -> Result<CheckedGraph, GraphError> {
    let mut g = Graph::new();
    let x = g.input("x", Role::Data, Type::new(DType::BF16, &[rows, len]));
    for copy in 0..COPIES {
        let ty = Type::new(DType::F32, &[columns, len]);
        let raw = g.input(&format!("w{copy}"), Role::Weight, ty);
        let w = g.cast(raw, DType::BF16)?;
        let y = nn::linear(&mut g, x, w, None, nn::Activation::None)?;
        g.output(&format!("y{copy}"), y);
    }
    g.check()
}

fn values(count: usize) -> Vec<f64> {
    (0..count).map(|at| (at * 7919 % 2003) as f64 / 1001.5 - 1.0).collect()
}

/// Compares elements from everywhere in the first result with sums on the host.
fn check(x: &[f64], bytes: &[u8], [rows, columns, len]: [usize; 3]) {
    for at in 0..CHECKED {
        let (row, column) = (at * (rows - 1) / (CHECKED - 1), at * 31 % columns);
        let mut weights = vec![0.0_f32; len];
        Seeded.read("w0", column * len, &mut weights).unwrap();
        let weights: Vec<f64> = weights.iter().map(|it| f64::from(*it)).collect();
        let weights = Tensor::new(DType::BF16, &[len], &weights).data;
        let terms = x[row * len..][..len].iter().zip(&weights).map(|(a, b)| a * b);
        let (want, size) = terms.fold((0.0, 0.0), |(sum, size), it| (sum + it, size + it.abs()));
        let place = 2 * (row * columns + column);
        let got =
            f32::from_bits(u32::from(u16::from_le_bytes([bytes[place], bytes[place + 1]])) << 16);
        assert!(
            (f64::from(got) - want).abs() <= 0.01 * size,
            "[{row}, {column}]: {got}, not {want}"
        );
    }
}

#[test]
fn a_rate_is_of_work_that_was_done() {
    use calor_device_cpu::CpuDriver;
    let driver = CpuDriver { threads: 1, level: None, memory_bytes: None, profile: None };
    let mut out = Vec::new();
    rates(&driver, &[[64, 48, 32]], &mut out).unwrap();
    let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(line["flop_count"], (COPIES * 2 * 64 * 48 * 32) as f64);
    let (rate, ns) = (line["tflop_per_s"].as_f64().unwrap(), line["median_ns"].as_f64().unwrap());
    assert!((rate * ns * 1e3 / line["flop_count"].as_f64().unwrap() - 1.0).abs() < 1e-9);
}
