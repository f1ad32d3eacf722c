//! Removing programs gives back what they alone held.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod null;

use std::sync::Arc;
use std::time::Duration;

use calor_ir::{CheckedGraph, DType, Graph, Role, Type};
use calor_runtime::{Build, LaneId, MemoryReport, ProgramId, RuntimeError};
use calor_telemetry::Counters;
use calor_telemetry::counter::Plain;

fn build() -> Build {
    null::build(&[], 1 << 24, Arc::new(Counters::new())).unwrap()
}

/// `x * w + s` for each weight, with a state that is doubled in each run.
fn graph(rows: usize, weights: &[&str]) -> CheckedGraph {
    let mut g = Graph::new();
    let ty = Type::new(DType::F32, &[rows, 64]);
    let mut x = g.input("x", Role::Data, ty);
    for name in weights {
        let w = g.input(name, Role::Weight, Type::new(DType::F32, &[64]));
        let w = g.broadcast_to(w, ty.shape).unwrap();
        x = g.mul(x, w).unwrap();
    }
    let state = g.input("state", Role::State, ty);
    let next = g.add(state, state).unwrap();
    g.state(state, next);
    let y = g.add(x, state).unwrap();
    g.output("y", y);
    g.check().unwrap()
}

fn program(build: &mut Build, lane: LaneId, rows: usize, weights: &[&str]) -> ProgramId {
    let graph = graph(rows, weights);
    null::program(build, lane, &graph, [rows as u32, 1]).unwrap()
}

#[test]
fn shared_weights_stay_until_the_last_program() {
    let mut build = build();
    let lane = build.lane();
    let small = program(&mut build, lane, 2, &["a"]);
    let before = build.memory();
    let large = program(&mut build, lane, 4, &["a", "b"]);
    build.run(large, &[], Duration::ZERO).unwrap();
    assert_eq!(build.memory().weights_bytes, 2 * before.weights_bytes);

    build.remove(large).unwrap();
    let after = build.memory();
    assert_eq!(after.weights_bytes, before.weights_bytes);
    assert_eq!(after.state_bytes, before.state_bytes);
    build.write(small, 0, &[0; 4]).unwrap();
    build.run(small, &[], Duration::ZERO).unwrap();

    build.remove(small).unwrap();
    assert_eq!(build.memory(), MemoryReport::default());
}

#[test]
fn a_removed_program_is_refused_and_its_lane_serves_again() {
    let mut build = build();
    let lane = build.lane();
    let first = program(&mut build, lane, 2, &["a"]);
    let full = build.memory();
    build.remove(first).unwrap();
    assert!(matches!(build.remove(first), Err(RuntimeError::Removed { .. })));
    assert!(matches!(build.run(first, &[], Duration::ZERO), Err(RuntimeError::Removed { .. })));
    assert!(matches!(build.write(first, 0, &[0; 4]), Err(RuntimeError::NoBuffer { .. })));

    let again = program(&mut build, lane, 2, &["a"]);
    assert_ne!(first, again);
    assert_eq!(build.memory(), full);
    let mut session = build.seal().unwrap();
    session.run(again, &[], Duration::ZERO).unwrap();
}

#[test]
fn counters_say_what_weights_and_arenas_hold() {
    let counters = Arc::new(Counters::new());
    let held = || {
        let now = counters.snapshot();
        (now.get(Plain::WeightsBytes), now.get(Plain::ArenaBytes))
    };
    let mut build = null::build(&[], 1 << 24, counters.clone()).unwrap();
    let lane = build.lane();
    let small = program(&mut build, lane, 2, &["a"]);
    let large = program(&mut build, lane, 4, &["a", "b"]);
    let memory = build.memory();
    assert!(0 < memory.weights_bytes && 0 < memory.arena_bytes, "{memory:?}");
    assert_eq!(held(), (memory.weights_bytes, memory.arena_bytes));
    build.remove(large).unwrap();
    assert_eq!(held(), (build.memory().weights_bytes, build.memory().arena_bytes));
    build.remove(small).unwrap();
    assert_eq!(held(), (0, 0));
    program(&mut build, lane, 2, &["a"]);
    assert_ne!(held(), (0, 0));
    drop(build);
    assert_eq!(held(), (0, 0), "a device that is gone holds nothing");
}
