//! One document for one run: what ran, where the time went, what moved, what was kept.
//!
//! It is made from counters and records when a run ends, never while it goes on; kernels, bytes and
//! operations are plan constants times runs. Times of kernels are of the device's clock and absent
//! where nothing was profiled: host time never stands in for them. Within a major version fields
//! are only added; [`read`] takes every version that there was and brings it up to the newest.

mod migrate;

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use crate::counter::{CacheCount, Change, Counter, Plain};
use crate::event::{Cache, Event, Memory, Origin, WarmupStep};
use crate::label::Label;
use crate::recorder::Record;
use crate::tally::sums_of;

pub use migrate::{RunFault, migrate, read};

/// Name that every document carries.
pub const RUN_NAME: &str = "calor.run";
/// Grows when a field changes meaning or goes.
pub const RUN_MAJOR: u32 = 2;
/// Grows when a field is added.
pub const RUN_MINOR: u32 = 1;

/// What only the caller knows of a run.
#[derive(Clone, Debug)]
pub struct RunFacts {
    /// A name for this run among others.
    pub run_id: String,
    /// Seconds since 1970.
    pub started_s: u64,
    /// The command, without its arguments.
    pub program: String,
    /// Version of the program.
    pub version: String,
    /// Commit that it was built from, if it is known.
    pub revision: Option<String>,
    /// Host time of the whole run.
    pub wall_ns: u64,
    /// The machine, as `calor.environment` has it; null where nobody looked.
    pub environment: Json,
    /// What was chosen: device, precision, seeds.
    pub options: Json,
    /// Most memory that was resident on the host.
    pub peak_host_bytes: Option<u64>,
    /// Most memory that was held on the device, where it is known.
    pub peak_device_bytes: Option<u64>,
    /// Energy of the device over the run.
    pub energy_mj: Option<u64>,
    /// Records that were overwritten before they were read.
    pub lost_record_count: u64,
    /// Whether the names that the specifications used stand beside ours.
    pub legacy_names: bool,
}

/// The document of a run from what its counters and records say.
pub fn document(facts: &RunFacts, change: &Change, records: &[Record]) -> Json {
    let plain = |it: Plain| change.get(it);
    // The cache of kernels is asked once for each group of a plan.
    let groups = |it| change.get(Counter::Cache(Cache::KernelStructural, it));
    let mut out = json!({
        "schema": format!("{RUN_NAME}/{RUN_MAJOR}.{RUN_MINOR}"),
        "run_id": facts.run_id,
        "started_s": facts.started_s,
        "program": facts.program,
        "version": facts.version,
        "revision": facts.revision,
        "environment": facts.environment,
        "options": facts.options,
        "time": times(facts, records),
        "transfers": {
            "upload_count": plain(Plain::Uploads),
            "upload_bytes": plain(Plain::UploadedBytes),
            "download_count": plain(Plain::Downloads),
            "download_bytes": plain(Plain::DownloadedBytes),
        },
        "memory": {
            "peak_host_bytes": facts.peak_host_bytes,
            "peak_device_bytes": facts.peak_device_bytes,
            "allocated_bytes": allocated(records),
        },
        "compiles": compiles(records),
        "allocations": {
            "before_seal": plain(Plain::Allocations),
            "after_seal": plain(Plain::SealedAllocations),
        },
        "fusion": {
            "plan_count": plain(Plain::Plans),
            "node_count": plain(Plain::PlannedNodes),
            "step_count": plain(Plain::PlannedSteps),
            // Nodes that need no launch of their own.
            "saved_count": plain(Plain::PlannedNodes) - plain(Plain::PlannedSteps),
            "group_count": groups(CacheCount::Hits) + groups(CacheCount::Misses),
            "hit_count": groups(CacheCount::Hits),
        },
        "caches": caches(change),
        "kernels": kernels(records),
        "shapes": shapes(records),
        "counters": counters(change),
        "events": events(records),
        "energy_mj": facts.energy_mj,
        "lost_record_count": facts.lost_record_count,
    });
    if facts.legacy_names {
        out["legacy"] = legacy(facts, change, records);
    }
    out
}

