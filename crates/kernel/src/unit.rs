//! What a device compiles: a loop program, a named source, or a library call.

use calor_ir::dtype::DType;

use crate::canonical::{Canonical, Digest};
use crate::program::LoopProgram;

/// A nonlinearity that a product can apply to its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x`.
    None,
    /// `max(x, 0)`.
    Relu,
    /// `x Φ(x)` with the error function.
    Gelu,
    /// `x Φ(x)` by the tanh formula.
    GeluTanh,
    /// `x σ(1.702 x)`.
    QuickGelu,
    /// `x σ(x)`.
    Silu,
    /// `tanh(x)`.
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

    /// The word that composites use for it.
    pub const fn name(self) -> &'static str {
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

    /// The activation called `name`.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }
}

/// A hand-written kernel that a device knows by name, with what is fixed in its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Name in the device's table of sources.
    pub name: &'static str,
    /// Names and values of its parameters, in the order that the source defines. Floats are
    /// given by their bits.
    pub params: Vec<(&'static str, i64)>,
}

impl Source {
    /// The parameter called `name`.
    pub fn param(&self, name: &str) -> Option<i64> {
        self.params.iter().find(|(it, _)| *it == name).map(|(_, value)| *value)
    }

    /// The parameter called `name`, as the float whose bits it holds.
    pub fn param_f64(&self, name: &str) -> Option<f64> {
        self.param(name).map(|bits| f64::from_bits(bits as u64))
    }
}

/// A library operation as data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `C [m, n] = act(A [m, k] · Wᵀ + bias) + residual`.
    ///
    /// Words: m, row stride of A, row stride of C, row stride of the residual (0 if none).
    /// Arguments: A, W (or its packed form), bias if any, residual if any, C, and workspace where
    /// the device's claim adds some.
    Gemm {
        /// Most rows, for a device that chooses its code by them; 0 where one code serves all.
        rows: u32,
        /// Columns of the result.
        n: u32,
        /// Length of the sums.
        k: u32,
        /// Element type of A, W and C.
        dtype: DType,
        /// Whether factors in `F32` are rounded to tf32.
        tf32: bool,
        /// Whether a row `[n]` is added before the activation.
        bias: bool,
        /// Applied to the sums.
        activation: Activation,
        /// Whether `[m, n]` is added after the activation.
        residual: bool,
        /// Whether W is in the form that [`Call::Pack`] gives, else `[n, k]` row-major.
        packed: bool,
    },
    /// Weights `[n, k]` row-major → the device's own form for [`Call::Gemm`].
    ///
    /// Words: none. Arguments: W, packed W.
    Pack {
        /// Rows of the weights.
        n: u32,
        /// Columns of the weights.
        k: u32,
        /// Element type.
        dtype: DType,
    },
}

/// Something that a device can compile.
#[derive(Clone, Debug, PartialEq)]
pub enum Unit {
    /// Generated.
    Loop(LoopProgram),
    /// Hand-written.
    Source(Source),
    /// A library's.
    Call(Call),
}

impl Unit {
    /// Everything that decides its code, and nothing else.
    pub fn canonical(&self) -> Vec<u8> {
        match self {
            Self::Loop(program) => program.canonical(),
            Self::Source(Source { name, params }) => {
                let mut out = Canonical::new("source", 1);
                out.text(name).count(params.len());
                for (name, value) in params {
                    out.text(name).i64(*value);
                }
                out.finish()
            }
            Self::Call(call) => call.canonical(),
        }
    }

    /// Digest of [`Unit::canonical`].
    pub fn digest(&self) -> Digest {
        Digest::of(&self.canonical())
    }

    /// A short name for people: the template, the source or the operation, with its main sizes.
    pub fn label(&self) -> String {
        match self {
            Self::Loop(program) => {
                format!("{}.{}.{}", program.template().name(), program.width, self.digest().short())
            }
            Self::Source(source) => source.name.into(),
            Self::Call(Call::Gemm { n, k, activation, residual, .. }) => {
                let add = if *residual { "+residual" } else { "" };
                let act = match activation {
                    Activation::None => "",
                    Activation::Relu
                    | Activation::Gelu
                    | Activation::GeluTanh
                    | Activation::QuickGelu
                    | Activation::Silu
                    | Activation::Tanh => activation.name(),
                };
                format!("gemm.{n}x{k}{}{act}{add}", if act.is_empty() { "" } else { "+" })
            }
            Self::Call(Call::Pack { n, k, .. }) => format!("pack.{n}x{k}"),
        }
    }
}

impl Call {
    fn canonical(&self) -> Vec<u8> {
        let mut out = Canonical::new("call", 2);
        match self {
            Self::Gemm { rows, n, k, dtype, tf32, bias, activation, residual, packed } => {
                out.text("gemm").u32(*rows).u32(*n).u32(*k).text(dtype.name());
                out.u8(u8::from(*tf32)).u8(u8::from(*bias));
                out.text(activation.name()).u8(u8::from(*residual)).u8(u8::from(*packed));
            }
            Self::Pack { n, k, dtype } => {
                out.text("pack").u32(*n).u32(*k).text(dtype.name());
            }
        }
        out.finish()
    }
}
