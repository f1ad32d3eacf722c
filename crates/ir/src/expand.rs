//! Rewriting graphs into other graphs of the same meaning: composites into their expansions,
//! equal nodes into one.

use std::collections::HashMap;

use crate::composite::{Attr, Attrs, Meaning};
use crate::graph::{Graph, GraphError, Node, NodeId, Op, Type, ValueId};
use crate::op::Prim;

/// A rewritten graph.
#[derive(Clone, Debug)]
pub struct Expanded {
    /// The new graph: the same inputs, outputs and states, in the same order.
    pub graph: Graph,
    /// The new value for each old one; [`Expanded::GONE`] where nothing needed the old value.
    pub values: Vec<ValueId>,
}

impl Expanded {
    /// Stands in [`Expanded::values`] for a value that was dropped.
    pub const GONE: ValueId = ValueId::NONE;

    /// The new value for an old one, unless it was dropped.
    pub fn value(&self, old: ValueId) -> Option<ValueId> {
        self.values.get(old.index()).copied().filter(|it| *it != Self::GONE)
    }

    fn of(graph: &Graph) -> Self {
        let values = vec![Self::GONE; graph.value_count()];
        Self { graph: Graph::new(), values }
    }

    fn arguments(&self, node: &Node) -> Vec<ValueId> {
        node.inputs.iter().map(|it| self.values[it.index()]).collect()
    }

    fn copy(&mut self, from: &Graph, id: NodeId) {
        let node = from.node(id);
        let new = self.graph.copy_node(from, id, self.arguments(node));
        let results: Vec<ValueId> = self.graph.node(new).results().collect();
        for (old, new) in node.results().zip(results) {
            self.values[old.index()] = new;
        }
    }

    fn finish(mut self, from: &Graph) -> Self {
        for output in from.outputs() {
            self.graph.output(&output.name, self.values[output.value.index()]);
        }
        for state in from.states() {
            self.graph.state(self.values[state.input.index()], self.values[state.next.index()]);
        }
        self.graph.set_segment(from.segment());
        self
    }
}

/// Replaces each composite that `keep` does not want by its expansion, one level deep.
///
/// Composites inside an expansion stay for the next round; opaque ones always stay. Nodes keep
/// their order, and those of an expansion belong to the segment of their composite.
///
/// # Errors
/// [`GraphError::TooManyNodes`], or what an expansion refuses.
pub fn expand_once(
    graph: &Graph,
    keep: &mut dyn FnMut(&Graph, NodeId) -> bool,
) -> Result<Expanded, GraphError> {
    expand_round(graph, keep).map(|(expanded, _)| expanded)
}

/// Repeats [`expand_once`] until only opaque composites and those that `keep` wants are left.
///
/// # Errors
/// As [`expand_once`].
pub fn expand_all(
    graph: &Graph,
    keep: &mut dyn FnMut(&Graph, NodeId) -> bool,
) -> Result<Expanded, GraphError> {
    let (mut whole, mut replaced_count) = expand_round(graph, keep)?;
    while replaced_count > 0 {
        let (next, count) = expand_round(&whole.graph, keep)?;
        for value in &mut whole.values {
            *value = next.values[value.index()];
        }
        whole.graph = next.graph;
        replaced_count = count;
    }
    Ok(whole)
}

fn expand_round(
    graph: &Graph,
    keep: &mut dyn FnMut(&Graph, NodeId) -> bool,
) -> Result<(Expanded, usize), GraphError> {
    let mut out = Expanded::of(graph);
    let mut replaced_count = 0;
    for (index, node) in graph.nodes().iter().enumerate() {
        let id = NodeId::from_index(index);
        out.graph.set_segment(node.segment);
        let (composite, attrs, expand) = match &node.op {
            Op::Input(_) | Op::Prim(_) => {
                out.copy(graph, id);
                continue;
            }
            Op::Composite(composite, attrs) => match composite.meaning {
                Meaning::Expand(expand) if !keep(graph, id) => (composite, attrs, expand),
                Meaning::Expand(_) | Meaning::Opaque { .. } => {
                    out.copy(graph, id);
                    continue;
                }
            },
        };
        replaced_count += 1;
        let inputs = out.arguments(node);
        let results = expand(&mut out.graph, attrs, &inputs)?;
        let old: Vec<ValueId> = node.results().collect();
        let same = old.len() == results.len()
            && old.iter().zip(&results).all(|(a, b)| graph.ty(*a) == out.graph.ty(*b));
        if !same {
            let why = "the expansion gives other results than it did for the types alone";
            return Err(out.graph.refuse(composite.name, &inputs, why));
        }
        for (old, new) in old.into_iter().zip(results) {
            out.values[old.index()] = new;
        }
    }
    Ok((out.finish(graph), replaced_count))
}

