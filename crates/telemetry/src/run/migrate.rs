//! Every version of the document that there was, brought up to the newest.
//!
//! Version 1 is `calor.bench/1.0`, one run of one scenario. A step leads from each version to the
//! next; what a step does not know stays under its own name, so nothing is lost on the way.

use std::fmt;

use serde_json::{Map, Value as Json, json};

use super::{RUN_MAJOR, RUN_NAME};

/// Why a document cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunFault {
    /// It is not a JSON object.
    NotAnObject,
    /// It does not say that it is a run.
    NotARun {
        /// What it says instead.
        schema: String,
    },
    /// It was written by a later version.
    Newer {
        /// The version in the document.
        major: u32,
    },
    /// A field is absent or of another type.
    Field {
        /// Which.
        name: &'static str,
    },
}

impl fmt::Display for RunFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("not a JSON object"),
            Self::NotARun { schema } => write!(f, "schema `{schema}` is no run"),
            Self::Newer { major } => {
                write!(f, "version {major} is later than {RUN_MAJOR}; use the calor that wrote it")
            }
            Self::Field { name } => write!(f, "`{name}` is absent or of another type"),
        }
    }
}

impl std::error::Error for RunFault {}

/// Name of version 1.
const FIRST_NAME: &str = "calor.bench";

type Step = fn(Map<String, Json>) -> Result<Map<String, Json>, RunFault>;

/// From version 1 to 2, from 2 to 3 and so on.
static STEPS: [Step; (RUN_MAJOR - 1) as usize] = [from_scenario];

/// The document of `text` in the newest version.
///
/// # Errors
/// [`RunFault`] for the first thing that is not as its version says.
pub fn read(text: &str) -> Result<Json, RunFault> {
    migrate(serde_json::from_str(text).map_err(|_| RunFault::NotAnObject)?)
}

/// `document` in the newest version. One that is there already is given back as it is, later
/// minor versions and fields that nobody knows among that.
///
/// # Errors
/// As [`read`].
pub fn migrate(document: Json) -> Result<Json, RunFault> {
    let Json::Object(mut map) = document else { return Err(RunFault::NotAnObject) };
    let major = version(&map)?;
    if RUN_MAJOR < major {
        return Err(RunFault::Newer { major });
    }
    for step in &STEPS[major as usize - 1..] {
        map = step(map)?;
    }
    check(&map)?;
    Ok(Json::Object(map))
}

fn version(map: &Map<String, Json>) -> Result<u32, RunFault> {
    let schema = map.get("schema").and_then(Json::as_str).unwrap_or_default();
    let not_a_run = || RunFault::NotARun { schema: schema.to_owned() };
    let (name, version) = schema.split_once('/').ok_or_else(not_a_run)?;
    let (major, minor) = version.split_once('.').ok_or_else(not_a_run)?;
    let major: u32 = major.parse().map_err(|_| not_a_run())?;
    let _: u32 = minor.parse().map_err(|_| not_a_run())?;
    match (name, major) {
        (FIRST_NAME, 1) | (RUN_NAME, 2..) => Ok(major),
        (FIRST_NAME, 2..) => Err(RunFault::Newer { major }),
        _ => Err(not_a_run()),
    }
}

/// What every reader may rely on.
fn check(map: &Map<String, Json>) -> Result<(), RunFault> {
    for name in ["run_id", "program"] {
        if !map.get(name).is_some_and(Json::is_string) {
            return Err(RunFault::Field { name });
        }
    }
    for name in ["time", "transfers", "memory", "compiles", "caches", "counters", "events"] {
        if !map.get(name).is_some_and(Json::is_object) {
            return Err(RunFault::Field { name });
        }
    }
    match map["time"].get("wall_ns") {
        Some(it) if it.is_u64() || it.is_null() => Ok(()),
        _ => Err(RunFault::Field { name: "time.wall_ns" }),
    }
}

/// Version 1 to 2: a scenario's run becomes a run. Its measures stay as they are; what version 1
/// did not look at is null or empty, never zero.
fn from_scenario(mut map: Map<String, Json>) -> Result<Map<String, Json>, RunFault> {
    let mut take = |name: &'static str| map.remove(name).ok_or(RunFault::Field { name });
    let scenario = take("scenario")?;
    let measures = take("measures")?;
    let (host, device, options) = (take("host")?, take("device")?, take("options")?);
    let revision = take("revision")?;
    let scenario = scenario.as_str().ok_or(RunFault::Field { name: "scenario" })?.to_owned();
    if !measures.is_array() {
        return Err(RunFault::Field { name: "measures" });
    }
    let peak = map.remove("peak_rss_bytes").unwrap_or(Json::Null);
    map.remove("schema");
    let mut out = Map::new();
    out.insert("schema".into(), format!("{RUN_NAME}/2.0").into());
    out.insert("run_id".into(), "".into());
    out.insert("started_s".into(), Json::Null);
    out.insert("program".into(), format!("bench run {scenario}").into());
    out.insert("version".into(), Json::Null);
    out.insert("revision".into(), revision["commit"].clone());
    out.insert("environment".into(), json!({ "host": host, "device": device, "code": revision }));
    out.insert("options".into(), options);
    out.insert("time".into(), json!({ "wall_ns": null, "kernel_ns": null }));
    out.insert("transfers".into(), json!({}));
    out.insert("memory".into(), json!({ "peak_host_bytes": peak, "peak_device_bytes": null }));
    for name in ["compiles", "allocations", "fusion", "caches", "counters", "events"] {
        out.insert(name.into(), json!({}));
    }
    out.insert("kernels".into(), json!([]));
    out.insert("shapes".into(), json!([]));
    out.insert("energy_mj".into(), Json::Null);
    out.insert("lost_record_count".into(), Json::Null);
    out.insert("scenario".into(), scenario.into());
    out.insert("measures".into(), measures);
    // What is left are its size, members left out, and fields that nobody knows.
    out.extend(map);
    Ok(out)
}
