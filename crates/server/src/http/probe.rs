//! Probes, metrics, and what the server says about itself.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use calor_embed::placement::LayoutKind;
use calor_embed::{Layout, ModelId};
use calor_telemetry::clock::now_ns;
use calor_telemetry::counter::Plain;
use calor_telemetry::{Cache, CacheCount, Counter};

use super::{App, Native};
use crate::engine::Live;
use crate::metrics::{FAILURES, Percentiles, get};
use crate::options::Target;
use crate::readiness::Phase;
use crate::refusal::Refusal;
use crate::wire::native::{ErrorBody, InfoBody, ModelType, PlacedDevice, PlacementBody};
use crate::wire::report::{CacheBody, LatencyBody, ProbeBody, StatusBody, WarmupBody};

/// 200 while requests are answered, else 503.
#[utoipa::path(get, path = "/health", tag = "probes",
    responses((status = 200), (status = 503, body = ErrorBody)))]
pub(super) async fn health(State(app): State<App>) -> Result<StatusCode, Native> {
    match app.readiness.phase() {
        Phase::Ready => Ok(StatusCode::OK),
        phase => Err(Refusal::NotReady { phase }.into()),
    }
}

/// 200 while the process is worth keeping: also while it warms up, recovers or drains.
#[utoipa::path(get, path = "/livez", tag = "probes",
    responses((status = 200, body = ProbeBody), (status = 503, body = ProbeBody)))]
pub(super) async fn livez(State(app): State<App>) -> Response {
    probe(&app, app.readiness.phase() != Phase::Failed)
}

/// 200 while requests are answered.
#[utoipa::path(get, path = "/readyz", tag = "probes",
    responses((status = 200, body = ProbeBody), (status = 503, body = ProbeBody)))]
pub(super) async fn readyz(State(app): State<App>) -> Response {
    probe(&app, app.readiness.phase() == Phase::Ready)
}

/// 200 once the server was ready for the first time.
#[utoipa::path(get, path = "/startupz", tag = "probes",
    responses((status = 200, body = ProbeBody), (status = 503, body = ProbeBody)))]
pub(super) async fn startupz(State(app): State<App>) -> Response {
    probe(&app, app.readiness.has_started())
}

fn probe(app: &App, is_good: bool) -> Response {
    let status = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let seen = app.progress.seen();
    let warm = ModelId::iter().map(|it| (it.as_str(), seen.warm.contains_key(&it))).collect();
    let phase = app.readiness.phase().word();
    let body = ProbeBody { status: phase, models: models(app), warm, lost: lost_now(app) };
    (status, Json(body)).into_response()
}

/// Models that failed: when those that serve became ready, or so far where none serve.
fn lost_now(app: &App) -> BTreeMap<&'static str, String> {
    match app.live() {
        Ok(live) => lost(&live),
        Err(_) => {
            app.progress.seen().lost.into_iter().map(|(it, why)| (it.as_str(), why)).collect()
        }
    }
}

/// Models that failed when those that serve became ready.
fn lost(live: &Live) -> BTreeMap<&'static str, String> {
    live.lost.iter().map(|it| (it.model_id.as_str(), it.why.clone())).collect()
}

fn models(app: &App) -> BTreeMap<&'static str, bool> {
    let live = app.live().ok();
    let answers = |it: ModelId| live.as_ref().is_some_and(|live| live.about.models.contains(&it));
    ModelId::iter().map(|it| (it.as_str(), answers(it))).collect()
}

/// Counts as Prometheus reads them.
#[utoipa::path(get, path = "/metrics", tag = "probes",
    responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let text = app.metrics.text(&app.levels(), &app.counters);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// What serves, and its limits.
#[utoipa::path(get, path = "/info", tag = "native",
    responses((status = 200, body = InfoBody), (status = 503, body = ErrorBody)))]
pub(super) async fn info(State(app): State<App>) -> Result<Json<InfoBody>, Native> {
    let live = app.live()?;
    let target = app.default_target(&live);
    let limits = &app.options.limits;
    let length = live.tokenizer(target).map_or(0, |it| it.1.token_count_max);
    let about = &live.about;
    let pooling = match target {
        Target::Fused => "fused",
        Target::Model(_) => "slot",
    };
    Ok(Json(InfoBody {
        model_id: format!("calor-{}", about.profile),
        model_sha: None,
        model_dtype: about.precision.into(),
        served_model_name: target.name().into(),
        model_type: ModelType::Embedding { pooling },
        max_concurrent_requests: limits.request_count_max,
        max_input_length: length,
        max_batch_tokens: app.options.batch.max_batch_tokens,
        max_batch_requests: Some(app.options.batch.max_batch_size),
        max_client_batch_size: limits.client_batch_max,
        auto_truncate: app.options.auto_truncate,
        tokenization_workers: 1,
        version: env!("CARGO_PKG_VERSION"),
        sha: None,
        docker_label: None,
        models: about.models.iter().map(|it| it.as_str()).collect(),
        lost_models: lost(&live),
        untrained: about.untrained.to_vec(),
        device: format!("{} ({})", about.device, about.device_model),
        placement: app.opener.layout.as_ref().map(placement),
    }))
}

