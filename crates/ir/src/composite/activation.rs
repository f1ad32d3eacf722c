//! The activation that linear layers end with. Not a composite: each one has its own file.

use crate::composite::Attrs;
use crate::composite::gelu::GELU;
use crate::composite::quick_gelu::QUICK_GELU;
use crate::composite::relu::RELU;
use crate::composite::silu::SILU;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::Unary;

/// A function of one number at the end of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The number itself.
    None,
    /// `max(x, 0)`.
    Relu,
    /// GELU by the error function.
    Gelu,
    /// GELU by the hyperbolic tangent.
    GeluTanh,
    /// `x · sigmoid(1.702 x)`.
    QuickGelu,
    /// `x · sigmoid(x)`.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// Every activation, in declaration order.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Relu,
        Self::Gelu,
        Self::GeluTanh,
        Self::QuickGelu,
        Self::Silu,
        Self::Tanh,
    ];

    /// The value of an attribute `activation`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Relu => "relu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
            Self::QuickGelu => "quick_gelu",
            Self::Silu => "silu",
            Self::Tanh => "tanh",
        }
    }

    /// The activation of a word.
    pub fn by_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.word() == word)
    }

    /// The attribute `activation` of composite `op`.
    ///
    /// # Errors
    /// [`GraphError::Attribute`] when it is missing or no activation.
    pub fn of(attrs: &Attrs, op: &'static str) -> Result<Self, GraphError> {
        let word = attrs.need_word(op, "activation")?;
        Self::by_word(word).ok_or(GraphError::Attribute { op, name: "activation" })
    }

    /// The activation of `x`.
    ///
    /// Shapes: `x` and the result are alike.
    ///
    /// # Errors
    /// When `x` is no float.
    pub fn apply(self, g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
        match self {
            Self::None => Ok(x),
            Self::Relu => g.call(&RELU, Attrs::NONE, &[x]),
            Self::Gelu => g.call(&GELU, Attrs::NONE.word("kind", "erf"), &[x]),
            Self::GeluTanh => g.call(&GELU, Attrs::NONE.word("kind", "tanh"), &[x]),
            Self::QuickGelu => g.call(&QUICK_GELU, Attrs::NONE, &[x]),
            Self::Silu => g.call(&SILU, Attrs::NONE, &[x]),
            Self::Tanh => g.unary(Unary::Tanh, x),
        }
    }
}

#[test]
fn words_round_trip() {
    for activation in Activation::ALL {
        assert_eq!(Activation::by_word(activation.word()), Some(activation));
    }
}
