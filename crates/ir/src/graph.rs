//! The graph: single assignment, static shapes, built in order.
//!
//! A builder method checks types as it adds a node, so a graph never holds an ill-typed node.
//! What concerns the graph as a whole (outputs, states, names) is proved by [`Graph::check`].

use std::collections::HashSet;
use std::fmt;

use crate::composite::{Attrs, Composite};
use crate::dtype::DType;
use crate::infer::infer;
use crate::op::{Binary, DotDims, Fold, Literal, Prim, Unary};
use crate::shape::{RANK_MAX, Shape};

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

/// Why a node or a graph was refused.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum GraphError {
    /// An operation does not take arguments of these types.
    Types {
        /// Name of the operation.
        op: String,
        /// What was given.
        got: Vec<Type>,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An attribute is missing or has the wrong kind.
    Attribute {
        /// Name of the composite.
        op: &'static str,
        /// Name of the attribute.
        name: &'static str,
    },
    /// More than [`NODE_COUNT_MAX`] nodes.
    TooManyNodes {
        /// How many there would be.
        count: usize,
    },
    /// Nothing leaves the graph.
    NoOutput,
    /// Two inputs or two outputs share a name.
    NameTaken {
        /// The name.
        name: String,
    },
    /// The two halves of a state differ in type, or the first is no state input.
    StateMismatch {
        /// Name of the input, or of its node.
        name: String,
    },
    /// A state input without a next value, or with two.
    StateCount {
        /// Name of the input.
        name: String,
        /// How many next values it has.
        count: usize,
    },
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Types { op, got, why } => {
                write!(f, "`{op}` cannot take (")?;
                for (index, ty) in got.iter().enumerate() {
                    write!(f, "{}{ty}", if index > 0 { ", " } else { "" })?;
                }
                write!(f, "): {why}")
            }
            Self::Attribute { op, name } => write!(f, "`{op}` needs the attribute `{name}`"),
            Self::TooManyNodes { count } => {
                write!(f, "{count} nodes are more than {NODE_COUNT_MAX}")
            }
            Self::NoOutput => f.write_str("the graph has no output"),
            Self::NameTaken { name } => write!(f, "the name `{name}` is used twice"),
            Self::StateMismatch { name } => {
                write!(f, "state `{name}` and its next value differ in type or role")
            }
            Self::StateCount { name, count } => {
                write!(f, "state `{name}` has {count} next values, not one")
            }
        }
    }
}

impl std::error::Error for GraphError {}

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

