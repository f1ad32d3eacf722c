//! Everything that can be set about a server. Values only: who reads flags, files and the
//! environment is not this crate.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use calor_embed::batching::BatchConfig;
use calor_embed::{ModelId, PipelineOutput};

/// How a server serves.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Address to listen on.
    pub hostname: String,
    /// Port; 0 lets the system choose.
    pub port: u16,
    /// What the default model is called besides its own name.
    pub served_model_names: Vec<String>,
    /// Who answers requests that name no model.
    pub default_target: Target,
    /// Wanted of every request but probes and metrics, where set.
    pub api_key: Option<Secret>,
    /// Wanted of administrative requests; without one there are none.
    pub admin_key: Option<Secret>,
    /// Certificate and key; without them connections are plain.
    pub tls: Option<TlsFiles>,
    /// Origins whose pages may call; `*` for all.
    pub cors_origins: Vec<String>,
    /// How items become batches.
    pub batch: BatchConfig,
    /// What may come in.
    pub limits: Limits,
    /// What may take how long.
    pub times: Times,
    /// Whether texts that are too long are cut where a request does not say.
    pub auto_truncate: bool,
    /// Where spans of requests go; nowhere without one.
    pub otlp: Option<OtlpEndpoint>,
    /// Megahertz of the processors of a place's device now, where that can be known; a drop below
    /// what they were has the models run once.
    pub device_clock: Option<DeviceClock>,
    /// Most bytes of results that are kept for texts that come again; nothing is kept if 0.
    pub results_cache_bytes: u64,
    /// Where they are left at the end and found at the start; nowhere without one.
    pub results_file: Option<PathBuf>,
}

/// Reads a device's clock, by its place.
#[derive(Clone)]
pub struct DeviceClock(pub std::sync::Arc<dyn Fn(usize) -> Option<u32> + Send + Sync>);

impl fmt::Debug for DeviceClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceClock(…)")
    }
}

/// A collector of spans, reached without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpEndpoint {
    /// Host and port.
    pub authority: String,
    /// Such as `/v1/traces`.
    pub path: String,
}

/// A word that names no collector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no collector; write http://HOST:PORT, of which the path is /v1/traces")]
pub struct NotACollector {
    text: String,
}

impl std::str::FromStr for OtlpEndpoint {
    type Err = NotACollector;

    /// `http://HOST[:PORT][/PATH]`; the port of OTLP over HTTP is 4318.
    fn from_str(text: &str) -> Result<Self, NotACollector> {
        let not = || NotACollector { text: text.to_owned() };
        let uri: axum::http::Uri = text.parse().map_err(|_| not())?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(not)?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(4318));
        let path = match uri.path() {
            "" | "/" => "/v1/traces",
            path => path,
        };
        Ok(Self { authority, path: path.to_owned() })
    }
}

/// What may come in.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes of a request's body.
    pub payload_bytes_max: usize,
    /// Most inputs of a request.
    pub client_batch_max: usize,
    /// Most requests at once.
    pub request_count_max: usize,
    /// Most tokens of all requests that wait or run.
    pub token_count_max: usize,
    /// Most connections at once.
    pub connection_count_max: usize,
}

/// What may take how long.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Until the answer, where a request does not say.
    pub request: Duration,
    /// Until a request's head has arrived.
    pub header: Duration,
    /// From the wish to stop to the end of what still runs.
    pub drain: Duration,
    /// How long nothing is asked before the device is kept warm by a run of its own.
    pub idle: Option<Duration>,
}

/// Where a certificate lies.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Chain of certificates, PEM.
    pub certificates: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// A key that is compared in constant time and never shown.
#[derive(Clone)]
pub struct Secret(blake3::Hash);

impl Secret {
    /// Keeps the digest of a key.
    pub fn new(key: &str) -> Self {
        Self(blake3::hash(key.as_bytes()))
    }

    /// Whether this is the key. Takes as long whatever the answer.
    pub fn is(&self, key: &str) -> bool {
        // Digests compare in constant time, and their length says nothing about the key's.
        self.0 == blake3::hash(key.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Whose vector a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// All twelve and their fusion.
    Fused,
    /// One model.
    Model(ModelId),
}

impl Target {
    /// Its own name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fused => "fused",
            Self::Model(model) => model.as_str(),
        }
    }

    /// By its own name, or a model by `e1` to `e12`.
    pub fn by_name(name: &str) -> Option<Self> {
        let lower = name.trim().to_ascii_lowercase();
        if lower == Self::Fused.name() {
            return Some(Self::Fused);
        }
        let number = |it: ModelId| format!("e{}", it.index() + 1);
        let found = ModelId::iter().find(|it| it.as_str() == lower || number(*it) == lower);
        found.map(Self::Model)
    }

    /// Elements of its vector.
    pub fn dimension(self) -> usize {
        match self {
            Self::Fused => calor_embed::FUSED_LEN,
            Self::Model(model) => model.slot_dimension(),
        }
    }

    /// Its vector in a result.
    pub fn vector(self, output: &PipelineOutput) -> Option<&[f32]> {
        match self {
            Self::Fused => output.fused.as_ref().map(|it| it.vector.as_slice()),
            Self::Model(model) => output.embeddings.get(model).map(|it| it.vector.as_slice()),
        }
    }
}

#[test]
fn targets_have_names_and_numbers() {
    assert_eq!(Target::by_name(" Fused"), Some(Target::Fused));
    assert_eq!(Target::by_name("E12"), Some(Target::Model(ModelId::LateInteraction)));
    assert_eq!(Target::by_name("e13"), None);
    for model in ModelId::iter() {
        let target = Target::Model(model);
        assert_eq!(Target::by_name(target.name()), Some(target));
    }
}

#[test]
fn a_secret_is_compared_whole_and_not_shown() {
    let secret = Secret::new("open sesame");
    assert!(secret.is("open sesame"));
    assert!(!secret.is("open sesam") && !secret.is("") && !secret.is("open sesame "));
    assert!(!format!("{secret:?}").contains("sesame"));
}

#[test]
fn a_collector_is_an_address_without_tls() {
    let good =
        |text: &str| text.parse::<OtlpEndpoint>().map(|it| format!("{}{}", it.authority, it.path));
    assert_eq!(good("http://localhost").as_deref(), Ok("localhost:4318/v1/traces"));
    assert_eq!(good("http://[::1]:9/x").as_deref(), Ok("[::1]:9/x"));
    for bad in ["", "localhost:4318", "https://localhost", "http://"] {
        assert!(good(bad).is_err(), "{bad}");
    }
}
