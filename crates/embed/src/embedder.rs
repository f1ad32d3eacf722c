//! One checkpoint by itself: any supported directory, embedded with its own recipe or another.

mod about;
mod warm;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use calor_runtime::{Build, LaneId};
use calor_weights::{
    Checkpoint, Head, ModelConfig, Pooling as Recipe, SentenceConfig, Weights, WeightsError,
};

use crate::checkpoint_source::CheckpointSource;
use crate::embedding::TokenMatrix;
use crate::encoder::{Pooling, TextOutputs};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::image_input::{ImageLimits, ImagePreparation, decode};
use crate::image_tower::ImageTower;
use crate::input::{ImageFormat, Role};
use crate::packing::{Bucket, PackItem};
use crate::pooling::{default_pooling, end_of_text};
use crate::precision::InferencePrecision;
use crate::programs::Programs;
use crate::tokenizer::{
    ColbertOptions, ColbertTokenizer, LongTokens, TextTokenizer, TokenCut, TokenLimit,
};
use crate::tower::{TextTower, TextTowerSpec};

/// How a checkpoint is used. Absent choices are the checkpoint's own.
#[derive(Clone, Debug)]
pub struct EmbedderOptions {
    /// How rows become a vector.
    pub pooling: Option<PoolingChoice>,
    /// Whether vectors are divided by their length.
    pub normalize: Option<bool>,
    /// Most tokens of one text, specials included; never above what the model can do.
    pub sequence_tokens_max: Option<usize>,
    /// What happens to longer texts.
    pub long_text: LongTokens,
    /// Most tokens in one program run, unless a single text is longer.
    pub batch_tokens_max: usize,
    /// Threads that tokenize.
    pub thread_count: NonZeroUsize,
    /// Whether texts are queries or documents, where the model tells them apart (ColBERT).
    pub role: Role,
    /// What products run in.
    pub precision: InferencePrecision,
}

/// What a user can ask for; the end-of-text token comes from the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolingChoice {
    /// The mean of all rows.
    Mean,
    /// The first row.
    First,
    /// The last row.
    Last,
    /// The row of the first end-of-text token.
    Eos,
    /// The largest value of each column.
    Max,
    /// Term weights over the vocabulary.
    Splade,
    /// The rows themselves.
    None,
}

/// One thing to embed.
#[derive(Clone, Debug, PartialEq)]
pub enum EmbedItem {
    /// A text, to be tokenized.
    Text(String),
    /// Token ids, used as they are.
    Ids(Vec<u32>),
    /// An encoded image.
    Image(Vec<u8>, ImageFormat),
    /// Pixels `[channels, side, side]`, already normalised.
    Pixels(Vec<f32>),
}

/// One result.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// What it is.
    pub output: EmbedOutput,
    /// What was cut off the text, if anything was.
    pub cut: Option<TokenCut>,
    /// Rows that the model saw.
    pub token_count: usize,
}

/// A vector, or one row for each token.
#[derive(Clone, Debug, PartialEq)]
pub enum EmbedOutput {
    /// One vector.
    Vector(Vec<f32>),
    /// Rows of tokens.
    Tokens(TokenMatrix),
}

/// A checkpoint on a device.
#[derive(Debug)]
pub struct CheckpointEmbedder {
    programs: Programs,
    text: Option<TextTower>,
    image: Option<ImageTower>,
    tokenizer: Option<TextTokenizer>,
    colbert: Option<ColbertTokenizer>,
    limit: TokenLimit,
    vocab_count: usize,
    pooling: Pooling,
    options: EmbedderOptions,
}

fn load_error(part: &str) -> impl FnOnce(WeightsError) -> EmbeddingError + '_ {
    move |source| EmbeddingError::ModelLoadError {
        model_id: None,
        part: part.to_owned(),
        source: Box::new(source),
    }
}

