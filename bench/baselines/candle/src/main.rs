//! A sentence encoder on Candle, timed by rounds that are asked for on standard input.
//!
//! Arguments: the checkpoint's directory, a file of little-endian 32-bit ids, the number of
//! texts, and the calls before the first round. Threads are Candle's own: `RAYON_NUM_THREADS`.
//! Every line of standard input holds a number of calls; every answer is one line of JSON.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config, HiddenAct, PositionEmbeddingType};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, dir, ids, texts, warm] = arguments.as_slice() else {
        return Err("usage: candle-minilm DIR IDS TEXTS WARM".into());
    };
    let dir = Path::new(dir);
    let text_count: usize = texts.parse()?;
    let ids: Vec<u32> = std::fs::read(ids)?
        .chunks_exact(4)
        .map(|it| u32::from_le_bytes([it[0], it[1], it[2], it[3]]))
        .collect();
    let token_count = ids.len() / text_count;

    let device = Device::Cpu;
    let data = std::fs::read(dir.join("model.safetensors"))?;
    let weights = VarBuilder::from_buffered_safetensors(data, DType::F32, &device)?;
    let model = BertModel::load(weights, &config(dir)?)?;
    let ids = Tensor::from_vec(ids, (text_count, token_count), &device)?;
    let types = ids.zeros_like()?;
    let mask = ids.ones_like()?;
    let embed = || -> candle_core::Result<Vec<f32>> {
        let states = model.forward(&ids, &types, Some(&mask))?;
        // Every token is real, so the mean needs no mask.
        let mean = states.mean(1)?;
        let length = mean.sqr()?.sum_keepdim(1)?.sqrt()?;
        mean.broadcast_div(&length)?.flatten_all()?.to_vec1()
    };

    let watch = Instant::now();
    let vectors = embed()?;
    let first_ns = watch.elapsed().as_nanos() as u64;
    for _ in 0..warm.parse::<usize>()? {
        embed()?;
    }
    let versions = json!({
        "candle": "0.11.1",
        "avx": candle_core::utils::with_avx(),
        "threads": candle_core::utils::get_num_threads(),
    });
    answer(&json!({ "versions": versions, "first_ns": first_ns, "vectors": vectors }))?;

    for line in std::io::stdin().lock().lines() {
        let mut samples_ns = Vec::new();
        for _ in 0..line?.trim().parse::<usize>()? {
            let watch = Instant::now();
            let again = embed()?;
            samples_ns.push(watch.elapsed().as_nanos() as u64);
            if again.len() != vectors.len() {
                return Err("a call gave another number of vectors".into());
            }
        }
        answer(&json!({ "samples_ns": samples_ns }))?;
    }
    Ok(())
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
