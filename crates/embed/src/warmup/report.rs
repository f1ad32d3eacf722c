//! What warming up found: a row for every configured model, also for those that failed.

use crate::embedding::EXPERT_COUNT;
use crate::model_id::ModelId;
use crate::pipeline::PrecisionResult;

/// Warm-up result for a single model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelWarmupResult {
    /// Which model.
    pub model_id: ModelId,
    /// Whether every run gave sane vectors in time.
    pub success: bool,
    /// From its first run to its last.
    pub duration_ms: u64,
    /// Inputs of all runs.
    pub samples_processed: usize,
    /// Its first run with the first batch size, for one item.
    pub first_latency_ms: f64,
    /// Its last run with the same batch size, for one item.
    pub final_latency_ms: f64,
    /// Whether code was compiled, or found and loaded, in its runs: counted, not assumed. False for
    /// a model whose code was all there when its runs began.
    pub jit_compiled: bool,
    /// Why it failed.
    pub error: Option<String>,
    /// Runs that were done, of those that were wanted.
    pub coverage: Coverage,
    /// How close it is to itself in f32, and how much quicker; none where nothing was compared.
    pub precision: Option<PrecisionResult>,
}

/// How much of a plan was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Runs that were done.
    pub done_count: usize,
    /// Runs that were wanted.
    pub wanted_count: usize,
    /// Batch sizes that were run at least once.
    pub size_count: usize,
    /// Batch sizes that were wanted.
    pub size_wanted_count: usize,
}

/// Warm-up result of the fusion.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FusionWarmupResult {
    /// Whether every fused vector was sane.
    pub success: bool,
    /// From the first run to the last.
    pub duration_ms: u64,
    /// Inputs of all runs.
    pub samples_processed: usize,
    /// The first run of one text through everything.
    pub first_latency_ms: f64,
    /// The last such run.
    pub final_latency_ms: f64,
    /// Experts that were mixed into at least one vector.
    pub experts_seen: [bool; EXPERT_COUNT],
    /// Why it failed.
    pub error: Option<String>,
}

/// A step of the whole.
#[derive(Debug, Clone, PartialEq)]
pub struct WarmupPhase {
    /// Which.
    pub name: &'static str,
    /// What it took.
    pub duration_ms: u64,
    /// Why it failed.
    pub error: Option<String>,
}

/// How a pipeline is after warming up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WarmupState {
    /// Everything is warm.
    Ready,
    /// Something failed, and the settings allow that.
    Degraded,
    /// Too much failed.
    Failed,
}

/// Aggregate warm-up results.
#[derive(Debug, Clone, PartialEq)]
pub struct WarmupReport {
    /// All of it.
    pub total_duration_ms: u64,
    /// Models whose row is a success.
    pub models_warmed: usize,
    /// Models whose row is a failure.
    pub models_failed: usize,
    /// Whether the fusion's row is a success; false where nothing is fused.
    pub fusemoe_warmed: bool,
    /// Most device memory held, in 10⁹ bytes: weights, arenas, boundaries, and what waits in the
    /// pool.
    pub peak_memory_gb: f64,
    /// Bytes that waited in the pool when memory was primed; the programs take what they want of
    /// them, and the rest goes back when all are built.
    pub primed_bytes: u64,
    /// One row for each configured model, in slot order.
    pub model_results: Vec<ModelWarmupResult>,
    /// Whether requests may come.
    pub ready_for_inference: bool,
    /// How it is.
    pub state: WarmupState,
    /// The fusion's row; none where nothing is fused.
    pub fusion: Option<FusionWarmupResult>,
    /// The steps, in their order.
    pub phases: Vec<WarmupPhase>,
    /// Kernels compiled by all of it.
    pub compiled_count: u64,
    /// Kernels compiled after the right to build was given up; anything but 0 is a defect.
    pub compiled_late_count: u64,
    /// Programs that are ready.
    pub program_count: usize,
    /// 95 of 100 fresh single requests after all that were quicker, in milliseconds.
    pub post_warmup_p95_ms: f64,
}

impl WarmupReport {
    /// How much of the whole plan was done.
    pub fn coverage(&self) -> Coverage {
        self.model_results.iter().map(|it| it.coverage).fold(Coverage::default(), |sum, it| {
            Coverage {
                done_count: sum.done_count + it.done_count,
                wanted_count: sum.wanted_count + it.wanted_count,
                size_count: sum.size_count + it.size_count,
                size_wanted_count: sum.size_wanted_count + it.size_wanted_count,
            }
        })
    }
}
