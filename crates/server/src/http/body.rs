//! Bodies that come in: JSON within the limit, and errors that say what is wrong with others.

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::App;
use super::headers::terms;
use crate::refusal::Refusal;
use crate::service::Terms;

/// A request's body, and how urgent it is.
pub(super) async fn read<T: DeserializeOwned>(
    app: &App,
    request: Request,
) -> Result<(T, Terms), Refusal> {
    let max = app.options.limits.payload_bytes_max;
    let (head, body) = request.into_parts();
    if !is_json(&head.headers) {
        return Err(Refusal::NotJson);
    }
    let announced = head.headers.get(CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse().ok());
    if announced.is_some_and(|it: usize| max < it) {
        return Err(Refusal::PayloadTooLarge { max });
    }
    let terms = terms(&head.headers)?;
    let bytes = to_bytes(body, max).await.map_err(|err| match is_too_large(&err) {
        true => Refusal::PayloadTooLarge { max },
        false => Refusal::BrokenBody,
    })?;
    let parsed = serde_json::from_slice(&bytes).map_err(|source| match source.classify() {
        Category::Data => Refusal::Shape { source },
        Category::Io | Category::Syntax | Category::Eof => Refusal::Syntax { source },
    })?;
    Ok((parsed, terms))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let kind = kind.and_then(|it| it.split(';').next()).unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The limit is the only error of a body that has a type of its own.
fn is_too_large(err: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(err);
    while let Some(it) = cause {
        if it.to_string() == "length limit exceeded" {
            return true;
        }
        cause = it.source();
    }
    false
}
