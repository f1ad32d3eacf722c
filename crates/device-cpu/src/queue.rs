//! Prepared programs: everything is resolved and checked once, so that a run only computes.
//!
//! A run executes its steps in order, each on all threads, and has ended when `run` returns.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use calor_device::{BufferId, CodeId, DeviceError, PreparedId, Queue, Span, Step, Ticket, Word};

use crate::code::{Code, Launch, Machine};
use crate::device::{Shared, State};
use crate::memory::Allocation;
use crate::threads::TaskPanicked;
use crate::vm::Buffer;

/// The device's queue.
pub(crate) struct CpuQueue(pub(crate) Arc<Shared>);

/// A prepared program.
pub(crate) struct Program {
    steps: Vec<Ready>,
    /// The words of all steps; live ones are filled in when a run starts.
    words: Vec<i64>,
    live: Vec<LiveWord>,
    counts: Option<Buffer>,
    /// What the steps point into.
    held: Vec<(BufferId, Arc<Allocation>)>,
}

// SAFETY: the addresses point into `held`, and whoever uses them holds the device's lock.
unsafe impl Send for Program {}

/// A word that follows a live count.
struct LiveWord {
    word: usize,
    count: usize,
    scale: i64,
    max: i64,
}

enum Ready {
    Run { code: Arc<dyn Code>, words: std::ops::Range<usize>, buffers: Vec<Buffer> },
    Copy { from: Buffer, to: Buffer },
    Fill { to: Buffer, byte: u8 },
}

impl Queue for CpuQueue {
    fn prepare(
        &mut self,
        steps: &[Step],
        edges: &[(u32, u32)],
        live: Option<Span>,
    ) -> Result<PreparedId, DeviceError> {
        for (before, after) in edges {
            if after <= before || steps.len() <= *after as usize {
                return Err(DeviceError::Step { step: *after as usize, why: "edge not forward" });
            }
        }
        let mut state = self.0.lock();
        let mut preparing = Preparing {
            shared: &self.0,
            state: &state,
            program: Program {
                steps: Vec::with_capacity(steps.len()),
                words: Vec::new(),
                live: Vec::new(),
                counts: None,
                held: Vec::new(),
            },
            scratch_bytes: 0,
        };
        preparing.program.counts = live.map(|span| preparing.piece(span)).transpose()?;
        for (index, step) in steps.iter().enumerate() {
            let ready = preparing.step(index, step)?;
            preparing.program.steps.push(ready);
        }
        let Preparing { program, scratch_bytes, .. } = preparing;
        let have = state.scratch.as_ref().map_or(0, |it| it.buffer().len_bytes);
        if have < scratch_bytes {
            // The old one goes first, so that both need not fit.
            state.scratch = None;
            let scratch = Allocation::new(scratch_bytes as u64, &self.0.budget);
            if scratch.is_err() && 0 < have {
                state.scratch = Some(Allocation::new(have as u64, &self.0.budget)?);
            }
            state.scratch = Some(scratch?);
        }
        let index = state.programs.insert(program);
        Ok(PreparedId { index, generation: self.0.generation })
    }

    fn run(&mut self, prepared: PreparedId) -> Result<Ticket, DeviceError> {
        self.0.of_this(prepared.generation, "program")?;
        let mut state = self.0.lock();
        let state = &mut *state;
        let stale = DeviceError::Stale { what: "program" };
        let program = state.programs.get_mut(prepared.index).ok_or(stale)?;
        let nowhere = Buffer { start: std::ptr::null_mut(), len_bytes: 0 };
        let scratch = state.scratch.as_ref().map_or(nowhere, Allocation::buffer);
        state.run_count += 1;
        let mut step_ns = self.0.profile.as_ref().map(|_| Vec::with_capacity(program.steps.len()));
        if let Err(error) = program.run(&self.0, scratch, step_ns.as_mut()) {
            state.failed.push((state.run_count, error));
        }
        if let (Some(profile), Some(step_ns)) = (&self.0.profile, step_ns) {
            profile.keep(prepared, step_ns.into_iter().map(|it| (String::new(), it)).collect());
        }
        Ok(Ticket(state.run_count))
    }

    fn wait(&mut self, ticket: Ticket, _deadline: Duration) -> Result<(), DeviceError> {
        let mut state = self.0.lock();
        if ticket.0 == 0 || state.run_count < ticket.0 {
            return Err(DeviceError::Stale { what: "ticket" });
        }
        match state.failed.iter().position(|(run, _)| *run == ticket.0) {
            Some(at) => Err(state.failed.swap_remove(at).1),
            None => Ok(()),
        }
    }
}

/// A program while its steps are being resolved.
struct Preparing<'a> {
    shared: &'a Shared,
    state: &'a State,
    program: Program,
    scratch_bytes: usize,
}

