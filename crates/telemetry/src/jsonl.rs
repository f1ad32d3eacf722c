//! Telemetry as JSON lines: the only file that knows how a record looks outside the process.
//!
//! Each line stands alone and names its schema, so that a cut file still reads to its last
//! whole line. Within one major version fields are only added; readers ignore fields that
//! they do not know and refuse a later major version.

use std::fmt;
use std::io::{self, BufRead, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value as Json};

use crate::event::{Event, Misfit, Value};
use crate::recorder::{Record, Recorder};
use crate::thread;

/// Name and version that every line carries.
pub const SCHEMA_NAME: &str = "calor.telemetry";
/// A line with another major version is refused.
pub const SCHEMA_MAJOR: u32 = 1;
/// Grows when a field or an event is added.
pub const SCHEMA_MINOR: u32 = 2;
/// Longest line that the reader takes.
pub const LINE_LEN_MAX: usize = 1 << 20;

/// A line that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The record; its thread number is that of the writing process.
    pub record: Record,
    /// Name of the thread that recorded it.
    pub thread_name: String,
}

/// `record` as one line, without the line break.
pub fn to_line(record: &Record) -> String {
    let mut map = Map::new();
    map.insert("schema".into(), format!("{SCHEMA_NAME}/{SCHEMA_MAJOR}.{SCHEMA_MINOR}").into());
    map.insert("event".into(), record.event.name().into());
    map.insert("at_ns".into(), record.at_ns.into());
    map.insert("thread_index".into(), record.thread_index.into());
    map.insert("thread_name".into(), thread::name(record.thread_index).into());
    record.event.fields(&mut |name, value| {
        let value = match value {
            Value::Integer(value) => Json::from(value),
            Value::Flag(value) => Json::from(value),
            Value::Text(value) => Json::from(value),
        };
        map.insert(name.into(), value);
    });
    Json::Object(map).to_string()
}

/// Reads one line back.
///
/// # Errors
/// [`LineFault`] for the first thing that is not as the schema says.
pub fn from_line(text: &str) -> Result<Line, LineFault> {
    if LINE_LEN_MAX < text.len() {
        return Err(LineFault::TooLong);
    }
    let Ok(Json::Object(map)) = serde_json::from_str(text) else {
        return Err(LineFault::NotAnObject);
    };
    check_schema(map.get("schema").and_then(Json::as_str))?;
    let name = map.get("event").and_then(Json::as_str).ok_or(LineFault::Envelope("event"))?;
    let integer = |key| map.get(key).and_then(Json::as_u64).ok_or(LineFault::Envelope(key));
    let at_ns = integer("at_ns")?;
    let thread_index =
        u32::try_from(integer("thread_index")?).map_err(|_| LineFault::Envelope("thread_index"))?;
    let thread_name = map.get("thread_name").and_then(Json::as_str);
    let thread_name = thread_name.ok_or(LineFault::Envelope("thread_name"))?.to_owned();

    let get = |field: &'static str| match map.get(field)? {
        Json::Bool(value) => Some(Value::Flag(*value)),
        Json::String(value) => Some(Value::Text(value)),
        Json::Number(value) => value.as_u64().map(Value::Integer),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    };
    let event = Event::from_fields(name, &get).map_err(|misfit| match misfit {
        Misfit::UnknownEvent => LineFault::UnknownEvent(name.to_owned()),
        Misfit::Missing { field } | Misfit::Wrong { field, .. } => {
            LineFault::Field { event: name.to_owned(), field }
        }
    })?;
    Ok(Line { record: Record { at_ns, thread_index, event }, thread_name })
}

/// Reads every line of `input`; empty lines are skipped.
///
/// # Errors
/// [`ReadError`] with the number of the first line that cannot be read.
pub fn read(input: impl BufRead) -> Result<Vec<Line>, ReadError> {
    let mut lines = Vec::new();
    for (index, text) in input.lines().enumerate() {
        let text = text.map_err(ReadError::Io)?;
        if !text.trim().is_empty() {
            let fault = |fault| ReadError::Line { line_index: index, fault };
            lines.push(from_line(&text).map_err(fault)?);
        }
    }
    Ok(lines)
}

