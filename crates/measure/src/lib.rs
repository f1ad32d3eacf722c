//! Measuring with evidence: suites of cases, interleaved runs in fresh processes, statistics,
//! results packages, reports and gates.
//!
//! What is timed is a process that answers in lines of JSON ([`answer`]), so ours and its peers
//! are measured alike and nothing here knows a device or a model. A [`suite`] says what to run,
//! [`harness`] runs it and keeps every sample ([`record`]), [`summary`] and [`pair`] say what the
//! samples show, [`package`] seals them in a folder, [`report`] draws them and [`gate`] decides.
//! Not here: scenarios of our own (`calor-bench`), the command line, and the environment.
#![forbid(unsafe_code)]

pub mod answer;
pub mod environment;
mod error;
pub mod gate;
pub mod harness;
pub mod history;
pub mod order;
pub mod package;
pub mod pair;
mod plot;
pub mod program;
pub mod record;
pub mod report;
pub mod stats;
pub mod suite;
pub mod summary;

pub use error::MeasureError;
