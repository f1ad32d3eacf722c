//! One kernel as data: a loop program, a named source or a library call, and its keys.
//!
//! Knows element types and scalar operations, and nothing of graphs, devices or files.
#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod canonical;
mod cuda_scalar;
mod dialect;
mod display;
pub mod examples;
pub mod interpret;
pub mod language;
mod layout;
mod line;
mod nest;
mod operands;
pub mod program;
mod scalar;
mod schedule;
mod stage;
pub mod unit;
mod wgsl_scalar;
mod write_cuda;
mod write_wgsl;

pub use canonical::{Canonical, Digest};
pub use interpret::{InterpretError, interpret};
pub use language::{Grid, KernelText, Language, WriteError, write};
pub use program::{
    Access, Address, Arg, Bounds, Instr, InstrOp, Level, LoopProgram, ProgramError, Reg, Store,
    Template, Term,
};
pub use unit::{Activation, Call, Source, Unit};
