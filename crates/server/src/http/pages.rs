//! Two pages that need nothing from elsewhere: what the server does, and a place to try it.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use super::{App, Native, probe};

const STATUS: &str = include_str!("../../pages/status.html");
const DOCS: &str = include_str!("../../pages/docs.html");

/// Nothing is loaded from anywhere, and the page talks to this server alone.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// The status page for browsers, a probe for everything else.
pub(super) async fn root(State(app): State<App>, headers: HeaderMap) -> Result<Response, Native> {
    let accept = headers.get(ACCEPT).and_then(|it| it.to_str().ok()).unwrap_or_default();
    match accept.contains("text/html") {
        true => Ok(page(STATUS)),
        false => probe::health(State(app)).await.map(IntoResponse::into_response),
    }
}

/// A page to try the interface.
pub(super) async fn docs() -> Response {
    page(DOCS)
}

fn page(text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}
