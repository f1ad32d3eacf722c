//! A sentence encoder on Candle, timed by rounds that are asked for on standard input.
//!
//! Arguments: the checkpoint's directory, a file of little-endian 32-bit ids, the number of
//! texts, and the calls before the first round. Threads are Candle's own: `RAYON_NUM_THREADS`.
//! Every line of standard input holds a number of calls; every answer is one line of JSON.
//!
//! `--arm DIR TEXTS TOKENS SAMPLES` makes the ids of `calor bench arm embed.checkpoint` and answers
//! as suites ask for it.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config, HiddenAct, PositionEmbeddingType};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--arm", dir, texts, tokens, samples] => {
            arm(Path::new(dir), texts.parse()?, tokens.parse()?, samples.parse()?)
        }
        [dir, ids, texts, warm] => rounds(Path::new(dir), ids, texts.parse()?, warm.parse()?),
        _ => Err("usage: candle-minilm DIR IDS TEXTS WARM | --arm DIR TEXTS TOKENS SAMPLES".into()),
    }
}

/// The model with texts that are given to it.
struct Peer {
    model: BertModel,
    ids: Tensor,
    types: Tensor,
    mask: Tensor,
}

impl Peer {
    fn open(dir: &Path, ids: Vec<u32>, text_count: usize) -> Result<Self, Box<dyn Error>> {
        let token_count = ids.len() / text_count;
        let device = Device::Cpu;
        let data = std::fs::read(dir.join("model.safetensors"))?;
        let weights = VarBuilder::from_buffered_safetensors(data, DType::F32, &device)?;
        let model = BertModel::load(weights, &config(dir)?)?;
        let ids = Tensor::from_vec(ids, (text_count, token_count), &device)?;
        let (types, mask) = (ids.zeros_like()?, ids.ones_like()?);
        Ok(Self { model, ids, types, mask })
    }

    fn embed(&self) -> candle_core::Result<Vec<f32>> {
        let states = self.model.forward(&self.ids, &self.types, Some(&self.mask))?;
        // Every token is real, so the mean needs no mask.
        let mean = states.mean(1)?;
        let length = mean.sqr()?.sum_keepdim(1)?.sqrt()?;
        mean.broadcast_div(&length)?.flatten_all()?.to_vec1()
    }
}

fn versions() -> Value {
    json!({
        "candle": "0.11.1",
        "avx": candle_core::utils::with_avx().to_string(),
        "threads": candle_core::utils::get_num_threads().to_string(),
    })
}

/// Embeds as often as each line of standard input asks for.
fn rounds(dir: &Path, ids: &str, texts: usize, warm: usize) -> Result<(), Box<dyn Error>> {
    let ids: Vec<u32> = std::fs::read(ids)?
        .chunks_exact(4)
        .map(|it| u32::from_le_bytes([it[0], it[1], it[2], it[3]]))
        .collect();
    let peer = Peer::open(dir, ids, texts)?;
    let watch = Instant::now();
    let vectors = peer.embed()?;
    let first_ns = watch.elapsed().as_nanos() as u64;
    for _ in 0..warm {
        peer.embed()?;
    }
    answer(&json!({ "versions": versions(), "first_ns": first_ns, "vectors": vectors }))?;

    for line in std::io::stdin().lock().lines() {
        let mut samples_ns = Vec::new();
        for _ in 0..line?.trim().parse::<usize>()? {
            let watch = Instant::now();
            let again = peer.embed()?;
            samples_ns.push(watch.elapsed().as_nanos() as u64);
            if again.len() != vectors.len() {
                return Err("a call gave another number of vectors".into());
            }
        }
        answer(&json!({ "samples_ns": samples_ns }))?;
    }
    Ok(())
}

/// How long calls warm up at least, and how often at most, as for our own arms.
const WARM_NS: u128 = 200_000_000;
const WARM_CALL_COUNT_MAX: usize = 200;
/// Numbers of a result that travel.
const VALUE_COUNT_MAX: usize = 64;

