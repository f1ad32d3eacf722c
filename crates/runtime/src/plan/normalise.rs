//! Forms that the templates want: contractions over one dimension, long folds in two phases.

use calor_ir::{Fold, Graph, Node, NodeId, Op, Prim, Shape, ValueId};

use super::{Capabilities, Choices, PlanError};

/// Shortest fold that is worth two phases.
pub(super) const LONG_FOLD: usize = 4096;
/// Most results of a fold that is split: with more, the machine is busy anyway.
pub(super) const FEW_RESULTS: usize = 4096;

/// The same graph in the forms that the templates want.
pub(super) fn normalise(
    graph: &Graph,
    capabilities: &Capabilities,
    choices: &Choices,
    defaults: &mut Choices,
) -> Result<Graph, PlanError> {
    let mut chunks = vec![1; graph.nodes().len()];
    let mut is_normal = true;
    for (index, node) in graph.nodes().iter().enumerate() {
        let id = NodeId::from_index(index);
        match &node.op {
            Op::Prim(Prim::Dot(dims)) => is_normal &= dims.contract.len() <= 1,
            Op::Prim(Prim::Reduce { axis, .. }) => {
                chunks[index] = chunks_of(graph, id, *axis, capabilities, choices, defaults);
                is_normal &= chunks[index] <= 1;
            }
            Op::Prim(_) | Op::Input(_) | Op::Composite(..) => {}
        }
    }
    if is_normal {
        return Ok(graph.clone());
    }
    let mut out = Graph::new();
    let mut values: Vec<ValueId> = Vec::with_capacity(graph.value_count());
    for (index, node) in graph.nodes().iter().enumerate() {
        let inputs: Vec<ValueId> = node.inputs.iter().map(|it| values[it.index()]).collect();
        out.set_segment(node.segment);
        match &node.op {
            Op::Input(input) => {
                values.push(out.push_input(input.clone(), graph.ty(node.result())));
            }
            Op::Composite(composite, attrs) => {
                values.extend(out.composite(composite, attrs.clone(), &inputs)?);
            }
            Op::Prim(Prim::Dot(dims)) if dims.contract.len() > 1 => {
                values.push(one_contraction(&mut out, node, &inputs)?);
            }
            Op::Prim(Prim::Reduce { fold, axis }) => {
                values.push(match chunks[index] {
                    0 | 1 => out.reduce(*fold, inputs[0], *axis)?,
                    chunks => two_phases(&mut out, inputs[0], *fold, *axis, chunks)?,
                });
            }
            Op::Prim(prim) => values.push(out.prim(prim.clone(), &inputs)?),
        }
    }
    for output in graph.outputs() {
        out.output(&output.name, values[output.value.index()]);
    }
    for state in graph.states() {
        out.state(values[state.input.index()], values[state.next.index()]);
    }
    Ok(out)
}

/// How many chunks a fold is split into; one for a fold that stays whole.
fn chunks_of(
    graph: &Graph,
    node: NodeId,
    axis: usize,
    capabilities: &Capabilities,
    choices: &Choices,
    defaults: &mut Choices,
) -> usize {
    let node = graph.node(node);
    let extent = graph.shape(node.inputs[0]).sizes()[axis];
    let result_count = graph.shape(node.result()).element_count();
    if extent < LONG_FOLD || FEW_RESULTS < result_count {
        return 1;
    }
    let key = format!("fold {extent}x{result_count} chunks");
    if let Some(chosen) = choices.0.get(&key) {
        let chosen = usize::try_from(*chosen).unwrap_or(1);
        return if chosen > 0 && extent.is_multiple_of(chosen) { chosen } else { 1 };
    }
    let wanted = (capabilities.parallel_count as usize * 4).clamp(8, 1024);
    let chunks = (1..=wanted).rev().find(|it| extent.is_multiple_of(*it)).unwrap_or(1);
    defaults.0.insert(key, chunks as i64);
    chunks
}

/// Chunks first, then the chunks' results: the order is fixed by the plan.
fn two_phases(
    g: &mut Graph,
    x: ValueId,
    fold: Fold,
    axis: usize,
    chunks: usize,
) -> Result<ValueId, PlanError> {
    let mut sizes = g.shape(x).sizes().to_vec();
    sizes[axis] /= chunks;
    sizes.insert(axis, chunks);
    if Shape::try_new(&sizes).is_none() {
        return Ok(g.reduce(fold, x, axis)?);
    }
    let split = g.reshape(x, &sizes)?;
    let partial = g.reduce(fold, split, axis + 1)?;
    Ok(g.reduce(fold, partial, axis)?)
}

/// Contracted dimensions moved to the end and joined into one.
fn one_contraction(g: &mut Graph, node: &Node, inputs: &[ValueId]) -> Result<ValueId, PlanError> {
    let Op::Prim(Prim::Dot(dims)) = &node.op else {
        return Err(PlanError::Template { op: "dot", why: "not a contraction" });
    };
    let mut dims = dims.clone();
    let left: Vec<usize> = dims.contract.iter().map(|it| it.0).collect();
    let right: Vec<usize> = dims.contract.iter().map(|it| it.1).collect();
    let a = joined_last(g, inputs[0], &left)?;
    let b = joined_last(g, inputs[1], &right)?;
    let moved = |axis: usize, gone: &[usize]| axis - gone.iter().filter(|it| **it < axis).count();
    for (i, j) in &mut dims.batch {
        (*i, *j) = (moved(*i, &left), moved(*j, &right));
    }
    dims.contract = vec![(g.shape(a).rank() - 1, g.shape(b).rank() - 1)];
    Ok(g.dot(a, b, dims)?)
}

fn joined_last(g: &mut Graph, x: ValueId, gone: &[usize]) -> Result<ValueId, PlanError> {
    let shape = g.shape(x);
    let kept: Vec<usize> = (0..shape.rank()).filter(|axis| !gone.contains(axis)).collect();
    let axes: Vec<usize> = kept.iter().chain(gone).copied().collect();
    let moved = g.permute(x, &axes)?;
    let mut sizes: Vec<usize> = kept.iter().map(|axis| shape.sizes()[*axis]).collect();
    sizes.push(gone.iter().map(|axis| shape.sizes()[*axis]).product());
    Ok(g.reshape(moved, &sizes)?)
}
