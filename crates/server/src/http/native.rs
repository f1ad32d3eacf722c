//! The routes of text-embeddings-inference.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;

use super::body::read;
use super::headers::with_provenance;
use super::{App, Native};
use crate::counting::{Cut, Input};
use crate::operations::{Shape, prompt, text, texts_of};
use crate::options::Target;
use crate::refusal::Refusal;
use crate::service::Terms;
use crate::wire::native::{
    DecodeRequest, EmbedRequest, ErrorBody, IdLists, Inputs, Rank, RerankRequest, RootRequest,
    SimilarityRequest, SimpleToken, SparseValue, Texts, TokenizeRequest, TruncationDirection,
};

/// One vector for each input.
#[utoipa::path(post, path = "/embed", request_body = EmbedRequest, tag = "native",
    responses((status = 200, body = Vec<Vec<f32>>), (status = 422, body = ErrorBody),
        (status = 413, body = ErrorBody), (status = 424, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn embed(State(app): State<App>, request: Request) -> Result<Response, Native> {
    let (body, terms) = read(&app, request).await?;
    embedded(&app, body, terms).await
}

/// What is posted to the server's own address.
pub(super) async fn root(State(app): State<App>, request: Request) -> Result<Response, Native> {
    match read(&app, request).await? {
        (RootRequest::Embed(body), terms) => embedded(&app, body, terms).await,
        (RootRequest::Similarity(body), terms) => compared(&app, body, terms).await,
    }
}

async fn embedded(app: &App, body: EmbedRequest, terms: Terms) -> Result<Response, Native> {
    let live = app.live()?;
    let target = app.target(&live, body.model.as_deref())?;
    let inputs = inputs(body.inputs, body.prompt_name.as_deref())?;
    let shape = Shape { normalize: body.normalize, dimensions: body.dimensions };
    let cut = cut(body.truncate, body.truncation_direction);
    let (rows, summary) = app.embed(target, inputs, shape, cut, terms).await?;
    Ok(with_provenance(Json(rows), &summary, &live.about))
}

/// E6 of each input as weighted terms.
#[utoipa::path(post, path = "/embed_sparse", request_body = EmbedRequest, tag = "native",
    responses((status = 200, body = Vec<Vec<SparseValue>>), (status = 422, body = ErrorBody),
        (status = 424, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn embed_sparse(
    State(app): State<App>,
    request: Request,
) -> Result<Response, Native> {
    let (body, terms): (EmbedRequest, _) = read(&app, request).await?;
    let live = app.live()?;
    let inputs = inputs(body.inputs, body.prompt_name.as_deref())?;
    let cut = cut(body.truncate, body.truncation_direction);
    let (rows, summary) = app.embed_sparse(inputs, cut, terms).await?;
    let rows: Vec<Vec<SparseValue>> = rows.iter().map(sparse_values).collect();
    Ok(with_provenance(Json(rows), &summary, &live.about))
}

/// E12 of each input as one vector for each token.
#[utoipa::path(post, path = "/embed_all", request_body = EmbedRequest, tag = "native",
    responses((status = 200, body = Vec<Vec<Vec<f32>>>), (status = 422, body = ErrorBody),
        (status = 424, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn embed_all(
    State(app): State<App>,
    request: Request,
) -> Result<Response, Native> {
    let (body, terms): (EmbedRequest, _) = read(&app, request).await?;
    let live = app.live()?;
    let inputs = inputs(body.inputs, body.prompt_name.as_deref())?;
    let cut = cut(body.truncate, body.truncation_direction);
    let (rows, summary) = app.embed_all(inputs, cut, terms).await?;
    let rows: Vec<Vec<&[f32]>> = rows.iter().map(|it| it.rows().collect()).collect();
    Ok(with_provenance(Json(rows), &summary, &live.about))
}

/// Texts in order of their nearness to a query, by MaxSim of E12.
#[utoipa::path(post, path = "/rerank", request_body = RerankRequest, tag = "native",
    responses((status = 200, body = Vec<Rank>), (status = 422, body = ErrorBody),
        (status = 424, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn rerank(State(app): State<App>, request: Request) -> Result<Response, Native> {
    let (body, terms): (RerankRequest, _) = read(&app, request).await?;
    let live = app.live()?;
    let cut = cut(body.truncate, body.truncation_direction);
    let texts = if body.return_text { body.texts.clone() } else { Vec::new() };
    let (ranked, summary) = app.rerank(body.query, body.texts, body.raw_scores, cut, terms).await?;
    let rank = |it: crate::operations::Ranked| Rank {
        text: texts.get(it.index).cloned(),
        index: it.index,
        score: it.score as f32,
    };
    let rows: Vec<Rank> = ranked.into_iter().map(rank).collect();
    Ok(with_provenance(Json(rows), &summary, &live.about))
}

/// Cosines of one text with others.
#[utoipa::path(post, path = "/similarity", request_body = SimilarityRequest, tag = "native",
    responses((status = 200, body = Vec<f32>), (status = 422, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(super) async fn similarity(
    State(app): State<App>,
    request: Request,
) -> Result<Response, Native> {
    let (body, terms) = read(&app, request).await?;
    compared(&app, body, terms).await
}

async fn compared(app: &App, body: SimilarityRequest, terms: Terms) -> Result<Response, Native> {
    let live = app.live()?;
    let target = app.target(&live, body.model.as_deref())?;
    let parameters = body.parameters.unwrap_or_default();
    let instruction = prompt(parameters.prompt_name.as_deref())?;
    if body.inputs.sentences.is_empty() {
        return Err(Refusal::NoInputs.into());
    }
    let mut inputs = texts_of(body.inputs.sentences, instruction)?;
    inputs.insert(0, Input::Whole(text(body.inputs.source_sentence, instruction)?));
    let cut = cut(parameters.truncate, parameters.truncation_direction);
    let (rows, summary) = app.embed(target, inputs, Shape::default(), cut, terms).await?;
    let (source, others) = rows.split_first().ok_or(Refusal::NoInputs)?;
    let cosine = |it: &Vec<f32>| calor_embed::embedding::cosine(source, it) as f32;
    let cosines: Vec<f32> = others.iter().map(cosine).collect();
    Ok(with_provenance(Json(cosines), &summary, &live.about))
}

/// Tokens of each text.
#[utoipa::path(post, path = "/tokenize", request_body = TokenizeRequest, tag = "native",
    responses((status = 200, body = Vec<Vec<SimpleToken>>), (status = 422, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn tokenize(
    State(app): State<App>,
    request: Request,
) -> Result<Json<Vec<Vec<SimpleToken>>>, Native> {
    let (body, _): (TokenizeRequest, _) = read(&app, request).await?;
    let texts = match body.inputs {
        Texts::One(it) => vec![it],
        Texts::Many(it) => it,
    };
    let (model, special) = (body.model, body.add_special_tokens);
    let rows = blocking(move || app.tokenize(model.as_deref(), &texts, special)).await?;
    let token = |it: calor_embed::tokenizer::TokenPiece| SimpleToken {
        id: it.id,
        text: it.text,
        special: it.special,
        start: it.range.as_ref().map(|it| it.start),
        stop: it.range.as_ref().map(|it| it.end),
    };
    Ok(Json(rows.into_iter().map(|row| row.into_iter().map(token).collect()).collect()))
}

/// The text of each list of ids.
#[utoipa::path(post, path = "/decode", request_body = DecodeRequest, tag = "native",
    responses((status = 200, body = Vec<String>), (status = 422, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn decode(
    State(app): State<App>,
    request: Request,
) -> Result<Json<Vec<String>>, Native> {
    let (body, _): (DecodeRequest, _) = read(&app, request).await?;
    let lists = match body.ids {
        IdLists::One(it) => vec![it],
        IdLists::Many(it) => it,
    };
    let (model, skip) = (body.model, body.skip_special_tokens);
    Ok(Json(blocking(move || app.decode(model.as_deref(), &lists, skip)).await?))
}

/// Runs what may take long beside the threads that answer.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let lost = |_| calor_embed::EmbeddingError::InternalError { place: "tokenizing", source: None };
    tokio::task::spawn_blocking(work).await.map_err(lost)?
}

/// E6 as it travels.
pub(super) fn sparse_values(vector: &calor_embed::SparseVector) -> Vec<SparseValue> {
    let pairs = vector.indices().iter().zip(vector.values());
    pairs.map(|(index, value)| SparseValue { index: *index, value: *value }).collect()
}

/// Inputs with the instruction that a prompt stands for.
pub(super) fn inputs(inputs: Inputs, prompt_name: Option<&str>) -> Result<Vec<Input>, Refusal> {
    let instruction = prompt(prompt_name)?;
    match inputs {
        Inputs::One(it) => texts_of(vec![it], instruction),
        Inputs::Many(it) => texts_of(it, instruction),
        Inputs::Ids(it) if it.is_empty() => Err(Refusal::NoInputs),
        Inputs::Ids(it) => Ok(vec![Input::Ids(it)]),
        Inputs::ManyIds(it) => Ok(it.into_iter().map(Input::Ids).collect()),
    }
}

/// What happens to long texts.
pub(super) fn cut(truncate: Option<bool>, direction: TruncationDirection) -> Cut {
    Cut { truncate, is_left: direction == TruncationDirection::Left }
}

/// Which model makes images into vectors.
pub(super) const IMAGES: Target = Target::Model(calor_embed::ModelId::Multimodal);
