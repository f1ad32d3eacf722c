//! What crosses the border of a graph: buffers before the first step, copies after the last.

use std::collections::HashSet;

use calor_ir::{Literal, Op, Prim, Role, ValueId};
use calor_kernel::{Canonical, Digest};

use super::assemble::Assembler;
use super::draft::{Draft, DraftStep, Home};
use super::sequence::Item;
use super::state::in_place;
use super::view::dense_root;
use super::{BufferKind, BufferRow};

impl Assembler<'_> {
    /// Buffers of inputs, literals, states and outputs.
    pub(super) fn boundary(&mut self, items: &[Item]) {
        self.inputs();
        self.literals();
        let graph = &self.claimed.graph;
        for (root, input) in in_place(self.claimed, self.grouped, items) {
            if let (false, Some(home)) =
                (self.home.contains_key(&root), self.home.get(&input).copied())
                && self.replaced.insert(input)
            {
                debug_assert_eq!(graph.ty(root).dtype, graph.ty(input).dtype);
                self.home.insert(root, home);
            }
        }
        for output in graph.outputs() {
            let root = dense_root(graph, output.value);
            let kind = BufferKind::Output { name: output.name.clone() };
            let live = self.live[output.value.index()];
            let row = BufferRow { kind, ty: graph.ty(output.value), key: None, live };
            // What has a home already, or comes out of the prelude, is copied at the end.
            if self.home.contains_key(&root) || self.claimed.constant[root.index()] {
                self.buffers.push(row);
            } else {
                self.buffer(root, row);
            }
        }
    }

    fn inputs(&mut self) {
        let graph = &self.claimed.graph;
        for (value, input) in graph.inputs() {
            let name = input.name.clone();
            let ty = graph.ty(value);
            let (kind, key) = match input.role {
                Role::Data => (BufferKind::Input { name }, None),
                Role::State => (BufferKind::State { name }, None),
                Role::Weight => {
                    let mut out = Canonical::new("weight", 1);
                    out.text(&name).text(&ty.to_string());
                    (BufferKind::Weight { name }, Some(Digest::of(&out.finish())))
                }
            };
            self.buffer(value, BufferRow { kind, ty, key, live: input.live });
        }
    }

    fn literals(&mut self) {
        let graph = &self.claimed.graph;
        let mut literals: Vec<ValueId> = self.grouped.stored.iter().copied().collect();
        literals.sort_unstable();
        for value in literals {
            if let Op::Prim(Prim::Constant(literal)) = graph.op(value)
                && literal.splat().is_none()
            {
                let bytes = literal_bytes(literal);
                let key = Some(Digest::of(&bytes));
                let kind = BufferKind::Constant { bytes };
                self.buffer(value, BufferRow { kind, ty: graph.ty(value), key, live: None });
            }
        }
    }

    /// Copies what leaves the graph and was not computed in its place: outputs first, because
    /// they may be old values of states.
    pub(super) fn leave(&mut self) {
        let graph = &self.claimed.graph;
        for output in graph.outputs() {
            let is_its = |row: &BufferRow| match &row.kind {
                BufferKind::Output { name } => *name == output.name,
                BufferKind::Input { .. }
                | BufferKind::Weight { .. }
                | BufferKind::Constant { .. }
                | BufferKind::Prepared
                | BufferKind::State { .. } => false,
            };
            let Some(index) = self.buffers.iter().position(is_its) else { continue };
            let from = self.whole(output.value);
            let to = Draft { home: Home::Buffer(index as u32), ..from };
            if from.home != to.home {
                self.steps.push(DraftStep::Copy { from, to });
            }
        }
        let mut copies: Vec<(Draft, Draft)> = Vec::new();
        for state in graph.states() {
            let (from, to) = (self.whole(state.next), self.whole(state.input));
            if from.home != to.home {
                copies.push((from, to));
            }
        }
        self.copy_all_at_once(copies);
    }

    /// Copies of which none sees what another one has written.
    fn copy_all_at_once(&mut self, mut copies: Vec<(Draft, Draft)>) {
        let mut overwritten: HashSet<Home> = HashSet::new();
        for (from, to) in &mut copies {
            if overwritten.contains(&from.home) {
                self.interior.push(from.len);
                let aside = Draft { home: Home::Interior(self.interior.len() - 1), ..*from };
                self.steps.push(DraftStep::Copy { from: *from, to: aside });
                *from = aside;
            }
            overwritten.insert(to.home);
        }
        let copies = copies.into_iter().map(|(from, to)| DraftStep::Copy { from, to });
        self.steps.extend(copies);
    }
}

/// A literal as the device sees it.
fn literal_bytes(literal: &Literal) -> Vec<u8> {
    let mut out = Vec::with_capacity(literal.shape.element_count() * literal.dtype.size_bytes());
    for value in &literal.values {
        literal.dtype.encode(*value, &mut out);
    }
    out
}
