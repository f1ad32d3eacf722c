//! `calor accel-info`: what the last run, a running process or a server says of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use calor_telemetry::run::{RUN_MAJOR, RUN_MINOR, read};
use serde_json::{Value as Json, json};

use crate::{
    answer,
    arguments::{AccelInfoArguments, AnswerFormat},
    environment::Environment,
    exit::{Exit, Failure},
    recording::last_run,
};

/// Kernels that a text names: those that took longest.
const KERNEL_COUNT_SHOWN: usize = 10;
/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers.
///
/// # Errors
/// When there is nothing to tell, or nobody answers.
pub(crate) fn run(
    arguments: &AccelInfoArguments,
    environment: &Environment,
) -> Result<Exit, Failure> {
    let (source, body) = match (&arguments.socket, &arguments.url) {
        (Some(path), _) => ("socket", document(&of_socket(path, arguments.reset)?)?),
        (None, Some(url)) => ("server", of_server(url, arguments.reset)?),
        (None, None) => ("last-run", of_store(environment, arguments.reset)?),
    };
    let json = arguments.json || arguments.format == AnswerFormat::Json;
    if json {
        let version = format!("{RUN_MAJOR}.{RUN_MINOR}");
        answer::line(json!({ "schema_version": version, "source": source, "run": body }))?;
    } else if source == "server" {
        for (name, value) in body["metrics"].as_object().into_iter().flatten() {
            answer::line(format!("{name} {value}"))?;
        }
    } else {
        text(&body)?;
    }
    Ok(Exit::Done)
}

#[cfg(unix)]
fn of_socket(path: &std::path::Path, resets: bool) -> Result<String, Failure> {
    crate::live::ask(path, resets)
}

#[cfg(not(unix))]
fn of_socket(_path: &std::path::Path, _resets: bool) -> Result<String, Failure> {
    Err(Failure::usage("this system has no such sockets"))
}

fn document(text: &str) -> Result<Json, Failure> {
    read(text).map_err(|err| Failure::new(Exit::Input, "the answer is no run").why(err))
}

fn of_store(environment: &Environment, resets: bool) -> Result<Json, Failure> {
    let path = last_run(environment).ok_or_else(|| {
        Failure::usage("no folder for models").hint("set CALOR_HOME to a folder of yours")
    })?;
    let text = std::fs::read_to_string(&path).map_err(|err| {
        Failure::new(Exit::Input, "no run has left a summary yet")
            .why(err)
            .hint("`calor embed` and `calor search` leave one, unless `--no-telemetry` is given")
    })?;
    let found = document(&text)?;
    if resets {
        std::fs::remove_file(&path).map_err(|err| {
            Failure::new(Exit::Environment, format!("cannot remove {}", path.display())).why(err)
        })?;
    }
    Ok(found)
}

fn of_server(url: &str, resets: bool) -> Result<Json, Failure> {
    if resets {
        return Err(Failure::usage("a server's counters are never set back")
            .hint("take two readings and subtract them"));
    }
    let url = match url.trim_end_matches('/') {
        it if it.ends_with("/metrics") => it.to_owned(),
        it => format!("{it}/metrics"),
    };
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
    let text = agent.get(&url).call().and_then(|mut it| it.body_mut().read_to_string());
    let text = text.map_err(|err| {
        Failure::new(Exit::Environment, format!("{url} does not answer")).why(err)
    })?;
    Ok(json!({ "metrics": metrics(&text) }))
}

/// Samples of a scrape by their series.
fn metrics(text: &str) -> BTreeMap<String, Json> {
    let lines = text.lines().filter(|it| !it.starts_with('#'));
    lines
        .filter_map(|line| {
            let (series, value) = line.trim().rsplit_once(' ')?;
            let value: f64 = value.parse().ok()?;
            let is_whole = value.fract() == 0.0 && value.abs() < 9e15;
            let value = if is_whole { json!(value as i64) } else { json!(value) };
            Some((series.to_owned(), value))
        })
        .collect()
}

fn text(run: &Json) -> Result<(), Failure> {
    let of = |it: &Json| match it {
        Json::Null => "-".to_owned(),
        Json::String(it) => it.clone(),
        other => other.to_string(),
    };
    answer::line(format!("run         {} ({})", of(&run["run_id"]), of(&run["program"])))?;
    answer::line(format!("version     {} ({})", of(&run["version"]), of(&run["revision"])))?;
    let ms = |name: &str| {
        run["time"][name].as_f64().map_or("-".into(), |it| format!("{:.3} ms", it / 1e6))
    };
    for (name, shown) in [
        ("wall_ns", "wall"),
        ("kernel_ns", "kernels"),
        ("first_program_ns", "first run"),
        ("plan_ns", "planning"),
        ("compile_ns", "compiling"),
        ("load_ns", "loading"),
        ("weights_ns", "weights"),
        ("programs_ns", "programs"),
    ] {
        answer::line(format!("{shown:<11} {}", ms(name)))?;
    }
    for (name, shown) in [("upload", "uploads"), ("download", "downloads")] {
        let count = of(&run["transfers"][format!("{name}_count")]);
        let size = run["transfers"][format!("{name}_bytes")].as_u64().unwrap_or(0);
        answer::line(format!("{shown:<11} {count} ({})", answer::bytes(size)))?;
    }
    let peak = run["memory"]["peak_host_bytes"].as_u64().map_or("-".into(), answer::bytes);
    answer::line(format!("host peak   {peak}"))?;
    let compiles = &run["compiles"];
    answer::line(format!(
        "compiles    {} before the seal, {} after, {} found",
        of(&compiles["before_seal"]),
        of(&compiles["after_seal"]),
        of(&compiles["found"]),
    ))?;
    answer::line(format!(
        "fusion      {} nodes in {} steps",
        of(&run["fusion"]["node_count"]),
        of(&run["fusion"]["step_count"]),
    ))?;
    for (name, it) in run["caches"].as_object().into_iter().flatten() {
        let rate = it["hit_rate"].as_f64().map_or("-".into(), |it| format!("{:.1} %", 100.0 * it));
        answer::line(format!(
            "cache       {name}: {} hits, {} misses ({rate})",
            of(&it["hits"]),
            of(&it["misses"]),
        ))?;
    }
    for it in run["kernels"].as_array().into_iter().flatten().take(KERNEL_COUNT_SHOWN) {
        let ms = it["device_time_ns"].as_f64().unwrap_or(0.0) / 1e6;
        answer::line(format!(
            "kernel      {ms:.3} ms in {} runs of {} ({})",
            of(&it["count"]),
            of(&it["kernel"]),
            of(&it["config"]),
        ))?;
    }
    answer::line(format!("lost        {} records", of(&run["lost_record_count"])))
}

#[test]
fn a_scrape_is_read_by_series() {
    let text = "# HELP a b\na_total{x=\"1 2\"} 3\nb 0.5\nc NaN\nbroken\n";
    let found = metrics(text);
    assert_eq!(found["a_total{x=\"1 2\"}"], json!(3));
    assert_eq!(found["b"], json!(0.5));
    assert!(!found.contains_key("broken"));
}
