//! Builds and sessions on the null device: preludes shared, quotas, the seal.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use calor_device::Driver;
use calor_device::null::NullDriver;
use calor_ir::{Binary, CheckedGraph, DType, Fold, Graph, Role, Type};
use calor_kernel::Digest;
use calor_runtime::{
    Build, Choices, JoinedSpec, LaneId, PartSpec, PlanStep, ProgramId, ProgramSpec, RuntimeError,
    WeightSource,
};
use calor_telemetry::counter::Plain;
use calor_telemetry::event::{Event, Memory, WarmupStep};
use calor_telemetry::{Counters, Log};

const DIM: usize = 64;

/// Weights that remember which of them were read.
#[derive(Default)]
struct Remembering(Mutex<Vec<String>>);

impl WeightSource for Remembering {
    fn identity(&self) -> Digest {
        Digest([1; 32])
    }

    fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if first == 0 {
            self.0.lock().unwrap().push(name.to_owned());
        }
        out.fill(0.5);
        Ok(())
    }
}

/// `x · (w + w2)` plus a bias, for a batch of rows; `w` and `w2` are needed on the way only.
fn graph(rows: usize) -> CheckedGraph {
    let mut g = Graph::new();
    let x = g.input("x", Role::Data, Type::new(DType::F32, &[rows, DIM]));
    let w = g.input("w", Role::Weight, Type::new(DType::F32, &[DIM, DIM]));
    let w2 = g.input("w2", Role::Weight, Type::new(DType::F32, &[DIM, DIM]));
    let bias = g.input("bias", Role::Weight, Type::new(DType::F32, &[DIM]));
    let both = g.add(w, w2).unwrap();
    let both = g.permute(both, &[1, 0]).unwrap();
    // A fold over the weight alone keeps it from being computed on the fly.
    let norm = g.reduce(Fold::Sum, both, 1).unwrap();
    let product = g.dot_rows(x, both).unwrap();
    let scaled = g.binary(Binary::Mul, product, norm).unwrap();
    let y = g.add(scaled, bias).unwrap();
    g.output("y", y);
    g.check().unwrap()
}

struct Bench {
    build: Build,
    lane: LaneId,
    source: Arc<Remembering>,
    log: Arc<Log>,
}

impl Bench {
    fn new(quota_bytes: u64) -> Self {
        let driver = NullDriver { claims: &[], memory_bytes: 1 << 30 };
        let log = Arc::new(Log::new());
        let device = driver.open(0).unwrap();
        let mut build = Build::new(device, quota_bytes, Arc::new(Counters::new()), log.clone());
        let lane = build.lane();
        Self { build, lane, source: Arc::default(), log }
    }

    fn program(&mut self, rows: usize) -> Result<ProgramId, RuntimeError> {
        self.build.program(&ProgramSpec {
            label: "model",
            token_count_max: rows as u32,
            sequence_count_max: 1,
            lane: self.lane,
            graph: &graph(rows),
            source: Some(self.source.clone()),
            choices: &Choices::default(),
            channels: &[],
        })
    }

    fn allocated(&self, wanted: Memory) -> u64 {
        let sizes = self.log.events().into_iter().map(|it| match it {
            Event::Allocated { purpose, size_bytes, .. } if purpose == wanted => size_bytes,
            _ => 0,
        });
        sizes.sum()
    }
}

/// Steps of becoming ready: which, whether it succeeded, and whether it took memory.
fn steps(log: &Log) -> Vec<(WarmupStep, bool, bool)> {
    let step = |it| match it {
        Event::WarmupStepDone { step, success, device_bytes, .. } => {
            Some((step, success, 0 < device_bytes))
        }
        _ => None,
    };
    log.events().into_iter().filter_map(step).collect()
}

