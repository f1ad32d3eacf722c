//! Multiplications and additions of runs, counted by hand and by the runtime.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod null;

use std::sync::Arc;
use std::time::Duration;

use calor_ir::nn::{self, AttentionOptions};
use calor_ir::{Binary, CheckedGraph, DType, Graph, Role, Type};
use calor_runtime::{Capabilities, Choices, Input, ProgramId, Session, plan};
use calor_telemetry::Counters;
use calor_telemetry::counter::Plain;
use calor_testkit::stacks::{Family, Stack};

fn session(graph: &CheckedGraph, bucket: [u32; 2]) -> (Session, ProgramId, Arc<Counters>) {
    let counters = Arc::new(Counters::new());
    let mut build = null::build(&[], 1 << 30, counters.clone()).unwrap();
    let lane = build.lane();
    let program = null::program(&mut build, lane, graph, bucket).unwrap();
    (build.seal().unwrap(), program, counters)
}

/// Work of one run by the counter.
fn counted(graph: &CheckedGraph, bucket: [u32; 2], live: &[u32], inputs: &[(&str, &[i32])]) -> i64 {
    let (mut session, program, counters) = session(graph, bucket);
    let bytes: Vec<(usize, Vec<u8>)> = inputs
        .iter()
        .map(|(name, values)| {
            let slot = session.plan(program).input_index(name).unwrap();
            (slot, values.iter().flat_map(|it| it.to_le_bytes()).collect())
        })
        .collect();
    let inputs: Vec<Input<'_>> =
        bytes.iter().map(|(slot, bytes)| Input { part: 0, slot: *slot, bytes }).collect();
    let scope = counters.scope();
    let run = session.start(program, &inputs, &[live]).unwrap();
    session.finish(run, Duration::from_secs(10)).unwrap();
    scope.change().get(Plain::Flops)
}

/// Two sequences of five and three tokens in a bucket of twelve; what lies behind is garbage.
const LO: [i32; 12] = [0, 0, 0, 0, 0, 5, 5, 5, -9, 0, 7, 1];
const HI: [i32; 12] = [5, 5, 5, 5, 5, 8, 8, 8, 99, 50, 60, i32::MAX];

#[test]
fn an_encoder_counts_its_live_rows_and_no_padding() {
    // Two layers, 16 wide, four heads of four, 24 between the halves.
    let graph = Stack::small(Family::Bert).graph().unwrap();
    // Queries, keys, values and the way out, and both halves of the feed-forward block.
    let token = 2 * (4 * 16 * 16 + 2 * 16 * 24);
    // Scores and sums, for each of four heads.
    let pair = 4 * 2 * (4 + 4);
    let bounds: [(&str, &[i32]); 2] = [("lo", &LO), ("hi", &HI)];
    let packed = counted(&graph, [12, 3], &[8, 2], &bounds);
    assert_eq!(packed, 2 * (8 * token + (5 * 5 + 3 * 3) * pair));
    let alone = counted(&graph, [12, 3], &[5, 1], &bounds);
    assert_eq!(alone, 2 * (5 * token + 5 * 5 * pair));
    // Intervals that were written before are not looked at.
    assert_eq!(counted(&graph, [12, 3], &[8, 2], &[]), 2 * 8 * token);
    assert_eq!(counted(&graph, [12, 3], &[], &[]), 2 * 12 * token);
}

#[test]
fn shared_key_heads_and_gates_are_counted_as_they_are() {
    let graph = Stack::small(Family::Qwen2).graph().unwrap();
    // Two key heads of four, and a gate beside the first half.
    let token = 2 * (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24);
    let bounds: [(&str, &[i32]); 2] = [("lo", &LO), ("hi", &HI)];
    let packed = counted(&graph, [12, 3], &[8, 2], &bounds);
    assert_eq!(packed, 2 * (8 * token + 34 * 4 * 2 * 8));
}

#[test]
fn a_window_and_an_order_cut_intervals() {
    let mut g = Graph::new();
    let [q, k, v] =
        ["q", "k", "v"].map(|name| g.live_input(name, 0, Type::new(DType::F32, &[12, 1, 4])));
    let [lo, hi] = ["lo", "hi"].map(|name| g.live_input(name, 0, Type::new(DType::I32, &[12])));
    let row = g.iota(DType::I32, &[12], 0).unwrap();
    let first = g.with_number(Binary::Sub, row, 1.0).unwrap();
    let from = g.binary(Binary::Max, lo, first).unwrap();
    let end = g.with_number(Binary::Add, row, 1.0).unwrap();
    let to = g.binary(Binary::Min, end, hi).unwrap();
    let options = AttentionOptions { lo: from, hi: to, extra: None, bias: None, scale: 1.0 };
    let y = nn::attention(&mut g, q, k, v, &options).unwrap();
    g.output("y", y);
    let graph = g.check().unwrap();
    // A row sees itself and the one before it, where that is of its sequence: 9 and 5.
    let got = counted(&graph, [12, 3], &[8], &[("lo", &LO), ("hi", &HI)]);
    assert_eq!(got, (9 + 5) * 2 * (4 + 4));
}

#[test]
fn experts_count_those_that_were_chosen() {
    let (rows, d, e, h, o) = (4, 6, 8, 10, 3);
    let mut g = Graph::new();
    let x = g.live_input("x", 0, Type::new(DType::F32, &[rows, d]));
    let mut weight =
        |name: &str, sizes: &[usize]| g.input(name, Role::Weight, Type::new(DType::F32, sizes));
    let (w, bias) = (weight("w", &[e, d]), weight("b", &[e]));
    let experts = nn::ExpertWeights {
        w1: weight("w1", &[e, h, d]),
        b1: weight("b1", &[e, h]),
        w2: weight("w2", &[e, o, h]),
        b2: weight("b2", &[e, o]),
    };
    let shares = nn::linear(&mut g, x, w, Some(bias), nn::Activation::None).unwrap();
    let shares = nn::softmax(&mut g, shares).unwrap();
    let [mixture, _] = nn::top_k(&mut g, shares, 2).unwrap();
    let y = nn::experts(&mut g, x, mixture, &experts).unwrap();
    g.output("y", y);
    let graph = g.check().unwrap();
    let row = 2 * (d * e + 2 * h * (d + o)) as i64;
    assert_eq!(counted(&graph, [rows as u32, rows as u32], &[3], &[]), 3 * row);
    assert_eq!(counted(&graph, [rows as u32, rows as u32], &[], &[]), rows as i64 * row);
}

#[test]
fn claims_change_no_count() {
    let stack = Stack::small(Family::Bert);
    let graph = stack.graph().unwrap();
    let of = |claims| {
        let capabilities = Capabilities { claims, parallel_count: 2 };
        let plan = plan(&graph, &capabilities, &Choices::default()).unwrap();
        plan.work.flops([12, 3], [8, 2], |_| None)
    };
    assert_eq!(of(&[]), of(calor_device_cpu::CLAIMS));
}
