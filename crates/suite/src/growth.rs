//! How cost grows with the number of models, and what a pause costs.

use std::error::Error;
use std::io::Write;
use std::time::Duration;

use calor_device::Driver;
use calor_embed::ModelId;
use serde_json::json;

use crate::pipeline::{PipelineFiles, Texts, median, sample, words_for};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Texts and tokens of each, and calls, of pipelines with some of the models.
const SIZES_OF_MODELS: [[usize; 3]; 3] = [[1, 32, 100], [8, 128, 40], [32, 128, 30]];

/// How cost grows with the number of models that weights stand behind: pipelines of the first of
/// them, one by one more, without the fusion. Each line of `record` is an object of JSON.
///
/// # Errors
/// What the pipelines say.
pub fn by_models(
    driver: &dyn Driver,
    files: &PipelineFiles,
    out: &mut dyn Write,
    record: &mut dyn Write,
) -> Outcome<()> {
    let behind: Vec<ModelId> = ModelId::iter().filter(|it| it.is_pretrained()).collect();
    writeln!(out, "models  items x tokens  median us")?;
    for count in 1..=behind.len() {
        let (mut core, _) = files.warm_with(driver, behind[..count].to_vec())?;
        let mut texts = Texts { seed: 7 };
        for [items, tokens, runs] in SIZES_OF_MODELS {
            let words = words_for(&core, tokens)?;
            let run_ns = sample(&mut core, &mut texts, [items, words, runs])?.run_ns;
            let middle_us = median(&run_ns, 5) as f64 / 1e3;
            writeln!(out, "{count:>6} {items:>6} x {tokens:<6} {middle_us:>10.1}")?;
            let line = json!({
                "what": "models", "models": count, "items": items, "tokens": tokens,
                "run_ns": run_ns,
            });
            writeln!(record, "{line}")?;
        }
    }
    Ok(())
}

/// One text of 32 tokens behind each of `pauses` pauses, and behind each as many again at once.
///
/// # Errors
/// What the pipeline says.
pub fn after_idle(
    driver: &dyn Driver,
    files: &PipelineFiles,
    (pauses, pause): (usize, Duration),
    out: &mut dyn Write,
    record: &mut dyn Write,
) -> Outcome<()> {
    let (mut core, _) = files.warm(driver)?;
    let (words, mut texts) = (words_for(&core, 32)?, Texts { seed: 7 });
    sample(&mut core, &mut texts, [1, words, 300])?;
    for _ in 0..pauses {
        std::thread::sleep(pause);
        let run_ns = sample(&mut core, &mut texts, [1, words, 300])?.run_ns;
        let (first, middle) = (run_ns[0] as f64, median(&run_ns, 20) as f64);
        writeln!(
            out,
            "after {} s idle: first {:.0} us, later {:.0} us, ratio {:.2}",
            pause.as_secs(),
            first / 1e3,
            middle / 1e3,
            first / middle,
        )?;
        let line = json!({ "what": "idle", "pause_s": pause.as_secs(), "run_ns": run_ns });
        writeln!(record, "{line}")?;
    }
    Ok(())
}
