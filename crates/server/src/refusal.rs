//! Why a request is not answered, with its codes in HTTP, in OpenAI's words and in gRPC.

use axum::http::StatusCode;
use calor_embed::pipeline::LostModel;
use calor_embed::{EmbeddingError, Fault};

use crate::options::Target;
use crate::readiness::Phase;

/// Why a request is not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Not ready, or not any more.
    #[error("the server is {}; try again", .phase.word())]
    NotReady { phase: Phase },
    /// Too much at once.
    #[error("the server is overloaded; try again in {retry_after_s} s")]
    Overloaded { retry_after_s: u64 },
    /// No key, or a wrong one.
    #[error("a valid key is needed: `Authorization: Bearer …`")]
    Unauthorized,
    /// Nothing to embed.
    #[error("there are no inputs")]
    NoInputs,
    /// Too many inputs in one request.
    #[error("the request has {got} inputs, at most {max} are taken")]
    TooManyInputs { got: usize, max: usize },
    /// More bytes than a body may have.
    #[error("the body has more than {max} bytes")]
    PayloadTooLarge { max: usize },
    /// A body that is not JSON.
    #[error("the body is not JSON: {source}")]
    Syntax { source: serde_json::Error },
    /// JSON that is not a request.
    #[error("the body is not a request of this kind: {source}")]
    Shape { source: serde_json::Error },
    /// A body that says that it is something else.
    #[error("`Content-Type: application/json` is needed")]
    NotJson,
    /// A body that ended early.
    #[error("the body could not be read")]
    BrokenBody,
    /// No model has this name.
    #[error("there is no model `{name}`; there are {there}")]
    UnknownModel { name: String, there: String },
    /// A model that failed while the server warmed up.
    #[error("`{}` does not answer: {}", .target.name(), why(*.target, .lost))]
    Lost { target: Target, lost: Vec<LostModel> },
    /// A field with a value that it cannot have.
    #[error("`{field}` is `{value}`; {want}")]
    Field { field: &'static str, value: String, want: &'static str },
    /// A model that does not do what is asked.
    #[error("{what}")]
    WrongModel { what: &'static str },
    /// One input among several.
    #[error("input {index}: {}", chain(.source))]
    Input { index: usize, source: EmbeddingError },
    /// All of it.
    #[error("{}", chain(.0))]
    Whole(#[from] EmbeddingError),
}

impl Refusal {
    fn cause(&self) -> Option<&EmbeddingError> {
        match self {
            Self::Input { source, .. } | Self::Whole(source) => Some(source),
            _ => None,
        }
    }

    /// The row of the table of codes.
    fn row(&self) -> &'static Row {
        let cause = self.cause();
        match self {
            Self::NotReady { .. } => &NOT_READY,
            Self::Overloaded { .. } => &OVERLOADED,
            Self::Unauthorized => &UNAUTHORIZED,
            Self::NoInputs => &EMPTY,
            Self::Syntax { .. } | Self::BrokenBody => &SYNTAX,
            Self::NotJson => &MEDIA_TYPE,
            Self::PayloadTooLarge { .. } => &PAYLOAD,
            Self::UnknownModel { .. } => &UNKNOWN_MODEL,
            Self::TooManyInputs { .. } | Self::Shape { .. } | Self::Field { .. } => &VALIDATION,
            Self::WrongModel { .. } => &WRONG_MODEL,
            Self::Lost { .. } => &BACKEND,
            Self::Input { .. } | Self::Whole(_) => match cause {
                Some(EmbeddingError::Overloaded { .. }) => &OVERLOADED,
                Some(EmbeddingError::Timeout { .. }) => &DEADLINE,
                Some(EmbeddingError::Cancelled) => &CANCELLED,
                Some(EmbeddingError::EmptyInput { .. }) => &EMPTY,
                Some(EmbeddingError::TokenizationError { .. }) => &TOKENIZER,
                Some(EmbeddingError::NotInitialized { .. }) => &NOT_READY,
                Some(EmbeddingError::InternalError { .. }) => &INTERNAL,
                Some(EmbeddingError::ConfigError { .. }) => &VALIDATION,
                Some(it) if it.fault() == Fault::UserInput => &VALIDATION,
                _ => &BACKEND,
            },
        }
    }

    /// HTTP's code.
    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.row().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// What text-embeddings-inference calls it.
    pub(crate) fn native(&self) -> &'static str {
        self.row().native
    }

    /// What OpenAI calls it: type and code.
    pub(crate) fn openai(&self) -> (&'static str, &'static str) {
        (self.row().openai_kind, self.row().openai_code)
    }

    /// gRPC's code.
    pub(crate) fn grpc(&self) -> tonic::Code {
        self.row().grpc
    }

    /// When to try again.
    pub(crate) fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::Overloaded { retry_after_s } => Some(*retry_after_s),
            _ if std::ptr::eq(self.row(), &NOT_READY) || std::ptr::eq(self.row(), &OVERLOADED) => {
                Some(1)
            }
            _ => None,
        }
    }
}