impl Preparing<'_> {
    fn step(&mut self, index: usize, step: &Step) -> Result<Ready, DeviceError> {
        let refuse = |why: &'static str| DeviceError::Step { step: index, why };
        match step {
            Step::Launch { code, words, args } | Step::Call { code, words, args } => {
                self.launch(index, *code, words, args)
            }
            Step::Copy { from, to } => {
                if from.len != to.len {
                    return Err(refuse("lengths differ"));
                }
                let apart = from.offset.abs_diff(to.offset) >= from.len;
                if from.buffer == to.buffer && !apart {
                    return Err(refuse("the spans of a copy overlap"));
                }
                Ok(Ready::Copy { from: self.piece(*from)?, to: self.piece(*to)? })
            }
            Step::Fill { to, byte } => Ok(Ready::Fill { to: self.piece(*to)?, byte: *byte }),
        }
    }

    fn launch(
        &mut self,
        index: usize,
        code: CodeId,
        words: &[Word],
        args: &[Span],
    ) -> Result<Ready, DeviceError> {
        self.shared.of_this(code.generation, "code")?;
        let stale = DeviceError::Stale { what: "code" };
        let code = Arc::clone(self.state.codes.get(code.index).ok_or(stale)?);
        let first = self.program.words.len();
        for word in words {
            let most = match *word {
                Word::Fixed(value) => value,
                Word::Live { count, scale, max } => {
                    let at = self.program.words.len();
                    let count = usize::from(count);
                    let counts = self.program.counts.map_or(0, |it| it.len_bytes / 4);
                    if counts <= count {
                        let why = "a word follows a count that is not in the live span";
                        return Err(DeviceError::Step { step: index, why });
                    }
                    self.program.live.push(LiveWord { word: at, count, scale, max });
                    max
                }
            };
            self.program.words.push(most);
        }
        let words = first..self.program.words.len();
        let buffers: Result<Vec<Buffer>, _> = args.iter().map(|it| self.piece(*it)).collect();
        let buffers = buffers?;
        let most = &self.program.words[words.clone()];
        code.check(most, &buffers).map_err(|why| DeviceError::Step { step: index, why })?;
        let machine =
            Machine { level: self.shared.level, thread_count: self.shared.pool.thread_count() };
        self.scratch_bytes = self.scratch_bytes.max(code.scratch_bytes(machine, most));
        Ok(Ready::Run { code, words, buffers })
    }

    fn piece(&mut self, span: Span) -> Result<Buffer, DeviceError> {
        let (allocation, piece) = self.shared.piece(self.state, span)?;
        if !self.program.held.iter().any(|(it, _)| *it == span.buffer) {
            self.program.held.push((span.buffer, allocation));
        }
        Ok(piece)
    }
}

impl Program {
    /// What each step took is left in `step_ns`, where somebody wants to know.
    fn run(
        &mut self,
        shared: &Shared,
        scratch: Buffer,
        mut step_ns: Option<&mut Vec<u64>>,
    ) -> Result<(), DeviceError> {
        if let Some(counts) = self.counts {
            for LiveWord { word, count, scale, max } in &self.live {
                let at = counts.start.cast::<u32>().wrapping_add(*count);
                // SAFETY: `prepare` has seen that the count is inside the live span.
                let count = unsafe { at.read_unaligned() };
                self.words[*word] = i64::from(count).min(*max).saturating_mul(*scale).min(*max);
            }
        }
        let mut at = 0;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for (index, step) in self.steps.iter().enumerate() {
                at = index;
                match &mut step_ns {
                    None => step.compute(shared, &self.words, scratch)?,
                    Some(step_ns) => step_ns.push(step.timed(shared, &self.words, scratch)?),
                }
            }
            Ok(())
        }));
        let outcome = outcome.unwrap_or_else(|payload| {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(|it| (*it).into()));
            Err(TaskPanicked { task_index: 0, message: text.unwrap_or_default() })
        });
        outcome.map_err(|err| DeviceError::Failed { step: at, why: err.message })
    }
}

impl Ready {
    /// Runs the step; the nanoseconds that it took.
    fn timed(&self, shared: &Shared, words: &[i64], scratch: Buffer) -> Result<u64, TaskPanicked> {
        #[expect(clippy::disallowed_methods, reason = "the clock of a profiled run")]
        let start = std::time::Instant::now();
        self.compute(shared, words, scratch)?;
        Ok(start.elapsed().as_nanos() as u64)
    }

    fn compute(&self, shared: &Shared, words: &[i64], scratch: Buffer) -> Result<(), TaskPanicked> {
        match self {
            Self::Run { code, words: range, buffers } => {
                let Shared { pool, level, .. } = shared;
                let words = &words[range.clone()];
                let launch = Launch { pool, level: *level, words, buffers, scratch };
                // SAFETY: `prepare` has checked the words at their most, and live words are not
                // above it; the device's lock is held.
                unsafe { code.run(&launch) }
            }
            Self::Copy { from, to } => {
                // SAFETY: both pieces are inside their buffers and do not overlap.
                unsafe { std::ptr::copy_nonoverlapping(from.start, to.start, from.len_bytes) };
                Ok(())
            }
            Self::Fill { to, byte } => {
                // SAFETY: the piece is inside its buffer.
                unsafe { to.start.write_bytes(*byte, to.len_bytes) };
                Ok(())
            }
        }
    }
}
