//! The gradient of every case against central differences of the oracle.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use calor_ir::composite::COMPOSITES;
use calor_ir::composite::activation::Activation;
use calor_ir::composite::sort::SORT;
use calor_ir::oracle::{Tensor, eval};
use calor_ir::{
    Attrs, Binary, CheckedGraph, DType, Fold, GradError, Graph, Literal, OpCase, Prim, Role, Type,
    Unary, ValueId, derivative, nn, primitive_cases,
};

/// One loss for all float outputs: each element times a weight of its own.
fn with_loss(case: &OpCase) -> Option<CheckedGraph> {
    let mut graph: Graph = case.graph.graph().clone();
    let ends: Vec<ValueId> = graph.outputs().iter().map(|it| it.value).collect();
    let mut loss = graph.scalar(DType::F64, 0.0).unwrap();
    let mut float_count = 0;
    for value in ends {
        let ty = graph.ty(value);
        if !matches!(ty.dtype, DType::F32 | DType::F64) {
            continue;
        }
        float_count += 1;
        let count = ty.shape.element_count();
        let wide = graph.cast(value, DType::F64).unwrap();
        let flat = graph.reshape(wide, &[count]).unwrap();
        let values = (0..count).map(|it| ((it * 7 + 3) % 11) as f64 / 5.0 - 0.9).collect();
        let shape = graph.shape(flat);
        let literal = Literal { dtype: DType::F64, shape, values };
        if count > 0 {
            let weights = graph.prim(Prim::Constant(literal), &[]).unwrap();
            let weighted = graph.binary(Binary::Mul, flat, weights).unwrap();
            let sum = graph.reduce(Fold::Sum, weighted, 0).unwrap();
            loss = graph.add(loss, sum).unwrap();
        }
    }
    graph.output("loss", loss);
    (float_count > 0).then(|| graph.check().unwrap())
}

fn loss_of(graph: &CheckedGraph, inputs: &[Tensor]) -> f64 {
    eval(graph, inputs).unwrap().outputs.last().unwrap().data[0]
}

fn check(owner: &str, case: &OpCase) {
    let Some(graph) = with_loss(case) else { return };
    let names: Vec<&str> = case.differentiable.iter().map(String::as_str).collect();
    if names.is_empty() {
        return;
    }
    let place = format!("{owner}, {}", case.name);
    let gradient =
        derivative(&graph, "loss", &names).unwrap_or_else(|err| panic!("{place}: {err}"));
    let found = eval(&gradient, &case.inputs).unwrap().outputs;
    assert!((found[0].data[0] - loss_of(&graph, &case.inputs)).abs() < 1e-9, "{place}: the loss");
    for (name, found) in names.iter().zip(&found[1..]) {
        let at = graph.graph().inputs().position(|(_, it)| it.name == *name).unwrap();
        assert_eq!(found.ty, case.inputs[at].ty, "{place}: type for `{name}`");
        let count = found.data.len();
        // Large inputs are sampled; the stride is odd, so no row or column is left out.
        for element in (0..count).step_by(if 200 < count { 17 } else { 1 }) {
            let mut inputs = case.inputs.clone();
            let x = inputs[at].data[element];
            let step = 1e-6 * x.abs().max(1.0);
            inputs[at].data[element] = x + step;
            let above = loss_of(&graph, &inputs);
            inputs[at].data[element] = x - step;
            let below = loss_of(&graph, &inputs);
            let want = (above - below) / (2.0 * step);
            let got = found.data[element];
            let error = (got - want).abs();
            assert!(
                error <= 1e-6 + 1e-5 * want.abs(),
                "{place}: d `{name}`[{element}] {got} {want}"
            );
        }
    }
}

#[test]
fn of_every_primitive() {
    for case in primitive_cases() {
        check("primitive", &case);
    }
}

#[test]
fn of_every_composite() {
    for composite in COMPOSITES {
        for case in (composite.cases)() {
            check(composite.name, &case);
        }
    }
}

/// The gradient in `x` of the sum of what `build` makes of it.
#[track_caller]
fn check_choice(x: &[f64], build: fn(&mut Graph, ValueId) -> nn::Layer, want: &[f64]) {
    let mut graph = Graph::new();
    let input = graph.input("x", Role::Data, Type::new(DType::F32, &[x.len()]));
    let value = build(&mut graph, input).unwrap();
    let loss = graph.reduce(Fold::Sum, value, 0).unwrap();
    graph.output("loss", loss);
    let gradient = derivative(&graph.check().unwrap(), "loss", &["x"]).unwrap();
    let found = eval(&gradient, &[Tensor::new(DType::F32, &[x.len()], x)]).unwrap();
    for (want, got) in want.iter().zip(&found.outputs[1].data) {
        assert!((want - got).abs() < 1e-12, "{want} {got}");
    }
}

#[test]
fn choices_where_there_is_no_derivative() {
    check_choice(&[2.0, 5.0, 5.0], |g, x| g.reduce_rows(Fold::Max, x), &[0.0, 0.5, 0.5]);
    check_choice(&[2.0, 5.0, 2.0], |g, x| g.reduce_rows(Fold::Min, x), &[0.5, 0.0, 0.5]);
    check_choice(&[0.0, 1.0], |g, x| g.with_number(Binary::Max, x, 0.0), &[1.0, 1.0]);
    check_choice(&[0.0, 1.0], |g, x| nn::activate(g, x, Activation::Relu), &[0.0, 1.0]);
    check_choice(&[0.0, -2.0], |g, x| g.unary(Unary::Abs, x), &[0.0, -1.0]);
    check_choice(&[0.0, 0.0], |g, x| nn::l2_normalize(g, x, 0.5), &[2.0, 2.0]);
    // Extremes stay finite.
    check_choice(&[-1e4, 1e4], |g, x| nn::activate(g, x, Activation::Silu), &[0.0, 1.0]);
    check_choice(&[3.0], |g, x| g.unary(Unary::Floor, x), &[0.0]);
}

#[test]
fn what_has_no_derivative_is_refused() {
    let mut graph = Graph::new();
    let x = graph.input("x", Role::Data, Type::new(DType::F32, &[3]));
    let ids = graph.input("ids", Role::Data, Type::new(DType::I32, &[3]));
    let sorted = graph.call(&SORT, Attrs::NONE, &[x]).unwrap();
    let loss = graph.reduce(Fold::Sum, sorted, 0).unwrap();
    graph.output("loss", loss);
    graph.output("rows", sorted);
    graph.output("ids", ids);
    let graph = graph.check().unwrap();
    let refused = |loss: &str, wrt: &str| derivative(&graph, loss, &[wrt]).unwrap_err();
    assert_eq!(refused("loss", "x"), GradError::Composite { op: "sort" });
    assert!(matches!(refused("rows", "x"), GradError::Loss { .. }));
    assert!(matches!(refused("loss", "ids"), GradError::NotFloat { .. }));
    assert!(matches!(refused("lost", "x"), GradError::NoOutput { .. }));
    assert!(matches!(refused("loss", "y"), GradError::NoInput { .. }));
}
