//! Why a node or a graph was refused.

use std::fmt;

use super::{NODE_COUNT_MAX, Type};

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