/// A recorder that writes each record as a line.
///
/// For commands and benchmarks. It takes a lock and allocates; a server records into a
/// [`Ring`](crate::Ring) and writes the ring. Failed writes are counted, never raised at the
/// place that recorded.
#[derive(Debug)]
pub struct LineSink<W> {
    out: Mutex<W>,
    failed_count: AtomicU64,
}

impl<W: Write> LineSink<W> {
    /// Writes to `out`; give it a buffer.
    pub fn new(out: W) -> Self {
        Self { out: Mutex::new(out), failed_count: AtomicU64::new(0) }
    }

    /// How many records could not be written.
    pub fn failed_count(&self) -> u64 {
        self.failed_count.load(Ordering::Relaxed)
    }

    /// Flushes, and gives the writer back.
    ///
    /// # Errors
    /// When flushing fails, or when any record before could not be written.
    pub fn finish(self) -> io::Result<W> {
        let failed_count = self.failed_count();
        let mut out = self.out.into_inner().unwrap_or_else(PoisonError::into_inner);
        out.flush()?;
        match failed_count {
            0 => Ok(out),
            count => Err(io::Error::other(format!("{count} telemetry lines were not written"))),
        }
    }
}

impl<W: Write + Send> Recorder for LineSink<W> {
    fn accept(&self, record: &Record) {
        let mut line = to_line(record);
        line.push('\n');
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if out.write_all(line.as_bytes()).is_err() {
            self.failed_count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Why a line is not a record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineFault {
    /// It is longer than [`LINE_LEN_MAX`].
    TooLong,
    /// It is not a JSON object.
    NotAnObject,
    /// It does not say that it is telemetry of this project.
    NotTelemetry,
    /// It was written by a version that this one cannot read.
    Newer {
        /// The version in the line.
        major: u32,
    },
    /// The envelope's field is absent or of another type.
    Envelope(&'static str),
    /// No event has this name.
    UnknownEvent(String),
    /// The event's field is absent or has a value that it cannot have.
    Field {
        /// Which event.
        event: String,
        /// Which field.
        field: &'static str,
    },
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "longer than {LINE_LEN_MAX} bytes"),
            Self::NotAnObject => f.write_str("not a JSON object"),
            Self::NotTelemetry => write!(f, "no schema `{SCHEMA_NAME}/<major>.<minor>`"),
            Self::Newer { major } => {
                write!(
                    f,
                    "schema version {major} is not {SCHEMA_MAJOR}; use the calor that wrote it"
                )
            }
            Self::Envelope(field) => write!(f, "`{field}` is absent or of another type"),
            Self::UnknownEvent(name) => write!(f, "no event is called `{name}`"),
            Self::Field { event, field } => {
                write!(f, "`{event}` has no usable `{field}`; see docs/telemetry-events.md")
            }
        }
    }
}

impl std::error::Error for LineFault {}

/// Why a file of lines could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// The input failed.
    Io(io::Error),
    /// A line is not a record.
    Line {
        /// Which one, from zero.
        line_index: usize,
        /// What is wrong with it.
        fault: LineFault,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(err) => write!(f, "cannot read telemetry: {err}"),
            Self::Line { line_index, fault } => write!(f, "line {}: {fault}", line_index + 1),
        }
    }
}

impl std::error::Error for ReadError {}

