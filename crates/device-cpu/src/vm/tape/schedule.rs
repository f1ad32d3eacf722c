//! When each node is computed: its stage and part, and what is computed again.

use calor_kernel::Level;

use super::super::lanes::BLOCK;
use super::super::lower::{Form, Node, NodeIndex, NodeOp, Width};

/// Rows up to this width are one tile.
const SINGLE_TILE_MAX: usize = 1024;

/// Lanes of a tile of wider rows.
const TILE_LEN: usize = 512;

/// Stage, and part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment {
    pub(super) stage: usize,
    pub(super) part: usize,
}

pub(super) struct Schedule {
    /// When a node's value is there. Nodes that vary over steps: from when it can be computed.
    pub(super) ready: Vec<Moment>,
    /// When the folds and everything else are computed; for a fold, before its value is there.
    pub(super) home: Vec<Moment>,
    /// Which nodes anything depends on.
    pub(super) live: Vec<bool>,
    /// Nodes that are the same everywhere.
    pub(super) uniform: Vec<bool>,
    /// Nodes kept for the whole row.
    pub(super) kept: Vec<bool>,
    /// Further stages in which a node is computed again.
    pub(super) again: Vec<Vec<usize>>,
    /// For each loop over steps its moment and the nodes inside, in order.
    pub(super) loops: Vec<(Moment, Vec<NodeIndex>)>,
    /// The last moment, in which everything is stored.
    pub(super) last: Moment,
    pub(super) tile_len: usize,
}

impl Schedule {
    pub(super) fn new(form: &Form) -> Self {
        let count = form.nodes.len();
        let mut it = Self {
            ready: Vec::with_capacity(count),
            home: Vec::with_capacity(count),
            live: live(form),
            uniform: Vec::with_capacity(count),
            kept: vec![false; count],
            again: vec![Vec::new(); count],
            loops: Vec::new(),
            last: Moment::default(),
            tile_len: TILE_LEN,
        };
        it.place_nodes(form);
        let single = it.choose_tile(form);
        it.find_loops(form);
        if !single {
            it.keep_across_stages(form);
        }
        it
    }

    fn place_nodes(&mut self, form: &Form) {
        for (index, node) in form.nodes.iter().enumerate() {
            let inputs = node.op.inputs();
            let latest = |nodes: &[NodeIndex]| {
                nodes.iter().map(|it| self.ready[*it]).max().unwrap_or_default()
            };
            let mut home = latest(&inputs);
            let loops = node.level.has_step() || matches!(node.op, NodeOp::FoldSteps(..));
            if loops && let Some((lo, hi)) = form.bounds {
                home = home.max(latest(&[lo, hi]));
            }
            let ready = match node.op {
                NodeOp::FoldLanes(..) if !node.level.has_step() => {
                    Moment { stage: home.stage + 1, part: 0 }
                }
                NodeOp::FoldSteps(..) => Moment { part: home.part + 1, ..home },
                _ => home,
            };
            let uniform = match &node.op {
                NodeOp::Outer(_) | NodeOp::Step | NodeOp::Lane | NodeOp::Load { .. } => false,
                NodeOp::FoldLanes(..) | NodeOp::FoldSteps(..) | NodeOp::Scan { .. } => false,
                _ => inputs.iter().all(|it| self.uniform[*it]),
            };
            self.home.push(home);
            self.ready.push(ready);
            self.uniform.push(uniform);
            if self.live[index] {
                self.last = self.last.max(ready);
            }
        }
    }

    /// Whether the row is one tile.
    fn choose_tile(&mut self, form: &Form) -> bool {
        let folds_inside_steps =
            |node: &Node| matches!(node.op, NodeOp::FoldLanes(..)) && node.level.has_step();
        let Width::Fixed(width) = form.width else { return false };
        let width = width as usize;
        if width <= SINGLE_TILE_MAX || form.nodes.iter().any(folds_inside_steps) {
            self.tile_len = width.next_multiple_of(BLOCK);
            return true;
        }
        false
    }

