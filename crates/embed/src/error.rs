//! What can go wrong in embedding, as facts: what, where, and whose fault.
//!
//! Prose is made from the facts in `Display` only. Flags such as *truncated* are not errors and
//! travel with results.

use std::path::PathBuf;

use crate::input::InputKind;
use crate::model_id::ModelId;
use crate::pipeline::LostModel;
use crate::precision::InferencePrecision;

/// Result of anything in this crate.
pub type EmbeddingResult<T> = Result<T, EmbeddingError>;

/// An error of a lower layer, kept whole.
pub type Cause = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why something could not be embedded, fused, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddingError {
    /// No model has this name.
    #[error("there is no model `{name}`")]
    ModelNotFound {
        /// As it was asked for.
        name: String,
    },
    /// A part of a model could not be loaded.
    #[error("cannot load `{part}`{}", of_model(*model_id))]
    ModelLoadError {
        /// The model, where it is known.
        model_id: Option<ModelId>,
        /// The tensor or file.
        part: String,
        /// What the layer below says.
        source: Cause,
    },
    /// Used before its initialisation ended.
    #[error("{what} is not initialised")]
    NotInitialized {
        /// What was used.
        what: &'static str,
    },
    /// Something would have to be built, and the right to build was given up after warm-up.
    #[error("{what} was not warmed up, and nothing is built any more")]
    NotWarm {
        /// The program or model.
        what: String,
    },
    /// In one bucket a program does not compute what it computes in the smallest.
    #[error(
        "{model} in the bucket of {token_count} tokens has cosine {cosine:.6} to the smallest \
             bucket's, at least {want} is needed"
    )]
    WarmupMismatch {
        /// The model.
        model: String,
        /// Room of the bucket.
        token_count: usize,
        /// What was found.
        cosine: f64,
        /// What is needed.
        want: f64,
    },
    /// A second load of the same model.
    #[error("model {model_id} is loaded already")]
    ModelAlreadyLoaded {
        /// The model.
        model_id: ModelId,
    },
    /// The model is known and not loaded.
    #[error("model {model_id} is not loaded")]
    ModelNotLoaded {
        /// The model.
        model_id: ModelId,
    },
    /// Slots without a vector, where all or a minimum are demanded.
    #[error("no embedding of {}", names(model_ids))]
    MissingModels {
        /// The models without a vector, in slot order.
        model_ids: Vec<ModelId>,
    },
    /// More memory would be needed than may be used.
    #[error("{wanted_bytes} bytes are needed, {budget_bytes} are allowed")]
    MemoryBudgetExceeded {
        /// Needed.
        wanted_bytes: u64,
        /// Allowed.
        budget_bytes: u64,
    },
    /// A bug in this program.
    #[error("internal error in {place}")]
    InternalError {
        /// The part that broke its own promise.
        place: &'static str,
        /// What broke it, where something did.
        source: Option<Cause>,
    },
    /// A size that nothing can be built from.
    #[error("{what} cannot have {got_len} elements")]
    InvalidDimension {
        /// What has the size.
        what: &'static str,
        /// The size.
        got_len: usize,
    },
    /// A size other than the one that is needed.
    #[error("{what} has {got_len} elements, {want_len} are needed")]
    DimensionMismatch {
        /// What has the size.
        what: &'static str,
        /// Needed.
        want_len: usize,
        /// Given.
        got_len: usize,
    },
    /// A number that is not finite or outside its range.
    #[error("element {index} is {value}")]
    InvalidValue {
        /// Place of the first such element.
        index: usize,
        /// The element.
        value: f32,
    },
    /// Nothing to embed.
    #[error("the {what} is empty")]
    EmptyInput {
        /// What is empty.
        what: &'static str,
    },
    /// More than the limit, and cutting was not allowed.
    #[error("the input has {got_len} {unit}, the limit is {limit_max}")]
    InputTooLong {
        /// Given.
        got_len: usize,
        /// Allowed.
        limit_max: usize,
        /// Of what.
        unit: LengthUnit,
    },
    /// A text that is none.
    #[error("byte {byte_index} of the text is {fault}")]
    InvalidText {
        /// First offending byte.
        byte_index: usize,
        /// What is wrong with it.
        fault: TextFault,
    },
    /// An image that cannot be used.
    #[error("the image cannot be used: {fault}")]
    InvalidImage {
        /// What is wrong with it.
        fault: ImageFault,
        /// What the decoder says, where it says something.
        source: Option<Cause>,
    },
    /// One item of a batch failed; the others are not concerned.
    #[error("item {item_index} of the batch failed")]
    BatchError {
        /// Place in the batch.
        item_index: usize,
        /// Why.
        source: Box<EmbeddingError>,
    },
    /// Fusion failed after the models had answered.
    #[error("fusion failed")]
    FusionError {
        /// Why.
        source: Cause,
    },
    /// An expert that does not exist, or one named twice.
    #[error("expert {expert_index} cannot be selected from {expert_count}")]
    InvalidExpertIndex {
        /// Named.
        expert_index: usize,
        /// Existing.
        expert_count: usize,
    },
    /// A tokenizer refused a text.
    #[error("the tokenizer failed")]
    TokenizationError {
        /// What it says.
        source: Cause,
    },
    /// A device or the program on it failed.
    #[error("the device failed")]
    GpuError {
        /// What the device layer says.
        source: Cause,
    },
    /// A cache could not be read or written.
    #[error("the {cache} cache failed")]
    CacheError {
        /// Which.
        cache: &'static str,
        /// Why.
        source: Cause,
    },
    /// The operating system refused a file.
    #[error("{}: {source}", path.display())]
    IoError {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Not ready in time.
    #[error("not finished after {timeout_ms} ms")]
    Timeout {
        /// The limit.
        timeout_ms: u64,
    },
    /// A model that does not take such an input.
    #[error("model {model_id} does not take {kind}")]
    UnsupportedModality {
        /// The model.
        model_id: ModelId,
        /// The input.
        kind: InputKind,
    },
    /// A model or a device that does not run in the precision that was asked for.
    #[error("{model} does not run in {precision}: {why}")]
    PrecisionRefused {
        /// The model's name, or the device's.
        model: String,
        /// As asked for.
        precision: InferencePrecision,
        /// What would go wrong, and what to use instead.
        why: &'static str,
    },
    /// A model whose vectors in a precision are too far from those in f32.
    #[error(
        "{model} in {precision} has a cosine of {cosine:.4} to itself in f32, where {want} is \
         asked for; use bf16 or f32"
    )]
    PrecisionTooFar {
        /// The model's name.
        model: String,
        /// As asked for.
        precision: InferencePrecision,
        /// The least that was found, mean taken off or not.
        cosine: f64,
        /// The least that is allowed.
        want: f64,
    },
    /// A setting outside its range, or a malformed directive.
    #[error("`{field}` is `{value}`; {want}")]
    ConfigError {
        /// The setting.
        field: &'static str,
        /// As given.
        value: String,
        /// The rule.
        want: &'static str,
    },
    /// Stored bytes that are not what they say they are.
    #[error("{what} cannot be read: {fault}")]
    SerializationError {
        /// Which bytes.
        what: String,
        /// What is wrong with them.
        fault: FormatFault,
    },
    /// A model's output during warm-up is not sane.
    #[error("warm-up of {model_id}: output fails the check `{check}`")]
    WarmupValidationFailed {
        /// The model.
        model_id: ModelId,
        /// The check.
        check: &'static str,
    },
    /// The pipeline did not become ready.
    #[error("{failed_count} models failed to warm up")]
    InitializationFailed {
        /// Models that are not ready.
        failed_count: usize,
    },
    /// Fewer models are warm than have to be.
    #[error(
        "{warm_count} models are warm, {models_min} must be{}; lost: {}",
        among(mandatory),
        listed(lost)
    )]
    TooFewModels {
        /// Models that are warm.
        warm_count: usize,
        /// Fewest that must be.
        models_min: usize,
        /// Models that must be among them.
        mandatory: Vec<ModelId>,
        /// Models that are not, and why.
        lost: Vec<LostModel>,
    },
    /// A pipeline that the devices do not hold together.
    #[error(
        "`{part}` wants {part_bytes} bytes and finds no device: all models want {whole_bytes} \
             bytes, and there are free {}",
        on_each(free)
    )]
    NoPlacement {
        /// The first checkpoint that found no place.
        part: &'static str,
        /// What it wants.
        part_bytes: u64,
        /// What all want on one device.
        whole_bytes: u64,
        /// Each device with its free bytes.
        free: Vec<(String, u64)>,
    },
    /// The queue is full.
    #[error("{queued_count} requests are waiting, {queue_max} may")]
    Overloaded {
        /// Waiting now.
        queued_count: usize,
        /// Allowed to wait.
        queue_max: usize,
    },
    /// The caller went away.
    #[error("cancelled")]
    Cancelled,
}

