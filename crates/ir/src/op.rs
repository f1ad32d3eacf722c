//! The closed set of primitives. Everything else is a composite of these.

use crate::{dtype::DType, shape::Shape};

/// Most primitives there may ever be; a test counts them.
pub const PRIMITIVE_COUNT_MAX: usize = 45;

/// One argument, element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unary {
    /// `-x`. Floats and signed integers.
    Neg,
    /// `|x|`. Floats and integers.
    Abs,
    /// `e^x`. Floats.
    Exp,
    /// Natural logarithm. Floats.
    Log,
    /// Square root. Floats.
    Sqrt,
    /// Sine of radians. Floats.
    Sin,
    /// Cosine of radians. Floats.
    Cos,
    /// Hyperbolic tangent. Floats.
    Tanh,
    /// Gauss error function. Floats.
    Erf,
    /// Largest whole number not above `x`. Floats.
    Floor,
    /// Each bit flipped; for `bool`, negation. Integers and `bool`.
    Not,
}

impl Unary {
    /// Every unary, in declaration order.
    pub const ALL: [Self; 11] = [
        Self::Neg,
        Self::Abs,
        Self::Exp,
        Self::Log,
        Self::Sqrt,
        Self::Sin,
        Self::Cos,
        Self::Tanh,
        Self::Erf,
        Self::Floor,
        Self::Not,
    ];

    /// The name used in text forms and keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Neg => "neg",
            Self::Abs => "abs",
            Self::Exp => "exp",
            Self::Log => "log",
            Self::Sqrt => "sqrt",
            Self::Sin => "sin",
            Self::Cos => "cos",
            Self::Tanh => "tanh",
            Self::Erf => "erf",
            Self::Floor => "floor",
            Self::Not => "not",
        }
    }

    /// Whether the operation is defined on `dtype`.
    pub const fn accepts(self, dtype: DType) -> bool {
        match self {
            Self::Neg | Self::Abs => dtype.is_float() || dtype.is_int(),
            Self::Exp
            | Self::Log
            | Self::Sqrt
            | Self::Sin
            | Self::Cos
            | Self::Tanh
            | Self::Erf
            | Self::Floor => dtype.is_float(),
            Self::Not => !dtype.is_float(),
        }
    }
}

/// Two arguments of one shape and type, element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Binary {
    /// `a + b`; integers wrap.
    Add,
    /// `a - b`; integers wrap.
    Sub,
    /// `a * b`; integers wrap.
    Mul,
    /// `a / b`; integers round towards zero, and division by zero gives zero.
    Div,
    /// Remainder with the sign of `b` (floored division); zero where `b` is an integer zero.
    Rem,
    /// `a` to the power of `b`. Floats.
    Pow,
    /// The larger; a NaN wins.
    Max,
    /// The smaller; a NaN wins.
    Min,
    /// `a < b` as `bool`.
    Lt,
    /// `a <= b` as `bool`.
    Le,
    /// `a == b` as `bool`.
    Eq,
    /// Bitwise and. Integers and `bool`.
    And,
    /// Bitwise or. Integers and `bool`.
    Or,
    /// Bitwise exclusive or. Integers and `bool`.
    Xor,
    /// Left shift, zero when the distance is the width or more. Integers.
    Shl,
    /// Right shift, arithmetic for signed types. Integers.
    Shr,
}

impl Binary {
    /// Every binary, in declaration order.
    pub const ALL: [Self; 16] = [
        Self::Add,
        Self::Sub,
        Self::Mul,
        Self::Div,
        Self::Rem,
        Self::Pow,
        Self::Max,
        Self::Min,
        Self::Lt,
        Self::Le,
        Self::Eq,
        Self::And,
        Self::Or,
        Self::Xor,
        Self::Shl,
        Self::Shr,
    ];

    /// The name used in text forms and keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Div => "div",
            Self::Rem => "rem",
            Self::Pow => "pow",
            Self::Max => "max",
            Self::Min => "min",
            Self::Lt => "lt",
            Self::Le => "le",
            Self::Eq => "eq",
            Self::And => "and",
            Self::Or => "or",
            Self::Xor => "xor",
            Self::Shl => "shl",
            Self::Shr => "shr",
        }
    }

    /// Whether the operation is defined on arguments of `dtype`.
    pub const fn accepts(self, dtype: DType) -> bool {
        match self {
            Self::Add | Self::Sub | Self::Mul | Self::Div | Self::Rem => {
                dtype.is_float() || dtype.is_int()
            }
            Self::Max | Self::Min | Self::Lt | Self::Le | Self::Eq => true,
            Self::Pow => dtype.is_float(),
            Self::And | Self::Or | Self::Xor => !dtype.is_float(),
            Self::Shl | Self::Shr => dtype.is_int(),
        }
    }

    /// The type of the result, given the type of the arguments.
    pub const fn result(self, dtype: DType) -> DType {
        match self {
            Self::Lt | Self::Le | Self::Eq => DType::Bool,
            Self::Add
            | Self::Sub
            | Self::Mul
            | Self::Div
            | Self::Rem
            | Self::Pow
            | Self::Max
            | Self::Min
            | Self::And
            | Self::Or
            | Self::Xor
            | Self::Shl
            | Self::Shr => dtype,
        }
    }
}

/// How a dimension is folded into one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fold {
    /// The sum; zero of nothing.
    Sum,
    /// The largest; the type's lowest value of nothing.
    Max,
    /// The smallest; the type's highest value of nothing.
    Min,
}

impl Fold {
    /// Every fold, in declaration order.
    pub const ALL: [Self; 3] = [Self::Sum, Self::Max, Self::Min];

