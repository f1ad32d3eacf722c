//! Claims before lowering: which composites stay whole, and what the device offers for them.
//!
//! Composites that nobody wants are expanded one level at a time until only wanted ones remain.

use std::collections::{HashMap, HashSet};

use calor_device::{Offer, OfferArg, Site};
use calor_ir::composite::pool;
use calor_ir::expand::{dedupe, expand_once};
use calor_ir::{Composite, Graph, Meaning, NodeId, Op, Prim, Role, ValueId};

use super::normalise::normalise;
use super::{Capabilities, Choices, PlanError};

/// A graph whose composites are all claimed by the device or known to the planner.
pub(super) struct Claimed {
    /// The graph.
    pub(super) graph: Graph,
    /// Offers by the node of their composite.
    pub(super) offers: HashMap<NodeId, Offer>,
    /// For each value: whether it depends on weights and literals alone.
    pub(super) constant: Vec<bool>,
    /// Choices made by rule.
    pub(super) defaults: Choices,
}

/// Expands what is not claimed and collects the offers for what is.
pub(super) fn settle(
    graph: &Graph,
    capabilities: &Capabilities,
    choices: &Choices,
) -> Result<Claimed, PlanError> {
    let mut defaults = Choices::default();
    let mut graph = dedupe(graph).graph;
    loop {
        graph = dedupe(&normalise(&graph, capabilities, choices, &mut defaults)?).graph;
        let round = offers(&graph, capabilities, choices);
        let wanted = |graph: &Graph, node: NodeId| {
            round.offers.contains_key(&node)
                || round.absorbed.contains(&node)
                || is_builtin(graph, node)
        };
        let mut all_wanted = true;
        for (index, node) in graph.nodes().iter().enumerate() {
            if let Op::Composite(composite, _) = &node.op
                && !wanted(&graph, NodeId::from_index(index))
            {
                all_wanted = false;
                if let Meaning::Opaque { .. } = composite.meaning {
                    return Err(PlanError::Opaque { composite: composite.name });
                }
            }
        }
        if all_wanted {
            let constant = constants(&graph);
            let Round { offers, defaults: claimed, .. } = round;
            defaults.0.extend(claimed.0);
            return Ok(Claimed { graph, offers, constant, defaults });
        }
        graph = expand_once(&graph, &mut |graph, node| wanted(graph, node))?.graph;
    }
}

/// Segment folds are a template of their own: the planner keeps these composites whole.
pub(super) fn is_builtin(graph: &Graph, node: NodeId) -> bool {
    match &graph.node(node).op {
        Op::Composite(composite, attrs) => {
            composite.is(&pool::POOL)
                && matches!(attrs.get_word("kind"), Some("mean" | "sum" | "max" | "min"))
        }
        Op::Input(_) | Op::Prim(_) => false,
    }
}

struct Round {
    offers: HashMap<NodeId, Offer>,
    absorbed: HashSet<NodeId>,
    defaults: Choices,
}

fn offers(graph: &Graph, capabilities: &Capabilities, choices: &Choices) -> Round {
    let users = users(graph);
    let constant = constants(graph);
    let mut round =
        Round { offers: HashMap::new(), absorbed: HashSet::new(), defaults: Choices::default() };
    for index in 0..graph.nodes().len() {
        let node = NodeId::from_index(index);
        let Op::Composite(composite, _) = &graph.node(node).op else { continue };
        let Some(claim) = find(capabilities, composite) else { continue };
        if round.absorbed.contains(&node) {
            continue;
        }
        let offer = {
            let is_constant = |value: ValueId| constant[value.index()];
            let is_taken = |node: NodeId| {
                // What an offer has absorbed would be left to nobody if the offer fell away.
                let absorbs = |it: &Offer| !it.absorbs.is_empty();
                round.absorbed.contains(&node) || round.offers.get(&node).is_some_and(absorbs)
            };
            (claim.offer)(&Site::new(graph, node, &users, &is_constant, &is_taken))
        };
        let Some(offer) = offer else { continue };
        // Whether the claim is taken is a choice; the rule takes it.
        let key = format!("claim {}", offer.unit.label());
        match choices.0.get(&key) {
            Some(0) => continue,
            Some(_) => {}
            None => {
                round.defaults.0.insert(key, 1);
            }
        }
        for taken in &offer.absorbs {
            round.offers.remove(taken);
            round.absorbed.insert(*taken);
        }
        round.offers.insert(node, offer);
    }
    round
}

fn find(
    capabilities: &Capabilities,
    composite: &'static Composite,
) -> Option<&'static calor_device::Claim> {
    capabilities.claims.iter().find(|it| it.composite.is(composite))
}

/// The nodes that read each value. What leaves the graph is read by a node past the last.
pub(super) fn users(graph: &Graph) -> HashMap<ValueId, Vec<NodeId>> {
    let mut users: HashMap<ValueId, Vec<NodeId>> = HashMap::new();
    for (index, node) in graph.nodes().iter().enumerate() {
        for value in &node.inputs {
            let of_value = users.entry(*value).or_default();
            if of_value.last() != Some(&NodeId::from_index(index)) {
                of_value.push(NodeId::from_index(index));
            }
        }
    }
    let outside = NodeId::from_index(graph.nodes().len());
    let leaving = graph.outputs().iter().map(|it| it.value);
    for value in leaving.chain(graph.states().iter().map(|it| it.next)) {
        users.entry(value).or_default().push(outside);
    }
    users
}

/// Which values depend on weights and literals alone.
pub(super) fn constants(graph: &Graph) -> Vec<bool> {
    let mut constant = vec![false; graph.value_count()];
    for node in graph.nodes() {
        let is = match &node.op {
            Op::Input(input) => input.role == Role::Weight,
            Op::Prim(Prim::Constant(_) | Prim::Iota { .. }) => true,
            Op::Prim(_) | Op::Composite(..) => node.inputs.iter().all(|it| constant[it.index()]),
        };
        for value in node.results() {
            constant[value.index()] = is;
        }
    }
    constant
}

/// The values that an offer reads.
pub(super) fn reads(offer: &Offer) -> impl Iterator<Item = ValueId> + '_ {
    offer
        .args
        .iter()
        .flat_map(|arg| match arg {
            OfferArg::Read(value, _) => std::slice::from_ref(value),
            OfferArg::Prepared { values, .. } => values,
            OfferArg::Write(_) | OfferArg::Workspace { .. } => &[],
        })
        .copied()
}

/// The values that an offer writes.
pub(super) fn writes(offer: &Offer) -> impl Iterator<Item = ValueId> + '_ {
    offer.args.iter().filter_map(|arg| match arg {
        OfferArg::Write(value) => Some(*value),
        OfferArg::Read(..) | OfferArg::Prepared { .. } | OfferArg::Workspace { .. } => None,
    })
}
