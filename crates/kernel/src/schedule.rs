//! The order in which a kernel evaluates a loop program: the same for every language.
//!
//! A register is *spread* when a thread has one value of it for each of its lanes. Spread
//! registers are evaluated in passes over the thread's lanes; a pass ends in folds or stores.
//! What a later pass reads again is held in an array if the thread has few lanes, and evaluated
//! again if it has many. Stores come last.

use std::collections::{BTreeMap, BTreeSet};

use crate::layout::{HELD_LANES_MAX, Layout};
use crate::program::{InstrOp, LoopProgram, Reg};
use crate::stage::{Stage, stages};

/// One loop over the lanes of a thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pass {
    /// Spread registers to evaluate, in order.
    pub(crate) compute: Vec<Reg>,
    /// Those of `compute` that a later pass reads.
    pub(crate) held: BTreeSet<Reg>,
    /// Folds and recurrences over steps whose values are set to their start.
    pub(crate) starts: Vec<Reg>,
    /// Folds over lanes that end with this pass.
    pub(crate) lane_folds: Vec<Reg>,
    /// Folds over steps that take one more value.
    pub(crate) step_folds: Vec<Reg>,
    /// Stores, by index.
    pub(crate) stores: Vec<usize>,
}

/// One thing that a thread does at an outer point.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// Evaluates a register that is not spread.
    Compute(Reg),
    /// Sets a fold or recurrence over steps to its start.
    Start(Reg),
    /// Gives a fold over steps one more value.
    Accumulate(Reg),
    /// Runs over lanes.
    Pass(usize),
    /// Runs over steps.
    Steps(Vec<Node>),
    /// Stores a value that is not spread.
    Store(usize),
}

/// Everything that a thread does at an outer point.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// In order.
    pub(crate) nodes: Vec<Node>,
    /// What [`Node::Pass`] names.
    pub(crate) passes: Vec<Pass>,
}

impl Schedule {
    /// The schedule of a checked program.
    pub(crate) fn of(program: &LoopProgram, layout: &Layout) -> Self {
        let builder = Builder {
            program,
            layout,
            stages: stages(program),
            loops: BTreeMap::new(),
            passes: Vec::new(),
            homes: BTreeMap::new(),
        };
        builder.build()
    }
}

/// Where a held register was evaluated: the step loop, or nothing outside one, and the pass.
type Home = (Option<u32>, usize);

struct Builder<'a> {
    program: &'a LoopProgram,
    layout: &'a Layout,
    stages: Vec<Stage>,
    /// Folds of each step loop.
    loops: BTreeMap<u32, Vec<Reg>>,
    passes: Vec<Pass>,
    homes: BTreeMap<Reg, Home>,
}

