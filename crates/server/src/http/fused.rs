//! `/v1/fused`: the twelve slots and the fused vector of each input.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;
use calor_embed::input::ModelInput;
use calor_embed::{EmbeddingError, ModelId, PipelineOutput};

use super::body::read;
use super::headers::with_provenance;
use super::native::sparse_values;
use super::{App, Native};
use crate::counting::{Cut, Input};
use crate::operations::{Named, flag_words, image, slots_named};
use crate::refusal::Refusal;
use crate::wire::fused::{FusedInput, FusedInputs, FusedRequest, FusedResponse, FusedRow};
use crate::wire::native::ErrorBody;
use crate::wire::openai::Usage;
use crate::wire::{EncodingFormat, Vector, decode_base64};

/// Twelve slots and the fused vector of each input; a bad one fails alone.
#[utoipa::path(post, path = "/v1/fused", request_body = FusedRequest, tag = "calor",
    responses((status = 200, body = FusedResponse), (status = 400, body = ErrorBody),
        (status = 413, body = ErrorBody), (status = 422, body = ErrorBody),
        (status = 424, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn fused(State(app): State<App>, request: Request) -> Result<Response, Native> {
    let (body, terms): (FusedRequest, _) = read(&app, request).await?;
    let parts = Parts::of(&body)?;
    let given = match body.inputs {
        FusedInputs::One(it) => vec![it],
        FusedInputs::Many(it) => it,
    };
    let mut rows: Vec<FusedRow> =
        (0..given.len()).map(|index| FusedRow { index, ..FusedRow::default() }).collect();
    let (mut places, mut inputs) = (Vec::new(), Vec::new());
    for (index, it) in given.into_iter().enumerate() {
        match model_input(it) {
            Ok(it) => {
                places.push(index);
                inputs.push(Input::Whole(it));
            }
            Err(err) => rows[index].error = Some(error(err)),
        }
    }
    let live = app.live()?;
    let mut summary = crate::service::Summary::default();
    if !inputs.is_empty() || rows.is_empty() {
        let cut = Cut { truncate: body.truncate, is_left: false };
        let single = rows.len() == 1;
        let own_forms = parts.sparse || parts.tokens;
        let named = Named { slots: &body.slots, fused: parts.fused };
        match app.fused(inputs, named, own_forms, cut, terms).await {
            Ok((answered, _)) => {
                summary = answered.summary();
                for (place, answer) in places.into_iter().zip(answered.answers) {
                    match answer {
                        Ok(answer) => parts.fill(&mut rows[place], &answer.output),
                        Err(err) => rows[place].error = Some(error(err)),
                    }
                }
            }
            // One input that the models refuse is a row like any other.
            Err(Refusal::Whole(err)) if single && is_own(&err) => {
                rows[0].error = Some(error(err));
            }
            Err(refusal) => return Err(refusal.into()),
        }
    }
    let usage = Usage { prompt_tokens: summary.token_count, total_tokens: summary.token_count };
    let response = FusedResponse {
        object: "list",
        data: rows,
        profile: live.about.profile,
        untrained: live.about.untrained.to_vec(),
        usage,
    };
    Ok(with_provenance(Json(response), &summary, &live.about))
}

/// What of a result comes back.
struct Parts {
    slots: Vec<ModelId>,
    fused: bool,
    sparse: bool,
    tokens: bool,
    format: EncodingFormat,
}

impl Parts {
    fn of(body: &FusedRequest) -> Result<Self, Refusal> {
        let slots = slots_named(&body.slots)?;
        let FusedRequest { fused, sparse, tokens, encoding_format, .. } = *body;
        Ok(Self { slots, fused, sparse, tokens, format: encoding_format })
    }

    fn fill(&self, row: &mut FusedRow, output: &PipelineOutput) {
        let vector = |numbers: &[f32]| Vector::new(numbers, self.format);
        if let Some(fused) = output.fused.as_ref().filter(|_| self.fused) {
            row.fused = Some(vector(&fused.vector));
            row.expert_weights = Some(fused.expert_weights.to_vec());
            row.selected_experts = Some(fused.selected_experts.clone());
        }
        let slot = |model: &ModelId| {
            let found = output.embeddings.get(*model)?;
            Some((model.as_str(), vector(&found.vector)))
        };
        row.slots = self.slots.iter().filter_map(slot).collect::<BTreeMap<_, _>>();
        row.sparse = output.sparse.as_ref().filter(|_| self.sparse).map(sparse_values);
        let tokens = output.tokens.as_ref().filter(|_| self.tokens);
        row.tokens = tokens.map(|it| it.rows().map(vector).collect());
        row.missing_models =
            output.embeddings.missing_models().iter().map(|it| it.as_str()).collect();
        row.flags = flag_words(output.flags);
    }
}

fn model_input(input: FusedInput) -> Result<ModelInput, EmbeddingError> {
    match input {
        FusedInput::Plain(text) => ModelInput::text(text),
        FusedInput::Text { text, instruction } => {
            ModelInput::text_with_instruction(text, instruction)
        }
        FusedInput::Code { code, language } => ModelInput::code(code, language),
        FusedInput::Image { image: text } => match decode_base64(&text) {
            Some(bytes) => image(bytes),
            None => Err(EmbeddingError::InvalidImage {
                fault: calor_embed::error::ImageFault::OtherFormat,
                source: None,
            }),
        },
    }
}

/// Whether an error is the input's own.
fn is_own(err: &EmbeddingError) -> bool {
    err.fault() == calor_embed::Fault::UserInput && !matches!(err, EmbeddingError::Cancelled)
}

fn error(err: EmbeddingError) -> ErrorBody {
    let refusal = Refusal::Whole(err);
    ErrorBody { error: refusal.to_string(), error_type: refusal.native() }
}
