//! Which values exist in memory, and the kernels that compute them.
//!
//! A value is stored when it crosses the graph's border, when a claimed step reads or writes it,
//! when a template cannot look through it, when two kernels would compute it twice, or when it
//! depends on weights alone. Everything else lives in registers. The set only grows, so this ends.

use std::collections::{BTreeSet, HashMap, HashSet};

use calor_device::{Layout, OfferArg};
use calor_ir::{Graph, NodeId, Op, Prim, ValueId};

use super::PlanError;
use super::claims::{Claimed, is_builtin, reads, writes};
use super::pull::Stop;
use super::root::{Built, Kernel, build};
use super::view::{dense_root, rows_of};

/// Stored values and their kernels.
pub(super) struct Grouped {
    /// Everything that exists in memory; dense roots.
    pub(super) stored: HashSet<ValueId>,
    /// Kernels of each computed value, in order.
    pub(super) kernels: HashMap<ValueId, Vec<Kernel>>,
}

/// Chooses the stored values of a graph and builds their kernels.
pub(super) fn group(claimed: &Claimed) -> Result<Grouped, PlanError> {
    let graph = &claimed.graph;
    let costly = costly(graph);
    let mut stored = border(claimed);
    stored.extend(repeated_operands(graph, &costly));
    let given: HashSet<ValueId> = claimed.offers.values().flat_map(writes).collect();
    let computed = |it: &ValueId| !given.contains(it) && !is_buffer(graph, *it);
    let mut open: BTreeSet<ValueId> = stored.iter().copied().filter(computed).collect();
    let mut works = Works::new(claimed, costly);
    loop {
        let more = match open.pop_first() {
            Some(value) => match build(graph, &stored, value) {
                Ok(built) => {
                    works.insert(value, built);
                    continue;
                }
                Err(Stop::Store(more)) => {
                    let more = dense_root(graph, more);
                    if more == value || stored.contains(&more) {
                        return Err(stuck(graph, more));
                    }
                    open.insert(value);
                    more
                }
                Err(Stop::Fail(err)) => return Err(err),
            },
            None => match works.latest_worth_memory() {
                Some(value) => dense_root(graph, value),
                None => break,
            },
        };
        stored.insert(more);
        open.extend(works.remove_users(more));
        open.extend(Some(more).filter(computed));
    }
    let kernels = works.built.into_iter().map(|(value, built)| (value, built.kernels)).collect();
    Ok(Grouped { stored, kernels })
}

/// Kernels built so far, and which values they compute on the way.
struct Works<'a> {
    graph: &'a Graph,
    constant: &'a [bool],
    costly: Vec<bool>,
    built: HashMap<ValueId, Built>,
    /// For each value computed on the way, by its dense root: for whom.
    users: HashMap<ValueId, BTreeSet<ValueId>>,
    /// How many compute a value.
    counts: HashMap<ValueId, usize>,
    /// How many compute a value that depends on weights alone for one that does not.
    late_counts: HashMap<ValueId, usize>,
    /// Costly values that more than one computes, or that the prelude could compute once.
    worth_memory: BTreeSet<ValueId>,
}

impl<'a> Works<'a> {
    fn new(claimed: &'a Claimed, costly: Vec<bool>) -> Self {
        let graph = &claimed.graph;
        Self {
            graph,
            constant: &claimed.constant,
            costly,
            built: HashMap::new(),
            users: HashMap::new(),
            counts: HashMap::new(),
            late_counts: HashMap::new(),
            worth_memory: BTreeSet::new(),
        }
    }

    fn insert(&mut self, value: ValueId, built: Built) {
        for touched in &built.touched {
            let root = dense_root(self.graph, *touched);
            self.users.entry(root).or_default().insert(value);
            let late = self.is_late(value, *touched);
            let count = self.counts.entry(*touched).or_default();
            *count += 1;
            if late {
                *self.late_counts.entry(*touched).or_default() += 1;
            }
            if (*count > 1 || late) && self.costly[touched.index()] {
                self.worth_memory.insert(*touched);
            }
        }
        self.built.insert(value, built);
    }

    /// Drops the kernels that compute `root` on the way, and says whose they were.
    fn remove_users(&mut self, root: ValueId) -> BTreeSet<ValueId> {
        let users = self.users.remove(&root).unwrap_or_default();
        for value in users.iter().copied() {
            let Some(Built { touched, .. }) = self.built.remove(&value) else { continue };
            for touched in touched {
                if let Some(users) = self.users.get_mut(&dense_root(self.graph, touched)) {
                    users.remove(&value);
                }
                let late = self.is_late(value, touched);
                let count = self.counts.entry(touched).or_default();
                *count = count.saturating_sub(1);
                let late_count = self.late_counts.entry(touched).or_default();
                *late_count = late_count.saturating_sub(usize::from(late));
                if *count < 2 && *late_count == 0 {
                    self.worth_memory.remove(&touched);
                }
            }
        }
        users
    }

    /// Whether `touched` could be computed once but is computed in each run, for `value`.
    fn is_late(&self, value: ValueId, touched: ValueId) -> bool {
        self.constant[touched.index()] && !self.constant[value.index()]
    }

    /// The latest value that two kernels compute, or the prelude should, and is worth memory.
    fn latest_worth_memory(&self) -> Option<ValueId> {
        self.worth_memory.last().copied()
    }
}

