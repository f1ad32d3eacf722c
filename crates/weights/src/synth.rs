//! Checkpoints of real size and form with seeded random values.
//!
//! For measuring and testing without published weights: what is computed with them means
//! nothing. Each directory has the published shapes, tensor names and special ids, and loads
//! in the families' reference implementation too. A tensor's values depend only on the seed,
//! the model and the tensor's name.

use std::{
    fs,
    num::NonZero,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use serde_json::{Value, json};

use crate::{
    Dtype, EncoderConfig, Head, ModelConfig, Progress, ProgressStep, WeightsError,
    container::{ContainerWriter, Planned},
    names::{Need, head_needs, tower_needs},
    source::remove_tree,
};

mod form;
mod normal;
mod tokenizer;

use form::{Layout, Size};

/// How large the models are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SynthProfile {
    /// The published sizes: 1.29 billion values in all.
    Full,
    /// Two narrow layers and a small vocabulary: a few hundred kilobytes each.
    Tiny,
}

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct SynthOptions<'a> {
    /// How large.
    pub profile: SynthProfile,
    /// Chooses all values.
    pub seed: u64,
    /// Type of the stored values: F32, F16 or Bf16.
    pub dtype: Dtype,
    /// Which of [`SYNTH_MODELS`].
    pub models: &'a [&'a SynthModel],
}

/// One model that can be written.
#[derive(Debug, PartialEq, Eq)]
pub struct SynthModel {
    /// Place in the table of twelve embedders, `E1` … `E12`.
    pub slot: &'static str,
    /// The directory's name: that of the published repository, without its owner.
    pub name: &'static str,
    layout: Layout,
    size: Size,
    head: Head,
    /// Longest text, and whether vectors are normalised, as sentence-transformers says.
    sentence: Option<(usize, bool)>,
}

const BASE: Size = Size { layers: 12, hidden: 768, heads: 12, ffn: 3072 };
const LARGE: Size = Size { layers: 24, hidden: 1024, heads: 16, ffn: 4096 };
const MINI: Size = Size { layers: 6, hidden: 384, heads: 12, ffn: 1536 };
const TINY: Size = Size { layers: 2, hidden: 32, heads: 2, ffn: 64 };
const PLAIN: Layout = Layout::Bert { prefix: "", architecture: "BertModel" };

/// Every model that can be written: those of the twelve embedders that have weights.
// tidy: table
pub static SYNTH_MODELS: &[SynthModel] = &[
    SynthModel {
        slot: "E1",
        name: "e5-large-v2",
        layout: PLAIN,
        size: LARGE,
        head: Head::None,
        sentence: Some((512, true)),
    },
    SynthModel {
        slot: "E5",
        name: "longformer-base-4096",
        layout: Layout::Longformer,
        size: BASE,
        head: Head::None,
        sentence: None,
    },
    SynthModel {
        slot: "E6",
        name: "splade-cocondenser-ensembledistil",
        layout: Layout::Bert { prefix: "bert.", architecture: "BertForMaskedLM" },
        size: BASE,
        head: Head::MaskedLm,
        sentence: None,
    },
    SynthModel {
        slot: "E7",
        name: "codet5p-110m-embedding",
        layout: Layout::CodeT5,
        size: BASE,
        head: Head::FirstTokenProjection { out_len: 256 },
        sentence: None,
    },
    SynthModel {
        slot: "E8",
        name: "paraphrase-MiniLM-L6-v2",
        layout: PLAIN,
        size: MINI,
        head: Head::None,
        sentence: Some((128, false)),
    },
    SynthModel {
        slot: "E10",
        name: "clip-vit-large-patch14",
        layout: Layout::Clip,
        size: BASE,
        head: Head::SharedProjection { out_len: 768 },
        sentence: None,
    },
    SynthModel {
        slot: "E11",
        name: "all-MiniLM-L6-v2",
        layout: PLAIN,
        size: MINI,
        head: Head::None,
        sentence: Some((256, true)),
    },
    SynthModel {
        slot: "E12",
        name: "colbertv2.0",
        layout: Layout::Bert { prefix: "bert.", architecture: "HF_ColBERT" },
        size: BASE,
        head: Head::TokenProjection { out_len: 128 },
        sentence: None,
    },
];

