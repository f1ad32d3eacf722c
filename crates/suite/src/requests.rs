//! Requests through one sealed checkpoint: nothing is built, memory stays, and what comes out is
//! what the reference says.

use std::error::Error;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use calor_device::{Artifacts, Driver};
use calor_embed::embedder::{CheckpointEmbedder, EmbedItem, EmbedOutput, EmbedderOptions};
use calor_embed::embedding::cosine;
use calor_embed::input::Role;
use calor_embed::packing::Bucket;
use calor_embed::tokenizer::LongTokens;
use calor_embed::{Embedded, EmbeddingResult, InferencePrecision};
use calor_ir::oracle::{self, Tensor};
use calor_runtime::Build;
use calor_telemetry::clock::Stopwatch;
use calor_telemetry::{Counters, Null};

use crate::bench::artifacts;
use crate::pipeline::{BUILDING, resident_bytes};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Most items in a call, and most tokens of an item.
const ITEM_COUNT_MAX: u64 = 48;
const TOKEN_COUNT_MAX: u64 = 256;
/// Ids below are special in the vocabularies of the published models.
const FIRST_PLAIN_ID: u64 = 1000;
/// Real-size results that are compared with exact ones.
const COMPARED_COUNT: usize = 100;
/// What products in another precision may cost in cosine.
const COSINE_MIN: f64 = 0.999;
/// Elements of an f32 result against the oracle's.
const ORACLE_TOLERANCE: f64 = 1e-4;

/// A step of SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % end
    }

    fn ids(&mut self, len: u64, first: u64, end: u64) -> Vec<u32> {
        (0..len).map(|_| (first + self.below(end - first)) as u32).collect()
    }
}

fn open(
    driver: &dyn Driver,
    dir: &Path,
    precision: InferencePrecision,
    kept: &Arc<dyn Artifacts>,
    counters: &Arc<Counters>,
) -> Outcome<CheckpointEmbedder> {
    let build = Build::new(driver.open(0)?, u64::MAX, counters.clone(), Arc::new(Null));
    let options = EmbedderOptions {
        pooling: None,
        normalize: None,
        sequence_tokens_max: None,
        long_text: LongTokens::Truncate,
        batch_tokens_max: 4096,
        thread_count: NonZeroUsize::MIN,
        role: Role::Passage,
        precision,
    };
    Ok(CheckpointEmbedder::open(build.with_artifacts(kept.clone()), dir, options)?)
}

fn vector(result: EmbeddingResult<Embedded>) -> Outcome<Vec<f32>> {
    match result?.output {
        EmbedOutput::Vector(vector) => Ok(vector),
        EmbedOutput::Tokens(_) => Err("rows where a vector was expected".into()),
    }
}

/// What was sent, and results that are to be compared.
#[derive(Default)]
struct Sent {
    request_count: usize,
    call_count: u64,
    token_count: u64,
    samples: Vec<(EmbedItem, Vec<f32>)>,
}

/// Sends `count` requests of random length.
fn send(embedder: &mut CheckpointEmbedder, count: usize) -> Outcome<Sent> {
    let (end, mut numbers) = (embedder.vocab_count() as u64, Numbers(3));
    let mut sent = Sent::default();
    while sent.request_count < count {
        let items = (1 + numbers.below(ITEM_COUNT_MAX)).min((count - sent.request_count) as u64);
        let mut batch = Vec::with_capacity(items as usize);
        for _ in 0..items {
            let len = 1 + numbers.below(TOKEN_COUNT_MAX);
            sent.token_count += len;
            batch.push(EmbedItem::Ids(numbers.ids(len, FIRST_PLAIN_ID, end)));
        }
        let results = embedder.embed(&batch)?;
        let is_sampled = sent.samples.len() * (count / COMPARED_COUNT).max(1) <= sent.request_count;
        for (at, (item, result)) in batch.into_iter().zip(results).enumerate() {
            let vector = vector(result)?;
            let length: f32 = vector.iter().map(|it| it * it).sum();
            if (length - 1.0).abs() > 1e-3 {
                let request = sent.request_count + at;
                return Err(format!("request {request} has a vector of length {length}").into());
            }
            if is_sampled && at == 0 {
                sent.samples.push((item, vector));
            }
        }
        sent.request_count += items as usize;
        sent.call_count += 1;
    }
    Ok(sent)
}

/// Sends `count` requests of random length through the checkpoint in `dir`, sealed. Every
/// `count / 100`th result is compared with the same ids in f32 on `exact`, a driver that captures
/// nothing.
///
/// # Errors
/// When something is built, memory grows, or a result differs.
pub fn requests(
    driver: &dyn Driver,
    exact: &dyn Driver,
    dir: &Path,
    cache: &Path,
    count: usize,
    out: &mut dyn Write,
) -> Outcome<()> {
    let kept = artifacts(cache);
    let counters = Arc::new(Counters::new());
    let (mut embedder, ready) =
        open(driver, dir, InferencePrecision::BF16, &kept, &counters)?.warm()?;
    let mut reference =
        open(exact, dir, InferencePrecision::FP32, &kept, &Arc::new(Counters::new()))?;
    let (before, memory) = (counters.snapshot(), embedder.programs().memory());
    let resident = resident_bytes();
    let watch = Stopwatch::start();
    let Sent { request_count, call_count, token_count, samples } = send(&mut embedder, count)?;
    let seconds = watch.elapsed_ns() as f64 / 1e9;
    let change = counters.snapshot().since(&before);
    let resident_after = resident_bytes();
    let mut worst = 1.0_f64;
    for (item, vector) in &samples {
        let want = self::vector(reference.embed(std::slice::from_ref(item))?.remove(0))?;
        worst = worst.min(cosine(vector, &want));
    }
    writeln!(
        out,
        "{request_count} requests of {token_count} tokens in {call_count} calls, {seconds:.1} s, \
         {:.0} tokens/s; ready in {:.0} ms; {} compared with f32 step by step, worst cosine \
         {worst:.6}; resident memory {} to {} MiB; since the seal: {:?}",
        token_count as f64 / seconds,
        ready.wall_ns as f64 / 1e6,
        samples.len(),
        resident >> 20,
        resident_after >> 20,
        BUILDING.map(|it| (it, change.get(it))),
    )?;
    if BUILDING.iter().any(|it| change.get(*it) != 0) {
        return Err("something was built after the seal".into());
    }
    if embedder.programs().memory() != memory {
        return Err("device memory changed".into());
    }
    if worst < COSINE_MIN {
        return Err(format!("cosine {worst} to f32").into());
    }
    Ok(())
}

