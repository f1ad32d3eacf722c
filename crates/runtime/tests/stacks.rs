//! Plans of encoder stacks at real sizes: how much memory, how many kernels, how long.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use calor_device::null::NullDriver;
use calor_device::{Claim, Driver};
use calor_runtime::{Capabilities, Choices, Plan, plan};
use calor_telemetry::Stopwatch;
use calor_testkit::check_plan;
use calor_testkit::stacks::{Family, Stack};

fn planned(stack: &Stack, claims: &'static [Claim]) -> Plan {
    let capabilities = Capabilities { claims, parallel_count: 8 };
    plan(&stack.graph().unwrap(), &capabilities, &Choices::default()).unwrap()
}

#[test]
fn the_arena_is_hardly_larger_than_what_is_alive() {
    for family in Family::ALL {
        let plan = planned(&Stack::real(family), &[]);
        let (arena, peak) = (plan.arena_bytes, plan.peak_live_bytes);
        assert!(arena <= peak + peak / 10, "{family:?}: {arena} bytes for {peak}");
    }
}

#[test]
fn plans_of_stacks_are_valid() {
    for family in Family::ALL {
        let stack = Stack { layer_count: 2, ..Stack::real(family) };
        let plan = planned(&stack, &[]);
        check_plan(&plan).unwrap_or_else(|err| panic!("{family:?}: {err}\n{plan}"));
    }
}

#[test]
fn planning_takes_milliseconds() {
    for family in Family::ALL {
        let graph = Stack::real(family).graph().unwrap();
        let capabilities = Capabilities { claims: &[], parallel_count: 8 };
        let watch = Stopwatch::start();
        let plan = plan(&graph, &capabilities, &Choices::default()).unwrap();
        let took_ms = watch.elapsed_ns() / 1_000_000;
        println!("{family:?}: {took_ms} ms, {} steps", plan.steps.len());
        // Generous: tests run without optimisation beside other tests.
        assert!(took_ms < 5000, "{family:?}: {took_ms} ms for {} steps", plan.steps.len());
    }
}

#[test]
fn the_null_device_opens_with_any_claims() {
    let driver = NullDriver { claims: &[], memory_bytes: 1 };
    assert_eq!(driver.open(0).unwrap().signature.kind, "null");
}

#[test]
fn wide_copies_of_narrow_weights_are_not_kept() {
    use calor_ir::composite::activation::Activation;
    use calor_ir::{DType, Graph, Role, Type, nn};

    let mut g = Graph::new();
    let x = g.input("x", Role::Data, Type::new(DType::BF16, &[32, 64]));
    let w = g.input("w", Role::Weight, Type::new(DType::BF16, &[48, 64]));
    let y = nn::linear(&mut g, x, w, None, Activation::None).unwrap();
    g.output("y", y);
    let capabilities = Capabilities { claims: &[], parallel_count: 8 };
    let plan = plan(&g.check().unwrap(), &capabilities, &Choices::default()).unwrap();
    assert!(plan.prelude.is_empty(), "{plan}");
}

#[test]
fn an_activation_before_a_contraction_runs_once() {
    use calor_ir::{DType, Graph, Role, Type, Unary};

    let mut g = Graph::new();
    let x = g.input("x", Role::Data, Type::new(DType::F32, &[32, 64]));
    let w = g.input("w", Role::Weight, Type::new(DType::F32, &[48, 64]));
    let bent = g.unary(Unary::Tanh, x).unwrap();
    let y = g.dot_rows(bent, w).unwrap();
    g.output("y", y);
    let capabilities = Capabilities { claims: &[], parallel_count: 8 };
    let plan = plan(&g.check().unwrap(), &capabilities, &Choices::default()).unwrap();
    assert_eq!(plan.steps.len(), 2, "{plan}");
}
