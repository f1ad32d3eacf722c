//! How long weights take from files to a device, part by part.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calor_device::{Artifacts, Driver};
use calor_embed::InferencePrecision;
use calor_embed::embedder::{CheckpointEmbedder, EmbedItem, EmbedderOptions};
use calor_embed::input::Role;
use calor_embed::tokenizer::LongTokens;
use calor_runtime::{Build, WeightsReport};
use calor_telemetry::clock::Stopwatch;
use calor_telemetry::{Counters, Null};
use calor_weights::{
    Checkpoint, Dtype, SYNTH_MODELS, Store, StoreOptions, SynthModel, SynthOptions, SynthProfile,
    synth,
};

use crate::bench::artifacts;

/// How often each arm is measured.
const REPETITIONS: usize = 5;

/// Writes checkpoints of real size whose names are asked for, once as folders and once in a store.
/// Does nothing for those that are there.
///
/// # Panics
/// When they cannot be written.
pub fn make(folder: &Path, names: &[String]) {
    let store = store(folder);
    for model in wanted(names) {
        let dir = folder.join(model.name);
        if !dir.is_dir() {
            let options = SynthOptions {
                profile: SynthProfile::Full,
                seed: 1,
                dtype: Dtype::F32,
                models: &[model],
            };
            synth(&options, folder, &mut ()).unwrap();
        }
        store.import(model.name, "main", dir, &mut ()).unwrap();
    }
}

/// Loads each checkpoint in each way, and says what took how long; the second driver reads files by
/// itself where it can. Compiled code is kept in `cache`.
///
/// # Errors
/// When nothing can be written.
///
/// # Panics
/// When one does not load.
pub fn table(
    [driver, reading]: [&dyn Driver; 2],
    folder: &Path,
    names: &[String],
    cache: &Path,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let (store, artifacts) = (store(folder), artifacts(cache));
    for model in wanted(names) {
        let stored = store.dir(model.name, "main").unwrap();
        let dir = folder.join(model.name);
        let arms = [
            ("plain", driver, &dir, false),
            ("checked", driver, &stored, false),
            ("proven", driver, &stored, true),
            ("direct", reading, &stored, false),
        ];
        for (arm, driver, dir, is_proven) in arms {
            for _ in 0..REPETITIONS {
                let (report, total_ns) = load(driver, dir, is_proven, &artifacts);
                writeln!(out, "{} {arm}: {}", model.name, line(report, total_ns))?;
            }
        }
        let watch = Stopwatch::start();
        let files = Checkpoint::open(&dir).unwrap().file_digests().unwrap();
        let bytes: u64 = files.iter().map(|it| it.file_bytes).sum();
        let ns = watch.elapsed_ns();
        let rate = bytes as f64 / ns as f64;
        writeln!(out, "{} digest: {:.3} s, {rate:.1} GB/s", model.name, ns as f64 / 1e9)?;
    }
    Ok(())
}

fn line(report: WeightsReport, total_ns: u64) -> String {
    let WeightsReport { read_bytes, wall_ns, waited_ns, written_ns, .. } = report;
    let rate = read_bytes as f64 / wall_ns as f64;
    let [wall, waited, written, total] =
        [wall_ns, waited_ns, written_ns, total_ns].map(|it| it as f64 / 1e9);
    format!(
        "{:.2} GB in {wall:.3} s, {rate:.1} GB/s; waited {waited:.3}, wrote {written:.3}; \
         checked {:.2} GB, proven {:.2} GB, direct {:.2} GB; with opening and a run {total:.3} s",
        read_bytes as f64 / 1e9,
        report.checked_bytes as f64 / 1e9,
        report.proven_bytes as f64 / 1e9,
        report.direct_bytes as f64 / 1e9,
    )
}

fn load(
    driver: &dyn Driver,
    dir: &Path,
    is_proven: bool,
    artifacts: &Arc<dyn Artifacts>,
) -> (WeightsReport, u64) {
    let device = driver.open(0).unwrap();
    let watch = Stopwatch::start();
    let build = Build::new(device, u64::MAX, Arc::new(Counters::new()), Arc::new(Null));
    let build = build.with_artifacts(Arc::clone(artifacts));
    let build = if is_proven { build.proving_weights() } else { build };
    let options = EmbedderOptions {
        pooling: None,
        normalize: Some(true),
        sequence_tokens_max: None,
        long_text: LongTokens::Refuse,
        batch_tokens_max: 512,
        thread_count: NonZeroUsize::MIN,
        role: Role::Passage,
        precision: InferencePrecision::BF16,
    };
    let mut embedder = CheckpointEmbedder::open(build, dir, options).unwrap();
    let results = embedder.embed(&[EmbedItem::Ids(vec![101, 2023, 102])]).unwrap();
    assert!(results.iter().all(Result::is_ok));
    (embedder.programs().weights(), watch.elapsed_ns())
}

fn wanted(names: &[String]) -> impl Iterator<Item = &'static SynthModel> {
    SYNTH_MODELS.iter().filter(|it| names.iter().any(|name| it.name.contains(&**name)))
}

fn store(folder: &Path) -> Store {
    let root: PathBuf = folder.join("store");
    Store::open(root, StoreOptions { model_bytes_max: 1 << 40 }).unwrap()
}
