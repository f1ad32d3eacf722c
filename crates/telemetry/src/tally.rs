//! Events summed up by kind: how many, how long, and how often each of their tags and flags.
//!
//! Of fixed size, whatever happens: a server keeps one for as long as it lives. What a tally holds
//! follows from the table of events alone, so a new event is summed without a line here.

use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(test)]
use crate::event::Event;
use crate::event::{FieldSchema, SCHEMA, Value};
use crate::recorder::{Record, Recorder};

/// Sums of events since it was made. A recorder that neither allocates nor waits.
#[derive(Debug)]
pub struct Tally {
    rows: Box<[Row]>,
}

#[derive(Debug)]
struct Row {
    count: AtomicU64,
    wall_ns: AtomicU64,
    /// For each closed field: how often each of its values.
    tags: Box<[Box<[AtomicU64]>]>,
}

/// What one kind of event came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// Name of the event.
    pub event: &'static str,
    /// When it happens.
    pub doc: &'static str,
    /// How many.
    pub count: u64,
    /// Their lengths, for events that have one.
    pub wall_ns: Option<u64>,
    /// Field, value, and how many had it: of tags and flags.
    pub values: Vec<(&'static str, &'static str, u64)>,
}

const FLAGS: &[&str] = &["false", "true"];

fn closed(field: &FieldSchema) -> &'static [&'static str] {
    if field.ty == "flag" { FLAGS } else { field.tags }
}

impl Tally {
    /// All zero.
    pub fn new() -> Self {
        let row = |event: &crate::event::EventSchema| Row {
            count: AtomicU64::new(0),
            wall_ns: AtomicU64::new(0),
            tags: event
                .fields
                .iter()
                .map(|it| closed(it).iter().map(|_| AtomicU64::new(0)).collect())
                .collect(),
        };
        Self { rows: SCHEMA.iter().map(row).collect() }
    }

    /// One sum for each kind of event, in table order.
    pub fn sums(&self) -> Vec<Sum> {
        let load = |it: &AtomicU64| it.load(Ordering::Relaxed);
        let sum = |(event, row): (&'static crate::event::EventSchema, &Row)| {
            let has_length = event.fields.iter().any(|it| it.name == "wall_ns");
            let fields = event.fields.iter().zip(&row.tags);
            let values = fields.flat_map(|(field, counts)| {
                let names = closed(field).iter().zip(counts);
                names.map(|(name, count)| (field.name, *name, load(count)))
            });
            Sum {
                event: event.name,
                doc: event.doc,
                count: load(&row.count),
                wall_ns: has_length.then(|| load(&row.wall_ns)),
                values: values.collect(),
            }
        };
        SCHEMA.iter().zip(&self.rows).map(sum).collect()
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder for Tally {
    fn accept(&self, record: &Record) {
        let name = record.event.name();
        let Some(at) = SCHEMA.iter().position(|it| it.name == name) else { return };
        let row = &self.rows[at];
        row.count.fetch_add(1, Ordering::Relaxed);
        let mut index = 0;
        record.event.fields(&mut |name, value| {
            match value {
                Value::Integer(ns) if name == "wall_ns" => {
                    row.wall_ns.fetch_add(ns, Ordering::Relaxed);
                }
                Value::Flag(it) => {
                    row.tags[index][usize::from(it)].fetch_add(1, Ordering::Relaxed);
                }
                Value::Text(text) => {
                    let tags = SCHEMA[at].fields[index].tags;
                    if let Some(tag) = tags.iter().position(|it| *it == text) {
                        row.tags[index][tag].fetch_add(1, Ordering::Relaxed);
                    }
                }
                Value::Integer(_) => {}
            }
            index += 1;
        });
    }
}

/// Sums of records that are already there.
pub fn sums_of(records: &[Record]) -> Vec<Sum> {
    let tally = Tally::new();
    records.iter().for_each(|it| tally.accept(it));
    tally.sums()
}

/// For tests: one event of each kind.
#[cfg(test)]
pub(crate) fn one_of_each() -> Vec<Event> {
    let of = |row: &crate::event::EventSchema| {
        let get = |name: &'static str| {
            let field = row.fields.iter().find(|it| it.name == name)?;
            Some(match field.ty {
                "integer" => Value::Integer(7),
                "flag" => Value::Flag(true),
                "tag" => Value::Text(field.tags[0]),
                _ => Value::Text("a \"label\"\n"),
            })
        };
        Event::from_fields(row.name, &get).unwrap()
    };
    SCHEMA.iter().map(of).collect()
}

#[test]
fn every_kind_is_summed_and_nothing_else_grows() {
    let tally = Tally::new();
    for event in one_of_each().into_iter().chain(one_of_each()) {
        tally.record(event);
    }
    for sum in tally.sums() {
        assert_eq!(sum.count, 2, "{}", sum.event);
        assert!(sum.wall_ns.is_none_or(|it| it == 14), "{}", sum.event);
        let fields = SCHEMA.iter().find(|it| it.name == sum.event).unwrap().fields;
        for field in fields.iter().filter(|it| !closed(it).is_empty()) {
            let of = sum.values.iter().filter(|it| it.0 == field.name);
            // Each event has one value of each field: nothing is lost and nothing counted twice.
            assert_eq!(of.map(|it| it.2).sum::<u64>(), 2, "{}.{}", sum.event, field.name);
        }
    }
}

#[test]
fn threads_add_up() {
    let tally = Tally::new();
    let event = Event::CacheAsked { cache: crate::event::Cache::Program, hit: true };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..500).for_each(|_| tally.record(event)));
        }
    });
    let sum = tally.sums().into_iter().find(|it| it.event == "cache_asked").unwrap();
    assert_eq!(sum.count, 2_000);
    assert!(sum.values.contains(&("cache", "program", 2_000)));
    assert!(sum.values.contains(&("hit", "true", 2_000)));
}
