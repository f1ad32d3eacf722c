//! `calor warmup`: everything that is slow the first time, done and reported; what is compiled is
//! kept for the next start.

use std::sync::Arc;

use calor_embed::pipeline::PrecisionResult;
use calor_embed::warmup::{FusionWarmupResult, Progress, WarmupPhase, WarmupState, block_on};
use calor_embed::{
    EmbeddingPipeline, ModelWarmupResult, PipelineCore, PipelineWarmup, WarmupConfig, WarmupReport,
};
use serde_json::{Value as Json, json};

use crate::arguments::WarmupArguments;
use crate::embed::{Recipe, open_build};
use crate::environment::{Environment, now_s};
use crate::exit::{Exit, Failure};
use crate::recording::Recording;
use crate::{answer, cache};

/// Warms everything up and says what was found.
///
/// # Errors
/// When nothing could be warmed at all; what happens to models is in the answer.
pub(crate) fn run(
    arguments: &WarmupArguments,
    environment: &Environment,
    recording: &Recording,
    quiet: bool,
) -> Result<Exit, Failure> {
    let build = open_build(&arguments.run, environment, recording)?;
    let (run, allows_loss) = (&arguments.run, arguments.skip_on_failure);
    let recorder = recording.recorder();
    let recipe = Recipe::within(run, allows_loss, environment, &*recorder, quiet)?;
    let device = build.signature().clone();
    let core = PipelineCore::unloaded(build, recipe.options(&device))?;
    let now = arguments.run.now;
    let clock = Arc::new(move || now.unwrap_or_else(now_s));
    let pipeline = EmbeddingPipeline::start(core, clock)?;
    let config = WarmupConfig {
        samples_per_model: arguments.samples,
        batch_sizes: arguments.batch_sizes.clone(),
        model_timeout_secs: arguments.model_seconds,
        skip_on_failure: arguments.skip_on_failure,
        models_min: arguments.min_models,
        mandatory_models: arguments.mandatory_models.iter().map(|it| it.as_str().into()).collect(),
        verbose: !quiet && !arguments.json,
        total_timeout_secs: arguments.seconds,
        precision_rule: arguments.precision_rule.into(),
        ..WarmupConfig::default()
    };
    let warmup = PipelineWarmup::new(config).with_listener(Arc::new(tell));
    let report = block_on(warmup.warmup(&pipeline))?;
    // A device that is stuck is not waited for: the command ends, and it with it.
    let late = |it: &WarmupPhase| it.error.as_deref().is_some_and(|it| it.ends_with(" in time"));
    let is_stuck = report.phases.iter().any(late);
    if is_stuck {
        std::mem::forget(pipeline);
    } else {
        drop(pipeline);
    }
    match arguments.json {
        true => answer::line(report_json(&report))?,
        false => print(&report)?,
    }
    if let Some(file) = arguments.export.as_deref().filter(|_| report.ready_for_inference) {
        let targets = [device.arch.as_str(), device.model.as_str()];
        cache::export_for(&arguments.run.keep, environment, file, &targets, quiet)?;
    }
    Ok(match report.state {
        WarmupState::Ready => Exit::Done,
        WarmupState::Degraded => Exit::SomeItems,
        WarmupState::Failed => Exit::Environment,
    })
}

fn tell(progress: &Progress<'_>) {
    match progress {
        Progress::Phase(it) => match &it.error {
            None => answer::remark(format!("{}: {} ms", it.name, it.duration_ms)),
            Some(err) => answer::remark(format!("{}: {err}", it.name)),
        },
        Progress::Model(it) => match &it.error {
            None => answer::remark(format!("  {}: {:.2} ms", it.model_id, it.first_latency_ms)),
            Some(err) => answer::remark(format!("  {}: {err}", it.model_id)),
        },
    }
}

