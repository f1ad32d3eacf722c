//! A run and how it is written down: the only file that knows the form outside the process.

use std::fmt;

use calor_device::Signature;
use serde_json::{Map, Value as Json, json};

use crate::host::Host;
use crate::measure::{Measure, Unit};
use crate::scenario::Size;

/// Name that every report carries.
pub const SCHEMA_NAME: &str = "calor.bench";
/// Grows when a field changes meaning or goes.
pub const SCHEMA_MAJOR: u32 = 1;
/// Grows when a field is added.
pub const SCHEMA_MINOR: u32 = 0;

/// Which program was measured, as its caller knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The commit; nothing outside a repository.
    pub commit: Option<String>,
    /// Whether files differed from the commit; nothing where nobody looked.
    pub dirty: Option<bool>,
}

/// One run of one scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Name of the scenario.
    pub scenario: String,
    /// How large it was.
    pub size: Size,
    /// The device.
    pub device: Signature,
    /// The program.
    pub revision: Revision,
    /// What the caller chose.
    pub options: Vec<(&'static str, u64)>,
    /// The machine.
    pub host: Host,
    /// What was measured; never empty.
    pub measures: Vec<Measure>,
    /// Members of a family that the device cannot do.
    pub left_out: Vec<String>,
    /// Most memory that the process had resident during the run, where the system says.
    pub peak_rss_bytes: Option<u64>,
}

impl Run {
    /// The report.
    pub fn to_json(&self) -> Json {
        let Self {
            scenario,
            size,
            device,
            revision,
            options,
            host,
            measures,
            left_out,
            peak_rss_bytes,
        } = self;
        let options: Map<String, Json> =
            options.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({
            "schema": format!("{SCHEMA_NAME}/{SCHEMA_MAJOR}.{SCHEMA_MINOR}"),
            "scenario": scenario,
            "size": size.name(),
            "device": device_json(device),
            "revision": { "commit": revision.commit, "dirty": revision.dirty },
            "options": options,
            "host": host_json(host),
            "measures": measures.iter().map(measure_json).collect::<Vec<_>>(),
            "left_out": left_out,
            "peak_rss_bytes": peak_rss_bytes,
        })
    }
}

/// For people: one line for each measure.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for measure in &self.measures {
            let (min, median) = (measure.min().unwrap_or(0), measure.median().unwrap_or(0));
            let name = &measure.name;
            match measure.unit {
                Unit::Ns => {
                    let ms = |ns: u64| ns as f64 / 1e6;
                    write!(f, "{name}: min {:.3} ms, median {:.3} ms", ms(min), ms(median))?;
                    if let Some(first) = measure.first {
                        write!(f, ", first {:.3} ms", ms(first))?;
                    }
                    if let Some(flops) = measure.flops.filter(|it| 0 < *it && 0 < min) {
                        write!(f, ", {:.2} Gflop/s", flops as f64 / min as f64)?;
                    }
                }
                Unit::Bytes => write!(f, "{name}: {:.1} MiB", median as f64 / 1_048_576.0)?,
            }
            writeln!(f, " ({} samples)", measure.samples.len())?;
        }
        Ok(())
    }
}

fn device_json(device: &Signature) -> Json {
    let Signature { kind, model, arch, versions, memory_bytes, parallel_count } = device;
    let versions: Map<String, Json> =
        versions.iter().map(|(name, version)| (name.clone(), json!(version))).collect();
    json!({
        "kind": kind,
        "model": model,
        "arch": arch,
        "versions": versions,
        "memory_bytes": memory_bytes,
        "parallel_count": parallel_count,
    })
}

fn host_json(host: &Host) -> Json {
    let Host { cpu, flags, allowed, kernel, governor, memory_bytes, load } = host;
    json!({
        "cpu": cpu,
        "flags": flags,
        "allowed": allowed,
        "kernel": kernel,
        "governor": governor,
        "memory_bytes": memory_bytes,
        "load": load,
    })
}

fn measure_json(measure: &Measure) -> Json {
    let Measure {
        name,
        unit,
        samples,
        first,
        runs_per_sample_count,
        item_count,
        token_count,
        moved_bytes,
        flops,
        digest,
    } = measure;
    json!({
        "name": name,
        "unit": unit.name(),
        "samples": samples,
        "first": first,
        "runs_per_sample_count": runs_per_sample_count,
        "item_count": item_count,
        "token_count": token_count,
        "moved_bytes": moved_bytes,
        "flops": flops,
        "min": measure.min(),
        "median": measure.median(),
        "digest": digest.to_string(),
    })
}
