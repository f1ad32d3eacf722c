//! What a pipeline is made of, found once: models, their folders, and files of our own.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use calor_device::Signature;
use calor_embed::{
    InferencePrecision, ModelId, PipelineOptions, Profile,
    embedding::MissingModels,
    input::{InputLimits, LongText, NulByte},
    tokenizer::LongTokens,
};
use calor_telemetry::Recorder;
use calor_weights::{Dtype, SYNTH_MODELS, SynthModel, SynthOptions, SynthProfile, synth};

use super::checkpoint::precision;
use crate::{
    arguments::{PrecisionWord, RunArguments},
    devices,
    environment::Environment,
    exit::Failure,
    models,
    progress::FileBars,
};

/// E6's projection below the store.
const PROJECTION_FILE: &str = "projection-sparse.safetensors";

/// Everything about a pipeline but its device.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    profile: Profile,
    models: Vec<ModelId>,
    checkpoints: HashMap<String, PathBuf>,
    derived: PathBuf,
    allow_partial: bool,
    batch_tokens: usize,
    reference_s: Option<i64>,
    precision: PrecisionWord,
    /// Where each checkpoint came from.
    pub(crate) sources: Vec<String>,
}

impl Recipe {
    /// The models that a command line names, in slot order; all if it names none.
    pub(crate) fn models(run: &RunArguments) -> Vec<ModelId> {
        ModelId::iter().filter(|it| run.models.is_empty() || run.models.contains(it)).collect()
    }

    /// Finds everything; what is not there is pulled.
    ///
    /// # Errors
    /// When a checkpoint is nowhere.
    pub(crate) fn of(
        run: &RunArguments,
        environment: &Environment,
        recorder: &dyn Recorder,
        quiet: bool,
    ) -> Result<Self, Failure> {
        let models = Self::models(run);
        let (checkpoints, sources) = checkpoints(run, &models, environment, recorder, quiet)?;
        Ok(Self {
            profile: run.profile,
            models,
            checkpoints,
            derived: environment.root()?.join("derived"),
            allow_partial: run.allow_partial,
            batch_tokens: run.batch_tokens,
            reference_s: run.reference_time,
            precision: run.precision,
            sources,
        })
    }

    /// As a pipeline on this device takes it; long texts are cut, own forms are handed out.
    pub(crate) fn options(&self, device: &Signature) -> PipelineOptions {
        // A processor finishes the sparse slot from its few terms; elsewhere nothing leaves early.
        let device_slots = device.kind != devices::Kind::Cpu.name();
        let derived = |file: &str| -> PathBuf { Path::new(&self.derived).join(file) };
        let precision: InferencePrecision = precision(self.precision, device);
        PipelineOptions {
            profile: self.profile,
            models: self.models.clone(),
            checkpoints: self.checkpoints.clone(),
            fusion_file: derived(&format!("fusion-{}.safetensors", self.profile.name())),
            projection_file: device_slots.then(|| derived(PROJECTION_FILE)),
            missing: match self.allow_partial {
                true => MissingModels::AllowPartial,
                false => MissingModels::Refuse,
            },
            limits: InputLimits {
                text_bytes_max: usize::MAX,
                media_bytes_max: usize::MAX,
                long_text: LongText::Refuse,
                nul: NulByte::Refuse,
            },
            long_text: LongTokens::Truncate,
            batch_tokens_max: self.batch_tokens,
            reference_s: self.reference_s,
            precision,
            device_slots,
            own_forms: true,
        }
    }
}

type Places = (HashMap<String, PathBuf>, Vec<String>);

/// The folder of each checkpoint, and where it came from.
fn checkpoints(
    run: &RunArguments,
    wanted: &[ModelId],
    environment: &Environment,
    recorder: &dyn Recorder,
    quiet: bool,
) -> Result<Places, Failure> {
    let mut dirs = HashMap::new();
    let mut sources = Vec::new();
    let random = match run.profile {
        Profile::Random if run.models_dir.is_none() => Some(random_models(environment, quiet)?),
        Profile::Random | Profile::Mini | Profile::Full => None,
    };
    for need in run.profile.needs(wanted) {
        let dir = match run.models_dir.as_ref().or(random.as_ref()) {
            Some(root) => {
                sources.push(format!("{} from a folder", need.name));
                root.join(need.name)
            }
            None => {
                let dir = models::ensure(environment, &need, recorder, quiet)?;
                let manifest = environment.store()?.manifest(need.name, models::REVISION)?;
                let (name, revision) = (manifest.name, manifest.revision);
                sources.push(format!("{name}@{revision} from {}", manifest.source));
                dir
            }
        };
        dirs.insert(need.name.to_owned(), dir);
    }
    Ok((dirs, sources))
}

/// Tiny seeded checkpoints below the store; written once.
fn random_models(environment: &Environment, quiet: bool) -> Result<PathBuf, Failure> {
    let dir = environment.root()?.join("synth").join("tiny-seed0");
    let models: Vec<&SynthModel> =
        SYNTH_MODELS.iter().filter(|it| !dir.join(it.name).is_dir()).collect();
    if !models.is_empty() {
        let options = SynthOptions {
            profile: SynthProfile::Tiny,
            seed: 0,
            dtype: Dtype::F32,
            models: &models,
        };
        std::fs::create_dir_all(&dir)
            .map_err(|err| calor_weights::WeightsError::io("create", &dir, err))?;
        synth(&options, &dir, &mut FileBars::new(quiet))?;
    }
    Ok(dir)
}
