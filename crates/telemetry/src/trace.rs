//! Records as a timeline that Perfetto and `chrome://tracing` open.
//!
//! Host events with a length become slices of their thread; kernels become slices of their
//! device; the rest become marks. Slices of one track always nest, as the viewers require.
//! Arrows lead from a request to the programs that ran for it, wherever that is certain.
//! The file is written beside its place and renamed, so a reader never sees half of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::event::{Event, Value};
use crate::label::Label;
use crate::recorder::Record;
use crate::thread;

const HOST: u32 = 1;
const DEVICES: u32 = 2;

/// The timeline of `records` as one JSON document.
pub fn to_json(records: &[Record]) -> String {
    let mut ordered: Vec<&Record> = records.iter().collect();
    ordered.sort_by_key(|it| it.at_ns);

    let mut events =
        vec![named("process_name", HOST, 0, "host"), named("process_name", DEVICES, 0, "devices")];
    let mut threads: BTreeMap<u32, Track<'_>> = BTreeMap::new();
    let mut devices: BTreeMap<Label, Vec<Slice<'_>>> = BTreeMap::new();
    for record in ordered {
        if let Event::KernelRan { device, device_time_ns, .. } = record.event {
            append(devices.entry(device).or_default(), record, device_time_ns);
            continue;
        }
        let track = threads.entry(record.thread_index).or_default();
        match record.event.wall_ns() {
            Some(wall_ns) => track.enclose(record, wall_ns),
            None => events.push(mark(record)),
        }
    }
    for (index, track) in &threads {
        events.push(named("thread_name", HOST, *index, &thread::name(*index)));
        events.extend(track.slices.iter().map(|it| it.to_json(HOST, *index)));
    }
    events.extend(arrows(&threads));
    for (index, (device, slices)) in (0_u32..).zip(&devices) {
        events.push(named("thread_name", DEVICES, index, device.text()));
        events.extend(slices.iter().map(|it| it.to_json(DEVICES, index)));
    }
    json!({ "displayTimeUnit": "ns", "traceEvents": events }).to_string()
}

/// Writes the timeline of `records` to `path`, whole or not at all.
///
/// # Errors
/// When the file beside `path` cannot be written or renamed; it is removed then.
pub fn write(path: &Path, records: &[Record]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let beside = format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id());
    let beside = path.with_file_name(beside);
    let written = write_whole(&beside, &to_json(records)).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // The first failure is the one to report; a file that is not there is no second one.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut out = BufWriter::new(fs::File::create(path)?);
    out.write_all(text.as_bytes())?;
    out.into_inner()?.sync_all()
}

struct Slice<'a> {
    start_ns: u64,
    end_ns: u64,
    record: &'a Record,
}

impl Slice<'_> {
    fn to_json(&self, process: u32, track: u32) -> Json {
        json!({
            "ph": "X",
            "name": title(&self.record.event),
            "cat": self.record.event.name(),
            "pid": process,
            "tid": track,
            "ts": micros(self.start_ns),
            "dur": micros(self.end_ns - self.start_ns),
            "args": arguments(&self.record.event),
        })
    }
}

/// Slices of one thread, in order of their ends.
#[derive(Default)]
struct Track<'a> {
    slices: Vec<Slice<'a>>,
    /// Slices that no later slice encloses yet: (start, end), apart from each other.
    outer: Vec<(u64, u64)>,
}

impl<'a> Track<'a> {
    /// Adds a slice that ended at its record's time. What was recorded before it and ended
    /// after its start happened inside it, even if the clock was read a little late: it then
    /// starts with the first of those, so that slices nest.
    fn enclose(&mut self, record: &'a Record, wall_ns: u64) {
        let end_ns = record.at_ns;
        let mut start_ns = end_ns.saturating_sub(wall_ns);
        while let Some((inner_start_ns, _)) = self.outer.pop_if(|(_, end)| start_ns < *end) {
            start_ns = start_ns.min(inner_start_ns);
        }
        self.outer.push((start_ns, end_ns));
        self.slices.push(Slice { start_ns, end_ns, record });
    }
}

