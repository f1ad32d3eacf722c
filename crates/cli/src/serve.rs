//! `calor serve`: the pipeline over HTTP and gRPC until somebody stops it.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use calor_embed::batching::BatchConfig;
use calor_embed::pipeline::PrecisionRule;
use calor_embed::{EmbeddingError, EmbeddingResult, PipelineCore};
use calor_measure::environment::Gpus;
use calor_server::blocking::{Watch, serve};
use calor_server::options::{DeviceClock, Limits, Secret, Times, TlsFiles};
use calor_server::{Ended, Opened, Opener, Phase, Progress, ServerError, ServerOptions};

use crate::arguments::{RunArguments, ServeArguments};
use crate::devices::{Wish, check_distinct};
use crate::embed::{Recipe, open_build, threads};
use crate::environment::{Environment, now_s};
use crate::exit::{Exit, Failure, chain};
use crate::recording::Recording;
use crate::{answer, interrupt};

/// Serves until the command is stopped.
///
/// # Errors
/// For settings that cannot be, models that do not open, and an end that was cut off.
pub(crate) fn run(
    arguments: &ServeArguments,
    environment: Environment,
    recording: Recording,
    quiet: bool,
) -> Result<Exit, Failure> {
    let run = &arguments.run;
    let places = places(arguments)?;
    let mut options = options(arguments);
    options.device_clock = device_clock(&places);
    let (counters, recorder) = (recording.counters.clone(), recording.recorder());
    // Before anything is pulled: a device that is not there ends the command.
    for place in &places {
        drop(open_build(place, &environment, &recording)?);
    }
    let recipe = Recipe::of(run, &environment, quiet)?;
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let now = run.now;
    let clock = Arc::new(move || now.unwrap_or_else(now_s));
    let opener = opener(places, environment, recording, recipe);
    interrupt::hold();
    let mut watch = Told { quiet, scheme };
    match serve(options, opener, clock, counters, recorder, &mut watch) {
        Ok(Ended::Drained) => Ok(Exit::Done),
        Ok(Ended::CutOff) => Err(Failure::new(Exit::Environment, "requests were cut off")
            .why("they took longer than `--drain-timeout-ms` allows")),
        Err(ServerError::Models { source }) => Err(source.into()),
        Err(err @ ServerError::Bind { .. }) => {
            Err(Failure::new(Exit::Environment, chain(&err)).hint("choose another `--port`"))
        }
        Err(err @ ServerError::Results { .. }) => {
            Err(Failure::new(Exit::Environment, chain(&err)).hint("see `--results-cache-file`"))
        }
        Err(err @ (ServerError::Pem { .. } | ServerError::Tls { .. })) => {
            Err(Failure::usage(chain(&err)))
        }
        Err(err) => Err(Failure::internal(chain(&err))),
    }
}

/// What each place runs with. Places on the processor share its threads.
fn places(arguments: &ServeArguments) -> Result<Vec<RunArguments>, Failure> {
    check_distinct(&arguments.devices)?;
    if arguments.devices.is_empty() {
        return Ok(vec![arguments.run.clone()]);
    }
    let share = threads(&arguments.run).get() / arguments.devices.len();
    let share = NonZeroUsize::new(share).unwrap_or(NonZeroUsize::MIN);
    let place = |device: &Wish| RunArguments {
        device: device.clone(),
        threads: Some(share),
        ..arguments.run.clone()
    };
    Ok(arguments.devices.iter().map(place).collect())
}

/// Reads the clocks of GPUs; nothing where there are none. A driver that counts more GPUs than the
/// process sees may tell of another: then a run is made for nothing.
fn device_clock(places: &[RunArguments]) -> Option<DeviceClock> {
    let numbers: Vec<Option<u32>> = places.iter().map(|it| it.device.gpu_number()).collect();
    if numbers.iter().all(Option::is_none) {
        return None;
    }
    let gpus = Gpus::open();
    let read = move |place: usize| gpus.clock_mhz((*numbers.get(place)?)?);
    Some(DeviceClock(Arc::new(read)))
}

