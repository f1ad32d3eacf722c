//! The right to build, and what is left when it is given up.
//!
//! A [`Build`] may plan, compile, load and allocate, within a quota of bytes. [`Build::seal`]
//! consumes it and yields a [`Session`], which has no method that builds: that is the seal.

use std::sync::Arc;
use std::time::Duration;

use calor_device::{Artifacts, Claim, Device, Signature};
use calor_kernel::Digest;
use calor_telemetry::{Counters, Recorder};

use crate::engine::{Engine, LaneId, MemoryReport, ProgramId, ProgramSpec};
use crate::error::RuntimeError;
use crate::plan::Plan;

/// Builds programs on a device, and runs them while it does.
pub struct Build(Engine);

/// Runs programs that are all built. It cannot build another one:
///
/// ```compile_fail,E0599
/// fn more(session: &mut calor_runtime::Session, spec: &calor_runtime::ProgramSpec<'_>) {
///     let _ = session.program(spec);
/// }
/// ```
///
/// A [`Build`] can:
///
/// ```
/// fn more(build: &mut calor_runtime::Build, spec: &calor_runtime::ProgramSpec<'_>) {
///     let _ = build.program(spec);
/// }
/// ```
pub struct Session(Engine);

impl Build {
    /// The right to build on `device`, up to `quota_bytes` of its memory.
    pub fn new(
        device: Device,
        quota_bytes: u64,
        counters: Arc<Counters>,
        recorder: Arc<dyn Recorder>,
    ) -> Self {
        Self(Engine::new(device, quota_bytes, counters, recorder))
    }

    /// Keeps compiled code in `artifacts`, and takes from there what was compiled before. A build
    /// that is told nothing keeps none.
    #[must_use]
    pub fn with_artifacts(mut self, artifacts: Arc<dyn Artifacts>) -> Self {
        self.0.keep_in(artifacts);
        self
    }

    /// A lane of its own arena.
    pub fn lane(&mut self) -> LaneId {
        self.0.lane()
    }

    /// Plans, compiles, loads weights and reserves memory for a program.
    ///
    /// # Errors
    /// When the graph has no plan, the weights cannot be read, the device fails, or the quota
    /// would be exceeded; then nothing was allocated.
    pub fn program(&mut self, spec: &ProgramSpec<'_>) -> Result<ProgramId, RuntimeError> {
        self.0.add(spec)
    }

    /// Compiles and loads the code of several programs, on as many threads as there are
    /// processors, so that building them compiles nothing. Reserves no memory for them.
    ///
    /// # Errors
    /// When a graph has no plan or the device fails.
    pub fn compile_ahead(&mut self, specs: &[ProgramSpec<'_>]) -> Result<(), RuntimeError> {
        self.0.compile_ahead(specs)
    }

    /// Takes a program away and gives back the memory that it alone held: its states, weights
    /// that no other program binds, and the arena and boundary of its lane when it was the last
    /// there. Its id is not given again; its plan is empty from now on.
    ///
    /// # Errors
    /// [`RuntimeError::Removed`] the second time, and when the device fails.
    pub fn remove(&mut self, program: ProgramId) -> Result<(), RuntimeError> {
        self.0.remove(program)
    }

    /// Prepares every program and gives up the right to build.
    ///
    /// # Errors
    /// When the device cannot prepare a program.
    pub fn seal(mut self) -> Result<Session, RuntimeError> {
        self.0.prepare()?;
        Ok(Session(self.0))
    }
}

macro_rules! running {
    ($owner:ident) => {
        impl $owner {
            /// Copies bytes into buffer `slot` of a program: an index in its plan's buffers.
            ///
            /// # Errors
            /// When there is no such buffer or it is smaller.
            pub fn write(
                &mut self,
                program: ProgramId,
                slot: usize,
                bytes: &[u8],
            ) -> Result<(), RuntimeError> {
                self.0.write(program, slot, bytes)
            }

            /// Copies the first bytes of buffer `slot` of a program.
            ///
            /// # Errors
            /// When there is no such buffer or it is smaller.
            pub fn read(
                &mut self,
                program: ProgramId,
                slot: usize,
                out: &mut [u8],
            ) -> Result<(), RuntimeError> {
                self.0.read(program, slot, out)
            }

            /// Runs a program and waits for its end. `live` are the live counts in order (tokens,
            /// sequences); counts that are not given are at their most.
            ///
            /// # Errors
            /// When a count is larger than the program's room, the device fails, or the deadline
            /// passes.
            pub fn run(
                &mut self,
                program: ProgramId,
                live: &[u32],
                deadline: Duration,
            ) -> Result<(), RuntimeError> {
                self.0.run(program, live, deadline)
            }

            /// The plan of a program.
            pub fn plan(&self, program: ProgramId) -> &Plan {
                self.0.plan_of(program)
            }

            /// Digest of a program's plan.
            pub fn digest(&self, program: ProgramId) -> Digest {
                self.0.digest_of(program)
            }

            /// Device memory by purpose.
            pub fn memory(&self) -> MemoryReport {
                self.0.report()
            }

            /// What the device is.
            pub fn signature(&self) -> &Signature {
                &self.0.device().signature
            }

            /// What the device does better than generated code.
            pub fn claims(&self) -> &'static [Claim] {
                self.0.device().claims
            }

            /// The counters of this scope.
            pub fn counters(&self) -> &Arc<Counters> {
                &self.0.counters
            }

            /// Where events go.
            pub fn recorder(&self) -> &Arc<dyn Recorder> {
                &self.0.recorder
            }
        }

        impl std::fmt::Debug for $owner {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($owner))
                    .field("device", &self.0.device().signature.kind)
                    .field("memory", &self.0.report())
                    .finish_non_exhaustive()
            }
        }
    };
}

running!(Build);
running!(Session);
