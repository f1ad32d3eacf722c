//! The graph: single assignment, static shapes, built in order.
//!
//! A builder method checks types as it adds a node, so a graph never holds an ill-typed node.
//! What concerns the graph as a whole (outputs, states, names) is proved by [`Graph::check`].

mod build;
mod error;

use std::collections::HashSet;
use std::fmt;

use crate::composite::{Attrs, Composite};
use crate::dtype::DType;
use crate::infer::infer;
use crate::op::Prim;
use crate::shape::Shape;

pub use error::GraphError;

/// Most nodes in one graph.
pub const NODE_COUNT_MAX: usize = 1 << 20;

/// One result of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

impl ValueId {
    /// No value: past every graph's last.
    pub(crate) const NONE: Self = Self(u32::MAX);

    /// Position among all values of the graph.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The value at a position that [`ValueId::index`] gave.
    pub fn from_index(index: usize) -> Self {
        Self(index as u32)
    }
}

/// One node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

impl NodeId {
    /// Position among all nodes of the graph.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The node at a position that [`NodeId::index`] gave.
    pub fn from_index(index: usize) -> Self {
        Self(index as u32)
    }
}

/// Element type and shape of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Shape,
}

impl Type {
    /// A type from its parts.
    ///
    /// # Panics
    /// When the sizes are no shape.
    #[track_caller]
    pub fn new(dtype: DType, sizes: &[usize]) -> Self {
        Self { dtype, shape: Shape::new(sizes) }
    }

    /// Bytes of the value in row-major order.
    pub fn size_bytes(&self) -> usize {
        self.shape.element_count() * self.dtype.size_bytes()
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

/// Who fills an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The caller, before each run.
    Data,
    /// The loader, once.
    Weight,
    /// The previous run: the input half of a [`State`].
    State,
}

/// What is known of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Unique among the inputs of a graph.
    pub name: String,
    /// Who fills it.
    pub role: Role,
    /// Which count of the live block bounds the first dimension, if any: rows at or past the
    /// count are padding, which a device may leave uncomputed.
    pub live: Option<u8>,
}

/// What a node does.
#[derive(Clone, Debug)]
pub enum Op {
    /// Stands for a buffer that comes from outside.
    Input(Input),
    /// One primitive.
    Prim(Prim),
    /// A composite with its attributes.
    Composite(&'static Composite, Attrs),
}

/// An operation, its arguments and its results.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// Arguments.
    pub inputs: Vec<ValueId>,
    /// Recomputation segment; equal nodes of different segments are never merged.
    pub segment: u32,
    first: ValueId,
    result_count: u32,
}

impl Node {
    /// The results, in order.
    pub fn results(&self) -> impl Iterator<Item = ValueId> + use<> {
        let first = self.first.0;
        (first..first + self.result_count).map(ValueId)
    }

    /// The only result.
    ///
    /// # Panics
    /// When there are more.
    pub fn result(&self) -> ValueId {
        assert_eq!(self.result_count, 1, "the node has {} results", self.result_count);
        self.first
    }
}

/// A value kept between runs: read as `input`, replaced by `next` after each run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// An input with [`Role::State`].
    pub input: ValueId,
    /// Its value for the next run.
    pub next: ValueId,
}

/// A value that leaves the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Unique among the outputs of a graph.
    pub name: String,
    /// The value.
    pub value: ValueId,
}

/// A graph under construction.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    types: Vec<Type>,
    makers: Vec<NodeId>,
    outputs: Vec<Output>,
    states: Vec<State>,
    segment: u32,
}

/// A graph that passed [`Graph::check`]. Planning takes nothing else.
#[derive(Clone, Debug)]
pub struct CheckedGraph(Graph);

