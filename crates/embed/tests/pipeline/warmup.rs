//! Warm-up as the specification wants it: every model and the fusion, failures kept as rows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use calor_device::Driver;
use calor_device::null::NullDriver;
use calor_device_cpu::CpuDriver;
use calor_embed::embedding::MissingModels;
use calor_embed::input::InputKind;
use calor_embed::model::BoxFuture;
use calor_embed::pipeline::PrecisionRule;
use calor_embed::warmup::{Progress, WarmupState, block_on};
use calor_embed::{
    EmbeddingError, EmbeddingModel, EmbeddingPipeline, EmbeddingResult, InferencePrecision,
    ModelEmbedding, ModelId, ModelInput, ModelWarmupResult, PipelineCore, PipelineOptions,
    PipelineWarmup, Profile, SyntheticDataGenerator, WarmupConfig,
};
use calor_runtime::GpuMemoryPool;
use calor_telemetry::counter::{CacheCount, Counter, Plain};
use calor_telemetry::{Cache, Counters, Stopwatch};
use tempfile::TempDir;

use crate::fixture::{NOW_S, clock, cpu_build, join_all, options, write_checkpoint};

/// Few runs: enough to cover every size twice.
fn brief() -> WarmupConfig {
    WarmupConfig {
        samples_per_model: 2,
        batch_sizes: vec![1, 4],
        total_timeout_secs: 120,
        ..WarmupConfig::default()
    }
}

fn all_models() -> PipelineOptions {
    PipelineOptions {
        device_slots: true,
        batch_tokens_max: 128,
        ..options(Profile::Random, &ModelId::ALL)
    }
}

fn pipeline(options: PipelineOptions) -> EmbeddingPipeline {
    let core = PipelineCore::unloaded(cpu_build(), options).unwrap();
    EmbeddingPipeline::start(core, clock()).unwrap()
}

#[test]
fn all_twelve_models_and_the_fusion_are_warm_and_the_report_says_so() {
    let pipeline = pipeline(all_models());
    let heard = Arc::new(Mutex::new((0, 0)));
    let own = heard.clone();
    let warmup = PipelineWarmup::new(brief()).with_listener(Arc::new(move |it| {
        let mut heard = own.lock().unwrap();
        match it {
            Progress::Phase(_) => heard.0 += 1,
            Progress::Model(_) => heard.1 += 1,
        }
    }));
    let report = block_on(warmup.warmup(&pipeline)).unwrap();
    assert_eq!((report.models_warmed, report.models_failed), (12, 0), "{report:#?}");
    assert!(report.ready_for_inference && report.fusemoe_warmed);
    assert_eq!(report.state, WarmupState::Ready);
    let ids: Vec<ModelId> = report.model_results.iter().map(|it| it.model_id).collect();
    assert_eq!(ids, ModelId::ALL);
    for row in &report.model_results {
        assert!(row.success && row.error.is_none(), "{row:?}");
        assert_eq!(row.samples_processed, 2 * (1 + 4), "{row:?}");
        assert!(0.0 < row.first_latency_ms && 0.0 < row.final_latency_ms, "{row:?}");
        assert!(!row.jit_compiled, "all code was made before: {row:?}");
    }
    let coverage = report.coverage();
    assert_eq!((coverage.done_count, coverage.wanted_count), (48, 48));
    assert_eq!((coverage.size_count, coverage.size_wanted_count), (24, 24));
    // The null hypothesis of a report: what it says was counted.
    assert!(0 < report.compiled_count && report.compiled_late_count == 0, "{report:?}");
    assert!(30 < report.program_count && 0.0 < report.peak_memory_gb);
    let fusion = report.fusion.as_ref().unwrap();
    assert!(fusion.success && 0 < fusion.samples_processed, "{fusion:?}");
    assert_eq!(fusion.experts_seen, [true; 8], "each was forced, not sought");
    assert!(0.0 < report.post_warmup_p95_ms && report.post_warmup_p95_ms < 200.0, "{report:?}");
    let names: Vec<&str> = report.phases.iter().map(|it| it.name).collect();
    let road = "build, run and check every program";
    let want = ["load", "memory", "precision", road, "models", "fusion", "fresh requests"];
    assert_eq!(names, want);
    assert_eq!(report.primed_bytes, GpuMemoryPool::KEPT_BYTES_MAX);
    assert!(GpuMemoryPool::KEPT_BYTES_MAX as f64 / 1e9 <= report.peak_memory_gb, "{report:?}");
    assert_eq!(*heard.lock().unwrap(), (7, 12));
    let output = block_on(pipeline.embed("after")).unwrap();
    assert_eq!(output.fused.unwrap().vector.len(), 1536);
}

