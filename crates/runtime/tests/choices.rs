//! Choices go into a plan as inputs; what was not chosen is listed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use calor_ir::{CheckedGraph, DType, Fold, Graph, Role, Tensor, Type, oracle};
use calor_runtime::{Capabilities, Choices, plan};
use calor_testkit::{agree, run_on_interpreter};

const GENERATED: Capabilities = Capabilities { claims: &[], parallel_count: 2 };
const KEY: &str = "fold 8192x1 chunks";

fn long_sum() -> CheckedGraph {
    let mut g = Graph::new();
    let x = g.input("x", Role::Data, Type::new(DType::F32, &[8192]));
    let sum = g.reduce(Fold::Sum, x, 0).unwrap();
    g.output("sum", sum);
    g.check().unwrap()
}

fn chosen(chunks: i64) -> Choices {
    Choices([(KEY.to_owned(), chunks)].into())
}

#[test]
fn a_choice_changes_the_plan_and_its_digest() {
    let graph = long_sum();
    let numbers: Vec<f64> = (0..8192).map(|it| f64::from(it % 17) - 8.0).collect();
    let inputs = [Tensor::new(DType::F32, &[8192], &numbers)];
    let want = oracle::eval(&graph, &inputs).unwrap();
    let mut digests = Vec::new();
    for chunks in [1, 4, 64] {
        let plan = plan(&graph, &GENERATED, &chosen(chunks)).unwrap();
        assert_eq!(plan.steps.len(), if chunks == 1 { 1 } else { 2 }, "{plan}");
        assert!(plan.defaults.0.is_empty(), "nothing was left to the rule: {plan}");
        let got = run_on_interpreter(&plan, graph.graph(), &inputs).unwrap();
        agree(&got.outputs[0], &want.outputs[0], 1e-4).unwrap();
        digests.extend([plan.digest(), chosen(chunks).digest()]);
    }
    digests.sort_unstable_by_key(|it| it.0);
    digests.dedup();
    assert_eq!(digests.len(), 6);
}

#[test]
fn a_missing_choice_is_made_by_rule_and_listed() {
    let graph = long_sum();
    let by_rule = plan(&graph, &GENERATED, &Choices::default()).unwrap();
    assert_eq!(by_rule.defaults.0.keys().collect::<Vec<_>>(), [KEY]);
    let mut again = plan(&graph, &GENERATED, &by_rule.defaults).unwrap();
    assert!(again.defaults.0.is_empty());
    again.defaults = by_rule.defaults.clone();
    assert_eq!(again, by_rule, "the rule's choice, made by hand, is the same plan");
}

#[test]
fn a_choice_that_does_not_fit_is_not_taken() {
    let plan = plan(&long_sum(), &GENERATED, &chosen(7)).unwrap();
    assert_eq!(plan.steps.len(), 1, "{plan}");
}
