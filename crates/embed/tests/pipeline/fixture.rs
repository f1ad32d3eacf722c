//! Tiny checkpoints of every model, pipelines over them, and an executor of one page.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use calor_device::Driver;
use calor_device::null::NullDriver;
use calor_device_cpu::CpuDriver;
use calor_embed::embedding::MissingModels;
use calor_embed::handle::Clock;
use calor_embed::input::InputLimits;
use calor_embed::profile::PUBLISHED;
use calor_embed::tokenizer::LongTokens;
use calor_embed::{InferencePrecision, ModelId, PipelineCore, PipelineOptions, Profile};
use calor_runtime::Build;
use calor_telemetry::{Counters, Null};
use calor_weights::{Dtype, SYNTH_MODELS, SynthModel, SynthOptions, SynthProfile, synth};
use tempfile::TempDir;

/// The time of every test: 2024-05-01T12:00:00Z.
pub(crate) const NOW_S: i64 = 1_714_564_800;
/// Models without weights.
pub(crate) const ARITHMETIC: [ModelId; 4] =
    [ModelId::TemporalRecent, ModelId::TemporalPeriodic, ModelId::TemporalPositional, ModelId::Hdc];

/// Writes the tiny checkpoint of one name below `dir`.
pub(crate) fn write_checkpoint(name: &str, dir: &Path) {
    let models: Vec<&SynthModel> = SYNTH_MODELS.iter().filter(|it| it.name == name).collect();
    let options =
        SynthOptions { profile: SynthProfile::Tiny, seed: 7, dtype: Dtype::F32, models: &models };
    synth(&options, dir, &mut ()).unwrap();
}

/// Every checkpoint and the fusion's weights, written once for all tests.
fn store() -> &'static Path {
    static STORE: OnceLock<TempDir> = OnceLock::new();
    let store = STORE.get_or_init(|| {
        let dir = TempDir::new().unwrap();
        PUBLISHED.iter().for_each(|it| write_checkpoint(it.name, dir.path()));
        dir
    });
    store.path()
}

/// Options over the tiny checkpoints.
pub(crate) fn options(profile: Profile, models: &[ModelId]) -> PipelineOptions {
    let path = |name: &str| -> PathBuf { store().join(name) };
    let checkpoints: HashMap<String, PathBuf> =
        PUBLISHED.iter().map(|it| (it.name.into(), path(it.name))).collect();
    PipelineOptions {
        profile,
        models: models.to_vec(),
        checkpoints,
        absent: HashMap::new(),
        fusion_file: path("fusion.safetensors"),
        projection_file: None,
        missing: MissingModels::Refuse,
        limits: InputLimits::STANDARD,
        long_text: LongTokens::Truncate,
        batch_tokens_max: 256,
        reference_s: None,
        precision: InferencePrecision::FP32,
        device_slots: false,
        own_forms: true,
    }
}

/// A device that takes everything and computes zeros.
pub(crate) fn null_build() -> Build {
    let device = NullDriver { claims: &[], memory_bytes: 1 << 30 }.open(0).unwrap();
    Build::new(device, u64::MAX, Arc::new(Counters::new()), Arc::new(Null))
}

/// The processor.
pub(crate) fn cpu_build() -> Build {
    let driver = CpuDriver { threads: 2, level: None, memory_bytes: None, profile: None };
    Build::new(driver.open(0).unwrap(), u64::MAX, Arc::new(Counters::new()), Arc::new(Null))
}

/// The models without weights, on the null device.
pub(crate) fn arithmetic() -> PipelineCore {
    PipelineCore::open(null_build(), options(Profile::Random, &ARITHMETIC)).unwrap()
}

/// A clock that stands still.
pub(crate) fn clock() -> Clock {
    Arc::new(|| NOW_S)
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future to its end on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Polls once; for futures that are to wait.
pub(crate) fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Runs many futures at once; their outputs in order.
pub(crate) async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let Poll::Ready(it) = future.as_mut().poll(context)
            {
                *output = Some(it);
            }
        }
        if outputs.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}
