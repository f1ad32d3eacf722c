//! Vectors of whole checkpoints for a reference to be compared with: ids at length 1, at the
//! model's limit and between, and images.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use calor_device::Driver;
use calor_embed::embedder::{
    CheckpointEmbedder, EmbedItem, EmbedOutput, EmbedderOptions, PoolingChoice,
};
use calor_embed::input::Role;
use calor_embed::tokenizer::LongTokens;
use calor_embed::{EmbeddingResult, InferencePrecision};
use calor_runtime::Build;
use calor_telemetry::{Counters, Null};
use serde_json::json;

/// Ids below are special or unused in the vocabularies of the published models.
const FIRST_PLAIN_ID: usize = 1000;
/// Longest text that is not the longest possible.
const MIXED_LEN_MAX: usize = 300;

/// Writes a line of JSON for each folder of a checkpoint below `models`: its ids, and vectors of
/// each list of ids and of images. `bench/baselines/parity.py` compares them.
///
/// # Errors
/// When nothing can be read or written, or a checkpoint does not run.
pub fn record(
    driver: &dyn Driver,
    models: &Path,
    names: &[String],
    precision: InferencePrecision,
    out: &mut dyn Write,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut folders: Vec<_> = std::fs::read_dir(models)?.collect::<Result<_, _>>()?;
    folders.sort_by_key(std::fs::DirEntry::file_name);
    for folder in folders {
        let name = folder.file_name().to_string_lossy().into_owned();
        let is_wanted = names.is_empty() || names.iter().any(|it| name.contains(&**it));
        if !is_wanted || !folder.path().join("config.json").is_file() {
            continue;
        }
        let device = driver.open(0)?;
        let build = Build::new(device, u64::MAX, Arc::new(Counters::new()), Arc::new(Null));
        let mut embedder =
            CheckpointEmbedder::open(build, &folder.path(), options(&name, precision))?;
        let limit = embedder.text_tower().map_or(1, |it| it.sequence_tokens_max());
        let ids = lists(limit, embedder.vocab_count(), name.contains("clip"));
        let items: Vec<EmbedItem> = ids.iter().cloned().map(EmbedItem::Ids).collect();
        let vectors = vectors(embedder.embed(&items)?)?;
        let images = match embedder.image_element_count() {
            Some(count) => {
                let items: Vec<EmbedItem> =
                    (0..2).map(|at| EmbedItem::Pixels(pixels(at, count))).collect();
                self::vectors(embedder.embed(&items)?)?
            }
            None => Vec::new(),
        };
        let line = json!({
            "checkpoint": name, "precision": precision.word(), "ids": ids, "vectors": vectors,
            "images": images,
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// The checkpoint's own recipe, but for heads whose whole output is compared.
fn options(name: &str, precision: InferencePrecision) -> EmbedderOptions {
    let pooling = name.contains("splade").then_some(PoolingChoice::Splade);
    EmbedderOptions {
        pooling,
        normalize: None,
        sequence_tokens_max: Some(usize::MAX),
        long_text: LongTokens::Truncate,
        batch_tokens_max: 4096,
        thread_count: NonZeroUsize::MIN,
        role: Role::Passage,
        precision,
    }
}

/// Lists of ids: one of a single token, one as long as the model takes, and some between. A text
/// of CLIP ends with its last id, where it is pooled.
fn lists(limit: usize, vocab_count: usize, ends: bool) -> Vec<Vec<u32>> {
    let mixed = [1, limit, 2, 7, 33, 64, 129, MIXED_LEN_MAX].map(|it| it.min(limit));
    let first = FIRST_PLAIN_ID.min(vocab_count / 2);
    let plain = vocab_count - first - 2;
    let list = |(at, len): (usize, usize)| {
        let id = |place: usize| (first + (place * 7919 + at * 104_729 + 13) % plain) as u32;
        let mut ids: Vec<u32> = (0..len).map(id).collect();
        if let (true, Some(last)) = (ends, ids.last_mut()) {
            *last = vocab_count as u32 - 1;
        }
        ids
    };
    mixed.into_iter().enumerate().map(list).collect()
}

/// An image that the other side makes as well.
fn pixels(at: usize, count: usize) -> Vec<f32> {
    (0..count).map(|it| ((it * 7919 + at * 31) % 1009) as f32 / 504.5 - 1.0).collect()
}

fn vectors(results: Vec<EmbeddingResult<calor_embed::Embedded>>) -> EmbeddingResult<Vec<Vec<f32>>> {
    let flat = |output: EmbedOutput| match output {
        EmbedOutput::Vector(vector) => vector,
        EmbedOutput::Tokens(matrix) => matrix.rows().flatten().copied().collect(),
    };
    results.into_iter().map(|it| it.map(|it| flat(it.output))).collect()
}

#[cfg(test)]
mod tests {
    use calor_device_cpu::CpuDriver;
    use calor_weights::{Dtype, SYNTH_MODELS, SynthModel, SynthOptions, SynthProfile, synth};

    use super::*;

    #[test]
    fn every_checkpoint_leaves_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let models: Vec<&SynthModel> = SYNTH_MODELS.iter().collect();
        let (profile, seed, dtype) = (SynthProfile::Tiny, 3, Dtype::F32);
        synth(&SynthOptions { profile, seed, dtype, models: &models }, dir.path(), &mut ())
            .unwrap();
        let driver = CpuDriver { threads: 2, level: None, memory_bytes: None, profile: None };
        let mut out = Vec::new();
        record(&driver, dir.path(), &[], InferencePrecision::FP32, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
        assert_eq!(lines.len(), models.len());
        for line in &lines {
            let (ids, vectors) = (&line["ids"], &line["vectors"]);
            let (ids, vectors) = (ids.as_array().unwrap(), vectors.as_array().unwrap());
            assert_eq!((ids.len(), vectors.len()), (8, 8));
            assert_eq!(ids[0].as_array().unwrap().len(), 1);
            for vector in vectors {
                let vector = vector.as_array().unwrap();
                assert!(vector.iter().any(|it| it.as_f64() != Some(0.0)), "{}", line["checkpoint"]);
            }
        }
        let images = lines.iter().filter(|it| !it["images"].as_array().unwrap().is_empty());
        assert_eq!(images.count(), 1);
    }
}
