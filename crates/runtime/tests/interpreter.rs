//! Every op case, planned without claims, gives the oracle's numbers on the reference interpreter.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use calor_ir::{
    Binary, CaseBuilder, DType, DotDims, Fold, Graph, GraphError, OpCase, ValueId, oracle,
};
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

/// A row that a fold finds, of a product whose sum is as long as that fold: the two share the step
/// loop, so the row's number has to be stored between them.
#[test]
fn a_row_that_a_fold_finds_is_stored_before_its_product() {
    let mut case = CaseBuilder::new("found row of a product").tolerance(1e-4);
    let x = case.random("x", DType::F32, &[8, 8]);
    let w = case.random("w", DType::F32, &[5, 8]);
    let marks = case.indices("marks", &[7, 3, 9, 2, 6, 5, 8, 4]);
    let row = found_row(&mut case.graph, [x, w, marks]);
    let case = case.finish(row.map(|it| vec![it]));
    assert_eq!(wrong(&case), None);
}

fn found_row(g: &mut Graph, [x, w, marks]: [ValueId; 3]) -> Result<ValueId, GraphError> {
    let dims = DotDims { batch: vec![], contract: vec![(1, 1)], out: DType::F32 };
    let rows = g.dot(x, w, dims)?;
    let least = g.iota(DType::I32, &[2, 8], 0)?;
    let least = g.with_number(Binary::Add, least, 2.0)?;
    let marks = g.reshape(marks, &[1, 8])?;
    let marks = g.binary(Binary::Max, marks, least)?;
    let row = g.reduce(Fold::Min, marks, 1)?;
    g.gather(rows, 0, row)
}