fn print(report: &WarmupReport) -> Result<(), Failure> {
    answer::line(format!(
        "{:<20} {:>9} {:>9} {:>7} {:>7}  {}",
        "model", "first ms", "last ms", "items", "sizes", "state"
    ))?;
    for row in &report.model_results {
        let mut state = match (&row.error, row.jit_compiled) {
            (Some(err), _) => err.clone(),
            (None, true) => "warm, compiled in its runs".into(),
            (None, false) => "warm".into(),
        };
        if let Some(it) = &row.precision {
            let (cosine, factor) = (it.closeness.least(), it.speed_factor);
            state = format!("{state}; {}: cosine {cosine:.5}, {factor:.2} times f32", it.used);
        }
        let sizes = format!("{}/{}", row.coverage.size_count, row.coverage.size_wanted_count);
        answer::line(format!(
            "{:<20} {:>9.2} {:>9.2} {:>7} {sizes:>7}  {state}",
            row.model_id.as_str(),
            row.first_latency_ms,
            row.final_latency_ms,
            row.samples_processed
        ))?;
    }
    if let Some(fusion) = &report.fusion {
        let seen = fusion.experts_seen.iter().filter(|it| **it).count();
        answer::line(format!(
            "{:<20} {:>9.2} {:>9.2} {:>7} {:>7}  {}",
            "fusion",
            fusion.first_latency_ms,
            fusion.final_latency_ms,
            fusion.samples_processed,
            format!("{seen}/8"),
            fusion.error.as_deref().unwrap_or("warm; experts run under sizes")
        ))?;
    }
    let coverage = report.coverage();
    answer::line(format!(
        "{} of {} models warm, {} programs, {} of {} batch sizes and {} of {} runs covered",
        report.models_warmed,
        report.model_results.len(),
        report.program_count,
        coverage.size_count,
        coverage.size_wanted_count,
        coverage.done_count,
        coverage.wanted_count
    ))?;
    answer::line(format!(
        "{} after {:.2} s; {} kernels compiled, {} of them after the seal; {:.2} GB on the \
         device at most, {:.2} GB primed; 95 of 100 fresh requests within {:.2} ms",
        word(report.state),
        report.total_duration_ms as f64 / 1e3,
        report.compiled_count,
        report.compiled_late_count,
        report.peak_memory_gb,
        report.primed_bytes as f64 / 1e9,
        report.post_warmup_p95_ms
    ))
}

fn word(state: WarmupState) -> &'static str {
    match state {
        WarmupState::Ready => "ready",
        WarmupState::Degraded => "degraded",
        WarmupState::Failed => "not ready",
    }
}

fn report_json(report: &WarmupReport) -> Json {
    let coverage = report.coverage();
    let phases = report
        .phases
        .iter()
        .map(|it| json!({ "name": it.name, "duration_ms": it.duration_ms, "error": it.error }));
    json!({
        "state": word(report.state),
        "ready_for_inference": report.ready_for_inference,
        "total_duration_ms": report.total_duration_ms,
        "models_warmed": report.models_warmed,
        "models_failed": report.models_failed,
        "fusemoe_warmed": report.fusemoe_warmed,
        "peak_memory_gb": report.peak_memory_gb,
        "primed_bytes": report.primed_bytes,
        "program_count": report.program_count,
        "compiled_count": report.compiled_count,
        "compiled_late_count": report.compiled_late_count,
        "post_warmup_p95_ms": report.post_warmup_p95_ms,
        "coverage": {
            "done_count": coverage.done_count,
            "wanted_count": coverage.wanted_count,
            "size_count": coverage.size_count,
            "size_wanted_count": coverage.size_wanted_count,
        },
        "phases": phases.collect::<Vec<_>>(),
        "model_results": report.model_results.iter().map(row_json).collect::<Vec<_>>(),
        "fusion": report.fusion.as_ref().map(fusion_json),
    })
}

fn row_json(row: &ModelWarmupResult) -> Json {
    json!({
        "model_id": row.model_id.as_str(),
        "success": row.success,
        "duration_ms": row.duration_ms,
        "samples_processed": row.samples_processed,
        "first_latency_ms": row.first_latency_ms,
        "final_latency_ms": row.final_latency_ms,
        "jit_compiled": row.jit_compiled,
        "error": row.error,
        "size_count": row.coverage.size_count,
        "done_count": row.coverage.done_count,
        "precision": row.precision.as_ref().map(precision_json),
    })
}

fn precision_json(it: &PrecisionResult) -> Json {
    json!({
        "wanted": it.wanted.word(),
        "used": it.used.word(),
        "cosine_min": it.closeness.plain,
        "centred_cosine_min": it.closeness.centred,
        "speed_factor": it.speed_factor,
    })
}

fn fusion_json(fusion: &FusionWarmupResult) -> Json {
    json!({
        "success": fusion.success,
        "duration_ms": fusion.duration_ms,
        "samples_processed": fusion.samples_processed,
        "first_latency_ms": fusion.first_latency_ms,
        "final_latency_ms": fusion.final_latency_ms,
        "experts_seen": fusion.experts_seen,
        "error": fusion.error,
    })
}