/// Why a target does not answer.
fn why(target: Target, lost: &[LostModel]) -> String {
    match (target, lost) {
        (Target::Model(_), [one]) => format!("it failed at the warm-up: {}", one.why),
        _ => {
            let all: Vec<String> = lost.iter().map(LostModel::to_string).collect();
            format!("it needs models that failed at the warm-up: {}", all.join(", "))
        }
    }
}

/// An error with what caused it, on one line.
pub(crate) fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(it) = cause {
        let part = it.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        cause = it.source();
    }
    text
}

struct Row {
    status: u16,
    native: &'static str,
    openai_kind: &'static str,
    openai_code: &'static str,
    grpc: tonic::Code,
}

const fn row(
    status: u16,
    native: &'static str,
    openai_kind: &'static str,
    openai_code: &'static str,
    grpc: tonic::Code,
) -> Row {
    Row { status, native, openai_kind, openai_code, grpc }
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

// Compared by address, so they are statics.
// tidy: table
static NOT_READY: Row = row(503, "Unhealthy", SERVER, "unavailable", tonic::Code::Unavailable);
static OVERLOADED: Row = row(
    429,
    "Overloaded",
    "rate_limit_error",
    "rate_limit_exceeded",
    tonic::Code::ResourceExhausted,
);
static UNAUTHORIZED: Row =
    row(401, "Unauthorized", INVALID, "invalid_api_key", tonic::Code::Unauthenticated);
static EMPTY: Row = row(400, "Empty", INVALID, "empty_input", tonic::Code::InvalidArgument);
static SYNTAX: Row = row(400, "Validation", INVALID, "invalid_json", tonic::Code::InvalidArgument);
static MEDIA_TYPE: Row =
    row(415, "Validation", INVALID, "unsupported_media_type", tonic::Code::InvalidArgument);
static PAYLOAD: Row =
    row(413, "Validation", INVALID, "payload_too_large", tonic::Code::InvalidArgument);
static UNKNOWN_MODEL: Row =
    row(404, "Validation", INVALID, "model_not_found", tonic::Code::NotFound);
static VALIDATION: Row =
    row(422, "Validation", INVALID, "invalid_value", tonic::Code::InvalidArgument);
static TOKENIZER: Row =
    row(422, "Tokenizer", INVALID, "invalid_text", tonic::Code::FailedPrecondition);
static WRONG_MODEL: Row =
    row(424, "Backend", INVALID, "wrong_model", tonic::Code::FailedPrecondition);
static BACKEND: Row = row(424, "Backend", SERVER, "backend_error", tonic::Code::FailedPrecondition);
static DEADLINE: Row =
    row(504, "Timeout", SERVER, "deadline_exceeded", tonic::Code::DeadlineExceeded);
static CANCELLED: Row = row(499, "Cancelled", INVALID, "cancelled", tonic::Code::Cancelled);
static INTERNAL: Row = row(500, "Backend", SERVER, "internal_error", tonic::Code::Internal);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(refusal: Refusal, status: u16, native: &str, grpc: tonic::Code) {
        assert_eq!(refusal.status().as_u16(), status, "{refusal}");
        assert_eq!((refusal.native(), refusal.grpc()), (native, grpc), "{refusal}");
    }

    #[test]
    fn codes_say_whose_fault_it_is() {
        use tonic::Code;
        let whole = Refusal::Whole;
        check(Refusal::NotReady { phase: Phase::Warming }, 503, "Unhealthy", Code::Unavailable);
        check(
            whole(EmbeddingError::EmptyInput { what: "text" }),
            400,
            "Empty",
            Code::InvalidArgument,
        );
        let unit = calor_embed::error::LengthUnit::Tokens;
        let too_long = EmbeddingError::InputTooLong { got_len: 600, limit_max: 512, unit };
        let refusal = Refusal::Input { index: 3, source: too_long };
        assert_eq!(refusal.to_string(), "input 3: the input has 600 tokens, the limit is 512");
        check(refusal, 422, "Validation", Code::InvalidArgument);
        let device = EmbeddingError::GpuError { source: "no power".into() };
        let refusal = whole(device);
        assert_eq!(refusal.to_string(), "the device failed: no power");
        check(refusal, 424, "Backend", Code::FailedPrecondition);
        let late = EmbeddingError::Timeout { timeout_ms: 5 };
        check(whole(late), 504, "Timeout", Code::DeadlineExceeded);
        let full = EmbeddingError::Overloaded { queued_count: 1, queue_max: 1 };
        let refusal = whole(full);
        assert_eq!(refusal.retry_after_s(), Some(1));
        check(refusal, 429, "Overloaded", Code::ResourceExhausted);
        assert_eq!(Refusal::Overloaded { retry_after_s: 7 }.retry_after_s(), Some(7));
        assert_eq!(Refusal::NoInputs.retry_after_s(), None);
    }
}
