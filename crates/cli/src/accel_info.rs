//! `calor accel-info`: what the last run, a running process or a server says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use calor_telemetry::clock;
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
        (None, Some(url)) => ("server", of_server(url, arguments.reset, environment)?),
        (None, None) => ("last-run", of_store(environment, arguments.reset)?),
    };
    let json = arguments.json || arguments.format == AnswerFormat::Json;
    if json {
        let version = format!("{RUN_MAJOR}.{RUN_MINOR}");
        answer::line(json!({ "schema_version": version, "source": source, "run": body }))?;
    } else if source == "server" {
        if let Some(since_s) = body["since_s"].as_u64() {
            let ago_s = clock::unix_s().saturating_sub(since_s);
            answer::line(format!("since       {ago_s} s ago"))?;
        }
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

/// A server's scrape. Its counters are never set back: a reset keeps the reading in the store, and
/// later answers are differences from it, until the server starts anew.
fn of_server(url: &str, resets: bool, environment: &Environment) -> Result<Json, Failure> {
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
    let now = metrics(&text);
    let path = last_run(environment).map(|it| it.with_file_name(reading_name(&url)));
    let earlier = path.as_ref().and_then(|it| std::fs::read_to_string(it).ok());
    let earlier: Option<Json> = earlier.and_then(|it| serde_json::from_str(&it).ok());
    let since = earlier.filter(|it| it["url"] == url.as_str());
    let since = since.and_then(|it| Some((it["at_s"].as_u64()?, grown_since(&text, &now, &it)?)));
    if resets {
        let path = path.ok_or_else(|| {
            Failure::usage("no folder for models").hint("set CALOR_HOME to a folder of yours")
        })?;
        let reading = json!({ "url": url, "at_s": clock::unix_s(), "metrics": now });
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        folder.and_then(|()| std::fs::write(&path, format!("{reading}\n"))).map_err(|err| {
            Failure::new(Exit::Environment, format!("cannot write {}", path.display())).why(err)
        })?;
    }
    Ok(match since {
        Some((at_s, metrics)) => json!({ "metrics": metrics, "since_s": at_s }),
        None => json!({ "metrics": now }),
    })
}

/// A file's name for the reading of an address.
fn reading_name(url: &str) -> String {
    let plain = |it: char| if it.is_ascii_alphanumeric() { it } else { '-' };
    format!("reading-{}.json", url.chars().map(plain).collect::<String>())
}

/// What grew since an earlier reading, and levels as they are; nothing where a counter is lower
/// than it was, because that is another process.
fn grown_since(
    text: &str,
    now: &BTreeMap<String, Json>,
    earlier: &Json,
) -> Option<BTreeMap<String, Json>> {
    let grows = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        matches!(kind.trim(), "counter" | "histogram" | "summary").then(|| name.to_owned())
    };
    let growing: BTreeSet<String> = text.lines().filter_map(grows).collect();
    let parts = ["", "_bucket", "_sum", "_count"];
    let mut out = BTreeMap::new();
    for (series, value) in now {
        let name = series.split('{').next().unwrap_or_default();
        let is_growing =
            parts.iter().filter_map(|it| name.strip_suffix(it)).any(|it| growing.contains(it));
        let before = earlier["metrics"][series].as_f64().unwrap_or(0.0);
        let grown = match value.as_f64() {
            Some(it) if is_growing && it < before => return None,
            Some(it) if is_growing => number(it - before),
            _ => value.clone(),
        };
        out.insert(series.clone(), grown);
    }
    Some(out)
}

fn number(value: f64) -> Json {
    let is_whole = value.fract() == 0.0 && value.abs() < 9e15;
    if is_whole { json!(value as i64) } else { json!(value) }
}

/// Samples of a scrape by their series.
fn metrics(text: &str) -> BTreeMap<String, Json> {
    let lines = text.lines().filter(|it| !it.starts_with('#'));
    lines
        .filter_map(|line| {
            let (series, value) = line.trim().rsplit_once(' ')?;
            let value: f64 = value.parse().ok()?;
            Some((series.to_owned(), number(value)))
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

#[test]
fn counters_are_what_grew_and_levels_what_they_are() {
    let scrape = |programs: u64, level: u64, slow: f64| {
        format!(
            "# TYPE programs_total counter\nprograms_total{{a=\"b\"}} {programs}\n\
             # TYPE level gauge\nlevel {level}\n\
             # TYPE s histogram\ns_bucket{{le=\"1\"}} {programs}\ns_sum {slow}\n"
        )
    };
    let (first, then) = (scrape(3, 9, 0.5), scrape(5, 4, 0.75));
    let earlier = json!({ "metrics": metrics(&first) });
    let grown = grown_since(&then, &metrics(&then), &earlier).unwrap();
    let want = [
        ("level", json!(4)),
        ("programs_total{a=\"b\"}", json!(2)),
        ("s_bucket{le=\"1\"}", json!(2)),
        ("s_sum", json!(0.25)),
    ];
    assert_eq!(grown, want.map(|(name, value)| (name.to_owned(), value)).into());
    let later = json!({ "metrics": metrics(&then) });
    assert_eq!(grown_since(&first, &metrics(&first), &later), None, "another process");
}