/// Writes one directory per model below `dir`; returns them in order.
///
/// A directory that is there is replaced once its successor is complete. Memory stays within
/// a few MiB per core. Progress is reported under `<name>/model.safetensors`.
///
/// # Errors
/// [`WeightsError::Io`], [`WeightsError::DiskFull`], [`WeightsError::Cancelled`].
///
/// # Panics
/// When `options.dtype` is none of the three float types.
pub fn synth(
    options: &SynthOptions<'_>,
    dir: &Path,
    progress: &mut dyn Progress,
) -> Result<Vec<PathBuf>, WeightsError> {
    assert!(options.dtype.widens(), "{:?} holds no weights", options.dtype);
    let mut out = Vec::with_capacity(options.models.len());
    for model in options.models {
        let partial = dir.join(format!(".{}.partial", model.name));
        remove_tree(&partial)?;
        fs::create_dir_all(&partial).map_err(|it| WeightsError::io("create", &partial, it))?;
        let written = model.write(options, &partial, progress);
        if written.is_err() {
            remove_tree(&partial)?;
        }
        written?;
        let path = dir.join(model.name);
        remove_tree(&path)?;
        fs::rename(&partial, &path).map_err(|it| WeightsError::io("move", &path, it))?;
        out.push(path);
    }
    Ok(out)
}

impl SynthModel {
    fn write(
        &self,
        options: &SynthOptions<'_>,
        dir: &Path,
        progress: &mut dyn Progress,
    ) -> Result<(), WeightsError> {
        let form = self.form(options.profile);
        let dtype_name = match options.dtype {
            Dtype::F16 => "float16",
            Dtype::Bf16 => "bfloat16",
            _ => "float32",
        };
        let mut config = form.config;
        config["torch_dtype"] = json!(dtype_name);
        put(dir, "config.json", &config)?;
        put(dir, "tokenizer.json", &form.tokenizer)?;
        put(dir, "tokenizer_config.json", &form.tokenizer_config)?;
        if let Some((max_tokens, normalize)) = self.sentence {
            self.write_sentence(dir, &config, max_tokens, normalize)?;
        }
        let path = dir.join("config.json");
        let config = ModelConfig::from_json(&path, &config.to_string())?;
        self.write_tensors(options, &config, form.head, dir, progress)
    }

    fn write_sentence(
        &self,
        dir: &Path,
        config: &Value,
        max_tokens: usize,
        normalize: bool,
    ) -> Result<(), WeightsError> {
        let class = |name: &str| format!("sentence_transformers.models.{name}");
        let mut modules = vec![
            json!({ "idx": 0, "name": "0", "path": "", "type": class("Transformer") }),
            json!({ "idx": 1, "name": "1", "path": "1_Pooling", "type": class("Pooling") }),
        ];
        if normalize {
            modules.push(
                json!({ "idx": 2, "name": "2", "path": "2_Normalize", "type": class("Normalize") }),
            );
        }
        put(dir, "modules.json", &Value::Array(modules))?;
        let limit = json!({ "max_seq_length": max_tokens, "do_lower_case": false });
        put(dir, "sentence_bert_config.json", &limit)?;
        let pooling_dir = dir.join("1_Pooling");
        fs::create_dir(&pooling_dir).map_err(|it| WeightsError::io("create", &pooling_dir, it))?;
        let pooling = json!({
            "word_embedding_dimension": config["hidden_size"],
            "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true,
            "pooling_mode_max_tokens": false, "pooling_mode_mean_sqrt_len_tokens": false,
        });
        put(&pooling_dir, "config.json", &pooling)
    }

    fn write_tensors(
        &self,
        options: &SynthOptions<'_>,
        config: &ModelConfig,
        head: Head,
        dir: &Path,
        progress: &mut dyn Progress,
    ) -> Result<(), WeightsError> {
        let prefix = match self.layout {
            Layout::Bert { prefix, .. } => prefix,
            Layout::Longformer => "longformer.",
            Layout::CodeT5 | Layout::Clip => "",
        };
        let mut tensors: Vec<(String, Need, Spread)> = Vec::new();
        for (tower, encoder) in config.towers() {
            for need in tower_needs(config, tower) {
                let spread = spread(&need, encoder);
                tensors.push((format!("{prefix}{}", need.stored[0]), need, spread));
            }
        }
        let (_, encoder) = config.towers()[0];
        for need in head_needs(config, head) {
            let spread = spread(&need, encoder);
            tensors.push((need.stored[0].clone(), need, spread));
        }
        let mut planned: Vec<Planned> = tensors
            .iter()
            .map(|(name, need, _)| (name.clone(), options.dtype, need.stored_shape.clone()))
            .collect();
        if self.layout == Layout::Clip {
            planned.push(("logit_scale".into(), options.dtype, Vec::new()));
        }

        let total_bytes = planned
            .iter()
            .map(|(_, dtype, shape)| shape.iter().product::<usize>() as u64 * dtype.element_bytes())
            .sum();
        let file = format!("{}/model.safetensors", self.name);
        let writer = ContainerWriter::create(&dir.join("model.safetensors"), &planned)?;
        let mut stream = Stream { writer, file, done_bytes: 0, total_bytes, progress };
        for (name, need, spread) in &tensors {
            let key = tensor_key(options.seed, self.name, name);
            let count = need.stored_shape.iter().product::<usize>() as u64;
            stream.write(key, count, *spread, options.dtype)?;
        }
        if self.layout == Layout::Clip {
            let spread = Spread { mean: 4.6052, deviation: 0.0 };
            stream.write([0; 32], 1, spread, options.dtype)?;
        }
        stream.writer.finish()
    }
}

