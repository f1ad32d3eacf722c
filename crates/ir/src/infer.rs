//! Types of primitives: what they take and what they give.

use crate::dtype::DType;
use crate::graph::Type;
use crate::op::{DotDims, Literal, Prim};
use crate::shape::Shape;

/// The result type of `prim` for arguments of these types.
///
/// # Errors
/// What is wrong with the arguments, in a few words.
pub fn infer(prim: &Prim, types: &[Type]) -> Result<Type, &'static str> {
    match prim {
        Prim::Unary(op) => {
            let [x] = arguments(types)?;
            if op.accepts(x.dtype) { Ok(x) } else { Err("not defined on this element type") }
        }
        Prim::Binary(op) => {
            let [a, b] = arguments(types)?;
            if a != b {
                return Err("the arguments differ in type or shape");
            }
            if !op.accepts(a.dtype) {
                return Err("not defined on this element type");
            }
            Ok(Type { dtype: op.result(a.dtype), shape: a.shape })
        }
        Prim::Select => {
            let [condition, a, b] = arguments(types)?;
            if condition.dtype != DType::Bool || condition.shape != a.shape || a != b {
                return Err("wants a bool condition and two values of its shape");
            }
            Ok(a)
        }
        Prim::Cast(dtype) => arguments::<1>(types).map(|[x]| Type { dtype: *dtype, ..x }),
        Prim::Constant(literal) => constant(types, literal),
        Prim::Iota { dtype, shape, axis } => {
            let [] = arguments(types)?;
            if !dtype.is_int() || shape.rank() <= *axis {
                return Err("wants an integer type and an axis of the shape");
            }
            Ok(Type { dtype: *dtype, shape: *shape })
        }
        Prim::Philox => {
            let [key, counter] = arguments(types)?;
            if key != Type::new(DType::U32, &[2]) || counter.dtype != DType::U32 {
                return Err("wants a key of two u32 and u32 counters");
            }
            Ok(counter)
        }
        Prim::Broadcast { shape, axes } => broadcast(types, shape, axes),
        Prim::Reshape(shape) => {
            let [x] = arguments(types)?;
            if x.shape.element_count() != shape.element_count() {
                return Err("the number of elements would change");
            }
            Ok(Type { shape: *shape, ..x })
        }
        Prim::Permute(axes) => permute(types, axes),
        Prim::Slice { start, limit, step } => slice(types, start, limit, step),
        Prim::Pad { low, high, .. } => pad(types, low, high),
        Prim::Concat { axis } => concat(types, *axis),
        Prim::Gather { axis } => gather(types, *axis),
        Prim::ScatterAdd { axis } => scatter_add(types, *axis),
        Prim::Reduce { axis, .. } => {
            let [x] = arguments(types)?;
            Ok(Type { shape: without(x.shape, *axis)?, ..x })
        }
        Prim::Dot(dims) => dot(types, dims),
        Prim::LinearScan { axis } => linear_scan(types, *axis),
    }
}

fn arguments<const N: usize>(types: &[Type]) -> Result<[Type; N], &'static str> {
    types.try_into().map_err(|_| "wrong number of arguments")
}

fn without(shape: Shape, axis: usize) -> Result<Shape, &'static str> {
    let mut sizes = shape.sizes().to_vec();
    if sizes.len() <= axis {
        return Err("there is no such axis");
    }
    sizes.remove(axis);
    shape_of(&sizes)
}

fn shape_of(sizes: &[usize]) -> Result<Shape, &'static str> {
    Shape::try_new(sizes).ok_or("the result has too many dimensions or elements")
}

fn constant(types: &[Type], literal: &Literal) -> Result<Type, &'static str> {
    let [] = arguments(types)?;
    let count = literal.values.len();
    if count != 1 && count != literal.shape.element_count() {
        return Err("the number of values is neither one nor that of the elements");
    }
    Ok(Type { dtype: literal.dtype, shape: literal.shape })
}

fn linear_scan(types: &[Type], axis: usize) -> Result<Type, &'static str> {
    let [a, b, initial] = arguments(types)?;
    if !a.dtype.is_float() || a != b || initial.dtype != a.dtype {
        return Err("wants two float values of one type and a start of that type");
    }
    if initial.shape != without(a.shape, axis)? {
        return Err("the start is not shaped as one step");
    }
    Ok(a)
}

fn broadcast(types: &[Type], shape: &Shape, axes: &[usize]) -> Result<Type, &'static str> {
    let [x] = arguments(types)?;
    if axes.len() != x.shape.rank() || !axes.is_sorted_by(|a, b| a < b) {
        return Err("wants one increasing axis for each dimension");
    }
    for (size, axis) in x.shape.sizes().iter().zip(axes) {
        match shape.sizes().get(*axis) {
            Some(to) if size == to || *size == 1 => {}
            Some(_) => return Err("only a size of one can be repeated"),
            None => return Err("there is no such axis"),
        }
    }
    Ok(Type { shape: *shape, ..x })
}