impl CheckedGraph {
    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.0
    }

    /// Gives the graph back for further building.
    pub fn into_graph(self) -> Graph {
        self.0
    }
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// All nodes; arguments come before their users.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Number of values.
    pub fn value_count(&self) -> usize {
        self.types.len()
    }

    /// Type of a value.
    pub fn ty(&self, value: ValueId) -> Type {
        self.types[value.index()]
    }

    /// Shape of a value.
    pub fn shape(&self, value: ValueId) -> Shape {
        self.types[value.index()].shape
    }

    /// The node that makes a value.
    pub fn maker(&self, value: ValueId) -> NodeId {
        self.makers[value.index()]
    }

    /// Which of its node's results a value is.
    pub fn port(&self, value: ValueId) -> usize {
        (value.0 - self.nodes[self.maker(value).index()].first.0) as usize
    }

    /// The operation that makes a value.
    pub fn op(&self, value: ValueId) -> &Op {
        &self.nodes[self.maker(value).index()].op
    }

    /// The inputs with their descriptions, in order of creation.
    pub fn inputs(&self) -> impl Iterator<Item = (ValueId, &Input)> {
        self.nodes.iter().filter_map(|node| match &node.op {
            Op::Input(input) => Some((node.first, input)),
            Op::Prim(_) | Op::Composite(..) => None,
        })
    }

    /// The value of the input called `name`.
    pub fn input_named(&self, name: &str) -> Option<ValueId> {
        self.inputs().find(|(_, input)| input.name == name).map(|(value, _)| value)
    }

    /// What leaves the graph, in order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// What is kept between runs.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// Nodes added from now on belong to recomputation segment `segment`.
    pub fn set_segment(&mut self, segment: u32) {
        self.segment = segment;
    }

    /// The segment of nodes added from now on.
    pub fn segment(&self) -> u32 {
        self.segment
    }

    /// Adds an input.
    pub fn input(&mut self, name: &str, role: Role, ty: Type) -> ValueId {
        self.push_input(Input { name: name.into(), role, live: None }, ty)
    }

    /// Adds a data input whose first dimension is bounded by count `live` of the live block.
    pub fn live_input(&mut self, name: &str, live: u8, ty: Type) -> ValueId {
        self.push_input(Input { name: name.into(), role: Role::Data, live: Some(live) }, ty)
    }

    /// Adds an input as described.
    pub fn push_input(&mut self, input: Input, ty: Type) -> ValueId {
        self.push(Op::Input(input), Vec::new(), &[ty])
    }

    /// Names a value that leaves the graph.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.outputs.push(Output { name: name.into(), value });
    }

    /// Forgets which values leave the graph.
    pub fn clear_outputs(&mut self) {
        self.outputs.clear();
    }

    /// Says that `input` becomes `next` after each run.
    pub fn state(&mut self, input: ValueId, next: ValueId) {
        self.states.push(State { input, next });
    }

    /// Adds a primitive.
    ///
    /// # Errors
    /// [`GraphError::Types`] when it does not take these arguments.
    pub fn prim(&mut self, prim: Prim, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        let types: Vec<Type> = inputs.iter().map(|it| self.ty(*it)).collect();
        let ty = infer(&prim, &types).map_err(|why| GraphError::Types {
            op: prim.name().into(),
            got: types,
            why,
        })?;
        self.room_for_one()?;
        Ok(self.push(Op::Prim(prim), inputs.to_vec(), &[ty]))
    }

    /// Adds a composite and gives all its results.
    ///
    /// # Errors
    /// What its definition says of these arguments and attributes.
    pub fn composite(
        &mut self,
        composite: &'static Composite,
        attrs: Attrs,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, GraphError> {
        let types: Vec<Type> = inputs.iter().map(|it| self.ty(*it)).collect();
        let results = composite.infer(&attrs, &types)?;
        self.room_for_one()?;
        let first = self.push(Op::Composite(composite, attrs), inputs.to_vec(), &results);
        Ok((0..results.len() as u32).map(|port| ValueId(first.0 + port)).collect())
    }

    /// Adds a composite that has one result.
    ///
    /// # Errors
    /// As [`Graph::composite`], and when it has another number of results.
    pub fn call(
        &mut self,
        composite: &'static Composite,
        attrs: Attrs,
        inputs: &[ValueId],
    ) -> Result<ValueId, GraphError> {
        match self.composite(composite, attrs, inputs)?[..] {
            [result] => Ok(result),
            _ => Err(self.refuse(composite.name, inputs, "it has not one result")),
        }
    }

    /// Proves what concerns the graph as a whole.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(self) -> Result<CheckedGraph, GraphError> {
        if self.outputs.is_empty() && self.states.is_empty() {
            return Err(GraphError::NoOutput);
        }
        let mut names = HashSet::new();
        for (_, input) in self.inputs() {
            if !names.insert(input.name.as_str()) {
                return Err(GraphError::NameTaken { name: input.name.clone() });
            }
        }
        names.clear();
        for output in &self.outputs {
            if !names.insert(output.name.as_str()) {
                return Err(GraphError::NameTaken { name: output.name.clone() });
            }
        }
        self.check_states()?;
        Ok(CheckedGraph(self))
    }

    /// Adds a node of another graph on arguments of the same types.
    pub(crate) fn copy_node(&mut self, from: &Self, id: NodeId, inputs: Vec<ValueId>) -> NodeId {
        let node = from.node(id);
        debug_assert!(node.inputs.iter().zip(&inputs).all(|(a, b)| from.ty(*a) == self.ty(*b)));
        let types: Vec<Type> = node.results().map(|it| from.ty(it)).collect();
        self.push(node.op.clone(), inputs, &types);
        NodeId(self.nodes.len() as u32 - 1)
    }

    fn check_states(&self) -> Result<(), GraphError> {
        for state in &self.states {
            let is_state = matches!(self.op(state.input), Op::Input(it) if it.role == Role::State);
            if !is_state || self.ty(state.input) != self.ty(state.next) {
                let name = match self.op(state.input) {
                    Op::Input(input) => input.name.clone(),
                    Op::Prim(prim) => prim.name().into(),
                    Op::Composite(composite, _) => composite.name.into(),
                };
                return Err(GraphError::StateMismatch { name });
            }
        }
        for (value, input) in self.inputs().filter(|(_, it)| it.role == Role::State) {
            let count = self.states.iter().filter(|it| it.input == value).count();
            if count != 1 {
                return Err(GraphError::StateCount { name: input.name.clone(), count });
            }
        }
        Ok(())
    }

    fn room_for_one(&self) -> Result<(), GraphError> {
        if NODE_COUNT_MAX <= self.nodes.len() {
            return Err(GraphError::TooManyNodes { count: self.nodes.len() + 1 });
        }
        Ok(())
    }

    fn push(&mut self, op: Op, inputs: Vec<ValueId>, results: &[Type]) -> ValueId {
        let node = NodeId(self.nodes.len() as u32);
        let first = ValueId(self.types.len() as u32);
        self.types.extend_from_slice(results);
        self.makers.extend(results.iter().map(|_| node));
        let result_count = results.len() as u32;
        self.nodes.push(Node { op, inputs, segment: self.segment, first, result_count });
        first
    }
}
