//! Flags of `calor load`.

use std::net::SocketAddr;

use clap::Args;

/// `calor load`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calor load 127.0.0.1:3000 --rates 10,50,100,200
  calor load 127.0.0.1:3000 --one-by-one 1500
  calor load 127.0.0.1:3000 --path /embed --items 8 --words 100 --seconds 30 --json

Requests are due at random moments at each rate, whether or not earlier ones were answered, and a
latency begins when its request was due. Each text is another; turn the server's results cache off
(`--results-cache-mib 0`) all the same where the arms of a comparison have none. `Tflop/s` is what
the server's products did on live rows, by its own counter; `calor-suite --gemm-rate` says what a
machine reaches.")]
pub(crate) struct LoadArguments {
    /// Where the server listens.
    #[arg(value_name = "ADDRESS")]
    pub(crate) address: SocketAddr,
    /// Requests a second, one point of the curve after another.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [10.0, 20.0, 50.0])]
    pub(crate) rates: Vec<f64>,
    /// How long each rate is kept.
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Send so many requests one after another instead, and say where the time of each goes.
    #[arg(long, value_name = "N", conflicts_with_all = ["rates", "seconds"])]
    pub(crate) one_by_one: Option<usize>,
    /// Inputs of a request.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) items: usize,
    /// Words of a text: as many tokens, or a few more.
    #[arg(long, value_name = "N", default_value_t = 24)]
    pub(crate) words: usize,
    /// Where requests go: a route of OpenAI's form, or one that takes `inputs`.
    #[arg(long, value_name = "PATH", default_value = "/v1/embeddings")]
    pub(crate) path: String,
    /// The model that requests name.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Key that the server wants.
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// Texts are made from this.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub(crate) seed: u64,
    /// Answer as JSON, one line for each rate.
    #[arg(long)]
    pub(crate) json: bool,
}
