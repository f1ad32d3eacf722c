//! The interpreter of loop programs: vector operations over tiles that stay in the first cache.
//!
//! A program is compiled once, in up to two forms (see `lower`), to a tape of actions. A run
//! cuts the grid into tasks; the results do not depend on how. Stores that add run in order, on
//! one thread.

mod elementary;
mod lanes;
mod lower;
mod machine;
mod stored;
mod tape;

pub(crate) use machine::{Buffer, Register};

use calor_kernel::LoopProgram;

use crate::simd::Level;
use crate::threads::{Pool, TaskPanicked};
use lower::{Form, Width};
use machine::{Launch, Machine};
use tape::Tape;

/// Vector operations on one block that a task should at least have.
const TASK_WEIGHT_MIN: usize = 4096;

/// Rows are not cut finer than this.
const LANES_PER_TASK_MIN: usize = 64;

/// Tasks for each thread, so that a slow one does not hold up the rest.
const TASKS_PER_THREAD: usize = 4;

/// The last outer extent from which the across form is worth its strided loads.
const ACROSS_EXTENT_MIN: i64 = 16;

/// A loop program ready to run.
#[derive(Debug)]
pub(crate) struct Interpreted {
    rank: usize,
    row: Tape,
    across: Option<Tape>,
}

/// What a program cannot be compiled for.
pub(crate) use tape::NoSuchOperation;

/// One worker's memory for a run.
pub(crate) struct WorkerScratch {
    /// At least [`Interpreted::register_count`].
    pub(crate) registers: *mut Register,
    /// At least [`Interpreted::scratch_bytes`], aligned to 64 bytes.
    pub(crate) bytes: *mut u8,
}

impl Interpreted {
    /// Compiles a program that passed [`LoopProgram::check`].
    ///
    /// # Errors
    /// [`NoSuchOperation`] for an operation on a type that has none.
    pub(crate) fn new(program: &LoopProgram) -> Result<Self, NoSuchOperation> {
        let row = Tape::new(&Form::row(program))?;
        let across = Form::across(program).map(|it| Tape::new(&it)).transpose()?;
        Ok(Self { rank: usize::from(program.rank), row, across })
    }

    /// Registers that each worker needs.
    pub(crate) fn register_count(&self) -> usize {
        self.tapes().map(|it| it.homes.len()).max().unwrap_or(0)
    }

    /// Bytes of scratch that each worker needs.
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.tapes().map(|it| it.scratch_bytes).max().unwrap_or(0)
    }

    fn tapes(&self) -> impl Iterator<Item = &Tape> {
        [Some(&self.row), self.across.as_ref()].into_iter().flatten()
    }

    /// Runs the program. Allocates nothing.
    ///
    /// # Errors
    /// [`TaskPanicked`] when the words lead outside a buffer.
    ///
    /// # Safety
    /// `scratch` gives each worker memory of its own; the buffers stay valid and are not used by
    /// others during the run; each is aligned for its elements.
    pub(crate) unsafe fn run(
        &self,
        pool: &Pool,
        level: Level,
        words: &[i64],
        buffers: &[Buffer],
        scratch: &(dyn Fn(usize) -> WorkerScratch + Sync),
    ) -> Result<(), TaskPanicked> {
        let tape = match &self.across {
            Some(tape) if ACROSS_EXTENT_MIN <= words[self.rank - 1] => tape,
            Some(_) | None => &self.row,
        };
        // SAFETY: the caller's promise.
        unsafe { self.run_tape(tape, pool, level, words, buffers, scratch) }
    }

    /// Runs the program in one of its forms.
    ///
    /// # Safety
    /// As for [`Interpreted::run`].
    unsafe fn run_tape(
        &self,
        tape: &Tape,
        pool: &Pool,
        level: Level,
        words: &[i64],
        buffers: &[Buffer],
        scratch: &(dyn Fn(usize) -> WorkerScratch + Sync),
    ) -> Result<(), TaskPanicked> {
        let extents = &words[..self.rank];
        let grid = Grid::new(tape, extents, pool.thread_count());
        if grid.task_count() == 0 {
            return Ok(());
        }
        let launch = Shared(Launch { level, words, buffers });
        let count = tape.homes.len();
        pool.run(grid.task_count(), &|task_index, worker_index| {
            let WorkerScratch { registers, bytes } = scratch(worker_index);
            // SAFETY: the worker's registers are its own, and there are enough.
            let registers = unsafe { std::slice::from_raw_parts_mut(registers, count) };
            // SAFETY: the caller's promise; tasks write different elements.
            let mut machine = unsafe { Machine::new(tape, launch.get(), registers, bytes) };
            grid.run(task_index, &mut machine);
        })
    }
}

