//! The processor's conformance: every case, one thread and two, every level of instructions.

use calor_device::Driver;
use calor_device_cpu::{CLAIMS, CpuDriver, Level};
use calor_ir::COMPOSITES;
use calor_testkit::conformance::{Form, all_cases};
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
