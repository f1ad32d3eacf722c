//! Programs of several parts: branches that run at once, and rows that meet in channels.

use std::sync::Arc;
use std::time::Duration;

use calor_device::Driver;
use calor_ir::{Binary, CheckedGraph, DType, Fold, Graph, Type, Unary};
use calor_runtime::{Build, Choices, Input, JoinedSpec, LaneId, PartSpec, ProgramId, ProgramSpec};
use calor_telemetry::{Counters, Null};

const DEADLINE: Duration = Duration::from_secs(60);
/// Rows of every part.
const ROWS: usize = 96;
/// Columns: enough that a row does not fit a single step.
const COLUMNS: usize = 640;

/// A chain of `depth` normalisations of `x`, each a step of its own, left in the output `y`.
fn chain(depth: usize) -> CheckedGraph {
    let mut g = Graph::new();
    let mut x = g.live_input("x", 0, Type::new(DType::F32, &[ROWS, COLUMNS]));
    for at in 0..depth {
        let square = ok(g.binary(Binary::Mul, x, x));
        let sum = ok(g.reduce_rows(Fold::Sum, square));
        let root = ok(g.unary(Unary::Sqrt, sum));
        let scaled = ok(g.binary(Binary::Div, x, root));
        let bias = ok(g.scalar(DType::F32, 0.25 + at as f64));
        x = ok(g.add(scaled, bias));
    }
    g.output("y", x);
    ok(g.check())
}

/// `a + 2 b + c`, where `a` and `b` come from other parts.
fn meeting() -> CheckedGraph {
    let mut g = Graph::new();
    let ty = Type::new(DType::F32, &[ROWS, COLUMNS]);
    let [a, b, c] = ["a", "b", "c"].map(|name| g.live_input(name, 0, ty));
    let twice = ok(g.with_number(Binary::Mul, b, 2.0));
    let sum = ok(g.add(a, twice));
    let sum = ok(g.add(sum, c));
    g.output("sum", sum);
    ok(g.check())
}

#[track_caller]
fn ok<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|err| panic!("{err:?}"))
}

struct Bench {
    build: Build,
    lane: LaneId,
    graphs: [CheckedGraph; 3],
}

impl Bench {
    fn new(driver: &dyn Driver) -> Self {
        let device = ok(driver.open(0));
        let mut build = Build::new(device, u64::MAX, Arc::new(Counters::new()), Arc::new(Null));
        let lane = build.lane();
        Self { build, lane, graphs: [chain(9), chain(4), meeting()] }
    }

    fn spec<'a>(
        lane: LaneId,
        graph: &'a CheckedGraph,
        channels: &'a [(&'a str, calor_runtime::ChannelId)],
    ) -> ProgramSpec<'a> {
        static RULE: std::sync::LazyLock<Choices> = std::sync::LazyLock::new(Choices::default);
        ProgramSpec {
            label: "part",
            token_count_max: ROWS as u32,
            sequence_count_max: ROWS as u32,
            lane,
            graph,
            source: None,
            choices: &RULE,
            channels,
        }
    }

    /// What the three graphs make of their inputs one by one, through the host.
    fn apart(&mut self, inputs: &[Vec<f32>; 3], live: [u32; 3]) -> Vec<f32> {
        let Self { build, lane, graphs } = self;
        let programs = graphs.each_ref().map(|it| ok(build.program(&Self::spec(*lane, it, &[]))));
        let mut rows = Vec::new();
        for at in 0..2 {
            rows.push(run(build, programs[at], &[("x", &inputs[at])], live[at], "y"));
        }
        let given = [("a", &rows[0]), ("b", &rows[1]), ("c", &inputs[2])];
        let sum = run(build, programs[2], &given, live[2], "sum");
        programs.into_iter().for_each(|it| ok(build.remove(it)));
        sum
    }
}

fn run(
    build: &mut Build,
    program: ProgramId,
    inputs: &[(&str, &Vec<f32>)],
    live: u32,
    output: &str,
) -> Vec<f32> {
    for (name, values) in inputs {
        let slot = build.plan(program).input_index(name).expect("an input");
        ok(build.write(program, slot, bytemuck::cast_slice(values.as_slice())));
    }
    ok(build.run(program, &[live], DEADLINE));
    let slot = build.plan(program).output_index(output).expect("an output");
    let mut out = vec![0.0_f32; ROWS * COLUMNS];
    ok(build.read(program, slot, bytemuck::cast_slice_mut(&mut out)));
    out
}

fn numbers(seed: usize) -> Vec<f32> {
    let number = |at: usize| ((at * 7919 + seed * 104_729) % 1009) as f32 / 1009.0 + 0.1;
    (0..ROWS * COLUMNS).map(number).collect()
}

/// Parts in branches give what they give one by one, in every run, with live counts of their own;
/// runs that are started behind each other end in order.
///
/// # Panics
/// When they do not.
pub fn check_joined(driver: &dyn Driver) {
    let mut bench = Bench::new(driver);
    let bytes = (ROWS * COLUMNS * 4) as u64;
    let (a, b) = (ok(bench.build.channel(bytes)), ok(bench.build.channel(bytes)));
    let inputs: Vec<[Vec<f32>; 3]> =
        (0..3).map(|round| [0, 1, 2].map(|part| numbers(3 * round + part))).collect();
    let lives = [[96, 96, 96], [96, 17, 17], [40, 96, 33]];
    let wanted: Vec<Vec<f32>> =
        inputs.iter().zip(lives).map(|(inputs, live)| bench.apart(inputs, live)).collect();
    for branches in [[0, 1, 0], [0, 1, 1], [0, 1, 2], [0, 0, 0]] {
        let Bench { build, lane, graphs } = &mut bench;
        let channels: [&[_]; 3] = [&[("y", a)], &[("y", b)], &[("a", a), ("b", b)]];
        let parts: Vec<PartSpec<'_>> = (0..3)
            .map(|at| PartSpec {
                branch: branches[at],
                spec: Bench::spec(*lane, &graphs[at], channels[at]),
            })
            .collect();
        let program = ok(build.joined(&JoinedSpec { label: "three parts", parts }));
        let slot = |part: usize, name: &str| {
            build.part_plan(program, part).input_index(name).expect("an input")
        };
        let slots = [slot(0, "x"), slot(1, "x"), slot(2, "c")];
        let sum = build.part_plan(program, 2).output_index("sum").expect("an output");
        for _ in 0..20 {
            for round in 0..3 {
                let given: Vec<Input<'_>> = (0..3)
                    .map(|part| Input {
                        part,
                        slot: slots[part],
                        bytes: bytemuck::cast_slice(inputs[round][part].as_slice()),
                    })
                    .collect();
                let live = lives[round];
                let counts = live.each_ref().map(std::slice::from_ref);
                // Twice behind each other, with one wait for each.
                let first = ok(build.start(program, &given, &counts));
                let second = ok(build.start(program, &given, &counts));
                ok(build.finish(first, DEADLINE));
                ok(build.finish(second, DEADLINE));
                let mut out = vec![0.0_f32; ROWS * COLUMNS];
                ok(build.read_part(program, 2, sum, bytemuck::cast_slice_mut(&mut out)));
                // Rows past the live ones hold whatever was there.
                let cut = live[2] as usize * COLUMNS;
                assert!(out[..cut] == wanted[round][..cut], "branches {branches:?}, {round}");
            }
        }
        ok(build.remove(program));
    }
    ok(bench.build.remove_channel(a));
    ok(bench.build.remove_channel(b));
    assert_eq!(bench.build.memory().total_bytes(), 0);
}
