//! The description of the HTTP interface, made from the handlers and bodies themselves.

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

#[derive(OpenApi)]
#[openapi(
    info(title = "Calor", description = "Twelve embeddings of a text and their fusion."),
    modifiers(&Keys),
    paths(
        super::native::embed, super::native::embed_all, super::native::embed_sparse,
        super::native::rerank, super::native::similarity, super::native::tokenize,
        super::native::decode, super::openai::embeddings, super::openai::embeddings_image,
        super::openai::models, super::fused::fused, super::probe::health, super::probe::livez,
        super::probe::readyz, super::probe::startupz, super::probe::metrics, super::probe::info,
        super::probe::warmup, super::probe::status, super::admin::swap, super::admin::warmup,
    )
)]
struct Document;

struct Keys;

impl utoipa::Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme("key", SecurityScheme::Http(bearer));
    }
}

static TEXT: LazyLock<String> = LazyLock::new(|| Document::openapi().to_json().unwrap_or_default());

/// The document.
pub(super) async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

/// Paths that the document describes.
#[cfg(test)]
pub(crate) fn described() -> Vec<String> {
    Document::openapi().paths.paths.into_keys().collect()
}

#[test]
fn the_document_is_json_and_describes_every_kind_of_route() {
    let document: serde_json::Value = serde_json::from_str(&TEXT).unwrap();
    let paths = described();
    for wanted in ["/embed", "/v1/embeddings", "/v1/fused", "/readyz", "/metrics", "/admin/swap"] {
        assert!(paths.iter().any(|it| it == wanted), "{wanted}");
        assert!(document["paths"][wanted].is_object(), "{wanted}");
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(schema.is_object(), "{name}");
    }
    // Every reference leads somewhere.
    let text = TEXT.as_str();
    for (at, _) in text.match_indices("#/components/schemas/") {
        let name = &text[at + 21..];
        let name = &name[..name.find('"').unwrap()];
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
}