impl CheckpointEmbedder {
    /// Opens a Hugging Face directory. Programs are built when they are first needed.
    ///
    /// # Errors
    /// [`EmbeddingError::ModelLoadError`] with what is wrong in the directory, and
    /// [`EmbeddingError::ConfigError`] for a pooling that the model does not have, and
    /// [`EmbeddingError::PrecisionRefused`] for a precision that it or the device does not run in.
    pub fn open(mut build: Build, dir: &Path, options: EmbedderOptions) -> EmbeddingResult<Self> {
        options.precision.check_device(&build)?;
        let place = dir.display().to_string();
        let checkpoint = Checkpoint::open(dir).map_err(load_error(&place))?;
        let config = checkpoint.config().map_err(load_error("config.json"))?;
        let recipe = checkpoint.sentence().map_err(load_error("modules.json"))?;
        let tokenizer =
            checkpoint.tokenizer_path().map(|it| TextTokenizer::from_file(&it)).transpose()?;
        let weights = Weights::bind(checkpoint, &config).map_err(load_error(&place))?;
        let head = weights.head();
        let (source, lane) = (Arc::new(CheckpointSource::new(Arc::new(weights))), build.lane());

        let opened = Opened { config: &config, recipe: recipe.as_ref(), head, source, lane };
        let (pooling, limit_max, text) = opened.text(dir, &options)?;
        let image = opened.image(dir, &options)?;
        let colbert = match (&tokenizer, head) {
            (Some(_), Head::TokenProjection { .. }) => colbert_tokenizer(dir, limit_max)?,
            _ => None,
        };
        let limit = TokenLimit { token_count_max: limit_max, long_text: options.long_text };
        let vocab_count = config.text.as_ref().map_or(0, |it| it.vocab_count);
        let programs = Programs::Open(build);
        let own = tokenizer.iter().chain(colbert.iter().map(ColbertTokenizer::plain));
        own.for_each(|it| it.count_in(programs.counters()));
        Ok(Self { programs, text, image, tokenizer, colbert, limit, vocab_count, pooling, options })
    }

    /// Embeds items. A bad item fails alone; the results are in the items' order.
    ///
    /// # Errors
    /// Of the whole call: what the device says.
    pub fn embed(
        &mut self,
        items: &[EmbedItem],
    ) -> EmbeddingResult<Vec<EmbeddingResult<Embedded>>> {
        let mut results: Vec<Option<EmbeddingResult<Embedded>>> =
            items.iter().map(|_| None).collect();
        let mut texts = Vec::new();
        let mut images = Vec::new();
        for (at, (item, tokens)) in items.iter().zip(self.tokenize(items)).enumerate() {
            match (item, tokens) {
                (EmbedItem::Text(_) | EmbedItem::Ids(_), Some(Ok(tokens))) => {
                    texts.push((at, tokens));
                }
                (_, Some(Err(err))) => results[at] = Some(Err(err)),
                (_, None) => match self.pixels(item) {
                    Ok(pixels) => images.push((at, pixels)),
                    Err(err) => results[at] = Some(Err(err)),
                },
                (EmbedItem::Image(..) | EmbedItem::Pixels(_), Some(Ok(_))) => {}
            }
        }
        self.embed_texts(&texts, &mut results)?;
        self.embed_images(&images, &mut results)?;
        let lost = || EmbeddingError::InternalError { place: "embedder results", source: None };
        Ok(results.into_iter().map(|it| it.unwrap_or_else(|| Err(lost()))).collect())
    }

    fn embed_texts(
        &mut self,
        texts: &[(usize, Tokens)],
        results: &mut [Option<EmbeddingResult<Embedded>>],
    ) -> EmbeddingResult<()> {
        let Some(tower) = self.text.as_mut().filter(|_| !texts.is_empty()) else { return Ok(()) };
        let items: Vec<PackItem<'_>> = texts
            .iter()
            .map(|(_, tokens)| PackItem {
                ids: &tokens.ids,
                attended_len: tokens.attended_len,
                keep: None,
            })
            .collect();
        let outputs = tower.run(&mut self.programs, &items)?;
        let Some(output) = outputs.into_iter().next() else { return Ok(()) };
        for ((at, tokens), rows) in texts.iter().zip(output.items) {
            let made = if output.by_token {
                let kept = match &tokens.keep {
                    Some(keep) => kept_rows(&rows, output.row_len, keep),
                    None => rows,
                };
                TokenMatrix::new(kept, output.row_len).map(EmbedOutput::Tokens)
            } else {
                Ok(EmbedOutput::Vector(rows))
            };
            results[*at] = Some(made.map(|output| Embedded {
                output,
                cut: tokens.cut,
                token_count: tokens.ids.len(),
            }));
        }
        Ok(())
    }

    fn embed_images(
        &mut self,
        images: &[(usize, Vec<f32>)],
        results: &mut [Option<EmbeddingResult<Embedded>>],
    ) -> EmbeddingResult<()> {
        let Some(tower) = self.image.as_mut().filter(|_| !images.is_empty()) else {
            return Ok(());
        };
        let pixels: Vec<&[f32]> = images.iter().map(|(_, it)| it.as_slice()).collect();
        let vectors = tower.run(&mut self.programs, &pixels)?;
        for ((at, _), vector) in images.iter().zip(vectors) {
            let output = EmbedOutput::Vector(vector);
            results[*at] = Some(Ok(Embedded { output, cut: None, token_count: 0 }));
        }
        Ok(())
    }

