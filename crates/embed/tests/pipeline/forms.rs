//! All models on the device together: the same numbers as one by one through the host, and nothing
//! built once it is warm.

use calor_embed::embedding::{ResultFlags, cosine};
use calor_embed::input::ImageFormat;
use calor_embed::pipeline::PIECE_LEN;
use calor_embed::{
    EmbeddingError, InferencePrecision, ModelId, ModelInput, PipelineCore, PipelineOutput, Profile,
};
use calor_telemetry::counter::Plain;

use crate::fixture::{NOW_S, cpu_build, null_build, options};

/// Sums in another order are all that may differ.
const TOLERANCE: f32 = 2e-5;

fn core(device_slots: bool) -> PipelineCore {
    let options = calor_embed::PipelineOptions {
        device_slots,
        batch_tokens_max: 128,
        ..options(Profile::Random, &ModelId::ALL)
    };
    PipelineCore::open(cpu_build(), options).unwrap()
}

/// Texts of `count` different lengths.
fn texts(count: usize) -> Vec<ModelInput> {
    let words = ["heat", "is", "energy", "in", "transit", "and", "never", "rests"];
    let text = |at: usize| -> String {
        (0..1 + at % 11).map(|word| words[(at + word) % words.len()]).collect::<Vec<_>>().join(" ")
    };
    (0..count).map(|at| ModelInput::text(text(at)).unwrap()).collect()
}

fn query() -> ModelInput {
    ModelInput::text_with_instruction("what is heat", Some("role:query".into())).unwrap()
}

/// A text that every model cuts, each at its own place.
fn too_long() -> ModelInput {
    ModelInput::text("warm words in transit ".repeat(300)).unwrap()
}

fn outputs(core: &mut PipelineCore, inputs: &[ModelInput]) -> Vec<PipelineOutput> {
    let outputs = core.embed_batch(inputs, NOW_S).unwrap();
    outputs.into_iter().map(Result::unwrap).collect()
}

#[track_caller]
fn agree(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= TOLERANCE, "{what}: {worst}");
}

#[test]
fn together_is_what_one_by_one_is() {
    let mut apart = core(false);
    let (mut together, report) = core(true).warm().unwrap();
    assert!(together.programs().is_sealed());
    assert!(30 < report.program_count && report.program_count < report.step_count, "{report:?}");
    let before = together.programs().counters().snapshot();
    // One launch, several, in turn, and more than fit at once.
    for count in [1, 4, 5, 40, 90] {
        let mut inputs = texts(count);
        if count == 5 {
            inputs.extend([query(), too_long()]);
        }
        let (got, want) = (outputs(&mut together, &inputs), outputs(&mut apart, &inputs));
        for (got, want) in got.iter().zip(&want) {
            let (slots, wanted) = (got.embeddings.as_slice(), want.embeddings.as_slice());
            agree(slots.unwrap(), wanted.unwrap(), "slots");
            let (got_fused, want_fused) =
                (got.fused.as_ref().unwrap(), want.fused.as_ref().unwrap());
            assert_eq!(got_fused.selected_experts, want_fused.selected_experts);
            agree(&got_fused.vector, &want_fused.vector, "fused");
            agree(&got_fused.expert_weights, &want_fused.expert_weights, "expert weights");
            assert_eq!(got_fused.content_hash, want_fused.content_hash);
            let (got_sparse, want_sparse) =
                (got.sparse.as_ref().unwrap(), want.sparse.as_ref().unwrap());
            assert_eq!(got_sparse.indices(), want_sparse.indices());
            agree(got_sparse.values(), want_sparse.values(), "sparse");
            let (got_tokens, want_tokens) =
                (got.tokens.as_ref().unwrap(), want.tokens.as_ref().unwrap());
            let flat =
                |it: &calor_embed::TokenMatrix| it.rows().flatten().copied().collect::<Vec<_>>();
            agree(&flat(got_tokens), &flat(want_tokens), "tokens");
            // How long it took is not what it says.
            let latency_exceeded = want.flags.latency_exceeded;
            assert_eq!(ResultFlags { latency_exceeded, ..got.flags }, want.flags);
        }
    }
    let change = together.programs().counters().snapshot().since(&before);
    for counter in
        [Plain::Plans, Plain::Compiles, Plain::Loads, Plain::Allocations, Plain::Preparations]
    {
        assert_eq!(change.get(counter), 0, "{counter:?}");
    }
}

/// What a batch says, without how long it took.
fn said(outputs: Vec<calor_embed::EmbeddingResult<PipelineOutput>>) -> Vec<String> {
    let said = |output: calor_embed::EmbeddingResult<PipelineOutput>| match output {
        Err(err) => err.to_string(),
        Ok(output) => {
            let bits = |it: &[f32]| it.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
            let slots = output.embeddings.as_slice().map(bits);
            let fused = output.fused.as_ref().map(|it| (bits(&it.vector), it.content_hash));
            let own =
                (output.sparse, output.tokens.map(|it| it.rows().flatten().copied().collect()));
            let own: (Option<calor_embed::SparseVector>, Option<Vec<f32>>) = own;
            format!("{slots:?} {fused:?} {own:?}")
        }
    };
    outputs.into_iter().map(said).collect()
}

