//! The pipeline of twelve models at real size: how long it takes to be ready, what a request
//! costs, how cost grows, and whether anything is built once it is warm.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use calor_device::Driver;
use calor_embed::embedding::MissingModels;
use calor_embed::fusion::FUSION_SEED_DEFAULT;
use calor_embed::input::InputLimits;
use calor_embed::profile::PUBLISHED;
use calor_embed::tokenizer::LongTokens;
use calor_embed::{
    InferencePrecision, ModelId, ModelInput, PipelineCore, PipelineOptions, Profile,
};
use calor_runtime::Build;
use calor_runtime::cache::{ArtifactStore, DISK_BYTES_MAX, MEMORY_BYTES_MAX, StoreOptions};
use calor_telemetry::clock::Stopwatch;
use calor_telemetry::counter::Plain;
use calor_telemetry::{Counters, Event, Log, Null};
use calor_weights::{Dtype, SYNTH_MODELS, SynthOptions, SynthProfile, synth};
use serde_json::{Value as Json, json};

use crate::bench;

/// Seconds since the epoch, as the temporal models see them.
pub(crate) const NOW_S: i64 = 1_714_564_800;
/// Counters that a sealed pipeline leaves alone.
pub(crate) const BUILDING: [Plain; 5] =
    [Plain::Plans, Plain::Compiles, Plain::Loads, Plain::Allocations, Plain::Preparations];

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Where a pipeline's files are and how it runs.
#[derive(Clone, Debug)]
pub struct PipelineFiles {
    /// Seeded checkpoints of published size; made where they are not there.
    pub models: PathBuf,
    /// Compiled code.
    pub cache: PathBuf,
    /// What products run in.
    pub precision: InferencePrecision,
    /// Most tokens in one program run.
    pub batch_tokens_max: usize,
    /// Most bytes of device memory.
    pub quota_bytes: u64,
    /// Published sizes, or tiny ones.
    pub profile: Profile,
}

impl PipelineFiles {
    /// Writes checkpoints, the fusion's weights and E6's projection where they are not there.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn make(&self) -> Outcome<()> {
        let profile = match self.profile {
            Profile::Full => SynthProfile::Full,
            Profile::Mini | Profile::Random => SynthProfile::Tiny,
        };
        std::fs::create_dir_all(&self.models)?;
        std::thread::scope(|scope| {
            let mut made = Vec::new();
            for model in SYNTH_MODELS {
                let dir = &self.models;
                if dir.join(model.name).is_dir() {
                    continue;
                }
                made.push(scope.spawn(move || {
                    let models = [model];
                    let options =
                        SynthOptions { profile, seed: 0, dtype: Dtype::F32, models: &models };
                    synth(&options, dir, &mut ()).map(|_| ())
                }));
            }
            let fusion = self.models.join("fusion.safetensors");
            if !fusion.is_file() {
                self.profile.fusion().save_seeded(FUSION_SEED_DEFAULT, &fusion)?;
            }
            for thread in made {
                thread.join().map_err(|_| "a thread that writes checkpoints panicked")??;
            }
            Ok(())
        })
    }

    fn options(&self, models: Vec<ModelId>) -> PipelineOptions {
        let path = |name: &str| self.models.join(name);
        let checkpoints: HashMap<String, PathBuf> =
            PUBLISHED.iter().map(|it| (it.name.into(), path(it.name))).collect();
        PipelineOptions {
            profile: self.profile,
            models,
            checkpoints,
            absent: HashMap::new(),
            fusion_file: path("fusion.safetensors"),
            projection_file: Some(path("projection-sparse.safetensors")),
            missing: MissingModels::Refuse,
            limits: InputLimits::STANDARD,
            long_text: LongTokens::Truncate,
            batch_tokens_max: self.batch_tokens_max,
            reference_s: Some(NOW_S),
            precision: self.precision,
            device_slots: true,
            own_forms: true,
        }
    }

    /// A warm pipeline, and what becoming warm took.
    ///
    /// # Errors
    /// What opening and warming say.
    pub fn warm(&self, driver: &dyn Driver) -> Outcome<(PipelineCore, Json)> {
        self.warm_with(driver, ModelId::iter().collect())
    }

    pub(crate) fn warm_with(
        &self,
        driver: &dyn Driver,
        models: Vec<ModelId>,
    ) -> Outcome<(PipelineCore, Json)> {
        let watch = Stopwatch::start();
        let counters = Arc::new(Counters::new());
        let options = StoreOptions {
            folder: Some(self.cache.clone()),
            layers: Vec::new(),
            disk_bytes_max: DISK_BYTES_MAX,
            memory_bytes_max: MEMORY_BYTES_MAX,
            lock_wait_max: Duration::from_secs(5),
        };
        let store = Arc::new(ArtifactStore::open(options, counters.clone(), Arc::new(Null)));
        let device = driver.open(0)?;
        let open_ns = watch.elapsed_ns();
        let log = Arc::new(Log::default());
        let build = Build::new(device, self.quota_bytes, counters.clone(), log.clone());
        let core = PipelineCore::open(build.with_artifacts(store), self.options(models))?;
        let files_ns = watch.elapsed_ns() - open_ns;
        let (core, report) = core.warm()?;
        let (memory, weights) = (core.programs().memory(), core.programs().weights());
        let done = counters.snapshot();
        let about = json!({
            "what": "ready", "wall_ns": watch.elapsed_ns(), "device_ns": open_ns,
            "files_ns": files_ns, "graphs_ns": report.graphs_ns,
            "plans_ns": report.build.plans_ns, "code_ns": report.build.code_ns,
            "memory_ns": report.build.memory_ns, "weights_ns": report.build.weights_ns,
            "prepare_ns": report.build.prepare_ns, "check_ns": report.check_ns,
            "programs": report.program_count, "steps": report.step_count,
            "loads_ns": loads_ns(&log), "weights_read_bytes": weights.read_bytes,
            "weights_waited_ns": weights.waited_ns, "weights_written_ns": weights.written_ns,
            "compiles": done.get(Plain::Compiles), "loads": done.get(Plain::Loads),
            "weights_bytes": memory.weights_bytes, "arena_bytes": memory.arena_bytes,
            "boundary_bytes": memory.boundary_bytes,
        });
        Ok((core, about))
    }
}

