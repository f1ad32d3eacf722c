//! Rules about what a loop program's instructions take: types, words and loops.
//!
//! [`LoopProgram::check`] asks here, so that a writer never prints text that cannot compile.

use calor_ir::dtype::DType;
use calor_ir::op::Binary;

use crate::program::{Address, Bounds, InstrOp, Level, LoopProgram, ProgramError, Reg, Store};

impl LoopProgram {
    /// The loops that a store runs over: those of its value, of its indices, and the lanes where
    /// neighbouring lanes go to different elements.
    pub fn store_level(&self, store: &Store) -> Level {
        let Store { address: Address { terms, lane_stride, .. }, value, .. } = store;
        let own = Level::of(false, *lane_stride != 0).join(self.instr(*value).level);
        terms.iter().fold(own, |level, term| level.join(self.instr(term.index).level))
    }

    /// Launch words that may follow a live count: the extents, then the words that
    /// [`InstrOp::Word`] reads, in increasing order and without repetition.
    pub fn live_words(&self) -> Vec<u32> {
        let rank = u32::from(self.rank);
        let mut read: Vec<u32> = self.body.iter().filter_map(|it| read_word(&it.op)).collect();
        read.retain(|word| rank <= *word);
        read.sort_unstable();
        read.dedup();
        (0..rank).chain(read).collect()
    }

    /// The rules that concern operands.
    pub(crate) fn check_operands(&self) -> Result<(), ProgramError> {
        for at in 0..self.body.len() {
            if let Some(rule) = self.broken_types(at).or_else(|| self.broken_reach(at)) {
                return Err(ProgramError { at, rule });
            }
        }
        for (at, store) in self.stores.iter().enumerate() {
            if let Some(rule) = self.broken_address(&store.address) {
                return Err(ProgramError { at, rule });
            }
            if self.store_level(store).has_step() && self.bounds.is_none() {
                return Err(ProgramError { at, rule: "a store at a step without a step loop" });
            }
        }
        match self.bounds {
            Some(Bounds { lo, hi }) => [lo, hi].into_iter().try_for_each(|reg| {
                if self.instr(reg).dtype != DType::I32 {
                    let rule = "a step bound that is not i32";
                    return Err(ProgramError { at: reg.0 as usize, rule });
                }
                match self.step_fold_below(reg) {
                    Some(fold) => {
                        let rule = "a step bound that depends on the step loop";
                        Err(ProgramError { at: fold.0 as usize, rule })
                    }
                    None => Ok(()),
                }
            }),
            None => Ok(()),
        }
    }

    fn broken_types(&self, at: usize) -> Option<&'static str> {
        let dtype = self.body[at].dtype;
        let of = |reg: &Reg| self.instr(*reg).dtype;
        let (holds, rule) = match &self.body[at].op {
            InstrOp::Const(_) | InstrOp::Load { .. } | InstrOp::Cast(_) => (true, ""),
            InstrOp::Outer(_) | InstrOp::Step | InstrOp::Lane | InstrOp::Word(_) => {
                (dtype == DType::I32, "an index that is not i32")
            }
            InstrOp::Unary(op, x) => {
                (of(x) == dtype && op.accepts(dtype), "a unary operation on another type")
            }
            InstrOp::Binary(op, a, b) => (
                of(a) == of(b) && op.accepts(of(a)) && op.result(of(a)) == dtype,
                "a binary operation on other types",
            ),
            InstrOp::Select(c, a, b) => (
                of(c) == DType::Bool && of(a) == dtype && of(b) == dtype,
                "a selection between other types",
            ),
            InstrOp::FoldLanes(_, x) | InstrOp::FoldSteps(_, x) => {
                (of(x) == dtype, "a fold into another type")
            }
            InstrOp::Scan { a, b, initial } => (
                [a, b, initial].iter().all(|reg| of(reg) == dtype) && Binary::Pow.accepts(dtype),
                "a recurrence over other types",
            ),
            InstrOp::Philox { key0, key1, counter } => (
                dtype == DType::U32
                    && [key0, key1, counter].iter().all(|reg| of(reg) == DType::U32),
                "random words of other types",
            ),
        };
        (!holds).then_some(rule)
    }

    fn broken_reach(&self, at: usize) -> Option<&'static str> {
        match &self.body[at].op {
            InstrOp::Outer(axis) if self.rank <= *axis => Some("no such outer dimension"),
            InstrOp::Word(word) if self.word_count <= *word => Some("no such launch word"),
            InstrOp::FoldSteps(..) | InstrOp::Scan { .. } if self.bounds.is_none() => {
                Some("a fold over steps without a step loop")
            }
            InstrOp::Load { address, guard, .. } => {
                let level = self.body[at].level;
                let operands = self.body[at].op.regs();
                if guard.is_some_and(|reg| self.instr(reg).dtype != DType::Bool) {
                    return Some("a guard that is not bool");
                }
                if operands.iter().any(|reg| level.join(self.instr(*reg).level) != level) {
                    return Some("a load below the level of its operands");
                }
                self.broken_address(address)
            }
            InstrOp::Const(_)
            | InstrOp::Outer(_)
            | InstrOp::Step
            | InstrOp::Lane
            | InstrOp::Word(_)
            | InstrOp::Unary(..)
            | InstrOp::Binary(..)
            | InstrOp::Select(..)
            | InstrOp::Cast(_)
            | InstrOp::FoldLanes(..)
            | InstrOp::FoldSteps(..)
            | InstrOp::Scan { .. }
            | InstrOp::Philox { .. } => None,
        }
    }

    fn broken_address(&self, address: &Address) -> Option<&'static str> {
        let end = address.word as usize + address.word_count(usize::from(self.rank));
        if (self.word_count as usize) < end {
            return Some("an address beyond the launch words");
        }
        let whole = |reg: Reg| self.instr(reg).dtype.is_int();
        address.terms.iter().any(|it| !whole(it.index)).then_some("an index that is no integer")
    }

    /// A fold over steps that `reg` depends on.
    fn step_fold_below(&self, reg: Reg) -> Option<Reg> {
        let op = &self.instr(reg).op;
        if matches!(op, InstrOp::FoldSteps(..)) {
            return Some(reg);
        }
        op.regs().into_iter().find_map(|it| self.step_fold_below(it))
    }
}

fn read_word(op: &InstrOp) -> Option<u32> {
    if let InstrOp::Word(word) = op { Some(*word) } else { None }
}
