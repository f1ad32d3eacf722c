//! One kernel as data: a loop program, a named source or a library call, and its keys.
//!
//! Knows element types and scalar operations, and nothing of graphs, devices or files.
#![forbid(unsafe_code)]

pub mod canonical;
pub mod program;
pub mod unit;

pub use canonical::{Canonical, Digest};
pub use program::{
    Access, Address, Arg, Bounds, Instr, InstrOp, Level, LoopProgram, ProgramError, Reg, Store,
    Template, Term,
};
pub use unit::{Activation, Call, Source, Unit};
