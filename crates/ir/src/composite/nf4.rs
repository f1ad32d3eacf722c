//! Weights of four bits each (NF4): what their codes and scales stand for. Not a composite.
//!
//! A weight is cut, row after row, into blocks of [`BLOCK`] elements, which may cross rows. An
//! element is an entry of [`CODEBOOK`] times the scale of its block. Two codes share a byte, the
//! even element in the high half.

use crate::case::CaseBuilder;
use crate::composite::arguments::want;
use crate::composite::{Attrs, linear::LINEAR};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};
use crate::op::{Binary, Literal, Prim};
use crate::shape::Shape;

/// Elements that share a scale.
pub const BLOCK: usize = 64;

/// What each code stands for: quantiles of the normal distribution, scaled to reach from -1 to 1
/// (Dettmers et al., arXiv 2305.14314).
pub const CODEBOOK: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A weight `[n, k]` as two values: `codes: u8 [⌈n k / 2⌉]`, `scales: f32 [⌈n k / 64⌉]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nf4Weight {
    /// Two codes in each byte.
    pub codes: ValueId,
    /// A scale for each block.
    pub scales: ValueId,
}

/// The weight `[n, k]`, rounded to `dtype`.
pub(crate) fn unpack(
    g: &mut Graph,
    op: &'static str,
    weight: Nf4Weight,
    [n, k]: [usize; 2],
    dtype: DType,
) -> Result<ValueId, GraphError> {
    let Nf4Weight { codes, scales } = weight;
    let count = n.checked_mul(k).filter(|it| 0 < *it && i32::try_from(*it).is_ok());
    let too_large = "a weight has no element, or more than an index can name";
    let count = count.ok_or_else(|| g.refuse(op, &[codes, scales], too_large))?;
    want(g, op, codes, DType::U8, &[count.div_ceil(2)])?;
    want(g, op, scales, DType::F32, &[count.div_ceil(BLOCK)])?;
    let index = g.iota(DType::I32, &[count], 0)?;
    let at = g.with_number(Binary::Shr, index, 1.0)?;
    let byte = g.gather(codes, 0, at)?;
    let byte = g.cast(byte, DType::I32)?;
    let odd = g.with_number(Binary::And, index, 1.0)?;
    let low = g.with_number(Binary::Shl, odd, 2.0)?;
    let four = g.scalar(DType::I32, 4.0)?;
    let shift = g.sub(four, low)?;
    let code = g.binary(Binary::Shr, byte, shift)?;
    let code = g.with_number(Binary::And, code, 15.0)?;
    let values = CODEBOOK.iter().map(|it| f64::from(*it)).collect();
    let shape = Shape::new(&[CODEBOOK.len()]);
    let book = g.prim(Prim::Constant(Literal { dtype: DType::F32, shape, values }), &[])?;
    let unit = g.gather(book, 0, code)?;
    let block = g.with_number(Binary::Shr, index, f64::from(BLOCK.ilog2()))?;
    let scale = g.gather(scales, 0, block)?;
    let weight = g.mul(unit, scale)?;
    let weight = g.reshape(weight, &[n, k])?;
    g.cast(weight, dtype)
}

/// `x · wᵀ` for a dense weight, without anything more.
pub(crate) fn product(g: &mut Graph, x: ValueId, w: ValueId) -> Result<ValueId, GraphError> {
    g.call(&LINEAR, Attrs::NONE.word("activation", "none"), &[x, w])
}

/// An extent that an attribute gives.
pub(crate) fn extent(
    attrs: &Attrs,
    op: &'static str,
    name: &'static str,
) -> Result<usize, GraphError> {
    let value = usize::try_from(attrs.need_int(op, name)?);
    value.map_err(|_| GraphError::Attribute { op, name })
}

/// Inputs `{name}.codes` and `{name}.scales` of a case.
pub(crate) fn drawn(case: &mut CaseBuilder, name: &str, [n, k]: [usize; 2]) -> [ValueId; 2] {
    let (codes, scales) = (format!("{name}.codes"), format!("{name}.scales"));
    let count = n * k;
    let values = [
        case.random_in(&codes, DType::U8, &[count.div_ceil(2)], 0.0, 255.0),
        case.random_in(&scales, DType::F32, &[count.div_ceil(BLOCK)], 0.1, 0.5),
    ];
    case.constant(&scales);
    values
}

/// Extents `[rows, n, k]` of cases: whole blocks in each row, blocks across rows, bytes across
/// rows, less than a block.
pub(crate) const EXTENTS: [(&str, [usize; 3]); 5] = [
    ("blocks", [5, 6, 128]),
    ("one row", [1, 16, 64]),
    ("blocks across rows", [3, 10, 40]),
    ("bytes across rows", [4, 9, 7]),
    ("less than a block", [2, 3, 5]),
];
