//! Models that compute numbers from bytes at once, and fail, wait or panic when they are told to.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use calor_embed::embedding::{ConcatenatedEmbedding, MissingModels, ResultFlags};
use calor_embed::input::ModelInput;
use calor_embed::pipeline::{LostModel, ReadyReport};
use calor_embed::tokenizer::{LongTokens, TextTokenizer, TokenLimit};
use calor_embed::{
    EmbeddingError, EmbeddingResult, FUSED_LEN, FusedEmbedding, ModelEmbedding, ModelId,
    PipelineOutput, SparseVector, TokenMatrix,
};
use calor_server::engine::{About, Wanted};
use calor_server::{Engine, Opened, Opener, Progress};

/// What the next batches do instead of computing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The device is lost.
    Lost,
    /// No memory for so many items.
    NoMemory {
        /// What fits.
        item_count_max: usize,
    },
    /// A panic.
    Panic,
}

/// What is told to models, and what they did.
#[derive(Debug, Default)]
pub(crate) struct Knobs {
    pub(crate) batch_ms: AtomicU64,
    pub(crate) open_ms: AtomicU64,
    pub(crate) troubles: Mutex<VecDeque<Trouble>>,
    /// Openings that are to fail.
    pub(crate) bad_opening_count: AtomicUsize,
    /// Models that every opening loses.
    pub(crate) lost: Mutex<Vec<LostModel>>,
    pub(crate) opened_count: AtomicUsize,
    pub(crate) dropped_count: AtomicUsize,
    /// Items of each batch.
    pub(crate) batches: Mutex<Vec<usize>>,
    /// Every text that was computed.
    pub(crate) texts: Mutex<Vec<String>>,
}

/// The longest text, in tokens.
pub(crate) const TOKEN_COUNT_MAX: usize = 32;

/// Opens models that obey `knobs`.
pub(crate) fn opener(knobs: &Arc<Knobs>) -> Opener {
    let knobs = knobs.clone();
    Opener::single("double", move |progress| open(&knobs, progress))
}

/// Opens models in several places that obey knobs of their own.
pub(crate) fn opener_of(places: &[Arc<Knobs>]) -> Opener {
    let names = (0..places.len()).map(|it| format!("double:{it}")).collect();
    let places = places.to_vec();
    let open = move |place: usize, progress: &Progress| open(&places[place], progress);
    Opener { places: names, layout: None, open: Arc::new(open) }
}

fn open(knobs: &Arc<Knobs>, progress: &Progress) -> EmbeddingResult<Opened> {
    let lost = knobs.lost.lock().unwrap().clone();
    progress.lost(lost.clone(), &[]);
    progress.warm(&[ModelId::Semantic], 7_000_000);
    std::thread::sleep(Duration::from_millis(knobs.open_ms.load(Ordering::Relaxed)));
    let left = |it: usize| it.checked_sub(1);
    let bad = &knobs.bad_opening_count;
    if bad.fetch_update(Ordering::AcqRel, Ordering::Acquire, left).is_ok() {
        return Err(EmbeddingError::GpuError { source: "will not open".into() });
    }
    let revision = knobs.opened_count.fetch_add(1, Ordering::Relaxed);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden");
    let tokenizer = TextTokenizer::from_file(&golden.join("bert/tokenizer.json"))?;
    let is_there = |it: &ModelId| !lost.iter().any(|lost| lost.model_id == *it);
    let models = ModelId::ALL.into_iter().filter(is_there).collect();
    let engine = Box::new(Double { knobs: knobs.clone(), tokenizer, revision, models });
    Ok(Opened { engine, report: ReadyReport::default(), lost })
}

struct Double {
    knobs: Arc<Knobs>,
    tokenizer: TextTokenizer,
    revision: usize,
    models: Vec<ModelId>,
}