    /// The loops over steps, with what each computes.
    fn find_loops(&mut self, form: &Form) {
        let mut moments = Vec::new();
        for (index, node) in form.nodes.iter().enumerate() {
            if self.live[index] && matches!(node.op, NodeOp::FoldSteps(..)) {
                moments.push(self.home[index]);
            }
        }
        if form.puts.iter().any(|it| it.level.has_step()) {
            moments.push(self.last);
        }
        moments.sort_unstable();
        moments.dedup();
        for moment in moments {
            let mut inside = vec![false; form.nodes.len()];
            let mut open: Vec<NodeIndex> = Vec::new();
            for (index, node) in form.nodes.iter().enumerate() {
                if let NodeOp::FoldSteps(_, x) = node.op
                    && self.live[index]
                    && self.home[index] == moment
                {
                    inside[index] = true;
                    open.push(x);
                }
            }
            for put in form.puts.iter().filter(|it| it.level.has_step() && moment == self.last) {
                open.push(put.value);
                open.extend(put.place.terms.iter().map(|it| it.index));
            }
            while let Some(index) = open.pop() {
                let node = &form.nodes[index];
                if node.level.has_step() && !std::mem::replace(&mut inside[index], true) {
                    open.extend(node.op.inputs());
                }
            }
            let nodes = (0..inside.len()).filter(|it| inside[*it]).collect();
            self.loops.push((moment, nodes));
        }
    }

    /// Decides what later stages keep of earlier ones, and what they load again.
    fn keep_across_stages(&mut self, form: &Form) {
        let mut used_in: Vec<Vec<usize>> = vec![Vec::new(); form.nodes.len()];
        let mut use_at = |index: NodeIndex, stage: usize| {
            if !used_in[index].contains(&stage) {
                used_in[index].push(stage);
            }
        };
        for (index, node) in form.nodes.iter().enumerate() {
            if self.live[index] && !node.level.has_step() {
                for input in node.op.inputs() {
                    use_at(input, self.home[index].stage);
                }
            }
        }
        for (moment, nodes) in &self.loops {
            for index in nodes {
                for input in form.nodes[*index].op.inputs() {
                    use_at(input, moment.stage);
                }
            }
        }
        for put in &form.puts {
            use_at(put.value, self.last.stage);
            for term in &put.place.terms {
                use_at(term.index, self.last.stage);
            }
        }
        // Users come after what they use, so walking backwards sees all uses.
        for index in (0..form.nodes.len()).rev() {
            let node = &form.nodes[index];
            if !self.live[index] || node.level != Level::Lane {
                continue;
            }
            let later: Vec<usize> = used_in[index]
                .iter()
                .copied()
                .filter(|it| *it != self.ready[index].stage)
                .collect();
            if later.is_empty() {
                continue;
            }
            if is_cheap(form, node) {
                self.again[index] = later;
            } else {
                self.kept[index] = true;
            }
        }
    }
}

/// Whether computing it again costs no more than keeping it.
fn is_cheap(form: &Form, node: &Node) -> bool {
    match &node.op {
        NodeOp::Lane => true,
        NodeOp::Load { .. } => {
            node.op.inputs().iter().all(|it| form.nodes[*it].level == Level::Row)
        }
        _ => false,
    }
}

fn live(form: &Form) -> Vec<bool> {
    let mut live = vec![false; form.nodes.len()];
    let mut open: Vec<NodeIndex> = Vec::new();
    for put in &form.puts {
        open.push(put.value);
        open.extend(put.place.terms.iter().map(|it| it.index));
    }
    if let Some((lo, hi)) = form.bounds {
        open.extend([lo, hi]);
    }
    while let Some(index) = open.pop() {
        if !std::mem::replace(&mut live[index], true) {
            open.extend(form.nodes[index].op.inputs());
        }
    }
    live
}
