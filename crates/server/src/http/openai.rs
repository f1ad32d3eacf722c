//! OpenAI's routes.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;

use super::body::read;
use super::headers::with_provenance;
use super::native::{IMAGES, cut, inputs};
use super::{App, OpenAi};
use crate::counting::Input;
use crate::operations::{Shape, image};
use crate::options::Target;
use crate::refusal::Refusal;
use crate::service::Terms;
use crate::wire::native::{Inputs, TruncationDirection};
use crate::wire::openai::{
    EmbeddingRow, EmbeddingsRequest, EmbeddingsResponse, ErrorBody, Modality, ModelList, ModelRow,
    Usage,
};
use crate::wire::{Vector, decode_base64};

/// One vector for each input.
#[utoipa::path(post, path = "/v1/embeddings", request_body = EmbeddingsRequest, tag = "openai",
    responses((status = 200, body = EmbeddingsResponse), (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 422, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn embeddings(
    State(app): State<App>,
    request: Request,
) -> Result<Response, OpenAi> {
    let (body, terms): (EmbeddingsRequest, _) = read(&app, request).await?;
    answer(&app, body, terms).await
}

/// One vector for each image: base64 or `data:` addresses.
#[utoipa::path(post, path = "/embeddings_image", request_body = EmbeddingsRequest, tag = "openai",
    responses((status = 200, body = EmbeddingsResponse), (status = 422, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn embeddings_image(
    State(app): State<App>,
    request: Request,
) -> Result<Response, OpenAi> {
    let (body, terms): (EmbeddingsRequest, _) = read(&app, request).await?;
    answer(&app, EmbeddingsRequest { modality: Modality::Image, ..body }, terms).await
}

/// Names that a request may use.
#[utoipa::path(get, path = "/v1/models", tag = "openai",
    responses((status = 200, body = ModelList), (status = 503, body = ErrorBody)))]
pub(super) async fn models(State(app): State<App>) -> Result<Json<ModelList>, OpenAi> {
    let live = app.live()?;
    let row = |id: String| {
        let target = Target::by_name(&id).unwrap_or_else(|| app.default_target(&live));
        ModelRow {
            id,
            object: "model",
            created: 0,
            owned_by: "calor",
            dimension: target.dimension(),
        }
    };
    let data = app.names(&live).into_iter().map(row).collect();
    Ok(Json(ModelList { object: "list", data }))
}

async fn answer(app: &App, body: EmbeddingsRequest, terms: Terms) -> Result<Response, OpenAi> {
    let live = app.live()?;
    let named = app.target(&live, body.model.as_deref());
    let (target, inputs) = match body.modality {
        Modality::Text => (named?, inputs(body.input, None)?),
        Modality::Image => {
            let what = "no model takes images; load `multimodal`";
            app.check_there(&live, IMAGES, || Refusal::WrongModel { what })?;
            // Only one model takes images, whatever was named, but a name has to exist.
            named?;
            (IMAGES, images(body.input)?)
        }
    };
    let shape = Shape { normalize: None, dimensions: body.dimensions };
    let cut = cut(None, TruncationDirection::Right);
    let (rows, summary) = app.embed(target, inputs, shape, cut, terms).await?;
    let format = body.encoding_format;
    let data = rows.iter().enumerate().map(|(index, row)| EmbeddingRow {
        object: "embedding",
        embedding: Vector::new(row, format),
        index,
    });
    let tokens = summary.token_count;
    let response = EmbeddingsResponse {
        object: "list",
        data: data.collect(),
        model: target.name().into(),
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
    };
    Ok(with_provenance(Json(response), &summary, &live.about))
}

/// Pictures in base64. Addresses are not fetched: a server that reads what a request names can be
/// made to read what the request's author cannot.
fn images(input: Inputs) -> Result<Vec<Input>, Refusal> {
    let texts = match input {
        Inputs::One(it) => vec![it],
        Inputs::Many(it) => it,
        Inputs::Ids(_) | Inputs::ManyIds(_) => {
            let want = "images are base64 or `data:` addresses";
            return Err(Refusal::Field { field: "input", value: "a list of ids".into(), want });
        }
    };
    let one = |(index, text): (usize, String)| {
        let Some(bytes) = decode_base64(&text) else {
            let want = "images are base64 or `data:` addresses; nothing is fetched";
            let value = text.chars().take(40).collect();
            return Err(Refusal::Field { field: "input", value, want });
        };
        image(bytes).map(Input::Whole).map_err(|source| Refusal::Input { index, source })
    };
    texts.into_iter().enumerate().map(one).collect()
}