#[test]
fn the_defaults_are_cut_by_the_budget_and_cover_every_size() {
    let pipeline = pipeline(all_models());
    let watch = Stopwatch::start();
    let config = WarmupConfig { total_timeout_secs: 25, ..WarmupConfig::default() };
    let failed = block_on(pipeline.initialize_with(config)).err();
    let report = block_on(pipeline.warmup_report()).unwrap();
    let faults: Vec<&str> =
        report.model_results.iter().filter_map(|it| it.error.as_deref()).collect();
    assert!(failed.is_none(), "{faults:?}");
    assert!(watch.elapsed_ns() < 30_000_000_000, "{} ms", report.total_duration_ms);
    let coverage = report.coverage();
    assert_eq!(coverage.size_count, coverage.size_wanted_count, "{coverage:?}");
    assert_eq!(coverage.size_wanted_count, 12 * 4);
    assert!(report.ready_for_inference);
}

#[test]
fn warming_up_happens_once_however_many_ask() {
    let pipeline = pipeline(all_models());
    let before = block_on(pipeline.warmup_report());
    assert!(before.is_none());
    let asked = (0..3).map(|_| pipeline.initialize_with(brief())).collect();
    let reports = block_on(join_all(asked));
    let first = reports[0].as_ref().unwrap();
    for report in &reports {
        assert_eq!(report.as_ref().unwrap(), first);
    }
    assert_eq!(block_on(pipeline.warmup_report()).as_ref(), Some(first));
}

#[test]
fn a_model_that_fails_is_a_row_and_leaves_the_others_served() {
    let missing = ModelId::Graph;
    let mut options = all_models();
    options.checkpoints.remove("paraphrase-MiniLM-L6-v2");
    options.missing = MissingModels::AllowPartial;
    options.device_slots = false;
    let strict = pipeline(options.clone());
    let refused = block_on(strict.initialize_with(brief())).unwrap_err();
    assert!(
        matches!(refused, EmbeddingError::InitializationFailed { failed_count: 1 }),
        "{refused:?}"
    );
    let report = block_on(strict.warmup_report()).unwrap();
    let row = &report.model_results[missing.index()];
    assert!(!row.success && row.error.is_some(), "{row:?}");
    assert_eq!((report.models_warmed, report.state), (11, WarmupState::Failed));
    let lenient = pipeline(options);
    let config = WarmupConfig { skip_on_failure: true, ..brief() };
    let report = block_on(lenient.initialize_with(config)).unwrap();
    assert_eq!((report.models_failed, report.state), (1, WarmupState::Degraded));
    assert!(report.ready_for_inference);
    let output = block_on(lenient.embed("still here")).unwrap();
    assert_eq!(output.embeddings.missing_models(), [missing]);
}

#[test]
fn a_mandatory_model_is_not_gone_without() {
    let mut options = all_models();
    options.checkpoints.remove("e5-large-v2");
    options.missing = MissingModels::AllowPartial;
    options.device_slots = false;
    let pipeline = pipeline(options);
    let config = WarmupConfig { skip_on_failure: true, ..brief() };
    let refused = block_on(pipeline.initialize_with(config)).unwrap_err();
    assert!(matches!(refused, EmbeddingError::InitializationFailed { .. }), "{refused:?}");
}

