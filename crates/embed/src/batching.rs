//! Batching: which waiting items run together, how large a batch pays, and what happens when one
//! does not fit into memory.
//!
//! No thread, no device and no clock of its own: whoever runs batches says what time it is.

mod accumulator;
mod config;
mod optimizer;
mod split;

pub use accumulator::{BatchAccumulator, Clock, QueueStats};
pub use config::{BatchConfig, ItemTerms, Priority};
pub use optimizer::{ActivationShape, BatchSizeOptimizer, Sweep, SweepPoint};
pub use split::{is_out_of_memory, run_split};

use crate::error::EmbeddingResult;
use crate::pipeline::PipelineOutput;

/// What becomes of one item of a batch. A bad item fails alone.
pub type BatchResult<R = PipelineOutput> = EmbeddingResult<R>;
