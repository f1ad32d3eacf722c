//! The schemas as JSON Schema (draft 2020-12), made from the tables: what a line and what a run's
//! document may hold. `cargo xtask docs` writes them to `docs/schema/`.

use serde_json::{Map, Value as Json, json};

use crate::counter::{CacheCount, Counter, Growth, Plain};
use crate::event::{Cache, EventSchema, FieldSchema, Memory, SCHEMA};
use crate::jsonl;
use crate::run::{RUN_MAJOR, RUN_MINOR, RUN_NAME};

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// What a line of telemetry may be. Readers ignore fields that they do not know, so more are
/// allowed.
pub fn lines() -> Json {
    let events: Vec<Json> = SCHEMA.iter().map(of_event).collect();
    json!({
        "$schema": DRAFT,
        "$id": format!("calor:telemetry/{}.{}", jsonl::SCHEMA_MAJOR, jsonl::SCHEMA_MINOR),
        "title": "A line of telemetry",
        "type": "object",
        "required": ["schema", "event", "at_ns", "thread_index", "thread_name"],
        "properties": {
            "schema": {
                "type": "string",
                "pattern": pattern(jsonl::SCHEMA_NAME, jsonl::SCHEMA_MAJOR),
            },
            "event": { "enum": SCHEMA.iter().map(|it| it.name).collect::<Vec<_>>() },
            "at_ns": count("When it was recorded, on the process's monotonic clock."),
            "thread_index": count("Number of the recording thread."),
            "thread_name": { "type": "string" },
        },
        "oneOf": events,
    })
}

fn pattern(name: &str, major: u32) -> String {
    format!("^{}/{major}\\.[0-9]+$", name.replace('.', "\\."))
}

fn of_event(event: &EventSchema) -> Json {
    let mut properties = Map::new();
    properties.insert("event".into(), json!({ "const": event.name }));
    for field in event.fields {
        properties.insert(field.name.into(), of_field(field));
    }
    let required: Vec<&str> =
        event.fields.iter().filter(|it| !it.is_late).map(|it| it.name).collect();
    json!({
        "title": event.name, "description": event.doc.trim(),
        "required": required, "properties": properties,
    })
}

fn of_field(field: &FieldSchema) -> Json {
    let doc = field.doc.trim();
    match field.ty {
        "integer" => count(doc),
        "flag" => json!({ "type": "boolean", "description": doc }),
        "tag" => json!({ "enum": field.tags, "description": doc }),
        _ => json!({ "type": "string", "description": doc }),
    }
}

fn count(doc: &str) -> Json {
    json!({ "type": "integer", "minimum": 0, "description": doc })
}

fn maybe(doc: &str) -> Json {
    json!({ "type": ["integer", "null"], "minimum": 0, "description": doc })
}

/// What a run's document may be.
pub fn run() -> Json {
    json!({
        "$schema": DRAFT,
        "$id": format!("calor:run/{RUN_MAJOR}.{RUN_MINOR}"),
        "title": "A run",
        "type": "object",
        "required": [
            "schema", "run_id", "program", "time", "transfers", "memory", "compiles", "caches",
            "counters", "events",
        ],
        "properties": run_properties(),
    })
}

fn run_properties() -> Json {
    let text = |doc: &str| json!({ "type": ["string", "null"], "description": doc });
    let object = |properties: Json| json!({ "type": "object", "properties": properties });
    json!({
        "schema": { "type": "string", "pattern": pattern(RUN_NAME, RUN_MAJOR) },
        "run_id": { "type": "string", "description": "A name for this run among others." },
        "started_s": maybe("Seconds since 1970."),
        "program": { "type": "string", "description": "The command, without its arguments." },
        "version": text("Version of the program."),
        "revision": text("Commit that it was built from."),
        "environment": { "type": ["object", "null"], "description": "The machine." },
        "options": { "type": ["object", "null"], "description": "What was chosen." },
        "time": object(times()),
        "transfers": object(json!({
            "upload_count": count("Writes of inputs to a device."),
            "upload_bytes": count("Bytes of inputs written to a device."),
            "download_count": count("Reads of results from a device."),
            "download_bytes": count("Bytes of results read from a device."),
        })),
        "memory": object(json!({
            "peak_host_bytes": maybe("Most memory that was resident on the host."),
            "peak_device_bytes": maybe("Most memory that was held on the device."),
            "allocated_bytes": object(Memory::ALL.iter().map(|it| {
                (it.name().to_owned(), count("Taken for this, in all."))
            }).collect::<Map<_, _>>().into()),
        })),
        "compiles": object(json!({
            "before_seal": count("Made before the seal, or the first run where nothing seals."),
            "after_seal": count("Made afterwards: nothing may be."),
            "found": count("Found instead of made."),
        })),
        "allocations": object(json!({
            "before_seal": count("Allocations while building was allowed."),
            "after_seal": count("Allocations afterwards: nothing may be."),
        })),
        "fusion": object(json!({
            "plan_count": count("Plans made."),
            "node_count": count("Nodes of their graphs."),
            "step_count": count("Steps of the plans."),
            "saved_count": {
                "type": "integer", "description": "Nodes without a step of their own.",
            },
            "group_count": count("Groups of nodes that plans want a kernel for."),
            "hit_count": count("Groups whose kernel was there already."),
        })),
        "caches": caches(),
        "kernels": { "type": "array", "items": object(kernels()) },
        "shapes": { "type": "array", "items": object(json!({
            "model": { "type": "string" }, "bucket_token_count": count("Room for tokens."),
            "bucket_sequence_count": count("Room for sequences."), "run_count": count("Runs."),
            "live_token_count": count("Tokens that were not padding, in all."),
            "live_sequence_count": count("Sequences that were not padding, in all."),
            "wall_ns": count("Host time, in all."),
        })) },
        "counters": counters(),
        "events": object(SCHEMA.iter().map(|it| {
            (it.name.to_owned(), object(json!({
                "count": count(it.doc.trim()), "wall_ns": count("Host time, in all."),
            })))
        }).collect::<Map<_, _>>().into()),
        "energy_mj": maybe("Energy of the device over the run."),
        "lost_record_count": maybe("Records that were overwritten before they were read."),
        "legacy": { "type": "object", "description": "Names that the specifications used." },
        "scenario": text("Of runs that version 1 wrote."),
        "measures": { "type": "array", "description": "Of runs that version 1 wrote." },
    })
}

