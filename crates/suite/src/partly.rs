//! Experts and the SPLADE head in buckets that are filled in part, with NaN wherever nothing may be
//! read: in rows past the live ones, and in the weights of experts that no row has.

use std::sync::Arc;
use std::time::Duration;

use calor_device::Driver;
use calor_ir::{CheckedGraph, DType, Graph, OpCase, Role, Tensor, Type, ValueId, nn, oracle};
use calor_runtime::{Build, Choices, ProgramSpec};
use calor_telemetry::{Counters, Null};
use calor_testkit::agree;

use crate::large;

/// The experts that rows have.
const TAKEN: [usize; 3] = [1, 4, 6];

/// Buckets of both that are filled in part, in every float type.
///
/// # Panics
/// When a live row is not what the oracle says of the live rows alone.
pub fn check_partly_filled(driver: &dyn Driver) {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (live, bucket) in [(3, 4), (1, 16), (37, 64), (70, 80)] {
            experts(driver, dtype, live, bucket);
        }
        for (live, bucket) in [(7, 32), (61, 64), (140, 300), (520, 600)] {
            splade(driver, dtype, live, bucket);
        }
    }
}

fn experts(driver: &dyn Driver, dtype: DType, live: usize, bucket: usize) {
    let name = format!("{live} of {bucket} rows of experts, {}", dtype.name());
    // Row 2 has no expert at all.
    let takes = |row: usize, expert: usize| row != 2 && TAKEN.contains(&expert);
    let case = large::experts(&name, dtype, [live, 72, 8, 40, 24], takes);
    let mut inputs = case.inputs.clone();
    for rows in &mut inputs[..2] {
        *rows = padded(rows, bucket);
    }
    for weights in &mut inputs[2..] {
        let each = weights.data.len() / 8;
        for (expert, values) in weights.data.chunks_mut(each).enumerate() {
            if !TAKEN.contains(&expert) {
                values.fill(f64::NAN);
            }
        }
    }
    let live_by = [Some(0), Some(0), None, None, None, None];
    let graph = graph(&inputs, &live_by, |g, values| {
        let &[x, shares, w1, b1, w2, b2] = values else { panic!("six inputs") };
        nn::experts(g, x, shares, &nn::ExpertWeights { w1, b1, w2, b2 }).unwrap()
    });
    compare(driver, &case, &graph, &inputs, &[live as u32]);
}

fn splade(driver: &dyn Driver, dtype: DType, live: usize, bucket: usize) {
    let name = format!("{live} of {bucket} rows of a head, {}", dtype.name());
    let case = large::splade(&name, dtype, [live, 72, 150]);
    let mut inputs = case.inputs.clone();
    let segments = inputs[3].data.len();
    inputs[0] = padded(&inputs[0], bucket);
    inputs[3] = padded(&inputs[3], segments + 3);
    inputs[4] = padded(&inputs[4], segments + 3);
    let live_by = [Some(0), None, None, Some(1), Some(1)];
    let graph = graph(&inputs, &live_by, |g, values| {
        let &[h, w, bias, lo, hi] = values else { panic!("five inputs") };
        nn::splade_pool(g, h, [w, bias], lo, hi, 64).unwrap()
    });
    compare(driver, &case, &graph, &inputs, &[live as u32, segments as u32]);
}

/// The same rows, and then ones that nothing may make use of.
fn padded(rows: &Tensor, bucket: usize) -> Tensor {
    let mut sizes = rows.ty.shape.sizes().to_vec();
    let each = rows.data.len() / sizes[0];
    sizes[0] = bucket;
    let mut data = rows.data.clone();
    data.resize(bucket * each, if rows.ty.dtype.is_float() { f64::NAN } else { 1.0 });
    Tensor { ty: Type::new(rows.ty.dtype, &sizes), data }
}

fn graph(
    inputs: &[Tensor],
    live_by: &[Option<u8>],
    body: impl FnOnce(&mut Graph, &[ValueId]) -> ValueId,
) -> CheckedGraph {
    let mut g = Graph::new();
    let inputs = inputs.iter().zip(live_by).enumerate().map(|(at, (it, live))| {
        let name = format!("in{at}");
        match live {
            Some(count) => g.live_input(&name, *count, it.ty),
            None => g.input(&name, Role::Data, it.ty),
        }
    });
    let values: Vec<ValueId> = inputs.collect();
    let y = body(&mut g, &values);
    g.output("out", y);
    g.check().unwrap()
}

fn compare(
    driver: &dyn Driver,
    case: &OpCase,
    graph: &CheckedGraph,
    inputs: &[Tensor],
    live: &[u32],
) {
    let device = driver.open(0).unwrap();
    let mut build = Build::new(device, u64::MAX, Arc::new(Counters::new()), Arc::new(Null));
    let lane = build.lane();
    let program = build.program(&ProgramSpec {
        label: &case.name,
        token_count_max: u32::MAX,
        sequence_count_max: u32::MAX,
        lane,
        graph,
        source: None,
        choices: &Choices::default(),
        channels: &[],
    });
    let program = program.unwrap_or_else(|err| panic!("{}: {err}", case.name));
    let mut session = build.seal().unwrap();
    for (at, tensor) in inputs.iter().enumerate() {
        let slot = session.plan(program).input_index(&format!("in{at}")).unwrap();
        session.write(program, slot, &tensor.to_bytes()).unwrap();
    }
    session.run(program, live, Duration::from_secs(60)).unwrap();
    let want = oracle::eval(&case.graph, &case.inputs).unwrap().outputs.remove(0);
    let slot = session.plan(program).output_index("out").unwrap();
    let mut bytes = vec![0; want.ty.size_bytes()];
    session.read(program, slot, &mut bytes).unwrap();
    let got = Tensor::from_bytes(want.ty, &bytes);
    agree(&got, &want, case.tolerance).unwrap_or_else(|err| panic!("{}: {err}", case.name));
}