/// Arrows from requests to programs: a program that ran while one request alone was under way ran
/// for it. Where several were, the records do not say, and there is no arrow.
fn arrows(threads: &BTreeMap<u32, Track<'_>>) -> Vec<Json> {
    let all = || {
        let of = |(index, track): (&u32, _)| {
            let Track { slices, .. }: &Track<'_> = track;
            slices.iter().map(|it| (*index, it)).collect::<Vec<_>>()
        };
        threads.iter().flat_map(of)
    };
    let requests: Vec<(u32, &Slice<'_>)> =
        all().filter(|it| matches!(it.1.record.event, Event::RequestDone { .. })).collect();
    let mut out = Vec::new();
    for (track, program) in all() {
        if !matches!(program.record.event, Event::ProgramRan { .. }) {
            continue;
        }
        let (start_ns, end_ns) = (program.start_ns, program.end_ns);
        let mut under_way =
            requests.iter().filter(|it| it.1.start_ns < end_ns && start_ns < it.1.end_ns);
        let (Some((from, request)), None) = (under_way.next(), under_way.next()) else { continue };
        if start_ns < request.start_ns || request.end_ns < end_ns {
            continue;
        }
        let id = out.len() / 2;
        let end = |phase: &str, track: u32, at_ns: u64| {
            json!({
                "ph": phase, "id": id, "name": "runs", "cat": "request", "pid": HOST, "tid": track,
                "ts": micros(at_ns),
            })
        };
        out.push(end("s", *from, request.start_ns));
        let mut tip = end("f", track, start_ns);
        // At the slice around this moment, not at the next one.
        tip["bp"] = "e".into();
        out.push(tip);
    }
    out
}

/// Adds a kernel after the kernel before it: a device's kernels are read out together, after
/// they ran, so only their order and their lengths are known.
fn append<'a>(track: &mut Vec<Slice<'a>>, record: &'a Record, time_ns: u64) {
    let earliest_ns = track.last().map_or(0, |it| it.end_ns);
    let start_ns = record.at_ns.saturating_sub(time_ns).max(earliest_ns);
    track.push(Slice { start_ns, end_ns: start_ns + time_ns, record });
}

fn mark(record: &Record) -> Json {
    json!({
        "ph": "i",
        "s": "t",
        "name": title(&record.event),
        "cat": record.event.name(),
        "pid": HOST,
        "tid": record.thread_index,
        "ts": micros(record.at_ns),
        "args": arguments(&record.event),
    })
}

fn named(what: &str, process: u32, track: u32, name: &str) -> Json {
    json!({ "ph": "M", "name": what, "pid": process, "tid": track, "args": { "name": name } })
}

/// The event and its first label or tag: `program_ran bert`.
fn title(event: &Event) -> String {
    let mut subject = None;
    event.fields(&mut |_, value| {
        if let Value::Text(text) = value {
            subject.get_or_insert(text);
        }
    });
    match subject {
        Some(subject) => format!("{} {subject}", event.name()),
        None => event.name().to_owned(),
    }
}

fn arguments(event: &Event) -> Json {
    let mut map = Map::new();
    event.fields(&mut |name, value| {
        let value = match value {
            Value::Integer(value) => Json::from(value),
            Value::Flag(value) => Json::from(value),
            Value::Text(value) => Json::from(value),
        };
        map.insert(name.into(), value);
    });
    Json::Object(map)
}

fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Cache;

    fn program(at_ns: u64, wall_ns: u64) -> Record {
        let event = Event::ProgramRan {
            model: Label::fixed("bert"),
            device: Label::fixed("cpu"),
            bucket_token_count: 64,
            bucket_sequence_count: 8,
            live_token_count: 32,
            live_sequence_count: 1,
            wall_ns,
        };
        Record { at_ns, thread_index: thread::index(), event }
    }

    fn request(at_ns: u64, wall_ns: u64) -> Record {
        let model = Label::fixed("bert");
        let event = Event::RequestDone { model, item_count: 1, token_count: 32, wall_ns };
        Record { at_ns, thread_index: thread::index(), event }
    }

    fn kernel(at_ns: u64, device_time_ns: u64) -> Record {
        let event = Event::KernelRan {
            kernel: Label::fixed("softmax"),
            device: Label::fixed("cpu"),
            device_time_ns,
            moved_bytes: 1,
            flop_count: 1,
        };
        Record { at_ns, thread_index: thread::index(), event }
    }

    /// Slices as (name, start, duration) in microseconds.
    fn slices(records: &[Record]) -> Vec<(String, f64, f64)> {
        let document: Json = serde_json::from_str(&to_json(records)).unwrap();
        let events = document["traceEvents"].as_array().unwrap();
        let row = |it: &Json| {
            let name = it["name"].as_str().unwrap().to_owned();
            (name, it["ts"].as_f64().unwrap(), it["dur"].as_f64().unwrap())
        };
        events.iter().filter(|it| it["ph"] == "X").map(row).collect()
    }

    #[test]
    fn a_program_is_a_slice_that_ends_at_its_record() {
        assert_eq!(slices(&[program(5_000, 2_000)]), [("program_ran bert".into(), 3.0, 2.0)]);
    }

    #[test]
    fn a_request_encloses_its_program_even_when_read_late() {
        let got = slices(&[program(5_000, 4_500), request(6_000, 5_000)]);
        assert_eq!(got[0].1, 0.5);
        assert_eq!((got[1].1, got[1].2), (0.5, 5.5));
    }

    /// Ends of arrows as (phase, id, thread, microseconds).
    fn ends(records: &[Record]) -> Vec<(String, u64, u64, f64)> {
        let document: Json = serde_json::from_str(&to_json(records)).unwrap();
        let events = document["traceEvents"].as_array().unwrap().clone();
        let row = |it: Json| {
            let number = |name: &str| it[name].as_u64().unwrap();
            let at = it["ts"].as_f64().unwrap();
            (it["ph"].as_str().unwrap().to_owned(), number("id"), number("tid"), at)
        };
        events.into_iter().filter(|it| it.get("id").is_some()).map(row).collect()
    }

    #[test]
    fn arrows_lead_from_a_request_to_its_programs_on_any_thread() {
        let on = |thread_index: u32, record: Record| Record { thread_index, ..record };
        let asked = on(1, request(9_000, 8_000));
        let (one, two) = (on(7, program(4_000, 2_000)), on(8, program(8_000, 1_000)));
        let want = [("s", 0, 1, 1.0), ("f", 0, 7, 2.0), ("s", 1, 1, 1.0), ("f", 1, 8, 7.0)];
        let want = want.map(|it| (it.0.to_owned(), it.1, it.2, it.3));
        assert_eq!(ends(&[one, two, asked]), want);
        assert_eq!(ends(&[one, two]), [], "no request, no arrow");
        // Another request is under way while the second program runs: it may be either's.
        let other = on(2, request(8_500, 1_000));
        assert_eq!(ends(&[one, two, asked, other]), want[..2]);
        // One that began before the request was not for it.
        assert_eq!(ends(&[on(7, program(4_000, 3_500)), asked]), []);
    }

    #[test]
    fn kernels_follow_each_other_on_their_device() {
        let got = slices(&[kernel(9_000, 1_000), kernel(9_000, 2_000)]);
        assert_eq!((got[0].1, got[0].2), (8.0, 1.0));
        assert_eq!((got[1].1, got[1].2), (9.0, 2.0));
    }

    #[test]
    fn threads_and_devices_are_named() {
        let asked = Event::CacheAsked { cache: Cache::Program, hit: false };
        let text = std::thread::Builder::new()
            .name("lane 3".into())
            .spawn(move || to_json(&[Record::now(asked), kernel(10, 1)]))
            .unwrap()
            .join()
            .unwrap();
        assert!(text.contains("\"lane 3\"") && text.contains("\"cpu\""), "{text}");
        assert!(text.contains("\"cache_asked program\""));
    }

    #[test]
    fn a_file_appears_whole() {
        let folder = std::env::temp_dir().join(format!("calor-trace-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("run.json");
        write(&path, &[program(5_000, 2_000)]).unwrap();
        write(&path, &[]).unwrap();
        let document: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(document["traceEvents"].as_array().unwrap().len(), 2);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert!(write(&folder.join("absent").join("run.json"), &[]).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
