//! Flags of `calor serve`. Each has a twin in the environment, `CALOR_` and its name in capitals,
//! and may stand in a file of settings under its name.

use std::path::PathBuf;

use calor_embed::ModelId;
use calor_server::Target;
use calor_server::options::OtlpEndpoint;
use clap::Args;

use super::RunArguments;
use crate::devices::Wish;

/// `calor serve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  calor serve --port 8080
  calor serve --profile full --device cuda --api-key \"$KEY\"
  calor serve --profile full --devices cuda:0,cuda:1
  calor serve --profile full --min-models 8 --mandatory-models e1,e7 --allow-partial
  calor serve --config calor.toml --print-config

A flag comes before its twin in the environment (CALOR_PORT for --port), which comes before the
file of settings, which comes before the default.")]
pub(crate) struct ServeArguments {
    /// Read settings from this file: TOML, one `name = value` for each flag.
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    pub(crate) config: Option<PathBuf>,
    /// Print the settings as they are used, with where each comes from, and end.
    #[arg(long, help_heading = "Settings")]
    pub(crate) print_config: bool,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0", help_heading = "Server")]
    pub(crate) hostname: String,
    /// Port for HTTP and gRPC; 0 lets the system choose.
    #[arg(long, value_name = "N", default_value_t = 3000, help_heading = "Server")]
    pub(crate) port: u16,
    /// Another name of the default model. May be repeated.
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub(crate) served_model_name: Vec<String>,
    /// Who answers requests that name no model: fused, or e1 to e12 by number or name.
    #[arg(long, value_name = "NAME", value_parser = target, default_value = "fused",
        help_heading = "Server")]
    pub(crate) default_model: Target,
    /// Wanted of every request but probes and metrics, as `Authorization: Bearer`.
    #[arg(long, value_name = "KEY", hide_env_values = true, help_heading = "Server")]
    pub(crate) api_key: Option<String>,
    /// Wanted of administrative requests; without one there are none.
    #[arg(long, value_name = "KEY", hide_env_values = true, help_heading = "Server")]
    pub(crate) admin_key: Option<String>,
    /// Chain of certificates, PEM; needs `--tls-key`.
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "Server")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key, PEM; needs `--tls-cert`.
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Server")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Origin whose pages may call; `*` for all. May be repeated.
    #[arg(long, value_name = "ORIGIN", help_heading = "Server")]
    pub(crate) cors_allow_origin: Vec<String>,
    /// Most requests at once.
    #[arg(long, value_name = "N", default_value_t = 512, help_heading = "Limits")]
    pub(crate) max_concurrent_requests: usize,
    /// Most tokens of a batch.
    #[arg(long, value_name = "N", default_value_t = 16_384, help_heading = "Limits")]
    pub(crate) max_batch_tokens: usize,
    /// Most items of a batch.
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Limits")]
    pub(crate) max_batch_requests: usize,
    /// Items that an idle device waits for.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Limits")]
    pub(crate) min_batch_requests: usize,
    /// How long it waits for them. What comes in while a batch runs gathers anyway.
    #[arg(long, value_name = "MS", default_value_t = 0, help_heading = "Limits")]
    pub(crate) batch_wait_ms: u64,
    /// Most inputs of a request.
    #[arg(long, value_name = "N", default_value_t = 32, help_heading = "Limits")]
    pub(crate) max_client_batch_size: usize,
    /// Most items that wait.
    #[arg(long, value_name = "N", default_value_t = 10_000, help_heading = "Limits")]
    pub(crate) max_queued_items: usize,
    /// Most tokens of all requests that wait or run.
    #[arg(long, value_name = "N", default_value_t = 1 << 20, help_heading = "Limits")]
    pub(crate) max_queued_tokens: usize,
    /// Most connections at once.
    #[arg(long, value_name = "N", default_value_t = 4096, help_heading = "Limits")]
    pub(crate) max_connections: usize,
    /// Most bytes of a request's body.
    #[arg(long, value_name = "BYTES", default_value_t = 2_000_000, help_heading = "Limits")]
    pub(crate) payload_limit: usize,
    /// Whether texts that are too long are cut where a request does not say.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set,
        help_heading = "Limits")]
    pub(crate) auto_truncate: bool,
    /// Until a request is given up, where it does not say.
    #[arg(long, value_name = "MS", default_value_t = 60_000, help_heading = "Times")]
    pub(crate) request_timeout_ms: u64,
    /// Until a request's head has arrived.
    #[arg(long, value_name = "MS", default_value_t = 30_000, help_heading = "Times")]
    pub(crate) header_timeout_ms: u64,
    /// From the wish to stop to the end of what still runs.
    #[arg(long, value_name = "MS", default_value_t = 30_000, help_heading = "Times")]
    pub(crate) drain_timeout_ms: u64,
    /// After this long without a request the models run once, to keep the device awake; never if
    /// it is 0.
    #[arg(long, value_name = "MS", default_value_t = 60_000, help_heading = "Times")]
    pub(crate) idle_warm_ms: u64,
    /// Most MiB of results that are kept for inputs that come again; nothing is kept if it is 0.
    #[arg(long, value_name = "MIB", default_value_t = 256, help_heading = "Limits")]
    pub(crate) results_cache_mib: u64,
    /// Leave these results in this file at the end, and take them from there at the start where the
    /// models are the same.
    #[arg(long, value_name = "FILE", help_heading = "Limits")]
    pub(crate) results_cache_file: Option<PathBuf>,
    /// Send spans of requests to this collector, OTLP over HTTP in JSON: http://HOST:PORT.
    #[arg(long, value_name = "URL", help_heading = "Server")]
    pub(crate) otlp_endpoint: Option<OtlpEndpoint>,
    #[command(flatten)]
    pub(crate) ready: ReadyArguments,
    #[command(flatten)]
    pub(crate) spread: SpreadArguments,
    #[command(flatten)]
    pub(crate) run: RunArguments,
}

/// What has to be warm.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReadyArguments {
    /// Serve although models fail at the warm-up or their checkpoints are nowhere, as long as so
    /// many are warm and the mandatory ones are; the others refuse by name. A checkpoint is looked
    /// for at the start only. If not given, all must be warm.
    #[arg(long, value_name = "N", help_heading = "Warm-up")]
    pub(crate) min_models: Option<usize>,
    /// With `--min-models`: models that must be warm, by number or name.
    #[arg(long, value_name = "LIST", value_parser = super::embed::model, value_delimiter = ',',
        default_value = "semantic", help_heading = "Warm-up")]
    pub(crate) mandatory_models: Vec<ModelId>,
}

/// Several devices.
#[derive(Clone, Debug, Args)]
pub(crate) struct SpreadArguments {
    /// Serve from these devices, such as cuda:0,cuda:1. May be repeated; cpu may be named more than
    /// once.
    #[arg(long, value_name = "DEVICE", value_delimiter = ',', value_parser = super::embed::device,
        conflicts_with = "device", help_heading = "Machine")]
    pub(crate) devices: Vec<Wish>,
    /// How the models lie on several devices.
    #[arg(long, value_enum, default_value = "auto", help_heading = "Machine")]
    pub(crate) placement: PlacementWord,
}

/// How models lie on several devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PlacementWord {
    /// The same on each where all fit each, else each model on one.
    Auto,
    /// The same on each, and work for whichever is free.
    Replicas,
    /// Each model on one device; all run at once, and one fuses.
    Parts,
}

fn target(name: &str) -> Result<Target, super::embed::UnknownName> {
    let there = "fused, e1 to e12 and their names";
    Target::by_name(name).ok_or_else(|| super::embed::UnknownName { name: name.into(), there })
}
