//! The gradient of every case against central differences of the oracle.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use calor_ir::composite::COMPOSITES;
use calor_ir::oracle::{Tensor, eval};
use calor_ir::{
    Binary, CheckedGraph, DType, Fold, Graph, Literal, OpCase, Prim, ValueId, derivative,
    primitive_cases,
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