/// How many modules were loaded, and how long that took, by the first word of what they are.
fn loads_ns(log: &Log) -> Json {
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for record in log.records() {
        if let Event::ModuleLoaded { kernel, wall_ns, .. } = record.event {
            let name = kernel.text();
            let name = name.split(|it: char| !it.is_alphanumeric() && it != '_').next();
            let sum = sums.entry(name.unwrap_or("").to_owned()).or_default();
            *sum = (sum.0 + 1, sum.1 + wall_ns);
        }
    }
    json!(sums)
}

/// Texts that are all different, each of about so many tokens for the first tower.
#[derive(Debug)]
pub(crate) struct Texts {
    pub(crate) seed: u64,
}

impl Texts {
    pub(crate) fn number(&mut self) -> u64 {
        // A step of SplitMix64.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A text of `words` words.
    pub(crate) fn text(&mut self, words: usize) -> Outcome<ModelInput> {
        const WORDS: [&str; 24] = [
            "the", "river", "heat", "of", "a", "machine", "and", "its", "memory", "is", "never",
            "cold", "water", "under", "light", "stone", "in", "winter", "people", "walk", "to",
            "work", "with", "time",
        ];
        let mut text = String::new();
        for _ in 0..words {
            let at = (self.number() % WORDS.len() as u64) as usize;
            text.push_str(WORDS[at]);
            text.push(' ');
        }
        Ok(ModelInput::text(text)?)
    }
}

/// Words of a text that has about so many tokens for the first tower.
pub(crate) fn words_for(core: &PipelineCore, tokens: usize) -> Outcome<usize> {
    let (mut few, mut enough) = (1, tokens);
    while few < enough {
        let words = few.midpoint(enough);
        let input = Texts { seed: 1 }.text(words)?;
        let counts = core.prepare_batch(&[input], NOW_S).token_counts();
        if tokens <= counts.first().copied().unwrap_or(0) {
            enough = words;
        } else {
            few = words + 1;
        }
    }
    Ok(enough)
}

/// Samples of one size: preparing and running apart, in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    prepare_ns: Vec<u64>,
    pub(crate) run_ns: Vec<u64>,
    token_counts: Vec<usize>,
}

pub(crate) fn sample(
    core: &mut PipelineCore,
    texts: &mut Texts,
    [items, words, runs]: [usize; 3],
) -> Outcome<Samples> {
    let mut samples = Samples::default();
    for _ in 0..runs {
        let inputs = (0..items).map(|_| texts.text(words)).collect::<Outcome<Vec<_>>>()?;
        let watch = Stopwatch::start();
        let prepared = core.prepare_batch(&inputs, NOW_S);
        samples.prepare_ns.push(watch.elapsed_ns());
        samples.token_counts = prepared.token_counts();
        let watch = Stopwatch::start();
        let outputs = core.run_batch(prepared)?;
        samples.run_ns.push(watch.elapsed_ns());
        for output in outputs {
            let output = output?;
            // With some of the models there is nothing to fuse; then the first one's slot counts.
            let first = core.loaded().next().and_then(|it| output.embeddings.get(it));
            let vector = match &output.fused {
                Some(fused) => &fused.vector[..],
                None => first.map_or(&[][..], |it| &it.vector),
            };
            if !vector.iter().any(|it| *it != 0.0) {
                return Err("a vector of zeros".into());
            }
        }
    }
    Ok(samples)
}

/// The middle of some samples, without the first of them.
pub(crate) fn median(samples: &[u64], skip: usize) -> u64 {
    let mut later: Vec<u64> = samples.iter().skip(skip).copied().collect();
    later.sort_unstable();
    later.get(later.len() / 2).copied().unwrap_or(0)
}

