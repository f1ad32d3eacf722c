//! Work of a run: multiplications and additions of its matrix products, as far as rows are live.
//!
//! It follows from the graph alone, so it is the same whoever computes a product. What lies between
//! products is not counted, nor is what depends on weights alone. Rows of attention see as many
//! keys as their intervals have, which are inputs: they are looked at when a run starts.

use calor_ir::composite::{attention, experts, pool, pool_eos, splade_pool, top_k};
use calor_ir::{Attrs, Binary, Composite, Graph, Meaning, Node, NodeId, Op, Prim, Role, ValueId};

use super::claims::constants;
use super::live::row_counts;
use super::{Plan, PlanError};

/// Live counts of a program that work can follow: tokens and sequences.
pub(crate) const COUNTED: usize = 2;

/// Work of a run of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Of every run.
    fixed: u64,
    /// Of rows that follow a live count, when it is at its most.
    by_count: [u64; COUNTED],
    attention: Vec<Attention>,
}

/// Rows that see the keys of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attention {
    lo: Bound,
    hi: Bound,
    /// The live count that the rows follow.
    rows: Option<u8>,
    /// For one row and one key.
    pair_flops: u64,
}

/// An end of an interval: an input, which a distance from the row may cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    slot: usize,
    from_row: Option<i64>,
}

impl Work {
    /// Work of `graph` with the buffers of `plan`.
    pub(super) fn of(graph: &Graph, plan: &Plan) -> Result<Self, PlanError> {
        let counts = row_counts(graph);
        let constant = constants(graph);
        let mut work = Self::default();
        for node in graph.nodes() {
            if node.results().all(|it| constant[it.index()]) {
                continue;
            }
            if let Some(attention) = Attention::of(graph, plan, node, &counts) {
                work.see(attention);
                continue;
            }
            let flops = product_flops(graph, node)?;
            let rows = leading(node).and_then(|it| counts[it.index()]);
            match rows.and_then(|it| work.by_count.get_mut(usize::from(it))) {
                Some(sum) => *sum += flops,
                None => work.fixed += flops,
            }
        }
        Ok(work)
    }

    fn see(&mut self, attention: Attention) {
        let is_alike = |it: &&mut Attention| (it.lo, it.hi) == (attention.lo, attention.hi);
        match self.attention.iter_mut().find(is_alike) {
            Some(known) => known.pair_flops += attention.pair_flops,
            None => self.attention.push(attention),
        }
    }

    /// Work of a run with `live` of at most `bucket` tokens and sequences. `input` gives the bytes
    /// of an input by its slot; attention over intervals that it does not have is not counted.
    pub fn flops<'a>(
        &self,
        bucket: [u32; COUNTED],
        live: [u32; COUNTED],
        input: impl Fn(usize) -> Option<&'a [u8]>,
    ) -> u64 {
        let mut flops = self.fixed;
        for ((most, bucket), live) in self.by_count.iter().zip(bucket).zip(live) {
            flops += match bucket {
                0 => 0,
                _ => (u128::from(*most) * u128::from(live) / u128::from(bucket)) as u64,
            };
        }
        for it in &self.attention {
            if let (Some(from), Some(to)) = (input(it.lo.slot), input(it.hi.slot)) {
                let rows = it.rows.and_then(|it| live.get(usize::from(it)));
                flops += it.pair_flops * it.pair_count(from, to, rows.copied());
            }
        }
        flops
    }
}

impl Attention {
    /// Of a node that is attention over intervals that can be followed to inputs.
    fn of(graph: &Graph, plan: &Plan, node: &Node, counts: &[Option<u8>]) -> Option<Self> {
        let [_, _, _, lo, hi] = arguments(node)?;
        let rows = counts[lo.index()];
        let lo = Bound::of(graph, plan, *lo, Binary::Max)?;
        let hi = Bound::of(graph, plan, *hi, Binary::Min)?;
        Some(Self { lo, hi, rows, pair_flops: pair_flops(graph, node) })
    }

