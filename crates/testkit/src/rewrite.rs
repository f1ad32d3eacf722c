//! The same case in another form: expanded, or with weights instead of data.

use std::collections::HashSet;

use calor_ir::{
    CheckedGraph, DType, Graph, GraphError, Input, Op, OpCase, Role, Tensor, ValueId, dedupe,
    derivative, expand_all,
};

/// The case with every composite expanded that has an expansion.
///
/// # Errors
/// When an expansion does not build.
pub fn expanded(case: &OpCase) -> Result<OpCase, GraphError> {
    let graph = expand_all(case.graph.graph(), &mut |_, _| false)?.graph;
    Ok(OpCase { graph: graph.check()?, ..case.clone() })
}

/// The case with all its `f32` inputs of at least one dimension but the first as weights.
///
/// Nothing when there is none.
///
/// # Errors
/// When the graph does not build again.
pub fn with_weights(case: &OpCase) -> Result<Option<OpCase>, GraphError> {
    let graph = case.graph.graph();
    let is_weight = |(value, _): &(ValueId, &Input)| {
        let ty = graph.ty(*value);
        ty.dtype == DType::F32 && ty.shape.rank() > 0
    };
    let names: HashSet<String> =
        graph.inputs().skip(1).filter(is_weight).map(|(_, it)| it.name.clone()).collect();
    if names.is_empty() {
        return Ok(None);
    }
    let graph = with_inputs(graph, |input| match names.contains(&input.name) {
        true => Input { role: Role::Weight, ..input.clone() },
        false => input.clone(),
    })?;
    Ok(Some(OpCase { graph, ..case.clone() }))
}

/// The graph with its inputs described anew.
///
/// # Errors
/// When the graph does not build again.
pub fn with_inputs(
    graph: &Graph,
    describe: impl Fn(&Input) -> Input,
) -> Result<CheckedGraph, GraphError> {
    let mut out = Graph::new();
    let mut values: Vec<ValueId> = Vec::with_capacity(graph.value_count());
    for node in graph.nodes() {
        let inputs: Vec<ValueId> = node.inputs.iter().map(|it| values[it.index()]).collect();
        out.set_segment(node.segment);
        match &node.op {
            Op::Input(input) => {
                values.push(out.push_input(describe(input), graph.ty(node.result())));
            }
            Op::Prim(prim) => values.push(out.prim(prim.clone(), &inputs)?),
            Op::Composite(composite, attrs) => {
                values.extend(out.composite(composite, attrs.clone(), &inputs)?);
            }
        }
    }
    for output in graph.outputs() {
        out.output(&output.name, values[output.value.index()]);
    }
    for state in graph.states() {
        out.state(values[state.input.index()], values[state.next.index()]);
    }
    out.check()
}

/// The case of the gradients of the sum of squares of all float outputs; nothing where the case
/// is not differentiable.
///
/// # Errors
/// When the derivative does not build although the case says it exists.
pub fn gradient(case: &OpCase) -> Result<Option<OpCase>, calor_ir::GradError> {
    if case.differentiable.is_empty() {
        return Ok(None);
    }
    let mut graph = case.graph.graph().clone();
    let mut loss = graph.scalar(DType::F32, 0.0)?;
    let outputs = graph.outputs().iter().map(|it| it.value);
    let outputs: Vec<ValueId> = outputs.filter(|it| graph.ty(*it).dtype.is_float()).collect();
    for value in outputs {
        let value = graph.cast(value, DType::F32)?;
        let square = graph.mul(value, value)?;
        let count = graph.shape(square).element_count();
        let flat = graph.reshape(square, &[count])?;
        let sum = graph.reduce(calor_ir::Fold::Sum, flat, 0)?;
        loss = graph.add(loss, sum)?;
    }
    graph.clear_outputs();
    graph.output("loss", loss);
    let wrt: Vec<&str> = case.differentiable.iter().map(String::as_str).collect();
    let graph = derivative(&dedupe(&graph).graph.check()?, "loss", &wrt)?;
    // A loss sums over many squares, so it is known less well than one element.
    let (name, tolerance) = (format!("{}, gradient", case.name), case.tolerance * 20.0);
    Ok(Some(OpCase { name, graph, tolerance, ..case.clone() }))
}

/// Values of the inputs of a case, by name.
pub fn named_inputs(case: &OpCase) -> Vec<(&str, Role, &Tensor)> {
    let inputs = case.graph.graph().inputs().zip(&case.inputs);
    inputs.map(|((_, input), tensor)| (input.name.as_str(), input.role, tensor)).collect()
}