    /// Tokens of each text; nothing for images.
    fn tokenize(&self, items: &[EmbedItem]) -> Vec<Option<EmbeddingResult<Tokens>>> {
        let texts: Vec<&str> = items
            .iter()
            .filter_map(|it| match it {
                EmbedItem::Text(text) => Some(text.as_str()),
                EmbedItem::Ids(_) | EmbedItem::Image(..) | EmbedItem::Pixels(_) => None,
            })
            .collect();
        let mut encoded = self.encode(&texts).into_iter();
        items
            .iter()
            .map(|item| match item {
                EmbedItem::Text(_) => encoded.next(),
                EmbedItem::Ids(ids) => Some(self.check_ids(ids)),
                EmbedItem::Image(..) | EmbedItem::Pixels(_) => None,
            })
            .collect()
    }

    fn encode(&self, texts: &[&str]) -> Vec<EmbeddingResult<Tokens>> {
        if let Some(colbert) = &self.colbert {
            let encode = |text: &&str| match self.options.role {
                Role::Query => colbert.query(text),
                Role::Passage => colbert.document(text),
            };
            let rows = |it: crate::tokenizer::ColbertTokens| Tokens {
                attended_len: it.attended_len,
                keep: Some(it.keep),
                cut: it.cut,
                ids: it.ids,
            };
            return texts.iter().map(|text| encode(text).map(rows)).collect();
        }
        let Some(tokenizer) = &self.tokenizer else {
            let missing = || EmbeddingError::NotInitialized { what: "tokenizer.json" };
            return texts.iter().map(|_| Err(missing())).collect();
        };
        tokenizer
            .encode_batch(texts, self.limit, self.options.thread_count)
            .into_iter()
            .map(|it| it.map(|it| Tokens::whole(it.ids, it.cut)))
            .collect()
    }

    fn check_ids(&self, ids: &[u32]) -> EmbeddingResult<Tokens> {
        if ids.is_empty() {
            return Err(EmbeddingError::EmptyInput { what: "list of token ids" });
        }
        if let Some(index) = ids.iter().position(|id| self.vocab_count <= *id as usize) {
            return Err(EmbeddingError::InvalidValue { index, value: ids[index] as f32 });
        }
        let limit_max = self.text.as_ref().map_or(0, TextTower::sequence_tokens_max);
        if limit_max < ids.len() {
            return Err(EmbeddingError::InputTooLong {
                got_len: ids.len(),
                limit_max,
                unit: crate::error::LengthUnit::Tokens,
            });
        }
        Ok(Tokens::whole(ids.to_vec(), None))
    }

    fn pixels(&self, item: &EmbedItem) -> EmbeddingResult<Vec<f32>> {
        let Some(tower) = &self.image else {
            return Err(EmbeddingError::ConfigError {
                field: "image",
                value: "an image".into(),
                want: "the checkpoint has no vision tower",
            });
        };
        match item {
            EmbedItem::Pixels(pixels) => Ok(pixels.clone()),
            EmbedItem::Image(bytes, format) => {
                let side_len = tower.config().image_len;
                let preparation = ImagePreparation { side_len, ..ImagePreparation::CLIP };
                let image = decode(bytes, *format, &ImageLimits::STANDARD)?;
                let cropped = image.resized_crop(side_len)?;
                let mut out = vec![0.0; preparation.element_count()];
                preparation.normalize_into(&cropped, &mut out);
                Ok(out)
            }
            EmbedItem::Text(_) | EmbedItem::Ids(_) => {
                Err(EmbeddingError::InternalError { place: "image items", source: None })
            }
        }
    }
}

/// A checkpoint that is open, before its towers are made.
struct Opened<'a> {
    config: &'a ModelConfig,
    recipe: Option<&'a SentenceConfig>,
    head: Head,
    source: Arc<CheckpointSource>,
    lane: LaneId,
}

