//! Why a program cannot be built or run.

use calor_device::DeviceError;
use thiserror::Error;

use crate::engine::MemoryReport;
use crate::plan::PlanError;

/// A failure of a build or of a run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The graph cannot be planned for the device.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The device failed, or was used wrongly.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A weight could not be read.
    #[error("weight `{name}` cannot be read")]
    Weight {
        /// Name of the graph's input.
        name: String,
        /// What the source said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A graph has weights, and no source was given.
    #[error("program `{program}` has weights but no source for them")]
    NoSource {
        /// Label of the program.
        program: String,
    },
    /// The quota of the build would be exceeded. Nothing was allocated.
    #[error(
        "program `{program}` wants {} bytes more ({} for weights, {} for its arena, {} for inputs \
         and outputs, {} for states), {left_bytes} are left of the quota",
        wanted.total_bytes(), wanted.weights_bytes, wanted.arena_bytes, wanted.boundary_bytes,
        wanted.state_bytes
    )]
    Quota {
        /// Label of the program.
        program: String,
        /// Bytes wanted, by purpose.
        wanted: MemoryReport,
        /// Bytes left.
        left_bytes: u64,
    },
    /// A buffer was given more or fewer bytes than it has.
    #[error("buffer `{name}` holds {want_bytes} bytes, not {got_bytes}")]
    Size {
        /// Name of the input or output.
        name: String,
        /// Bytes that it holds.
        want_bytes: u64,
        /// Bytes that were given.
        got_bytes: u64,
    },
    /// No input or output of that name.
    #[error("program `{program}` has no buffer `{name}`")]
    NoBuffer {
        /// Label of the program.
        program: String,
        /// The name.
        name: String,
    },
    /// More live rows than the program has room for.
    #[error("live count {index} is {got}, the program has room for {max}")]
    Live {
        /// Which count.
        index: usize,
        /// The count.
        got: u32,
        /// Room.
        max: u32,
    },
    /// Two kernels have one key: the key leaves out what tells them apart. A bug of ours.
    #[error("kernel `{wanted}` has the key of another kernel, `{held}`")]
    KeyTaken {
        /// The kernel that was asked for.
        wanted: String,
        /// The kernel whose code is kept under the key.
        held: String,
    },
    /// A decoder block whose sizes do not fit, or that has no derivative.
    #[error("a decoder block cannot be written as a graph")]
    Block(#[from] calor_ir::GradError),
    /// No kernel cache was opened for this device.
    #[error("no kernel cache was opened for {kind} device {ordinal}")]
    NoContext {
        /// Kind of device.
        kind: &'static str,
        /// Its number.
        ordinal: usize,
    },
    /// The program was removed.
    #[error("program `{program}` was removed")]
    Removed {
        /// Label of the program.
        program: String,
    },
}
