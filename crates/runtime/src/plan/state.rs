//! States that are replaced in place.
//!
//! The next value of a state may be written over the old one when nobody reads the old one
//! afterwards. The step that writes may read it only if it is elementwise and every element goes
//! back to where it came from.

use std::collections::HashMap;

use calor_ir::ValueId;
use calor_kernel::{InstrOp, Template};

use super::claims::Claimed;
use super::group::Grouped;
use super::root::Kernel;
use super::sequence::{Item, item_reads};
use super::view::dense_root;

/// Pairs of a computed value and the state input whose place it takes.
pub(super) fn in_place(
    claimed: &Claimed,
    grouped: &Grouped,
    items: &[Item],
) -> Vec<(ValueId, ValueId)> {
    let graph = &claimed.graph;
    if graph.states().is_empty() {
        return Vec::new();
    }
    let mut last_read: HashMap<ValueId, usize> = HashMap::new();
    let mut written: HashMap<ValueId, usize> = HashMap::new();
    for (at, item) in items.iter().enumerate() {
        for value in item_reads(claimed, grouped, *item) {
            last_read.insert(value, at);
        }
        match item {
            Item::Claimed(node) => {
                let writes = super::claims::writes(&claimed.offers[node]);
                written.extend(writes.map(|value| (value, at)));
            }
            Item::Generated(value) => {
                written.insert(*value, at);
            }
        }
    }
    let leaves = |input: ValueId| {
        graph.outputs().iter().any(|it| dense_root(graph, it.value) == input)
            || graph.states().iter().any(|it| dense_root(graph, it.next) == input)
    };
    let mut pairs = Vec::new();
    for state in graph.states() {
        let root = dense_root(graph, state.next);
        let Some(write) = written.get(&root) else { continue };
        let free = match last_read.get(&state.input) {
            None => true,
            Some(read) if read < write => true,
            Some(read) if read == write => goes_back(grouped, root, state.input),
            Some(_) => false,
        };
        if free && !claimed.constant[root.index()] && !leaves(state.input) {
            pairs.push((root, state.input));
        }
    }
    pairs
}

/// Whether one elementwise kernel computes `value` and loads each element of `input` only where
/// it stores.
fn goes_back(grouped: &Grouped, value: ValueId, input: ValueId) -> bool {
    let Some([kernel]) = grouped.kernels.get(&value).map(Vec::as_slice) else { return false };
    let Kernel { program, words, reads, .. } = kernel;
    let [store] = program.stores.as_slice() else { return false };
    if program.template() != Template::Elementwise || !store.address.terms.is_empty() {
        return false;
    }
    let count = store.address.word_count(usize::from(program.rank));
    let place = |word: u32| &words[word as usize..word as usize + count];
    program.body.iter().all(|instr| match &instr.op {
        InstrOp::Load { arg, address, .. } if reads[usize::from(*arg)] == input => {
            address.terms.is_empty()
                && address.lane_stride == store.address.lane_stride
                && place(address.word) == place(store.address.word)
        }
        _ => true,
    })
}
