//! The derivative of a graph, as a graph (reverse mode).
//!
//! Composites are expanded first, so the rules know primitives only. Where a derivative does not
//! exist the rules choose: of two equal numbers the first takes the gradient of `max` and `min`;
//! equal extremes of a reduction share it evenly; `abs` at zero has none. Integers, comparisons
//! and `floor` pass nothing on.

mod contraction;
mod rules;

use std::fmt;

use crate::expand::{dedupe, expand_all};
use crate::graph::{CheckedGraph, Graph, GraphError, NodeId, Op, Type, ValueId};
use crate::op::{Literal, Prim};

/// Why there is no derivative.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum GradError {
    /// The graph has no output of that name.
    NoOutput {
        /// The name.
        name: String,
    },
    /// The graph has no input of that name.
    NoInput {
        /// The name.
        name: String,
    },
    /// The loss is not one float.
    Loss {
        /// What it is.
        ty: Type,
    },
    /// A derivative in something that is no float.
    NotFloat {
        /// What it is.
        ty: Type,
    },
    /// A composite without an expansion, or one that was not expanded, lies on the way.
    Composite {
        /// Its name.
        op: &'static str,
    },
    /// The derivative is no graph: too many nodes, most likely.
    Graph(GraphError),
}

impl fmt::Display for GradError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOutput { name } => write!(f, "the graph has no output `{name}`"),
            Self::NoInput { name } => write!(f, "the graph has no input `{name}`"),
            Self::Loss { ty } => write!(f, "the loss is {ty}, not one float"),
            Self::NotFloat { ty } => write!(f, "there is no derivative in {ty}"),
            Self::Composite { op } => write!(f, "`{op}` has no expansion to differentiate"),
            Self::Graph(source) => write!(f, "the derivative is no graph: {source}"),
        }
    }
}

impl std::error::Error for GradError {}

impl From<GraphError> for GradError {
    fn from(source: GraphError) -> Self {
        Self::Graph(source)
    }
}

/// The graph that computes a loss and its gradients.
///
/// Its outputs are the loss, under its own name, and for each input `x` of `wrt`, in order, its
/// gradient as `grad.x`, shaped and typed as the input: zeros where the loss does not depend on
/// it. Inputs and states stay; other outputs go.
///
/// # Errors
/// When a name is unknown, the loss is not one float, or an opaque composite is on the way.
pub fn derivative(
    graph: &CheckedGraph,
    loss: &str,
    wrt: &[&str],
) -> Result<CheckedGraph, GradError> {
    let mut graph = expand_all(graph.graph(), &mut |_, _| false)?.graph;
    let output = graph.outputs().iter().find(|it| it.name == loss);
    let value = output.ok_or_else(|| GradError::NoOutput { name: loss.into() })?.value;
    let mut inputs = Vec::with_capacity(wrt.len());
    for name in wrt {
        let input = graph.input_named(name);
        inputs.push(input.ok_or_else(|| GradError::NoInput { name: (*name).into() })?);
    }
    let gradients = gradients(&mut graph, value, &inputs)?;
    graph.clear_outputs();
    graph.output(loss, value);
    for (name, gradient) in wrt.iter().zip(gradients) {
        graph.output(&format!("grad.{name}"), gradient);
    }
    Ok(dedupe(&graph).graph.check()?)
}

/// Adds the gradients of a scalar in some values to a graph, and gives them in order.
///
/// Between `wrt` and the loss there may be primitives only. Nodes that turn out not to be needed
/// stay until [`dedupe`].
///
/// # Errors
/// When the loss is not one float, a value is no float, or a composite is on the way.
pub fn gradients(
    graph: &mut Graph,
    loss: ValueId,
    wrt: &[ValueId],
) -> Result<Vec<ValueId>, GradError> {
    let ty = graph.ty(loss);
    if !ty.dtype.is_float() || ty.shape.rank() > 0 {
        return Err(GradError::Loss { ty });
    }
    for value in wrt {
        let ty = graph.ty(*value);
        if !ty.dtype.is_float() {
            return Err(GradError::NotFloat { ty });
        }
    }
    let moves = dependents(graph, wrt);
    let mut known: Vec<Option<ValueId>> = vec![None; graph.value_count()];
    let last = graph.nodes().len();
    if moves[loss.index()] {
        known[loss.index()] = Some(graph.scalar(ty.dtype, 1.0)?);
    }
    for index in (0..last).rev() {
        let node = graph.node(NodeId::from_index(index)).clone();
        let reached = |it: &ValueId| known[it.index()].is_some();
        let prim = match &node.op {
            Op::Input(_) => continue,
            Op::Prim(prim) => prim,
            Op::Composite(composite, _) if node.results().any(|it| reached(&it)) => {
                return Err(GradError::Composite { op: composite.name });
            }
            Op::Composite(..) => continue,
        };
        let result = node.result();
        // What was asked for keeps its gradient; all others are dead after this.
        let Some(gradient) = known[result.index()] else { continue };
        let parts = rules::pull_back(graph, prim, &node.inputs, result, gradient)?;
        for (input, part) in node.inputs.iter().zip(parts) {
            let Some(part) = part.filter(|_| moves[input.index()]) else { continue };
            debug_assert_eq!(graph.ty(part), graph.ty(*input), "gradient of `{}`", prim.name());
            known[input.index()] = Some(match known[input.index()] {
                None => part,
                Some(others) => graph.add(others, part)?,
            });
        }
    }
    wrt.iter().map(|it| known[it.index()].map_or_else(|| zeros(graph, *it), Ok)).collect()
}

/// Which float values move when one of `wrt` does.
fn dependents(graph: &Graph, wrt: &[ValueId]) -> Vec<bool> {
    let mut moves = vec![false; graph.value_count()];
    for value in wrt {
        moves[value.index()] = true;
    }
    for node in graph.nodes() {
        if node.inputs.iter().any(|it| moves[it.index()]) {
            for value in node.results() {
                moves[value.index()] |= graph.ty(value).dtype.is_float();
            }
        }
    }
    moves
}

fn zeros(graph: &mut Graph, like: ValueId) -> Result<ValueId, GradError> {
    let Type { dtype, shape } = graph.ty(like);
    let literal = Literal { dtype, shape, values: vec![0.0] };
    Ok(graph.prim(Prim::Constant(literal), &[])?)
}
