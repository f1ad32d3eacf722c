//! What a server needs of models: to run inputs, and to say what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calor_embed::input::ModelInput;
use calor_embed::tokenizer::{TextTokenizer, TokenLimit};
use calor_embed::{
    EmbeddingError, EmbeddingResult, Layout, ModelId, PipelineCore, PipelineFront, PipelineOutput,
    PlacedPipeline,
    embedding::MissingModels,
    pipeline::{GroupTimes, LostModel, ReadyReport},
};

use crate::options::Target;
use crate::progress::Progress;

/// Models at work, warm: running them builds nothing.
pub trait Engine: Send {
    /// What they are.
    fn about(&self) -> About;

    /// How a model's texts become ids, and how many it takes.
    fn tokenizer(&self, model: ModelId) -> Option<(TextTokenizer, TokenLimit)>;

    /// One result for each input, in their order. A bad input fails alone.
    ///
    /// # Errors
    /// Of the whole batch: what the device says.
    fn run(
        &mut self,
        wanted: &Wanted,
        inputs: &[ModelInput],
        now_s: i64,
    ) -> EmbeddingResult<Vec<EmbeddingResult<PipelineOutput>>>;

    /// What the last run took, where that is known.
    fn times(&self) -> Option<GroupTimes> {
        None
    }

    /// What makes inputs ready before they are queued, where that is apart from the device.
    fn front(&self) -> Option<Arc<PipelineFront>> {
        None
    }

    /// The pipeline itself, where full batches may be prepared and answered beside one that is
    /// computed.
    fn pipeline(&mut self) -> Option<&mut PipelineCore> {
        None
    }
}

/// What is wanted of a batch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// All models and their fusion; E6 and E12 in their own forms as well, or not.
    Fused {
        /// Whether E6 and E12 are wanted in their own forms.
        own_forms: bool,
    },
    /// Some models.
    Models(BTreeSet<ModelId>),
}

impl Wanted {
    /// Whether E6 and E12 are wanted in their own forms.
    fn own_forms(&self) -> bool {
        match self {
            Self::Fused { own_forms } => *own_forms,
            Self::Models(_) => true,
        }
    }
}

impl Wanted {
    /// Everything that one model makes, or all of them.
    pub(crate) fn of(target: Target) -> Self {
        match target {
            Target::Fused => Self::Fused { own_forms: false },
            Target::Model(model) => Self::Models(BTreeSet::from([model])),
        }
    }
}

/// What models there are.
#[derive(Clone, Debug, PartialEq)]
pub struct About {
    /// Name of the profile.
    pub profile: &'static str,
    /// Models that answer, in slot order.
    pub models: Vec<ModelId>,
    /// Whether there is a fused vector.
    pub is_fused: bool,
    /// What becomes of a fused vector when models are not there.
    pub missing: MissingModels,
    /// Precision of the models' products.
    pub precision: &'static str,
    /// Kind of device.
    pub device: &'static str,
    /// Model of the device.
    pub device_model: String,
    /// What no training made.
    pub untrained: &'static [&'static str],
    /// What E2 measures ages against, where that is fixed.
    pub reference_s: Option<i64>,
    /// What decides results besides their inputs, also in another process; none where that cannot
    /// be known.
    pub revision: Option<[u8; 32]>,
    /// Device memory in use.
    pub memory_bytes: u64,
    /// Device memory that there is.
    pub memory_bytes_max: u64,
}