/// Values are `mean + deviation · z` with a standard normal `z`.
#[derive(Clone, Copy, Debug)]
struct Spread {
    mean: f32,
    deviation: f32,
}

/// Deviation of embeddings and biases: what these families are initialised with.
const EMBED_DEVIATION: f32 = 0.02;

/// A spread at which activations stay of order one through the whole stack.
fn spread(need: &Need, encoder: &EncoderConfig) -> Spread {
    let name = need.canonical.as_str();
    let fan_in: usize = need.shape[1..].iter().product();
    let unit = (fan_in as f32).sqrt().recip();
    let (mean, deviation) = if name.ends_with("norm.weight") {
        (1.0, 0.05)
    } else if name.ends_with("mlm.decoder.bias") {
        // A few hundred terms of a text stay above zero, as in the real model. A logit is a
        // normed state of order one times an embedding.
        let logit = EMBED_DEVIATION * (encoder.hidden_len as f32).sqrt();
        (-2.7 * logit, 0.5 * logit)
    } else if name.ends_with(".bias") || name.contains("embed.") {
        (0.0, EMBED_DEVIATION)
    } else if name.ends_with("attn.relative_bias") {
        (0.0, 0.5)
    } else if name.contains(".attn.q") && encoder.attention_scale.is_some() {
        (0.0, unit / (encoder.head_len as f32).sqrt()) // The scale is in the weights.
    } else if encoder.pre_norm && (name.ends_with("attn.o.weight") || name.contains("ffn.down")) {
        (0.0, unit / (2.0 * encoder.layer_count as f32).sqrt()) // The residual sums up layers.
    } else {
        (0.0, unit)
    };
    Spread { mean, deviation }
}

fn tensor_key(seed: u64, model: &str, tensor: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("calor synthetic weights, version 1");
    hasher.update(&seed.to_le_bytes());
    for part in [model, tensor] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// Values that one core makes at a time.
const PIECE_LEN: u64 = 1 << 18;

struct Stream<'a> {
    writer: ContainerWriter,
    file: String,
    done_bytes: u64,
    total_bytes: u64,
    progress: &'a mut dyn Progress,
}

impl Stream<'_> {
    /// Appends `count` values; pieces are made on all cores and written in order.
    fn write(
        &mut self,
        key: [u8; 32],
        count: u64,
        spread: Spread,
        dtype: Dtype,
    ) -> Result<(), WeightsError> {
        let core_count = std::thread::available_parallelism().map_or(1, NonZero::get) as u64;
        for begin in (0..count).step_by((PIECE_LEN * core_count) as usize) {
            let pieces: Vec<Vec<u8>> = std::thread::scope(|scope| {
                let runs: Vec<_> = (0..core_count)
                    .map(|core| begin + core * PIECE_LEN)
                    .filter(|begin| *begin < count)
                    .map(|begin| {
                        let len = PIECE_LEN.min(count - begin) as usize;
                        scope.spawn(move || piece(key, begin, len, spread, dtype))
                    })
                    .collect();
                runs.into_iter().map(|it| it.join().expect("no panic")).collect()
            });
            for piece in pieces {
                self.writer.write(&piece)?;
                self.done_bytes += piece.len() as u64;
            }
            let Self { file, done_bytes, total_bytes, .. } = self;
            let step =
                ProgressStep { file, done_bytes: *done_bytes, total_bytes: Some(*total_bytes) };
            if self.progress.step(&step).is_break() {
                return Err(WeightsError::Cancelled { origin: format!("synth {file}") });
            }
        }
        Ok(())
    }
}

/// Stored bytes of values `begin .. begin + len`.
fn piece(key: [u8; 32], begin: u64, len: usize, spread: Spread, dtype: Dtype) -> Vec<u8> {
    let mut values = vec![0.0; len];
    normal::fill_normal(key, begin, &mut values);
    values.iter_mut().for_each(|it| *it = spread.mean + spread.deviation * *it);
    match dtype {
        Dtype::F16 => values.iter().flat_map(|it| f16::from_f32(*it).to_le_bytes()).collect(),
        Dtype::Bf16 => values.iter().flat_map(|it| bf16::from_f32(*it).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|it| it.to_le_bytes()).collect(),
    }
}