/// Shorthands. Binary operations repeat the smaller argument as NumPy does.
impl Graph {
    /// A number of `dtype`.
    ///
    /// # Errors
    /// None in practice; the form is that of the other builders.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> Result<ValueId, GraphError> {
        self.prim(Prim::Constant(Literal::scalar(dtype, value)), &[])
    }

    /// One primitive on one argument.
    ///
    /// # Errors
    /// When the type does not fit.
    pub fn unary(&mut self, op: Unary, x: ValueId) -> Result<ValueId, GraphError> {
        self.prim(Prim::Unary(op), &[x])
    }

    /// One primitive on two arguments, repeated to a common shape.
    ///
    /// # Errors
    /// When the types or shapes do not fit.
    pub fn binary(&mut self, op: Binary, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        let (a, b) = self.align(op.name(), a, b)?;
        self.prim(Prim::Binary(op), &[a, b])
    }

    /// `a + b`.
    ///
    /// # Errors
    /// As [`Graph::binary`].
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        self.binary(Binary::Add, a, b)
    }

    /// `a - b`.
    ///
    /// # Errors
    /// As [`Graph::binary`].
    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        self.binary(Binary::Sub, a, b)
    }

    /// `a * b`.
    ///
    /// # Errors
    /// As [`Graph::binary`].
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        self.binary(Binary::Mul, a, b)
    }

    /// `a / b`.
    ///
    /// # Errors
    /// As [`Graph::binary`].
    pub fn div(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        self.binary(Binary::Div, a, b)
    }

    /// `x op number`, the number being of the type of `x`.
    ///
    /// # Errors
    /// As [`Graph::binary`].
    pub fn with_number(
        &mut self,
        op: Binary,
        x: ValueId,
        number: f64,
    ) -> Result<ValueId, GraphError> {
        let number = self.scalar(self.ty(x).dtype, number)?;
        self.binary(op, x, number)
    }

    /// `condition ? a : b`, all repeated to a common shape.
    ///
    /// # Errors
    /// When the types or shapes do not fit.
    pub fn select(
        &mut self,
        condition: ValueId,
        a: ValueId,
        b: ValueId,
    ) -> Result<ValueId, GraphError> {
        let (a, b) = self.align("select", a, b)?;
        let (condition, a) = self.align_shapes("select", condition, a)?;
        let b = self.broadcast_to(b, self.shape(a))?;
        self.prim(Prim::Select, &[condition, a, b])
    }

    /// `x` as another type.
    ///
    /// # Errors
    /// None in practice; the form is that of the other builders.
    pub fn cast(&mut self, x: ValueId, dtype: DType) -> Result<ValueId, GraphError> {
        if self.ty(x).dtype == dtype {
            return Ok(x);
        }
        self.prim(Prim::Cast(dtype), &[x])
    }

    /// `x` under another shape of as many elements.
    ///
    /// # Errors
    /// When the counts differ.
    pub fn reshape(&mut self, x: ValueId, sizes: &[usize]) -> Result<ValueId, GraphError> {
        let shape = self.shape_of("reshape", x, sizes)?;
        if shape == self.shape(x) {
            return Ok(x);
        }
        self.prim(Prim::Reshape(shape), &[x])
    }

    /// `x` with its dimensions in another order.
    ///
    /// # Errors
    /// When `axes` is no permutation.
    pub fn permute(&mut self, x: ValueId, axes: &[usize]) -> Result<ValueId, GraphError> {
        self.prim(Prim::Permute(axes.to_vec()), &[x])
    }

    /// Indices `start..limit` of one dimension.
    ///
    /// # Errors
    /// When they are out of range.
    pub fn slice(
        &mut self,
        x: ValueId,
        axis: usize,
        start: usize,
        limit: usize,
    ) -> Result<ValueId, GraphError> {
        let sizes = self.shape(x).sizes().to_vec();
        let mut starts = vec![0; sizes.len()];
        let mut limits = sizes.clone();
        if let (Some(from), Some(to)) = (starts.get_mut(axis), limits.get_mut(axis)) {
            (*from, *to) = (start, limit);
        } else {
            return Err(self.refuse("slice", &[x], "there is no such axis"));
        }
        let step = vec![1; sizes.len()];
        self.prim(Prim::Slice { start: starts, limit: limits, step }, &[x])
    }

    /// Values joined along `axis`.
    ///
    /// # Errors
    /// When their other dimensions differ.
    pub fn concat(&mut self, axis: usize, parts: &[ValueId]) -> Result<ValueId, GraphError> {
        self.prim(Prim::Concat { axis }, parts)
    }

    /// `table` at `indices` along `axis`.
    ///
    /// # Errors
    /// When the types do not fit.
    pub fn gather(
        &mut self,
        table: ValueId,
        axis: usize,
        indices: ValueId,
    ) -> Result<ValueId, GraphError> {
        self.prim(Prim::Gather { axis }, &[table, indices])
    }

    /// `x` folded along `axis`, which goes.
    ///
    /// # Errors
    /// When there is no such axis.
    pub fn reduce(&mut self, fold: Fold, x: ValueId, axis: usize) -> Result<ValueId, GraphError> {
        self.prim(Prim::Reduce { fold, axis }, &[x])
    }

    /// `x` folded along its last axis, which stays with size one.
    ///
    /// # Errors
    /// When `x` is a scalar.
    pub fn reduce_rows(&mut self, fold: Fold, x: ValueId) -> Result<ValueId, GraphError> {
        let mut sizes = self.shape(x).sizes().to_vec();
        let Some(last) = sizes.last_mut() else {
            return Err(self.refuse("reduce", &[x], "a scalar has no last axis"));
        };
        *last = 1;
        let folded = self.reduce(fold, x, sizes.len() - 1)?;
        self.reshape(folded, &sizes)
    }

    /// A contraction.
    ///
    /// # Errors
    /// When the dimensions do not pair.
    pub fn dot(&mut self, a: ValueId, b: ValueId, dims: DotDims) -> Result<ValueId, GraphError> {
        self.prim(Prim::Dot(dims), &[a, b])
    }

    /// `a [.., k] · wᵀ` for `w [n, k]`: the product of a linear layer, result `[.., n]`.
    ///
    /// # Errors
    /// When the sizes of `k` differ.
    pub fn dot_rows(&mut self, a: ValueId, w: ValueId) -> Result<ValueId, GraphError> {
        let last = self.shape(a).rank().wrapping_sub(1);
        let out = self.ty(a).dtype;
        self.dot(a, w, DotDims { batch: vec![], contract: vec![(last, 1)], out })
    }

    /// `x` repeated to `shape` as NumPy does: dimensions are matched from the last.
    ///
    /// # Errors
    /// When they do not match.
    pub fn broadcast_to(&mut self, x: ValueId, shape: Shape) -> Result<ValueId, GraphError> {
        let from = self.shape(x);
        if from == shape {
            return Ok(x);
        }
        if shape.rank() < from.rank() {
            return Err(self.refuse("broadcast", &[x], "the result has fewer dimensions"));
        }
        let lead = shape.rank() - from.rank();
        let axes = (lead..shape.rank()).collect();
        self.prim(Prim::Broadcast { shape, axes }, &[x])
    }

    /// Each element's index along `axis`.
    ///
    /// # Errors
    /// When there is no such axis or `dtype` is no integer.
    pub fn iota(
        &mut self,
        dtype: DType,
        sizes: &[usize],
        axis: usize,
    ) -> Result<ValueId, GraphError> {
        let shape = Shape::try_new(sizes).ok_or_else(|| self.refuse("iota", &[], "no shape"))?;
        self.prim(Prim::Iota { dtype, shape, axis }, &[])
    }

    fn shape_of(&self, op: &str, x: ValueId, sizes: &[usize]) -> Result<Shape, GraphError> {
        Shape::try_new(sizes).ok_or_else(|| self.refuse(op, &[x], "the sizes are no shape"))
    }

    fn align(
        &mut self,
        op: &str,
        a: ValueId,
        b: ValueId,
    ) -> Result<(ValueId, ValueId), GraphError> {
        if self.ty(a).dtype != self.ty(b).dtype {
            return Err(self.refuse(op, &[a, b], "the element types differ"));
        }
        self.align_shapes(op, a, b)
    }

    fn align_shapes(
        &mut self,
        op: &str,
        a: ValueId,
        b: ValueId,
    ) -> Result<(ValueId, ValueId), GraphError> {
        let (left, right) = (self.shape(a), self.shape(b));
        if left == right {
            return Ok((a, b));
        }
        let rank = left.rank().max(right.rank());
        let mut sizes = [1; RANK_MAX];
        for shape in [left, right] {
            let lead = rank - shape.rank();
            for (at, size) in shape.sizes().iter().enumerate() {
                let common = &mut sizes[lead + at];
                if *common == 1 {
                    *common = *size;
                } else if *size != 1 && *size != *common {
                    return Err(self.refuse(op, &[a, b], "the shapes do not match"));
                }
            }
        }
        let shape = self.shape_of(op, a, &sizes[..rank])?;
        Ok((self.broadcast_to(a, shape)?, self.broadcast_to(b, shape)?))
    }

    /// The error of an operation that does not take these values.
    pub fn refuse(&self, op: &str, values: &[ValueId], why: &'static str) -> GraphError {
        let got = values.iter().map(|it| self.ty(*it)).collect();
        GraphError::Types { op: op.into(), got, why }
    }
}