impl About {
    /// Of a pipeline by what each device holds, the one that fuses first.
    fn of(
        parts: &[PipelineCore],
        models: Vec<ModelId>,
        is_fused: bool,
        revision: Option<[u8; 32]>,
    ) -> Self {
        let (options, signature) = (parts[0].options(), parts[0].programs().signature());
        let mut device_models: Vec<&str> = Vec::new();
        let (mut memory_bytes, mut memory_bytes_max) = (0, 0);
        for programs in parts.iter().map(PipelineCore::programs) {
            memory_bytes += programs.memory().total_bytes();
            memory_bytes_max += programs.signature().memory_bytes;
            let model = programs.signature().model.as_str();
            if !device_models.contains(&model) {
                device_models.push(model);
            }
        }
        Self {
            profile: options.profile.name(),
            models,
            is_fused,
            missing: options.missing,
            precision: options.precision.word(),
            device: signature.kind,
            device_model: device_models.join(", "),
            untrained: options.profile.untrained(),
            reference_s: options.reference_s,
            revision,
            memory_bytes,
            memory_bytes_max,
        }
    }

    /// Whether a request for it can be answered.
    pub fn has(&self, target: Target) -> bool {
        match target {
            Target::Fused => self.is_fused,
            Target::Model(model) => self.models.contains(&model),
        }
    }
}

/// Models that became ready, and what that took.
pub struct Opened {
    /// The models.
    pub engine: Box<dyn Engine>,
    /// What becoming ready took; nothing for engines that are not built.
    pub report: ReadyReport,
    /// Models that failed on the way. Whether the others are enough is the opener's to judge.
    pub lost: Vec<LostModel>,
}

/// Opens and warms the models of a place, counted from 0, and tells how far it is.
pub type Open = Arc<dyn Fn(usize, &Progress) -> EmbeddingResult<Opened> + Send + Sync>;

/// Opens and warms models: when the server starts, on a swap, and after a failure of a device.
#[derive(Clone)]
pub struct Opener {
    /// Where models serve, such as on which device, as it is shown. The same models serve in every
    /// place.
    pub places: Vec<String>,
    /// Which device holds what, where there was a choice.
    pub layout: Option<Layout>,
    /// Opens them.
    pub open: Open,
}

impl Opener {
    /// Of one place.
    pub fn single(
        place: impl Into<String>,
        open: impl Fn(&Progress) -> EmbeddingResult<Opened> + Send + Sync + 'static,
    ) -> Self {
        let open: Open = Arc::new(move |_, progress| open(progress));
        Self { places: vec![place.into()], layout: None, open }
    }
}

/// Refuses places of which some have lost a model that others have: the same models serve in every
/// place.
///
/// # Errors
/// In the name of the place and the model.
pub(crate) fn check_alike(
    want: &[LostModel],
    place: &str,
    got: &[LostModel],
) -> EmbeddingResult<()> {
    let is_in = |list: &[LostModel], it: &LostModel| list.iter().any(|o| o.model_id == it.model_id);
    let more = got.iter().find(|it| !is_in(want, it));
    let fewer = want.iter().find(|it| !is_in(got, it));
    let source = match (more, fewer) {
        (None, None) => return Ok(()),
        (Some(it), _) => format!("{place} lost {it}, another place has not"),
        (None, Some(it)) => format!("another place lost {it}, {place} has not"),
    };
    Err(EmbeddingError::GpuError { source: source.into() })
}

impl Engine for PipelineCore {
    fn about(&self) -> About {
        let is_fused = self.options().missing.allows(|it| self.is_loaded(it));
        let (models, revision) = (self.loaded().collect(), self.revision());
        About::of(std::slice::from_ref(self), models, is_fused, revision)
    }

    fn tokenizer(&self, model: ModelId) -> Option<(TextTokenizer, TokenLimit)> {
        owned(PipelineCore::tokenizer(self, model))
    }

    fn run(
        &mut self,
        wanted: &Wanted,
        inputs: &[ModelInput],
        now_s: i64,
    ) -> EmbeddingResult<Vec<EmbeddingResult<PipelineOutput>>> {
        self.set_own_forms(wanted.own_forms());
        match wanted {
            Wanted::Fused { .. } => self.embed_batch(inputs, now_s),
            Wanted::Models(models) => self.embed_models(models, inputs, now_s),
        }
    }

