//! One op case: a small graph that is a correctness test, a gradient test and a benchmark.

use crate::graph::CheckedGraph;
use crate::oracle::Tensor;

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