    /// Rows and keys that meet, in rows that are live.
    fn pair_count(&self, from: &[u8], to: &[u8], live: Option<u32>) -> u64 {
        let rows = from.as_chunks::<4>().0.iter().zip(to.as_chunks::<4>().0);
        let keys = |(row, (from, to)): (i64, (&[u8; 4], &[u8; 4]))| {
            let mut from = i64::from(i32::from_le_bytes(*from));
            let mut to = i64::from(i32::from_le_bytes(*to));
            if let Some(distance) = self.lo.from_row {
                from = from.max(row + distance);
            }
            if let Some(distance) = self.hi.from_row {
                to = to.min(row + distance);
            }
            (to - from).max(0) as u64
        };
        (0..).zip(rows.take(live.unwrap_or(u32::MAX) as usize)).map(keys).sum()
    }
}

/// The first arguments of attention, where a node is that: q, k, v, lo and hi.
fn arguments(node: &Node) -> Option<&[ValueId; 5]> {
    match &node.op {
        Op::Composite(composite, _) if composite.is(&attention::ATTENTION) => {
            node.inputs.first_chunk()
        }
        Op::Input(_) | Op::Prim(_) | Op::Composite(..) => None,
    }
}

/// Of attention: multiplications and additions for one row and one key.
fn pair_flops(graph: &Graph, node: &Node) -> u64 {
    let [q, v] = [0, 2].map(|it| graph.shape(node.inputs[it]));
    let heads = q.sizes()[1];
    2 * (heads * (q.last() + v.last())) as u64
}

/// Of attention over intervals that are numbers in the graph, such as those of images.
fn fixed_attention_flops(graph: &Graph, node: &Node) -> Option<u64> {
    let [_, _, _, lo, hi] = arguments(node)?;
    let numbers = |value: &ValueId| match &graph.node(graph.maker(*value)).op {
        Op::Prim(Prim::Constant(literal)) => Some(literal.values.iter().sum::<f64>()),
        Op::Input(_) | Op::Prim(_) | Op::Composite(..) => None,
    };
    let pairs = numbers(hi)? - numbers(lo)?;
    Some(pairs.max(0.0) as u64 * pair_flops(graph, node))
}

impl Bound {
    fn of(graph: &Graph, plan: &Plan, value: ValueId, cut: Binary) -> Option<Self> {
        let node = graph.node(graph.maker(value));
        match &node.op {
            Op::Input(input) if input.role == Role::Data => {
                Some(Self { slot: plan.input_index(&input.name)?, from_row: None })
            }
            Op::Prim(Prim::Binary(op)) if *op == cut => {
                let (Self { slot, from_row }, row) =
                    match Self::of(graph, plan, node.inputs[0], cut) {
                        Some(bound) => (bound, node.inputs[1]),
                        None => (Self::of(graph, plan, node.inputs[1], cut)?, node.inputs[0]),
                    };
                let (1, distance) = line(graph, row)? else { return None };
                from_row.is_none().then_some(Self { slot, from_row: Some(distance) })
            }
            Op::Input(_) | Op::Prim(_) | Op::Composite(..) => None,
        }
    }
}

/// A value that is `a · row + b` for whole numbers: (a, b).
fn line(graph: &Graph, value: ValueId) -> Option<(i64, i64)> {
    let node = graph.node(graph.maker(value));
    let Op::Prim(prim) = &node.op else { return None };
    match prim {
        Prim::Iota { axis: 0, .. } => Some((1, 0)),
        Prim::Constant(literal) => {
            let first = *literal.values.first()?;
            literal.values.iter().all(|it| *it == first).then_some((0, first as i64))
        }
        Prim::Broadcast { .. } | Prim::Reshape(_) => {
            line(graph, node.inputs[0]).filter(|it| it.0 == 0)
        }
        Prim::Binary(op @ (Binary::Add | Binary::Sub)) => {
            let (a, b) = (line(graph, node.inputs[0])?, line(graph, node.inputs[1])?);
            let sign = if *op == Binary::Add { 1 } else { -1 };
            Some((a.0 + sign * b.0, a.1 + sign * b.1))
        }
        _ => None,
    }
}

