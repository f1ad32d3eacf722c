//! The contract: a device is memory, a compiler, a queue and a table of claims.
//!
//! Fifteen methods in all. The number does not change when an op is added.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use calor_kernel::Unit;

use crate::artifact::{Artifact, Artifacts, Compiled};
use crate::claim::Claim;
use crate::error::DeviceError;
use crate::step::{Span, Step};

/// A buffer of one device generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId {
    /// Number given by the device.
    pub index: u32,
    /// Generation of the device; ids of an older one are refused.
    pub generation: u32,
}

/// Loaded code of one device generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CodeId {
    /// Number given by the device.
    pub index: u32,
    /// Generation of the device; ids of an older one are refused.
    pub generation: u32,
}

/// A prepared program of one device generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PreparedId {
    /// Number given by the device.
    pub index: u32,
    /// Generation of the device; ids of an older one are refused.
    pub generation: u32,
}

/// One run in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What [`Compiler::release`] gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Held {
    /// Loaded code that no prepared program uses any more.
    Code(CodeId),
    /// A prepared program that is not in flight.
    Prepared(PreparedId),
}

/// What a device is; part of keys and reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// `cpu`, `cuda`, `wgpu` or `null`.
    pub kind: &'static str,
    /// The machine's own name.
    pub model: String,
    /// Exact architecture that artifacts are made for.
    pub arch: String,
    /// Versions of what compiles and computes, such as driver and libraries.
    pub versions: Vec<(String, String)>,
    /// Bytes of memory, as far as the device may use it.
    pub memory_bytes: u64,
    /// Threads or multiprocessors.
    pub parallel_count: u32,
}

/// Elements in memory of the host.
pub trait HostMemory: DerefMut<Target = [f32]> + Send + Sync {}

/// As the language allocates it.
struct PlainMemory(Vec<f32>);

impl Deref for PlainMemory {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for PlainMemory {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl HostMemory for PlainMemory {}

/// Host memory for a device that has none of its own.
pub fn plain_host_memory(count: usize) -> Box<dyn HostMemory> {
    Box::new(PlainMemory(vec![0.0; count]))
}

/// Bytes of a file on their way into a buffer: as many as the span has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRead {
    /// The first byte in the file.
    pub at: u64,
    /// Where they go.
    pub to: Span,
}

/// Buffers.
pub trait Memory: Send + Sync {
    /// A buffer of `bytes`, aligned to 256 bytes, with unspecified contents.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] with the bytes wanted and left.
    fn alloc(&mut self, bytes: u64) -> Result<BufferId, DeviceError>;

    /// Gives a buffer back.
    ///
    /// # Errors
    /// [`DeviceError::Stale`] for an id that is not alive.
    fn free(&mut self, buffer: BufferId) -> Result<(), DeviceError>;

    /// Host memory of `count` elements, with unspecified contents. Where a device can read some
    /// memory itself, it gives that: [`Memory::write`] then takes long parts of it without a copy
    /// on the host.
    ///
    /// # Errors
    /// When there is none left.
    fn host(&mut self, count: usize) -> Result<Box<dyn HostMemory>, DeviceError>;

    /// Copies from the host, as if every run that was started before had ended. The bytes are the
    /// caller's again when it returns.
    ///
    /// # Errors
    /// When the span is outside its buffer or the machine is lost.
    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies to the host, after every run that was started before has ended.
    ///
    /// # Errors
    /// When the span is outside its buffer or the machine is lost.
    fn read(&mut self, buffer: BufferId, offset: u64, out: &mut [u8]) -> Result<(), DeviceError>;

    /// Whether `len` bytes of a file from `at` on come faster by [`Memory::read_file`] than through
    /// memory of the host.
    fn reads_file(&self, file: &File, at: u64, len: u64) -> bool;

    /// Reads bytes of a file into buffers past the host's memory, as if every run that was started
    /// before had ended.
    ///
    /// # Errors
    /// [`DeviceError::File`] when the file cannot be read so; what was read by then is unspecified.
    fn read_file(&mut self, file: &File, reads: &[FileRead]) -> Result<(), DeviceError>;
}

/// Code.
pub trait Compiler: Send + Sync {
    /// Code for a unit, independent of any buffer: out of `kept`, or made and kept there.
    /// Several threads may compile at once.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] for what this device does not do, and
    /// [`DeviceError::Compile`] for text of ours that does not compile.
    fn compile(&self, unit: &Unit, kept: &dyn Artifacts) -> Result<Compiled, DeviceError>;

    /// Makes an artifact ready to launch. Several threads may load at once, also while another
    /// writes memory and runs programs.
    ///
    /// # Errors
    /// [`DeviceError::WrongTarget`] for another architecture's artifact.
    fn load(&self, artifact: &Artifact) -> Result<CodeId, DeviceError>;

    /// Gives code or a prepared program back.
    ///
    /// # Errors
    /// [`DeviceError::Stale`] for an id that is not alive.
    fn release(&self, held: Held) -> Result<(), DeviceError>;
}

/// Work.
pub trait Queue: Send + Sync {
    /// Turns steps into something that runs with one call. `edges` are pairs (before, after) of
    /// step indices; steps without a path between them may run at once. `live` holds the live
    /// counts as `u32`, if any step reads them.
    ///
    /// # Errors
    /// When a step is not what its code wants, or a span is outside its buffer.
    fn prepare(
        &mut self,
        steps: &[Step],
        edges: &[(u32, u32)],
        live: Option<Span>,
    ) -> Result<PreparedId, DeviceError>;

    /// Starts a prepared program. Runs of one queue happen in order.
    ///
    /// # Errors
    /// When the id is stale or the machine is lost.
    fn run(&mut self, prepared: PreparedId) -> Result<Ticket, DeviceError>;

    /// Waits until a run has ended.
    ///
    /// # Errors
    /// [`DeviceError::Deadline`] when it has not ended in time, and what went wrong in the run.
    fn wait(&mut self, ticket: Ticket, deadline: Duration) -> Result<(), DeviceError>;
}

/// An open device.
pub struct Device {
    /// Buffers.
    pub memory: Box<dyn Memory>,
    /// Code.
    pub compiler: Arc<dyn Compiler>,
    /// Work.
    pub queue: Box<dyn Queue>,
    /// What it does better than generated code.
    pub claims: &'static [Claim],
    /// What it is.
    pub signature: Signature,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("signature", &self.signature).finish_non_exhaustive()
    }
}

/// A kind of device.
pub trait Driver: Send + Sync {
    /// How many there are here.
    ///
    /// # Errors
    /// [`DeviceError::Absent`] with the reason when the driver itself is not here.
    fn count(&self) -> Result<usize, DeviceError>;

    /// Opens one.
    ///
    /// # Errors
    /// [`DeviceError::Absent`] when there is none of that number.
    fn open(&self, ordinal: usize) -> Result<Device, DeviceError>;
}
