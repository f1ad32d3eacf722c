//! Records as a timeline that Perfetto and `chrome://tracing` open.
//!
//! Host events with a length become slices of their thread; requests to a server, which no thread
//! has for itself, become slices of lanes; kernels become slices of their device; the rest become
//! marks. Slices of one track always nest, as the viewers require.
//! Arrows lead from a request to its batches, and on to the programs that ran for it, wherever that
//! is certain.
//! The file is written beside its place and renamed, so a reader never sees half of it.

mod arrows;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::event::{Event, Value};
use crate::jsonl::Line;
use crate::label::Label;
use crate::recorder::Record;
use crate::thread;

const HOST: u32 = 1;
const DEVICES: u32 = 2;
const REQUESTS: u32 = 3;

/// The timeline of `records` as one JSON document.
pub fn to_json(records: &[Record]) -> String {
    timeline(records, &thread::name)
}

/// The timeline of lines that another process wrote.
pub fn of_lines(lines: &[Line]) -> String {
    let names: BTreeMap<u32, &str> =
        lines.iter().map(|it| (it.record.thread_index, it.thread_name.as_str())).collect();
    let records: Vec<Record> = lines.iter().map(|it| it.record).collect();
    timeline(&records, &|index| names.get(&index).map_or(String::new(), |it| (*it).to_owned()))
}

fn timeline(records: &[Record], thread_name: &dyn Fn(u32) -> String) -> String {
    let mut ordered: Vec<&Record> = records.iter().collect();
    ordered.sort_by_key(|it| it.at_ns);

    let mut events = vec![
        named("process_name", HOST, 0, "host"),
        named("process_name", DEVICES, 0, "devices"),
        named("process_name", REQUESTS, 0, "requests"),
    ];
    let mut threads: BTreeMap<u32, Track<'_>> = BTreeMap::new();
    let mut devices: BTreeMap<Label, Vec<Slice<'_>>> = BTreeMap::new();
    let mut requests = Vec::new();
    for record in &ordered {
        match record.event {
            Event::KernelRan { device, device_time_ns, .. } => {
                append(devices.entry(device).or_default(), record, device_time_ns);
            }
            Event::RequestServed { wall_ns, .. } => {
                let (start_ns, end_ns) = (record.at_ns.saturating_sub(wall_ns), record.at_ns);
                requests.push(Slice { start_ns, end_ns, record });
            }
            _ => match record.event.wall_ns() {
                Some(wall_ns) => {
                    threads.entry(record.thread_index).or_default().enclose(record, wall_ns);
                }
                None => {
                    threads.entry(record.thread_index).or_default();
                    events.push(mark(record));
                }
            },
        }
    }
    let lanes = lanes(requests);
    for (index, track) in &threads {
        events.push(named("thread_name", HOST, *index, &thread_name(*index)));
        events.extend(track.slices.iter().map(|it| it.to_json(HOST, *index)));
    }
    for (index, lane) in (0_u32..).zip(&lanes) {
        events.push(named("thread_name", REQUESTS, index, &format!("lane {index}")));
        events.extend(lane.iter().map(|it| it.to_json(REQUESTS, index)));
    }
    for (index, (device, slices)) in (0_u32..).zip(&devices) {
        events.push(named("thread_name", DEVICES, index, device.text()));
        events.extend(slices.iter().map(|it| it.to_json(DEVICES, index)));
    }
    events.extend(arrows::arrows(&ordered, &threads, &lanes, &devices));
    json!({ "displayTimeUnit": "ns", "traceEvents": events }).to_string()
}