/// The value whose rows the work of a node follows.
fn leading(node: &Node) -> Option<ValueId> {
    let by_input = match &node.op {
        Op::Composite(composite, _) => composite.is(&splade_pool::SPLADE_POOL),
        Op::Prim(_) | Op::Input(_) => false,
    };
    let result = node.results().next()?;
    if by_input { node.inputs.first().copied() } else { Some(result) }
}

/// Multiplications and additions of a node's products at full extent. Those of attention count
/// where its intervals are numbers in the graph.
///
/// # Errors
/// What expanding a composite says.
pub(super) fn product_flops(graph: &Graph, node: &Node) -> Result<u64, PlanError> {
    let (composite, attrs) = match &node.op {
        Op::Input(_) => return Ok(0),
        Op::Prim(prim) => return Ok(dot_flops(graph, node, prim)),
        Op::Composite(composite, attrs) => (*composite, attrs),
    };
    if composite.is(&attention::ATTENTION) {
        return Ok(fixed_attention_flops(graph, node).unwrap_or(0));
    }
    let without = [&pool::POOL, &pool_eos::POOL_EOS];
    if without.iter().any(|it| composite.is(it)) {
        return Ok(0);
    }
    if composite.is(&experts::EXPERTS) {
        return Ok(expert_flops(graph, node));
    }
    if composite.is(&splade_pool::SPLADE_POOL) {
        let [rows, terms] = [0, 1].map(|it| graph.shape(node.inputs[it]));
        return Ok(2 * (rows.element_count() * terms.sizes()[0]) as u64);
    }
    expanded_flops(graph, node, composite, attrs)
}

fn dot_flops(graph: &Graph, node: &Node, prim: &Prim) -> u64 {
    let Prim::Dot(dims) = prim else { return 0 };
    let left = graph.shape(node.inputs[0]);
    let summed: usize = dims.contract.iter().map(|it| left.sizes()[it.0]).product();
    2 * (graph.shape(node.result()).element_count() * summed) as u64
}

/// Each row goes to the experts that were chosen for it, or to all.
fn expert_flops(graph: &Graph, node: &Node) -> u64 {
    let [rows, shares, w1, w2] = [0, 1, 2, 4].map(|it| graph.shape(node.inputs[it]));
    let chosen = match &graph.node(graph.maker(node.inputs[1])).op {
        Op::Composite(composite, attrs) if composite.is(&top_k::TOP_K) => attrs.get_int("k"),
        Op::Input(_) | Op::Prim(_) | Op::Composite(..) => None,
    };
    let count = chosen.and_then(|it| usize::try_from(it).ok()).unwrap_or(shares.last());
    let [_, hidden, input] = *w1.sizes() else { return 0 };
    let [_, output, _] = *w2.sizes() else { return 0 };
    2 * (rows.sizes()[0] * count * hidden * (input + output)) as u64
}

/// The sum over the nodes that a composite stands for.
fn expanded_flops(
    graph: &Graph,
    node: &Node,
    composite: &'static Composite,
    attrs: &Attrs,
) -> Result<u64, PlanError> {
    let Meaning::Expand(expand) = composite.meaning else { return Ok(0) };
    let mut scratch = Graph::new();
    let inputs: Vec<ValueId> =
        node.inputs.iter().map(|it| scratch.input("", Role::Data, graph.ty(*it))).collect();
    expand(&mut scratch, attrs, &inputs)?;
    let all = (0..scratch.nodes().len()).map(NodeId::from_index);
    all.map(|it| product_flops(&scratch, scratch.node(it))).sum()
}
