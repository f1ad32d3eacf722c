//! Arguments of composites: their number, sizes and types, checked before the expansion looks.

use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};

/// The arguments, when there are exactly `N`.
pub(crate) fn exactly<const N: usize>(
    g: &Graph,
    op: &'static str,
    inputs: &[ValueId],
) -> Result<[ValueId; N], GraphError> {
    inputs.try_into().map_err(|_| g.refuse(op, inputs, "wrong number of arguments"))
}

/// `N` arguments and perhaps one more.
pub(crate) fn one_optional<const N: usize>(
    g: &Graph,
    op: &'static str,
    inputs: &[ValueId],
) -> Result<([ValueId; N], Option<ValueId>), GraphError> {
    match inputs.split_last() {
        Some((last, rest)) if inputs.len() == N + 1 => Ok((exactly(g, op, rest)?, Some(*last))),
        Some(_) | None => Ok((exactly(g, op, inputs)?, None)),
    }
}

/// The sizes of an argument that must have `N` dimensions.
pub(crate) fn sizes<const N: usize>(
    g: &Graph,
    op: &'static str,
    x: ValueId,
) -> Result<[usize; N], GraphError> {
    let wrong = |_| g.refuse(op, &[x], "wrong number of dimensions");
    g.shape(x).sizes().try_into().map_err(wrong)
}

/// Demands a type and a shape of an argument.
pub(crate) fn want(
    g: &Graph,
    op: &'static str,
    x: ValueId,
    dtype: DType,
    sizes: &[usize],
) -> Result<(), GraphError> {
    if g.ty(x).dtype == dtype && g.shape(x).sizes() == sizes {
        return Ok(());
    }
    Err(g.refuse(op, &[x], "an argument has another type or shape than the others ask for"))
}

/// Demands a shape of an argument.
pub(crate) fn want_sizes(
    g: &Graph,
    op: &'static str,
    x: ValueId,
    sizes: &[usize],
) -> Result<(), GraphError> {
    want(g, op, x, g.ty(x).dtype, sizes)
}

/// Demands a float.
pub(crate) fn want_float(g: &Graph, op: &'static str, x: ValueId) -> Result<(), GraphError> {
    if g.ty(x).dtype.is_float() {
        return Ok(());
    }
    Err(g.refuse(op, &[x], "wants a float"))
}

/// The size of the last axis of an argument that is no scalar.
pub(crate) fn row_len(g: &Graph, op: &'static str, x: ValueId) -> Result<usize, GraphError> {
    let last = g.shape(x).sizes().last().copied();
    last.ok_or_else(|| g.refuse(op, &[x], "a scalar has no last axis"))
}
