//! The command line.

use std::error::Error;
use std::path::PathBuf;

/// Checks at once where nothing is said: most of a check is the oracle's work on one thread.
const JOBS_MAX: usize = 12;

/// What the command line says.
#[derive(Default)]
pub(crate) struct Arguments {
    pub(crate) golden: PathBuf,
    pub(crate) cache: PathBuf,
    pub(crate) bench: bool,
    pub(crate) pipeline: bool,
    pub(crate) parity: Option<PathBuf>,
    pub(crate) soak: Option<usize>,
    pub(crate) requests: Option<usize>,
    pub(crate) first: Option<usize>,
    pub(crate) once: bool,
    pub(crate) by_models: bool,
    pub(crate) idle: Option<usize>,
    pub(crate) models: PathBuf,
    pub(crate) tiny: bool,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) precision: Option<String>,
    pub(crate) parts: bool,
    pub(crate) gemm_rate: bool,
    pub(crate) json: Option<PathBuf>,
    pub(crate) revision: String,
    pub(crate) steps: bool,
    pub(crate) sealed: bool,
    pub(crate) plant: bool,
    pub(crate) jobs: usize,
    pub(crate) eager: bool,
    pub(crate) without_library: bool,
    pub(crate) without_hopper: bool,
    pub(crate) without_fp8: bool,
    pub(crate) libraries: Vec<PathBuf>,
    pub(crate) weights: Option<PathBuf>,
    pub(crate) make: bool,
    pub(crate) arm: Option<String>,
    pub(crate) samples: usize,
    pub(crate) suite: Option<PathBuf>,
    pub(crate) output: PathBuf,
    pub(crate) python: String,
    pub(crate) names: Vec<String>,
}

pub(crate) fn arguments() -> Result<Arguments, Box<dyn Error + Send + Sync>> {
    let mut found = Arguments {
        golden: "golden".into(),
        cache: std::env::temp_dir().join("calor-suite-cache"),
        samples: 50,
        output: "package".into(),
        python: "python3".into(),
        models: std::env::temp_dir().join("calor-suite-models"),
        jobs: std::thread::available_parallelism().map_or(1, usize::from).min(JOBS_MAX),
        ..Arguments::default()
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut next = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--golden" => found.golden = next()?.into(),
            "--json" => found.json = Some(next()?.into()),
            "--revision" => found.revision = next()?,
            "--cache-dir" => found.cache = next()?.into(),
            "--libraries" => found.libraries.push(next()?.into()),
            "--pipeline" => found.pipeline = true,
            "--parity" => found.parity = Some(next()?.into()),
            "--soak" => found.soak = Some(next()?.parse()?),
            "--requests" => found.requests = Some(next()?.parse()?),
            "--first" => found.first = Some(next()?.parse()?),
            "--once" => found.once = true,
            "--by-models" => found.by_models = true,
            "--idle" => found.idle = Some(next()?.parse()?),
            "--models" => found.models = next()?.into(),
            "--tiny" => found.tiny = true,
            "--memory" => found.memory_bytes = Some(next()?.parse()?),
            "--precision" => found.precision = Some(next()?),
            "--weights" => found.weights = Some(next()?.into()),
            "--make" => found.make = true,
            "--arm" => found.arm = Some(next()?),
            "--samples" => found.samples = next()?.parse()?,
            "--run-suite" => found.suite = Some(next()?.into()),
            "--output" => found.output = next()?.into(),
            "--python" => found.python = next()?,
            "--steps" => found.steps = true,
            "--sealed" => found.sealed = true,
            "--plant" => found.plant = true,
            "--bench" => found.bench = true,
            "--parts" => found.parts = true,
            "--gemm-rate" => found.gemm_rate = true,
            "--jobs" => found.jobs = next()?.parse()?,
            "--eager" => found.eager = true,
            "--without-library" => found.without_library = true,
            "--without-hopper" => found.without_hopper = true,
            "--without-fp8" => found.without_fp8 = true,
            name => found.names.push(name.to_owned()),
        }
    }
    Ok(found)
}
