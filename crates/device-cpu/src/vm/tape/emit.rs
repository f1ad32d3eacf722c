//! Actions of nodes, in order, and how long each register is in use.

use calor_ir::{DType, Fold};
use calor_kernel::Level;

use super::super::lanes::{self, Kept};
use super::super::lower::{Form, NodeIndex, NodeOp, Put};
use super::registers::Span;
use super::schedule::{Moment, Schedule};
use super::{Action, Load, Located, NoSuchOperation, Stage, StepLoop, Store};

pub(super) struct Emitter<'a> {
    form: &'a Form,
    schedule: &'a Schedule,
    /// When each register is in use.
    pub(super) spans: Vec<Span>,
    position: usize,
}

impl<'a> Emitter<'a> {
    pub(super) fn new(form: &'a Form, schedule: &'a Schedule) -> Self {
        Self { form, schedule, spans: vec![None; form.nodes.len()], position: 0 }
    }

    pub(super) fn run(&mut self) -> Result<(Vec<Action>, Vec<Stage>), NoSuchOperation> {
        let mut once = Vec::new();
        for index in 0..self.form.nodes.len() {
            if self.schedule.live[index] && self.schedule.uniform[index] {
                self.node(index, &mut once)?;
            }
        }
        let mut stages = Vec::new();
        for at in 0..=self.schedule.last.stage {
            stages.push(self.stage(at)?);
        }
        Ok((once, stages))
    }

    fn stage(&mut self, at: usize) -> Result<Stage, NoSuchOperation> {
        let mut stage = Stage::default();
        let mut last_part = 0;
        for index in 0..self.form.nodes.len() {
            if self.schedule.live[index] && self.schedule.home[index].stage == at {
                last_part = last_part.max(self.schedule.home[index].part);
            }
        }
        if at == self.schedule.last.stage {
            last_part = last_part.max(self.schedule.last.part);
        }
        for part in 0..=last_part {
            self.part(Moment { stage: at, part }, &mut stage)?;
        }
        if at == self.schedule.last.stage {
            for put in self.form.puts.iter().filter(|it| !it.level.has_step()) {
                let store = self.store(put);
                stage.tile.push(store);
            }
            if self.form.puts.len() == 1 {
                join_last(&mut stage.tile);
            }
        }
        Ok(stage)
    }

    fn part(&mut self, moment: Moment, stage: &mut Stage) -> Result<(), NoSuchOperation> {
        let schedule = self.schedule;
        for (index, node) in self.form.nodes.iter().enumerate() {
            let again = moment.part == 0 && schedule.again[index].contains(&moment.stage);
            let here = schedule.home[index] == moment || again;
            if !schedule.live[index] || schedule.uniform[index] || !here || node.level.has_step() {
                continue;
            }
            match node.op {
                NodeOp::FoldSteps(..) => {}
                NodeOp::FoldLanes(fold, x) => {
                    self.use_now(&[x]);
                    let (start, part, end) = fold_actions(fold, node.dtype, index, x);
                    stage.before.push(start);
                    stage.tile.push(part);
                    stage.after.push(end);
                    self.make(index);
                    self.round(index, &mut stage.after);
                }
                _ if node.level == Level::Row && moment.part == 0 => {
                    self.node(index, &mut stage.before)?;
                }
                _ => self.node(index, &mut stage.tile)?,
            }
        }
        if let Some((_, nodes)) = schedule.loops.iter().find(|(it, _)| *it == moment) {
            let step_loop = self.step_loop(moment, nodes)?;
            stage.tile.push(Action::Steps(Box::new(step_loop)));
        }
        Ok(())
    }

    fn step_loop(
        &mut self,
        moment: Moment,
        nodes: &[NodeIndex],
    ) -> Result<StepLoop, NoSuchOperation> {
        let Some((lo, hi)) = self.form.bounds else {
            return Err(NoSuchOperation {
                what: "a fold over steps without bounds",
                dtype: DType::I32,
            });
        };
        let mut out = StepLoop { lo, hi, ..StepLoop::default() };
        self.use_now(&[lo, hi]);
        for index in nodes {
            self.before_loop(*index, &mut out.before)?;
        }
        let first = self.position;
        for index in nodes {
            self.in_loop(*index, &mut out.body, &mut out.after)?;
        }
        if moment == self.schedule.last {
            for put in self.form.puts.iter().filter(|it| it.level.has_step()) {
                out.body.push(self.store(put));
            }
        }
        // What comes from outside, and what lives from step to step, is in use until the end.
        self.position += 1;
        for index in nodes {
            let node = &self.form.nodes[*index];
            let outside = |it: &NodeIndex| self.spans[*it].is_some_and(|(from, _)| from < first);
            let mut held: Vec<NodeIndex> =
                node.op.inputs().into_iter().filter(|it| outside(it)).collect();
            if matches!(node.op, NodeOp::FoldSteps(..) | NodeOp::Scan { .. }) {
                held.push(*index);
            }
            self.use_now(&held);
        }
        for put in self.form.puts.iter().filter(|it| it.level.has_step()) {
            let terms = put.place.terms.iter().map(|it| it.index);
            let held: Vec<NodeIndex> = terms.chain([put.value]).collect();
            self.use_now(&held);
        }
        Ok(out)
    }

