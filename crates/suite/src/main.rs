//! Runs the checks on this machine's NVIDIA GPU.
//!
//! Usage: `calor-suite [OPTION]... [NAME...]`, where a name is a part of the name of a check or of
//! an encoder. Exits with 1 when a check fails.
//!
//! `--bench` measures encoders in place of checks, with `--json FILE` for every sample and
//! `--revision COMMIT` to be kept with them, as `git describe --always --dirty` says it; `--steps`
//! says which steps take the time.
//! `--pipeline` measures the pipeline of twelve models at published size; `--soak COUNT` sends so
//! many requests through it, and `--requests COUNT` through MiniLM alone; `--first COUNT` starts
//! that many processes and compares their first calls with later ones; `--by-models` measures
//! pipelines of one model and more, and `--idle COUNT` what comes after so many pauses of a minute.
//! `--models DIR` says where
//! its seeded checkpoints are, which are made where they are not there, `--parity FILE` writes
//! their vectors for `bench/baselines/parity.py`, `--tiny` takes tiny ones, and `--memory BYTES`
//! bounds its memory.
//! `--parts` measures what is no layer of an encoder: gate, experts, the head of SPLADE.
//! `--gemm-rate` measures large products in bf16, a line of JSON for each: what the achieved work
//! of `calor load` is set against.
//! `--weights DIR` measures how checkpoints of real size are loaded, and makes those there that are
//! named and missing; `--make` only makes them.
//! `--run-suite FILE --output DIR` runs a suite of `calor-measure` with this program in it:
//! `--python PROGRAM` for baselines, `--revision COMMIT` (`-dirty` behind it where files differed).
//! `--arm NAME --samples COUNT` is one process of it: an encoder that answers in lines of JSON.
//! `--jobs COUNT` checks run at once. `--golden DIR`, `--cache-dir DIR` and `--libraries DIR` say
//! where things are; `--eager` captures nothing; `--without-library` leaves cuBLASLt alone,
//! `--without-hopper` the forms of sm_90a, and `--without-fp8` products in fp8. `--sealed` runs
//! encoders in place of checks, for
//! `crates/suite/outside/check.sh`, which says what `--plant` is.
#![forbid(unsafe_code)]

mod arguments;

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use arguments::{Arguments, arguments};
use calor_device::{Claim, Driver, Profile as StepProfile, Signature};
use calor_device_cuda::{CudaDriver, CudaOptions, DirectStorage, SearchPath};
use calor_embed::{InferencePrecision, Profile};
use calor_kernel::Digest;
use calor_suite::arm::{self, Request};
use calor_suite::parity;
use calor_suite::pipeline::{self, PipelineFiles};
use calor_suite::requests::{against_oracle, requests};
use calor_suite::{Golden, bench, check_attention, check_decoders, check_experts, check_gates};
use calor_suite::{check_baked_values, check_direct, check_narrow_products, check_nf4};
use calor_suite::{check_norms, check_partly_filled, check_pools, check_products, check_splade};
use calor_suite::{first, growth};
use calor_suite::{parts, rate, sealed_runs, soak, weights};
use calor_telemetry::clock::Stopwatch;
use calor_testkit::conformance::Form;
use calor_testkit::{Known, check_joined, contract, failures};

const KNOWN: &[Known] = &[Known { op: "sort", case: None, why: "nothing here sorts" }];

/// The checkpoint of MiniLM's size among those of a pipeline.
const MINILM: &str = "all-MiniLM-L6-v2";

/// A pause after which clocks and caches of a machine are those of an idle one.
const MINUTE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    work().unwrap_or_else(|err| {
        let mut words = err.to_string();
        let mut cause = err.source();
        while let Some(err) = cause {
            words = format!("{words}: {err}");
            cause = err.source();
        }
        // The exit code says it too where the line cannot be written.
        let _ = writeln!(std::io::stderr(), "error: {words}");
        ExitCode::FAILURE
    })
}