fn put(dir: &Path, name: &str, value: &Value) -> Result<(), WeightsError> {
    let path = dir.join(name);
    fs::write(&path, format!("{value:#}\n")).map_err(|it| WeightsError::io("write", &path, it))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checkpoint, Weights};

    fn bind(dir: &Path) -> Weights {
        let checkpoint = Checkpoint::open(dir).unwrap();
        let config = checkpoint.config().unwrap();
        Weights::bind(checkpoint, &config).unwrap()
    }

    fn tiny<'a>(models: &'a [&'a SynthModel], seed: u64, dtype: Dtype) -> SynthOptions<'a> {
        SynthOptions { profile: SynthProfile::Tiny, seed, dtype, models }
    }

    #[test]
    fn every_tiny_model_binds_with_its_head() {
        let dir = tempfile::tempdir().unwrap();
        let models: Vec<&SynthModel> = SYNTH_MODELS.iter().collect();
        let paths = synth(&tiny(&models, 1, Dtype::F32), dir.path(), &mut ()).unwrap();
        assert_eq!(paths.len(), 8);
        for (model, path) in models.iter().zip(paths) {
            let weights = bind(&path);
            let same =
                std::mem::discriminant(&weights.head()) == std::mem::discriminant(&model.head);
            assert!(same, "{}: {:?}", model.name, weights.head());
            let unused: &[&str] = if model.layout == Layout::Clip { &["logit_scale"] } else { &[] };
            assert_eq!(weights.unused(), unused, "{}", model.name);
            let bytes: u64 = weights.checkpoint().file_digests().unwrap()[0].file_bytes;
            assert!(bytes < 600_000, "{}: {bytes}", model.name);
            let sentence = weights.checkpoint().sentence().unwrap();
            assert_eq!(sentence.and_then(|it| it.max_tokens), model.sentence.map(|it| it.0));
            assert!(weights.checkpoint().tokenizer_path().is_some());
        }
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 8);
    }

    #[test]
    fn seeds_models_and_types_decide_the_values() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (&SYNTH_MODELS[4], &SYNTH_MODELS[6]);
        let read = |seed, dtype| {
            let models = [a, b];
            let paths = synth(&tiny(&models, seed, dtype), dir.path(), &mut ()).unwrap();
            paths
                .iter()
                .map(|path| {
                    let weights = bind(path);
                    let mut out = vec![0.0; 32 * 32];
                    weights.read_f32("layer.1.attn.q.weight", &mut out).unwrap();
                    out
                })
                .collect::<Vec<_>>()
        };
        let first = read(1, Dtype::F32);
        assert_eq!(first, read(1, Dtype::F32));
        assert_ne!(first, read(2, Dtype::F32));
        assert_ne!(first[0], first[1]);
        let deviation =
            (first[0].iter().map(|it| it * it).sum::<f32>() / first[0].len() as f32).sqrt();
        assert!((deviation * 32_f32.sqrt() - 1.0).abs() < 0.1, "{deviation}");
        let halves = read(1, Dtype::Bf16);
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= a.abs() / 128.0;
        assert!(first[0].iter().zip(&halves[0]).all(near) && first != halves);
    }

    #[test]
    fn full_configurations_have_the_published_sizes() {
        let mut total = 0;
        for model in SYNTH_MODELS {
            let form = model.form(SynthProfile::Full);
            let config = ModelConfig::from_json(Path::new("c"), &form.config.to_string()).unwrap();
            let needs = config.towers().into_iter().flat_map(|(it, _)| tower_needs(&config, it));
            let count: usize = needs
                .chain(head_needs(&config, form.head))
                .map(|it| it.shape.iter().product::<usize>())
                .sum();
            let published_millions = match model.slot {
                "E1" => 334,
                "E5" => 148,
                "E12" => 108,
                "E6" | "E7" => 109,
                "E8" | "E11" => 22,
                _ => 427,
            };
            assert_eq!(count / 1_000_000, published_millions, "{} {count}", model.name);
            total += count;
        }
        assert!(total > 1_280_000_000, "{total}");
    }

    #[test]
    fn stopping_leaves_nothing() {
        struct Stop;
        impl Progress for Stop {
            fn step(&mut self, _step: &ProgressStep<'_>) -> std::ops::ControlFlow<()> {
                std::ops::ControlFlow::Break(())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let models = [&SYNTH_MODELS[0]];
        let err = synth(&tiny(&models, 1, Dtype::F32), dir.path(), &mut Stop).unwrap_err();
        assert!(matches!(err, WeightsError::Cancelled { .. }), "{err}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
