//! The processor's conformance: every case, one thread and two, every level of instructions.

use calor_device::Driver;
use calor_device_cpu::{CLAIMS, CpuDriver, Level, native_name};
use calor_ir::COMPOSITES;
use calor_kernel::{Template, Unit};
use calor_runtime::{Capabilities, Choices, plan};
use calor_testkit::conformance::{Form, all_cases};
use calor_testkit::stacks::{Family, Stack};
use calor_testkit::{Known, check_case, conformance};

const MEMORY_BYTES: u64 = 1 << 30;

fn driver(threads: usize, level: Option<Level>) -> CpuDriver {
    CpuDriver { threads, level, memory_bytes: Some(MEMORY_BYTES), profile: None }
}

/// Cases that the processor does not do.
const KNOWN: &[Known] = &[Known { op: "sort", case: None, why: "the processor claims no sort" }];

mod one_thread {
    use super::*;
    conformance!(driver(1, None), KNOWN);
}

mod two_threads {
    use super::*;
    conformance!(driver(2, None), KNOWN);
}

#[test]
fn every_level_of_instructions_passes() {
    for level in Level::available() {
        let lines = calor_testkit::failures(&driver(2, Some(level)), Form::Whole, KNOWN);
        assert!(lines.is_empty(), "{level:?}: {} cases:\n{}", lines.len(), lines.join("\n"));
    }
}

#[test]
fn threads_change_no_bit() {
    for (op, case) in all_cases() {
        let results = [1, 2].map(|threads| check_case(&driver(threads, None), op, &case));
        let [Ok(one), Ok(two)] = results else { continue };
        let bytes = |it: &calor_testkit::Checked| {
            it.results.outputs.iter().map(|it| it.to_bytes()).collect::<Vec<_>>()
        };
        // Chunks of long folds follow the number of threads; every other plan is the same.
        if one.plan == two.plan {
            assert_eq!(bytes(&one), bytes(&two), "{op}, {}", case.name);
        }
    }
}

#[test]
fn claims_are_composites_of_the_table() {
    for claim in CLAIMS {
        assert!(COMPOSITES.iter().any(|it| it.is(claim.composite)), "{}", claim.composite.name);
    }
    assert_eq!(driver(1, None).open(0).map(|it| it.claims.len()).ok(), Some(CLAIMS.len()));
}

#[test]
fn no_norm_of_a_model_misses_its_native_kernel() {
    for family in Family::ALL {
        let capabilities = Capabilities { claims: CLAIMS, parallel_count: 2 };
        let graph = Stack::real(family).graph().unwrap();
        let plan = plan(&graph, &capabilities, &Choices::default()).unwrap();
        let rows = plan.units.iter().filter_map(|unit| match unit {
            Unit::Loop(program) if program.template() == Template::Row => Some(program),
            Unit::Loop(_) | Unit::Source(_) | Unit::Call(_) => None,
        });
        let missed: Vec<_> = rows.clone().filter(|it| native_name(it).is_none()).collect();
        assert!(missed.is_empty(), "{family:?}: {missed:#?}");
        assert!(rows.count() > 0, "{family:?} has no norm");
    }
}