fn kernels() -> Json {
    json!({
        "kernel": { "type": "string" }, "device": { "type": "string" },
        "config": { "type": "string", "description": "How it is set up." },
        "count": count("Runs."), "device_time_ns": count("By the device's clock."),
        "moved_bytes": count("As plans say."), "flop_count": count("As plans say."),
    })
}

fn times() -> Json {
    json!({
        "wall_ns": maybe("Host time of the whole run."),
        "kernel_ns": maybe("Kernels by the device's clock, in profiled runs; else null."),
        "first_program_ns": maybe("The first run of a program."),
        "plan_ns": count("Planning."),
        "compile_ns": count("Compiling, or finding code."),
        "load_ns": count("Loading code."),
        "weights_ns": count("Reading and uploading weights."),
        "capture_ns": count("Capturing programs."),
        "check_ns": count("Checking warm-up's results."),
        "programs_ns": count("Programs, from submission to completion."),
        "requests_ns": count("Requests, from call to answer."),
    })
}

fn caches() -> Json {
    let mut row = Map::new();
    for it in CacheCount::ALL {
        let spec = Counter::Cache(Cache::ALL[0], *it).spec();
        let name = spec.name.replacen("calor.cache.", "", 1);
        row.insert(name, json!({ "type": "integer", "description": spec.doc.trim() }));
    }
    let rate = json!({ "type": ["number", "null"], "minimum": 0, "maximum": 1,
        "description": "Part of questions that hit; null where nothing was asked." });
    row.insert("hit_rate".into(), rate);
    let names: Vec<&str> = Cache::ALL.iter().map(|it| it.name()).collect();
    json!({
        "type": "object", "propertyNames": { "enum": names },
        "additionalProperties": { "type": "object", "properties": row },
    })
}

fn counters() -> Json {
    let row = |it: &Plain| {
        let spec = Counter::from(*it).spec();
        let mut row = json!({ "type": "integer", "description": spec.doc.trim() });
        if spec.growth == Growth::Total {
            row["minimum"] = 0.into();
        }
        (spec.name.to_owned(), row)
    };
    let properties: Map<String, Json> = Plain::ALL.iter().map(row).collect();
    json!({ "type": "object", "properties": properties })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::Record;
    use crate::tally::one_of_each;

    #[test]
    fn every_event_and_counter_is_in_the_schema() {
        let (lines, run) = (lines().to_string(), run().to_string());
        for event in SCHEMA {
            assert!(lines.contains(&format!("\"const\":\"{}\"", event.name)), "{}", event.name);
            assert!(run.contains(&format!("\"{}\":", event.name)), "{}", event.name);
        }
        for plain in Plain::ALL {
            let name = Counter::from(*plain).spec().name;
            assert!(run.contains(&format!("\"{name}\":")), "{name}");
        }
    }

    #[test]
    fn what_is_written_is_valid_and_what_is_not_is_refused() {
        let validator = jsonschema::validator_for(&lines()).unwrap();
        for event in one_of_each() {
            let record = Record { at_ns: 1, thread_index: 0, event };
            let line: Json = serde_json::from_str(&jsonl::to_line(&record)).unwrap();
            assert!(validator.is_valid(&line), "{line}");
            let mut more = line.clone();
            more["mood"] = "good".into();
            assert!(validator.is_valid(&more));
            let mut less = line.clone();
            let last = SCHEMA.iter().find(|it| it.name == event.name()).unwrap().fields;
            less.as_object_mut().unwrap().remove(last[last.len() - 1].name);
            assert!(!validator.is_valid(&less), "{less}");
            let mut newer = line;
            newer["schema"] = "calor.telemetry/2.0".into();
            assert!(!validator.is_valid(&newer));
        }
    }
}