/// Host time by step of warming up and serving; the device's own time where it was measured.
fn times(facts: &RunFacts, records: &[Record]) -> Json {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut kernel_ns, mut profiled, mut first_ns) = (0, false, None);
    for record in records {
        let step = match record.event {
            Event::PlanMade { .. } => "plan_ns",
            Event::Compiled { .. } => "compile_ns",
            Event::ModuleLoaded { .. } => "load_ns",
            Event::WeightsLoaded { .. } => "weights_ns",
            Event::ProgramRan { wall_ns, .. } => {
                first_ns.get_or_insert(wall_ns);
                "programs_ns"
            }
            Event::RequestDone { .. } | Event::RequestServed { .. } => "requests_ns",
            Event::WarmupStepDone { step, .. } => match step {
                WarmupStep::Capture => "capture_ns",
                WarmupStep::Check => "check_ns",
                _ => continue,
            },
            Event::KernelRan { device_time_ns, .. } => {
                (kernel_ns, profiled) = (kernel_ns + device_time_ns, true);
                continue;
            }
            _ => continue,
        };
        *sums.entry(step).or_default() += record.event.wall_ns().unwrap_or(0);
    }
    let mut out = Map::new();
    out.insert("wall_ns".into(), facts.wall_ns.into());
    out.insert("kernel_ns".into(), profiled.then_some(kernel_ns).into());
    out.insert("first_program_ns".into(), first_ns.into());
    for step in [
        "plan_ns",
        "compile_ns",
        "load_ns",
        "weights_ns",
        "capture_ns",
        "check_ns",
        "programs_ns",
        "requests_ns",
    ] {
        out.insert(step.into(), sums.get(step).copied().unwrap_or(0).into());
    }
    out.into()
}

/// What was taken from devices and the host, by what it is for.
fn allocated(records: &[Record]) -> Json {
    let mut out = Map::new();
    for purpose in Memory::ALL {
        let of = |it: &Record| match it.event {
            Event::Allocated { size_bytes, purpose: own, .. } if own == *purpose => size_bytes,
            _ => 0,
        };
        out.insert(purpose.name().into(), records.iter().map(of).sum::<u64>().into());
    }
    out.into()
}

/// Code that was made and found, and how much of it after the first program had run.
fn compiles(records: &[Record]) -> Json {
    let first_run = records.iter().position(|it| matches!(it.event, Event::ProgramRan { .. }));
    let seal = records
        .iter()
        .position(|it| matches!(it.event, Event::WarmupStepDone { step: WarmupStep::Seal, .. }));
    let boundary = seal.or(first_run).unwrap_or(records.len());
    let made = |part: &[Record]| {
        let is_made =
            |it: &&Record| matches!(it.event, Event::Compiled { origin: Origin::Made, .. });
        part.iter().filter(is_made).count()
    };
    let found = records
        .iter()
        .filter(|it| matches!(it.event, Event::Compiled { origin, .. } if origin != Origin::Made));
    json!({
        "before_seal": made(&records[..boundary]),
        "after_seal": made(&records[boundary..]),
        "found": found.count(),
    })
}

/// Every counter of every cache that was asked, and the part of questions that hit.
fn caches(change: &Change) -> Json {
    let mut out = Map::new();
    for cache in Cache::ALL {
        let of = |count| change.get(Counter::Cache(*cache, count));
        if CacheCount::ALL.iter().all(|it| of(*it) == 0) {
            continue;
        }
        let mut row = Map::new();
        for count in CacheCount::ALL {
            let name = Counter::Cache(*cache, *count).spec().name;
            row.insert(name.replacen("calor.cache.", "", 1), of(*count).into());
        }
        let (hits, asked) = (of(CacheCount::Hits), of(CacheCount::Hits) + of(CacheCount::Misses));
        // Nothing asked is no rate.
        let rate = (0 < asked).then(|| hits as f64 / asked as f64);
        row.insert("hit_rate".into(), rate.into());
        out.insert(cache.name().into(), row.into());
    }
    out.into()
}