#[test]
fn a_weight_that_is_no_number_keeps_the_pipeline_unready() {
    let dir = TempDir::new().unwrap();
    let name = "all-MiniLM-L6-v2";
    write_checkpoint(name, dir.path());
    let file = dir.path().join(name).join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    // One number anywhere is enough; the middle of the file is some layer's.
    let middle = 8 + (bytes.len() / 2) / 4 * 4;
    bytes[middle..middle + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    let mut options = options(Profile::Random, &[ModelId::Entity]);
    options.checkpoints = HashMap::from([(name.to_owned(), dir.path().join(name))]);
    let pipeline = pipeline(options);
    let refused = block_on(pipeline.initialize_with(brief())).unwrap_err();
    assert!(matches!(refused, EmbeddingError::InitializationFailed { .. }), "{refused:?}");
    let report = block_on(pipeline.warmup_report()).unwrap();
    let row = &report.model_results[0];
    assert!(!row.success && row.error.is_some() && !report.ready_for_inference, "{report:?}");
    // Whatever is asked now is refused, and nothing crashes.
    block_on(pipeline.embed("a")).unwrap_err();
    block_on(pipeline.shutdown());
}

#[test]
fn every_expert_is_forced_in_either_form() {
    for device_slots in [true, false] {
        let options = PipelineOptions { device_slots, ..all_models() };
        let mut core = PipelineCore::open(cpu_build(), options).unwrap();
        if device_slots {
            core = core.warm().unwrap().0;
        }
        let before = core.programs().counters().snapshot();
        assert_eq!(core.force_experts().unwrap(), [true; 8]);
        let change = core.programs().counters().snapshot().since(&before);
        assert_eq!(change.get(Plain::Compiles) == 0, device_slots, "a warm one compiles nothing");
    }
}

/// Options whose checkpoint of one name is a copy that `change` has changed.
fn with_changed(
    options: PipelineOptions,
    name: &str,
    change: impl FnOnce(&mut Vec<u8>),
) -> (TempDir, PipelineOptions) {
    let dir = TempDir::new().unwrap();
    write_checkpoint(name, dir.path());
    let file = dir.path().join(name).join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    change(&mut bytes);
    std::fs::write(&file, bytes).unwrap();
    let mut options = options;
    options.checkpoints.insert(name.to_owned(), dir.path().join(name));
    (dir, options)
}

#[test]
fn a_model_that_fails_while_programs_are_built_or_checked_does_not_take_the_others_down() {
    let missing = ModelId::Entity;
    for device_slots in [true, false] {
        let mut options = all_models();
        options.device_slots = device_slots;
        options.missing = MissingModels::AllowPartial;
        let (_dir, options) = with_changed(options, "all-MiniLM-L6-v2", |bytes| {
            let middle = 8 + (bytes.len() / 2) / 4 * 4;
            bytes[middle..middle + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        });
        let whole = PipelineCore::open(cpu_build(), options.clone()).unwrap();
        assert!(whole.warm().is_err(), "one that must be whole is not");
        let pipeline = pipeline(options);
        let config = WarmupConfig { skip_on_failure: true, ..brief() };
        let report = block_on(pipeline.initialize_with(config)).unwrap();
        for row in &report.model_results {
            assert_eq!(row.success, row.model_id != missing, "{row:?}");
        }
        assert_eq!((report.models_failed, report.state), (1, WarmupState::Degraded));
        assert_eq!(report.compiled_late_count, 0);
        let output = block_on(pipeline.embed("still here")).unwrap();
        assert_eq!(output.embeddings.missing_models(), [missing]);
        assert!(output.fused.is_some());
    }
}

#[test]
fn weights_that_go_between_opening_and_reading_are_one_models_fault() {
    let mut options = all_models();
    options.missing = MissingModels::AllowPartial;
    let (dir, options) = with_changed(options, "all-MiniLM-L6-v2", |_| {});
    let core = PipelineCore::open(cpu_build(), options).unwrap();
    let file = dir.path().join("all-MiniLM-L6-v2").join("model.safetensors");
    let half = std::fs::metadata(&file).unwrap().len() / 2;
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(half).unwrap();
    let (mut core, report, lost) = core.warm_each().unwrap();
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(lost[0].model_ids, [ModelId::Entity]);
    assert!(core.programs().is_sealed() && 30 < report.program_count);
    let outputs = core.embed_batch(&[ModelInput::text("heat").unwrap()], NOW_S).unwrap();
    assert_eq!(outputs[0].as_ref().unwrap().embeddings.missing_models(), [ModelId::Entity]);
}

#[test]
fn each_model_is_compared_with_itself_in_f32_and_the_report_says_so() {
    let models = [ModelId::Entity, ModelId::Causal];
    let with = |precision| PipelineOptions { precision, ..options(Profile::Random, &models) };
    let wanted = InferencePrecision::BF16;
    let settings = |precision_rule, precision_cosine_min| WarmupConfig {
        precision_rule,
        precision_cosine_min,
        ..brief()
    };
    // As close as it promises.
    let kept = pipeline(with(wanted));
    let report =
        block_on(kept.initialize_with(settings(PrecisionRule::Refuse, Some(0.9)))).unwrap();
    for row in &report.model_results {
        let result = row.precision.unwrap();
        assert_eq!((result.model_id, result.used), (row.model_id, wanted));
        assert!(0.9 <= result.closeness.least() && result.closeness.least() < 1.0, "{result:?}");
        assert!(0.0 < result.speed_factor && result.speed_factor.is_finite(), "{result:?}");
    }
    // More than any rounding allows is refused in the model's name.
    let refused = pipeline(with(wanted));
    let settings_of = settings(PrecisionRule::Refuse, Some(1.1));
    block_on(refused.initialize_with(settings_of)).unwrap_err();
    let report = block_on(refused.warmup_report()).unwrap();
    let fault = report.model_results[0].error.clone().unwrap();
    assert!(fault.contains("in bf16 has a cosine of"), "{fault}");
    assert!(!report.ready_for_inference);
    // Or runs in f32, where that is allowed: its vectors are those of f32.
    let widened = pipeline(with(wanted));
    let settings_of = settings(PrecisionRule::Widen, Some(1.1));
    let report = block_on(widened.initialize_with(settings_of)).unwrap();
    for row in &report.model_results {
        let result = row.precision.unwrap();
        assert_eq!((result.wanted, result.used), (wanted, InferencePrecision::FP32));
    }
    let exact = pipeline(with(InferencePrecision::FP32));
    let report = block_on(exact.initialize_with(brief())).unwrap();
    assert!(report.model_results.iter().all(|it| it.precision.is_none()), "nothing to compare");
    let vectors = |pipeline: &EmbeddingPipeline| {
        let output = block_on(pipeline.embed("heat never rests")).unwrap();
        models.map(|it| output.embeddings.get(it).unwrap().vector.clone())
    };
    assert_eq!(vectors(&widened), vectors(&exact));
    assert_ne!(vectors(&kept), vectors(&exact), "bf16 is not f32");
    // Unless nobody wants to know, or only of precisions of one byte.
    for rule in [PrecisionRule::Unchecked, PrecisionRule::Narrow] {
        let unchecked = pipeline(with(wanted));
        let report = block_on(unchecked.initialize_with(settings(rule, Some(1.1)))).unwrap();
        assert!(report.model_results.iter().all(|it| it.precision.is_none()));
    }
}

#[test]
fn a_pipeline_that_is_stuck_times_out_with_rows() {
    let stuck = Arc::new(AtomicBool::new(true));
    let own = stuck.clone();
    let clock = move || {
        while own.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        NOW_S
    };
    let options = options(Profile::Random, &[ModelId::Hdc, ModelId::TemporalPeriodic]);
    let core = PipelineCore::open(cpu_build(), options).unwrap();
    let pipeline = EmbeddingPipeline::start(core, Arc::new(clock)).unwrap();
    let watch = Stopwatch::start();
    let config = WarmupConfig { total_timeout_secs: 2, model_timeout_secs: 1, ..brief() };
    let refused = block_on(pipeline.initialize_with(config)).unwrap_err();
    let elapsed_ms = watch.elapsed_ns() / 1_000_000;
    assert!((900..4_000).contains(&elapsed_ms), "{elapsed_ms} ms");
    assert!(matches!(refused, EmbeddingError::InitializationFailed { failed_count: 2 }));
    let report = block_on(pipeline.warmup_report()).unwrap();
    for row in &report.model_results {
        assert_eq!(row.error.as_deref(), Some("not finished in time"), "{row:?}");
    }
    stuck.store(false, Ordering::Relaxed);
}

/// A model that does what it is told.
struct Told {
    what: What,
    runs: AtomicUsize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Well,
    NoNumber,
    OneNumber,
    Longer,
    Alike,
    Fewer,
    Fails,
    Panics,
    Hangs,
    HangsLater,
    Takes600Ms,
}

impl EmbeddingModel for Told {
    fn model_id(&self) -> ModelId {
        ModelId::Entity
    }

    fn is_initialized(&self) -> bool {
        true
    }

    fn memory_usage_bytes(&self) -> u64 {
        0
    }

    fn embed_batch<'a>(
        &'a self,
        inputs: &'a [ModelInput],
    ) -> BoxFuture<'a, EmbeddingResult<Vec<EmbeddingResult<ModelEmbedding>>>> {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let one = |input: &ModelInput| {
            let id = ModelId::Entity;
            let salt = if self.what == What::Alike { 1 } else { input.content_hash() };
            let mut vector: Vec<f32> = (0..id.slot_dimension())
                .map(|it| ((it as u64 * 37 + salt % 1009) % 101) as f32 - 50.0)
                .collect();
            match self.what {
                What::OneNumber => vector.fill(1.0),
                What::Longer => vector.push(1.0),
                _ => {}
            }
            calor_embed::embedding::normalize_l2(&mut vector);
            if self.what == What::NoNumber {
                vector[7] = f32::NAN;
            }
            Ok(ModelEmbedding {
                model_id: id,
                vector,
                latency_us: 0,
                attention_weights: None,
                is_projected: true,
            })
        };
        let mut outputs: Vec<_> = inputs.iter().map(one).collect();
        match self.what {
            What::Hangs => return Box::pin(std::future::pending()),
            What::Takes600Ms => std::thread::sleep(Duration::from_millis(600)),
            What::HangsLater if 2 <= run => return Box::pin(std::future::pending()),
            What::Panics => return Box::pin(async { panic!("as told") }),
            What::Fails => return Box::pin(async { Err(EmbeddingError::Cancelled) }),
            What::Fewer => drop(outputs.pop()),
            _ => {}
        }
        Box::pin(std::future::ready(Ok(outputs)))
    }
}

