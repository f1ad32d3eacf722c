//! One op case: a small graph that is a correctness test, a gradient test and a benchmark.

mod primitive;

use crate::composite::{Attrs, Composite};
use crate::dtype::DType;
use crate::graph::{CheckedGraph, Graph, GraphError, Role, Type, ValueId};
use crate::oracle::Tensor;

pub use primitive::primitive_cases;

/// A graph with inputs and how closely a device must follow the oracle.
#[derive(Clone, Debug)]
pub struct OpCase {
    /// Unique among the cases of a composite; says what is special.
    pub name: String,
    /// The graph under test.
    pub graph: CheckedGraph,
    /// Values of all inputs, in order.
    pub inputs: Vec<Tensor>,
    /// Largest difference to the oracle, absolute plus relative to the value's size.
    pub tolerance: f64,
    /// Names of the inputs in which the derivative exists; it is tested for these.
    pub differentiable: Vec<String>,
}

/// Writes one case. Inputs are drawn from a counter, so they never change between runs.
#[derive(Debug)]
pub struct CaseBuilder {
    /// The graph, for nodes between the inputs and the outputs.
    pub graph: Graph,
    name: String,
    inputs: Vec<Tensor>,
    differentiable: Vec<String>,
    tolerance: f64,
    draw_count: u64,
}

impl CaseBuilder {
    /// A case with that name, without inputs, for a tolerance of `1e-5`.
    pub fn new(name: &str) -> Self {
        Self {
            graph: Graph::new(),
            name: name.into(),
            inputs: Vec::new(),
            differentiable: Vec::new(),
            tolerance: 1e-5,
            draw_count: 0,
        }
    }

    /// Another tolerance.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// An input with numbers between -1 and 1. Differentiable when it is a float of at least
    /// 32 bits.
    pub fn random(&mut self, name: &str, dtype: DType, sizes: &[usize]) -> ValueId {
        self.random_in(name, dtype, sizes, -1.0, 1.0)
    }

    /// An input with numbers from `low` up to `high`, else as [`CaseBuilder::random`].
    pub fn random_in(
        &mut self,
        name: &str,
        dtype: DType,
        sizes: &[usize],
        low: f64,
        high: f64,
    ) -> ValueId {
        let count = Type::new(dtype, sizes).shape.element_count();
        let values: Vec<f64> = (0..count).map(|_| low + (high - low) * self.draw()).collect();
        let value = self.values(name, dtype, sizes, &values);
        if matches!(dtype, DType::F32 | DType::F64) {
            self.differentiable.push(name.into());
        }
        value
    }

    /// An input with given numbers, rounded to the type. Not differentiable.
    ///
    /// # Panics
    /// When their count is not that of the elements.
    #[track_caller]
    pub fn values(&mut self, name: &str, dtype: DType, sizes: &[usize], values: &[f64]) -> ValueId {
        let ty = Type::new(dtype, sizes);
        assert_eq!(ty.shape.element_count(), values.len(), "input `{name}`");
        let data = values.iter().map(|it| dtype.round(*it)).collect();
        self.inputs.push(Tensor { ty, data });
        self.graph.input(name, Role::Data, ty)
    }

    /// Row indices or bounds: an `i32` input of one dimension.
    #[track_caller]
    pub fn indices(&mut self, name: &str, values: &[i32]) -> ValueId {
        let values: Vec<f64> = values.iter().map(|it| f64::from(*it)).collect();
        self.values(name, DType::I32, &[values.len()], &values)
    }

    /// Says that the derivative in `name` does not exist here, or is not wanted.
    pub fn constant(&mut self, name: &str) {
        self.differentiable.retain(|it| it != name);
    }

    /// The case whose outputs `out0`, `out1`, … are these values.
    ///
    /// # Panics
    /// When a value was refused: the case is wrong.
    #[track_caller]
    pub fn finish(self, outputs: Result<Vec<ValueId>, GraphError>) -> OpCase {
        let Self { mut graph, name, inputs, differentiable, tolerance, .. } = self;
        let outputs = outputs.unwrap_or_else(|err| panic!("case `{name}`: {err}"));
        for (index, value) in outputs.into_iter().enumerate() {
            graph.output(&format!("out{index}"), value);
        }
        let graph = graph.check().unwrap_or_else(|err| panic!("case `{name}`: {err}"));
        OpCase { name, graph, inputs, tolerance, differentiable }
    }

    /// The case of one composite on these values.
    ///
    /// # Panics
    /// When it refuses them: the case is wrong.
    #[track_caller]
    pub fn of(mut self, composite: &'static Composite, attrs: Attrs, inputs: &[ValueId]) -> OpCase {
        let outputs = self.graph.composite(composite, attrs, inputs);
        self.finish(outputs)
    }

    /// The next number of the counter generator, from 0 up to 1, in steps of 2^-23.
    fn draw(&mut self) -> f64 {
        self.draw_count += 1;
        let mut z = self.draw_count.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 41) as f64 / 8_388_608.0
    }
}
