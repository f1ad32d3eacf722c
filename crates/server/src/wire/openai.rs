//! Bodies of OpenAI's routes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::native::Inputs;
use super::{EncodingFormat, Vector};

/// `/v1/embeddings`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct EmbeddingsRequest {
    /// What is embedded.
    pub(crate) input: Inputs,
    /// Whose vector; the server's default if not given.
    pub(crate) model: Option<String>,
    /// How vectors travel.
    #[serde(default)]
    pub(crate) encoding_format: EncodingFormat,
    /// Keep only so many numbers, and divide them by their length again.
    pub(crate) dimensions: Option<usize>,
    /// Who asks; of no effect.
    #[serde(default)]
    #[expect(dead_code, reason = "taken because clients send it")]
    pub(crate) user: Option<String>,
    /// What the inputs are: texts, or images as base64 or `data:` addresses.
    #[serde(default)]
    pub(crate) modality: Modality,
}

/// What inputs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Modality {
    /// Texts.
    #[default]
    Text,
    /// Images.
    Image,
}

/// The answer of `/v1/embeddings`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingsResponse {
    /// `list`.
    pub(crate) object: &'static str,
    /// One for each input.
    pub(crate) data: Vec<EmbeddingRow>,
    /// Who answered.
    pub(crate) model: String,
    /// What it cost.
    pub(crate) usage: Usage,
}

/// One vector.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingRow {
    /// `embedding`.
    pub(crate) object: &'static str,
    /// The vector.
    pub(crate) embedding: Vector,
    /// Place in the request.
    pub(crate) index: usize,
}

/// What a request cost.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Tokens of the inputs.
    pub(crate) prompt_tokens: usize,
    /// The same.
    pub(crate) total_tokens: usize,
}

/// `/v1/models`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// `list`.
    pub(crate) object: &'static str,
    /// Names that a request may use.
    pub(crate) data: Vec<ModelRow>,
}

/// A model by one of its names.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ModelRow {
    /// The name.
    pub(crate) id: String,
    /// `model`.
    pub(crate) object: &'static str,
    /// When it was made; not known.
    pub(crate) created: u64,
    /// Who runs it.
    pub(crate) owned_by: &'static str,
    /// Numbers of its vector. Not of OpenAI.
    pub(crate) dimension: usize,
}

/// Why a request failed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// As OpenAI nests it.
    pub(crate) error: ErrorDetail,
}

/// Why a request failed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ErrorDetail {
    /// In words.
    pub(crate) message: String,
    /// By kind.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// The field that is wrong; not known.
    pub(crate) param: Option<String>,
    /// By code.
    pub(crate) code: &'static str,
}