/// Whose fault an error is. The command maps these to exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The request; another request may succeed.
    UserInput,
    /// The settings; nothing succeeds until they change.
    Configuration,
    /// The machine, its files or its load.
    Environment,
    /// This program.
    Internal,
}

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// Name or load another model, or configure it otherwise.
    OtherModel,
    /// Change the input.
    FixInput,
    /// Send it again.
    Retry,
    /// Send it again, or go on with less where that was allowed.
    RetryOrDegrade,
    /// Change the settings.
    FixConfiguration,
}

impl EmbeddingError {
    /// Whose fault this is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::ModelNotFound { .. }
            | Self::InvalidValue { .. }
            | Self::DimensionMismatch { .. }
            | Self::InvalidDimension { .. }
            | Self::EmptyInput { .. }
            | Self::InputTooLong { .. }
            | Self::InvalidText { .. }
            | Self::InvalidImage { .. }
            | Self::InvalidExpertIndex { .. }
            | Self::UnsupportedModality { .. }
            | Self::TokenizationError { .. }
            | Self::Cancelled => Fault::UserInput,
            Self::ConfigError { .. }
            | Self::PrecisionRefused { .. }
            | Self::PrecisionTooFar { .. }
            | Self::ModelAlreadyLoaded { .. }
            | Self::ModelNotLoaded { .. }
            | Self::MissingModels { .. } => Fault::Configuration,
            Self::ModelLoadError { .. }
            | Self::MemoryBudgetExceeded { .. }
            | Self::GpuError { .. }
            | Self::CacheError { .. }
            | Self::IoError { .. }
            | Self::Timeout { .. }
            | Self::SerializationError { .. }
            | Self::WarmupValidationFailed { .. }
            | Self::WarmupMismatch { .. }
            | Self::InitializationFailed { .. }
            | Self::TooFewModels { .. }
            | Self::NoPlacement { .. }
            | Self::Overloaded { .. } => Fault::Environment,
            Self::InternalError { .. }
            | Self::FusionError { .. }
            | Self::NotInitialized { .. }
            | Self::NotWarm { .. } => Fault::Internal,
            Self::BatchError { source, .. } => source.fault(),
        }
    }

    /// What a caller can do.
    pub fn recovery(&self) -> Recovery {
        match self {
            Self::ModelNotFound { .. }
            | Self::ModelLoadError { .. }
            | Self::ModelAlreadyLoaded { .. }
            | Self::ModelNotLoaded { .. }
            | Self::MissingModels { .. }
            | Self::NotWarm { .. }
            | Self::WarmupMismatch { .. }
            | Self::WarmupValidationFailed { .. } => Recovery::OtherModel,
            Self::InvalidValue { .. }
            | Self::DimensionMismatch { .. }
            | Self::InvalidDimension { .. }
            | Self::EmptyInput { .. }
            | Self::InputTooLong { .. }
            | Self::InvalidText { .. }
            | Self::InvalidImage { .. }
            | Self::InvalidExpertIndex { .. }
            | Self::UnsupportedModality { .. }
            | Self::TokenizationError { .. }
            | Self::SerializationError { .. } => Recovery::FixInput,
            Self::FusionError { .. }
            | Self::InternalError { .. }
            | Self::NotInitialized { .. }
            | Self::Cancelled => Recovery::Retry,
            Self::MemoryBudgetExceeded { .. }
            | Self::GpuError { .. }
            | Self::CacheError { .. }
            | Self::IoError { .. }
            | Self::Timeout { .. }
            | Self::InitializationFailed { .. }
            | Self::TooFewModels { .. }
            | Self::Overloaded { .. } => Recovery::RetryOrDegrade,
            Self::ConfigError { .. }
            | Self::PrecisionRefused { .. }
            | Self::PrecisionTooFar { .. }
            | Self::NoPlacement { .. } => Recovery::FixConfiguration,
            Self::BatchError { source, .. } => source.recovery(),
        }
    }
}

