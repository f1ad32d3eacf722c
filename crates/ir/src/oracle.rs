//! The oracle: what every operation means, computed slowly in `f64`.
//!
//! Floats are not rounded between operations, only in literals and where a cast narrows them, so
//! a result is a yardstick for every float type. Integers wrap in their type and are exact up to
//! 2^53.
//! Nothing here is fast; nothing that is fast may disagree with it.

mod elementwise;
mod fold;
mod layout;

use std::fmt;

use crate::composite::Meaning;
use crate::dtype::DType;
use crate::graph::{CheckedGraph, Graph, GraphError, NodeId, Op, Role, Type, ValueId};
use crate::op::{Literal, Prim};
use crate::shape::Shape;

/// A value with its type; elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Element type and shape.
    pub ty: Type,
    /// Elements, rounded to the element type.
    pub data: Vec<f64>,
}

impl Tensor {
    /// A tensor whose elements are rounded to `dtype`.
    ///
    /// # Panics
    /// When the sizes are no shape of so many elements.
    #[track_caller]
    pub fn new(dtype: DType, sizes: &[usize], values: &[f64]) -> Self {
        let ty = Type::new(dtype, sizes);
        assert_eq!(ty.shape.element_count(), values.len(), "elements of {ty}");
        Self { ty, data: values.iter().map(|it| dtype.round(*it)).collect() }
    }

    /// The elements as little-endian bytes of their type.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.ty.size_bytes());
        for value in &self.data {
            self.ty.dtype.encode(*value, &mut out);
        }
        out
    }

    /// The tensor of these bytes, as [`Tensor::to_bytes`] gives them.
    ///
    /// # Panics
    /// When their number is not that of the type.
    #[track_caller]
    pub fn from_bytes(ty: Type, bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), ty.size_bytes(), "bytes of {ty}");
        let elements = bytes.chunks_exact(ty.dtype.size_bytes());
        Self { ty, data: elements.map(|it| ty.dtype.decode(it)).collect() }
    }
}

/// What a run gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    /// Values of the outputs, in order. Floats are not rounded to their type.
    pub outputs: Vec<Tensor>,
    /// Next values of the states, in order, likewise.
    pub next_states: Vec<Tensor>,
}

/// Why the oracle did not run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum OracleError {
    /// Another number of inputs than the graph has.
    InputCount {
        /// How many the graph has.
        want: usize,
        /// How many there were.
        got: usize,
    },
    /// An input of another type, or with another number of elements than its type says.
    Input {
        /// Name of the input.
        name: String,
        /// What the graph says.
        want: Box<Type>,
        /// What was given.
        got: Box<Type>,
        /// How many elements were given.
        element_count: usize,
    },
    /// A value too large to be held.
    TooLarge {
        /// Name of the operation.
        op: String,
        /// Type of the value.
        ty: Type,
    },
    /// A composite whose expansion is refused or gives other types than promised.
    Expansion(GraphError),
}

impl fmt::Display for OracleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InputCount { want, got } => write!(f, "{got} inputs were given, not {want}"),
            Self::Input { name, want, got, element_count } => {
                write!(f, "input `{name}` is {got} of {element_count} elements, not {want}")
            }
            Self::TooLarge { op, ty } => {
                write!(f, "`{op}` gives {ty}, more than {VALUE_ELEMENT_COUNT_MAX} elements")
            }
            Self::Expansion(source) => write!(f, "an expansion failed: {source}"),
        }
    }
}

impl std::error::Error for OracleError {}

impl From<GraphError> for OracleError {
    fn from(source: GraphError) -> Self {
        Self::Expansion(source)
    }
}

/// Most elements of one value: 4 GB as `f64`.
pub const VALUE_ELEMENT_COUNT_MAX: usize = 1 << 29;

/// Runs a graph on the values of its inputs, which are in order of creation.
///
/// # Errors
/// When number or types of the inputs are not those of the graph, or a value is too large.
pub fn eval(graph: &CheckedGraph, inputs: &[Tensor]) -> Result<Evaluated, OracleError> {
    let graph = graph.graph();
    let described: Vec<_> = graph.inputs().collect();
    if described.len() != inputs.len() {
        return Err(OracleError::InputCount { want: described.len(), got: inputs.len() });
    }
    for ((value, input), tensor) in described.into_iter().zip(inputs) {
        let (want, got, element_count) = (graph.ty(value), tensor.ty, tensor.data.len());
        if want != got || element_count != want.shape.element_count() {
            let (want, got) = (Box::new(want), Box::new(got));
            return Err(OracleError::Input { name: input.name.clone(), want, got, element_count });
        }
    }
    let ends: Vec<ValueId> = graph.outputs().iter().map(|it| it.value).collect();
    let nexts: Vec<ValueId> = graph.states().iter().map(|it| it.next).collect();
    let mut values = run(graph, inputs, &[ends, nexts].concat())?;
    let next_states = values.split_off(graph.outputs().len());
    Ok(Evaluated { outputs: values, next_states })
}