fn permute(types: &[Type], axes: &[usize]) -> Result<Type, &'static str> {
    let [x] = arguments(types)?;
    let mut seen = axes.to_vec();
    seen.sort_unstable();
    if !seen.iter().copied().eq(0..x.shape.rank()) {
        return Err("the axes are no permutation");
    }
    let sizes: Vec<usize> = axes.iter().map(|axis| x.shape.sizes()[*axis]).collect();
    Ok(Type { shape: shape_of(&sizes)?, ..x })
}

fn slice(
    types: &[Type],
    start: &[usize],
    limit: &[usize],
    step: &[usize],
) -> Result<Type, &'static str> {
    let [x] = arguments(types)?;
    let rank = x.shape.rank();
    if start.len() != rank || limit.len() != rank || step.len() != rank {
        return Err("wants a start, a limit and a step for each dimension");
    }
    let mut sizes = Vec::with_capacity(rank);
    for (axis, size) in x.shape.sizes().iter().enumerate() {
        if step[axis] == 0 || limit[axis] < start[axis] || *size < limit[axis] {
            return Err("the range is not inside the dimension");
        }
        sizes.push((limit[axis] - start[axis]).div_ceil(step[axis]));
    }
    Ok(Type { shape: shape_of(&sizes)?, ..x })
}

fn pad(types: &[Type], low: &[usize], high: &[usize]) -> Result<Type, &'static str> {
    let [x] = arguments(types)?;
    if low.len() != x.shape.rank() || high.len() != x.shape.rank() {
        return Err("wants a low and a high count for each dimension");
    }
    let mut sizes = Vec::with_capacity(low.len());
    for (axis, size) in x.shape.sizes().iter().enumerate() {
        let padded = size.checked_add(low[axis]).and_then(|it| it.checked_add(high[axis]));
        sizes.push(padded.ok_or("the padding is too large")?);
    }
    Ok(Type { shape: shape_of(&sizes)?, ..x })
}

fn concat(types: &[Type], axis: usize) -> Result<Type, &'static str> {
    let [first, rest @ ..] = types else { return Err("wants at least one argument") };
    let mut sizes = first.shape.sizes().to_vec();
    if sizes.len() <= axis {
        return Err("there is no such axis");
    }
    for ty in rest {
        let same_rank = ty.shape.rank() == sizes.len();
        let fits = |at: usize| at == axis || ty.shape.sizes()[at] == sizes[at];
        if ty.dtype != first.dtype || !same_rank || !(0..sizes.len()).all(fits) {
            return Err("the arguments differ outside the joined axis");
        }
        sizes[axis] += ty.shape.sizes()[axis];
    }
    Ok(Type { shape: shape_of(&sizes)?, ..*first })
}

fn gather(types: &[Type], axis: usize) -> Result<Type, &'static str> {
    let [table, indices] = arguments(types)?;
    let from = table.shape.sizes();
    if indices.dtype != DType::I32 || from.len() <= axis || from[axis] == 0 {
        return Err("wants i32 indices and a non-empty axis of the table");
    }
    let sizes = [&from[..axis], indices.shape.sizes(), &from[axis + 1..]].concat();
    Ok(Type { shape: shape_of(&sizes)?, ..table })
}

fn scatter_add(types: &[Type], axis: usize) -> Result<Type, &'static str> {
    let [base, indices, updates] = arguments(types)?;
    let mut sizes = base.shape.sizes().to_vec();
    if indices.dtype != DType::I32 || indices.shape.rank() != 1 {
        return Err("wants one row of i32 indices");
    }
    if sizes.len() <= axis || sizes[axis] == 0 {
        return Err("there is no such axis, or it is empty");
    }
    sizes[axis] = indices.shape.element_count();
    if updates.dtype != base.dtype || updates.shape.sizes() != sizes {
        return Err("the updates are not shaped as the base with one row for each index");
    }
    Ok(base)
}

fn dot(types: &[Type], dims: &DotDims) -> Result<Type, &'static str> {
    let [a, b] = arguments(types)?;
    if a.dtype != b.dtype {
        return Err("the element types differ");
    }
    let (left, right) = (a.shape.sizes(), b.shape.sizes());
    let mut left_used = vec![false; left.len()];
    let mut right_used = vec![false; right.len()];
    let mut sizes = Vec::new();
    let pairs = dims.batch.iter().map(|it| (it, true));
    for ((i, j), stays) in pairs.chain(dims.contract.iter().map(|it| (it, false))) {
        if left.len() <= *i || right.len() <= *j || left[*i] != right[*j] {
            return Err("a paired dimension is missing or differs in size");
        }
        if std::mem::replace(&mut left_used[*i], true)
            || std::mem::replace(&mut right_used[*j], true)
        {
            return Err("a dimension is paired twice");
        }
        if stays {
            sizes.push(left[*i]);
        }
    }
    let free = |sizes: &mut Vec<usize>, from: &[usize], used: &[bool]| {
        sizes.extend(from.iter().zip(used).filter(|(_, used)| !**used).map(|(size, _)| *size));
    };
    free(&mut sizes, left, &left_used);
    free(&mut sizes, right, &right_used);
    Ok(Type { dtype: dims.out, shape: shape_of(&sizes)? })
}