/// What a length counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthUnit {
    /// Bytes.
    Bytes,
    /// Tokens, special tokens included.
    Tokens,
}

impl std::fmt::Display for LengthUnit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Tokens => "tokens",
        })
    }
}

/// Why bytes are no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFault {
    /// Not UTF-8.
    NotUtf8,
    /// A NUL, which several tokenizers drop without a word.
    Nul,
}

impl std::fmt::Display for TextFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotUtf8 => "not UTF-8",
            Self::Nul => "NUL",
        })
    }
}

/// Why an image cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFault {
    /// The bytes are of another format than the request says, or of none.
    OtherFormat,
    /// The decoder gave up.
    Undecodable,
    /// Wider, higher or larger in memory than the limits.
    OverLimits,
}

impl std::fmt::Display for ImageFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OtherFormat => "the bytes are not of the stated format",
            Self::Undecodable => "the bytes do not decode",
            Self::OverLimits => "it exceeds the size limits",
        })
    }
}

/// Why stored bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatFault {
    /// Not this kind of bytes.
    Magic,
    /// Of a version that is not known.
    Version {
        /// As stored.
        got: u32,
    },
    /// Fewer or more bytes than the header announces.
    Length {
        /// Announced.
        want_bytes: u64,
        /// Present.
        got_bytes: u64,
    },
    /// A header that cannot be understood.
    Header,
    /// A digest that does not match, or none where one is demanded.
    Digest,
    /// A field whose value is impossible.
    Field {
        /// Its name.
        name: &'static str,
    },
    /// A tensor is not there.
    MissingTensor,
    /// A tensor has another shape or type.
    TensorShape,
}