impl Builder<'_> {
    fn build(mut self) -> Schedule {
        let program = self.program;
        for (reg, operand) in regs(program).filter_map(|reg| Some((reg, step_fold(program, reg)?)))
        {
            self.loops.entry(self.stage(operand).step).or_default().push(reg);
        }
        let at_step = |at: &usize| program.store_level(&program.stores[*at]).has_step();
        let (in_steps, after): (Vec<usize>, Vec<usize>) =
            (0..program.stores.len()).partition(at_step);
        let operands = in_steps.iter().flat_map(|at| self.store_regs(*at));
        if let Some(step) = operands.map(|reg| self.stage(reg).step).max() {
            let last = self.loops.keys().next_back().map_or(step, |it| step.max(*it));
            self.loops.entry(last).or_default();
        }
        let last_loop = self.loops.keys().next_back().copied();

        let mut nodes = Vec::new();
        for step in 0..=self.stages.iter().map(|it| it.step).max().unwrap_or(0) {
            self.flat(step, &mut nodes);
            if let Some(folds) = self.loops.remove(&step) {
                let stores = if last_loop == Some(step) { in_steps.as_slice() } else { &[] };
                self.steps(step, &folds, stores, &mut nodes);
            }
        }
        let (spread, single): (Vec<usize>, Vec<usize>) =
            after.into_iter().partition(|at| self.is_spread_store(*at));
        self.pass(None, Pass { stores: spread, ..Pass::default() }, &[], &mut nodes);
        nodes.extend(single.into_iter().map(Node::Store));
        Schedule { nodes, passes: self.passes }
    }

    /// What lies outside step loops and needs no more than `step` of them.
    fn flat(&mut self, step: u32, nodes: &mut Vec<Node>) {
        let program = self.program;
        let here: Vec<Reg> = regs(program)
            .filter(|reg| !program.instr(*reg).level.has_step() && self.stage(*reg).step == step)
            .collect();
        let lane_max = here.iter().map(|reg| self.stage(*reg).lane).max().unwrap_or(0);
        for lane in 0..=lane_max {
            for reg in here.iter().filter(|reg| self.stage(**reg).lane == lane) {
                let folded = is_fold(&program.instr(*reg).op);
                if !folded && !self.is_spread(*reg) {
                    nodes.push(Node::Compute(*reg));
                }
            }
            let ends = |reg: &Reg| {
                lane_fold(program, *reg).is_some_and(|it| self.stage(it) == Stage { step, lane })
            };
            let lane_folds = here.iter().copied().filter(ends).collect();
            self.pass(None, Pass { lane_folds, ..Pass::default() }, &[], nodes);
        }
    }

    /// The step loop number `step`: folds and, in the last one, stores.
    fn steps(&mut self, step: u32, folds: &[Reg], stores: &[usize], nodes: &mut Vec<Node>) {
        let program = self.program;
        let mut roots: Vec<Reg> = folds.iter().filter_map(|it| step_fold(program, *it)).collect();
        roots.extend(stores.iter().flat_map(|at| self.store_regs(*at)));
        let need = self.step_closure(&roots);
        let scans = || need.iter().copied().filter(|it| is_scan(&program.instr(*it).op));

        let mut before = roots;
        before.extend(need.iter().flat_map(|reg| program.instr(*reg).op.regs()));
        before.retain(|reg| {
            let instr = program.instr(*reg);
            self.is_spread(*reg) && !instr.level.has_step() && !matches!(instr.op, InstrOp::Lane)
        });
        let hoisted = if self.holds() { before } else { Vec::new() };
        let (spread, single): (Vec<Reg>, Vec<Reg>) =
            folds.iter().copied().chain(scans()).partition(|reg| self.is_spread(*reg));
        nodes.extend(single.into_iter().map(Node::Start));
        self.pass(None, Pass { starts: spread, ..Pass::default() }, &hoisted, nodes);

        let mut body = Vec::new();
        let lane_max = need.iter().map(|reg| self.stage(*reg).lane).max().unwrap_or(0);
        for lane in 0..=lane_max {
            let at = |reg: &Reg| self.stage(*reg).lane == lane;
            for reg in need.iter().filter(|reg| at(reg) && !self.is_spread(**reg)) {
                if lane_fold(program, *reg).is_none() {
                    body.push(Node::Compute(*reg));
                }
            }
            let ends =
                |reg: &Reg| lane_fold(program, *reg).is_some_and(|it| self.lane_of(it) == lane);
            let mut pass =
                Pass { lane_folds: need.iter().copied().filter(ends).collect(), ..Pass::default() };
            if lane == lane_max {
                pass.step_folds = folds.iter().copied().filter(|it| self.is_spread(*it)).collect();
                pass.stores =
                    stores.iter().copied().filter(|at| self.is_spread_store(*at)).collect();
            }
            let runs: Vec<Reg> = scans().filter(|reg| at(reg) && self.is_spread(*reg)).collect();
            self.pass(Some(step), pass, &runs, &mut body);
        }
        body.extend(
            folds.iter().filter(|it| !self.is_spread(**it)).map(|it| Node::Accumulate(*it)),
        );
        body.extend(
            stores.iter().filter(|at| !self.is_spread_store(**at)).map(|at| Node::Store(*at)),
        );
        nodes.push(Node::Steps(body));
    }

    /// Adds a pass that also evaluates `extra`, unless it would do nothing.
    fn pass(&mut self, at: Option<u32>, mut pass: Pass, extra: &[Reg], nodes: &mut Vec<Node>) {
        let program = self.program;
        let mut roots = extra.to_vec();
        roots.extend(pass.lane_folds.iter().filter_map(|it| lane_fold(program, *it)));
        roots.extend(pass.step_folds.iter().filter_map(|it| step_fold(program, *it)));
        roots.extend(pass.starts.iter().filter_map(|it| scan_start(program, *it)));
        roots.extend(pass.stores.iter().flat_map(|it| self.store_regs(*it)));
        let mut need = BTreeSet::new();
        while let Some(reg) = roots.pop() {
            if !self.is_spread(reg) || need.contains(&reg) || self.is_ready(at, reg, extra) {
                continue;
            }
            need.insert(reg);
            roots.extend(program.instr(reg).op.regs());
        }
        let id = self.passes.len();
        if self.holds() {
            let lasting = need.iter().filter(|it| !matches!(program.instr(**it).op, InstrOp::Lane));
            self.homes.extend(lasting.map(|reg| (*reg, (at, id))));
        }
        pass.compute = need.into_iter().collect();
        let Pass { compute, held: _, starts, lane_folds, step_folds, stores } = &pass;
        let idle = compute.is_empty() && stores.is_empty();
        if idle && [starts, lane_folds, step_folds].iter().all(|it| it.is_empty()) {
            return;
        }
        self.passes.push(pass);
        nodes.push(Node::Pass(id));
    }

    /// Whether a spread register has its values when a pass in `at` begins. One that a pass
    /// before has evaluated is then held.
    fn is_ready(&mut self, at: Option<u32>, reg: Reg, extra: &[Reg]) -> bool {
        let instr = self.program.instr(reg);
        if is_scan(&instr.op) {
            return !extra.contains(&reg);
        }
        if is_fold(&instr.op) {
            return true;
        }
        match self.homes.get(&reg) {
            Some((home, pass)) if home.is_none() || *home == at => {
                self.passes[*pass].held.insert(reg);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Registers at step levels that these depend on, themselves included, in order.
    fn step_closure(&self, roots: &[Reg]) -> Vec<Reg> {
        let mut need = BTreeSet::new();
        let mut open = roots.to_vec();
        while let Some(reg) = open.pop() {
            let instr = self.program.instr(reg);
            if instr.level.has_step() && need.insert(reg) {
                open.extend(instr.op.regs());
            }
        }
        need.into_iter().collect()
    }

    fn store_regs(&self, at: usize) -> Vec<Reg> {
        let store = &self.program.stores[at];
        let terms = store.address.terms.iter().map(|it| it.index);
        std::iter::once(store.value).chain(terms).collect()
    }

    fn stage(&self, reg: Reg) -> Stage {
        self.stages[reg.0 as usize]
    }

    /// Passes over lanes within a step before this register is there; none outside of steps.
    fn lane_of(&self, reg: Reg) -> u32 {
        if self.program.instr(reg).level.has_step() { self.stage(reg).lane } else { 0 }
    }

    fn holds(&self) -> bool {
        self.layout.held() <= HELD_LANES_MAX
    }

    fn is_spread(&self, reg: Reg) -> bool {
        self.layout.spread && self.program.instr(reg).level.has_lane()
    }

    fn is_spread_store(&self, at: usize) -> bool {
        self.layout.spread && self.program.store_level(&self.program.stores[at]).has_lane()
    }
}

fn regs(program: &LoopProgram) -> impl Iterator<Item = Reg> + use<> {
    (0..program.body.len() as u32).map(Reg)
}

fn is_scan(op: &InstrOp) -> bool {
    matches!(op, InstrOp::Scan { .. })
}

fn is_fold(op: &InstrOp) -> bool {
    matches!(op, InstrOp::FoldLanes(..) | InstrOp::FoldSteps(..))
}

fn lane_fold(program: &LoopProgram, reg: Reg) -> Option<Reg> {
    if let InstrOp::FoldLanes(_, x) = program.instr(reg).op { Some(x) } else { None }
}

fn step_fold(program: &LoopProgram, reg: Reg) -> Option<Reg> {
    if let InstrOp::FoldSteps(_, x) = program.instr(reg).op { Some(x) } else { None }
}

fn scan_start(program: &LoopProgram, reg: Reg) -> Option<Reg> {
    if let InstrOp::Scan { initial, .. } = program.instr(reg).op { Some(initial) } else { None }
}
