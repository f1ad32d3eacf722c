//! The order in which steps are listed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use calor_device::{Layout, OfferArg};
use calor_ir::{NodeId, ValueId};

use super::claims::{Claimed, writes};
use super::group::Grouped;
use super::view::{dense_root, rows_of};

/// What becomes one step or a few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// The offer for a composite.
    Claimed(NodeId),
    /// The kernels of a stored value.
    Generated(ValueId),
}

/// Everything that runs, each after what it reads; else in the order of the graph.
pub(super) fn sequence(claimed: &Claimed, grouped: &Grouped) -> Vec<Item> {
    let mut items: Vec<(usize, Item)> = Vec::new();
    for (node, offer) in &claimed.offers {
        let last = writes(offer).map(ValueId::index).max().unwrap_or(0);
        items.push((last, Item::Claimed(*node)));
    }
    for value in grouped.kernels.keys() {
        items.push((value.index(), Item::Generated(*value)));
    }
    items.sort_by_key(|(at, _)| *at);
    let items: Vec<Item> = items.into_iter().map(|(_, item)| item).collect();

    let mut makers: HashMap<ValueId, usize> = HashMap::new();
    for (at, item) in items.iter().enumerate() {
        match item {
            Item::Claimed(node) => {
                makers.extend(writes(&claimed.offers[node]).map(|value| (value, at)));
            }
            Item::Generated(value) => {
                makers.insert(*value, at);
            }
        }
    }
    let mut waits = vec![0_usize; items.len()];
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); items.len()];
    for (at, item) in items.iter().enumerate() {
        for maker in item_reads(claimed, grouped, *item).iter().filter_map(|it| makers.get(it)) {
            if *maker != at {
                users[*maker].push(at);
                waits[at] += 1;
            }
        }
    }
    let ready = (0..items.len()).filter(|at| waits[*at] == 0).map(Reverse);
    let mut ready: BinaryHeap<Reverse<usize>> = ready.collect();
    let mut order = Vec::with_capacity(items.len());
    while let Some(Reverse(at)) = ready.pop() {
        order.push(items[at]);
        for user in &users[at] {
            waits[*user] -= 1;
            if waits[*user] == 0 {
                ready.push(Reverse(*user));
            }
        }
    }
    debug_assert_eq!(order.len(), items.len(), "the items depend on each other in a circle");
    order
}

/// The stored values that an item reads.
pub(super) fn item_reads(claimed: &Claimed, grouped: &Grouped, item: Item) -> Vec<ValueId> {
    let graph = &claimed.graph;
    let node = match item {
        Item::Claimed(node) => node,
        Item::Generated(value) => {
            let kernels = &grouped.kernels[&value];
            return kernels.iter().flat_map(|it| it.reads.iter().copied()).collect();
        }
    };
    let mut reads = Vec::new();
    for arg in &claimed.offers[&node].args {
        match arg {
            OfferArg::Read(value, layout) => {
                let rows = match layout {
                    Layout::Dense => None,
                    Layout::Rows { inner } => rows_of(graph, &grouped.stored, *value, *inner),
                };
                reads.push(dense_root(graph, *value));
                reads.extend(rows.map(|it| it.base));
            }
            OfferArg::Prepared { values, .. } => {
                reads.extend(values.iter().map(|it| dense_root(graph, *it)));
            }
            OfferArg::Write(_) | OfferArg::Workspace { .. } => {}
        }
    }
    reads
}