fn stuck(graph: &Graph, value: ValueId) -> PlanError {
    let op = match graph.op(value) {
        Op::Input(_) => "input",
        Op::Prim(prim) => prim.name(),
        Op::Composite(composite, _) => composite.name,
    };
    PlanError::Template { op, why: "the three loops of a kernel do not reach it" }
}

/// Values that are buffers without any kernel.
fn is_buffer(graph: &Graph, value: ValueId) -> bool {
    match graph.op(value) {
        Op::Input(_) => true,
        Op::Prim(Prim::Constant(literal)) => literal.splat().is_none(),
        Op::Prim(_) | Op::Composite(..) => false,
    }
}

/// Values that exist in any case.
fn border(claimed: &Claimed) -> HashSet<ValueId> {
    let graph = &claimed.graph;
    let mut stored: HashSet<ValueId> = graph.inputs().map(|(value, _)| value).collect();
    stored.extend(graph.outputs().iter().map(|it| dense_root(graph, it.value)));
    stored.extend(graph.states().iter().map(|it| dense_root(graph, it.next)));
    stored.extend(claimed.offers.values().flat_map(writes));
    let mut nodes: Vec<_> = claimed.offers.keys().copied().collect();
    nodes.sort_unstable();
    for node in nodes {
        let offer = &claimed.offers[&node];
        for value in reads(offer) {
            let inner = offer.args.iter().find_map(|arg| match arg {
                OfferArg::Read(it, Layout::Rows { inner }) if *it == value => Some(*inner),
                OfferArg::Read(..)
                | OfferArg::Prepared { .. }
                | OfferArg::Write(_)
                | OfferArg::Workspace { .. } => None,
            });
            let rows = inner.and_then(|inner| rows_of(graph, &stored, value, inner));
            stored.insert(rows.map_or_else(|| dense_root(graph, value), |it| it.base));
        }
    }
    stored
}

/// Costly operands of contractions that would be computed again for each row of the other one,
/// and those of pooled segments, which would be computed by few.
fn repeated_operands(graph: &Graph, costly: &[bool]) -> Vec<ValueId> {
    let mut operands = Vec::new();
    for (index, node) in graph.nodes().iter().enumerate() {
        if is_builtin(graph, NodeId::from_index(index)) {
            let base = moved_from(graph, node.inputs[0]);
            operands.extend(Some(base).filter(|it| costly[it.index()]));
        }
        let Op::Prim(Prim::Dot(dims)) = &node.op else { continue };
        let summed = |it: &(usize, usize)| graph.shape(node.inputs[0]).sizes()[it.0];
        let sum_len: usize = dims.contract.iter().map(summed).product();
        let product_count = graph.shape(node.result()).element_count() * sum_len;
        for operand in &node.inputs {
            let base = moved_from(graph, *operand);
            let count = graph.shape(base).element_count();
            if costly[base.index()] && count.saturating_mul(2) <= product_count {
                operands.push(base);
            }
        }
    }
    operands
}

/// The value whose elements `value` only moves or repeats.
fn moved_from(graph: &Graph, mut value: ValueId) -> ValueId {
    while let Op::Prim(
        Prim::Reshape(_)
        | Prim::Permute(_)
        | Prim::Broadcast { .. }
        | Prim::Slice { .. }
        | Prim::Cast(_),
    ) = graph.op(value)
    {
        let input = graph.node(graph.maker(value)).inputs[0];
        let narrower = graph.ty(value).dtype.size_bytes() < graph.ty(input).dtype.size_bytes();
        if narrower {
            break;
        }
        value = input;
    }
    value
}

/// For each value: whether computing it again costs more than reading it back.
///
/// Arithmetic on indices, numbers and values that are small beside it costs nothing.
fn costly(graph: &Graph) -> Vec<bool> {
    let mut much = vec![false; graph.value_count()];
    let mut costly = vec![false; graph.value_count()];
    for (index, node) in graph.nodes().iter().enumerate() {
        for value in node.results() {
            let count = graph.shape(value).element_count();
            let reads =
                |it: &ValueId| graph.shape(*it).element_count() * 8 >= count && much[it.index()];
            much[value.index()] = match &node.op {
                Op::Input(_) | Op::Composite(..) => true,
                Op::Prim(Prim::Constant(_) | Prim::Iota { .. }) => false,
                Op::Prim(_) => node.inputs.iter().any(reads),
            };
            costly[value.index()] = match &node.op {
                Op::Input(_) => false,
                Op::Composite(..) => is_builtin(graph, NodeId::from_index(index)),
                Op::Prim(Prim::Reduce { .. } | Prim::Dot(_) | Prim::Philox) => true,
                Op::Prim(Prim::Unary(_) | Prim::Binary(_) | Prim::Select) => much[value.index()],
                // A wider form is cheaper to make than to read.
                Op::Prim(Prim::Cast(to)) => {
                    let from = graph.ty(node.inputs[0]).dtype;
                    much[value.index()] && to.size_bytes() <= from.size_bytes()
                }
                Op::Prim(
                    Prim::Gather { .. }
                    | Prim::Constant(_)
                    | Prim::Iota { .. }
                    | Prim::Broadcast { .. }
                    | Prim::Reshape(_)
                    | Prim::Permute(_)
                    | Prim::Slice { .. }
                    | Prim::Pad { .. }
                    | Prim::Concat { .. }
                    | Prim::ScatterAdd { .. }
                    | Prim::LinearScan { .. },
                ) => false,
            };
        }
    }
    costly
}
