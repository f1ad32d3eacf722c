//! The pipeline of twelve models under load, sealed.

use std::error::Error;
use std::io::Write;

use calor_device::Driver;
use calor_embed::{InferencePrecision, ModelId, ModelInput, PipelineCore, PipelineOutput};
use calor_telemetry::clock::Stopwatch;

use crate::pipeline::{BUILDING, NOW_S, PipelineFiles, Texts, resident_bytes};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Sends `count` requests of random length through a warm pipeline: nothing may be built, and
/// memory stays as it was. Every `count / 100`th result is compared with the same text alone, and
/// with the same in f32 on `exact`, a driver that captures nothing.
///
/// # Errors
/// When something is built, memory grows, or results differ.
pub fn soak(
    driver: &dyn Driver,
    exact: &dyn Driver,
    files: &PipelineFiles,
    count: usize,
    out: &mut dyn Write,
) -> Outcome<()> {
    let (mut core, _) = files.warm(driver)?;
    let mut texts = Texts { seed: 11 };
    let before = core.programs().counters().snapshot();
    let memory = core.programs().memory();
    let resident = resident_bytes();
    let watch = Stopwatch::start();
    let (mut done, mut batches) = (0, 0_u64);
    let mut samples: Vec<(ModelInput, Vec<f32>)> = Vec::new();
    while done < count {
        let items = 1 + (texts.number() % 48) as usize;
        let items = items.min(count - done);
        let mut inputs = Vec::with_capacity(items);
        for _ in 0..items {
            let words = 1 + (texts.number() % 96) as usize;
            inputs.push(texts.text(words)?);
        }
        let outputs = core.embed_batch(&inputs, NOW_S)?;
        let mut outputs = outputs.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter();
        if samples.len() * (count / COMPARED_COUNT).max(1) <= done {
            let among = slots(&outputs.next().ok_or("no output")?)?;
            samples.push((inputs.remove(0), among));
        }
        done += items;
        batches += 1;
    }
    let seconds = watch.elapsed_ns() as f64 / 1e9;
    let alone = least_cosine(&mut core, &samples)?;
    let change = core.programs().counters().snapshot().since(&before);
    let resident_after = resident_bytes();
    let memory_after = core.programs().memory();
    drop(core);
    let (mut exactly, _) =
        PipelineFiles { precision: InferencePrecision::FP32, ..files.clone() }.warm(exact)?;
    let exactly = least_cosine(&mut exactly, &samples)?;
    writeln!(
        out,
        "{done} requests in {batches} batches, {seconds:.1} s, {:.0} items/s; of {} compared, the \
         worst cosine to themselves alone is {alone:.6}, to f32 step by step {exactly:.6}; \
         resident memory {} to {} MiB; since the seal: {:?}",
        done as f64 / seconds,
        samples.len(),
        resident >> 20,
        resident_after >> 20,
        BUILDING.map(|it| (it, change.get(it))),
    )?;
    for counter in BUILDING {
        if change.get(counter) != 0 {
            return Err(format!("{counter:?} after the seal: {}", change.get(counter)).into());
        }
    }
    if memory_after != memory {
        return Err("device memory changed".into());
    }
    if alone < COSINE_MIN || exactly < COSINE_MIN {
        return Err(format!("cosines of {alone} alone and {exactly} in f32").into());
    }
    Ok(())
}

/// Results of a load that are compared.
const COMPARED_COUNT: usize = 100;
/// What other neighbours and another precision may cost in cosine.
const COSINE_MIN: f64 = 0.999;

fn slots(output: &PipelineOutput) -> Outcome<Vec<f32>> {
    Ok(output.embeddings.as_slice().ok_or("an output without all slots")?.to_vec())
}

/// The least cosine, over all slots of all samples, to what a pipeline makes of each text alone.
fn least_cosine(core: &mut PipelineCore, samples: &[(ModelInput, Vec<f32>)]) -> Outcome<f64> {
    let mut least = 1.0_f64;
    for (input, among) in samples {
        let output = core.embed_batch(std::slice::from_ref(input), NOW_S)?.remove(0)?;
        let alone = slots(&output)?;
        for model in ModelId::iter() {
            let (a, b) = (&among[model.slot_range()], &alone[model.slot_range()]);
            least = least.min(calor_embed::embedding::cosine(a, b));
        }
    }
    Ok(least)
}
