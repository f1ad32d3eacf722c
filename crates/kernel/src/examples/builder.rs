//! Builds loop programs by hand: registers in order, launch words where the format wants them.

use calor_ir::dtype::DType;
use calor_ir::op::{Binary, Fold, Unary};

use crate::examples::Example;
use crate::program::{
    Access, Address, Arg, Bounds, Instr, InstrOp, Level, LoopProgram, Reg, Store, Term,
};

/// Where an element lies: the numbers that become launch words, and the lane stride.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct At<'a> {
    pub(super) offset: i64,
    pub(super) outer: &'a [i64],
    pub(super) step: i64,
    pub(super) lane: u32,
    /// Index, stride and extent.
    pub(super) terms: &'a [(Reg, i64, i64)],
}

/// A program under construction, with its launch.
pub(super) struct Builder {
    program: LoopProgram,
    words: Vec<i64>,
    free_words: Vec<i64>,
    buffers: Vec<Vec<f64>>,
}

/// Numbers of both signs that look arbitrary, rounded to their type.
pub(super) fn numbers(dtype: DType, count: usize) -> Vec<f64> {
    let number = |at: usize| ((at * 37 + 11) % 101) as f64 / 25.0 - 2.0;
    (0..count).map(|at| dtype.round(number(at))).collect()
}

impl Builder {
    pub(super) fn new(extents: &[i64], width: u32) -> Self {
        let program = LoopProgram {
            rank: extents.len() as u8,
            width,
            args: Vec::new(),
            body: Vec::new(),
            bounds: None,
            stores: Vec::new(),
            word_count: 0,
        };
        let (words, buffers) = (extents.to_vec(), Vec::new());
        Self { program, words, free_words: Vec::new(), buffers }
    }

    pub(super) fn read(&mut self, dtype: DType, data: Vec<f64>) -> u8 {
        self.buffers.push(data);
        self.program.args.push(Arg { dtype, access: Access::Read });
        (self.buffers.len() - 1) as u8
    }

    pub(super) fn write(&mut self, dtype: DType, count: usize) -> u8 {
        self.buffers.push(vec![0.0; count]);
        self.program.args.push(Arg { dtype, access: Access::Write });
        (self.buffers.len() - 1) as u8
    }

    fn push(&mut self, op: InstrOp, level: Level, dtype: DType) -> Reg {
        self.program.body.push(Instr { op, level, dtype });
        Reg(self.program.body.len() as u32 - 1)
    }

    fn address(&mut self, at: At<'_>) -> Address {
        assert_eq!(at.outer.len(), usize::from(self.program.rank));
        let word = self.words.len() as u32;
        self.words.push(at.offset);
        self.words.extend(at.outer);
        self.words.push(at.step);
        for (_, stride, extent) in at.terms {
            self.words.extend([stride, extent]);
        }
        let terms = at.terms.iter().map(|(index, ..)| Term { index: *index }).collect();
        Address { word, lane_stride: at.lane, terms }
    }

    fn level(&self, reg: Reg) -> Level {
        self.program.instr(reg).level
    }

    fn dtype(&self, reg: Reg) -> DType {
        self.program.instr(reg).dtype
    }

    pub(super) fn number(&mut self, dtype: DType, value: f64) -> Reg {
        self.push(InstrOp::Const(value), Level::Row, dtype)
    }

    pub(super) fn outer(&mut self, axis: u8) -> Reg {
        self.push(InstrOp::Outer(axis), Level::Row, DType::I32)
    }

    pub(super) fn step(&mut self) -> Reg {
        self.push(InstrOp::Step, Level::Step, DType::I32)
    }

    pub(super) fn lane(&mut self) -> Reg {
        self.push(InstrOp::Lane, Level::Lane, DType::I32)
    }

    /// A free launch word.
    pub(super) fn word(&mut self, value: i64) -> Reg {
        self.free_words.push(value);
        let place = self.free_words.len() as u32 - 1;
        self.push(InstrOp::Word(place), Level::Row, DType::I32)
    }

    pub(super) fn load(&mut self, arg: u8, level: Level, at: At<'_>) -> Reg {
        self.load_if(arg, level, at, None)
    }

    pub(super) fn load_if(&mut self, arg: u8, level: Level, at: At<'_>, guard: Option<Reg>) -> Reg {
        let dtype = self.program.args[usize::from(arg)].dtype;
        let address = self.address(at);
        self.push(InstrOp::Load { arg, address, guard }, level, dtype)
    }

    pub(super) fn unary(&mut self, op: Unary, x: Reg) -> Reg {
        self.push(InstrOp::Unary(op, x), self.level(x), self.dtype(x))
    }

    pub(super) fn binary(&mut self, op: Binary, a: Reg, b: Reg) -> Reg {
        let level = self.level(a).join(self.level(b));
        self.push(InstrOp::Binary(op, a, b), level, op.result(self.dtype(a)))
    }

    pub(super) fn select(&mut self, condition: Reg, a: Reg, b: Reg) -> Reg {
        let level = self.level(condition).join(self.level(a)).join(self.level(b));
        self.push(InstrOp::Select(condition, a, b), level, self.dtype(a))
    }

    pub(super) fn cast(&mut self, dtype: DType, x: Reg) -> Reg {
        self.push(InstrOp::Cast(x), self.level(x), dtype)
    }

    pub(super) fn fold_lanes(&mut self, fold: Fold, x: Reg) -> Reg {
        let level = Level::of(self.level(x).has_step(), false);
        self.push(InstrOp::FoldLanes(fold, x), level, self.dtype(x))
    }

    pub(super) fn fold_steps(&mut self, fold: Fold, x: Reg) -> Reg {
        let level = Level::of(false, self.level(x).has_lane());
        self.push(InstrOp::FoldSteps(fold, x), level, self.dtype(x))
    }

    pub(super) fn scan(&mut self, a: Reg, b: Reg, initial: Reg) -> Reg {
        let level = self.level(a).join(self.level(b)).join(self.level(initial));
        self.push(InstrOp::Scan { a, b, initial }, level, self.dtype(a))
    }

    pub(super) fn philox(&mut self, key0: Reg, key1: Reg, counter: Reg) -> Reg {
        let level = self.level(key0).join(self.level(key1)).join(self.level(counter));
        self.push(InstrOp::Philox { key0, key1, counter }, level, DType::U32)
    }

    pub(super) fn bounds(&mut self, lo: Reg, hi: Reg) {
        self.program.bounds = Some(Bounds { lo, hi });
    }

    pub(super) fn store(&mut self, arg: u8, at: At<'_>, value: Reg) {
        let address = self.address(at);
        self.program.stores.push(Store { arg, address, value, add: false });
    }

    pub(super) fn add(&mut self, arg: u8, at: At<'_>, value: Reg) {
        let address = self.address(at);
        self.program.stores.push(Store { arg, address, value, add: true });
    }

    pub(super) fn finish(mut self, name: &'static str) -> Example {
        for instr in &mut self.program.body {
            if let InstrOp::Word(word) = &mut instr.op {
                *word += self.words.len() as u32;
            }
        }
        self.words.extend(self.free_words);
        self.program.word_count = self.words.len() as u32;
        Example { name, program: self.program, words: self.words, buffers: self.buffers }
    }
}
