//! Why a benchmark gave no result. There is no partial one: a run that failed is not fast.

use std::path::PathBuf;

use calor_device::DeviceError;
use calor_embed::EmbeddingError;
use calor_runtime::{PlanError, RuntimeError};
use calor_weights::WeightsError;

/// Why a benchmark gave no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// No scenario has this name.
    #[error("no benchmark is called `{name}`")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The scenario needs something that the caller did not give.
    #[error("`{scenario}` needs {what}")]
    Needs {
        /// Which scenario.
        scenario: &'static str,
        /// What it needs.
        what: &'static str,
    },
    /// What was executed is not what was asked for.
    #[error("{got} {what} were computed, {want} were asked for")]
    Executed {
        /// Items or tokens.
        what: &'static str,
        /// How many there should be.
        want: u64,
        /// How many there were.
        got: u64,
    },
    /// A result holds a number that is none, or repeated calls differ.
    #[error("the result of `{scenario}` is wrong: {what}")]
    Wrong {
        /// Which scenario.
        scenario: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A child process ended badly or did not answer.
    #[error("`{program}` {what}")]
    Child {
        /// The program.
        program: PathBuf,
        /// What it did.
        what: &'static str,
    },
    /// The system says no.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A graph.
    #[error(transparent)]
    Graph(#[from] calor_ir::GraphError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A program.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A model.
    #[error(transparent)]
    Embedding(#[from] EmbeddingError),
    /// A checkpoint.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl BenchError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
