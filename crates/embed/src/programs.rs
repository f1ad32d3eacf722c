//! A device's programs: while they may still be built, and after.

use std::sync::Arc;
use std::time::Duration;

use calor_device::{Claim, Signature};
use calor_runtime::{
    Build, BuildTimes, Input, MemoryReport, Plan, ProgramId, Run, Session, WeightsReport,
};
use calor_telemetry::{Counters, Recorder};

use crate::error::{EmbeddingError, EmbeddingResult};
use crate::tower::device_error;

/// Longest that one program may take.
const RUN_DEADLINE: Duration = Duration::from_secs(600);

/// Programs that may still be built when they are first needed, or that are all there.
#[derive(Debug)]
pub enum Programs {
    /// Whatever is needed is built.
    Open(Build),
    /// Nothing is built any more.
    Sealed(Session),
}

/// One call on whichever of the two it is.
macro_rules! either {
    ($self:expr, $it:ident => $call:expr) => {
        match $self {
            Self::Open($it) => $call,
            Self::Sealed($it) => $call,
        }
    };
}

impl Programs {
    /// The right to build `what`.
    ///
    /// # Errors
    /// [`EmbeddingError::NotWarm`] once it was given up.
    pub fn to_build(&mut self, what: impl FnOnce() -> String) -> EmbeddingResult<&mut Build> {
        match self {
            Self::Open(build) => Ok(build),
            Self::Sealed(_) => Err(EmbeddingError::NotWarm { what: what() }),
        }
    }

    /// Whether nothing is built any more.
    pub fn is_sealed(&self) -> bool {
        matches!(self, Self::Sealed(_))
    }

    /// Prepares every program and gives up the right to build.
    ///
    /// # Errors
    /// What the device says; everything is gone then.
    pub fn seal(self) -> EmbeddingResult<Self> {
        match self {
            Self::Open(build) => Ok(Self::Sealed(build.seal().map_err(device_error)?)),
            Self::Sealed(session) => Ok(Self::Sealed(session)),
        }
    }

    /// Writes inputs and live counts, runs a program and waits for its end.
    pub(crate) fn run(
        &mut self,
        program: ProgramId,
        inputs: &[Input<'_>],
        live: &[&[u32]],
    ) -> EmbeddingResult<()> {
        let run = self.start(program, inputs, live)?;
        self.finish(run)
    }

    /// As [`Programs::run`], without waiting.
    pub(crate) fn start(
        &mut self,
        program: ProgramId,
        inputs: &[Input<'_>],
        live: &[&[u32]],
    ) -> EmbeddingResult<Run> {
        either!(self, it => it.start(program, inputs, live)).map_err(device_error)
    }

    /// Waits for the end of a run.
    pub(crate) fn finish(&mut self, run: Run) -> EmbeddingResult<()> {
        either!(self, it => it.finish(run, RUN_DEADLINE)).map_err(device_error)
    }

    /// The first rows of a buffer of a part of a program.
    pub(crate) fn read<T: bytemuck::Pod>(
        &mut self,
        program: ProgramId,
        part: usize,
        slot: usize,
        rows: &mut [T],
    ) -> EmbeddingResult<()> {
        let bytes = bytemuck::cast_slice_mut(rows);
        either!(self, it => it.read_part(program, part, slot, bytes)).map_err(device_error)
    }

    /// The plan of a program, of its first part if it has several.
    pub fn plan(&self, program: ProgramId) -> &Plan {
        either!(self, it => it.plan(program))
    }

    /// The plan of a part of a program.
    pub fn part_plan(&self, program: ProgramId, part: usize) -> &Plan {
        either!(self, it => it.part_plan(program, part))
    }

    /// Device memory by purpose.
    pub fn memory(&self) -> MemoryReport {
        either!(self, it => it.memory())
    }

    /// What was loaded of weights so far, and how long it took.
    pub fn weights(&self) -> WeightsReport {
        either!(self, it => it.weights())
    }

    /// How long building took, by kind of work.
    pub fn times(&self) -> BuildTimes {
        either!(self, it => it.times())
    }

    /// What the device does better than generated code.
    pub fn claims(&self) -> &'static [Claim] {
        either!(self, it => it.claims())
    }

    /// What the device is.
    pub fn signature(&self) -> &Signature {
        either!(self, it => it.signature())
    }

    /// The counters of this scope.
    pub fn counters(&self) -> &Arc<Counters> {
        either!(self, it => it.counters())
    }

    /// Where events go.
    pub fn recorder(&self) -> &Arc<dyn Recorder> {
        either!(self, it => it.recorder())
    }
}
