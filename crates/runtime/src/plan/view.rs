//! Values that lie in the memory of others.

use std::collections::HashSet;

use calor_ir::{Graph, Op, Prim, ValueId};

use super::index::{Coord, Map, through_reshape};

/// The value whose dense bytes are also those of `value`: reshapes do not move anything.
pub(super) fn dense_root(graph: &Graph, mut value: ValueId) -> ValueId {
    while let Op::Prim(Prim::Reshape(_)) = graph.op(value) {
        value = graph.node(graph.maker(value)).inputs[0];
    }
    value
}

fn is_view(graph: &Graph, value: ValueId) -> bool {
    matches!(graph.op(value), Op::Prim(Prim::Permute(_) | Prim::Slice { .. } | Prim::Reshape(_)))
}

/// The coordinates in `of` of an element of a reshape, permutation or slice of it; nothing where
/// they are not affine, or for anything else.
pub(super) fn through_view(graph: &Graph, view: &Prim, of: ValueId, map: &Map) -> Option<Map> {
    if let Prim::Reshape(to) = view {
        return through_reshape(&graph.shape(of), to, map);
    }
    if let Prim::Permute(axes) = view {
        let mut source = map.clone();
        for (coord, axis) in map.iter().zip(axes) {
            source[*axis] = coord.clone();
        }
        return Some(source);
    }
    if let Prim::Slice { start, step, .. } = view {
        let along = map.iter().zip(start.iter().zip(step));
        let at = |(it, (start, step)): (&Coord, (&usize, &usize))| {
            it.scaled(*step as i64, *start as i64)
        };
        return Some(along.map(at).collect());
    }
    None
}

/// Rows of a value inside the memory of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    /// Whose memory; a dense root.
    pub(super) base: ValueId,
    /// First element.
    pub(super) offset: usize,
    /// Elements between rows.
    pub(super) stride: usize,
}

/// Where `value` lies if nothing is moved: rows of its last `inner` dimensions without gaps, the
/// other dimensions at one stride. Slices, reshapes and permutations of a stored value, or of one
/// that would be stored, qualify.
pub(super) fn rows_of(
    graph: &Graph,
    stored: &HashSet<ValueId>,
    value: ValueId,
    inner: usize,
) -> Option<Rows> {
    let shape = graph.shape(value);
    let root = dense_root(graph, value);
    if stored.contains(&root) || !is_view(graph, root) {
        let split = shape.rank().checked_sub(inner)?;
        let stride = shape.sizes()[split..].iter().product();
        return Some(Rows { base: root, offset: 0, stride });
    }
    let mut map: Map = (0..shape.rank()).map(Coord::var).collect();
    let mut at = value;
    loop {
        if stored.contains(&at) {
            break;
        }
        let node = graph.node(graph.maker(at));
        match &node.op {
            Op::Prim(view @ (Prim::Reshape(_) | Prim::Permute(_) | Prim::Slice { .. })) => {
                map = through_view(graph, view, node.inputs[0], &map)?;
            }
            Op::Prim(_) | Op::Input(_) | Op::Composite(..) => break,
        }
        at = node.inputs[0];
    }
    let strides = graph.shape(at).strides();
    let linear = map
        .iter()
        .zip(strides)
        .fold(Coord::default(), |sum, (coord, stride)| sum.plus(&coord.scaled(stride as i64, 0)));
    let own = shape.strides();
    let split = shape.rank().checked_sub(inner)?;
    let size = |axis: usize| shape.sizes()[axis];
    let inner_dense =
        (split..shape.rank()).all(|axis| size(axis) == 1 || linear.coef[axis] == own[axis] as i64);
    let row_len: usize = shape.sizes()[split..].iter().product();
    let lead: Vec<usize> = (0..split).filter(|axis| size(*axis) != 1).collect();
    let stride = lead.last().map_or(row_len as i64, |axis| linear.coef[*axis]);
    let mut want = stride;
    let mut one_stride = true;
    for axis in lead.iter().rev() {
        one_stride &= linear.coef[*axis] == want;
        want *= size(*axis) as i64;
    }
    let offset = usize::try_from(linear.constant).ok()?;
    let stride = usize::try_from(stride).ok()?;
    (inner_dense && one_stride).then(|| Rows { base: dense_root(graph, at), offset, stride })
}
