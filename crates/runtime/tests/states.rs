//! States: written in place where nobody reads the old value afterwards, else copied.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use calor_ir::{Binary, CheckedGraph, DType, Graph, Role, Tensor, Type, Unary, ValueId, oracle};
use calor_runtime::{Capabilities, Choices, Plan, PlanStep, plan};
use calor_testkit::reference::evaluated;
use calor_testkit::{Reference, agree, check_plan};

const GENERATED: Capabilities = Capabilities { claims: &[], parallel_count: 2 };

struct Case {
    g: Graph,
    inputs: Vec<Tensor>,
}

impl Case {
    fn new() -> Self {
        Self { g: Graph::new(), inputs: Vec::new() }
    }

    fn input(&mut self, name: &str, role: Role, sizes: &[usize]) -> ValueId {
        let ty = Type::new(DType::F32, sizes);
        let at = self.inputs.len() as f64;
        let numbers: Vec<f64> =
            (0..ty.shape.element_count()).map(|it| it as f64 * 0.25 + at).collect();
        self.inputs.push(Tensor::new(DType::F32, sizes, &numbers));
        self.g.input(name, role, ty)
    }

    /// Runs twice, each time as the oracle does with the states of the time before.
    #[track_caller]
    fn check(self, copy_count: usize) -> Plan {
        let graph: CheckedGraph = self.g.check().unwrap();
        let plan = plan(&graph, &GENERATED, &Choices::default()).unwrap();
        check_plan(&plan).unwrap_or_else(|err| panic!("{err}\n{plan}"));
        let mut reference = Reference::new(&plan);
        let mut inputs = self.inputs;
        for ((_, input), tensor) in graph.graph().inputs().zip(&inputs) {
            reference.fill(&input.name, tensor).unwrap();
        }
        for run in 0..2 {
            reference.run(&[]).unwrap();
            let want = oracle::eval(&graph, &inputs).unwrap();
            let got = evaluated(&reference, graph.graph()).unwrap();
            let pairs = got.outputs.iter().chain(&got.next_states);
            for (got, want) in pairs.zip(want.outputs.iter().chain(&want.next_states)) {
                agree(got, want, 1e-5).unwrap_or_else(|err| panic!("run {run}: {err}\n{plan}"));
            }
            for (state, next) in graph.graph().states().iter().zip(want.next_states) {
                let at = graph.graph().inputs().position(|(it, _)| it == state.input).unwrap();
                inputs[at] = next;
            }
        }
        let copies = plan.steps.iter().filter(|it| matches!(it, PlanStep::Copy { .. })).count();
        assert_eq!(copies, copy_count, "{plan}");
        plan
    }
}

#[test]
fn an_elementwise_update_is_in_place() {
    let mut case = Case::new();
    let gradient = case.input("gradient", Role::Data, &[5, 3]);
    let moment = case.input("moment", Role::State, &[5, 3]);
    let kept = case.g.with_number(Binary::Mul, moment, 0.5).unwrap();
    let next = case.g.add(kept, gradient).unwrap();
    case.g.state(moment, next);
    let plan = case.check(0);
    assert_eq!((plan.steps.len(), plan.arena_bytes), (1, 0), "{plan}");
}

#[test]
fn a_read_after_the_update_makes_a_copy() {
    let mut case = Case::new();
    let x = case.input("x", Role::Data, &[4]);
    let state = case.input("state", Role::State, &[4]);
    let next = case.g.add(state, x).unwrap();
    let sum = case.g.reduce(calor_ir::Fold::Sum, next, 0).unwrap();
    let sum = case.g.broadcast_to(sum, calor_ir::Shape::new(&[4])).unwrap();
    let late = case.g.mul(sum, state).unwrap();
    case.g.output("late", late);
    case.g.state(state, next);
    case.check(1);
}

#[test]
fn an_update_that_moves_elements_is_not_in_place() {
    let mut case = Case::new();
    let state = case.input("state", Role::State, &[3, 3]);
    let next = case.g.permute(state, &[1, 0]).unwrap();
    let next = case.g.unary(Unary::Neg, next).unwrap();
    case.g.state(state, next);
    case.check(1);
}

#[test]
fn states_that_change_places_keep_both_values() {
    let mut case = Case::new();
    let a = case.input("a", Role::State, &[4]);
    let b = case.input("b", Role::State, &[4]);
    case.g.state(a, b);
    case.g.state(b, a);
    case.check(3);
}

#[test]
fn an_output_is_the_old_value_of_a_state() {
    let mut case = Case::new();
    let x = case.input("x", Role::Data, &[4]);
    let state = case.input("state", Role::State, &[4]);
    let next = case.g.add(state, x).unwrap();
    case.g.output("old", state);
    case.g.state(state, next);
    case.check(2);
}

#[test]
fn an_output_may_be_the_new_value_of_a_state() {
    let mut case = Case::new();
    let x = case.input("x", Role::Data, &[4]);
    let state = case.input("state", Role::State, &[4]);
    let next = case.g.add(state, x).unwrap();
    case.g.output("new", next);
    case.g.state(state, next);
    case.check(1);
}

#[test]
fn a_state_may_take_an_input_or_stay() {
    let mut case = Case::new();
    let x = case.input("x", Role::Data, &[4]);
    let state = case.input("state", Role::State, &[4]);
    let still = case.input("still", Role::State, &[4]);
    case.g.state(state, x);
    case.g.state(still, still);
    case.check(1);
}

#[test]
fn a_scatter_into_a_state_keeps_what_it_does_not_touch() {
    let mut case = Case::new();
    let index = case.g.input("index", Role::Data, Type::new(DType::I32, &[2]));
    case.inputs.push(Tensor::new(DType::I32, &[2], &[3.0, 3.0]));
    let rows = case.input("rows", Role::Data, &[2, 2]);
    let state = case.input("state", Role::State, &[4, 2]);
    let scatter = calor_ir::Prim::ScatterAdd { axis: 0 };
    let next = case.g.prim(scatter, &[state, index, rows]).unwrap();
    case.g.state(state, next);
    case.check(1);
}