    /// Where folds and recurrences start.
    fn before_loop(
        &mut self,
        index: NodeIndex,
        out: &mut Vec<Action>,
    ) -> Result<(), NoSuchOperation> {
        let node = &self.form.nodes[index];
        let lanes = node.level.has_lane();
        match node.op {
            NodeOp::FoldSteps(fold, _) => {
                let bits = bits_of(node.dtype, lanes::start(fold, node.dtype));
                out.push(Action::Fill { to: index, bits, lanes });
                self.make(index);
            }
            NodeOp::Scan { initial, .. } => {
                let run = lanes::copy(Kept::of(node.dtype));
                out.push(Action::Map { run, to: index, from: [initial, 0, 0], lanes });
                self.use_now(&[initial]);
                self.make(index);
            }
            _ => {}
        }
        Ok(())
    }

    fn in_loop(
        &mut self,
        index: NodeIndex,
        body: &mut Vec<Action>,
        after: &mut Vec<Action>,
    ) -> Result<(), NoSuchOperation> {
        let node = &self.form.nodes[index];
        let lanes = node.level.has_lane();
        match node.op {
            NodeOp::FoldSteps(fold, x) => {
                let op = match (fold, node.dtype) {
                    (Fold::Sum, DType::Bool) => calor_ir::Binary::Or,
                    _ => lanes::binary_of(fold),
                };
                let run = lanes::binary(op, node.dtype).ok_or(missing(fold.name(), node.dtype))?;
                body.push(Action::Map { run, to: index, from: [index, x, 0], lanes });
                self.use_now(&[index, x]);
                self.round(index, after);
            }
            NodeOp::Scan { a, b, .. } => {
                let run =
                    lanes::multiply_add(Kept::of(node.dtype)).ok_or(missing("scan", node.dtype))?;
                body.push(Action::Map { run, to: index, from: [a, index, b], lanes });
                self.use_now(&[a, index, b]);
                self.round(index, body);
            }
            NodeOp::FoldLanes(fold, x) => {
                let (start, part, end) = fold_actions(fold, node.dtype, index, x);
                body.extend([start, part, end]);
                self.use_now(&[x]);
                self.make(index);
                self.round(index, body);
            }
            _ => self.node(index, body)?,
        }
        Ok(())
    }

    /// The action of anything but folds and recurrences.
    fn node(&mut self, index: NodeIndex, out: &mut Vec<Action>) -> Result<(), NoSuchOperation> {
        let nodes = &self.form.nodes;
        let node = &nodes[index];
        let (to, lanes) = (index, node.level.has_lane());
        let map = |run: lanes::Run, from: [NodeIndex; 3]| Action::Map { run, to, from, lanes };
        let action = match &node.op {
            NodeOp::Const(value) => Action::Fill { to, bits: bits_of(node.dtype, *value), lanes },
            NodeOp::Outer(axis) => Action::Outer { to, axis: usize::from(*axis) },
            NodeOp::Step => Action::Step { to },
            NodeOp::Lane => Action::Lane { to },
            NodeOp::Word(word) => Action::Word { to, word: *word as usize },
            NodeOp::Load { arg, place, guard } => Action::Load(Load {
                to,
                arg: usize::from(*arg),
                dtype: node.dtype,
                place: Located::new(self.form, place, node.level.has_step()),
                guard: *guard,
                lanes,
                direct: self.may_be_direct(index),
            }),
            NodeOp::Unary(op, x) => {
                let dtype = nodes[*x].dtype;
                map(lanes::unary(*op, dtype).ok_or(missing(op.name(), dtype))?, [*x, 0, 0])
            }
            NodeOp::Binary(op, a, b) => {
                let dtype = nodes[*a].dtype;
                map(lanes::binary(*op, dtype).ok_or(missing(op.name(), dtype))?, [*a, *b, 0])
            }
            NodeOp::Select(c, a, b) => map(lanes::select(Kept::of(node.dtype)), [*c, *a, *b]),
            NodeOp::Cast(x) => map(lanes::cast(nodes[*x].dtype, node.dtype), [*x, 0, 0]),
            NodeOp::Philox { key0, key1, counter } => {
                map(lanes::philox(), [*key0, *key1, *counter])
            }
            // A fold of what does not vary, or a recurrence outside a loop: no valid program.
            NodeOp::FoldLanes(..) | NodeOp::FoldSteps(..) | NodeOp::Scan { .. } => {
                return Err(missing("a fold outside its loop", node.dtype));
            }
        };
        out.push(action);
        self.use_now(&node.op.inputs());
        self.make(index);
        let rounds = matches!(
            node.op,
            NodeOp::Unary(..) | NodeOp::Binary(..) | NodeOp::Cast(_) | NodeOp::Const(_)
        );
        if rounds && node.round {
            self.round(index, out);
        }
        Ok(())
    }

