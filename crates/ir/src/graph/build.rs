//! Shorthands for building graphs. Each adds a few primitives and could be written without.

use super::{Graph, GraphError, ValueId};
use crate::dtype::DType;
use crate::op::{Binary, DotDims, Fold, Literal, Prim, Unary};
use crate::shape::{RANK_MAX, Shape};

/// Shorthands. Binary operations repeat the smaller argument as NumPy does.
impl Graph {
    /// A number of `dtype`.
    ///
    /// # Errors
    /// None in practice; the form is that of the other builders.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> Result<ValueId, GraphError> {
        self.prim(Prim::Constant(Literal::scalar(dtype, value)), &[])
    }

    /// One primitive on one argument.
    ///
    /// # Errors
    /// When the type does not fit.
    pub fn unary(&mut self, op: Unary, x: ValueId) -> Result<ValueId, GraphError> {
        self.prim(Prim::Unary(op), &[x])
    }

    /// One primitive on two arguments, repeated to a common shape.
    ///
    /// # Errors
    /// When the types or shapes do not fit.
    pub fn binary(&mut self, op: Binary, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        let (a, b) = self.align(op.name(), a, b)?;
        self.prim(Prim::Binary(op), &[a, b])
    }

    /// `a + b`.
    ///
    /// # Errors
    /// As [`Graph::binary`].
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        self.binary(Binary::Add, a, b)
    }

    /// `a - b`.
    ///
    /// # Errors
    /// As [`Graph::binary`].
    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        self.binary(Binary::Sub, a, b)
    }

    /// `a * b`.
    ///
    /// # Errors
    /// As [`Graph::binary`].
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        self.binary(Binary::Mul, a, b)
    }

    /// `a / b`.
    ///
    /// # Errors
    /// As [`Graph::binary`].
    pub fn div(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
        self.binary(Binary::Div, a, b)
    }

    /// `x op number`, the number being of the type of `x`.
    ///
    /// # Errors
    /// As [`Graph::binary`].
    pub fn with_number(
        &mut self,
        op: Binary,
        x: ValueId,
        number: f64,
    ) -> Result<ValueId, GraphError> {
        let number = self.scalar(self.ty(x).dtype, number)?;
        self.binary(op, x, number)
    }

    /// `condition ? a : b`, all repeated to a common shape.
    ///
    /// # Errors
    /// When the types or shapes do not fit.
    pub fn select(
        &mut self,
        condition: ValueId,
        a: ValueId,
        b: ValueId,
    ) -> Result<ValueId, GraphError> {
        let (a, b) = self.align("select", a, b)?;
        let (condition, a) = self.align_shapes("select", condition, a)?;
        let b = self.broadcast_to(b, self.shape(a))?;
        self.prim(Prim::Select, &[condition, a, b])
    }

    /// `x` as another type.
    ///
    /// # Errors
    /// None in practice; the form is that of the other builders.
    pub fn cast(&mut self, x: ValueId, dtype: DType) -> Result<ValueId, GraphError> {
        if self.ty(x).dtype == dtype {
            return Ok(x);
        }
        self.prim(Prim::Cast(dtype), &[x])
    }

    /// `x` under another shape of as many elements.
    ///
    /// # Errors
    /// When the counts differ.
    pub fn reshape(&mut self, x: ValueId, sizes: &[usize]) -> Result<ValueId, GraphError> {
        let shape = self.shape_of("reshape", x, sizes)?;
        if shape == self.shape(x) {
            return Ok(x);
        }
        self.prim(Prim::Reshape(shape), &[x])
    }

    /// `x` with its dimensions in another order.
    ///
    /// # Errors
    /// When `axes` is no permutation.
    pub fn permute(&mut self, x: ValueId, axes: &[usize]) -> Result<ValueId, GraphError> {
        self.prim(Prim::Permute(axes.to_vec()), &[x])
    }

    /// Indices `start..limit` of one dimension.
    ///
    /// # Errors
    /// When they are out of range.
    pub fn slice(
        &mut self,
        x: ValueId,
        axis: usize,
        start: usize,
        limit: usize,
    ) -> Result<ValueId, GraphError> {
        let sizes = self.shape(x).sizes().to_vec();
        let mut starts = vec![0; sizes.len()];
        let mut limits = sizes.clone();
        if let (Some(from), Some(to)) = (starts.get_mut(axis), limits.get_mut(axis)) {
            (*from, *to) = (start, limit);
        } else {
            return Err(self.refuse("slice", &[x], "there is no such axis"));
        }
        let step = vec![1; sizes.len()];
        self.prim(Prim::Slice { start: starts, limit: limits, step }, &[x])
    }

    /// Values joined along `axis`.
    ///
    /// # Errors
    /// When their other dimensions differ.
    pub fn concat(&mut self, axis: usize, parts: &[ValueId]) -> Result<ValueId, GraphError> {
        self.prim(Prim::Concat { axis }, parts)
    }

    /// `table` at `indices` along `axis`.
    ///
    /// # Errors
    /// When the types do not fit.
    pub fn gather(
        &mut self,
        table: ValueId,
        axis: usize,
        indices: ValueId,
    ) -> Result<ValueId, GraphError> {
        self.prim(Prim::Gather { axis }, &[table, indices])
    }

    /// `x` folded along `axis`, which goes.
    ///
    /// # Errors
    /// When there is no such axis.
    pub fn reduce(&mut self, fold: Fold, x: ValueId, axis: usize) -> Result<ValueId, GraphError> {
        self.prim(Prim::Reduce { fold, axis }, &[x])
    }

    /// `x` folded along its last axis, which stays with size one.
    ///
    /// # Errors
    /// When `x` is a scalar.
    pub fn reduce_rows(&mut self, fold: Fold, x: ValueId) -> Result<ValueId, GraphError> {
        let mut sizes = self.shape(x).sizes().to_vec();
        let Some(last) = sizes.last_mut() else {
            return Err(self.refuse("reduce", &[x], "a scalar has no last axis"));
        };
        *last = 1;
        let folded = self.reduce(fold, x, sizes.len() - 1)?;
        self.reshape(folded, &sizes)
    }

    /// A contraction.
    ///
    /// # Errors
    /// When the dimensions do not pair.
    pub fn dot(&mut self, a: ValueId, b: ValueId, dims: DotDims) -> Result<ValueId, GraphError> {
        self.prim(Prim::Dot(dims), &[a, b])
    }

    /// `a [.., k] · wᵀ` for `w [n, k]`: the product of a linear layer, result `[.., n]`.
    ///
    /// # Errors
    /// When the sizes of `k` differ.
    pub fn dot_rows(&mut self, a: ValueId, w: ValueId) -> Result<ValueId, GraphError> {
        let last = self.shape(a).rank().wrapping_sub(1);
        let out = self.ty(a).dtype;
        self.dot(a, w, DotDims { batch: vec![], contract: vec![(last, 1)], out })
    }

    /// `x` repeated to `shape` as NumPy does: dimensions are matched from the last.
    ///
    /// # Errors
    /// When they do not match.
    pub fn broadcast_to(&mut self, x: ValueId, shape: Shape) -> Result<ValueId, GraphError> {
        let from = self.shape(x);
        if from == shape {
            return Ok(x);
        }
        if shape.rank() < from.rank() {
            return Err(self.refuse("broadcast", &[x], "the result has fewer dimensions"));
        }
        let lead = shape.rank() - from.rank();
        let axes = (lead..shape.rank()).collect();
        self.prim(Prim::Broadcast { shape, axes }, &[x])
    }

    /// Each element's index along `axis`.
    ///
    /// # Errors
    /// When there is no such axis or `dtype` is no integer.
    pub fn iota(
        &mut self,
        dtype: DType,
        sizes: &[usize],
        axis: usize,
    ) -> Result<ValueId, GraphError> {
        let shape = Shape::try_new(sizes).ok_or_else(|| self.refuse("iota", &[], "no shape"))?;
        self.prim(Prim::Iota { dtype, shape, axis }, &[])
    }

    fn shape_of(&self, op: &str, x: ValueId, sizes: &[usize]) -> Result<Shape, GraphError> {
        Shape::try_new(sizes).ok_or_else(|| self.refuse(op, &[x], "the sizes are no shape"))
    }

    fn align(
        &mut self,
        op: &str,
        a: ValueId,
        b: ValueId,
    ) -> Result<(ValueId, ValueId), GraphError> {
        if self.ty(a).dtype != self.ty(b).dtype {
            return Err(self.refuse(op, &[a, b], "the element types differ"));
        }
        self.align_shapes(op, a, b)
    }

    fn align_shapes(
        &mut self,
        op: &str,
        a: ValueId,
        b: ValueId,
    ) -> Result<(ValueId, ValueId), GraphError> {
        let (left, right) = (self.shape(a), self.shape(b));
        if left == right {
            return Ok((a, b));
        }
        let rank = left.rank().max(right.rank());
        let mut sizes = [1; RANK_MAX];
        for shape in [left, right] {
            let lead = rank - shape.rank();
            for (at, size) in shape.sizes().iter().enumerate() {
                let common = &mut sizes[lead + at];
                if *common == 1 {
                    *common = *size;
                } else if *size != 1 && *size != *common {
                    return Err(self.refuse(op, &[a, b], "the shapes do not match"));
                }
            }
        }
        let shape = self.shape_of(op, a, &sizes[..rank])?;
        Ok((self.broadcast_to(a, shape)?, self.broadcast_to(b, shape)?))
    }

    /// The error of an operation that does not take these values.
    pub fn refuse(&self, op: &str, values: &[ValueId], why: &'static str) -> GraphError {
        let got = values.iter().map(|it| self.ty(*it)).collect();
        GraphError::Types { op: op.into(), got, why }
    }
}
