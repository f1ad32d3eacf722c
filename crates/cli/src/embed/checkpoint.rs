//! One checkpoint by itself, as the run's engine.

use std::{num::NonZeroUsize, path::Path};

use calor_device::{Profile, Signature};
use calor_embed::{
    CheckpointEmbedder, EmbedItem, EmbedOutput, EmbedderOptions, EmbeddingError, EmbeddingResult,
    InferencePrecision, PoolingChoice, Programs, embedder::Embedded, input::Role,
    tokenizer::LongTokens,
};
use calor_runtime::Build;
use serde_json::{Map, Value as Json, json};

use super::{Engine, Made, table::Table};
use crate::{
    arguments::{
        CheckpointArguments, EmbedArguments, PoolWord, PrecisionWord, RunArguments, TooLong,
    },
    cache::open_store,
    devices,
    environment::Environment,
    exit::Failure,
    input::Content,
    output::{Cell, Column, ColumnKind},
    recording::Recording,
};

/// A checkpoint at work.
pub(super) struct CheckpointEngine {
    embedder: CheckpointEmbedder,
    columns: Vec<Column>,
    about: Map<String, Json>,
}

/// Opens a checkpoint with the user's choices.
///
/// # Errors
/// When it cannot be read or the device is not there.
pub(crate) fn open_embedder(
    dir: &Path,
    choices: Option<&CheckpointArguments>,
    run: &RunArguments,
    long_text: LongTokens,
    environment: &Environment,
    recording: &Recording,
) -> Result<CheckpointEmbedder, Failure> {
    let build = open_build(run, environment, recording)?;
    let precision = precision(run.precision, build.signature());
    let pooling = choices.and_then(|it| it.pool).map(|it| match it {
        PoolWord::Mean => PoolingChoice::Mean,
        PoolWord::First => PoolingChoice::First,
        PoolWord::Last => PoolingChoice::Last,
        PoolWord::Eos => PoolingChoice::Eos,
        PoolWord::Max => PoolingChoice::Max,
        PoolWord::Splade => PoolingChoice::Splade,
        PoolWord::None => PoolingChoice::None,
    });
    let options = EmbedderOptions {
        pooling,
        normalize: choices.and_then(|it| it.normalize),
        sequence_tokens_max: choices.and_then(|it| it.max_tokens).map(NonZeroUsize::get),
        long_text,
        batch_tokens_max: run.batch_tokens,
        thread_count: threads(run),
        role: Role::Passage,
        precision,
    };
    Ok(CheckpointEmbedder::open(build, dir, options)?)
}

/// The right to build on the device that the user asked for.
///
/// # Errors
/// When it is not there.
pub(crate) fn open_build(
    run: &RunArguments,
    environment: &Environment,
    recording: &Recording,
) -> Result<Build, Failure> {
    let memory_bytes = run.memory.map(|it| it.saturating_mul(1 << 20));
    let profile = recording.times_steps().then(Profile::new);
    let (wish, threads) = (&run.device, threads(run).get());
    let device = devices::open(wish, threads, memory_bytes, environment, profile.as_ref())?;
    recording.opened(&device.signature);
    let quota_bytes = device.signature.memory_bytes;
    let (counters, recorder) = (recording.counters.clone(), recording.recorder());
    let store = open_store(&run.keep, environment, counters.clone(), recorder.clone())?;
    // Memory that is not the host's lies behind a bus.
    let is_remote = device.signature.kind != devices::Kind::Cpu.name();
    let build = Build::new(device, quota_bytes, counters, recorder).with_artifacts(store);
    let build = if is_remote { build.proving_weights() } else { build };
    Ok(match profile {
        Some(profile) => build.timing_steps(profile),
        None => build,
    })
}

/// The precision as asked for, else what the device does best. FP16 is never chosen for anyone:
/// there are models whose numbers it does not hold.
pub(super) fn precision(word: PrecisionWord, device: &Signature) -> InferencePrecision {
    match word {
        PrecisionWord::Auto => match InferencePrecision::detect_optimal(device) {
            InferencePrecision::FP16 => InferencePrecision::FP32,
            best => best,
        },
        PrecisionWord::F32 => InferencePrecision::FP32,
        PrecisionWord::Tf32 => InferencePrecision::TF32,
        PrecisionWord::Bf16 => InferencePrecision::BF16,
        PrecisionWord::F16 => InferencePrecision::FP16,
        PrecisionWord::Fp8 => InferencePrecision::FP8,
        PrecisionWord::Int8 => InferencePrecision::INT8,
    }
}

