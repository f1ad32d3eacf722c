//! What the processor's claims make of encoder stacks. Snapshots are rewritten by `UPDATE=1`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod null;

use std::path::Path;
use std::sync::Arc;

use calor_device_cpu::CLAIMS;
use calor_ir::{COMPOSITES, CheckedGraph, Op, Role};
use calor_kernel::{Call, Unit};
use calor_runtime::{Capabilities, Choices, Plan, PlanStep, RuntimeError, plan};
use calor_telemetry::Counters;
use calor_testkit::check_plan;
use calor_testkit::conformance::all_cases;
use calor_testkit::stacks::{Family, Stack};

const PROCESSOR: Capabilities = Capabilities { claims: CLAIMS, parallel_count: 8 };

fn planned(stack: &Stack) -> Plan {
    plan(&stack.graph().unwrap(), &PROCESSOR, &Choices::default()).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "UPDATE=1 rewrites what a test compares with")]
fn is_update() -> bool {
    std::env::var_os("UPDATE").is_some()
}

#[track_caller]
fn check_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if is_update() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(want == text, "{} differs; UPDATE=1 rewrites it:\n{text}", path.display());
}

fn one_layer(family: Family) -> Stack {
    Stack { layer_count: 1, token_count_max: 128, sequence_count_max: 16, ..Stack::real(family) }
}

#[test]
fn plans_of_one_layer_are_as_written() {
    for family in Family::ALL {
        let plan = planned(&one_layer(family));
        check_plan(&plan).unwrap_or_else(|err| panic!("{family:?}: {err}\n{plan}"));
        check_golden(&format!("{family:?}.txt").to_lowercase(), &plan.to_string());
    }
}

/// Steps that are neither products nor attention.
fn small_steps(plan: &Plan) -> usize {
    let is_large = |unit: &Unit| match unit {
        Unit::Call(Call::Gemm { .. }) => true,
        Unit::Source(source) => source.name.contains("attention"),
        Unit::Call(Call::Pack { .. }) | Unit::Loop(_) => false,
    };
    let is_small = |step: &&PlanStep| match step {
        PlanStep::Run { unit, .. } => !is_large(&plan.units[*unit as usize]),
        PlanStep::Copy { .. } => true,
    };
    plan.steps.iter().filter(is_small).count()
}

#[test]
fn a_bert_layer_has_few_kernels_beside_products_and_attention() {
    let stack = Stack { layer_count: 3, ..Stack::real(Family::Bert) };
    let more = Stack { layer_count: 4, ..stack };
    let (fewer, more) = (planned(&stack), planned(&more));
    let per_layer = small_steps(&more) - small_steps(&fewer);
    assert!(per_layer <= 4, "{per_layer} in a layer:\n{more}");
    assert!(more.steps.len() - fewer.steps.len() <= 11, "{more}");
}

#[test]
fn bert_misses_no_claim() {
    let graph = Stack::small(Family::Bert).graph().unwrap();
    let plan = plan(&graph, &PROCESSOR, &Choices::default()).unwrap();
    let wanted = graph.graph().nodes().iter().filter_map(|node| match &node.op {
        Op::Composite(composite, _) => Some(*composite),
        Op::Input(_) | Op::Prim(_) => None,
    });
    let claimed = wanted.filter(|it| CLAIMS.iter().any(|claim| claim.composite.is(it))).count();
    let taken = plan
        .steps
        .iter()
        .filter(|step| match step {
            PlanStep::Run { unit, .. } => match plan.units[*unit as usize] {
                Unit::Call(_) | Unit::Source(_) => true,
                Unit::Loop(_) => false,
            },
            PlanStep::Copy { .. } => false,
        })
        .count();
    assert!(claimed > 0);
    assert!(claimed <= taken, "{claimed} claims, {taken} taken:\n{plan}");
}

#[test]
fn the_arena_is_hardly_larger_than_what_is_alive() {
    for family in Family::ALL {
        let plan = planned(&Stack::real(family));
        let (arena, peak) = (plan.arena_bytes, plan.peak_live_bytes);
        assert!(arena <= peak + peak / 10, "{family:?}: {arena} bytes for {peak}");
    }
}

fn prepare(
    graph: &CheckedGraph,
    claims: &'static [calor_device::Claim],
) -> Result<(), RuntimeError> {
    let mut build = null::build(claims, 1 << 40, Arc::new(Counters::new()))?;
    let lane = build.lane();
    null::program(&mut build, lane, graph, [u32::MAX; 2])?;
    build.seal().map(|_| ())
}

#[test]
fn the_null_device_prepares_every_plan() {
    for claims in [&[], CLAIMS] {
        for (op, case) in all_cases() {
            let opaque = COMPOSITES
                .iter()
                .any(|it| it.name == op && matches!(it.meaning, calor_ir::Meaning::Opaque { .. }));
            let prepared = prepare(&case.graph, claims);
            assert_eq!(prepared.is_err(), opaque, "{op}, {}: {prepared:?}", case.name);
        }
        for family in Family::ALL {
            let graph = Stack::small(family).graph().unwrap();
            assert!(graph.graph().inputs().any(|(_, it)| it.role == Role::Weight));
            prepare(&graph, claims).unwrap_or_else(|err| panic!("{family:?}: {err}"));
        }
    }
}

#[test]
fn planning_with_claims_takes_milliseconds() {
    for family in Family::ALL {
        let stack = Stack::real(family);
        let graph = stack.graph().unwrap();
        let watch = calor_telemetry::Stopwatch::start();
        let plan = plan(&graph, &PROCESSOR, &Choices::default()).unwrap();
        let took_ms = watch.elapsed_ns() / 1_000_000;
        println!("{family:?}: {took_ms} ms, {} steps", plan.steps.len());
        // Generous: tests run without optimisation beside other tests.
        assert!(took_ms < 2000, "{family:?}: {took_ms} ms for {} steps", plan.steps.len());
    }
}
