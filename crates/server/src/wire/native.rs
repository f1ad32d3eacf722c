//! Bodies of the routes of text-embeddings-inference.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is embedded: a text, texts, ids of the model's tokenizer, or lists of them.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Inputs {
    /// One text.
    One(String),
    /// Texts.
    Many(Vec<String>),
    /// Ids of one text.
    Ids(Vec<u32>),
    /// Ids of each text.
    ManyIds(Vec<Vec<u32>>),
}

/// Which end of a long text goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
pub(crate) enum TruncationDirection {
    /// The beginning.
    #[serde(alias = "left", alias = "Left")]
    Left,
    /// The end.
    #[default]
    #[serde(alias = "right", alias = "Right")]
    Right,
}

/// `/embed`, `/embed_all` and `/embed_sparse`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct EmbedRequest {
    /// What is embedded.
    pub(crate) inputs: Inputs,
    /// Whether long texts are cut.
    pub(crate) truncate: Option<bool>,
    /// Which end goes.
    #[serde(default)]
    pub(crate) truncation_direction: TruncationDirection,
    /// `query` or `passage`.
    pub(crate) prompt_name: Option<String>,
    /// Whether vectors are divided by their length. Only a fused vector has another length.
    pub(crate) normalize: Option<bool>,
    /// Keep only so many numbers, and divide them by their length again.
    pub(crate) dimensions: Option<usize>,
    /// Whose vector; the server's default if not given. Not of text-embeddings-inference.
    pub(crate) model: Option<String>,
}

/// What is posted to the server's own address: clients that know no routes do so for both.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum RootRequest {
    /// As to `/embed`.
    Embed(EmbedRequest),
    /// As to `/similarity`.
    Similarity(SimilarityRequest),
}

/// One term of a sparse vector.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct SparseValue {
    /// Id of the term.
    pub(crate) index: u32,
    /// Its weight.
    pub(crate) value: f32,
}

/// `/rerank`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct RerankRequest {
    /// What is looked for.
    pub(crate) query: String,
    /// Texts to be ordered.
    pub(crate) texts: Vec<String>,
    /// Whether long texts are cut.
    pub(crate) truncate: Option<bool>,
    /// Which end goes.
    #[serde(default)]
    pub(crate) truncation_direction: TruncationDirection,
    /// The sum of MaxSim itself, and not divided by the query's rows.
    #[serde(default)]
    pub(crate) raw_scores: bool,
    /// Whether texts come back.
    #[serde(default)]
    pub(crate) return_text: bool,
}

/// One text in order.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Rank {
    /// Place in the request.
    pub(crate) index: usize,
    /// The text, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// Larger is nearer.
    pub(crate) score: f32,
}

/// `/similarity`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct SimilarityRequest {
    /// What is compared.
    pub(crate) inputs: SimilarityInputs,
    /// How.
    pub(crate) parameters: Option<SimilarityParameters>,
    /// By whose vectors; the server's default if not given.
    pub(crate) model: Option<String>,
}

/// One text against others.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct SimilarityInputs {
    /// The one.
    pub(crate) source_sentence: String,
    /// The others.
    pub(crate) sentences: Vec<String>,
}

/// How texts are compared.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(crate) struct SimilarityParameters {
    /// Whether long texts are cut.
    pub(crate) truncate: Option<bool>,
    /// Which end goes.
    #[serde(default)]
    pub(crate) truncation_direction: TruncationDirection,
    /// `query` or `passage`.
    pub(crate) prompt_name: Option<String>,
}

/// `/tokenize`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct TokenizeRequest {
    /// A text or texts.
    pub(crate) inputs: Texts,
    /// Whether special tokens are shown.
    #[serde(default = "yes")]
    pub(crate) add_special_tokens: bool,
    /// Whose tokenizer.
    pub(crate) model: Option<String>,
}

/// A text or texts.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Texts {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// One token.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct SimpleToken {
    /// Its id.
    pub(crate) id: u32,
    /// The part of the text that it stands for.
    pub(crate) text: String,
    /// Whether it was added.
    pub(crate) special: bool,
    /// First byte of the part.
    pub(crate) start: Option<usize>,
    /// Behind its last byte.
    pub(crate) stop: Option<usize>,
}

/// `/decode`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct DecodeRequest {
    /// Ids, or lists of them.
    pub(crate) ids: IdLists,
    /// Whether special tokens are left out.
    #[serde(default = "yes")]
    pub(crate) skip_special_tokens: bool,
    /// Whose tokenizer.
    pub(crate) model: Option<String>,
}

/// Ids of one text, or of several.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum IdLists {
    /// Of one.
    One(Vec<u32>),
    /// Of several.
    Many(Vec<Vec<u32>>),
}

/// Why a request failed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// In words.
    pub(crate) error: String,
    /// By kind.
    pub(crate) error_type: &'static str,
}

/// `/info`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct InfoBody {
    /// Name of the profile.
    pub(crate) model_id: String,
    /// Revision of its checkpoints, where it has one.
    pub(crate) model_sha: Option<String>,
    /// Precision of the models' products.
    pub(crate) model_dtype: String,
    /// Who answers requests that name no model.
    pub(crate) served_model_name: String,
    /// What kind of model this is.
    pub(crate) model_type: ModelType,
    /// Most requests at once.
    pub(crate) max_concurrent_requests: usize,
    /// Most tokens of a text.
    pub(crate) max_input_length: usize,
    /// Most tokens of a batch.
    pub(crate) max_batch_tokens: usize,
    /// Most items of a batch.
    pub(crate) max_batch_requests: Option<usize>,
    /// Most inputs of a request.
    pub(crate) max_client_batch_size: usize,
    /// Whether long texts are cut where a request does not say.
    pub(crate) auto_truncate: bool,
    /// Threads that count tokens.
    pub(crate) tokenization_workers: usize,
    /// Of this server.
    pub(crate) version: &'static str,
    /// Commit of this server, where it is known.
    pub(crate) sha: Option<String>,
    /// Of an image, where it runs in one.
    pub(crate) docker_label: Option<String>,
    /// Models that answer.
    pub(crate) models: Vec<&'static str>,
    /// Models that failed when the server became ready, and why.
    pub(crate) lost_models: BTreeMap<&'static str, String>,
    /// What no training made.
    pub(crate) untrained: Vec<&'static str>,
    /// Kind of device.
    pub(crate) device: String,
    /// Which device holds what, where there are several.
    pub(crate) placement: Option<PlacementBody>,
}

/// Which device holds what.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct PlacementBody {
    /// `replicas`: the same models on each. `parts`: each model on one.
    pub(crate) kind: &'static str,
    /// Why, in words.
    pub(crate) why: String,
    /// The devices in their order.
    pub(crate) devices: Vec<PlacedDevice>,
}

/// What one device holds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct PlacedDevice {
    /// Its name.
    pub(crate) name: String,
    /// Checkpoints, and `fusion` where it fuses.
    pub(crate) parts: Vec<&'static str>,
    /// Models of these checkpoints.
    pub(crate) models: Vec<&'static str>,
    /// Bytes that were planned for it.
    pub(crate) planned_bytes: u64,
    /// Bytes that were free then.
    pub(crate) free_bytes: u64,
}

/// What kind of model this is.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModelType {
    /// It embeds.
    Embedding {
        /// How rows become a vector.
        pooling: &'static str,
    },
}

fn yes() -> bool {
    true
}