#[test]
fn each_step_of_becoming_ready_is_told_of() {
    let mut bench = Bench::new(u64::MAX);
    bench.program(8).unwrap();
    let Bench { build, log, .. } = bench;
    build.seal().unwrap();
    assert_eq!(
        steps(&log),
        [
            (WarmupStep::Plan, true, false),
            (WarmupStep::Compile, true, false),
            (WarmupStep::Reserve, true, true),
            (WarmupStep::Weights, true, true),
            (WarmupStep::Capture, true, false),
            (WarmupStep::Seal, true, false),
        ]
    );
    let mut bench = Bench::new(1);
    assert!(bench.program(8).is_err());
    assert_eq!(steps(&bench.log), [(WarmupStep::Plan, false, false)]);
}

#[test]
fn work_on_weights_alone_runs_once_for_all_buckets() {
    let mut bench = Bench::new(u64::MAX);
    let small = bench.program(8).unwrap();
    let plan = bench.build.plan(small);
    assert!(!plan.prelude.is_empty(), "{plan}");
    let weight_names = ["w", "w2"].map(|it| plan.input_index(it).unwrap() as u32);
    let in_run =
        plan.steps.iter().flat_map(PlanStep::reads).any(|span| {
            weight_names.iter().any(|it| span.place == calor_runtime::Place::Buffer(*it))
        });
    assert!(!in_run, "the run reads what the prelude has prepared: {plan}");
    assert_eq!(*bench.source.0.lock().unwrap(), ["w", "w2", "bias"]);

    let report = bench.build.memory();
    let matrix = (DIM * DIM * 4) as u64;
    let row = (DIM * 4) as u64;
    assert_eq!(report.weights_bytes, matrix + 2 * row, "raw weights are dropped");
    assert!(bench.allocated(Memory::Weights) > report.weights_bytes);

    bench.program(32).unwrap();
    assert_eq!(bench.source.0.lock().unwrap().len(), 3, "nothing is read twice");
    assert_eq!(bench.build.memory().weights_bytes, report.weights_bytes);
}

#[test]
fn programs_that_are_built_together_have_their_code_before_any_weights() {
    let mut bench = Bench::new(u64::MAX);
    let graphs = [8, 32, 16].map(graph);
    let lanes = [bench.lane, bench.build.lane_beside(bench.lane), bench.lane];
    let specs: Vec<JoinedSpec<'_>> = graphs
        .iter()
        .zip(lanes)
        .map(|(graph, lane)| {
            let source: Arc<dyn WeightSource> = bench.source.clone();
            let spec = ProgramSpec {
                label: "model",
                token_count_max: 8,
                sequence_count_max: 1,
                lane,
                graph,
                source: Some(source),
                choices: &RULE,
                channels: &[],
            };
            JoinedSpec { label: "model", parts: vec![PartSpec { branch: 0, spec }] }
        })
        .collect();
    let programs = bench.build.all_joined(&specs).unwrap();
    assert_eq!(programs.len(), 3);
    let events = bench.log.events();
    let last = |wanted: fn(&Event) -> bool| events.iter().rposition(wanted).unwrap();
    let first = |wanted: fn(&Event) -> bool| events.iter().position(wanted).unwrap();
    let weights = first(|it| matches!(it, Event::Allocated { purpose: Memory::Weights, .. }));
    assert!(last(|it| matches!(it, Event::Compiled { .. })) < weights);
    assert!(last(|it| matches!(it, Event::ModuleLoaded { .. })) < weights);
    assert!(last(|it| matches!(it, Event::Allocated { purpose: Memory::Arena, .. })) < weights);
    // One arena for all, as large as the largest program's.
    let arena = programs.iter().map(|it| bench.build.plan(*it).arena_bytes).max();
    assert_eq!(Some(bench.build.memory().arena_bytes), arena);
}

static RULE: LazyLock<Choices> = LazyLock::new(Choices::default);

#[test]
fn a_quota_refuses_with_numbers_and_takes_nothing() {
    let mut bench = Bench::new(10_000);
    let err = bench.program(8).unwrap_err();
    match &err {
        RuntimeError::Quota { program, wanted, left_bytes } => {
            assert_eq!((program.as_str(), *left_bytes), ("model", 10_000));
            assert!(wanted.total_bytes() > 10_000);
            assert!(wanted.weights_bytes > 0 && wanted.boundary_bytes > 0, "{wanted:?}");
        }
        other => panic!("{other}"),
    }
    assert!(err.to_string().contains("10000"), "{err}");
    assert_eq!(bench.build.memory().total_bytes(), 0);
    let counters = bench.build.counters().snapshot();
    assert_eq!(counters.get(Plain::Allocations), 0);
    assert_eq!(counters.get(Plain::Compiles), 0);
    assert!(bench.source.0.lock().unwrap().is_empty());
}

