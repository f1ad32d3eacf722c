//! Every op case, planned without claims, gives the oracle's numbers on the reference interpreter.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use calor_ir::{OpCase, oracle};
use calor_runtime::{Capabilities, Choices, PlanError, plan};
use calor_testkit::conformance::{Form, all_cases};
use calor_testkit::device_case::compare;
use calor_testkit::{check_plan, run_on_interpreter};

const GENERATED: Capabilities = Capabilities { claims: &[], parallel_count: 2 };

/// What is wrong with the plan of a case, if anything is.
fn wrong(case: &OpCase) -> Option<String> {
    let plan = match plan(&case.graph, &GENERATED, &Choices::default()) {
        Ok(plan) => plan,
        Err(PlanError::Opaque { .. }) => return None,
        Err(err) => return Some(err.to_string()),
    };
    if let Err(err) = check_plan(&plan) {
        return Some(format!("{err}\n{plan}"));
    }
    let want = oracle::eval(&case.graph, &case.inputs).unwrap();
    let got = match run_on_interpreter(&plan, case.graph.graph(), &case.inputs) {
        Ok(got) => got,
        Err(err) => return Some(format!("{err}\n{plan}")),
    };
    compare(case, &got, &want).err().map(|err| err.to_string())
}

fn check(form: Form) {
    let mut lines = Vec::new();
    for (op, case) in all_cases() {
        let Some(case) = form.of(&case) else { continue };
        lines.extend(wrong(&case).map(|it| format!("{op}, {}: {it}", case.name)));
    }
    assert!(lines.is_empty(), "{} cases:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn cases_equal_the_oracle() {
    check(Form::Whole);
}

#[test]
fn expanded_cases_equal_the_oracle() {
    check(Form::Expanded);
}

#[test]
fn cases_with_weights_equal_the_oracle() {
    check(Form::Weights);
}

#[test]
fn gradients_equal_the_oracle() {
    check(Form::Gradient);
}
