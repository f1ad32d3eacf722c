//! Why a graph cannot be planned.

use calor_ir::GraphError;
use calor_kernel::ProgramError;
use thiserror::Error;

/// A failure of planning.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum PlanError {
    /// A composite without an expansion that the device does not claim.
    #[error("the device does not do `{composite}`, which has no expansion")]
    Opaque {
        /// Name of the composite.
        composite: &'static str,
    },
    /// An expansion does not build: a bug in the composite.
    #[error("an expansion does not build: {0}")]
    Graph(#[from] GraphError),
    /// A generated program breaks a rule: a bug in the planner.
    #[error("a generated kernel is wrong: {0}")]
    Program(#[from] ProgramError),
    /// No template computes this node.
    #[error("no kernel template computes `{op}`: {why}")]
    Template {
        /// Name of the operation.
        op: &'static str,
        /// What is in the way.
        why: &'static str,
    },
}
