//! Composites: operations defined by their expansion into primitives and other composites.
//!
//! A composite is kept whole until a device has had the chance to claim it. It is compared by
//! identity, never by name. Each lives in a file of `composite/`; the registry is [`COMPOSITES`].

use crate::case::OpCase;
use crate::graph::{Graph, GraphError, Role, Type, ValueId};
use crate::oracle::Tensor;

/// One attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// A whole number, a flag (0 or 1) or the index of an enum's variant.
    Int(i64),
    /// A number.
    Float(f64),
    /// A name out of a closed set that the composite knows.
    Word(&'static str),
}

/// Attributes of a composite, in the order that it defines.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attrs(pub Vec<(&'static str, Attr)>);

impl Attrs {
    /// No attributes.
    pub const NONE: Self = Self(Vec::new());

    /// These attributes with a whole number added.
    #[must_use]
    pub fn int(mut self, name: &'static str, value: i64) -> Self {
        self.0.push((name, Attr::Int(value)));
        self
    }

    /// These attributes with a number added.
    #[must_use]
    pub fn float(mut self, name: &'static str, value: f64) -> Self {
        self.0.push((name, Attr::Float(value)));
        self
    }

    /// These attributes with a word added.
    #[must_use]
    pub fn word(mut self, name: &'static str, value: &'static str) -> Self {
        self.0.push((name, Attr::Word(value)));
        self
    }

    /// The attribute called `name`.
    pub fn get(&self, name: &str) -> Option<&Attr> {
        self.0.iter().find(|(it, _)| *it == name).map(|(_, value)| value)
    }

    /// A whole number, or nothing when there is none of that name.
    pub fn get_int(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Attr::Int(value) => Some(*value),
            Attr::Float(_) | Attr::Word(_) => None,
        }
    }

    /// A number, or nothing when there is none of that name.
    pub fn get_float(&self, name: &str) -> Option<f64> {
        match self.get(name)? {
            Attr::Float(value) => Some(*value),
            Attr::Int(_) | Attr::Word(_) => None,
        }
    }

    /// A word, or nothing when there is none of that name.
    pub fn get_word(&self, name: &str) -> Option<&'static str> {
        match self.get(name)? {
            Attr::Word(value) => Some(value),
            Attr::Int(_) | Attr::Float(_) => None,
        }
    }
}

/// Adds the expansion's nodes to the graph and gives its results.
pub type Expand = fn(&mut Graph, &Attrs, &[ValueId]) -> Result<Vec<ValueId>, GraphError>;

/// What a composite means.
#[derive(Clone, Copy, Debug)]
pub enum Meaning {
    /// The nodes that it stands for.
    Expand(Expand),
    /// No expansion (sort, fft, linear algebra): types and values only. A device without a claim
    /// refuses it.
    Opaque {
        /// Types of the results.
        infer: fn(&Attrs, &[Type]) -> Result<Vec<Type>, GraphError>,
        /// Values of the results.
        eval: fn(&Attrs, &[Tensor]) -> Vec<Tensor>,
    },
}

/// An operation with a name, a meaning and its test cases.
#[derive(Debug)]
pub struct Composite {
    /// Name in text forms, keys and reports.
    pub name: &'static str,
    /// One line: what it computes.
    pub about: &'static str,
    /// What it means.
    pub meaning: Meaning,
    /// Correctness tests, gradient tests and benchmarks, all from one list.
    pub cases: fn() -> Vec<OpCase>,
}

impl Composite {
    /// Whether this is the very same composite.
    pub fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }

    /// Result types for arguments of these types: those of the expansion.
    ///
    /// # Errors
    /// What the expansion refuses.
    pub fn infer(&self, attrs: &Attrs, types: &[Type]) -> Result<Vec<Type>, GraphError> {
        let expand = match self.meaning {
            Meaning::Expand(expand) => expand,
            Meaning::Opaque { infer, .. } => return infer(attrs, types),
        };
        let mut scratch = Graph::new();
        let inputs: Vec<ValueId> =
            types.iter().map(|ty| scratch.input("", Role::Data, *ty)).collect();
        let results = expand(&mut scratch, attrs, &inputs)?;
        Ok(results.into_iter().map(|it| scratch.ty(it)).collect())
    }
}