impl std::fmt::Display for FormatFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Magic => f.write_str("it is something else"),
            Self::Version { got } => write!(f, "version {got} is not known"),
            Self::Length { want_bytes, got_bytes } => {
                write!(f, "{want_bytes} bytes are announced, {got_bytes} are there")
            }
            Self::Header => f.write_str("its header is damaged"),
            Self::Digest => f.write_str("its digest does not match"),
            Self::Field { name } => write!(f, "field `{name}` is impossible"),
            Self::MissingTensor => f.write_str("a tensor is missing"),
            Self::TensorShape => f.write_str("a tensor has another shape or type"),
        }
    }
}

fn of_model(model_id: Option<ModelId>) -> String {
    model_id.map_or_else(String::new, |id| format!(" of model {id}"))
}

fn among(mandatory: &[ModelId]) -> String {
    match mandatory {
        [] => String::new(),
        some => format!(", among them {}", names(some)),
    }
}

fn listed(lost: &[LostModel]) -> String {
    lost.iter().map(LostModel::to_string).collect::<Vec<_>>().join(", ")
}

fn on_each(free: &[(String, u64)]) -> String {
    free.iter().map(|(name, bytes)| format!("{bytes} on {name}")).collect::<Vec<_>>().join(", ")
}

fn names(model_ids: &[ModelId]) -> String {
    model_ids.iter().map(|it| it.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(err: EmbeddingError, text: &str, fault: Fault, recovery: Recovery) {
        assert_eq!(err.to_string(), text);
        assert_eq!((err.fault(), err.recovery()), (fault, recovery), "{text}");
    }

    #[test]
    fn errors_name_the_culprit() {
        check(
            EmbeddingError::DimensionMismatch { what: "slot", want_len: 1024, got_len: 3 },
            "slot has 3 elements, 1024 are needed",
            Fault::UserInput,
            Recovery::FixInput,
        );
        check(
            EmbeddingError::ConfigError {
                field: "top_k",
                value: "9".into(),
                want: "it must be within 1..=8",
            },
            "`top_k` is `9`; it must be within 1..=8",
            Fault::Configuration,
            Recovery::FixConfiguration,
        );
        check(
            EmbeddingError::BatchError {
                item_index: 3,
                source: Box::new(EmbeddingError::Timeout { timeout_ms: 5 }),
            },
            "item 3 of the batch failed",
            Fault::Environment,
            Recovery::RetryOrDegrade,
        );
        check(
            EmbeddingError::ModelLoadError {
                model_id: Some(ModelId::Code),
                part: "proj.weight".into(),
                source: "absent".into(),
            },
            "cannot load `proj.weight` of model code",
            Fault::Environment,
            Recovery::OtherModel,
        );
    }
}
