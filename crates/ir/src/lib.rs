//! What a tensor program means: graphs, primitives, composites, the oracle and derivatives.
//!
//! Knows no device, no language and no file.
#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod case;
pub mod composite;
pub mod decoder;
pub mod dtype;
pub mod erf;
pub mod expand;
pub mod grad;
pub mod graph;
pub mod infer;
pub mod nn;
pub mod number;
pub mod op;
pub mod oracle;
pub mod philox;
pub mod shape;
pub mod text;

pub use case::{CaseBuilder, OpCase, primitive_cases};
pub use composite::{Attr, Attrs, COMPOSITES, Composite, Meaning};
pub use decoder::{DecoderBlock, LowRank};
pub use dtype::DType;
pub use expand::{Expanded, dedupe, expand_all, expand_once};
pub use grad::{GradError, derivative, gradients};
pub use graph::{
    CheckedGraph, Graph, GraphError, Input, Node, NodeId, Op, Output, Role, State, Type, ValueId,
};
pub use op::{Binary, DotDims, Fold, Literal, Prim, Unary};
pub use oracle::{Evaluated, OracleError, Tensor};
pub use shape::Shape;
pub use text::{TextError, parse, print};