/// What a report says of the machine.
pub(super) fn about_machine(programs: &Programs, about: &mut Map<String, Json>) {
    let device = programs.signature();
    about.insert("device".into(), device.kind.into());
    about.insert("device_model".into(), device.model.clone().into());
    about.insert("memory_bytes".into(), programs.memory().total_bytes().into());
    let weights = programs.weights();
    if weights.read_bytes > 0 {
        let seconds = weights.wall_ns as f64 / 1e9;
        let road = match (device.kind == devices::Kind::Cpu.name(), weights.direct_bytes) {
            (true, _) => "read by threads, copied",
            (false, 0) => "read by threads, copied through pinned memory",
            (false, _) => "read by the GPU, the rest copied through pinned memory",
        };
        let weights = json!({
            "read_bytes": weights.read_bytes,
            "checked_bytes": weights.checked_bytes,
            "proven_bytes": weights.proven_bytes,
            "direct_bytes": weights.direct_bytes,
            "wall_ns": weights.wall_ns,
            "gigabytes_per_s": weights.read_bytes as f64 / 1e9 / seconds,
            "road": road,
        });
        about.insert("weights".into(), weights);
    }
}

/// Threads as asked for, else one for each processor.
pub(super) fn threads(run: &RunArguments) -> NonZeroUsize {
    let all = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    run.threads.unwrap_or_else(all)
}

/// What becomes of texts with more tokens than a model takes.
pub(super) fn long_tokens(word: TooLong) -> LongTokens {
    match word {
        TooLong::Truncate => LongTokens::Truncate,
        TooLong::Refuse => LongTokens::Refuse,
    }
}

impl CheckpointEngine {
    pub(super) fn open(
        arguments: &EmbedArguments,
        run: &RunArguments,
        environment: &Environment,
        recording: &Recording,
    ) -> Result<Self, Failure> {
        let choices = &arguments.checkpoint;
        let dir = choices.checkpoint.clone().unwrap_or_default();
        let long_text = long_tokens(arguments.inputs.on_too_long);
        let embedder = open_embedder(&dir, Some(choices), run, long_text, environment, recording)?;
        let model = dir.canonicalize().unwrap_or(dir);
        let model = model
            .file_name()
            .map_or_else(|| model.display().to_string(), |it| it.to_string_lossy().into_owned());
        let mut about = Map::new();
        about.insert("model".into(), model.into());
        about.insert("pooling".into(), format!("{:?}", embedder.pooling()).to_lowercase().into());
        about.insert("precision".into(), embedder.options().precision.word().into());
        about.insert("thread_count".into(), threads(run).get().into());
        about.insert("untrained".into(), json!([]));
        let columns = vec![Column { name: NAME.into(), kind: ColumnKind::Dense { len: 0 } }];
        Ok(Self { embedder, columns, about })
    }

    fn made(&mut self, embedded: Embedded) -> Made {
        let Embedded { output, cut, token_count } = embedded;
        let truncated = cut.is_some();
        let mut details = Map::new();
        details.insert("model".into(), self.about["model"].clone());
        details.insert("token_count".into(), token_count.into());
        let (name, kind, cell, table) = match output {
            EmbedOutput::Vector(vector) => {
                let kind = ColumnKind::Dense { len: vector.len() };
                let table = Table::vector(&vector, token_count);
                (NAME, kind, Cell::Dense(vector), table)
            }
            EmbedOutput::Tokens(matrix) => {
                let kind = ColumnKind::Tokens { dim: matrix.dimension() };
                let table = Table::tokens(&matrix);
                ("tokens", kind, Cell::Tokens(matrix), table)
            }
        };
        self.columns = vec![Column { name: name.into(), kind }];
        Made { cells: vec![cell], details, table, truncated, cut, token_count }
    }
}

/// The column of vectors.
const NAME: &str = "embedding";

impl Engine for CheckpointEngine {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn embed(&mut self, items: &[&Content]) -> Result<Vec<EmbeddingResult<Made>>, Failure> {
        let mut given = Vec::with_capacity(items.len());
        let mut refused = Vec::with_capacity(items.len());
        for item in items {
            let item = match item {
                Content::Text { instruction: Some(it), .. } => Err(EmbeddingError::ConfigError {
                    field: "instruction",
                    value: it.clone(),
                    want: "a checkpoint by itself takes none",
                }),
                Content::Text { text, .. } | Content::Code { text, .. } => {
                    Ok(EmbedItem::Text(text.clone()))
                }
                Content::Ids(ids) => Ok(EmbedItem::Ids(ids.clone())),
                Content::Image { bytes, format } => Ok(EmbedItem::Image(bytes.clone(), *format)),
            };
            match item {
                Ok(item) => {
                    given.push(item);
                    refused.push(None);
                }
                Err(err) => refused.push(Some(err)),
            }
        }
        let mut results = self.embedder.embed(&given)?.into_iter();
        let lost = || EmbeddingError::InternalError { place: "checkpoint run", source: None };
        Ok(refused
            .into_iter()
            .map(|it| match it {
                Some(err) => Err(err),
                None => results.next().unwrap_or_else(|| Err(lost())).map(|it| self.made(it)),
            })
            .collect())
    }

    fn describe(&self) -> Map<String, Json> {
        let mut about = self.about.clone();
        about_machine(self.embedder.programs(), &mut about);
        about
    }
}
