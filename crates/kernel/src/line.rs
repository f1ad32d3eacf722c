//! Prints single statements of a kernel: definitions, accumulations, loads and stores.

use calor_ir::op::{Binary, Fold};

use crate::dialect::{fold_op, fold_start};
use crate::nest::Printer;
use crate::program::{Address, InstrOp, Level, Reg, Store};
use crate::schedule::Pass;

impl Printer<'_> {
    /// How a register is called: in a pass, the value of the current lane.
    pub(crate) fn name(&self, reg: Reg, pass: Option<&Pass>) -> String {
        let instr = self.program.instr(reg);
        let is_spread = self.layout.spread && instr.level.has_lane();
        let is_state = matches!(instr.op, InstrOp::Scan { .. });
        let is_local = pass.is_some_and(|it| it.compute.contains(&reg) && !it.held.contains(&reg));
        let place = match (self.layout.chunks, self.layout.pack) {
            _ if !is_spread || (is_local && !is_state) => String::new(),
            (1, 1) => String::new(),
            (_, 1) => "[k]".into(),
            (1, _) => "[v]".into(),
            (_, pack) => format!("[k * {pack} + v]"),
        };
        format!("r{}{place}", reg.0)
    }

    /// Where a thread collects its part of a fold over lanes.
    pub(crate) fn partial(&self, reg: Reg) -> String {
        if 1 < self.layout.team { format!("part{}", reg.0) } else { format!("r{}", reg.0) }
    }

    /// Declares a register that lasts longer than the lane or step that sets it.
    pub(crate) fn declare(&mut self, reg: Reg) {
        let instr = self.program.instr(reg);
        let name = format!("r{}", reg.0);
        let is_array = self.layout.spread && instr.level.has_lane() && self.layout.held() != 1;
        self.line(&match is_array {
            true => self.dialect.array(instr.dtype, &name, self.layout.held()),
            false => self.dialect.variable(instr.dtype, &name, None),
        });
    }

    /// The value with which a fold or recurrence begins.
    pub(crate) fn start(&self, reg: Reg, pass: Option<&Pass>) -> String {
        let instr = self.program.instr(reg);
        match instr.op {
            InstrOp::Scan { initial, .. } => self.name(initial, pass),
            InstrOp::FoldLanes(fold, _) | InstrOp::FoldSteps(fold, _) => {
                self.dialect.constant(instr.dtype.wide(), fold_start(fold, instr.dtype))
            }
            InstrOp::Const(_)
            | InstrOp::Outer(_)
            | InstrOp::Step
            | InstrOp::Lane
            | InstrOp::Word(_)
            | InstrOp::Load { .. }
            | InstrOp::Unary(..)
            | InstrOp::Binary(..)
            | InstrOp::Select(..)
            | InstrOp::Cast(_)
            | InstrOp::Philox { .. } => unreachable!("only folds and recurrences are started"),
        }
    }

    /// Gives a fold over steps one more value.
    pub(crate) fn accumulate(&mut self, reg: Reg, pass: Option<&Pass>) {
        let instr = self.program.instr(reg);
        if let InstrOp::FoldSteps(fold, x) = instr.op {
            let (name, x) = (self.name(reg, pass), self.name(x, pass));
            let folded = self.dialect.binary(fold_op(fold, instr.dtype), instr.dtype, &name, &x);
            self.line(&format!("{name} = {folded};"));
        }
    }

    /// Gives a register its value: a new local, or a place that is declared already.
    pub(crate) fn define(&mut self, reg: Reg, value: &str, pass: Option<&Pass>) {
        let instr = self.program.instr(reg);
        let is_state = matches!(instr.op, InstrOp::Scan { .. });
        let name = self.name(reg, pass);
        if is_state || pass.is_some_and(|it| it.held.contains(&reg)) {
            self.line(&format!("{name} = {value};"));
        } else {
            self.line(&self.dialect.value(instr.dtype, &name, value));
        }
    }

    /// Evaluates a register.
    pub(crate) fn compute(&mut self, reg: Reg, pass: Option<&Pass>) {
        let dialect = self.dialect;
        let instr = self.program.instr(reg);
        let (dtype, name) = (instr.dtype, |it: Reg| self.name(it, pass));
        let value = match &instr.op {
            InstrOp::Const(value) => dialect.constant(dtype, *value),
            InstrOp::Outer(axis) => format!("o{axis}"),
            InstrOp::Step => "step".into(),
            InstrOp::Lane => "lane".into(),
            InstrOp::Word(word) if *word < u32::from(self.program.rank) => {
                dialect.narrow(&format!("e{word}"))
            }
            InstrOp::Word(word) => dialect.narrow(&format!("x{word}")),
            InstrOp::Load { arg, address, guard } => {
                let index =
                    self.index(&format!("from{}", reg.0), address, instr.level, "lane", pass);
                let value = dialect.load(*arg, dtype, &index);
                match guard {
                    Some(guard) => return self.guarded(reg, name(*guard), &value, pass),
                    None => value,
                }
            }
            InstrOp::Unary(op, x) => dialect.unary(*op, dtype, &name(*x)),
            InstrOp::Binary(op, a, b) => {
                let operand = self.program.instr(*a).dtype;
                dialect.binary(*op, operand, &name(*a), &name(*b))
            }
            InstrOp::Select(c, a, b) => dialect.select(&name(*c), &name(*a), &name(*b)),
            InstrOp::Cast(x) => dialect.cast(self.program.instr(*x).dtype, dtype, &name(*x)),
            InstrOp::Scan { a, b, .. } => {
                let state = name(reg);
                let product = dialect.binary(Binary::Mul, dtype, &name(*a), &state);
                dialect.binary(Binary::Add, dtype, &product, &name(*b))
            }
            InstrOp::Philox { key0, key1, counter } => {
                dialect.philox(&name(*key0), &name(*key1), &name(*counter))
            }
            InstrOp::FoldLanes(..) | InstrOp::FoldSteps(..) => {
                unreachable!("folds are not evaluated but collected")
            }
        };
        self.define(reg, &value, pass);
    }

    /// A load that reads nothing where its guard is false.
    fn guarded(&mut self, reg: Reg, guard: String, value: &str, pass: Option<&Pass>) {
        let dtype = self.program.instr(reg).dtype;
        let (name, zero) = (self.name(reg, pass), self.dialect.constant(dtype, 0.0));
        if pass.is_some_and(|it| it.held.contains(&reg)) {
            self.line(&format!("{name} = {zero};"));
        } else {
            self.line(&self.dialect.variable(dtype, &name, Some(&zero)));
        }
        self.line(&format!("if ({guard}) {{ {name} = {value}; }}"));
    }

    /// Stores a value, by every thread that comes here.
    pub(crate) fn store(&mut self, at: usize, pass: Option<&Pass>) {
        let store = &self.program.stores[at];
        let Store { arg, address, value, add } = store;
        let dtype = self.program.instr(*value).dtype;
        let level = self.program.store_level(store);
        let index = self.index(&format!("to{at}"), address, level, "lane", pass);
        let mut value = self.name(*value, pass);
        if *add {
            let there = self.dialect.load(*arg, dtype, &index);
            value = self.dialect.binary(fold_op(Fold::Sum, dtype), dtype, &there, &value);
        }
        self.line(&self.dialect.store(*arg, dtype, &index, &value));
    }

    /// Stores a value of the outer point or step, by one of the threads that have it.
    pub(crate) fn single_store(&mut self, at: usize) {
        let layout = self.layout;
        let has_lane = self.program.store_level(&self.program.stores[at]).has_lane();
        let leader = match (layout.spread, 1 < layout.team, 1 < layout.parts) {
            (true, true, _) => Some("t"),
            (true, false, true) => Some("part"),
            (false, _, true) if !has_lane => Some("lane"),
            (_, _, _) => None,
        };
        if let Some(leader) = leader {
            self.open(&format!("if ({leader} == 0)"));
            self.store(at, None);
            self.close(1);
        } else {
            self.store(at, None);
        }
    }

    /// The element at `lane`.
    pub(crate) fn index<'a>(
        &self,
        first: &str,
        address: &Address,
        level: Level,
        lane: &str,
        pass: impl Into<Option<&'a Pass>>,
    ) -> String {
        let (dialect, pass) = (self.dialect, pass.into());
        let step = address.word + 1 + u32::from(self.program.rank);
        let mut sum = first.to_string();
        if level.has_step() {
            sum += &format!(" + step * {}", dialect.word(step));
        }
        for (at, term) in address.terms.iter().enumerate() {
            let stride = step + 1 + 2 * at as u32;
            let index = dialect.clamped(&self.name(term.index, pass), &dialect.word(stride + 1));
            sum += &format!(" + {index} * {}", dialect.word(stride));
        }
        match address.lane_stride {
            stride if stride == 0 || !level.has_lane() => {}
            1 => sum += &format!(" + {lane}"),
            stride => sum += &format!(" + {lane} * {stride}"),
        }
        sum
    }

    /// Whether the lanes of a pack are neighbours in memory and share their guard.
    pub(crate) fn is_packed(&self, address: &Address, guard: Option<Reg>) -> bool {
        let by_lane = |reg: Reg| self.program.instr(reg).level.has_lane();
        address.lane_stride == 1
            && !guard.is_some_and(by_lane)
            && !address.terms.iter().any(|it| by_lane(it.index))
    }
}
