//! A sentence encoder on the processor, timed by rounds that are asked for on standard input.
//!
//! Arguments: the checkpoint's directory, a file of little-endian 32-bit ids, the number of
//! texts, the calls before the first round, the threads and the most tokens in one program run.
//! Every line of standard input holds a number of calls; every answer is one line of JSON. The
//! line `steps` is answered with the time of each step of the last program run.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{BufRead, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use calor_device::{Driver, Profile};
use calor_device_cpu::CpuDriver;
use calor_embed::InferencePrecision;
use calor_embed::embedder::{CheckpointEmbedder, EmbedItem, EmbedOutput, EmbedderOptions};
use calor_embed::input::Role;
use calor_embed::packing::Bucket;
use calor_embed::tokenizer::LongTokens;
use calor_runtime::{Build, Capabilities, Choices, PlanStep};
use calor_telemetry::{Counters, Null, Stopwatch};
use serde_json::{Value, json};

const USAGE: &str = "usage: minilm DIR IDS TEXTS WARM THREADS BATCH_TOKENS";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.len() == 1 {
        writeln!(std::io::stdout(), "{USAGE}")?;
        return Ok(());
    }
    let [_, dir, ids, texts, warm, threads, batch_tokens] = arguments.as_slice() else {
        return Err(USAGE.into());
    };
    let text_count: usize = texts.parse()?;
    let batch_tokens_max = batch_tokens.parse()?;
    let threads = threads.parse()?;
    let items = items(Path::new(ids), text_count)?;
    let profile = Profile::new();
    let driver =
        CpuDriver { threads, level: None, memory_bytes: None, profile: Some(profile.clone()) };
    let device = driver.open(0)?;
    let capabilities =
        Capabilities { claims: device.claims, parallel_count: device.signature.parallel_count };
    let versions = json!({ "calor": env!("CARGO_PKG_VERSION"), "threads": threads,
        "arch": device.signature.arch, "batch_tokens_max": batch_tokens_max });
    let build = Build::new(device, u64::MAX, Arc::new(Counters::new()), Arc::new(Null));
    let options = EmbedderOptions {
        pooling: None,
        normalize: Some(true),
        sequence_tokens_max: None,
        long_text: LongTokens::Refuse,
        batch_tokens_max,
        thread_count: NonZeroUsize::MIN,
        role: Role::Passage,
        precision: InferencePrecision::FP32,
    };
    let mut embedder = CheckpointEmbedder::open(build, Path::new(dir), options)?;

    let watch = Stopwatch::start();
    let vectors = embed(&mut embedder, &items)?;
    let first_ns = watch.elapsed_ns();
    for _ in 0..warm.parse::<usize>()? {
        embed(&mut embedder, &items)?;
    }
    answer(&json!({ "versions": versions, "first_ns": first_ns, "vectors": vectors.concat() }))?;

    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line.trim() == "steps" {
            profile.take();
            embed(&mut embedder, &items)?;
            answer(&steps(&embedder, &profile, &capabilities, batch_tokens_max)?)?;
            continue;
        }
        let mut samples_ns = Vec::new();
        for _ in 0..line.trim().parse::<usize>()? {
            let watch = Stopwatch::start();
            let again = embed(&mut embedder, &items)?;
            samples_ns.push(watch.elapsed_ns());
            if again.len() != vectors.len() {
                return Err("a call gave another number of vectors".into());
            }
        }
        answer(&json!({ "samples_ns": samples_ns }))?;
    }
    Ok(())
}

fn items(file: &Path, text_count: usize) -> Result<Vec<EmbedItem>, Box<dyn Error>> {
    let bytes = std::fs::read(file)?;
    let ids: Vec<u32> =
        bytes.chunks_exact(4).map(|it| u32::from_le_bytes([it[0], it[1], it[2], it[3]])).collect();
    Ok(ids.chunks(ids.len() / text_count).map(|it| EmbedItem::Ids(it.to_vec())).collect())
}

fn embed(
    embedder: &mut CheckpointEmbedder,
    items: &[EmbedItem],
) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let mut vectors = Vec::with_capacity(items.len());
    for result in embedder.embed(items)? {
        match result?.output {
            EmbedOutput::Vector(vector) => vectors.push(vector),
            EmbedOutput::Tokens(_) => return Err("the checkpoint gives rows of tokens".into()),
        }
    }
    Ok(vectors)
}

/// Label, nanoseconds and operations of each step of the last run.
fn steps(
    embedder: &CheckpointEmbedder,
    profile: &Profile,
    capabilities: &Capabilities,
    batch_tokens_max: usize,
) -> Result<Value, Box<dyn Error>> {
    let tower = embedder.text_tower().ok_or("the checkpoint has no text tower")?;
    let bucket = Bucket::smallest(tower.ladder(), batch_tokens_max, 1).ok_or("no such bucket")?;
    let plan = calor_runtime::plan(&tower.graph(bucket)?, capabilities, &Choices::default())?;
    let times = profile.take().pop().ok_or("nothing has run")?.steps;
    if times.len() != plan.steps.len() {
        return Err("the last run was of another program".into());
    }
    let rows = plan.steps.iter().zip(times).map(|(step, (_, ns))| match step {
        PlanStep::Run { label, flops, moved_bytes, .. } => json!([label, ns, flops, moved_bytes]),
        PlanStep::Copy { to, .. } => json!(["copy", ns, 0, 2 * to.len]),
    });
    Ok(json!({ "bucket_tokens": bucket.token_count, "steps": rows.collect::<Vec<_>>() }))
}

fn answer(value: &Value) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}
