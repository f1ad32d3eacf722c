//! Properties of plans on graphs drawn at random.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use calor_ir::oracle;
use calor_runtime::{Capabilities, Choices, Plan, plan};
use calor_testkit::device_case::compare;
use calor_testkit::random_graph::{Numbers, random_graph};
use calor_testkit::reference::evaluated;
use calor_testkit::{Reference, check_plan};

const GENERATED: Capabilities = Capabilities { claims: &[], parallel_count: 2 };
const SEED_COUNT: u64 = 600;

/// Any order that keeps the edges, drawn at random.
fn any_order(plan: &Plan, next: &mut Numbers) -> Vec<usize> {
    let mut waits = vec![0; plan.steps.len()];
    plan.edges.iter().for_each(|(_, after)| waits[*after as usize] += 1);
    let mut ready: Vec<usize> = (0..waits.len()).filter(|at| waits[*at] == 0).collect();
    let mut order = Vec::new();
    while !ready.is_empty() {
        let at = ready.swap_remove(next.below(ready.len()));
        order.push(at);
        for (_, after) in plan.edges.iter().filter(|(before, _)| *before as usize == at) {
            waits[*after as usize] -= 1;
            if waits[*after as usize] == 0 {
                ready.push(*after as usize);
            }
        }
    }
    order
}

fn wrong(seed: u64) -> Option<String> {
    let case = random_graph(seed, 4 + (seed % 14) as usize);
    let plan = match plan(&case.graph, &GENERATED, &Choices::default()) {
        Ok(plan) => plan,
        Err(err) => return Some(err.to_string()),
    };
    let again = self::plan(&case.graph, &GENERATED, &Choices::default()).unwrap();
    if plan != again || plan.to_string() != again.to_string() {
        return Some("planned twice, two plans".into());
    }
    if let Err(err) = check_plan(&plan) {
        return Some(format!("{err}\n{plan}"));
    }
    let want = oracle::eval(&case.graph, &case.inputs).unwrap();
    let mut next = Numbers::new(seed);
    for _ in 0..3 {
        let mut reference = Reference::new(&plan);
        for ((_, input), tensor) in case.graph.graph().inputs().zip(&case.inputs) {
            reference.fill(&input.name, tensor).unwrap();
        }
        reference.prelude().unwrap();
        let order = any_order(&plan, &mut next);
        assert_eq!(order.len(), plan.steps.len(), "seed {seed}: the edges have a cycle");
        if let Err(err) = reference.run_in(&order, &[]) {
            return Some(format!("{err}\n{plan}"));
        }
        let got = evaluated(&reference, case.graph.graph()).unwrap();
        if let Err(err) = compare(&case, &got, &want) {
            return Some(format!("{err}\n{plan}"));
        }
    }
    None
}

#[test]
fn plans_equal_the_oracle_in_any_order_that_the_edges_allow() {
    let wrong = |seed| wrong(seed).map(|it| format!("seed {seed}: {it}"));
    let lines: Vec<String> = (0..SEED_COUNT).filter_map(wrong).collect();
    let first = lines.first().map_or("", String::as_str);
    assert!(lines.is_empty(), "{} graphs, first:\n{first}", lines.len());
}