/// Opens, embeds once, warms up, takes samples and answers.
fn arm(dir: &Path, texts: usize, tokens: usize, samples: usize) -> Result<(), Box<dyn Error>> {
    let open = Instant::now();
    let peer = Peer::open(dir, made_ids(texts * tokens, config(dir)?.vocab_size), texts)?;
    let open_ns = open.elapsed().as_nanos() as u64;
    let watch = Instant::now();
    let vectors = peer.embed()?;
    let first_ns = watch.elapsed().as_nanos() as u64;
    answer(&json!({ "schema": "calor.arm/1.0", "event": "first" }))?;
    let (settle, mut count) = (Instant::now(), 0);
    while count < 2 || (settle.elapsed().as_nanos() < WARM_NS && count < WARM_CALL_COUNT_MAX) {
        peer.embed()?;
        count += 1;
    }
    let settle_ns = settle.elapsed().as_nanos() as u64;
    let mut samples_ns = Vec::new();
    for _ in 0..samples {
        let watch = Instant::now();
        let again = peer.embed()?;
        samples_ns.push(watch.elapsed().as_nanos() as u64);
        let is_near = |it: (&f32, &f32)| (it.0 - it.1).abs() <= 1e-4;
        if again.len() != vectors.len() || !again.iter().zip(&vectors).all(is_near) {
            return Err("a call gave another result than the first".into());
        }
    }
    let step = |name: &str, wall_ns: u64| json!({ "name": name, "wall_ns": wall_ns });
    answer(&json!({
        "schema": "calor.arm/1.0",
        "event": "done",
        "first_ns": first_ns,
        "samples_ns": samples_ns,
        "item_count": texts,
        "token_count": texts * tokens,
        "values": probes(&vectors),
        "versions": versions(),
        "device": "cpu",
        "peak_host_bytes": peak_host_bytes(),
        "warmup": [
            step("open", open_ns), step("first call", first_ns), step("settle", settle_ns),
        ],
    }))
}

/// `made_items` of `crates/bench/src/embedder.rs`.
fn made_ids(count: usize, vocab_count: usize) -> Vec<u32> {
    let mut state = 1_u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab_count as u64) as u32
    };
    (0..count).map(|_| next()).collect()
}

/// `probes` of `crates/measure/src/answer.rs`.
fn probes(result: &[f32]) -> Vec<f64> {
    let len = result.len() as f64;
    let all = || result.iter().map(|it| f64::from(*it));
    let mean = all().sum::<f64>() / len;
    let square = (all().map(|it| it * it).sum::<f64>() / len).sqrt();
    let count = result.len().min(VALUE_COUNT_MAX - 2);
    let spread = (0..count).map(|at| f64::from(result[at * result.len() / count]));
    [mean, square].into_iter().chain(spread).collect()
}

/// Most memory that was resident, where the system says.
fn peak_host_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn answer(value: &Value) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

fn config(dir: &Path) -> Result<Config, Box<dyn Error>> {
    let file: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json"))?)?;
    let count = |name: &str| -> Result<usize, Box<dyn Error>> {
        let count = file[name].as_u64().ok_or_else(|| format!("config.json has no `{name}`"))?;
        Ok(count as usize)
    };
    Ok(Config {
        vocab_size: count("vocab_size")?,
        hidden_size: count("hidden_size")?,
        num_hidden_layers: count("num_hidden_layers")?,
        num_attention_heads: count("num_attention_heads")?,
        intermediate_size: count("intermediate_size")?,
        hidden_act: HiddenAct::Gelu,
        hidden_dropout_prob: 0.0,
        max_position_embeddings: count("max_position_embeddings")?,
        type_vocab_size: count("type_vocab_size")?,
        initializer_range: 0.02,
        layer_norm_eps: file["layer_norm_eps"].as_f64().ok_or("config.json has no epsilon")?,
        pad_token_id: count("pad_token_id")?,
        position_embedding_type: PositionEmbeddingType::Absolute,
        use_cache: false,
        classifier_dropout: None,
        model_type: Some("bert".into()),
    })
}
