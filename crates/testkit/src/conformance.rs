//! Every case on a device: the whole of a device crate's conformance.

use calor_device::Driver;
use calor_ir::{COMPOSITES, OpCase, primitive_cases};

use crate::contract;
use crate::device_case::{Failure, check_case};
use crate::rewrite::{expanded, gradient, with_weights};

/// A case that is known to fail on a device. It must fail: one that heals is an error too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Name of the composite, or `primitive`.
    pub op: &'static str,
    /// Name of the case; nothing for all cases of the composite.
    pub case: Option<&'static str>,
    /// Why it fails.
    pub why: &'static str,
}

/// The forms in which a case is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it stands: the device may claim its composites.
    Whole,
    /// With every composite expanded: nothing can be claimed.
    Expanded,
    /// With all tensors but the first as weights, which a device may prepare.
    Weights,
    /// The gradients of the sum of squares of its outputs.
    Gradient,
}

impl Form {
    /// Every form, in declaration order.
    pub const ALL: [Self; 4] = [Self::Whole, Self::Expanded, Self::Weights, Self::Gradient];

    /// The case in this form; nothing when it has none.
    ///
    /// # Panics
    /// When the case cannot be rewritten: then the case is wrong.
    pub fn of(self, case: &OpCase) -> Option<OpCase> {
        let wrong = |err: &dyn std::fmt::Display| -> ! { panic!("case `{}`: {err}", case.name) };
        match self {
            Self::Whole => Some(case.clone()),
            Self::Expanded => Some(expanded(case).unwrap_or_else(|err| wrong(&err))),
            Self::Weights => with_weights(case).unwrap_or_else(|err| wrong(&err)),
            Self::Gradient => gradient(case).unwrap_or_else(|err| wrong(&err)),
        }
    }
}

/// Every case with the name of its op, composites first.
pub fn all_cases() -> Vec<(&'static str, OpCase)> {
    let composites = COMPOSITES
        .iter()
        .flat_map(|composite| (composite.cases)().into_iter().map(|it| (composite.name, it)));
    let primitives = primitive_cases().into_iter().map(|it| ("primitive", it));
    composites.chain(primitives).collect()
}

/// Runs the cases in one form. Gives a line for each that fails although it should not, and for
/// each that should and does not.
pub fn failures(driver: &dyn Driver, form: Form, known: &[Known]) -> Vec<String> {
    let mut lines = Vec::new();
    for (op, case) in all_cases() {
        let Some(case_in_form) = form.of(&case) else { continue };
        let row = known.iter().find(|it| it.op == op && it.case.is_none_or(|it| it == case.name));
        let line = match (check_case(driver, op, &case_in_form), row) {
            (Ok(_), None) | (Err(_), Some(_)) => continue,
            (Err(failure), None) => line(&failure),
            (Ok(_), Some(row)) => format!("passes, although known to fail: {}", row.why),
        };
        lines.push(format!("{op}, {}, {form:?}: {line}", case.name));
    }
    lines
}

fn line(failure: &Failure) -> String {
    failure.to_string()
}

/// All of the conformance in one call, for devices that are expensive to open.
///
/// # Panics
/// When a case or a contract test fails; the message lists every case.
pub fn check_all(driver: &dyn Driver, known: &[Known]) {
    contract::check_memory(driver);
    contract::check_queue(driver);
    contract::check_live_words(driver);
    crate::check_joined(driver);
    contract::check_targets(driver);
    for form in Form::ALL {
        let lines = failures(driver, form, known);
        assert!(lines.is_empty(), "{} cases:\n{}", lines.len(), lines.join("\n"));
    }
}

/// A device crate's conformance as tests: `conformance!(DRIVER, KNOWN)`, where `DRIVER` is an
/// expression that gives a driver and `KNOWN` a slice of [`Known`] failures.
#[macro_export]
macro_rules! conformance {
    ($driver:expr, $known:expr) => {
        fn check_form(form: $crate::conformance::Form) {
            let lines = $crate::failures(&$driver, form, $known);
            assert!(lines.is_empty(), "{} cases:\n{}", lines.len(), lines.join("\n"));
        }

        #[test]
        fn cases_as_they_stand() {
            check_form($crate::conformance::Form::Whole);
        }

        #[test]
        fn cases_expanded() {
            check_form($crate::conformance::Form::Expanded);
        }

        #[test]
        fn cases_with_weights() {
            check_form($crate::conformance::Form::Weights);
        }

        #[test]
        fn gradients_of_cases() {
            check_form($crate::conformance::Form::Gradient);
        }

        #[test]
        fn memory_keeps_its_contract() {
            $crate::contract::check_memory(&$driver);
        }

        #[test]
        fn the_queue_keeps_its_contract() {
            $crate::contract::check_queue(&$driver);
        }

        #[test]
        fn live_words_follow_the_block() {
            $crate::contract::check_live_words(&$driver);
        }

        #[test]
        fn branches_run_at_once_and_meet_in_channels() {
            $crate::check_joined(&$driver);
        }

        #[test]
        fn code_for_another_target_is_refused() {
            $crate::contract::check_targets(&$driver);
        }
    };
}
