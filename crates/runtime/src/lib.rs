//! From graphs to running programs: plans, programs, builds and sessions.
#![forbid(unsafe_code)]

pub mod cache;
mod engine;
mod error;
mod forward_cache;
mod kernel;
pub mod plan;
mod pool;
mod session;
mod source;

pub use engine::{
    BuildTimes, ChannelId, INPUT_COUNT_MAX, Input, JoinedSpec, LIVE_COUNT_MAX, LaneId,
    MemoryReport, PART_COUNT_MAX, PartSpec, ProgramId, ProgramSpec, Run, WantedMemory,
    WeightsReport,
};
pub use error::RuntimeError;
pub use forward_cache::{ContextId, ForwardKernelCache, ForwardKernelCaches, SmTarget};
pub use kernel::{KernelHandle, KernelKey};
pub use plan::{
    BufferKind, BufferRow, Capabilities, Choices, Place, Plan, PlanError, PlanSpan, PlanStep, Work,
    plan,
};
pub use pool::{GpuMemoryPool, PoolStats};
pub use session::{Build, Session};
pub use source::{PART_LEN, SourceError, Stored, WeightSource};