    /// A stored value must not change when another store writes the buffer it was loaded from.
    fn may_be_direct(&self, index: NodeIndex) -> bool {
        let read_last =
            |put: &Put| put.value == index || put.place.terms.iter().any(|it| it.index == index);
        let kept = self.schedule.kept[index];
        let stored_meanwhile = !self.form.nodes[index].level.has_step()
            && self.form.puts.iter().any(|it| it.level.has_step());
        !kept && !stored_meanwhile && !self.form.puts.iter().any(read_last)
    }

    fn store(&mut self, put: &Put) -> Action {
        let terms = put.place.terms.iter().map(|it| it.index);
        let used: Vec<NodeIndex> = terms.chain([put.value]).collect();
        self.use_now(&used);
        Action::Store(Store {
            value: put.value,
            arg: usize::from(put.arg),
            dtype: self.form.nodes[put.value].dtype,
            place: Located::new(self.form, &put.place, put.level.has_step()),
            add: put.add,
            lanes: put.level.has_lane(),
        })
    }

    fn round(&self, index: NodeIndex, out: &mut Vec<Action>) {
        let node = &self.form.nodes[index];
        if let Some(run) = lanes::round(node.dtype) {
            let lanes = node.level.has_lane();
            out.push(Action::Map { run, to: index, from: [index, 0, 0], lanes });
        }
    }

    fn make(&mut self, index: NodeIndex) {
        let at = self.position;
        let span = self.spans[index].get_or_insert((at, at));
        span.1 = at;
        self.position += 1;
    }

    fn use_now(&mut self, nodes: &[NodeIndex]) {
        for index in nodes {
            let at = self.position;
            self.spans[*index].get_or_insert((at, at)).1 = at;
        }
    }
}

/// Lets the only store take over the operation right before it. Nothing is read in between, so
/// the buffer may be one that the operation reads at the same lanes.
fn join_last(tile: &mut Vec<Action>) {
    let Some([Action::Map { to, lanes: true, .. }, Action::Store(store)]) = tile.last_chunk()
    else {
        return;
    };
    if *to != store.value || store.add || !store.lanes {
        return;
    }
    if let (Some(Action::Store(store)), Some(Action::Map { run, from, .. })) =
        (tile.pop(), tile.pop())
    {
        tile.push(Action::MapStore { run, from, store });
    }
}

fn fold_actions(
    fold: Fold,
    dtype: DType,
    to: NodeIndex,
    from: NodeIndex,
) -> (Action, Action, Action) {
    let fold = if dtype == DType::Bool && fold == Fold::Sum { Fold::Max } else { fold };
    let bits = bits_of(dtype, lanes::start(fold, dtype));
    let (part, end) = lanes::fold(fold, dtype);
    let start = Action::Fill { to, bits, lanes: false };
    (start, Action::FoldPart { part, to, from }, Action::FoldEnd { end, to })
}

const fn missing(what: &'static str, dtype: DType) -> NoSuchOperation {
    NoSuchOperation { what, dtype }
}

/// The bits of a number in a register of a type, in the low bytes.
fn bits_of(dtype: DType, value: f64) -> u64 {
    match Kept::of(dtype) {
        Kept::U8 if dtype == DType::Bool => u64::from(value != 0.0),
        Kept::U8 => u64::from(value as u8),
        Kept::I8 => u64::from((value as i8).cast_unsigned()),
        Kept::I32 => u64::from((value as i32).cast_unsigned()),
        Kept::U32 => u64::from(value as u32),
        Kept::I64 => (value as i64).cast_unsigned(),
        Kept::F32 => u64::from((value as f32).to_bits()),
        Kept::F64 => value.to_bits(),
    }
}
