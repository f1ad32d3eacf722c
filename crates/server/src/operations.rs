//! What can be asked, whatever the protocol: plain values in, plain values out.

use std::collections::BTreeSet;
use std::sync::Arc;

use calor_embed::embedding::{ResultFlags, normalize_l2};
use calor_embed::input::{ImageFormat, ModelInput};
use calor_embed::tokenizer::{TextTokenizer, TokenPiece};
use calor_embed::{EmbeddingError, ModelId, SparseVector, TokenMatrix};

use crate::batcher::Answer;
use crate::counting::{Cut, Input};
use crate::engine::{Live, Wanted};
use crate::options::Target;
use crate::refusal::Refusal;
use crate::service::{Answered, Ask, Service, Summary, Terms};

/// What a request for everything names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'a> {
    /// Slots by name; `all` is everything that there is.
    pub(crate) slots: &'a [String],
    /// Whether it wants the fused vector.
    pub(crate) fused: bool,
}

/// How vectors leave.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shape {
    /// Whether they are divided by their length.
    pub(crate) normalize: Option<bool>,
    /// Keep only so many numbers.
    pub(crate) dimensions: Option<usize>,
}

/// A text and its place in an order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ranked {
    pub(crate) index: usize,
    pub(crate) score: f64,
}

impl Service {
    /// One vector for each input.
    pub(crate) async fn embed(
        &self,
        target: Target,
        inputs: Vec<Input>,
        shape: Shape,
        cut: Cut,
        terms: Terms,
    ) -> Result<(Vec<Vec<f32>>, Summary), Refusal> {
        shape.check(target)?;
        let ask = Ask { target, wanted: Wanted::of(target), inputs, extra_count: 0, cut, terms };
        let (answers, summary) = self.answer(ask).await?.all()?;
        let rows =
            answers.iter().enumerate().map(|(index, answer)| match target.vector(&answer.output) {
                Some(vector) => Ok(shape.apply(target, vector)),
                None => Err(nothing(index, target)),
            });
        Ok((rows.collect::<Result<_, _>>()?, summary))
    }

    /// E6 of each input as weighted terms.
    pub(crate) async fn embed_sparse(
        &self,
        inputs: Vec<Input>,
        cut: Cut,
        terms: Terms,
    ) -> Result<(Vec<SparseVector>, Summary), Refusal> {
        let none = "no model makes sparse vectors; load `sparse`";
        let (answers, summary) = self.of_model(ModelId::Sparse, none, inputs, cut, terms).await?;
        let of = |it: &Answer| it.output.sparse.clone();
        Ok((own_forms(&answers, ModelId::Sparse, of)?, summary))
    }

    /// E12 of each input as one vector for each token.
    pub(crate) async fn embed_all(
        &self,
        inputs: Vec<Input>,
        cut: Cut,
        terms: Terms,
    ) -> Result<(Vec<TokenMatrix>, Summary), Refusal> {
        let model = ModelId::LateInteraction;
        let (answers, summary) = self.of_model(model, NO_TOKENS, inputs, cut, terms).await?;
        Ok((own_forms(&answers, model, |it| it.output.tokens.clone())?, summary))
    }

    /// Texts in order of their nearness to a query, nearest first, by MaxSim of E12. Raw scores are
    /// sums over the query's rows; the others are means, 1 for a text that holds the query.
    pub(crate) async fn rerank(
        &self,
        query: String,
        texts: Vec<String>,
        is_raw: bool,
        cut: Cut,
        terms: Terms,
    ) -> Result<(Vec<Ranked>, Summary), Refusal> {
        if texts.is_empty() {
            return Err(Refusal::NoInputs);
        }
        let model = ModelId::LateInteraction;
        let live = self.live()?;
        let target = Target::Model(model);
        self.check_there(&live, target, || Refusal::WrongModel { what: NO_TOKENS })?;
        let mut inputs = texts_of(texts, None)?;
        inputs.insert(0, Input::Whole(text(query, Some("role:query"))?));
        let wanted = Wanted::Models(BTreeSet::from([model]));
        let ask = Ask { target, wanted, inputs, extra_count: 1, cut, terms };
        let (answers, summary) = self.answer(ask).await?.all()?;
        let matrices = own_forms(&answers, model, |it| it.output.tokens.clone())?;
        let Some((query, documents)) = matrices.split_first() else {
            return Err(Refusal::NoInputs);
        };
        let scale = if is_raw { 1.0 } else { query.rows().count().max(1) as f64 };
        let hits = calor_embed::search::nearest_max_sim(query, documents, documents.len())?;
        let ranked =
            |it: calor_embed::search::Hit| Ranked { index: it.row_index, score: it.score / scale };
        Ok((hits.into_iter().map(ranked).collect(), summary))
    }

