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
    profile::Need,
    tokenizer::LongTokens,
};
use calor_telemetry::Recorder;
use calor_weights::{Dtype, SYNTH_MODELS, SynthModel, SynthOptions, SynthProfile, synth};

use super::checkpoint::precision;
use crate::{
    arguments::{PrecisionWord, RunArguments},
    devices,
    environment::Environment,
    exit::{Exit, Failure},
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
    found: Found,
    derived: PathBuf,
    allow_partial: bool,
    batch_tokens: usize,
    reference_s: Option<i64>,
    precision: PrecisionWord,
}

/// Where checkpoints are, by name.
#[derive(Clone, Debug, Default)]
struct Found {
    dirs: HashMap<String, PathBuf>,
    /// Where each came from.
    sources: Vec<String>,
    /// Why the others are not there.
    absent: HashMap<String, String>,
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
        Self::within(run, false, environment, recorder, quiet)
    }

    /// As [`Recipe::of`]. With `allows_loss` a checkpoint that is nowhere has its reason instead.
    ///
    /// # Errors
    /// As there, and when the user stops it.
    pub(crate) fn within(
        run: &RunArguments,
        allows_loss: bool,
        environment: &Environment,
        recorder: &dyn Recorder,
        quiet: bool,
    ) -> Result<Self, Failure> {
        let models = Self::models(run);
        let found = Found::of(run, &models, allows_loss, environment, recorder, quiet)?;
        Ok(Self {
            profile: run.profile,
            models,
            found,
            derived: environment.root()?.join("derived"),
            allow_partial: run.allow_partial,
            batch_tokens: run.batch_tokens,
            reference_s: run.reference_time,
            precision: run.precision,
        })
    }

    /// Where each checkpoint came from.
    pub(crate) fn sources(&self) -> &[String] {
        &self.found.sources
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
            checkpoints: self.found.dirs.clone(),
            absent: self.found.absent.clone(),
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

impl Found {
    fn of(
        run: &RunArguments,
        wanted: &[ModelId],
        allows_loss: bool,
        environment: &Environment,
        recorder: &dyn Recorder,
        quiet: bool,
    ) -> Result<Self, Failure> {
        let mut found = Self::default();
        let random = match run.profile {
            Profile::Random if run.models_dir.is_none() => Some(random_models(environment, quiet)?),
            Profile::Random | Profile::Mini | Profile::Full => None,
        };
        for need in run.profile.needs(wanted) {
            let (name, dir) = (need.name, run.models_dir.as_ref().or(random.as_ref()));
            let place = match dir {
                Some(root) => Ok((root.join(name), format!("{name} from a folder"))),
                None => stored(environment, &need, recorder, quiet),
            };
            match place {
                Ok((dir, source)) => {
                    found.dirs.insert(name.to_owned(), dir);
                    found.sources.push(source);
                }
                Err(failure) if allows_loss && failure.exit != Exit::Interrupted => {
                    found.absent.insert(name.to_owned(), failure.reason());
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(found)
    }
}

/// The folder of a checkpoint in the store, and where it came from.
fn stored(
    environment: &Environment,
    need: &Need,
    recorder: &dyn Recorder,
    quiet: bool,
) -> Result<(PathBuf, String), Failure> {
    let dir = models::ensure(environment, need, recorder, quiet)?;
    let manifest = environment.store()?.manifest(need.name, models::REVISION)?;
    let (name, revision) = (manifest.name, manifest.revision);
    Ok((dir, format!("{name}@{revision} from {}", manifest.source)))
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
