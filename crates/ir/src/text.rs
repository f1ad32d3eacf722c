//! Graphs as text: for reading, for golden files and for bug reports.
//!
//! ```text
//! calor graph 1
//! %0 = input "x" data live=0 : f32[4,8]
//! %1 = input "w" weight : f32[6,8]
//! %2 = @linear{activation=gelu} %0 %1 : f32[4,6]
//! %3 = constant{values=[0.5]} : f32[4,6]
//! segment 1
//! %4 = mul %2 %3 : f32[4,6]
//! output "y" %4
//! ```
//!
//! Values are numbered in order, so a text says nothing that the graph does not. Both directions
//! are exact; only the payload of a NaN is lost. The text may come from anywhere: limits hold for
//! everything that it can ask for.

mod lexer;
mod parser;
mod printer;

use std::fmt;

use crate::graph::{Graph, GraphError};

/// The first line of every text.
const HEADER: &str = "calor graph 1";

/// Most bytes of a text.
pub const TEXT_BYTES_MAX: usize = 1 << 28;

/// Most numbers or sizes in one list of a text.
pub const LIST_LEN_MAX: usize = 1 << 22;

/// Most nodes of a text. Each composite is expanded once to find its types.
pub const TEXT_NODE_COUNT_MAX: usize = 1 << 18;

/// The text of a graph.
pub fn print(graph: &Graph) -> String {
    printer::print(graph)
}

/// The graph of a text.
///
/// # Errors
/// The first line that is not understood, or that says something that a graph cannot hold.
pub fn parse(text: &str) -> Result<Graph, TextError> {
    parser::parse(text)
}

/// Why a text is no graph.
#[derive(Clone, Debug, PartialEq)]
pub struct TextError {
    /// The line, counted from one.
    pub line: usize,
    /// What is wrong with it.
    pub fault: TextFault,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TextFault {
    /// Something else was expected here.
    Syntax {
        /// What was expected.
        want: &'static str,
    },
    /// No operation, composite, type, attribute or word of that name.
    Unknown {
        /// What kind of name.
        what: &'static str,
        /// The name, shortened.
        name: String,
    },
    /// A value that is not there yet, or a result that is not the next.
    Value {
        /// Its number.
        index: usize,
    },
    /// The graph gives another type than the line says.
    Type,
    /// A limit of this form.
    TooMany {
        /// Of what.
        what: &'static str,
    },
    /// A shape with too many dimensions or elements.
    Shape,
    /// The graph refuses the node.
    Graph(GraphError),
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.fault)
    }
}

impl fmt::Display for TextFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { want } => write!(f, "expected {want}"),
            Self::Unknown { what, name } => write!(f, "there is no {what} `{name}`"),
            Self::Value { index } => write!(f, "%{index} is out of order"),
            Self::Type => f.write_str("the node gives another type"),
            Self::TooMany { what } => write!(f, "too many {what}"),
            Self::Shape => f.write_str("a shape has too many dimensions or elements"),
            Self::Graph(source) => source.fmt(f),
        }
    }
}

impl std::error::Error for TextError {}