    /// Tokens of each text.
    pub(crate) fn tokenize(
        &self,
        target: Option<&str>,
        texts: &[String],
        add_special_tokens: bool,
    ) -> Result<Vec<Vec<TokenPiece>>, Refusal> {
        let tokenizer = self.tokenizer(target)?;
        self.check_count(texts.len())?;
        let pieces = texts.iter().enumerate().map(|(index, text)| {
            if text.is_empty() {
                let source = EmbeddingError::EmptyInput { what: "text" };
                return Err(Refusal::Input { index, source });
            }
            let pieces = tokenizer.pieces(text, add_special_tokens);
            pieces.map_err(|source| Refusal::Input { index, source })
        });
        pieces.collect()
    }

    /// The text of each list of ids.
    pub(crate) fn decode(
        &self,
        target: Option<&str>,
        lists: &[Vec<u32>],
        skip_special_tokens: bool,
    ) -> Result<Vec<String>, Refusal> {
        let tokenizer = self.tokenizer(target)?;
        self.check_count(lists.len())?;
        let texts = lists.iter().enumerate().map(|(index, ids)| {
            let text = tokenizer.decode(ids, skip_special_tokens);
            text.map_err(|source| Refusal::Input { index, source })
        });
        texts.collect()
    }

    /// Everything that a pipeline makes of inputs; a bad one fails alone. What is asked for in
    /// `parts` by name has to be there.
    pub(crate) async fn fused(
        &self,
        inputs: Vec<Input>,
        parts: Named<'_>,
        own_forms: bool,
        cut: Cut,
        terms: Terms,
    ) -> Result<(Answered, Arc<Live>), Refusal> {
        let live = self.live()?;
        let slots = parts.slots.iter().filter_map(|it| Target::by_name(it));
        let fused = parts.fused.then_some(Target::Fused);
        for target in slots.chain(fused).filter(|it| live.has_lost(*it)) {
            self.check_there(&live, target, || Refusal::NoInputs)?;
        }
        let target = self.default_target(&live);
        let wanted = match live.about.is_fused {
            true => Wanted::Fused { own_forms },
            false => Wanted::Models(live.about.models.iter().copied().collect()),
        };
        let ask = Ask { target, wanted, inputs, extra_count: 0, cut, terms };
        Ok((self.answer(ask).await?, live))
    }

    async fn of_model(
        &self,
        model: ModelId,
        none: &'static str,
        inputs: Vec<Input>,
        cut: Cut,
        terms: Terms,
    ) -> Result<(Vec<Answer>, Summary), Refusal> {
        let target = Target::Model(model);
        self.check_there(&*self.live()?, target, || Refusal::WrongModel { what: none })?;
        let wanted = Wanted::Models(BTreeSet::from([model]));
        let ask = Ask { target, wanted, inputs, extra_count: 0, cut, terms };
        self.answer(ask).await?.all()
    }

    fn tokenizer(&self, name: Option<&str>) -> Result<Arc<TextTokenizer>, Refusal> {
        let live = self.live()?;
        let target = self.target(&live, name)?;
        let none = "the model has no tokenizer";
        let found = live.tokenizer(target).ok_or(Refusal::WrongModel { what: none })?;
        Ok(found.0.clone())
    }

    fn check_count(&self, got: usize) -> Result<(), Refusal> {
        match (got, self.options.limits.client_batch_max) {
            (0, _) => Err(Refusal::NoInputs),
            (got, max) if max < got => Err(Refusal::TooManyInputs { got, max }),
            _ => Ok(()),
        }
    }
}

const NO_TOKENS: &str = "no model makes vectors of tokens; load `late_interaction`";

impl Shape {
    fn check(self, target: Target) -> Result<(), Refusal> {
        let most = target.dimension();
        if let Some(it) = self.dimensions.filter(|it| *it == 0 || most < *it) {
            let want = "it must be at least 1 and at most the model's own";
            return Err(Refusal::Field { field: "dimensions", value: it.to_string(), want });
        }
        if self.normalize == Some(false) && target != Target::Fused {
            let want = "vectors of slots have length 1 by their definition; leave it out";
            return Err(Refusal::Field { field: "normalize", value: "false".into(), want });
        }
        Ok(())
    }

    /// A cut vector is divided by its length again; slots have length 1 already.
    fn apply(self, target: Target, vector: &[f32]) -> Vec<f32> {
        let len = self.dimensions.unwrap_or(vector.len()).min(vector.len());
        let mut out = vector[..len].to_vec();
        let is_whole_slot = target != Target::Fused && len == vector.len();
        if self.normalize.unwrap_or(true) && !is_whole_slot {
            normalize_l2(&mut out);
        }
        out
    }
}

/// A text that passed the checks of its own.
pub(crate) fn text(content: String, instruction: Option<&str>) -> Result<ModelInput, Refusal> {
    Ok(ModelInput::text_with_instruction(content, instruction.map(str::to_owned))?)
}

