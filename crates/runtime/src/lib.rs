//! From graphs to running programs: plans, programs, builds and sessions.
#![forbid(unsafe_code)]

pub mod cache;
mod engine;
mod error;
pub mod plan;
mod session;
mod source;

pub use engine::{
    BuildTimes, ChannelId, INPUT_COUNT_MAX, Input, JoinedSpec, LIVE_COUNT_MAX, LaneId,
    MemoryReport, PART_COUNT_MAX, PartSpec, ProgramId, ProgramSpec, Run,
};
pub use error::RuntimeError;
pub use plan::{
    BufferKind, BufferRow, Capabilities, Choices, Place, Plan, PlanError, PlanSpan, PlanStep, plan,
};
pub use session::{Build, Session};
pub use source::WeightSource;
