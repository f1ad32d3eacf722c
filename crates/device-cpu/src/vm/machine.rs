//! Runs a tape over some points of its grid, with the registers of one worker.
//!
//! Every element that is read or written is inside its buffer: addresses are checked as ranges,
//! a tile at a time. A program that leaves a buffer panics, which the queue turns into an error.

mod access;

use crate::simd::Level;

use super::lanes::{BLOCK, Operands, Run};
use super::lower::NodeIndex;
use super::tape::{Action, Extent, StepLoop, Tape};

/// A buffer argument.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    /// Its first byte.
    pub(crate) start: *mut u8,
    /// Its bytes.
    pub(crate) len_bytes: usize,
}

/// Where a register is now: its first lane, and the bytes from block to block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Register {
    pub(super) at: *mut u8,
    pub(super) step: usize,
}

/// What a run is given; the same for all its tasks.
#[derive(Clone, Copy)]
pub(super) struct Launch<'a> {
    pub(super) level: Level,
    pub(super) words: &'a [i64],
    pub(super) buffers: &'a [Buffer],
}

/// One worker's state while it runs a tape.
pub(super) struct Machine<'a> {
    tape: &'a Tape,
    launch: Launch<'a>,
    registers: &'a mut [Register],
    scratch: *mut u8,
    outer: [i64; 8],
    step: i64,
    /// First lane of the tile, and its lanes.
    first_lane: usize,
    lane_count: usize,
}

impl<'a> Machine<'a> {
    /// A machine with its registers in place and what is the same everywhere computed.
    ///
    /// # Safety
    /// The scratch is aligned to 64 bytes, has the tape's bytes and is used by nobody else while
    /// the machine lives. The buffers stay valid, and nobody else writes what it reads or
    /// touches what it writes.
    pub(super) unsafe fn new(
        tape: &'a Tape,
        launch: Launch<'a>,
        registers: &'a mut [Register],
        scratch: *mut u8,
    ) -> Self {
        for (home, register) in tape.homes.iter().zip(registers.iter_mut()) {
            let step = if home.extent == Extent::One { 0 } else { BLOCK * home.lane_bytes };
            *register = Register { at: scratch.wrapping_add(home.offset), step };
        }
        let mut machine = Self {
            tape,
            launch,
            registers,
            scratch,
            outer: [0; 8],
            step: 0,
            first_lane: 0,
            lane_count: 0,
        };
        machine.run_all(&tape.once);
        machine
    }

    /// Runs the lanes from `lanes[0]` to `lanes[1]` of the point at `outer`.
    pub(super) fn run_point(&mut self, outer: [i64; 8], lanes: [usize; 2]) {
        self.outer = outer;
        for stage in &self.tape.stages {
            self.run_all(&stage.before);
            let mut first = lanes[0];
            while first < lanes[1] {
                self.enter_tile(first, (lanes[1] - first).min(self.tape.tile_len));
                self.run_all(&stage.tile);
                first += self.tape.tile_len;
            }
            self.run_all(&stage.after);
        }
    }

    fn enter_tile(&mut self, first_lane: usize, lane_count: usize) {
        self.first_lane = first_lane;
        self.lane_count = lane_count;
        for (home, register) in self.tape.homes.iter().zip(self.registers.iter_mut()) {
            if home.extent == Extent::Row {
                let offset = home.offset + first_lane * home.lane_bytes;
                register.at = self.scratch.wrapping_add(offset);
            }
        }
    }

    fn run_all(&mut self, actions: &[Action]) {
        for action in actions {
            self.run(action);
        }
    }

    fn run(&mut self, action: &Action) {
        match action {
            Action::Map { run, to, from, lanes } => {
                self.map(*run, self.registers[*to].at, *from, *lanes);
            }
            Action::Fill { to, bits, lanes } => self.fill(*to, *bits, self.block_count(*lanes)),
            Action::Outer { to, axis } => self.fill_i32(*to, self.outer[*axis]),
            Action::Step { to } => self.fill_i32(*to, self.step),
            Action::Word { to, word } => self.fill_i32(*to, self.launch.words[*word]),
            Action::Lane { to } => {
                let at = self.registers[*to].at.cast::<i32>();
                for lane in 0..self.lane_count.next_multiple_of(BLOCK) {
                    // SAFETY: the register has room for the blocks of a tile.
                    unsafe { at.wrapping_add(lane).write((self.first_lane + lane) as i32) };
                }
            }
            Action::Load(load) => self.load(load),
            Action::Store(store) => self.store(store),
            Action::MapStore { run, from, store } => {
                let to = self.direct_place(store);
                let at = to.unwrap_or(self.registers[store.value].at);
                self.map(*run, at, *from, true);
                if to.is_none() {
                    self.store(store);
                }
            }
            Action::FoldPart { part, to, from } => {
                let from = self.registers[*from];
                let to = self.registers[*to].at;
                // SAFETY: the register holds the lanes of the tile; `to` is a block.
                unsafe { part(self.launch.level, to, from.at, from.step, self.lane_count) };
            }
            Action::FoldEnd { end, to } => {
                // SAFETY: it is a block.
                unsafe { end(self.registers[*to].at) };
            }
            Action::Steps(steps) => self.run_steps(steps),
        }
    }

    /// `to` is a register, or has room for the blocks of the tile.
    fn map(&self, run: Run, to: *mut u8, from: [NodeIndex; 3], lanes: bool) {
        let [a, b, c] = from.map(|it| self.registers[it]);
        let operands = Operands {
            to,
            from: [a.at, b.at, c.at],
            steps: [a.step, b.step, c.step],
            block_count: self.block_count(lanes),
        };
        // SAFETY: registers have room for the blocks of a tile, and registers that stand for a
        // buffer are only made when the buffer has them.
        unsafe { run(self.launch.level, &operands) };
    }

    fn run_steps(&mut self, steps: &StepLoop) {
        let [lo, hi] = [steps.lo, steps.hi].map(|it| i64::from(self.first_i32(it)));
        self.run_all(&steps.before);
        for step in lo..hi {
            self.step = step;
            self.run_all(&steps.body);
        }
        self.run_all(&steps.after);
    }

    fn block_count(&self, lanes: bool) -> usize {
        if lanes { self.lane_count.div_ceil(BLOCK) } else { 1 }
    }

    fn first_i32(&self, node: NodeIndex) -> i32 {
        // SAFETY: a register has at least one lane, and this one is of `i32`.
        unsafe { self.registers[node].at.cast::<i32>().read() }
    }

    fn fill_i32(&mut self, to: NodeIndex, value: i64) {
        self.fill(to, u64::from((value as i32).cast_unsigned()), 1);
    }

    fn fill(&mut self, to: NodeIndex, bits: u64, block_count: usize) {
        let at = self.registers[to].at;
        for lane in 0..block_count * BLOCK {
            match self.tape.homes[to].lane_bytes {
                // SAFETY: the register has room for these blocks.
                1 => unsafe { at.wrapping_add(lane).write(bits as u8) },
                // SAFETY: as above; homes are aligned.
                4 => unsafe { at.cast::<u32>().wrapping_add(lane).write(bits as u32) },
                // SAFETY: as above.
                _ => unsafe { at.cast::<u64>().wrapping_add(lane).write(bits) },
            }
        }
    }
}
