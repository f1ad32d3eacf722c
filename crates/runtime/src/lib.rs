//! From graphs to running programs: plans, caches, programs and sessions.
#![forbid(unsafe_code)]

pub mod plan;

pub use plan::{
    BufferKind, BufferRow, Capabilities, Choices, Place, Plan, PlanError, PlanSpan, PlanStep, plan,
};
