//! Memory of the small encoder: what stays resident at most, against what it must hold.

use calor_embed::packing::Bucket;
use calor_runtime::{Capabilities, Choices};

use crate::embedder::{Counted, executed, made_items, vocab_count};
use crate::error::BenchError;
use crate::host::{forget_peak, peak_rss_bytes};
use crate::measure::{Measure, Unit, digest_of};
use crate::scenario::{Context, Measured};

const NAME: &str = "memory.peak.minilm";

pub(super) fn measure(context: &Context<'_>) -> Result<Measured, BenchError> {
    let dir = context.checkpoint(NAME)?;
    let token_count = context.size.pick(16, 128);
    let text_count = context.size.pick(4, context.batch_tokens_max / token_count).max(1);
    forget_peak();
    let mut counted = Counted::open(context, dir)?;
    let items = made_items(text_count, token_count, vocab_count(&counted.embedder));
    let done = counted.embed(&items)?;
    let what = "a system that says how much memory is resident";
    let peak = peak_rss_bytes().ok_or(BenchError::Needs { scenario: NAME, what })?;
    executed("tokens", (text_count * token_count) as u64, done.token_count)?;
    let wrong = || BenchError::Wrong { scenario: NAME.into(), what: "no finite numbers" };
    let digest = digest_of(done.values).ok_or_else(wrong)?;

    let device = context.open()?;
    let capabilities =
        Capabilities { claims: device.claims, parallel_count: device.signature.parallel_count };
    let what = "a checkpoint of a text encoder";
    let tower = counted.embedder.text_tower();
    let tower = tower.ok_or(BenchError::Needs { scenario: NAME, what })?;
    let used = Bucket::smallest(tower.ladder(), text_count * token_count, text_count);
    let bucket = used.unwrap_or(tower.ladder()[tower.ladder().len() - 1]);
    let plan = calor_runtime::plan(&tower.graph(bucket)?, &capabilities, &Choices::default())?;
    let held = counted.embedder.programs().memory();
    let one = |name: &str, bytes: u64| Measure {
        name: format!("{NAME}.{name}"),
        unit: Unit::Bytes,
        samples: vec![bytes],
        first: None,
        runs_per_sample_count: 1,
        item_count: text_count as u64,
        token_count: done.token_count,
        moved_bytes: None,
        flops: None,
        digest,
    };
    Ok(vec![
        one("rss", peak),
        one("weights", held.weights_bytes),
        one("arena", held.arena_bytes),
        one("boundary", held.boundary_bytes),
        one("peak_live", plan.peak_live_bytes),
        one("floor", held.weights_bytes + plan.peak_live_bytes),
    ]
    .into())
}