/// Opens and warms the pipeline of a place: when the server starts, for a swap, and after a
/// failure.
fn opener(
    runs: Vec<RunArguments>,
    environment: Environment,
    recording: Recording,
    recipe: Recipe,
) -> Opener {
    let named = |(place, it): (usize, &RunArguments)| match runs.len() {
        1 => it.device.to_string(),
        // The processor may be there twice.
        _ => format!("{place}:{}", it.device),
    };
    let places = runs.iter().enumerate().map(named).collect();
    let open = move |place: usize, progress: &Progress| -> EmbeddingResult<Opened> {
        let failed =
            |failure: Failure| EmbeddingError::GpuError { source: failure.to_string().into() };
        let build = open_build(&runs[place], &environment, &recording).map_err(failed)?;
        let options = recipe.options(build.signature());
        let mut core = PipelineCore::open(build, options)?;
        core.check_precision(PrecisionRule::default(), None)?;
        let (core, report) = core.warm_telling(&mut |models, ns| progress.warm(models, ns))?;
        Ok(Opened { engine: Box::new(core), report })
    };
    Opener { places, open: Arc::new(open) }
}

fn options(arguments: &ServeArguments) -> ServerOptions {
    let ServeArguments {
        config: _,
        print_config: _,
        hostname,
        port,
        served_model_name,
        default_model,
        api_key,
        admin_key,
        tls_cert,
        tls_key,
        cors_allow_origin,
        max_concurrent_requests,
        max_batch_tokens,
        max_batch_requests,
        min_batch_requests,
        batch_wait_ms,
        max_client_batch_size,
        max_queued_items,
        max_queued_tokens,
        max_connections,
        payload_limit,
        auto_truncate,
        request_timeout_ms,
        header_timeout_ms,
        drain_timeout_ms,
        idle_warm_ms,
        results_cache_mib,
        results_cache_file,
        otlp_endpoint,
        devices: _,
        run: _,
    } = arguments.clone();
    ServerOptions {
        hostname,
        port,
        served_model_names: served_model_name,
        default_target: default_model,
        api_key: api_key.as_deref().map(Secret::new),
        admin_key: admin_key.as_deref().map(Secret::new),
        tls: tls_cert.zip(tls_key).map(|(certificates, key)| TlsFiles { certificates, key }),
        cors_origins: cors_allow_origin,
        batch: BatchConfig {
            max_batch_size: max_batch_requests,
            max_wait: Duration::from_millis(batch_wait_ms),
            min_batch_size: min_batch_requests,
            max_batch_tokens,
            max_queued: max_queued_items,
        },
        limits: Limits {
            payload_bytes_max: payload_limit,
            client_batch_max: max_client_batch_size,
            request_count_max: max_concurrent_requests,
            token_count_max: max_queued_tokens,
            connection_count_max: max_connections,
        },
        times: Times {
            request: Duration::from_millis(request_timeout_ms),
            header: Duration::from_millis(header_timeout_ms),
            drain: Duration::from_millis(drain_timeout_ms),
            idle: (idle_warm_ms != 0).then(|| Duration::from_millis(idle_warm_ms)),
        },
        auto_truncate,
        otlp: otlp_endpoint,
        device_clock: None,
        results_cache_bytes: results_cache_mib.saturating_mul(1 << 20),
        results_file: results_cache_file,
    }
}

/// What the user is told while the server runs.
struct Told {
    quiet: bool,
    scheme: &'static str,
}

impl Watch for Told {
    fn bound(&mut self, address: SocketAddr) {
        if !self.quiet {
            answer::remark(format!("{}://{address}: warming up", self.scheme));
        }
    }

    fn phase(&mut self, phase: Phase) {
        if !self.quiet {
            answer::remark(phase.word());
        }
    }

    fn is_stopped(&mut self) -> bool {
        interrupt::requested()
    }
}
