//! Tokens of inputs: what a request costs, and what happens to texts that are too long.

use std::sync::Arc;

use calor_embed::error::LengthUnit;
use calor_embed::input::ModelInput;
use calor_embed::pipeline::PreparedInput;
use calor_embed::tokenizer::{TextTokenizer, TokenCut, TokenLimit};
use calor_embed::{EmbeddingError, PipelineFront};

use crate::engine::Live;
use crate::options::Target;
use crate::refusal::Refusal;

/// What an image costs, in tokens.
const IMAGE_TOKEN_COUNT: usize = 100;

/// One input of a request.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// As the models take it.
    Whole(ModelInput),
    /// Ids of the target's tokenizer; they are made text again.
    Ids(Vec<u32>),
}

/// What happens to texts that are too long.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cut {
    /// Whether they are cut; as the server was told, where a request does not say.
    pub(crate) truncate: Option<bool>,
    /// Whether their beginning goes instead of their end.
    pub(crate) is_left: bool,
}

/// A text that was counted.
pub(crate) struct Counted {
    pub(crate) input: ModelInput,
    pub(crate) token_count: usize,
    /// What is gone of its beginning; its end is cut by the models.
    pub(crate) cut: Option<TokenCut>,
    /// What the device needs of it, where that is made in front of the queue.
    pub(crate) prepared: Option<PreparedInput>,
}

impl Input {
    /// Bytes to be counted.
    pub(crate) fn byte_count(&self) -> usize {
        match self {
            Self::Whole(input) => match input {
                ModelInput::Text { content, .. } | ModelInput::Code { content, .. } => {
                    content.len()
                }
                ModelInput::Image { .. } | ModelInput::Audio { .. } => 0,
            },
            Self::Ids(ids) => 4 * ids.len(),
        }
    }
}

impl Counted {
    fn of(input: ModelInput, token_count: usize) -> Self {
        Self { input, token_count, cut: None, prepared: None }
    }

    /// An input that is ready for all models as it is.
    pub(crate) fn whole(input: &ModelInput, prepared: PreparedInput) -> Option<Self> {
        let token_count = prepared.token_count().filter(|_| !prepared.is_truncated())?;
        Some(Self { input: input.clone(), token_count, cut: None, prepared: Some(prepared) })
    }

    /// Characters of a text.
    pub(crate) fn char_count(&self) -> usize {
        match &self.input {
            ModelInput::Text { content, .. } | ModelInput::Code { content, .. } => {
                content.chars().count()
            }
            ModelInput::Image { .. } | ModelInput::Audio { .. } => 0,
        }
    }
}

/// Inputs that are ready as they are, of those that are asked for.
pub(crate) fn prepared(
    front: &Arc<PipelineFront>,
    inputs: &[Input],
    now_s: i64,
    is_asked: impl Fn(&ModelInput) -> bool,
) -> Vec<Option<Counted>> {
    let whole = |it: &Input| match it {
        Input::Whole(input) => Some(input).filter(|it| is_asked(it)).cloned(),
        Input::Ids(_) => None,
    };
    let texts: Vec<Option<ModelInput>> = inputs.iter().map(whole).collect();
    let wanted: Vec<ModelInput> = texts.iter().flatten().cloned().collect();
    let mut made = front.prepare_each(&wanted, now_s).into_iter();
    let counted = |input: Option<ModelInput>| {
        let input = input?;
        Counted::whole(&input, made.next()?.ok()?)
    };
    texts.into_iter().map(counted).collect()
}

/// Counts every input that is not ready; what is wrong with one is said with its place.
pub(crate) fn count_each(
    live: &Live,
    target: Target,
    inputs: impl ExactSizeIterator<Item = (Input, Option<Counted>)>,
    truncate: bool,
    is_left: bool,
) -> Result<Vec<Counted>, Refusal> {
    let single = inputs.len() == 1;
    let one = |(index, (input, ready)): (usize, (Input, Option<Counted>))| {
        let counted = match ready {
            Some(counted) => Ok(counted),
            None => count(live, target, input, truncate, is_left),
        };
        counted.map_err(|source| match single {
            true => Refusal::Whole(source),
            false => Refusal::Input { index, source },
        })
    };
    inputs.enumerate().map(one).collect()
}

/// Counts an input, and cuts or refuses it where it is too long.
fn count(
    live: &Live,
    target: Target,
    input: Input,
    truncate: bool,
    is_left: bool,
) -> Result<Counted, EmbeddingError> {
    let tokenizer = live.tokenizer(target);
    let input = match input {
        Input::Whole(input) => input,
        Input::Ids(ids) => {
            let Some((tokenizer, _)) = tokenizer else {
                return Err(EmbeddingError::ConfigError {
                    field: "input",
                    value: "a list of ids".into(),
                    want: "the model has no tokenizer; send text",
                });
            };
            ModelInput::text(tokenizer.decode(&ids, true)?)?
        }
    };
    match input {
        ModelInput::Text { content, instruction } => {
            let (content, token_count, cut) = fit(tokenizer, content, truncate, is_left)?;
            let input = ModelInput::Text { content, instruction };
            Ok(Counted { cut, ..Counted::of(input, token_count) })
        }
        ModelInput::Code { content, language } => {
            let (content, token_count, cut) = fit(tokenizer, content, truncate, is_left)?;
            let input = ModelInput::Code { content, language };
            Ok(Counted { cut, ..Counted::of(input, token_count) })
        }
        input @ (ModelInput::Image { .. } | ModelInput::Audio { .. }) => {
            Ok(Counted::of(input, IMAGE_TOKEN_COUNT))
        }
    }
}

/// A text within the model's limit, its tokens, and what is gone of its beginning.
fn fit(
    tokenizer: Option<(&Arc<TextTokenizer>, TokenLimit)>,
    text: String,
    truncate: bool,
    is_left: bool,
) -> Result<(String, usize, Option<TokenCut>), EmbeddingError> {
    let Some((tokenizer, limit)) = tokenizer else {
        let token_count = 1 + text.len() / 4;
        return Ok((text, token_count, None));
    };
    let limit_max = limit.token_count_max;
    let token_count = tokenizer.count(&text, limit_max)?;
    if token_count <= limit_max {
        return Ok((text, token_count, None));
    }
    if !truncate {
        let got_len = tokenizer.pieces(&text, true)?.len();
        return Err(EmbeddingError::InputTooLong { got_len, limit_max, unit: LengthUnit::Tokens });
    }
    if !is_left {
        // The model's own tokenizer cuts the end.
        return Ok((text, limit_max, None));
    }
    let frame = tokenizer.opening().len() + tokenizer.closing().len();
    let room = limit_max - frame;
    let pieces = tokenizer.pieces(&text, false)?;
    let first = pieces.len().saturating_sub(room);
    let start = pieces.get(first).and_then(|it| it.range.as_ref()).map_or(0, |it| it.start);
    let start = text.ceil_char_boundary(start);
    let cut = TokenCut { token_count: pieces.len() + frame, kept_token_count: limit_max };
    Ok((text[start..].to_owned(), limit_max, Some(cut)))
}
