//! Composites: operations defined by their expansion into primitives and other composites.
//!
//! A composite is kept whole until a device has had the chance to claim it. It is compared by
//! identity, never by name. Each lives in a file of `composite/`; the registry is [`COMPOSITES`].

pub mod activation;
pub(crate) mod arguments;
pub mod attention;
pub mod cross_entropy;
pub mod embedding;
pub mod experts;
pub mod gate;
pub mod gated_linear;
pub mod gelu;
pub mod l2_normalize;
pub mod layer_norm;
pub mod linear;
pub mod nf4;
pub mod nf4_linear;
pub mod nf4_linear_transposed;
pub mod nf4_pair;
pub mod nf4_swiglu;
pub mod pool;
pub mod pool_eos;
pub mod quantize_rows;
pub mod quick_gelu;
pub mod relu;
pub mod rms_norm;
pub mod rope;
pub mod scaled_linear;
pub mod silu;
pub mod softmax;
pub mod sort;
pub mod splade_pool;
pub mod swiglu;
pub mod tf32_linear;
pub mod top_k;

use crate::case::OpCase;
use crate::graph::{Graph, GraphError, Role, Type, ValueId};
use crate::oracle::Tensor;

/// Every composite, in the order of the documentation.
pub static COMPOSITES: &[&Composite] = &[
    &softmax::SOFTMAX,
    &layer_norm::LAYER_NORM,
    &rms_norm::RMS_NORM,
    &relu::RELU,
    &gelu::GELU,
    &quick_gelu::QUICK_GELU,
    &silu::SILU,
    &swiglu::SWIGLU,
    &linear::LINEAR,
    &gated_linear::GATED_LINEAR,
    &nf4_linear::NF4_LINEAR,
    &nf4_linear_transposed::NF4_LINEAR_TRANSPOSED,
    &nf4_swiglu::NF4_SWIGLU,
    &nf4_pair::NF4_PAIR,
    &tf32_linear::TF32_LINEAR,
    &quantize_rows::QUANTIZE_ROWS,
    &scaled_linear::FP8_LINEAR,
    &scaled_linear::INT8_LINEAR,
    &rope::ROPE,
    &rope::ROPE_INVERSE,
    &embedding::EMBEDDING,
    &attention::ATTENTION,
    &pool::POOL,
    &pool_eos::POOL_EOS,
    &l2_normalize::L2_NORMALIZE,
    &splade_pool::SPLADE_POOL,
    &top_k::TOP_K,
    &gate::GATE,
    &experts::EXPERTS,
    &cross_entropy::CROSS_ENTROPY,
    &sort::SORT,
];

/// Every attribute name and every word that a composite knows; texts may use no other.
pub static VOCABULARY: &[&str] = &[
    "activation",
    "bf16",
    "bias",
    "chunk",
    "codes",
    "eos",
    "eps",
    "erf",
    "extra",
    "f16",
    "f32",
    "f8e4m3",
    "first",
    "gelu",
    "gelu_tanh",
    "half",
    "i8",
    "interleaved",
    "k",
    "kind",
    "last",
    "lse",
    "max",
    "mean",
    "min",
    "n",
    "none",
    "out",
    "quick_gelu",
    "relu",
    "scale",
    "silu",
    "smoothing",
    "style",
    "sum",
    "tanh",
    "temperature",
    "theta",
];

/// The composite called `name`. For text forms only: inside, composites travel as themselves.
pub fn composite_by_name(name: &str) -> Option<&'static Composite> {
    COMPOSITES.iter().copied().find(|it| it.name == name)
}

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

    /// A whole number that `op` cannot do without.
    ///
    /// # Errors
    /// [`GraphError::Attribute`] when there is none of that name.
    pub fn need_int(&self, op: &'static str, name: &'static str) -> Result<i64, GraphError> {
        self.get_int(name).ok_or(GraphError::Attribute { op, name })
    }

    /// A flag, 0 or 1, that `op` cannot do without.
    ///
    /// # Errors
    /// [`GraphError::Attribute`] when there is none of that name, or it is another number.
    pub fn need_flag(&self, op: &'static str, name: &'static str) -> Result<bool, GraphError> {
        match self.get_int(name) {
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(_) | None => Err(GraphError::Attribute { op, name }),
        }
    }

    /// A number that `op` cannot do without.
    ///
    /// # Errors
    /// [`GraphError::Attribute`] when there is none of that name.
    pub fn need_float(&self, op: &'static str, name: &'static str) -> Result<f64, GraphError> {
        self.get_float(name).ok_or(GraphError::Attribute { op, name })
    }

    /// A word that `op` cannot do without.
    ///
    /// # Errors
    /// [`GraphError::Attribute`] when there is none of that name.
    pub fn need_word(
        &self,
        op: &'static str,
        name: &'static str,
    ) -> Result<&'static str, GraphError> {
        self.get_word(name).ok_or(GraphError::Attribute { op, name })
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

#[test]
fn names_are_unique() {
    for (index, composite) in COMPOSITES.iter().enumerate() {
        assert!(COMPOSITES[..index].iter().all(|it| it.name != composite.name));
        assert!(composite_by_name(composite.name).is_some_and(|it| it.is(composite)));
    }
}

#[test]
fn every_composite_has_distinct_cases() {
    for composite in COMPOSITES {
        let mut names: Vec<String> = (composite.cases)().into_iter().map(|it| it.name).collect();
        assert!(!names.is_empty(), "{} has no cases", composite.name);
        names.sort();
        assert!(names.is_sorted_by(|a, b| a < b), "{}: {names:?}", composite.name);
    }
}
