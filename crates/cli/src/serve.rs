//! `calor serve`: the pipeline over HTTP and gRPC until somebody stops it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use calor_device::Signature;
use calor_embed::batching::BatchConfig;
use calor_embed::pipeline::{PlacedReady, PrecisionRule, Ready, Told};
use calor_embed::placement::{DeviceRoom, LayoutKind, PipelineNeed};
use calor_embed::warmup::ReadyPolicy;
use calor_embed::{EmbeddingError, EmbeddingResult, Layout, PipelineCore, PlacedPipeline};
use calor_measure::environment::Gpus;
use calor_server::blocking::{Watch, serve};
use calor_server::engine::Open;
use calor_server::options::{DeviceClock, Limits, Secret, Times, TlsFiles};
use calor_server::{Ended, Opened, Opener, Phase, Progress, ServerError, ServerOptions};

use crate::arguments::{PlacementWord, RunArguments, ServeArguments};
use crate::embed::{Recipe, names, open_build, places};
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
    let places = places(run, &arguments.spread.devices)?;
    let mut options = options(arguments);
    options.device_clock = device_clock(&places);
    let (counters, recorder) = (recording.counters.clone(), recording.recorder());
    // Before anything is pulled: a device that is not there ends the command.
    for place in &places {
        drop(open_build(place, &environment, &recording)?);
    }
    let warming = Warming::of(arguments, quiet);
    let allows_loss = warming.policy.allows_loss();
    let recipe = Recipe::within(run, allows_loss, &environment, &*recorder, quiet)?;
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let now = run.now;
    let clock = Arc::new(move || now.unwrap_or_else(now_s));
    let layout = match places.as_slice() {
        [_] => None,
        several => {
            Some(layout(several, arguments.spread.placement, &environment, &recording, &recipe)?)
        }
    };
    let told_layout = layout.as_ref().map(Layout::to_string);
    let opener = opener(places, environment, recording, recipe, warming, layout);
    interrupt::hold();
    let mut watch = Watcher { quiet, scheme, layout: told_layout };
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
    warming: Warming,
    layout: Option<Layout>,
) -> Opener {
    let names = names(&runs);
    if let Some(layout) = layout.clone().filter(|it| it.kind == LayoutKind::Parts) {
        let places = vec![names.join("+")];
        let open = opener_of_parts(runs, environment, recording, recipe, warming, layout.clone());
        return Opener { places, layout: Some(layout), open };
    }
    let open = move |place: usize, progress: &Progress| -> EmbeddingResult<Opened> {
        let failed =
            |failure: Failure| EmbeddingError::GpuError { source: failure.reason().into() };
        let build = open_build(&runs[place], &environment, &recording).map_err(failed)?;
        let options = recipe.options(build.signature());
        let (policy, rule) = (&warming.policy, PrecisionRule::default());
        let mut told = |it: Told<'_>| warming.tell(progress, &it);
        let Ready { core, report, lost } =
            PipelineCore::ready(build, options, policy, rule, &mut told)?;
        Ok(Opened { engine: Box::new(core), report, lost })
    };
    Opener { places: names, layout, open: Arc::new(open) }
}

/// Opens and warms what each device holds of one pipeline.
fn opener_of_parts(
    runs: Vec<RunArguments>,
    environment: Environment,
    recording: Recording,
    recipe: Recipe,
    warming: Warming,
    layout: Layout,
) -> Open {
    Arc::new(move |_, progress: &Progress| -> EmbeddingResult<Opened> {
        let failed =
            |failure: Failure| EmbeddingError::GpuError { source: failure.reason().into() };
        let mut devices = Vec::with_capacity(runs.len());
        for run in &runs {
            let build = open_build(run, &environment, &recording).map_err(failed)?;
            let options = recipe.options(build.signature());
            devices.push((build, options));
        }
        let (policy, rule) = (&warming.policy, PrecisionRule::default());
        let mut told = |it: Told<'_>| warming.tell(progress, &it);
        let PlacedReady { placed, report, lost } =
            PlacedPipeline::ready(devices, &layout, policy, rule, &mut told)?;
        Ok(Opened { engine: Box::new(placed), report, lost })
    })
}

/// Which device holds what, by the bytes that are free and wanted.
fn layout(
    runs: &[RunArguments],
    wish: PlacementWord,
    environment: &Environment,
    recording: &Recording,
    recipe: &Recipe,
) -> Result<Layout, Failure> {
    // Devices of one kind plan the same.
    let mut known: Vec<(Signature, PipelineNeed)> = Vec::new();
    let mut rooms = Vec::with_capacity(runs.len());
    for (run, name) in runs.iter().zip(names(runs)) {
        let build = open_build(run, environment, recording)?;
        let signature = build.signature().clone();
        let free_bytes = signature.memory_bytes;
        let kind = Signature { memory_bytes: 0, ..signature };
        let need = match known.iter().find(|it| it.0 == kind) {
            Some((_, need)) => need.clone(),
            None => {
                let options = recipe.options(build.signature());
                // What does not open is told when it is to be warmed.
                let (core, _) = PipelineCore::open_each(build, options)?;
                let need = core.need()?;
                known.push((kind, need.clone()));
                need
            }
        };
        rooms.push(DeviceRoom { name, free_bytes, need });
    }
    Ok(match wish {
        PlacementWord::Auto => Layout::plan(&rooms)?,
        PlacementWord::Replicas => Layout::replicas(&rooms),
        PlacementWord::Parts => Layout::parts(&rooms)?,
    })
}

/// What has to be warm, and who hears of it.
struct Warming {
    policy: ReadyPolicy,
    quiet: bool,
}

impl Warming {
    fn of(arguments: &ServeArguments, quiet: bool) -> Self {
        let mandatory = arguments.ready.mandatory_models.clone();
        let policy = match arguments.ready.min_models {
            Some(models_min) => ReadyPolicy::Enough { models_min, mandatory },
            None => ReadyPolicy::All,
        };
        Self { policy, quiet }
    }

    fn tell(&self, progress: &Progress, told: &Told<'_>) {
        match told {
            Told::Warm { model_ids, check_ns } => progress.warm(model_ids, *check_ns),
            Told::Lost { lost, again } => {
                for it in lost.each().filter(|_| !self.quiet) {
                    answer::remark(format!("lost {it}"));
                }
                progress.lost(lost.each(), again);
            }
        }
    }
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
        ready: _,
        spread: _,
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
        times: times([request_timeout_ms, header_timeout_ms, drain_timeout_ms, idle_warm_ms]),
        auto_truncate,
        otlp: otlp_endpoint,
        device_clock: None,
        results_cache_bytes: results_cache_mib.saturating_mul(1 << 20),
        results_file: results_cache_file,
    }
}

/// Of milliseconds; an idle time of 0 is none.
fn times([request_ms, header_ms, drain_ms, idle_ms]: [u64; 4]) -> Times {
    Times {
        request: Duration::from_millis(request_ms),
        header: Duration::from_millis(header_ms),
        drain: Duration::from_millis(drain_ms),
        idle: (idle_ms != 0).then(|| Duration::from_millis(idle_ms)),
    }
}

/// What the user is told while the server runs.
struct Watcher {
    quiet: bool,
    scheme: &'static str,
    /// Which device holds what, where there are several.
    layout: Option<String>,
}

impl Watch for Watcher {
    fn bound(&mut self, address: SocketAddr) {
        if !self.quiet {
            answer::remark(format!("{}://{address}: warming up", self.scheme));
            self.layout.iter().for_each(answer::remark);
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