/// A launch as tasks share it.
struct Shared<'a>(Launch<'a>);

// SAFETY: the buffers are addresses; the caller of `Interpreted::run` has promised that tasks
// may use them.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    fn get(&self) -> Launch<'a> {
        self.0
    }
}

/// How points and lanes are cut into tasks.
struct Grid {
    extents: [i64; 8],
    outer_rank: usize,
    point_count: usize,
    lane_count: usize,
    points_per_task: usize,
    lanes_per_task: usize,
}

impl Grid {
    fn new(tape: &Tape, extents: &[i64], thread_count: usize) -> Self {
        let mut looped = [1; 8];
        looped[..tape.outer_rank].copy_from_slice(&extents[..tape.outer_rank]);
        let point_count: usize = looped.iter().map(|it| (*it).max(0) as usize).product();
        let lane_count = match tape.width {
            Width::Fixed(width) => width as usize,
            Width::Word(word) => extents[word as usize].max(0) as usize,
        };
        let blocks = lane_count.div_ceil(lanes::BLOCK);
        let weight = point_count.saturating_mul(blocks).saturating_mul(tape.weight());
        let most = if thread_count == 1 { 1 } else { thread_count * TASKS_PER_THREAD };
        let wanted = if tape.adds { 1 } else { (weight / TASK_WEIGHT_MIN).clamp(1, most) };
        let points_per_task = point_count.div_ceil(wanted).max(1);
        let lane_parts = wanted.checked_div(point_count).unwrap_or(1).max(1);
        let lanes_per_task = if tape.lanes_are_free() && 1 < lane_parts {
            lane_count.div_ceil(lane_parts).next_multiple_of(LANES_PER_TASK_MIN)
        } else {
            lane_count
        };
        Self {
            extents: looped,
            outer_rank: tape.outer_rank,
            point_count,
            lane_count,
            points_per_task,
            lanes_per_task: lanes_per_task.max(1),
        }
    }

    fn lane_parts(&self) -> usize {
        self.lane_count.div_ceil(self.lanes_per_task)
    }

    fn task_count(&self) -> usize {
        self.point_count.div_ceil(self.points_per_task) * self.lane_parts()
    }

    fn run(&self, task_index: usize, machine: &mut Machine<'_>) {
        let (point_part, lane_part) =
            (task_index / self.lane_parts(), task_index % self.lane_parts());
        let first_lane = lane_part * self.lanes_per_task;
        let lanes = [first_lane, self.lane_count.min(first_lane + self.lanes_per_task)];
        let first = point_part * self.points_per_task;
        let mut outer = self.point(first);
        for _ in first..self.point_count.min(first + self.points_per_task) {
            machine.run_point(outer, lanes);
            self.advance(&mut outer);
        }
    }

    fn point(&self, index: usize) -> [i64; 8] {
        let mut rest = index as i64;
        let mut outer = [0; 8];
        for axis in (0..self.outer_rank).rev() {
            outer[axis] = rest % self.extents[axis];
            rest /= self.extents[axis];
        }
        outer
    }

    fn advance(&self, outer: &mut [i64; 8]) {
        for axis in (0..self.outer_rank).rev() {
            outer[axis] += 1;
            if outer[axis] < self.extents[axis] {
                return;
            }
            outer[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests;
