//! Opening a pipeline, and loading and unloading its models.

use std::collections::BTreeSet;
use std::sync::Arc;

use calor_runtime::{Build, LaneId};

use super::front::Kins;
use super::revision;
use super::{
    GroupTimes, HDC_SEED_DEFAULT, LostModels, PipelineCore, PipelineFront, PipelineOptions,
};
use crate::embedding::MissingModels;
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::fuser::FuseMoE;
use crate::fusion::FUSION_SEED_DEFAULT;
use crate::hdc::{HdcEncoder, HdcMode};
use crate::model_id::ModelId;
use crate::profile::Need;
use crate::programs::Programs;
use crate::slots::{HostSide, NeuralModel};
use crate::tower::device_error;

impl PipelineCore {
    /// Opens the fusion and loads every model that the options name. Programs are built when
    /// they are first needed.
    ///
    /// # Errors
    /// [`EmbeddingError::ModelLoadError`] and its kin for the first model that cannot be opened,
    /// [`EmbeddingError::ConfigError`] for a checkpoint without a directory.
    pub fn open(build: Build, options: PipelineOptions) -> EmbeddingResult<Self> {
        let fuses = fuses(&options);
        let (core, lost) = Self::opened(build, options, fuses)?;
        lost.into_iter().next().map_or(Ok(core), |it| Err(it.source))
    }

    /// As [`PipelineCore::open`], but a checkpoint that does not open is lost, and the others are
    /// there without it.
    ///
    /// # Errors
    /// What is no single checkpoint's fault, and the first one's when none is left.
    pub fn open_each(
        build: Build,
        options: PipelineOptions,
    ) -> EmbeddingResult<(Self, Vec<LostModels>)> {
        let fuses = fuses(&options);
        let (core, mut lost) = Self::opened(build, options, fuses)?;
        if core.loaded.is_empty() && !lost.is_empty() {
            return Err(lost.swap_remove(0).source);
        }
        Ok((core, lost))
    }

    /// With the fusion or without.
    pub(super) fn opened(
        build: Build,
        options: PipelineOptions,
        fuses: bool,
    ) -> EmbeddingResult<(Self, Vec<LostModels>)> {
        let mut core = Self::unopened(build, options)?;
        let revision = revision::of(&core.options, core.programs.signature());
        let (lane, options) = (core.lane, &core.options);
        let needs = options.profile.needs(&options.models);
        // Checkpoints wait neither for each other's files and tokenizers nor for the fusion's
        // digest.
        let (opened, fusion) = std::thread::scope(|scope| {
            let open = |need: &Need| {
                let need = *need;
                scope.spawn(move || NeuralModel::open(lane, need, options))
            };
            let threads: Vec<_> = needs.iter().map(open).collect();
            let fusion = fuses.then(|| open_fusion(options, lane)).transpose();
            let lost = || EmbeddingError::InternalError { place: "opening", source: None };
            let opened: Vec<EmbeddingResult<NeuralModel>> =
                threads.into_iter().map(|it| it.join().unwrap_or_else(|_| Err(lost()))).collect();
            (opened, fusion)
        });
        core.loaded = core.options.models.iter().copied().collect();
        let mut lost = Vec::new();
        for (need, opened) in needs.iter().zip(opened) {
            match opened {
                Ok(model) => core.neural.push(model),
                Err(source) => {
                    let own = |it: &&ModelId| core.loaded.contains(it);
                    let model_ids: Vec<ModelId> = need.models.iter().filter(own).copied().collect();
                    core.loaded.retain(|it| !model_ids.contains(it));
                    lost.push(LostModels { model_ids, source });
                }
            }
        }
        core.fusion = match core.options.missing {
            // Nothing will be fused.
            MissingModels::Refuse if !lost.is_empty() => None,
            MissingModels::Refuse | MissingModels::AllowPartial => fusion?,
        };
        core.renew_front();
        core.revision = revision.filter(|_| lost.is_empty());
        Ok((core, lost))
    }

    /// Opens the fusion and no model yet: [`PipelineCore::load`] does that, one by one.
    ///
    /// # Errors
    /// When the fusion's weights cannot be read or made, and
    /// [`EmbeddingError::PrecisionRefused`] for a precision that the device does not run in.
    pub fn unloaded(build: Build, options: PipelineOptions) -> EmbeddingResult<Self> {
        let mut core = Self::unopened(build, options)?;
        if fuses(&core.options) {
            core.fusion = Some(open_fusion(&core.options, core.lane)?);
        }
        Ok(core)
    }

    /// Without any file.
    fn unopened(mut build: Build, options: PipelineOptions) -> EmbeddingResult<Self> {
        options.precision.check_device(&build)?;
        let lane = build.lane();
        let hdc = HdcEncoder::new(HDC_SEED_DEFAULT, HdcMode::Positional)?;
        let front = PipelineFront::of(&options, Arc::new(hdc));
        Ok(Self {
            programs: Programs::Open(build),
            forms: None,
            times: GroupTimes::default(),
            lane,
            options,
            neural: Vec::new(),
            loaded: BTreeSet::new(),
            fusion: None,
            is_part: false,
            front: Arc::new(front),
            revision: None,
        })
    }

