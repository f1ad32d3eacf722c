//! Bodies of probes, of the report of warming up and of the status page.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

/// A probe.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ProbeBody {
    /// Where the server is.
    pub(crate) status: &'static str,
    /// Models with whether each answers.
    pub(crate) models: BTreeMap<&'static str, bool>,
    /// Models with whether each is warm, in the opening that runs or ran last: they become warm
    /// one after another, and answer together.
    pub(crate) warm: BTreeMap<&'static str, bool>,
    /// Models that failed at the warm-up, and why.
    pub(crate) lost: BTreeMap<&'static str, String>,
}

/// What becoming ready took.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct WarmupBody {
    /// Where the server is.
    pub(crate) status: &'static str,
    /// Openings so far: the first, swaps and recoveries.
    pub(crate) generation: u64,
    /// Programs that are ready.
    pub(crate) program_count: usize,
    /// Steps of all of them.
    pub(crate) step_count: usize,
    /// Models that are warm, with the milliseconds in which all their programs ran and agreed.
    pub(crate) models_ms: BTreeMap<&'static str, f64>,
    /// Models that failed, and why; they do not answer.
    pub(crate) lost: BTreeMap<&'static str, String>,
    /// Nanoseconds of each step.
    pub(crate) steps_ns: BTreeMap<&'static str, u64>,
    /// Programs, plans and compilations since the start, and those after becoming ready would
    /// show here.
    pub(crate) counters: BTreeMap<String, u64>,
    /// The first requests after the start.
    pub(crate) first: LatencyBody,
    /// The last requests.
    pub(crate) recent: LatencyBody,
}

/// Percentiles of latencies.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct LatencyBody {
    /// Requests.
    pub(crate) count: usize,
    /// Half are quicker, in milliseconds.
    pub(crate) p50_ms: f64,
    /// 95 of 100 are quicker.
    pub(crate) p95_ms: f64,
    /// 99 of 100 are quicker.
    pub(crate) p99_ms: f64,
}

/// What the status page shows.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct StatusBody {
    /// Of this server.
    pub(crate) version: &'static str,
    /// Where it is.
    pub(crate) status: &'static str,
    /// Seconds since its start.
    pub(crate) uptime_s: f64,
    /// Name of the profile.
    pub(crate) profile: Option<&'static str>,
    /// Kind and model of the device.
    pub(crate) device: Option<String>,
    /// Precision of the models' products.
    pub(crate) precision: Option<&'static str>,
    /// What no training made.
    pub(crate) untrained: Vec<&'static str>,
    /// Models with whether each answers.
    pub(crate) models: BTreeMap<&'static str, bool>,
    /// Models that failed at the warm-up, and why.
    pub(crate) lost: BTreeMap<&'static str, String>,
    /// What becoming ready took.
    pub(crate) warmup: Option<WarmupBody>,
    /// Device memory in use.
    pub(crate) memory_bytes: u64,
    /// Device memory that there is.
    pub(crate) memory_bytes_max: u64,
    /// Share of the time since the start in which a batch ran.
    pub(crate) busy_share: f64,
    /// Items that wait.
    pub(crate) queue_count: usize,
    /// Requests inside.
    pub(crate) request_count: usize,
    /// Items computed since the start.
    pub(crate) item_count: u64,
    /// Batches since the start.
    pub(crate) batch_count: u64,
    /// Requests refused or failed since the start, by kind.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Results kept, their bytes, and how often one was found and not found.
    pub(crate) cache: CacheBody,
    /// The first requests after the start.
    pub(crate) first: LatencyBody,
    /// The last requests.
    pub(crate) recent: LatencyBody,
}

/// The cache of results.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct CacheBody {
    /// Results kept.
    pub(crate) entry_count: usize,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Results found.
    pub(crate) hit_count: u64,
    /// Results computed.
    pub(crate) miss_count: u64,
}
