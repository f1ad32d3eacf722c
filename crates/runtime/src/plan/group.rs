//! Which values exist in memory, and the kernels that compute them.
//!
//! A value is stored when it crosses the graph's border, when a claimed step reads or writes it,
//! when a template cannot look through it, or when two kernels would compute it twice. Everything
//! else lives in registers. The set only grows, so this ends.

use std::collections::{HashMap, HashSet};

use calor_device::{Layout, OfferArg};
use calor_ir::{Graph, Op, Prim, Unary, ValueId};

use super::claims::{Claimed, is_builtin, reads, writes};
use super::pull::Stop;
use super::root::{Built, Kernel, build};
use super::view::{dense_root, rows_of};
use super::{Capabilities, Choices, PlanError};

/// Stored values and their kernels.
pub(super) struct Grouped {
    /// Everything that exists in memory; dense roots.
    pub(super) stored: HashSet<ValueId>,
    /// Kernels of each computed value, in order.
    pub(super) kernels: HashMap<ValueId, Vec<Kernel>>,
}

/// Chooses the stored values of a graph and builds their kernels.
pub(super) fn group(
    claimed: &Claimed,
    _capabilities: &Capabilities,
    _choices: &Choices,
) -> Result<Grouped, PlanError> {
    let graph = &claimed.graph;
    let mut stored = border(claimed);
    let given = given(claimed);
    let mut built: HashMap<ValueId, Built> = HashMap::new();
    loop {
        let mut missing: Vec<ValueId> = stored
            .iter()
            .copied()
            .filter(|it| !given.contains(it) && !built.contains_key(it))
            .filter(|it| !is_buffer(graph, *it))
            .collect();
        missing.sort_unstable();
        if missing.is_empty() {
            let Some(value) = computed_twice(graph, &built) else { break };
            store(graph, &mut stored, &mut built, value);
            continue;
        }
        for value in missing {
            match build(graph, &stored, value) {
                Ok(kernels) => {
                    built.insert(value, kernels);
                }
                Err(Stop::Store(more)) => {
                    let more = dense_root(graph, more);
                    if more == value || stored.contains(&more) {
                        return Err(stuck(graph, more));
                    }
                    store(graph, &mut stored, &mut built, more);
                    break;
                }
                Err(Stop::Fail(err)) => return Err(err),
            }
        }
    }
    let kernels = built.into_iter().map(|(value, built)| (value, built.kernels)).collect();
    Ok(Grouped { stored, kernels })
}

fn stuck(graph: &Graph, value: ValueId) -> PlanError {
    let op = match graph.op(value) {
        Op::Input(_) => "input",
        Op::Prim(prim) => prim.name(),
        Op::Composite(composite, _) => composite.name,
    };
    PlanError::Template { op, why: "the three loops of a kernel do not reach it" }
}

/// Values that are buffers without any kernel.
fn is_buffer(graph: &Graph, value: ValueId) -> bool {
    match graph.op(value) {
        Op::Input(_) => true,
        Op::Prim(Prim::Constant(literal)) => literal.splat().is_none(),
        Op::Prim(_) | Op::Composite(..) => false,
    }
}

/// Values that claimed steps write.
fn given(claimed: &Claimed) -> HashSet<ValueId> {
    claimed.offers.values().flat_map(writes).collect()
}

/// Values that exist in any case.
fn border(claimed: &Claimed) -> HashSet<ValueId> {
    let graph = &claimed.graph;
    let mut stored: HashSet<ValueId> = graph.inputs().map(|(value, _)| value).collect();
    stored.extend(graph.outputs().iter().map(|it| dense_root(graph, it.value)));
    stored.extend(graph.states().iter().map(|it| dense_root(graph, it.next)));
    stored.extend(given(claimed));
    let mut nodes: Vec<_> = claimed.offers.keys().copied().collect();
    nodes.sort_unstable();
    for node in nodes {
        let offer = &claimed.offers[&node];
        for value in reads(offer) {
            let inner = offer.args.iter().find_map(|arg| match arg {
                OfferArg::Read(it, Layout::Rows { inner }) if *it == value => Some(*inner),
                OfferArg::Read(..)
                | OfferArg::Prepared { .. }
                | OfferArg::Write(_)
                | OfferArg::Workspace { .. } => None,
            });
            let rows = inner.and_then(|inner| rows_of(graph, &stored, value, inner));
            stored.insert(rows.map_or_else(|| dense_root(graph, value), |it| it.base));
        }
    }
    stored
}

fn store(
    graph: &Graph,
    stored: &mut HashSet<ValueId>,
    built: &mut HashMap<ValueId, Built>,
    value: ValueId,
) {
    let value = dense_root(graph, value);
    stored.insert(value);
    built.retain(|_, it| !it.touched.iter().any(|it| dense_root(graph, *it) == value));
}

/// The latest value that two kernels compute and that is worth memory.
fn computed_twice(graph: &Graph, built: &HashMap<ValueId, Built>) -> Option<ValueId> {
    let mut count: HashMap<ValueId, usize> = HashMap::new();
    for built in built.values() {
        for value in &built.touched {
            *count.entry(*value).or_default() += 1;
        }
    }
    let twice = count.into_iter().filter(|(_, count)| *count > 1).map(|(value, _)| value);
    twice.filter(|value| is_costly(graph, *value)).max()
}

/// Whether computing a value again costs more than reading it back.
///
/// Arithmetic on indices, numbers and values that are small beside it costs nothing.
fn is_costly(graph: &Graph, value: ValueId) -> bool {
    let node = graph.node(graph.maker(value));
    match &node.op {
        Op::Input(_) => false,
        Op::Composite(..) => is_builtin(graph, graph.maker(value)),
        Op::Prim(prim) => match prim {
            Prim::Reduce { .. } | Prim::Dot(_) | Prim::Philox => true,
            Prim::Unary(Unary::Neg | Unary::Abs | Unary::Not | Unary::Floor)
            | Prim::Binary(_)
            | Prim::Select
            | Prim::Cast(_) => reads_much(graph, value, 0),
            Prim::Unary(_) => reads_much(graph, value, 0),
            Prim::Gather { .. }
            | Prim::Constant(_)
            | Prim::Iota { .. }
            | Prim::Broadcast { .. }
            | Prim::Reshape(_)
            | Prim::Permute(_)
            | Prim::Slice { .. }
            | Prim::Pad { .. }
            | Prim::Concat { .. }
            | Prim::ScatterAdd { .. }
            | Prim::LinearScan { .. } => false,
        },
    }
}

/// Whether an operand has about as many elements as the value, and is no arithmetic on indices.
fn reads_much(graph: &Graph, value: ValueId, depth: usize) -> bool {
    let count = graph.shape(value).element_count();
    let node = graph.node(graph.maker(value));
    match &node.op {
        Op::Input(_) | Op::Composite(..) => true,
        Op::Prim(Prim::Constant(_) | Prim::Iota { .. }) => false,
        Op::Prim(_) if depth > 64 => true,
        Op::Prim(_) => node.inputs.iter().any(|input| {
            graph.shape(*input).element_count() * 8 >= count && reads_much(graph, *input, depth + 1)
        }),
    }
}
