//! The oracle.

use crate::graph::Type;

/// A value with its type; elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Element type and shape.
    pub ty: Type,
    /// Elements, rounded to the element type.
    pub data: Vec<f64>,
}
