//! Bodies of `/v1/fused`: twelve slots and the fused vector of each input.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::native::SparseValue;
use super::openai::Usage;
use super::{EncodingFormat, Vector};

/// `/v1/fused`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct FusedRequest {
    /// What is embedded.
    pub(crate) inputs: FusedInputs,
    /// Which slots come back, by name or number; `["all"]` for all. None if not given.
    #[serde(default)]
    pub(crate) slots: Vec<String>,
    /// Whether the fused vector comes back.
    #[serde(default = "yes")]
    pub(crate) fused: bool,
    /// Whether E6 comes back as weighted terms.
    #[serde(default)]
    pub(crate) sparse: bool,
    /// Whether E12 comes back as one vector for each token.
    #[serde(default)]
    pub(crate) tokens: bool,
    /// How vectors travel.
    #[serde(default)]
    pub(crate) encoding_format: EncodingFormat,
    /// Whether long texts are cut.
    pub(crate) truncate: Option<bool>,
}

/// One input, or several.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum FusedInputs {
    /// One.
    One(FusedInput),
    /// Several.
    Many(Vec<FusedInput>),
}

/// One input.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum FusedInput {
    /// A text.
    Plain(String),
    /// A text with what is known about it.
    Text {
        /// The text.
        text: String,
        /// `role:query`, `timestamp:2024-05-01T12:00:00Z`, separated by `;`.
        instruction: Option<String>,
    },
    /// A piece of a program.
    Code {
        /// The source.
        code: String,
        /// Its language.
        #[serde(default)]
        language: String,
    },
    /// A picture, which has one slot and no fused vector.
    Image {
        /// PNG, JPEG, WebP or GIF in base64, with or without `data:…;base64,` in front.
        image: String,
    },
}

/// The answer of `/v1/fused`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct FusedResponse {
    /// `list`.
    pub(crate) object: &'static str,
    /// One for each input; a bad one fails alone.
    pub(crate) data: Vec<FusedRow>,
    /// Name of the profile.
    pub(crate) profile: &'static str,
    /// What no training made.
    pub(crate) untrained: Vec<&'static str>,
    /// What it cost.
    pub(crate) usage: Usage,
}

/// What became of one input.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct FusedRow {
    /// Place in the request.
    pub(crate) index: usize,
    /// Why there is nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<super::native::ErrorBody>,
    /// The fused vector, 1536.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fused: Option<Vector>,
    /// Slots by the models' names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) slots: BTreeMap<&'static str, Vector>,
    /// E6 as weighted terms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sparse: Option<Vec<SparseValue>>,
    /// E12 as one vector for each token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens: Option<Vec<Vector>>,
    /// The gate's share of each expert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expert_weights: Option<Vec<f32>>,
    /// Experts that were mixed, largest share first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) selected_experts: Option<Vec<u8>>,
    /// Models without a vector.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing_models: Vec<&'static str>,
    /// What is special about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) flags: Vec<&'static str>,
}

fn yes() -> bool {
    true
}
