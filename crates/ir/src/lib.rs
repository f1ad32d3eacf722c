//! What a tensor program means: graphs, primitives, composites, the oracle and derivatives.
//!
//! Knows no device, no language and no file.
#![forbid(unsafe_code)]

pub mod case;
pub mod composite;
pub mod dtype;
pub mod graph;
pub mod infer;
pub mod op;
pub mod oracle;
pub mod shape;

pub use case::OpCase;
pub use composite::{Attr, Attrs, Composite, Meaning};
pub use dtype::DType;
pub use graph::{
    CheckedGraph, Graph, GraphError, Input, Node, NodeId, Op, Output, Role, State, Type, ValueId,
};
pub use op::{Binary, DotDims, Fold, Literal, Prim, Unary};
pub use shape::Shape;