/// Slices in lanes, so that those of one lane follow each other: each takes the first lane that is
/// free at its start.
fn lanes(mut slices: Vec<Slice<'_>>) -> Vec<Vec<Slice<'_>>> {
    slices.sort_by_key(|it| it.start_ns);
    let mut lanes: Vec<Vec<Slice<'_>>> = Vec::new();
    for slice in slices {
        let is_free = |it: &&mut Vec<Slice<'_>>| it[it.len() - 1].end_ns <= slice.start_ns;
        match lanes.iter_mut().find(is_free) {
            Some(lane) => lane.push(slice),
            None => lanes.push(vec![slice]),
        }
    }
    lanes
}

/// Writes the timeline of `records` to `path`, whole or not at all.
///
/// # Errors
/// When the file beside `path` cannot be written or renamed; it is removed then.
pub fn write(path: &Path, records: &[Record]) -> io::Result<()> {
    write_text(path, &to_json(records))
}

/// Writes a timeline to `path`, whole or not at all.
///
/// # Errors
/// As [`write`].
pub fn write_text(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let beside = format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id());
    let beside = path.with_file_name(beside);
    let written = write_whole(&beside, text).and_then(|()| fs::rename(&beside, path));
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
    use crate::event::{Cache, Outcome};

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
            config: Label::fixed("words 8"),
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

    /// Where arrows begin and end, as (process, track, microseconds).
    fn arrows(records: &[Record]) -> Vec<[(u64, u64, f64); 2]> {
        let document: Json = serde_json::from_str(&to_json(records)).unwrap();
        let events = document["traceEvents"].as_array().unwrap().clone();
        let ends: Vec<Json> = events.into_iter().filter(|it| it.get("id").is_some()).collect();
        let spot = |it: &Json| {
            let number = |name: &str| it[name].as_u64().unwrap();
            (number("pid"), number("tid"), it["ts"].as_f64().unwrap())
        };
        ends.chunks(2).map(|it| [spot(&it[0]), spot(&it[1])]).collect()
    }

    #[test]
    fn arrows_lead_from_a_request_over_its_batch_to_programs_and_kernels() {
        let on =
            |thread_index: u32, at_ns: u64, event: Event| Record { at_ns, thread_index, event };
        let served = |request_index: u64, wall_ns: u64| Event::RequestServed {
            model: Label::fixed("fused"),
            outcome: Outcome::Answered,
            request_index,
            item_count: 1,
            hit_count: 0,
            token_count: 8,
            tokenization_ns: 10,
            queue_ns: 10,
            inference_ns: 10,
            wall_ns,
        };
        let item = |request_index: u64, batch_index: u64| Event::ItemRan {
            request_index,
            batch_index,
            token_count: 8,
            queue_ns: 2_000,
        };
        let batch = |batch_index: u64, wall_ns: u64| Event::BatchRan {
            batch_index,
            place_index: 0,
            item_count: 2,
            token_count: 16,
            wall_ns,
        };
        let records = [
            on(7, 5_900, kernel(0, 500).event),
            on(7, 6_000, program(0, 1_000).event),
            on(7, 6_500, item(1, 1)),
            on(7, 6_500, item(2, 1)),
            on(7, 6_600, batch(1, 2_600)),
            on(3, 7_000, served(1, 6_000)),
            // Whichever thread ends it: requests have lanes of their own.
            on(3, 8_000, served(2, 4_500)),
            // Of a batch whose records are gone.
            on(7, 9_000, item(2, 9)),
        ];
        assert_eq!(
            arrows(&records),
            [
                // Queued 2 µs before the batch began, but not before the request.
                [(3, 0, 2.0), (1, 7, 4.0)],
                [(3, 1, 3.5), (1, 7, 4.0)],
                [(1, 7, 4.0), (1, 7, 5.0)],
                [(1, 7, 5.0), (2, 0, 5.4)],
            ]
        );
    }

    #[test]
    fn lines_of_another_process_bring_the_names_of_its_threads() {
        let line = |index: u32, name: &str| Line {
            record: Record { thread_index: index, ..program(5_000, 2_000) },
            thread_name: name.into(),
        };
        let text = of_lines(&[line(70_000, "there"), line(70_001, "elsewhere")]);
        assert!(text.contains("\"there\"") && text.contains("\"elsewhere\""), "{text}");
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
        assert_eq!(document["traceEvents"].as_array().unwrap().len(), 3);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert!(write(&folder.join("absent").join("run.json"), &[]).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