fn warm(what: What) -> (ModelWarmupResult, u64) {
    let config = WarmupConfig {
        samples_per_model: 3,
        batch_sizes: vec![2, 5],
        model_timeout_secs: 1,
        total_timeout_secs: 3,
        ..WarmupConfig::default()
    };
    let model = Told { what, runs: AtomicUsize::new(0) };
    let watch = Stopwatch::start();
    let row = block_on(PipelineWarmup::new(config).warmup_model(&model)).unwrap();
    (row, watch.elapsed_ns() / 1_000_000)
}

#[track_caller]
fn fails(what: What, why: &str) {
    let (row, elapsed_ms) = warm(what);
    let error = row.error.as_deref().unwrap_or_default();
    assert!(!row.success && error.contains(why), "{what:?}: {row:?}");
    assert!(elapsed_ms < 2_500, "{what:?}: {elapsed_ms} ms");
}

#[test]
fn outputs_that_are_not_sane_fail_their_model() {
    let (row, _) = warm(What::Well);
    assert!(row.success, "{row:?}");
    assert_eq!((row.samples_processed, row.coverage.done_count), (21, 6));
    fails(What::NoNumber, "it is not finite");
    fails(What::OneNumber, "it is one number over and over");
    fails(What::Longer, "its length is not the slot's");
    fails(What::Alike, "it is the same for every input");
    fails(What::Fewer, "1 vectors for 2 inputs");
    fails(What::Fails, "cancelled");
}