fn check_schema(schema: Option<&str>) -> Result<(), LineFault> {
    let version = schema
        .and_then(|it| it.strip_prefix(SCHEMA_NAME))
        .and_then(|it| it.strip_prefix('/'))
        .and_then(|it| it.split_once('.'));
    let (major, minor) = version.ok_or(LineFault::NotTelemetry)?;
    match (major.parse::<u32>(), minor.parse::<u32>()) {
        (Ok(SCHEMA_MAJOR), Ok(_)) => Ok(()),
        (Ok(major), Ok(_)) => Err(LineFault::Newer { major }),
        (Err(_), _) | (_, Err(_)) => Err(LineFault::NotTelemetry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Refusal;
    use crate::label::Label;

    fn refused() -> Record {
        let model = Label::fixed("bert \"base\"\n");
        let event = Event::InputRefused { model, reason: Refusal::TooLong, item_index: 3 };
        Record { at_ns: 17, thread_index: 0, event }
    }

    #[track_caller]
    fn check_fault(from: &str, to: &str, fault: LineFault) {
        let line = to_line(&refused());
        assert!(line.contains(from), "{line}");
        assert_eq!(from_line(&line.replace(from, to)), Err(fault), "{from} -> {to}");
    }

    #[test]
    fn a_line_reads_back() {
        let line = to_line(&refused());
        assert!(!line.contains('\n'));
        assert!(line.contains(r#""schema":"calor.telemetry/1.2""#), "{line}");
        assert_eq!(from_line(&line).unwrap().record, refused());
    }

    #[test]
    fn unknown_fields_and_later_minor_versions_are_read() {
        let line = to_line(&refused()).replace("/1.2", "/1.7").replace('{', r#"{"mood":"good","#);
        assert_eq!(from_line(&line).unwrap().record, refused());
    }

    /// Lines that earlier versions wrote are never rewritten; each must still be read.
    #[test]
    fn every_version_is_read() {
        let text = include_str!("../golden/lines-1.0.jsonl");
        let lines = read(text.as_bytes()).unwrap();
        assert_eq!(lines.len(), 16);
        let names: std::collections::BTreeSet<&str> =
            lines.iter().map(|it| it.record.event.name()).collect();
        assert_eq!(names.len(), lines.len(), "one of each");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let field = |field| LineFault::Field { event: "input_refused".into(), field };
        check_fault("telemetry/1.2", "telemetry/2.0", LineFault::Newer { major: 2 });
        check_fault("telemetry/1.2", "weather/1.0", LineFault::NotTelemetry);
        check_fault("telemetry/1.2", "telemetry/1", LineFault::NotTelemetry);
        check_fault("\"at_ns\":17", "\"at_ns\":-1", LineFault::Envelope("at_ns"));
        check_fault("input_refused", "tea_made", LineFault::UnknownEvent("tea_made".into()));
        check_fault("too_long", "too_blue", field("reason"));
        check_fault("\"item_index\":3", "\"item_index\":0.5", field("item_index"));
        check_fault("\"item_index\"", "\"item\"", field("item_index"));
        check_fault("{", "[", LineFault::NotAnObject);
    }

    #[test]
    fn a_field_that_came_late_may_be_absent_and_not_wrong() {
        let line = r#"{"schema":"calor.telemetry/1.1","event":"kernel_ran","at_ns":1,
            "thread_index":0,"thread_name":"main","kernel":"k","device":"cpu",
            "device_time_ns":2,"moved_bytes":3,"flop_count":4}"#;
        let read = from_line(line).unwrap().record.event;
        assert!(matches!(read, Event::KernelRan { config, .. } if config.text().is_empty()));
        let wrong = from_line(&line.replace("\"k\"", "\"k\",\"config\":7"));
        let field = LineFault::Field { event: "kernel_ran".into(), field: "config" };
        assert_eq!(wrong, Err(field));
    }

    #[test]
    fn a_sink_writes_what_the_reader_reads() {
        let sink = LineSink::new(Vec::new());
        sink.accept(&refused());
        sink.accept(&refused());
        let bytes = sink.finish().unwrap();
        let records: Vec<Record> = read(&bytes[..]).unwrap().iter().map(|it| it.record).collect();
        assert_eq!(records, [refused(), refused()]);
    }

    #[test]
    fn a_bad_line_is_counted_from_one() {
        let text = format!("{}\n\nnonsense\n", to_line(&refused()));
        assert_eq!(read(text.as_bytes()).unwrap_err().to_string(), "line 3: not a JSON object");
    }

    #[test]
    fn a_full_disk_is_counted_and_raised_at_the_end() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let sink = LineSink::new(Full);
        sink.accept(&refused());
        assert_eq!(sink.failed_count(), 1);
        assert!(sink.finish().is_err());
    }
}
