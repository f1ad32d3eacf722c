//! The mini profile with its real trunk: vectors are those of sentence-transformers, the pipeline
//! repeats itself bit for bit, and a text's result does not depend on its neighbours.
//!
//! The trunk is pulled once into the target folder. Without a source that can be reached the
//! tests say so and pass. References: scripts/make_trunk_reference.py.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "trunk/store.rs"]
mod store;

use calor_embed::embedder::{EmbedItem, EmbedOutput, Embedded};
use calor_embed::embedding::cosine;
use calor_embed::{ModelInput, PipelineCore, PipelineOutput};
use safetensors::SafeTensors;
use serde_json::Value;

const COSINE_MIN: f64 = 0.99999;
const NEIGHBOURS_TOLERANCE: f32 = 1e-5;
/// 2026-01-01: the batch's own time.
const NOW_S: i64 = 1_767_225_600;

fn reference() -> (Vec<Value>, Vec<f32>) {
    let head: Value = serde_json::from_str(include_str!("data/trunk.json")).expect("JSON");
    let rows = head["texts"].as_array().expect("rows").clone();
    let bytes = include_bytes!("data/trunk.safetensors");
    let file = SafeTensors::deserialize(bytes).expect("tensors");
    let view = file.tensor("vectors").expect("vectors");
    assert_eq!(view.shape(), [rows.len(), 384]);
    let number = |it: &[u8]| f32::from_le_bytes([it[0], it[1], it[2], it[3]]);
    (rows, view.data().chunks_exact(4).map(number).collect())
}

/// Compares with row `at` of the reference; the cosine.
#[track_caller]
fn check(how: &str, row: &Value, want: &[f32], got: &Embedded) -> f64 {
    let kind = &row["kind"];
    assert_eq!(row["token_count"], got.token_count, "{kind} {how}");
    assert_eq!(row["truncated"], got.cut.is_some(), "{kind} {how}");
    let EmbedOutput::Vector(vector) = &got.output else { panic!("{kind} {how}: token rows") };
    let cosine = cosine(vector, want);
    assert!(cosine >= COSINE_MIN, "{kind} {how}: cosine {cosine}");
    cosine
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    let trunk = match store::trunk() {
        Ok(trunk) => trunk,
        Err(attempt) => return eprintln!("SKIPPED embed::trunk: {attempt}"),
    };
    let mut embedder = store::embedder(&trunk);
    let (rows, vectors) = reference();
    let items: Vec<EmbedItem> =
        rows.iter().map(|it| EmbedItem::Text(it["text"].as_str().unwrap().to_owned())).collect();
    let together = embedder.embed(&items).unwrap();
    let mut least = f64::MAX;
    for (at, (row, want)) in rows.iter().zip(vectors.chunks_exact(384)).enumerate() {
        let alone = embedder.embed(&items[at..=at]).unwrap().remove(0).unwrap();
        least = least.min(check("alone", row, want, &alone));
        least = least.min(check("together", row, want, together[at].as_ref().unwrap()));
    }
    println!("{} texts, least cosine {least:.9}", rows.len());
}

/// Forty texts: short, middling and over the trunk's length.
fn forty() -> Vec<ModelInput> {
    let (rows, _) = reference();
    let texts = rows.iter().filter_map(|it| it["text"].as_str());
    // A NUL and nothing but space are refused by the pipeline's own rules.
    let usable = texts.filter(|it| !it.contains('\0') && !it.trim().is_empty());
    let mut out: Vec<String> = usable.map(str::to_owned).collect();
    for at in 0..40 - out.len() {
        let words = "one text among its neighbours, ".repeat(1 + at * at % 17);
        out.push(format!("{words}number {at}"));
    }
    assert_eq!(out.len(), 40);
    out.into_iter().map(|it| ModelInput::text(it).unwrap()).collect()
}

fn run(core: &mut PipelineCore, inputs: &[ModelInput]) -> Vec<PipelineOutput> {
    let results = core.embed_batch(inputs, NOW_S).expect("the device works");
    results.into_iter().map(|it| it.expect("a good text")).collect()
}

/// All numbers of a result: slots, fused vector, E6's weights, E12's rows.
fn numbers(output: &PipelineOutput) -> Vec<f32> {
    let slots = output.embeddings.as_slice().expect("all slots");
    let fused = output.fused.as_ref().expect("fused");
    let sparse = output.sparse.as_ref().expect("sparse");
    let tokens = output.tokens.as_ref().expect("tokens");
    let parts =
        [slots, &fused.vector, &fused.expert_weights[..], sparse.values(), tokens.as_slice()];
    parts.concat()
}

fn bits(outputs: &[PipelineOutput]) -> Vec<Vec<u32>> {
    outputs.iter().map(|it| numbers(it).into_iter().map(f32::to_bits).collect()).collect()
}

/// `count` of the numbers below `len` in a random order; the same for the same state.
fn drawn(state: &mut u64, len: usize, count: usize) -> Vec<usize> {
    let mut out: Vec<usize> = (0..len).collect();
    for at in 0..count {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        out.swap(at, at + (*state % (len - at) as u64) as usize);
    }
    out.truncate(count);
    out
}

#[test]
fn the_pipeline_repeats_itself_and_ignores_neighbours() {
    let trunk = match store::trunk() {
        Ok(trunk) => trunk,
        Err(attempt) => return eprintln!("SKIPPED embed::trunk: {attempt}"),
    };
    let made = tempfile::tempdir().unwrap();
    let inputs = forty();
    let mut core = store::pipeline(&trunk, made.path());
    let first = run(&mut core, &inputs);
    let want = bits(&first);
    assert!(want == bits(&run(&mut core, &inputs)), "the same pipeline, the same batch");
    let again = run(&mut store::pipeline(&trunk, made.path()), &inputs);
    assert!(want == bits(&again), "a pipeline that was opened again, the same batch");

    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut worst = 0.0;
    for count in [1, 2, 7, 19, 33, 40] {
        let places = drawn(&mut state, inputs.len(), count);
        let some: Vec<ModelInput> = places.iter().map(|it| inputs[*it].clone()).collect();
        for (place, got) in places.iter().zip(run(&mut core, &some)) {
            let (want, got) = (numbers(&first[*place]), numbers(&got));
            assert_eq!(want.len(), got.len(), "text {place} of {count}");
            let apart = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart <= NEIGHBOURS_TOLERANCE, "text {place} among {places:?}: {apart}");
            worst = apart.max(worst);
        }
    }
    println!("largest difference between compositions {worst:e}");
}