#[test]
fn a_quota_that_just_fits_is_kept() {
    let mut roomy = Bench::new(u64::MAX);
    roomy.program(8).unwrap();
    let total = roomy.build.memory().total_bytes();
    let mut tight = Bench::new(total);
    tight.program(8).unwrap();
    assert_eq!(tight.build.memory().total_bytes(), total);
    assert!(matches!(Bench::new(total - 1).program(8), Err(RuntimeError::Quota { .. })));
}

#[test]
fn states_count_towards_the_quota() {
    let mut g = Graph::new();
    let state = g.input("state", Role::State, Type::new(DType::F32, &[4096]));
    let next = g.with_number(Binary::Mul, state, 0.5).unwrap();
    g.state(state, next);
    let graph = g.check().unwrap();
    let mut bench = Bench::new(4096);
    let refused = bench.build.program(&ProgramSpec {
        label: "stateful",
        token_count_max: 1,
        sequence_count_max: 1,
        lane: bench.lane,
        graph: &graph,
        source: None,
        choices: &Choices::default(),
        channels: &[],
    });
    assert!(matches!(refused, Err(RuntimeError::Quota { .. })), "{refused:?}");
}

#[test]
fn weights_without_a_source_are_refused() {
    let mut bench = Bench::new(u64::MAX);
    let refused = bench.build.program(&ProgramSpec {
        label: "bare",
        token_count_max: 8,
        sequence_count_max: 1,
        lane: bench.lane,
        graph: &graph(8),
        source: None,
        choices: &Choices::default(),
        channels: &[],
    });
    assert!(matches!(refused, Err(RuntimeError::NoSource { .. })), "{refused:?}");
}

#[test]
fn a_sealed_session_builds_nothing() {
    let mut bench = Bench::new(u64::MAX);
    let programs = [8, 32].map(|rows| bench.program(rows).unwrap());
    let mut session = bench.build.seal().unwrap();
    let before = session.counters().snapshot();
    let memory = session.memory();
    for _ in 0..3 {
        for program in programs {
            let slot = session.plan(program).input_index("x").unwrap();
            let size = session.plan(program).buffers[slot].size_bytes() as usize;
            session.write(program, slot, &vec![0; size]).unwrap();
            session.run(program, &[3], Duration::from_secs(1)).unwrap();
            let slot = session.plan(program).output_index("y").unwrap();
            session.read(program, slot, &mut [0; 16]).unwrap();
        }
    }
    let change = session.counters().snapshot().since(&before);
    for counter in
        [Plain::Plans, Plain::Compiles, Plain::Loads, Plain::Allocations, Plain::SealedAllocations]
    {
        assert_eq!(change.get(counter), 0, "{counter:?}");
    }
    assert_eq!(change.get(Plain::Programs), 6);
    assert_eq!(session.memory(), memory);
}

#[test]
fn wrong_uses_are_refused_by_type() {
    let mut bench = Bench::new(u64::MAX);
    let program = bench.program(8).unwrap();
    let mut session = bench.build.seal().unwrap();
    let x = session.plan(program).input_index("x").unwrap();
    let raw = session.plan(program).input_index("w").unwrap();
    let wide = vec![0; 8 * DIM * 4 + 1];
    assert!(matches!(session.write(program, x, &wide), Err(RuntimeError::Size { .. })));
    assert!(matches!(session.write(program, 999, &[0]), Err(RuntimeError::NoBuffer { .. })));
    assert!(matches!(session.write(program, raw, &[0]), Err(RuntimeError::NoBuffer { .. })));
    let live = session.run(program, &[9], Duration::from_secs(1));
    assert!(matches!(live, Err(RuntimeError::Live { index: 0, got: 9, max: 8 })), "{live:?}");
}