impl Opened<'_> {
    fn normalize(&self, options: &EmbedderOptions) -> bool {
        options.normalize.unwrap_or_else(|| self.recipe.is_none_or(|it| it.normalize))
    }

    /// Pooling, longest text, and the text tower if there is one.
    fn text(
        &self,
        dir: &Path,
        options: &EmbedderOptions,
    ) -> EmbeddingResult<(Pooling, usize, Option<TextTower>)> {
        let Some(encoder) = &self.config.text else {
            return Ok((Pooling::None, Bucket::TOKENS_MAX, None));
        };
        let head = self.head;
        let pooling = match (options.pooling, self.recipe.and_then(|it| it.pooling)) {
            (Some(choice), _) => chosen(choice, end_of_text(encoder)),
            (None, Some(recipe)) => of_recipe(recipe)?,
            (None, None) => default_pooling(head, encoder),
        };
        if pooling == Pooling::Splade && head != Head::MaskedLm {
            return Err(EmbeddingError::ConfigError {
                field: "pool",
                value: "splade".into(),
                want: "the checkpoint has no masked-language-model head",
            });
        }
        // A recipe may name a shorter length than the model takes; ids that are given as they
        // are only have to fit the model.
        let hard = encoder.max_tokens.unwrap_or(Bucket::TOKENS_MAX).min(Bucket::TOKENS_MAX);
        let own = [self.recipe.and_then(|it| it.max_tokens), options.sequence_tokens_max];
        let limit_max = own.into_iter().flatten().chain([hard]).min().unwrap_or(hard).max(1);
        let outputs = TextOutputs {
            pooling,
            project: match head {
                Head::FirstTokenProjection { .. } => pooling == Pooling::First,
                Head::SharedProjection { .. } => {
                    matches!(pooling, Pooling::Eos { .. } | Pooling::LargestId)
                }
                Head::TokenProjection { .. } => true,
                Head::None | Head::MaskedLm => false,
            },
            normalize: self.normalize(options) && pooling != Pooling::Splade,
            slots: Vec::new(),
            token_slot: None,
            token_mean: None,
        };
        let spec = TextTowerSpec {
            label: label_of(dir),
            config: encoder.clone(),
            head,
            prefix: if self.config.vision.is_some() { "text." } else { "" },
            outputs,
            source: self.source.clone(),
            batch_tokens_max: options.batch_tokens_max,
            batch_sequences_max: Bucket::SEQUENCES_MAX,
            sequence_tokens_max: hard,
            precision: options.precision,
        };
        Ok((pooling, limit_max, Some(TextTower::new(self.lane, spec)?)))
    }

    fn image(&self, dir: &Path, options: &EmbedderOptions) -> EmbeddingResult<Option<ImageTower>> {
        let Some(vision) = self.config.vision.clone() else { return Ok(None) };
        let projection_len = match self.head {
            Head::SharedProjection { out_len } => Some(out_len),
            Head::None
            | Head::MaskedLm
            | Head::TokenProjection { .. }
            | Head::FirstTokenProjection { .. } => None,
        };
        let (label, normalize) = (label_of(dir), self.normalize(options));
        let (source, lane, precision) = (self.source.clone(), self.lane, options.precision);
        ImageTower::new(&label, vision, projection_len, normalize, precision, source, lane)
            .map(Some)
    }
}

/// A tokenized item.
struct Tokens {
    ids: Vec<u32>,
    attended_len: usize,
    keep: Option<Vec<bool>>,
    cut: Option<TokenCut>,
}

impl Tokens {
    fn whole(ids: Vec<u32>, cut: Option<TokenCut>) -> Self {
        Self { attended_len: ids.len(), keep: None, cut, ids }
    }
}

fn kept_rows(rows: &[f32], row_len: usize, keep: &[bool]) -> Vec<f32> {
    let kept = rows.chunks_exact(row_len).zip(keep).filter(|(_, keep)| **keep);
    kept.flat_map(|(row, _)| row.iter().copied()).collect()
}

fn chosen(choice: PoolingChoice, eos: Pooling) -> Pooling {
    match choice {
        PoolingChoice::Mean => Pooling::Mean,
        PoolingChoice::First => Pooling::First,
        PoolingChoice::Last => Pooling::Last,
        PoolingChoice::Eos => eos,
        PoolingChoice::Max => Pooling::Max,
        PoolingChoice::Splade => Pooling::Splade,
        PoolingChoice::None => Pooling::None,
    }
}

fn of_recipe(recipe: Recipe) -> EmbeddingResult<Pooling> {
    match recipe {
        Recipe::Cls => Ok(Pooling::First),
        Recipe::Mean => Ok(Pooling::Mean),
        Recipe::Max => Ok(Pooling::Max),
        Recipe::LastToken => Ok(Pooling::Last),
        Recipe::MeanSqrtLen => Err(EmbeddingError::ConfigError {
            field: "pool",
            value: "mean_sqrt_len_tokens".into(),
            want: "the recipe's pooling is not supported; name another with `--pool`",
        }),
    }
}

fn label_of(dir: &Path) -> String {
    dir.file_name().map_or_else(|| "checkpoint".into(), |it| it.to_string_lossy().into_owned())
}

fn colbert_tokenizer(dir: &Path, limit_max: usize) -> EmbeddingResult<Option<ColbertTokenizer>> {
    let plain = TextTokenizer::from_file(&dir.join("tokenizer.json"))?;
    let document_len_max = ColbertOptions::REFERENCE.document_len_max.min(limit_max);
    let options = ColbertOptions { document_len_max, ..ColbertOptions::REFERENCE };
    ColbertTokenizer::new(plain, options).map(Some)
}