/// Kernels of profiled runs by name and setting, the longest first.
fn kernels(records: &[Record]) -> Json {
    let mut rows: BTreeMap<(Label, Label, Label), [u64; 4]> = BTreeMap::new();
    for record in records {
        if let Event::KernelRan {
            kernel,
            config,
            device,
            device_time_ns,
            moved_bytes,
            flop_count,
        } = record.event
        {
            let row = rows.entry((kernel, config, device)).or_default();
            *row = [row[0] + 1, row[1] + device_time_ns, row[2] + moved_bytes, row[3] + flop_count];
        }
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by_key(|it| std::cmp::Reverse(it.1[1]));
    rows.into_iter()
        .map(|((kernel, config, device), [count, ns, bytes, flops])| {
            json!({
                "kernel": kernel.text(), "config": config.text(), "device": device.text(),
                "count": count, "device_time_ns": ns, "moved_bytes": bytes, "flop_count": flops,
            })
        })
        .collect()
}

/// What programs were given: how often each bucket ran, and how full.
fn shapes(records: &[Record]) -> Json {
    let mut rows: BTreeMap<(Label, u64, u64), [u64; 4]> = BTreeMap::new();
    for record in records {
        if let Event::ProgramRan {
            model,
            bucket_token_count,
            bucket_sequence_count,
            live_token_count,
            live_sequence_count,
            wall_ns,
            ..
        } = record.event
        {
            let row = rows.entry((model, bucket_token_count, bucket_sequence_count)).or_default();
            let [runs, tokens, sequences, ns] = *row;
            *row = [
                runs + 1,
                tokens + live_token_count,
                sequences + live_sequence_count,
                ns + wall_ns,
            ];
        }
    }
    rows.into_iter()
        .map(|((model, tokens, sequences), [runs, live, live_sequences, ns])| {
            json!({
                "model": model.text(), "bucket_token_count": tokens,
                "bucket_sequence_count": sequences, "run_count": runs,
                "live_token_count": live, "live_sequence_count": live_sequences, "wall_ns": ns,
            })
        })
        .collect()
}

fn counters(change: &Change) -> Json {
    let named = Plain::ALL.iter().map(|it| {
        let counter = Counter::from(*it);
        (counter.spec().name.to_owned(), Json::from(change.get(counter)))
    });
    Json::Object(named.collect())
}

fn events(records: &[Record]) -> Json {
    let rows = sums_of(records).into_iter().filter(|it| 0 < it.count);
    let row = |it: crate::tally::Sum| {
        let mut row = json!({ "count": it.count });
        if let Some(wall_ns) = it.wall_ns {
            row["wall_ns"] = wall_ns.into();
        }
        (it.event.to_owned(), row)
    };
    Json::Object(rows.map(row).collect())
}

/// The names that the specifications used. What this runtime does not have is null, not zero.
fn legacy(facts: &RunFacts, change: &Change, records: &[Record]) -> Json {
    let of = |count| change.get(Counter::Cache(Cache::KernelStructural, count));
    let launches: Vec<Json> = records
        .iter()
        .filter_map(|it| match it.event {
            Event::KernelRan { kernel, config, device_time_ns, moved_bytes, .. } => Some(json!({
                "kernel": kernel.text(), "kernel_ns": device_time_ns, "bytes": moved_bytes,
                "precision": null, "shape": [], "tuning": [config.text()],
            })),
            _ => None,
        })
        .take(64)
        .collect();
    json!({
        "wall_ns": facts.wall_ns,
        "upload_bytes": change.get(Plain::UploadedBytes),
        "download_bytes": change.get(Plain::DownloadedBytes),
        "fusion_cache_hits": of(CacheCount::Hits),
        "fusion_cache_misses": of(CacheCount::Misses),
        "bind_group_cache_hits": null,
        "bind_group_cache_misses": null,
        "bind_group_cache_by_layout": [],
        "solve_fallbacks": [],
        "kernel_launches": launches,
        "kernel_launch_count": change.get(Plain::Kernels),
    })
}

#[cfg(test)]
mod tests;