/// Merges equal nodes and drops those that no output and no state needs.
///
/// Nodes are equal when operation, attributes, arguments and segment are. Inputs always stay.
pub fn dedupe(graph: &Graph) -> Expanded {
    let needed = needed_nodes(graph);
    let mut out = Expanded::of(graph);
    let mut seen: HashMap<Key, Vec<NodeId>> = HashMap::new();
    for (index, node) in graph.nodes().iter().enumerate() {
        let id = NodeId::from_index(index);
        if matches!(node.op, Op::Input(_)) {
            out.graph.set_segment(node.segment);
            out.copy(graph, id);
            continue;
        }
        if !needed[index] {
            continue;
        }
        let twins = seen.entry(Key::of(graph, node, out.arguments(node))).or_default();
        if let Some(twin) = twins.iter().find(|it| same_op(&graph.node(**it).op, &node.op)) {
            for (old, twin) in node.results().zip(graph.node(*twin).results()) {
                out.values[old.index()] = out.values[twin.index()];
            }
            continue;
        }
        twins.push(id);
        out.graph.set_segment(node.segment);
        out.copy(graph, id);
    }
    out.finish(graph)
}

/// What equal nodes certainly share; the rest is compared.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    name: &'static str,
    arguments: Vec<ValueId>,
    segment: u32,
    result: Option<Type>,
    first_number: u64,
}

impl Key {
    fn of(graph: &Graph, node: &Node, arguments: Vec<ValueId>) -> Self {
        let (name, first_number) = match &node.op {
            Op::Input(_) => ("input", 0),
            Op::Composite(composite, _) => (composite.name, 0),
            Op::Prim(prim) => (prim.name(), first_number(prim)),
        };
        let result = node.results().next().map(|it| graph.ty(it));
        Self { name, arguments, segment: node.segment, result, first_number }
    }
}

fn first_number(prim: &Prim) -> u64 {
    if let Prim::Constant(literal) = prim {
        return literal.values.first().map_or(0, |it| it.to_bits());
    }
    0
}

fn needed_nodes(graph: &Graph) -> Vec<bool> {
    let mut needed = vec![false; graph.nodes().len()];
    let ends = graph.outputs().iter().map(|it| it.value);
    for value in ends.chain(graph.states().iter().map(|it| it.next)) {
        needed[graph.maker(value).index()] = true;
    }
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        if needed[index] {
            for input in &node.inputs {
                needed[graph.maker(*input).index()] = true;
            }
        }
    }
    needed
}

/// Whether two operations are one; floats are compared by their bits.
pub(crate) fn same_op(a: &Op, b: &Op) -> bool {
    match (a, b) {
        (Op::Input(a), Op::Input(b)) => a == b,
        (Op::Prim(a), Op::Prim(b)) => same_prim(a, b),
        (Op::Composite(a, x), Op::Composite(b, y)) => a.is(b) && same_attrs(x, y),
        (Op::Input(_) | Op::Prim(_) | Op::Composite(..), _) => false,
    }
}

fn same_prim(a: &Prim, b: &Prim) -> bool {
    if let (Prim::Constant(a), Prim::Constant(b)) = (a, b) {
        let bits = |x: &f64, y: &f64| x.to_bits() == y.to_bits();
        return a.dtype == b.dtype
            && a.shape == b.shape
            && a.values.len() == b.values.len()
            && a.values.iter().zip(&b.values).all(|(x, y)| bits(x, y));
    }
    if let (
        Prim::Pad { low, high, value },
        Prim::Pad { low: other_low, high: other_high, value: other },
    ) = (a, b)
    {
        return low == other_low && high == other_high && value.to_bits() == other.to_bits();
    }
    a == b
}

fn same_attrs(a: &Attrs, b: &Attrs) -> bool {
    let same = |x: &Attr, y: &Attr| match (x, y) {
        (Attr::Float(x), Attr::Float(y)) => x.to_bits() == y.to_bits(),
        (Attr::Int(_) | Attr::Word(_) | Attr::Float(_), _) => x == y,
    };
    a.0.len() == b.0.len() && a.0.iter().zip(&b.0).all(|(x, y)| x.0 == y.0 && same(&x.1, &y.1))
}