/// A sealed checkpoint of golden size in f32: `count` vectors of random ids are those of the
/// oracle, which runs the graph of the smallest bucket. The checkpoint's positions count from
/// zero.
///
/// # Errors
/// When one is not, or nothing runs.
pub fn against_oracle(driver: &dyn Driver, dir: &Path, count: usize) -> Outcome<()> {
    let kept: Arc<dyn Artifacts> = Arc::new(calor_device::NoArtifacts);
    let counters = Arc::new(Counters::new());
    let (mut embedder, _) =
        open(driver, dir, InferencePrecision::FP32, &kept, &counters)?.warm()?;
    let before = counters.snapshot();
    let bucket = Bucket { token_count: 64, sequence_count: 1 };
    let tower = embedder.text_tower().ok_or("no text encoder")?;
    let graph = tower.graph(bucket)?;
    let (source, limit) = (tower.spec().source.clone(), tower.sequence_tokens_max().min(64));
    let mut inputs: Vec<(String, Tensor)> = Vec::new();
    for (value, input) in graph.graph().inputs() {
        let ty = graph.graph().ty(value);
        let element_count = ty.shape.element_count();
        let mut data = vec![0.0_f32; element_count];
        if input.role == calor_ir::Role::Weight {
            source.read(&input.name, 0, &mut data)?;
        }
        let data = data.into_iter().map(f64::from).collect();
        inputs.push((input.name.clone(), Tensor { ty, data }));
    }
    let end = embedder.vocab_count() as u64;
    let mut numbers = Numbers(5);
    let lists: Vec<Vec<u32>> = (0..count)
        .map(|_| {
            let len = 1 + numbers.below(limit as u64);
            numbers.ids(len, 5, end)
        })
        .collect();
    let items: Vec<EmbedItem> = lists.iter().cloned().map(EmbedItem::Ids).collect();
    // Many in a call, so that most lie somewhere in a bucket among others.
    let mut got = Vec::with_capacity(count);
    for batch in items.chunks(37) {
        for result in embedder.embed(batch)? {
            got.push(vector(result)?);
        }
    }
    if BUILDING.iter().any(|it| counters.snapshot().since(&before).get(*it) != 0) {
        return Err("something was built after the seal".into());
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let each = count.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let pairs = lists.chunks(each).zip(got.chunks(each));
        let workers: Vec<_> = pairs
            .map(|(lists, got)| {
                let (graph, mut tensors) = (&graph, inputs.clone());
                scope.spawn(move || -> Outcome<()> {
                    for (ids, got) in lists.iter().zip(got) {
                        fill(&mut tensors, ids);
                        let values: Vec<Tensor> = tensors.iter().map(|it| it.1.clone()).collect();
                        let want = oracle::eval(graph, &values)?;
                        let want = &want.outputs[0].data[..got.len()];
                        let far = |(a, b): (&f32, &f64)| {
                            let gap = (f64::from(*a) - b).abs();
                            ORACLE_TOLERANCE * b.abs().max(1.0) < gap || gap.is_nan()
                        };
                        if got.iter().zip(want).any(far) {
                            return Err(format!("the vector of {ids:?} is not the oracle's").into());
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.join().map_err(|_| "a thread panicked")??;
        }
        Ok(())
    })
}

/// Writes the rows of one text as the graph's inputs.
fn fill(inputs: &mut [(String, Tensor)], ids: &[u32]) {
    let len = ids.len();
    for (name, tensor) in inputs {
        let row = |value: &dyn Fn(usize) -> f64| -> Vec<f64> {
            (0..tensor.data.len()).map(|at| if at < len { value(at) } else { 0.0 }).collect()
        };
        match name.as_str() {
            "ids" => tensor.data = row(&|at| f64::from(ids[at])),
            "positions" => tensor.data = row(&|at| at as f64),
            "types" | "lo" => tensor.data = row(&|_| 0.0),
            "hi" => tensor.data = row(&|_| len as f64),
            "seg_lo" => tensor.data = vec![0.0],
            "seg_hi" => tensor.data = vec![len as f64],
            _ => {}
        }
    }
}

#[test]
fn vectors_of_a_golden_model_are_those_of_the_oracle() {
    let driver =
        calor_device_cpu::CpuDriver { threads: 1, level: None, memory_bytes: None, profile: None };
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/bert");
    against_oracle(&driver, &dir, 12).unwrap();
}