    /// Makes the front anew, after whatever it depends on has changed.
    pub(super) fn renew_front(&mut self) {
        let hosts: Vec<Arc<HostSide>> = self.neural.iter().map(|it| it.host().clone()).collect();
        let counters = self.programs.counters();
        hosts.iter().for_each(|it| it.tokenizer().count_in(counters));
        let fusion = self.fusion.as_ref().map(FuseMoE::rows);
        let front = PipelineFront {
            loaded: self.loaded.clone(),
            kins: Kins::of(&hosts),
            hosts,
            revision: self.revision,
            together: self.forms.is_some(),
            fusion,
            ..PipelineFront::of(&self.options, self.front.hdc.clone())
        };
        self.front = Arc::new(front);
    }

    /// Has the buffers wait that programs are going to take, each written once, as far as there is
    /// room; the bytes that wait then. Nothing where all is built.
    ///
    /// # Errors
    /// What the device says.
    pub fn prime_memory(&mut self) -> EmbeddingResult<u64> {
        match &mut self.programs {
            Programs::Open(build) => build.prime_memory().map_err(device_error),
            Programs::Sealed(_) => Ok(0),
        }
    }

    /// Models that answer, in slot order.
    pub fn loaded(&self) -> impl Iterator<Item = ModelId> {
        self.loaded.iter().copied()
    }

    /// Whether the model answers.
    pub fn is_loaded(&self, model_id: ModelId) -> bool {
        self.loaded.contains(&model_id)
    }

    /// Loads a model that the options name. A trunk is opened with the first model that it
    /// serves.
    ///
    /// # Errors
    /// [`EmbeddingError::ModelNotFound`] for a model that the options do not name,
    /// [`EmbeddingError::ModelAlreadyLoaded`], and as [`PipelineCore::open`]. Nothing has changed
    /// then.
    pub fn load(&mut self, model_id: ModelId) -> EmbeddingResult<()> {
        if !self.options.models.contains(&model_id) {
            return Err(EmbeddingError::ModelNotFound { name: model_id.as_str().into() });
        }
        if self.is_loaded(model_id) {
            return Err(EmbeddingError::ModelAlreadyLoaded { model_id });
        }
        for need in self.options.profile.needs(&[model_id]) {
            if self.neural.iter().any(|it| it.name() == need.name) {
                continue;
            }
            self.neural.push(NeuralModel::open(self.lane, need, &self.options)?);
        }
        self.loaded.insert(model_id);
        self.renew_front();
        Ok(())
    }

    /// Unloads a model and gives its memory back. A trunk goes with the last model that it
    /// serves, and the fusion's programs go as soon as nothing can be fused.
    ///
    /// # Errors
    /// [`EmbeddingError::ModelNotLoaded`], and what the device says; the model is unloaded then
    /// all the same.
    pub fn unload(&mut self, model_id: ModelId) -> EmbeddingResult<()> {
        if !self.loaded.remove(&model_id) {
            return Err(EmbeddingError::ModelNotLoaded { model_id });
        }
        self.forms = None;
        self.revision = None;
        let Self { neural, loaded, .. } = self;
        let idle = |it: &mut NeuralModel| !it.models().iter().any(|it| loaded.contains(it));
        let unused: Vec<NeuralModel> = neural.extract_if(.., idle).collect();
        self.renew_front();
        let Self { programs, .. } = self;
        let results: Vec<_> = unused.into_iter().map(|mut it| it.release(programs)).collect();
        let refused = self.options.missing == MissingModels::Refuse;
        if let Some(fusion) = &mut self.fusion
            && (refused || self.loaded.is_empty())
        {
            fusion.release(&mut self.programs)?;
        }
        results.into_iter().collect()
    }

    /// Unloads every model of a checkpoint, and says which were there.
    pub(super) fn unload_checkpoint(&mut self, index: usize) -> EmbeddingResult<Vec<ModelId>> {
        let models = self.neural[index].models().to_vec();
        let own: Vec<ModelId> = models.into_iter().filter(|it| self.is_loaded(*it)).collect();
        own.iter().try_for_each(|it| self.unload(*it))?;
        Ok(own)
    }

    /// Unloads everything.
    ///
    /// # Errors
    /// What the device says.
    pub fn unload_all(&mut self) -> EmbeddingResult<()> {
        let loaded: Vec<ModelId> = self.loaded().collect();
        loaded.into_iter().try_for_each(|it| self.unload(it))
    }

    /// Device bytes of the weights that a model's programs bind; a trunk counts in full for each
    /// model that it serves. Nothing for arithmetic models and before the first run.
    pub fn model_bytes(&self, model_id: ModelId) -> u64 {
        let model = self.neural.iter().find(|it| it.models().contains(&model_id));
        model.filter(|_| self.is_loaded(model_id)).map_or(0, |it| it.weights_bytes(&self.programs))
    }
}

/// Whether something can be fused.
pub(super) fn fuses(options: &PipelineOptions) -> bool {
    let all = ModelId::iter().all(|it| options.models.contains(&it));
    all || options.missing == MissingModels::AllowPartial
}

fn open_fusion(options: &PipelineOptions, lane: LaneId) -> EmbeddingResult<FuseMoE> {
    let config = options.profile.fusion();
    let path = &options.fusion_file;
    if !path.is_file() {
        if let Some(parent) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)
                .map_err(|source| EmbeddingError::IoError { path: parent.into(), source })?;
        }
        config.save_seeded(FUSION_SEED_DEFAULT, path)?;
    }
    FuseMoE::open(config, options.precision, path, lane)
}
