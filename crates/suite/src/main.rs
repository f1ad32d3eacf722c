//! Runs the checks on this machine's NVIDIA GPU.
//!
//! Usage: `calor-suite [OPTION]... [NAME...]`, where a name is a part of the name of a check or of
//! an encoder. Exits with 1 when a check fails.
//!
//! `--bench` measures encoders in place of checks, with `--json FILE` for every sample and
//! `--revision COMMIT` to be kept with them; `--steps` says which steps take the time.
//! `--golden DIR`, `--cache-dir DIR` and `--libraries DIR` say where things are; `--eager` captures
//! nothing; `--without-library` leaves cuBLASLt alone, `--without-hopper` the forms of sm_90a, and
//! `--without-fp8` products in fp8.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use calor_device::{Claim, Driver, Signature};
use calor_device_cuda::{CudaDriver, CudaOptions, CudaProfile, SearchPath};
use calor_embed::InferencePrecision;
use calor_kernel::Digest;
use calor_suite::{Golden, bench, check_attention, check_narrow_products, check_products};
use calor_telemetry::clock::Stopwatch;
use calor_testkit::conformance::Form;
use calor_testkit::{Known, contract, failures};

const KNOWN: &[Known] = &[Known { op: "sort", case: None, why: "nothing here sorts" }];

/// What the command line says.
#[derive(Default)]
struct Arguments {
    golden: PathBuf,
    cache: PathBuf,
    bench: bool,
    json: Option<PathBuf>,
    revision: String,
    steps: bool,
    eager: bool,
    without_library: bool,
    without_hopper: bool,
    without_fp8: bool,
    libraries: Vec<PathBuf>,
    names: Vec<String>,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut found = Arguments {
        golden: "golden".into(),
        cache: std::env::temp_dir().join("calor-suite-cache"),
        ..Arguments::default()
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut next = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--golden" => found.golden = next()?.into(),
            "--json" => found.json = Some(next()?.into()),
            "--revision" => found.revision = next()?,
            "--cache-dir" => found.cache = next()?.into(),
            "--libraries" => found.libraries.push(next()?.into()),
            "--steps" => found.steps = true,
            "--bench" => found.bench = true,
            "--eager" => found.eager = true,
            "--without-library" => found.without_library = true,
            "--without-hopper" => found.without_hopper = true,
            "--without-fp8" => found.without_fp8 = true,
            name => found.names.push(name.to_owned()),
        }
    }
    Ok(found)
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments = arguments()?;
    let mut out = std::io::stdout();
    let mut path = SearchPath::usual(&[], &[]);
    path.folders.splice(0..0, arguments.libraries.iter().cloned());
    let profile = arguments.steps.then(CudaProfile::new);
    let options = CudaOptions {
        path,
        eager: arguments.eager,
        without_vendor_library: arguments.without_library,
        plain_arch: arguments.without_hopper,
        without_fp8: arguments.without_fp8,
        profile: profile.clone(),
        ..CudaOptions::default()
    };
    let driver = CudaDriver::new(options);
    for library in driver.libraries().rows() {
        writeln!(out, "{library}")?;
    }
    // One stays open, so that the context is made once.
    let device = driver.open(0)?;
    writeln!(out, "{:?}", device.signature)?;
    if let Some(profile) = &profile {
        bench::steps(&driver, profile, &arguments.names, &mut out)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.bench {
        let folder = &arguments.cache;
        let mut record: Box<dyn Write> = match &arguments.json {
            Some(path) => Box::new(File::create(path)?),
            None => Box::new(std::io::sink()),
        };
        writeln!(record, "{}", head(&device.signature, &arguments)?)?;
        bench::table(&driver, &arguments.names, folder, &mut out, &mut *record)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut failed = 0;
    for (name, check) in checks(&driver, device.claims, &arguments.golden) {
        if !arguments.names.is_empty() && !arguments.names.iter().any(|it| name.contains(&**it)) {
            continue;
        }
        let watch = Stopwatch::start();
        let outcome = catch_unwind(AssertUnwindSafe(check));
        let seconds = watch.elapsed_ns() as f64 / 1e9;
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        writeln!(out, "{word:<6} {name} {seconds:.2} s")?;
        failed += usize::from(outcome.is_err());
    }
    writeln!(out, "{failed} failed")?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was measured on what: the first line of a record.
fn head(signature: &Signature, arguments: &Arguments) -> std::io::Result<serde_json::Value> {
    let program = Digest::of(&std::fs::read(std::env::current_exe()?)?);
    let versions: serde_json::Map<_, _> =
        signature.versions.iter().map(|(name, it)| (name.clone(), it.as_str().into())).collect();
    Ok(serde_json::json!({
        "schema": "calor.encoders/1.0", "revision": arguments.revision,
        "program_blake3": program.to_string(), "model": signature.model,
        "arch": signature.arch, "versions": versions, "eager": arguments.eager,
        "without_library": arguments.without_library,
        "without_hopper": arguments.without_hopper, "without_fp8": arguments.without_fp8,
    }))
}

type Check<'a> = (&'static str, Box<dyn FnOnce() + 'a>);

fn checks<'a>(
    driver: &'a dyn Driver,
    claims: &'static [Claim],
    golden: &'a std::path::Path,
) -> Vec<Check<'a>> {
    let form = move |form: Form| {
        move || {
            let lines = failures(driver, form, KNOWN);
            assert!(lines.is_empty(), "{} cases:\n{}", lines.len(), lines.join("\n"));
        }
    };
    let models =
        move || Golden { driver, dir: golden.to_owned(), tolerance: 1e-4, cosine_min: 0.99999 };
    let close = move || Golden { cosine_min: 0.999, ..models() };
    // A precision is checked where the device claims its product, else its refusal.
    let in_precision = move |precision: InferencePrecision,
                             cosine_min: f64,
                             large_min: f64|
          -> Box<dyn FnOnce() + 'a> {
        match precision.runs_with(claims) {
            true => Box::new(move || {
                let golden = Golden { cosine_min, ..models() };
                let lines = golden.vectors_are_close_in(precision, large_min, &[]);
                // Figures that a person wants to see where they were measured.
                let _ = writeln!(std::io::stdout(), "{}", lines.join("\n"));
            }),
            false => Box::new(move || models().device_refuses(precision)),
        }
    };
    vec![
        ("contract.memory", Box::new(move || contract::check_memory(driver))),
        ("contract.queue", Box::new(move || contract::check_queue(driver))),
        ("contract.live_words", Box::new(move || contract::check_live_words(driver))),
        ("golden.tokens", Box::new(move || models().token_rows_are_those_of_the_reference())),
        ("golden.vectors", Box::new(move || models().vectors_are_those_of_the_reference())),
        (
            "golden.late_interaction",
            Box::new(move || models().late_interaction_scores_are_those_of_the_reference()),
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
        ("golden.int8", in_precision(InferencePrecision::INT8, 0.99, 0.99)),
        ("large.narrow_products", Box::new(move || check_narrow_products(driver))),
        ("large.products", Box::new(move || check_products(driver))),
        ("large.attention", Box::new(move || check_attention(driver))),
        ("cases.whole", Box::new(form(Form::Whole))),
        ("cases.expanded", Box::new(form(Form::Expanded))),
        ("cases.weights", Box::new(form(Form::Weights))),
        ("cases.gradient", Box::new(form(Form::Gradient))),
    ]
}
