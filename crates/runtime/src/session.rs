//! The right to build, and what is left when it is given up.
//!
//! A [`Build`] may plan, compile, load and allocate, within a quota of bytes. [`Build::seal`]
//! consumes it and yields a [`Session`], which has no method that builds: that is the seal.

use std::sync::Arc;
use std::time::Duration;

use calor_device::{Artifacts, Claim, Device, Profile, Signature};
use calor_ir::CheckedGraph;
use calor_kernel::{Digest, Unit};
use calor_telemetry::{Counters, Recorder};

use crate::engine::{
    BuildTimes, ChannelId, Engine, Input, JoinedSpec, LaneId, MemoryReport, PartSpec, ProgramId,
    ProgramSpec, Run, WantedMemory, WeightsReport,
};
use crate::error::RuntimeError;
use crate::kernel::{KernelHandle, KernelKey};
use crate::plan::{Choices, Plan};

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

    /// Sums every weight on the device once more and compares the sums with those of what was
    /// read, before a program that reads it is ready. For devices whose memory is not the host's.
    #[must_use]
    pub fn proving_weights(mut self) -> Self {
        self.0.prove_weights();
        self
    }

    /// Records each step of each run with its time, as the device leaves it in `profile`; the
    /// device was opened with a clone of it.
    #[must_use]
    pub fn timing_steps(mut self, profile: Profile) -> Self {
        self.0.time_steps(profile);
        self
    }

    /// A lane of its own arena.
    pub fn lane(&mut self) -> LaneId {
        self.0.lane()
    }

    /// A lane with a boundary of its own that uses the arena of another: its programs never
    /// overlap with those of the other, and what they leave in their outputs stays.
    pub fn lane_beside(&mut self, other: LaneId) -> LaneId {
        self.0.lane_beside(other)
    }

    /// Memory of `bytes` in which one program leaves rows for another, or one part for another.
    ///
    /// # Errors
    /// What the device says.
    pub fn channel(&mut self, bytes: u64) -> Result<ChannelId, RuntimeError> {
        self.0.channel(bytes)
    }

    /// Gives a channel back. Programs that are bound to it were removed before.
    ///
    /// # Errors
    /// What the device says.
    pub fn remove_channel(&mut self, channel: ChannelId) -> Result<(), RuntimeError> {
        self.0.remove_channel(channel)
    }

    /// Plans, compiles, loads weights and reserves memory for a program.
    ///
    /// # Errors
    /// When the graph has no plan, the weights cannot be read, the device fails, or the quota
    /// would be exceeded; then nothing was allocated.
    pub fn program(&mut self, spec: &ProgramSpec<'_>) -> Result<ProgramId, RuntimeError> {
        let parts = vec![PartSpec { branch: 0, spec: spec.clone() }];
        self.joined(&JoinedSpec { label: spec.label, parts })
    }

    /// As [`Build::program`], of several graphs that run with one call: those of one branch behind
    /// each other, branches at once. Rows get from part to part in channels, in the order of the
    /// list.
    ///
    /// # Errors
    /// As [`Build::program`].
    ///
    /// # Panics
    /// For no parts, more than [`crate::PART_COUNT_MAX`], or parts of several lanes.
    pub fn joined(&mut self, spec: &JoinedSpec<'_>) -> Result<ProgramId, RuntimeError> {
        Ok(self.all_joined(std::slice::from_ref(spec))?[0])
    }

    /// Builds all programs of a manifest: all plans and all code, on as many threads as there are
    /// processors; then the memory of all; then the weights of all. Nothing is compiled once
    /// weights have come. When one cannot be added, none is.
    ///
    /// # Errors
    /// As [`Build::program`]. When the quota would be exceeded, nothing was allocated.
    ///
    /// # Panics
    /// As [`Build::joined`].
    pub fn all_joined(&mut self, specs: &[JoinedSpec<'_>]) -> Result<Vec<ProgramId>, RuntimeError> {
        self.0.add(specs)
    }

    /// As [`Build::all_joined`], of programs of one graph each.
    ///
    /// # Errors
    /// As [`Build::all_joined`].
    pub fn programs(&mut self, specs: &[ProgramSpec<'_>]) -> Result<Vec<ProgramId>, RuntimeError> {
        let mut all = Vec::with_capacity(specs.len());
        for spec in specs {
            let parts = vec![PartSpec { branch: 0, spec: spec.clone() }];
            all.push(JoinedSpec { label: spec.label, parts });
        }
        self.all_joined(&all)
    }

    /// Prepares every program and runs it once, over inputs of zeros and with room for everything
    /// in use, so that no request is the first. What inputs hold is gone.
    ///
    /// # Errors
    /// When the device fails or a run does not end within `deadline`.
    pub fn run_each_once(&mut self, deadline: Duration) -> Result<(), RuntimeError> {
        self.0.run_each_once(deadline)
    }

    /// Has the buffers wait from which boundaries and states of programs come: of every size as
    /// many as are kept, each written once, small ones first, as far as the quota and the device
    /// go. The bytes that wait then. What is built takes them, and is not refused for them.
    ///
    /// # Errors
    /// When the device fails.
    pub fn prime_memory(&mut self) -> Result<u64, RuntimeError> {
        self.0.prime_pool()
    }

    /// Code of one kernel, compiled and loaded where it is not there.
    ///
    /// # Errors
    /// [`RuntimeError::KeyTaken`], and when the device fails.
    pub fn kernel_of(&mut self, kernel: &Unit) -> Result<KernelHandle, RuntimeError> {
        self.0.kernel_of(kernel)
    }

    /// Code of everything that a plan launches, in the order of its units.
    ///
    /// # Errors
    /// As [`Build::kernel_of`].
    pub fn kernels_of(&mut self, plan: &Plan) -> Result<Vec<KernelHandle>, RuntimeError> {
        self.0.codes_of(&plan.units)
    }

    /// The plan that a program of this graph gets on this device. Nothing is compiled.
    ///
    /// # Errors
    /// When the graph has none.
    pub fn planned(&self, graph: &CheckedGraph, choices: &Choices) -> Result<Plan, RuntimeError> {
        self.0.planned(graph, choices)
    }

    /// What programs would want of the device's memory beside what is there. They are planned;
    /// nothing is compiled and nothing allocated.
    ///
    /// # Errors
    /// When a graph has no plan.
    pub fn wanted(&self, specs: &[JoinedSpec<'_>]) -> Result<WantedMemory, RuntimeError> {
        self.0.wanted(specs)
    }

    /// Takes a program away and gives back the memory that it alone held: its states, weights
    /// that no other program binds, and the arena and boundary of its lane when it was the last
    /// there. Its id is not given again; it has no plan from now on.
    ///
    /// # Errors
    /// [`RuntimeError::Removed`] the second time, and when the device fails.
    pub fn remove(&mut self, program: ProgramId) -> Result<(), RuntimeError> {
        self.0.remove(program)
    }

    /// Prepares every program and gives up the right to build. Buffers that wait for another
    /// program go back to the device.
    ///
    /// # Errors
    /// When the device cannot prepare a program.
    pub fn seal(mut self) -> Result<Session, RuntimeError> {
        self.0.seal()?;
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
                self.0.read(program, 0, slot, out)
            }

            /// As `read`, of a part of a program.
            ///
            /// # Errors
            /// When there is no such buffer or it is smaller.
            pub fn read_part(
                &mut self,
                program: ProgramId,
                part: usize,
                slot: usize,
                out: &mut [u8],
            ) -> Result<(), RuntimeError> {
                self.0.read(program, part, slot, out)
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

            /// Writes inputs and the live counts of each part, and starts a program behind
            /// whatever was started before. Parts that `live` leaves out are at their most.
            ///
            /// # Errors
            /// When a count is larger than its part's room, an input does not fit, or the device
            /// fails.
            ///
            /// # Panics
            /// For more than [`crate::INPUT_COUNT_MAX`] inputs.
            pub fn start(
                &mut self,
                program: ProgramId,
                inputs: &[Input<'_>],
                live: &[&[u32]],
            ) -> Result<Run, RuntimeError> {
                self.0.start(program, inputs, live)
            }

            /// Waits until a run has ended. Runs end in the order in which they were started.
            ///
            /// # Errors
            /// When the device fails or the deadline passes.
            pub fn finish(&mut self, run: Run, deadline: Duration) -> Result<(), RuntimeError> {
                self.0.finish(run, deadline)
            }

            /// The plan of a program, of its first part if it has several.
            ///
            /// # Panics
            /// For a program that was removed.
            pub fn plan(&self, program: ProgramId) -> &Plan {
                self.0.plan_of(program, 0)
            }

            /// The plan of a part of a program.
            ///
            /// # Panics
            /// For a program that was removed, or has no such part.
            pub fn part_plan(&self, program: ProgramId, part: usize) -> &Plan {
                self.0.plan_of(program, part)
            }

            /// Digest of a program's plan, of its first part if it has several.
            ///
            /// # Panics
            /// For a program that was removed.
            pub fn digest(&self, program: ProgramId) -> Digest {
                self.0.digest_of(program, 0)
            }

            /// Loaded code by its key.
            pub fn kernel(&self, key: KernelKey) -> Option<KernelHandle> {
                self.0.kernel(key)
            }

            /// Keys of all loaded code, in order.
            pub fn kernel_keys(&self) -> Vec<KernelKey> {
                self.0.kernel_keys()
            }

            /// Device memory by purpose.
            pub fn memory(&self) -> MemoryReport {
                self.0.report()
            }

            /// How long building took, by kind of work.
            pub fn times(&self) -> BuildTimes {
                self.0.times()
            }

            /// What was loaded of weights so far, and how long it took.
            pub fn weights(&self) -> WeightsReport {
                self.0.weights()
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
