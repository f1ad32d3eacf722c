//! HTTP: routes, who may use them, and how refusals look on each.

mod admin;
mod body;
mod fused;
mod headers;
mod native;
mod openai;
mod openapi;
mod pages;
mod probe;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use calor_telemetry::Stopwatch;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::options::Secret;
use crate::refusal::Refusal;
use crate::service::{Service, Summary};
use crate::traces::{Costs, Outcome};
use crate::wire;
pub(crate) use headers::{PRIORITY, priority};

/// What every handler is given.
pub(crate) type App = Arc<Service>;

/// A refusal as text-embeddings-inference words it.
#[derive(Debug)]
pub(crate) struct Native(Refusal);

/// A refusal as OpenAI words it.
#[derive(Debug)]
pub(crate) struct OpenAi(Refusal);

/// The kind of a refusal, on its way to being counted.
#[derive(Clone, Copy)]
struct Counted(&'static str);

/// Every route.
pub(crate) fn router(app: App) -> Router {
    let open = Router::new()
        .route("/", get(pages::root))
        .route("/health", get(probe::health))
        .route("/ping", get(probe::health))
        .route("/livez", get(probe::livez))
        .route("/readyz", get(probe::readyz))
        .route("/startupz", get(probe::startupz))
        .route("/metrics", get(probe::metrics))
        .route("/docs", get(pages::docs))
        .route("/openapi.json", get(openapi::document))
        .route("/api-doc/openapi.json", get(openapi::document));
    let native = Router::new()
        .route("/", post(native::root))
        .route("/embed", post(native::embed))
        .route("/invocations", post(native::embed))
        .route("/embed_all", post(native::embed_all))
        .route("/embed_sparse", post(native::embed_sparse))
        .route("/rerank", post(native::rerank))
        .route("/similarity", post(native::similarity))
        .route("/tokenize", post(native::tokenize))
        .route("/decode", post(native::decode))
        .route("/info", get(probe::info))
        .route("/warmup", get(probe::warmup))
        .route("/status.json", get(probe::status))
        .route("/v1/fused", post(fused::fused))
        .route_layer(from_fn_with_state(app.clone(), with_key::<Native>));
    let openai = Router::new()
        .route("/v1/embeddings", post(openai::embeddings))
        .route("/embeddings", post(openai::embeddings))
        .route("/embeddings_image", post(openai::embeddings_image))
        .route("/v1/models", get(openai::models))
        .route_layer(from_fn_with_state(app.clone(), with_key::<OpenAi>));
    let mut all = open.merge(native).merge(openai);
    if app.options.admin_key.is_some() {
        let admin = Router::new()
            .route("/admin/swap", post(admin::swap))
            .route("/admin/warmup", post(admin::warmup))
            .route_layer(from_fn_with_state(app.clone(), with_admin_key));
        all = all.merge(admin);
    }
    let all = all.layer(from_fn_with_state(app.clone(), count));
    let all = match cors(&app.options.cors_origins) {
        Some(layer) => all.layer(layer),
        None => all,
    };
    all.with_state(app)
}

/// What there is no route for, in the caller's protocol.
pub(crate) async fn nowhere(request: Request) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
    match kind.is_some_and(|it| it.starts_with("application/grpc")) {
        true => tonic::Status::unimplemented("there is no such method").into_http(),
        false => {
            let error = format!("there is no {} {}", request.method(), request.uri().path());
            let body = wire::native::ErrorBody { error, error_type: "Validation" };
            (StatusCode::NOT_FOUND, Json(body)).into_response()
        }
    }
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origin = match origins {
        [] => return None,
        origins if origins.iter().any(|it| it == "*") => AllowOrigin::any(),
        origins => AllowOrigin::list(origins.iter().filter_map(|it| it.parse().ok())),
    };
    let layer = CorsLayer::new().allow_origin(origin);
    let layer = layer.allow_methods([Method::GET, Method::POST]);
    Some(layer.allow_headers([header::CONTENT_TYPE, AUTHORIZATION]))
}

async fn with_key<E: From<Refusal> + IntoResponse>(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Response {
    match has_key(app.options.api_key.as_ref(), request.headers()) {
        true => next.run(request).await,
        false => E::from(Refusal::Unauthorized).into_response(),
    }
}

async fn with_admin_key(State(app): State<App>, request: Request, next: Next) -> Response {
    match has_key(app.options.admin_key.as_ref(), request.headers()) {
        true => next.run(request).await,
        false => Native(Refusal::Unauthorized).into_response(),
    }
}

/// Whether a request brings the key that is wanted, if one is.
pub(crate) fn has_key(wanted: Option<&Secret>, headers: &HeaderMap) -> bool {
    let Some(wanted) = wanted else { return true };
    let given = headers.get(AUTHORIZATION).and_then(|it| it.to_str().ok());
    let given = given.and_then(|it| it.split_once(' '));
    given
        .is_some_and(|(scheme, key)| scheme.eq_ignore_ascii_case("bearer") && wanted.is(key.trim()))
}

async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let watch = Stopwatch::start();
    let traced = app.traces.as_ref().map(|it| {
        let name = format!("{} {}", request.method(), request.uri().path());
        (it, it.begin(request.headers()), name)
    });
    let mut response = next.run(request).await;
    let summary = response.extensions().get::<Summary>().copied();
    if let Some(summary) = summary {
        let handling_ns = watch.elapsed_ns();
        if let Some(ns) = summary.steps.map(|it| it.group.program_ns()) {
            app.metrics.overhead.record_ns(handling_ns.saturating_sub(ns));
        }
        if let Some(timing) = headers::timing(&summary, handling_ns) {
            response.headers_mut().insert("server-timing", timing);
        }
    }
    // Probes and pages are no requests.
    let is_request = summary.is_some() || response.extensions().get::<Counted>().is_some();
    if let Some((traces, traced, name)) = traced.filter(|_| is_request) {
        summary.iter().for_each(|it| traces.steps(&traced, it));
        let costs = summary.as_ref().map(Costs::of);
        traces.end(traced, name, Outcome::Http(response.status()), costs);
    }
    if let Some(Counted(word)) = response.extensions().get::<Counted>() {
        app.metrics.failed(word);
    }
    response
}

impl From<Refusal> for Native {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<Refusal> for OpenAi {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Native {
    fn into_response(self) -> Response {
        let error_type = self.0.native();
        let body = wire::native::ErrorBody { error: self.0.to_string(), error_type };
        refused(&self.0, Json(body).into_response())
    }
}

impl IntoResponse for OpenAi {
    fn into_response(self) -> Response {
        let (kind, code) = self.0.openai();
        let message = self.0.to_string();
        let error = wire::openai::ErrorDetail { message, kind, param: None, code };
        refused(&self.0, Json(wire::openai::ErrorBody { error }).into_response())
    }
}

fn refused(refusal: &Refusal, mut response: Response) -> Response {
    *response.status_mut() = refusal.status();
    if let Some(seconds) = refusal.retry_after_s() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if refusal.status() == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    }
    response.extensions_mut().insert(Counted(refusal.native()));
    response
}