    /// The name used in text forms and keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Max => "max",
            Self::Min => "min",
        }
    }
}

/// Numbers written into the graph.
///
/// Values are `f64`; whole numbers are exact up to 2^53. One value stands for all elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Literal {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Shape,
    /// One value, or one for each element in row-major order.
    pub values: Vec<f64>,
}

impl Literal {
    /// A single number.
    pub fn scalar(dtype: DType, value: f64) -> Self {
        Self { dtype, shape: Shape::SCALAR, values: vec![value] }
    }

    /// The value of each element when they are all one.
    pub fn splat(&self) -> Option<f64> {
        (self.values.len() == 1).then(|| self.values[0])
    }
}

/// Which dimensions a contraction pairs.
///
/// The result's dimensions are the paired batch dimensions, then the left operand's free ones,
/// then the right operand's free ones, each in their own order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DotDims {
    /// Pairs (left, right) that stay, one for one.
    pub batch: Vec<(usize, usize)>,
    /// Pairs (left, right) that are summed over.
    pub contract: Vec<(usize, usize)>,
    /// Type of the result; sums are kept in it, or in `F32` if it is narrower.
    pub out: DType,
}

/// One primitive operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Prim {
    /// `x` → same shape.
    Unary(Unary),
    /// `a, b` of one shape and type → same shape.
    Binary(Binary),
    /// `condition: bool, a, b` of one shape → `a` where the condition holds, else `b`.
    Select,
    /// `x` → same shape, another type. Floats to integers round towards zero and saturate.
    Cast(DType),
    /// → the literal.
    Constant(Literal),
    /// → each element's index along `axis`.
    Iota {
        /// Integer type of the result.
        dtype: DType,
        /// Shape of the result.
        shape: Shape,
        /// Axis that is counted.
        axis: usize,
    },
    /// `key: u32 [2], counter: u32` of any shape → the first word of Philox-4x32-10 for counter
    /// (c, 0, 0, 0), as `u32` of the counter's shape (Salmon et al., SC 2011).
    Philox,
    /// `x` → `shape`; dimension `i` of `x` becomes dimension `axes[i]`, the others repeat.
    /// A size of one may be repeated too.
    Broadcast {
        /// Shape of the result.
        shape: Shape,
        /// Increasing axes of the result, one for each dimension of `x`.
        axes: Vec<usize>,
    },
    /// `x` → the same elements in row-major order under another shape.
    Reshape(Shape),
    /// `x` → dimension `i` of the result is dimension `axes[i]` of `x`.
    Permute(Vec<usize>),
    /// `x` → elements `start[i], start[i] + step[i], …` below `limit[i]` of each dimension.
    Slice {
        /// First index of each dimension.
        start: Vec<usize>,
        /// One past the last index of each dimension.
        limit: Vec<usize>,
        /// Distance between indices; at least one.
        step: Vec<usize>,
    },
    /// `x` → with `low[i]` and `high[i]` elements of `value` around dimension `i`.
    Pad {
        /// Elements before each dimension.
        low: Vec<usize>,
        /// Elements after each dimension.
        high: Vec<usize>,
        /// What they hold.
        value: f64,
    },
    /// `x0, x1, …` → joined along `axis`.
    Concat {
        /// The joined dimension.
        axis: usize,
    },
    /// `table, indices: i32` → `table` with `axis` replaced by the dimensions of `indices`.
    /// Indices are clamped into the axis.
    Gather {
        /// The indexed dimension of the table.
        axis: usize,
    },
    /// `base, indices: i32 [m], updates` → `base` plus each update at its index along `axis`,
    /// added in order of `m`. `updates` is shaped as `base` with `axis` of size `m`.
    /// Indices are clamped into the axis.
    ScatterAdd {
        /// The indexed dimension of the base.
        axis: usize,
    },
    /// `x` → without `axis`, folded.
    Reduce {
        /// How.
        fold: Fold,
        /// The dimension that goes.
        axis: usize,
    },
    /// `a, b` → their contraction.
    Dot(DotDims),
    /// `a, b, initial` → `h` with `h[t] = a[t] * h[t-1] + b[t]` along `axis`, `h[-1] = initial`.
    /// `initial` is shaped as `a` without `axis`. Floats.
    LinearScan {
        /// The dimension that runs.
        axis: usize,
    },
}

impl Prim {
    /// The name used in text forms and keys.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unary(op) => op.name(),
            Self::Binary(op) => op.name(),
            Self::Select => "select",
            Self::Cast(_) => "cast",
            Self::Constant(_) => "constant",
            Self::Iota { .. } => "iota",
            Self::Philox => "philox",
            Self::Broadcast { .. } => "broadcast",
            Self::Reshape(_) => "reshape",
            Self::Permute(_) => "permute",
            Self::Slice { .. } => "slice",
            Self::Pad { .. } => "pad",
            Self::Concat { .. } => "concat",
            Self::Gather { .. } => "gather",
            Self::ScatterAdd { .. } => "scatter_add",
            Self::Reduce { fold: Fold::Sum, .. } => "reduce_sum",
            Self::Reduce { fold: Fold::Max, .. } => "reduce_max",
            Self::Reduce { fold: Fold::Min, .. } => "reduce_min",
            Self::Dot(_) => "dot",
            Self::LinearScan { .. } => "linear_scan",
        }
    }
}

#[test]
fn the_set_is_small() {
    // Unary and binary leaves, three folds, and the fifteen others of `Prim`.
    let count = Unary::ALL.len() + Binary::ALL.len() + Fold::ALL.len() + 15;
    assert!(count <= PRIMITIVE_COUNT_MAX, "{count} primitives");
}