    fn times(&self) -> Option<GroupTimes> {
        Some(self.last_group()).filter(|it| it.program_ns() != 0)
    }

    fn front(&self) -> Option<Arc<PipelineFront>> {
        Some(PipelineCore::front(self).clone())
    }

    fn pipeline(&mut self) -> Option<&mut PipelineCore> {
        Some(self)
    }
}

impl Engine for PlacedPipeline {
    fn about(&self) -> About {
        let (models, revision) = (self.loaded().collect(), self.revision());
        About::of(self.parts(), models, self.fuses(), revision)
    }

    fn tokenizer(&self, model: ModelId) -> Option<(TextTokenizer, TokenLimit)> {
        owned(PlacedPipeline::tokenizer(self, model))
    }

    fn run(
        &mut self,
        wanted: &Wanted,
        inputs: &[ModelInput],
        now_s: i64,
    ) -> EmbeddingResult<Vec<EmbeddingResult<PipelineOutput>>> {
        self.set_own_forms(wanted.own_forms());
        match wanted {
            Wanted::Fused { .. } => self.embed_batch(inputs, now_s),
            Wanted::Models(models) => self.embed_models(models, inputs, now_s),
        }
    }
}

fn owned(found: Option<(&TextTokenizer, TokenLimit)>) -> Option<(TextTokenizer, TokenLimit)> {
    found.map(|(tokenizer, limit)| (tokenizer.clone(), limit))
}

/// What requests see of the models that serve now.
pub(crate) struct Live {
    pub(crate) about: About,
    pub(crate) report: ReadyReport,
    /// Models that failed when these became ready.
    pub(crate) lost: Vec<LostModel>,
    /// How many openings there were: results of one are none of another.
    pub(crate) generation: u64,
    pub(crate) front: Option<Arc<PipelineFront>>,
    tokenizers: BTreeMap<ModelId, (Arc<TextTokenizer>, TokenLimit)>,
}

impl Live {
    /// Of the models of every place: those of the first speak for all.
    pub(crate) fn of(opened: &[Opened], generation: u64) -> Option<Self> {
        let (Opened { engine, report, lost }, others) = opened.split_first()?;
        let (report, lost) = (*report, lost.clone());
        let mut about = engine.about();
        for other in others {
            let other = other.engine.about();
            about.memory_bytes += other.memory_bytes;
            about.memory_bytes_max += other.memory_bytes_max;
        }
        let tokenizer = |model: &ModelId| {
            let (tokenizer, limit) = engine.tokenizer(*model)?;
            Some((*model, (Arc::new(tokenizer), limit)))
        };
        let tokenizers = about.models.iter().filter_map(tokenizer).collect();
        let front = engine.front();
        Some(Self { about, report, lost, generation, front, tokenizers })
    }

    /// Whether a request for it could be answered if no model had been lost.
    pub(crate) fn has_lost(&self, target: Target) -> bool {
        let is_lost = |model: ModelId| self.lost.iter().any(|it| it.model_id == model);
        match target {
            Target::Fused => {
                let was = |it| self.about.models.contains(&it) || is_lost(it);
                !self.about.is_fused && !self.lost.is_empty() && self.about.missing.allows(was)
            }
            Target::Model(model) => is_lost(model),
        }
    }

    /// The first model that was to answer, in slot order.
    pub(crate) fn first(&self) -> Option<Target> {
        let lost = self.lost.iter().map(|it| it.model_id);
        self.about.models.iter().copied().chain(lost).min().map(Target::Model)
    }

    /// How texts of a target are counted: fused vectors by the first model that has tokens.
    pub(crate) fn tokenizer(&self, target: Target) -> Option<(&Arc<TextTokenizer>, TokenLimit)> {
        let found = match target {
            Target::Fused => self.tokenizers.values().next(),
            Target::Model(model) => self.tokenizers.get(&model),
        };
        found.map(|(tokenizer, limit)| (tokenizer, *limit))
    }
}
