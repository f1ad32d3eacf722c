//! Claims: what a device does better than generated code.
//!
//! An offer sees one composite with its neighbours and names what it takes and gives. It does
//! not see buffers: the planner decides where values lie.

use std::collections::HashMap;

use calor_ir::{Composite, Graph, NodeId, Op, ValueId};
use calor_kernel::Unit;

/// One row of a device's table.
#[derive(Debug)]
pub struct Claim {
    /// The composite, by identity.
    pub composite: &'static Composite,
    /// Says whether and how this one is taken.
    pub offer: fn(&Site<'_>) -> Option<Offer>,
}

/// Where an offer is asked for.
pub struct Site<'a> {
    graph: &'a Graph,
    node: NodeId,
    users: &'a HashMap<ValueId, Vec<NodeId>>,
    constant: &'a dyn Fn(ValueId) -> bool,
    taken: &'a dyn Fn(NodeId) -> bool,
}

impl std::fmt::Debug for Site<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site").field("node", &self.node).finish_non_exhaustive()
    }
}

impl<'a> Site<'a> {
    /// A site of `graph`. `users` lists the nodes that read a value (an output or a state counts
    /// as a node of its own), `constant` says which values depend on weights alone, `taken` which
    /// nodes an earlier offer has absorbed, or brought one of its own that absorbs others.
    pub fn new(
        graph: &'a Graph,
        node: NodeId,
        users: &'a HashMap<ValueId, Vec<NodeId>>,
        constant: &'a dyn Fn(ValueId) -> bool,
        taken: &'a dyn Fn(NodeId) -> bool,
    ) -> Self {
        Self { graph, node, users, constant, taken }
    }

    /// The whole graph.
    pub fn graph(&self) -> &'a Graph {
        self.graph
    }

    /// The composite's node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The composite's arguments.
    pub fn inputs(&self) -> &'a [ValueId] {
        &self.graph.node(self.node).inputs
    }

    /// Whether a value depends on weights alone, so that it can be prepared once.
    pub fn is_constant(&self, value: ValueId) -> bool {
        (self.constant)(value)
    }

    /// The only node that reads `value`, if there is just one and no earlier offer has taken it.
    pub fn only_user(&self, value: ValueId) -> Option<(NodeId, &'a Op)> {
        let [user] = self.users.get(&value)?.as_slice() else { return None };
        if self.graph.nodes().len() <= user.index() {
            return None;
        }
        self.free(*user)
    }

    /// The node that makes `value`, if no earlier offer has taken it.
    pub fn maker(&self, value: ValueId) -> Option<(NodeId, &'a Op)> {
        self.free(self.graph.maker(value))
    }

    /// Whether one node alone reads `value`.
    pub fn is_read_once(&self, value: ValueId) -> bool {
        self.users.get(&value).is_some_and(|it| it.len() == 1)
    }

    fn free(&self, node: NodeId) -> Option<(NodeId, &'a Op)> {
        (!(self.taken)(node)).then(|| (node, &self.graph.node(node).op))
    }
}

/// How a unit wants an argument to lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Row-major without gaps.
    Dense,
    /// Rows of the last `inner` dimensions without gaps; the rows may be apart.
    Rows {
        /// Number of dimensions inside a row.
        inner: usize,
    },
}

/// One buffer argument of an offer.
#[derive(Clone, Debug, PartialEq)]
pub enum OfferArg {
    /// Reads a value.
    Read(ValueId, Layout),
    /// Reads what `unit` makes of constant values, once, when the weights are loaded.
    /// The unit's arguments are the values (dense) and the result.
    Prepared {
        /// Constant values.
        values: Vec<ValueId>,
        /// Makes the result; takes no launch words.
        unit: Box<Unit>,
        /// Bytes of the result.
        bytes: u64,
    },
    /// Writes a value, dense.
    Write(ValueId),
    /// Interior memory with no value.
    Workspace {
        /// How much.
        bytes: u64,
    },
}

/// One launch word of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfferWord {
    /// A number.
    Fixed(i64),
    /// Size of the first dimension of a value; follows the live count if the value does.
    Rows(ValueId),
    /// Product of all dimensions but the last `inner` of a value; follows the live count.
    OuterRows {
        /// The value.
        value: ValueId,
        /// Number of dimensions inside a row.
        inner: usize,
    },
    /// Elements between the rows of an argument that is read as [`Layout::Rows`], or of a dense
    /// one with `inner` dimensions in a row.
    Stride {
        /// Index of the argument in [`Offer::args`].
        arg: usize,
        /// Number of dimensions inside a row.
        inner: usize,
    },
}

/// What a device would do for a composite.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// The code.
    pub unit: Unit,
    /// Its launch words.
    pub words: Vec<OfferWord>,
    /// Its arguments.
    pub args: Vec<OfferArg>,
    /// Other nodes whose work is included; their results, if not written, do not exist. An
    /// absorbed composite's own offer falls away.
    pub absorbs: Vec<NodeId>,
}
