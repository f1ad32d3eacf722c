//! Benchmarks: scenarios by name, what a run of one is, and how it is written down.
//!
//! A scenario is a row of [`SCENARIOS`]; [`run`] runs one on a device that the caller's driver
//! opens and gives a [`Run`]: raw samples, what was really executed, a digest of the result, the
//! machine. Every case of every composite is one too, under `op.`. An arm is what a suite of
//! `calor-measure` runs in a process of its own: a row of [`ARMS`]. Not here: which device (the
//! caller's), the command line, suites, statistics, and other programs (`bench/baselines`).
#![forbid(unsafe_code)]

mod arm;
mod arms;
mod counts;
mod embedder;
mod error;
mod host;
mod measure;
mod overhead;
mod report;
mod scenario;
mod scenarios;

pub use arm::{ArmContext, ArmRow, arm_by_name, run_arm};
pub use arms::ARMS;
pub use error::BenchError;
pub use host::Host;
pub use measure::{Measure, Unit, digest_of};
pub use overhead::{OVERHEAD_MAX, Overhead, OverheadSizes, overhead};
pub use report::{Revision, Run, SCHEMA_MAJOR, SCHEMA_MINOR, SCHEMA_NAME};
pub use scenario::{Child, Context, Scenario, Size, run, scenario_by_name};
pub use scenarios::{SCENARIOS, op_names};