fn work() -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let arguments = arguments()?;
    let mut out = std::io::stdout();
    if let Some(request) = suite_request(&arguments) {
        let is_good = request.run(&mut out)?;
        return Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if let Some(folder) = &arguments.weights {
        weights::make(folder, &arguments.names);
        if arguments.make {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let mut path = SearchPath::usual(&[], &[]);
    path.folders.splice(0..0, arguments.libraries.iter().cloned());
    let profile = arguments.steps.then(StepProfile::new);
    let options = CudaOptions {
        path,
        eager: arguments.eager,
        without_vendor_library: arguments.without_library,
        plain_arch: arguments.without_hopper,
        without_fp8: arguments.without_fp8,
        profile: profile.clone(),
        early_library: arguments.pipeline || arguments.soak.is_some() || arguments.once,
        ..CudaOptions::default()
    };
    if let Some(name) = &arguments.arm {
        let driver = CudaDriver::new(options);
        arm::answer(&driver, name, arguments.samples, &arguments.cache, &mut out)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.gemm_rate {
        rate::rates(&CudaDriver::new(options), &rate::PRODUCTS, &mut out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let alone = CudaOptions { without_vendor_library: true, ..options.clone() };
    let reading = CudaOptions { direct_storage: DirectStorage::Always, ..options.clone() };
    let [driver, alone, reading] = [options, alone, reading].map(CudaDriver::new);
    if let Some(count) = arguments.first.filter(|_| !arguments.once) {
        let mut record = record(&driver, &arguments)?;
        let own: Vec<String> = std::env::args().skip(1).collect();
        first::first_calls(count, &own, &mut out, &mut *record)?;
        return Ok(ExitCode::SUCCESS);
    }
    let on_files = arguments.once || arguments.by_models;
    let on_files = on_files || arguments.soak.or(arguments.requests).or(arguments.idle).is_some();
    if arguments.pipeline || arguments.parity.is_some() || on_files {
        pipeline_runs(&driver, profile.as_ref(), &arguments, &mut out)?;
        return Ok(ExitCode::SUCCESS);
    }
    for library in driver.libraries().rows() {
        writeln!(out, "{library}")?;
    }
    // One stays open, so that the context is made once.
    let device = driver.open(0)?;
    writeln!(out, "{:?}", device.signature)?;
    if measures(&driver, &device.signature, profile.as_ref(), &arguments, &mut out)? {
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = |name: &str| {
        arguments.names.is_empty() || arguments.names.iter().any(|it| name.contains(&**it))
    };
    let drivers = Drivers { driver: &driver, alone: &alone, reading: &reading };
    let mut all = checks(drivers, device.claims, &arguments.golden);
    all.retain(|it| wanted(it.0));
    let failed = run_checks(all, arguments.jobs);
    writeln!(out, "{failed} failed")?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The suite that the command line asks for.
fn suite_request(arguments: &Arguments) -> Option<Request> {
    Some(Request {
        suite: arguments.suite.clone()?,
        output: arguments.output.clone(),
        python: arguments.python.clone(),
        libraries: arguments.libraries.first().cloned(),
        revision: arguments.revision.clone(),
        cases: arguments.names.clone(),
    })
}

/// Measures what the command line asks for in place of checks, and says whether it asked.
fn measures(
    driver: &CudaDriver,
    signature: &Signature,
    profile: Option<&StepProfile>,
    arguments: &Arguments,
    out: &mut dyn Write,
) -> Result<bool, Box<dyn Error + Send + Sync>> {
    if let Some(profile) = profile {
        bench::steps(driver, profile, &arguments.names, out)?;
    } else if arguments.parts {
        parts::table(driver, &arguments.names, out)?;
    } else if arguments.sealed {
        for encoder in bench::ENCODERS {
            if arguments.names.iter().any(|it| encoder.name.contains(&**it)) {
                sealed_runs(driver, encoder, arguments.plant, out)?;
            }
        }
    } else if let Some(folder) = &arguments.weights {
        let reading =
            CudaOptions { direct_storage: DirectStorage::Always, ..driver.options().clone() };
        let drivers = [driver as &dyn Driver, &CudaDriver::new(reading)];
        weights::table(drivers, folder, &arguments.names, &arguments.cache, out)?;
    } else if arguments.bench {
        let mut record: Box<dyn Write> = match &arguments.json {
            Some(path) => Box::new(File::create(path)?),
            None => Box::new(std::io::sink()),
        };
        writeln!(record, "{}", head(signature, arguments)?)?;
        bench::table(driver, &arguments.names, &arguments.cache, out, &mut *record)?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// The pipeline of twelve models, measured or under load.
fn pipeline_runs(
    driver: &CudaDriver,
    profile: Option<&StepProfile>,
    arguments: &Arguments,
    out: &mut dyn Write,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let precision = arguments.precision.as_deref().unwrap_or("bf16");
    let precision = InferencePrecision::ALL.into_iter().find(|it| it.word() == precision);
    let files = PipelineFiles {
        models: arguments.models.clone(),
        cache: arguments.cache.clone(),
        precision: precision.ok_or("no such precision")?,
        batch_tokens_max: 16_384,
        quota_bytes: arguments.memory_bytes.unwrap_or(u64::MAX),
        profile: if arguments.tiny { Profile::Random } else { Profile::Full },
    };
    let watch = Stopwatch::start();
    files.make()?;
    writeln!(out, "files in {:.1} s", watch.elapsed_ns() as f64 / 1e9)?;
    if let Some(path) = &arguments.parity {
        let (models, names, precision) = (&files.models, &arguments.names, files.precision);
        let mut lines = File::create(path)?;
        parity::record(driver, models, names, precision, &mut lines)?;
    }
    if arguments.once {
        first::once(driver, &files, out)?;
    }
    let exact = CudaDriver::new(CudaOptions { eager: true, ..driver.options().clone() });
    if let Some(count) = arguments.requests {
        let dir = files.models.join(MINILM);
        requests(driver, &exact, &dir, &files.cache, count, out)?;
    }
    if let Some(count) = arguments.soak {
        soak::soak(driver, &exact, &files, count, out)?;
    }
    if let Some(profile) = profile.filter(|_| arguments.pipeline) {
        pipeline::steps(driver, profile, &files, out)?;
        return Ok(());
    }
    let (by_models, idle) = (arguments.by_models, arguments.idle);
    if arguments.pipeline || by_models || idle.is_some() {
        let mut record = record(driver, arguments)?;
        let measured = pipeline_record(driver, &files, arguments, out, &mut *record);
        measured?;
    }
    Ok(())
}

/// What goes into one record.
fn pipeline_record(
    driver: &CudaDriver,
    files: &PipelineFiles,
    arguments: &Arguments,
    out: &mut dyn Write,
    record: &mut dyn Write,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    if arguments.pipeline {
        pipeline::measure(driver, files, out, record)?;
    }
    if arguments.by_models {
        growth::by_models(driver, files, out, record)?;
    }
    match arguments.idle {
        Some(pauses) => growth::after_idle(driver, files, (pauses, MINUTE), out, record),
        None => Ok(()),
    }
}

/// The file that the command line names, with the first line of a record.
fn record(
    driver: &CudaDriver,
    arguments: &Arguments,
) -> Result<Box<dyn Write>, Box<dyn Error + Send + Sync>> {
    let mut record: Box<dyn Write> = match &arguments.json {
        Some(path) => Box::new(File::create(path)?),
        None => Box::new(std::io::sink()),
    };
    let device = driver.open(0)?;
    writeln!(record, "{}", head(&device.signature, arguments)?)?;
    Ok(record)
}

/// What was measured on what: the first line of a record.
fn head(signature: &Signature, arguments: &Arguments) -> std::io::Result<serde_json::Value> {
    let program = Digest::of(&std::fs::read(std::env::current_exe()?)?);
    let versions: serde_json::Map<_, _> =
        signature.versions.iter().map(|(name, it)| (name.clone(), it.as_str().into())).collect();
    Ok(serde_json::json!({
        "schema": "calor.encoders/1.0", "revision": arguments.revision,
        "dirty": arguments.revision.is_empty() || arguments.revision.ends_with("-dirty"),
        "program_blake3": program.to_string(), "model": signature.model,
        "arch": signature.arch, "versions": versions, "eager": arguments.eager,
        "without_library": arguments.without_library,
        "without_hopper": arguments.without_hopper, "without_fp8": arguments.without_fp8,
    }))
}

type Check<'a> = (&'static str, Box<dyn FnOnce() + Send + 'a>);

/// Runs checks, `jobs` at once, and says how many failed.
fn run_checks(checks: Vec<Check<'_>>, jobs: usize) -> usize {
    let (checks, failed) = (Mutex::new(checks.into_iter()), AtomicUsize::new(0));
    let work = || loop {
        let next = checks.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some((name, check)) = next else { return };
        let watch = Stopwatch::start();
        let outcome = catch_unwind(AssertUnwindSafe(check));
        let seconds = watch.elapsed_ns() as f64 / 1e9;
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        // The count says it too where the line cannot be written.
        let _ = writeln!(std::io::stdout(), "{word:<6} {name} {seconds:.2} s");
        failed.fetch_add(usize::from(outcome.is_err()), Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs {
            scope.spawn(work);
        }
        work();
    });
    failed.into_inner()
}

/// The check of a precision where the device claims its product, else that it is refused.
fn in_precision<'a>(
    golden: Golden<'a>,
    claims: &'static [Claim],
    precision: InferencePrecision,
    large_min: f64,
) -> Box<dyn FnOnce() + Send + 'a> {
    match precision.runs_with(claims) {
        true => Box::new(move || {
            let lines = golden.vectors_are_close_in(precision, large_min, &[]);
            // Figures that a person wants to see where they were measured.
            let _ = writeln!(std::io::stdout(), "{}", lines.join("\n"));
        }),
        false => Box::new(move || golden.device_refuses(precision)),
    }
}

/// The machine's GPU in several forms.
#[derive(Clone, Copy)]
struct Drivers<'a> {
    /// As asked for.
    driver: &'a dyn Driver,
    /// Without the vendor's library.
    alone: &'a dyn Driver,
    /// Reading files by itself wherever it can.
    reading: &'a dyn Driver,
}

fn checks<'a>(
    drivers: Drivers<'a>,
    claims: &'static [Claim],
    golden: &'a std::path::Path,
) -> Vec<Check<'a>> {
    let Drivers { driver, alone, reading } = drivers;
    let form = move |form: Form| {
        move || {
            let lines = failures(driver, form, KNOWN);
            assert!(lines.is_empty(), "{} cases:\n{}", lines.len(), lines.join("\n"));
        }
    };
    let models =
        move || Golden { driver, dir: golden.to_owned(), tolerance: 1e-4, cosine_min: 0.99999 };
    let close = move || Golden { cosine_min: 0.999, ..models() };
    let in_precision = |precision, cosine_min, large_min| {
        in_precision(Golden { cosine_min, ..models() }, claims, precision, large_min)
    };
    let mut all: Vec<Check<'a>> = vec![
        ("contract.memory", Box::new(move || contract::check_memory(driver))),
        ("contract.queue", Box::new(move || contract::check_queue(driver))),
        ("contract.live_words", Box::new(move || contract::check_live_words(driver))),
        ("contract.joined", Box::new(move || check_joined(driver))),
        ("contract.targets", Box::new(move || contract::check_targets(driver))),
        ("contract.decoders", Box::new(move || check_decoders(driver, alone))),
        ("golden.tokens", Box::new(move || models().token_rows_are_those_of_the_reference())),
        ("golden.vectors", Box::new(move || models().vectors_are_those_of_the_reference())),
        (
            "golden.late_interaction",
            Box::new(move || models().late_interaction_scores_are_those_of_the_reference()),
        ),
        (
            "golden.oracle",
            Box::new(move || {
                let done = against_oracle(driver, &golden.join("bert"), 1000);
                assert!(done.is_ok(), "{done:?}");
            }),
        ),
        ("golden.images", Box::new(move || models().images_are_those_of_the_reference())),
        (
            "golden.bf16",
            Box::new(move || close().short_vectors_are_close_in(InferencePrecision::BF16, &[])),
        ),
        (
            "golden.f16",
            Box::new(move || {
                let refusing = ["t5-gated", "codet5p"];
                close().short_vectors_are_close_in(InferencePrecision::FP16, &refusing);
            }),
        ),
        ("golden.tf32", in_precision(InferencePrecision::TF32, 0.9999, 0.999)),
        ("golden.fp8", in_precision(InferencePrecision::FP8, 0.99, 0.9)),
        ("golden.int8", in_precision(InferencePrecision::INT8, 0.99, 0.9)),
        ("weights.direct", Box::new(move || check_direct(reading))),
        ("keys.baked_values", Box::new(move || check_baked_values(driver))),
        ("cases.whole", Box::new(form(Form::Whole))),
        ("cases.expanded", Box::new(form(Form::Expanded))),
        ("cases.weights", Box::new(form(Form::Weights))),
        ("cases.gradient", Box::new(form(Form::Gradient))),
    ];
    all.extend(large(driver));
    all
}

/// Checks of kernels at sizes beyond those of op cases.
fn large<'a>(driver: &'a dyn Driver) -> Vec<Check<'a>> {
    vec![
        ("large.narrow_products", Box::new(move || check_narrow_products(driver))),
        ("large.products", Box::new(move || check_products(driver))),
        ("large.gates", Box::new(move || check_gates(driver))),
        ("large.attention", Box::new(move || check_attention(driver))),
        ("large.norms", Box::new(move || check_norms(driver))),
        ("large.pools", Box::new(move || check_pools(driver))),
        ("large.experts", Box::new(move || check_experts(driver))),
        ("large.splade", Box::new(move || check_splade(driver))),
        ("large.partly_filled", Box::new(move || check_partly_filled(driver))),
        ("large.nf4", Box::new(move || check_nf4(driver))),
    ]
}