#[test]
fn overlapped_pieces_give_what_one_after_another_gives_bit_for_bit() {
    for device_slots in [true, false] {
        let mut core = match device_slots {
            true => core(true).warm().unwrap().0,
            false => core(false),
        };
        let mut inputs = texts(2 * PIECE_LEN + 9);
        inputs[70] = ModelInput::Text { content: String::new(), instruction: None };
        let mut want = Vec::new();
        for piece in inputs.chunks(PIECE_LEN) {
            let prepared = core.prepare_batch(piece, NOW_S);
            want.extend(said(core.run_batch(prepared).unwrap()));
        }
        let got = said(core.embed_batch(&inputs, NOW_S).unwrap());
        assert_eq!(got.len(), inputs.len());
        for (place, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!(got == want, "text {place}, slots on the device: {device_slots}");
        }
    }
}

#[test]
fn inputs_prepared_one_by_one_are_a_batch_of_them() {
    let (mut warm, _) = core(true).warm().unwrap();
    let mut inputs = texts(5);
    inputs.extend([query(), too_long()]);
    inputs[3] = ModelInput::Text { content: String::new(), instruction: None };
    let want = said(warm.embed_batch(&inputs, NOW_S).unwrap());
    let front = warm.front().clone();
    let each = front.prepare_each(&inputs, NOW_S);
    assert!(each[3].is_err() && each[6].as_ref().unwrap().is_truncated());
    assert!(each[5].as_ref().unwrap().token_count().is_some());
    let some = each.into_iter().enumerate().map(|(at, it)| it.ok().filter(|_| at % 3 != 1));
    let batch = front.gather(&inputs, some.collect(), NOW_S);
    assert_eq!(said(warm.run_batch(batch).unwrap()), want);
    // Another pipeline's are made again.
    let others = core(false).front().prepare_each(&inputs, NOW_S);
    let batch = front.gather(&inputs, others.into_iter().map(Result::ok).collect(), NOW_S);
    assert_eq!(said(warm.run_batch(batch).unwrap()), want);
}

#[test]
fn what_was_prepared_for_other_models_is_refused() {
    let mut core = core(false);
    let prepared = core.prepare_batch(&texts(1), NOW_S);
    core.unload(ModelId::Entity).unwrap();
    let refused = core.run_batch(prepared).unwrap_err();
    assert!(matches!(refused, EmbeddingError::InternalError { .. }), "{refused}");
}

#[test]
fn a_warm_pipeline_serves_models_and_images_alone() {
    let (mut core, _) = core(true).warm().unwrap();
    let inputs = texts(3);
    let whole = outputs(&mut core, &inputs);
    for model in ModelId::iter() {
        let alone = core.embed_model(model, &inputs, NOW_S).unwrap();
        for (alone, whole) in alone.into_iter().zip(&whole) {
            let want = &whole.embeddings.get(model).unwrap().vector;
            assert!(0.99999 < cosine(&alone.unwrap().vector, want), "{model}");
        }
    }
    let image = include_bytes!("../data/rgba.png").to_vec();
    let image = ModelInput::image(image, ImageFormat::Png).unwrap();
    let mut mixed = texts(2);
    mixed.insert(1, image);
    let got = core.embed_batch(&mixed, NOW_S).unwrap();
    let filled: Vec<usize> =
        got.iter().map(|it| it.as_ref().unwrap().embeddings.filled_count()).collect();
    assert_eq!(filled, [12, 1, 12]);
}

#[test]
fn a_bad_text_fails_alone_among_others() {
    let (mut core, _) = core(true).warm().unwrap();
    let mut inputs = texts(3);
    inputs[1] = ModelInput::Text { content: String::new(), instruction: None };
    let got = core.embed_batch(&inputs, NOW_S).unwrap();
    assert!(got[0].is_ok() && got[2].is_ok());
    assert!(matches!(got[1], Err(EmbeddingError::EmptyInput { .. })), "{:?}", got[1]);
}

#[test]
fn what_is_warm_cannot_be_changed() {
    let (mut core, _) = core(true).warm().unwrap();
    let refused = core.unload(ModelId::Semantic);
    assert!(matches!(refused, Err(EmbeddingError::NotWarm { .. })), "{refused:?}");
}

#[test]
fn a_device_that_computes_nothing_is_not_warm() {
    // The null device leaves zeros, which have no direction: no bucket agrees with another.
    let options = calor_embed::PipelineOptions {
        device_slots: true,
        precision: InferencePrecision::FP32,
        ..options(Profile::Random, &ModelId::ALL)
    };
    let refused = PipelineCore::open(null_build(), options).unwrap().warm();
    let refused = refused.map(|_| ());
    assert!(matches!(refused, Err(EmbeddingError::WarmupMismatch { .. })), "{refused:?}");
}

#[test]
fn the_same_models_have_one_revision_and_others_another() {
    let open = |reference: InferencePrecision| {
        let options = calor_embed::PipelineOptions {
            precision: reference,
            ..options(Profile::Random, &[ModelId::Entity, ModelId::Hdc])
        };
        PipelineCore::open(cpu_build(), options).unwrap()
    };
    let unsealed = open(InferencePrecision::FP32);
    assert_eq!(unsealed.revision(), None, "what may still change has none");
    let first = unsealed.warm().unwrap().0.revision();
    assert!(first.is_some());
    assert_eq!(open(InferencePrecision::FP32).warm().unwrap().0.revision(), first);
    assert_ne!(open(InferencePrecision::BF16).warm().unwrap().0.revision(), first);
}