/// The wanted values; others are dropped after their last use.
fn run(graph: &Graph, inputs: &[Tensor], wanted: &[ValueId]) -> Result<Vec<Tensor>, OracleError> {
    let mut uses_left = vec![0_usize; graph.value_count()];
    let arguments = graph.nodes().iter().flat_map(|node| &node.inputs);
    for value in arguments.chain(wanted) {
        uses_left[value.index()] += 1;
    }
    let mut values: Vec<Option<Tensor>> = vec![None; graph.value_count()];
    let mut inputs = inputs.iter();
    for (index, node) in graph.nodes().iter().enumerate() {
        let mut taken: Vec<Tensor> = Vec::with_capacity(node.inputs.len());
        for value in &node.inputs {
            uses_left[value.index()] -= 1;
            let slot = &mut values[value.index()];
            let value = if uses_left[value.index()] == 0 { slot.take() } else { slot.clone() };
            taken.push(value.expect("arguments come before their users"));
        }
        let results = match &node.op {
            Op::Input(_) => vec![inputs.next().expect("inputs were counted").clone()],
            Op::Prim(_) | Op::Composite(..) => compute(graph, NodeId::from_index(index), taken)?,
        };
        for (value, tensor) in node.results().zip(results) {
            values[value.index()] = (uses_left[value.index()] > 0).then_some(tensor);
        }
    }
    let value = |id: &ValueId| values[id.index()].clone().expect("it was kept for its last use");
    Ok(wanted.iter().map(value).collect())
}

fn compute(
    graph: &Graph,
    node: NodeId,
    arguments: Vec<Tensor>,
) -> Result<Vec<Tensor>, OracleError> {
    let node = graph.node(node);
    for value in node.results() {
        let ty = graph.ty(value);
        if VALUE_ELEMENT_COUNT_MAX < ty.shape.element_count() {
            let op = match &node.op {
                Op::Input(input) => input.name.clone(),
                Op::Prim(prim) => prim.name().into(),
                Op::Composite(composite, _) => composite.name.into(),
            };
            return Err(OracleError::TooLarge { op, ty });
        }
    }
    match &node.op {
        Op::Input(_) => Ok(arguments),
        Op::Prim(prim) => {
            let ty = graph.ty(node.result());
            let data = primitive(prim, ty, &arguments);
            assert_eq!(data.len(), ty.shape.element_count(), "elements of `{}`", prim.name());
            Ok(vec![Tensor { ty, data }])
        }
        Op::Composite(composite, attrs) => match composite.meaning {
            Meaning::Opaque { eval, .. } => Ok(eval(attrs, &arguments)),
            Meaning::Expand(expand) => {
                let mut inner = Graph::new();
                let inputs: Vec<ValueId> =
                    arguments.iter().map(|it| inner.input("", Role::Data, it.ty)).collect();
                let results = expand(&mut inner, attrs, &inputs)?;
                run(&inner, &arguments, &results)
            }
        },
    }
}

/// The elements of one primitive's result.
fn primitive(prim: &Prim, ty: Type, x: &[Tensor]) -> Vec<f64> {
    match prim {
        Prim::Unary(op) => elementwise::unary(*op, &x[0]),
        Prim::Binary(op) => elementwise::binary(*op, &x[0], &x[1]),
        Prim::Select => elementwise::select(&x[0], &x[1], &x[2]),
        Prim::Cast(to) => elementwise::cast(&x[0], *to),
        Prim::Philox => elementwise::philox(&x[0], &x[1]),
        Prim::Constant(literal) => constant(literal),
        Prim::Iota { dtype, shape, axis } => iota(*dtype, shape, *axis),
        Prim::Broadcast { shape, axes } => layout::broadcast(&x[0], shape, axes),
        Prim::Reshape(_) => x[0].data.clone(),
        Prim::Permute(axes) => layout::permute(&x[0], axes),
        Prim::Slice { start, step, .. } => layout::slice(&x[0], &ty.shape, start, step),
        Prim::Pad { low, value, .. } => layout::pad(&x[0], &ty.shape, low, ty.dtype.round(*value)),
        Prim::Concat { axis } => layout::concat(x, *axis),
        Prim::Gather { axis } => layout::gather(&x[0], &x[1], *axis),
        Prim::ScatterAdd { axis } => fold::scatter_add(&x[0], &x[1], &x[2], *axis),
        Prim::Reduce { fold, axis } => fold::reduce(*fold, &x[0], *axis),
        Prim::Dot(dims) => fold::dot(dims, &x[0], &x[1]),
        Prim::LinearScan { axis } => fold::linear_scan(&x[0], &x[1], &x[2], *axis),
    }
}

fn constant(literal: &Literal) -> Vec<f64> {
    let round = |it: f64| literal.dtype.round(it);
    match literal.splat() {
        Some(value) => vec![round(value); literal.shape.element_count()],
        None => literal.values.iter().map(|it| round(*it)).collect(),
    }
}

fn iota(dtype: DType, shape: &Shape, axis: usize) -> Vec<f64> {
    let (size, stride) = (shape.sizes()[axis], shape.strides()[axis]);
    let count = shape.element_count();
    (0..count).map(|at| dtype.wrap((at / stride % size) as i128)).collect()
}
