//! A small sentence encoder in its steady state, with ids given: no tokenizer, no padding.

use crate::embedder::{Counted, executed, made_items, vocab_count};
use crate::error::BenchError;
use crate::scenario::{Calls, Context, Measured, timed};

/// How many texts of how many tokens.
pub(super) struct Texts {
    name: &'static str,
    text_count: usize,
    token_count: usize,
    sample_count: usize,
}

pub(super) static MANY: Texts =
    Texts { name: "embed.minilm.64x128", text_count: 64, token_count: 128, sample_count: 20 };
pub(super) static ONE: Texts =
    Texts { name: "embed.minilm.1x32", text_count: 1, token_count: 32, sample_count: 200 };

pub(super) fn measure(texts: &Texts, context: &Context<'_>) -> Result<Measured, BenchError> {
    let mut counted = Counted::open(context, context.checkpoint(texts.name)?)?;
    let text_count = context.size.pick(texts.text_count.min(3), texts.text_count);
    let token_count = context.size.pick(texts.token_count.min(16), texts.token_count);
    let items = made_items(text_count, token_count, vocab_count(&counted.embedder));
    let calls = Calls {
        warm_count: context.size.pick(1, 3),
        sample_count: context.size.pick(2, texts.sample_count),
    };
    let want = (text_count * token_count) as u64;
    let measure = timed(context, texts.name, calls, || {
        let done = counted.embed(&items)?;
        executed("tokens", want, done.token_count)?;
        Ok(done)
    })?;
    Ok(vec![measure].into())
}