fn placement(layout: &Layout) -> PlacementBody {
    let device = |it: &calor_embed::placement::DeviceLayout| PlacedDevice {
        name: it.name.clone(),
        parts: it.parts.clone(),
        models: it.model_ids.iter().map(|it| it.as_str()).collect(),
        planned_bytes: it.used_bytes,
        free_bytes: it.free_bytes,
    };
    PlacementBody {
        kind: match layout.kind {
            LayoutKind::Replicas => "replicas",
            LayoutKind::Parts => "parts",
        },
        why: layout.to_string(),
        devices: layout.devices.iter().map(device).collect(),
    }
}

/// What becoming ready took, and whether the first requests were as quick as later ones.
#[utoipa::path(get, path = "/warmup", tag = "calor",
    responses((status = 200, body = WarmupBody), (status = 503, body = ErrorBody)))]
pub(super) async fn warmup(State(app): State<App>) -> Result<Json<WarmupBody>, Native> {
    Ok(Json(warmup_body(&app)?))
}

pub(super) fn warmup_body(app: &App) -> Result<WarmupBody, Refusal> {
    let live = app.live()?;
    let report = &live.report;
    let build = &report.build;
    let counters = app.counters.snapshot();
    let counted = [
        Plain::Plans,
        Plain::Compiles,
        Plain::Loads,
        Plain::Preparations,
        Plain::Allocations,
        Plain::SealedAllocations,
    ];
    let counters = counted
        .map(|it| (Counter::from(it).spec().name.replace('.', "_"), counters.get(it)))
        .into_iter()
        .collect();
    let (first, recent) = app.metrics.latencies();
    Ok(WarmupBody {
        status: app.readiness.phase().word(),
        generation: live.generation,
        program_count: report.program_count,
        step_count: report.step_count,
        models_ms: app
            .progress
            .seen()
            .warm
            .iter()
            .map(|(it, ns)| (it.as_str(), *ns as f64 / 1e6))
            .collect(),
        lost: lost(&live),
        steps_ns: BTreeMap::from([
            ("graphs", report.graphs_ns),
            ("plans", build.plans_ns),
            ("code", build.code_ns),
            ("weights", build.weights_ns),
            ("check", report.check_ns),
            ("wall", report.wall_ns),
        ]),
        counters,
        first: latency(first),
        recent: latency(recent),
    })
}

fn latency(it: Percentiles) -> LatencyBody {
    let ms = |ns: u64| ns as f64 / 1e6;
    LatencyBody {
        count: it.count,
        p50_ms: ms(it.p50_ns),
        p95_ms: ms(it.p95_ns),
        p99_ms: ms(it.p99_ns),
    }
}

/// What the status page shows.
#[utoipa::path(get, path = "/status.json", tag = "calor",
    responses((status = 200, body = StatusBody)))]
pub(super) async fn status(State(app): State<App>) -> Json<StatusBody> {
    let levels = app.levels();
    let live = app.live().ok();
    let about = live.as_ref().map(|it| &it.about);
    let uptime_ns = now_ns().saturating_sub(app.started_ns).max(1);
    let (first, recent) = app.metrics.latencies();
    let counters = app.counters.snapshot();
    let cached = |what| counters.get(Counter::Cache(Cache::EmbeddingResults, what));
    let (entry_count, bytes) = app.results.held();
    let failures = FAILURES.iter().zip(app.metrics.failure_counts());
    Json(StatusBody {
        version: env!("CARGO_PKG_VERSION"),
        status: app.readiness.phase().word(),
        uptime_s: uptime_ns as f64 / 1e9,
        profile: about.map(|it| it.profile),
        device: about.map(|it| format!("{} ({})", it.device, it.device_model)),
        precision: about.map(|it| it.precision),
        untrained: about.map_or_else(Vec::new, |it| it.untrained.to_vec()),
        models: models(&app),
        lost: lost_now(&app),
        warmup: warmup_body(&app).ok(),
        memory_bytes: levels.memory_bytes,
        memory_bytes_max: levels.memory_bytes_max,
        busy_share: app.metrics.busy_ns.load(Ordering::Relaxed) as f64 / uptime_ns as f64,
        queue_count: levels.queue_size,
        request_count: levels.requests_inside,
        item_count: get(&app.metrics.items),
        batch_count: app.batcher.stats().batch_count,
        failures: failures
            .filter(|(_, count)| *count != 0)
            .map(|(word, count)| (word.to_lowercase(), count))
            .collect(),
        cache: CacheBody {
            entry_count,
            bytes,
            hit_count: cached(CacheCount::Hits),
            miss_count: cached(CacheCount::Misses),
        },
        first: latency(first),
        recent: latency(recent),
    })
}