/// Sizes that are measured: items, tokens, runs.
const SIZES: [[usize; 3]; 14] = [
    [1, 32, 300],
    [1, 8, 100],
    [1, 64, 100],
    [1, 128, 100],
    [1, 256, 60],
    [1, 512, 60],
    [2, 32, 100],
    [4, 32, 100],
    [2, 128, 60],
    [4, 128, 60],
    [8, 128, 40],
    [16, 128, 40],
    [32, 128, 40],
    [64, 128, 20],
];

/// Makes a warm pipeline and measures it. Each line of `record` is an object of JSON.
///
/// # Errors
/// What the pipeline says.
pub fn measure(
    driver: &dyn Driver,
    files: &PipelineFiles,
    out: &mut dyn Write,
    record: &mut dyn Write,
) -> Outcome<()> {
    let (mut core, ready) = files.warm(driver)?;
    writeln!(record, "{ready}")?;
    write_ready(out, &ready)?;
    let mut texts = Texts { seed: 7 };
    let before = core.programs().counters().snapshot();
    for own_forms in [false, true] {
        core.set_own_forms(own_forms);
        writeln!(
            out,
            "items x tokens   first us  median us  items/s  tokenizing us  (own forms: {own_forms})"
        )?;
        for [items, tokens, runs] in SIZES {
            let words = words_for(&core, tokens)?;
            let samples = sample(&mut core, &mut texts, [items, words, runs])?;
            let run_ns = median(&samples.run_ns, 5) as f64;
            writeln!(
                out,
                "{:>5} x {:<6} {:>11.1} {:>10.1} {:>8.0} {:>14.1}  tokens {:?}, last {:?}",
                items,
                tokens,
                samples.run_ns[0] as f64 / 1e3,
                run_ns / 1e3,
                items as f64 / run_ns * 1e9,
                median(&samples.prepare_ns, 5) as f64 / 1e3,
                samples.token_counts,
                core.last_group(),
            )?;
            let line = json!({
                "what": "request", "items": items, "tokens": tokens, "own_forms": own_forms,
                "token_counts": samples.token_counts, "run_ns": samples.run_ns,
                "prepare_ns": samples.prepare_ns,
            });
            writeln!(record, "{line}")?;
        }
    }
    let change = core.programs().counters().snapshot().since(&before);
    for counter in BUILDING {
        if change.get(counter) != 0 {
            return Err(format!("{counter:?} after the seal: {}", change.get(counter)).into());
        }
    }
    writeln!(out, "nothing was planned, compiled, loaded, allocated or prepared after the seal")?;
    Ok(())
}

/// Times of the steps of one request of each of some sizes, by program in the order of their runs.
/// The driver's device was opened with `profile`, so programs run step by step.
///
/// # Errors
/// What the pipeline says.
pub fn steps(
    driver: &dyn Driver,
    profile: &calor_device::Profile,
    files: &PipelineFiles,
    out: &mut dyn Write,
) -> Outcome<()> {
    let (mut core, _) = files.warm(driver)?;
    let mut texts = Texts { seed: 7 };
    for [items, tokens] in [[1, 32], [32, 128]] {
        let words = words_for(&core, tokens)?;
        profile.take();
        sample(&mut core, &mut texts, [items, words, 3])?;
        let us = |run: &calor_device::TimedRun| run.steps.iter().map(|it| it.1).sum::<u64>() / 1000;
        let sums: Vec<u64> = profile.take().iter().map(us).collect();
        writeln!(out, "three requests of {items} x {tokens}, us of each program: {sums:?}")?;
        sample(&mut core, &mut texts, [items, words, 1])?;
        for (index, run) in profile.take().iter().enumerate() {
            let what = format!("{items} x {tokens}, program {index}");
            let steps: Vec<(&str, u64)> = run.steps.iter().map(|it| (&*it.0, it.1)).collect();
            bench::write_steps(out, &what, &steps)?;
        }
    }
    Ok(())
}

fn write_ready(out: &mut dyn Write, ready: &Json) -> std::io::Result<()> {
    let ms = |name: &str| ready[name].as_u64().unwrap_or(0) as f64 / 1e6;
    writeln!(
        out,
        "ready in {:.0} ms: device {:.0}, files {:.0}, graphs {:.0}, plans {:.0}, code {:.0}, \
         memory {:.0}, weights {:.0}, prepare {:.0}, check {:.0}; {} programs of {} steps, {} \
         compiled, {} loaded; {} bytes of weights, {} of arenas; loads {}",
        ms("wall_ns"),
        ms("device_ns"),
        ms("files_ns"),
        ms("graphs_ns"),
        ms("plans_ns"),
        ms("code_ns"),
        ms("memory_ns"),
        ms("weights_ns"),
        ms("prepare_ns"),
        ms("check_ns"),
        ready["programs"],
        ready["steps"],
        ready["compiles"],
        ready["loads"],
        ready["weights_bytes"],
        ready["arena_bytes"],
        ready["loads_ns"],
    )
}

/// Bytes of the process in memory, where the system tells.
pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
    let kib = line.and_then(|it| it.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// A folder for a pipeline's files that are made for a run.
pub fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(Path::new(name))
}