#[test]
fn a_panic_and_a_model_that_hangs_are_rows() {
    fails(What::Panics, "as told");
    fails(What::Hangs, "not finished in time");
    fails(What::HangsLater, "not finished in time");
}

#[test]
fn runs_that_time_does_not_allow_are_left_out_and_fail_nobody() {
    let config =
        WarmupConfig { batch_sizes: vec![2], total_timeout_secs: 2, ..WarmupConfig::default() };
    let model = Told { what: What::Takes600Ms, runs: AtomicUsize::new(0) };
    let watch = Stopwatch::start();
    let row = block_on(PipelineWarmup::new(config).warmup_model(&model)).unwrap();
    assert!(row.success, "{row:?}");
    assert_eq!((row.coverage.size_count, row.coverage.wanted_count), (1, 8));
    assert!((1..4).contains(&row.coverage.done_count), "{row:?}");
    assert!(watch.elapsed_ns() < 2_000_000_000, "{row:?}");
}

#[test]
fn a_profile_whose_trunk_reads_no_images_is_warmed_with_texts() {
    let models = [ModelId::Multimodal, ModelId::Entity];
    let pipeline = pipeline(options(Profile::Mini, &models));
    let report = block_on(pipeline.initialize_with(brief())).unwrap();
    assert_eq!((report.models_warmed, report.models_failed), (2, 0), "{report:#?}");
    let model = block_on(pipeline.registry().get_model(ModelId::Multimodal)).unwrap();
    assert_eq!(model.supported_input_types(), [InputKind::Text]);
}