impl Drop for Double {
    fn drop(&mut self) {
        self.knobs.dropped_count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Engine for Double {
    fn about(&self) -> About {
        About {
            profile: "double",
            models: self.models.clone(),
            is_fused: self.models.len() == ModelId::ALL.len(),
            missing: MissingModels::Refuse,
            precision: "f32",
            device: "cpu",
            device_model: "a double".into(),
            untrained: &["everything"],
            reference_s: None,
            revision: Some([self.revision as u8; 32]),
            memory_bytes: 1,
            memory_bytes_max: 2,
        }
    }

    fn tokenizer(&self, model: ModelId) -> Option<(TextTokenizer, TokenLimit)> {
        let limit =
            TokenLimit { token_count_max: TOKEN_COUNT_MAX, long_text: LongTokens::Truncate };
        model.is_pretrained().then(|| (self.tokenizer.clone(), limit))
    }

    fn run(
        &mut self,
        wanted: &Wanted,
        inputs: &[ModelInput],
        _now_s: i64,
    ) -> EmbeddingResult<Vec<EmbeddingResult<PipelineOutput>>> {
        std::thread::sleep(Duration::from_millis(self.knobs.batch_ms.load(Ordering::Relaxed)));
        let mut troubles = self.knobs.troubles.lock().unwrap();
        match troubles.front().copied() {
            Some(Trouble::NoMemory { item_count_max }) if item_count_max < inputs.len() => {
                return Err(EmbeddingError::MemoryBudgetExceeded {
                    wanted_bytes: 2,
                    budget_bytes: 1,
                });
            }
            Some(Trouble::NoMemory { .. }) | None => {}
            Some(Trouble::Lost) => {
                troubles.pop_front();
                return Err(EmbeddingError::GpuError { source: "the device is gone".into() });
            }
            Some(Trouble::Panic) => {
                troubles.pop_front();
                drop(troubles);
                panic!("told to");
            }
        }
        self.knobs.batches.lock().unwrap().push(inputs.len());
        let mut texts = self.knobs.texts.lock().unwrap();
        texts.extend(inputs.iter().map(words));
        Ok(inputs.iter().map(|it| self.output(wanted, it)).collect())
    }
}

impl Double {
    fn output(&self, wanted: &Wanted, input: &ModelInput) -> EmbeddingResult<PipelineOutput> {
        if words(input).contains("poison") {
            return Err(EmbeddingError::InvalidValue { index: 0, value: f32::NAN });
        }
        let (models, own_forms, is_fused) = match wanted {
            Wanted::Fused { own_forms } => (ModelId::ALL.to_vec(), *own_forms, true),
            Wanted::Models(models) => (models.iter().copied().collect(), true, false),
        };
        let is_image = matches!(input, ModelInput::Image { .. });
        let mut embeddings = ConcatenatedEmbedding::new(input.content_hash());
        for model in models.iter().filter(|it| !is_image || **it == ModelId::Multimodal) {
            let vector = vector(input, model.index() as u64, model.slot_dimension());
            embeddings.set(ModelEmbedding::projected(*model, vector, 1)?)?;
        }
        let sparse = models.contains(&ModelId::Sparse) && own_forms && !is_image;
        let sparse = sparse
            .then(|| SparseVector::new(vec![7, 9], vec![1.0, words(input).len() as f32]).unwrap());
        let tokens = models.contains(&ModelId::LateInteraction) && own_forms && !is_image;
        let tokens = tokens.then(|| {
            let all = words(input);
            let rows = all.split_whitespace().flat_map(|word| {
                let word = ModelInput::text(word).unwrap();
                vector(&word, 99, 128)
            });
            TokenMatrix::new(rows.collect(), 128).unwrap()
        });
        let fused = (is_fused && !is_image).then(|| FusedEmbedding {
            vector: vector(input, 100 + self.revision as u64, FUSED_LEN),
            expert_weights: [0.125; 8],
            selected_experts: vec![0, 1, 2, 3],
            pipeline_latency_us: 1,
            content_hash: input.content_hash(),
            aux_data: None,
            flags: ResultFlags::default(),
        });
        let limit =
            TokenLimit { token_count_max: TOKEN_COUNT_MAX, long_text: LongTokens::Truncate };
        let cut = if is_image { None } else { self.tokenizer.encode(&words(input), limit)?.cut };
        let flags = ResultFlags { partial: is_image, ..ResultFlags::default() };
        Ok(PipelineOutput { embeddings, fused, sparse, tokens, cut, flags })
    }
}

fn words(input: &ModelInput) -> String {
    String::from_utf8_lossy(input.content_bytes()).into_owned()
}

/// A unit vector that its text and a salt decide.
pub(crate) fn vector(input: &ModelInput, salt: u64, len: usize) -> Vec<f32> {
    let mut state = input.content_hash() ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out: Vec<f32> = (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    calor_embed::embedding::normalize_l2(&mut out);
    out
}

/// What the double's first models give as the fused vector of a text.
pub(crate) fn fused(text: &str) -> Vec<f32> {
    fused_of(text, 0)
}

/// What the models of a later opening give.
pub(crate) fn fused_of(text: &str, revision: u64) -> Vec<f32> {
    vector(&ModelInput::text(text).unwrap(), 100 + revision, FUSED_LEN)
}