/// Texts with one instruction for all; what is wrong with one is said with its place.
pub(crate) fn texts_of(
    texts: Vec<String>,
    instruction: Option<&str>,
) -> Result<Vec<Input>, Refusal> {
    let single = texts.len() == 1;
    let one = |(index, it)| {
        let input = ModelInput::text_with_instruction(it, instruction.map(str::to_owned));
        input.map(Input::Whole).map_err(|source| match single {
            true => Refusal::Whole(source),
            false => Refusal::Input { index, source },
        })
    };
    texts.into_iter().enumerate().map(one).collect()
}

/// The instruction that a prompt's name stands for.
pub(crate) fn prompt(name: Option<&str>) -> Result<Option<&'static str>, Refusal> {
    match name {
        None => Ok(None),
        Some("query") => Ok(Some("role:query")),
        Some("passage" | "document") => Ok(Some("role:passage")),
        Some(other) => Err(Refusal::Field {
            field: "prompt_name",
            value: other.chars().take(100).collect(),
            want: "there are `query`, `passage` and `document`",
        }),
    }
}

/// Models whose slots are wanted, by name or number; `all` for all.
pub(crate) fn slots_named(names: &[String]) -> Result<Vec<ModelId>, Refusal> {
    let mut slots = Vec::new();
    for name in names {
        match Target::by_name(name) {
            Some(Target::Model(model)) => slots.push(model),
            _ if name == "all" => slots.extend(ModelId::ALL),
            _ => {
                let want = "slots are `all`, `e1` to `e12` and the models' names";
                let value = name.chars().take(40).collect();
                return Err(Refusal::Field { field: "slots", value, want });
            }
        }
    }
    Ok(slots)
}

/// What is special about a result, in words.
pub(crate) fn flag_words(flags: ResultFlags) -> Vec<&'static str> {
    let ResultFlags {
        timestamp_defaulted,
        truncated,
        partial,
        latency_exceeded,
        precision_fallback,
    } = flags;
    [
        (timestamp_defaulted, "timestamp_defaulted"),
        (truncated, "truncated"),
        (partial, "partial"),
        (latency_exceeded, "latency_exceeded"),
        (precision_fallback, "precision_fallback"),
    ]
    .into_iter()
    .filter_map(|(is_set, word)| is_set.then_some(word))
    .collect()
}

/// An encoded picture, its format told by its first bytes.
pub(crate) fn image(bytes: Vec<u8>) -> Result<ModelInput, EmbeddingError> {
    let format = match bytes.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => ImageFormat::Png,
        [0xff, 0xd8, 0xff, ..] => ImageFormat::Jpeg,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => ImageFormat::WebP,
        [b'G', b'I', b'F', b'8', ..] => ImageFormat::Gif,
        [] => return Err(EmbeddingError::EmptyInput { what: "image" }),
        _ => {
            let fault = calor_embed::error::ImageFault::OtherFormat;
            return Err(EmbeddingError::InvalidImage { fault, source: None });
        }
    };
    ModelInput::image(bytes, format)
}

fn own_forms<T>(
    answers: &[Answer],
    model: ModelId,
    of: impl Fn(&Answer) -> Option<T>,
) -> Result<Vec<T>, Refusal> {
    let rows = answers.iter().enumerate();
    rows.map(|(index, it)| of(it).ok_or_else(|| nothing(index, Target::Model(model)))).collect()
}

/// A model that gave nothing for an input: it does not take such inputs.
fn nothing(index: usize, target: Target) -> Refusal {
    let model_ids = match target {
        Target::Fused => ModelId::ALL.to_vec(),
        Target::Model(model) => vec![model],
    };
    Refusal::Input { index, source: EmbeddingError::MissingModels { model_ids } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_cut_and_scale() {
        let fused = Target::Fused;
        let slot = Target::Model(ModelId::Entity);
        let shape = |normalize, dimensions| Shape { normalize, dimensions };
        let unit = shape(None, Some(2)).apply(fused, &[3.0, 4.0, 12.0]);
        assert_eq!(unit, [0.6, 0.8]);
        assert_eq!(shape(Some(false), Some(2)).apply(fused, &[3.0, 4.0, 12.0]), [3.0, 4.0]);
        assert_eq!(shape(None, None).apply(slot, &[0.6, 0.8]), [0.6, 0.8]);
        assert!(shape(None, Some(0)).check(fused).is_err());
        assert!(shape(None, Some(1537)).check(fused).is_err());
        assert!(shape(None, Some(1536)).check(fused).is_ok());
        assert!(shape(None, Some(385)).check(slot).is_err());
        assert!(shape(Some(false), None).check(slot).is_err());
    }

    #[test]
    fn pictures_are_told_by_their_first_bytes() {
        let png = image(vec![0x89, b'P', b'N', b'G', 0]).unwrap();
        assert!(matches!(png, ModelInput::Image { format: ImageFormat::Png, .. }));
        assert!(matches!(image(Vec::new()), Err(EmbeddingError::EmptyInput { .. })));
        assert!(matches!(image(vec![0; 9]), Err(EmbeddingError::InvalidImage { .. })));
    }
}