#[test]
fn priming_leaves_written_buffers_of_every_size() {
    let mut device = NullDriver { claims: &[], memory_bytes: 1 << 30 }.open(0).unwrap();
    let counters = Arc::new(Counters::new());
    let mut pool = GpuMemoryPool::new(1 << 30, counters);
    let warmup = PipelineWarmup::new(WarmupConfig::default());
    warmup.prime_memory(&mut pool, device.memory.as_mut()).unwrap();
    let each = GpuMemoryPool::KEPT_PER_BUCKET_MAX;
    assert_eq!(pool.cached_buffers(), GpuMemoryPool::BUCKET_SIZES.len() * each);
    let before = pool.stats().cache_misses;
    for bytes in GpuMemoryPool::BUCKET_SIZES {
        let buffers: Vec<_> =
            (0..each).map(|_| pool.allocate(device.memory.as_mut(), bytes).unwrap()).collect();
        buffers.into_iter().for_each(|it| pool.deallocate(device.memory.as_mut(), it).unwrap());
    }
    assert_eq!(pool.stats().cache_misses, before, "nothing had to be made");
    let mut small = GpuMemoryPool::new(1 << 20, Arc::new(Counters::new()));
    warmup.prime_memory(&mut small, device.memory.as_mut()).unwrap_err();
    small.clear(device.memory.as_mut()).unwrap();
    assert_eq!(small.allocated_bytes(), 0, "what was made waited, and nothing is lent");
}

/// A pipeline of one model with so much memory.
fn within(build: calor_runtime::Build) -> EmbeddingPipeline {
    let options = options(Profile::Random, &[ModelId::Entity]);
    let core = PipelineCore::unloaded(build, options).unwrap();
    EmbeddingPipeline::start(core, clock()).unwrap()
}

#[test]
fn warming_up_primes_the_pool_that_the_build_takes_from_within_its_memory() {
    let counters = Arc::new(Counters::new());
    let build = |memory_bytes| {
        let driver =
            CpuDriver { threads: 1, level: None, memory_bytes: Some(memory_bytes), profile: None };
        let null = Arc::new(calor_telemetry::Null);
        let device = driver.open(0).unwrap();
        calor_runtime::Build::new(device, memory_bytes, counters.clone(), null)
    };
    let hits = || counters.snapshot().get(Counter::Cache(Cache::BufferPool, CacheCount::Hits));
    let memory_bytes = 36 << 20;
    let pipeline = within(build(memory_bytes));
    let report = block_on(PipelineWarmup::new(brief()).warmup(&pipeline)).unwrap();
    assert!(report.ready_for_inference, "{report:?}");
    let phase = report.phases.iter().find(|it| it.name == "memory").unwrap();
    assert_eq!(phase.error, None);
    // Everything up to 4 MiB, and no buffer of 16.
    let small: u64 = GpuMemoryPool::BUCKET_SIZES.iter().filter(|it| **it <= 4 << 20).sum();
    assert_eq!(report.primed_bytes, 4 * small);
    assert!(0 < hits(), "boundaries came from there");
    assert!(report.peak_memory_gb * 1e9 <= memory_bytes as f64, "{report:?}");
    let left_bytes = pipeline.memory_bytes();
    assert!(left_bytes < 4 * small, "{left_bytes} bytes are held: what waited went back");
    block_on(pipeline.embed("heat")).unwrap();
}

#[test]
fn priming_a_device_that_computes_nothing_takes_what_it_has() {
    // Of 20 KiB four buffers of the smallest size are primed, and none of the next.
    let all_bytes = GpuMemoryPool::KEPT_BYTES_MAX;
    for (memory_bytes, want_bytes) in [(1 << 30, all_bytes), (20 << 10, 16 << 10)] {
        let device = NullDriver { claims: &[], memory_bytes }.open(0).unwrap();
        let (counters, null) = (Arc::new(Counters::new()), Arc::new(calor_telemetry::Null));
        let mut build = calor_runtime::Build::new(device, u64::MAX, counters, null);
        assert_eq!(build.prime_memory().unwrap(), want_bytes);
        assert_eq!(build.memory().pool_bytes, build.prime_memory().unwrap(), "and again the same");
        assert_eq!(build.seal().unwrap().memory().total_bytes(), 0);
    }
}

#[test]
fn programs_are_counted_while_they_are_built_and_not_after() {
    let core = PipelineCore::unloaded(cpu_build(), all_models()).unwrap();
    let counters = core.programs().counters().clone();
    let pipeline = EmbeddingPipeline::start(core, clock()).unwrap();
    block_on(pipeline.initialize_with(brief())).unwrap();
    let before = counters.snapshot();
    let generator = SyntheticDataGenerator::new(5);
    for step in 0..20 {
        let text = generator.at(ModelId::Hdc, step).generate_text(1, 60);
        block_on(pipeline.embed(text)).unwrap();
    }
    let change = counters.snapshot().since(&before);
    for counter in [Plain::Plans, Plain::Compiles, Plain::Loads, Plain::Preparations] {
        assert_eq!(change.get(counter), 0, "{counter:?}");
    }
}
