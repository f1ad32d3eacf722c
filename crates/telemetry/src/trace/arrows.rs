//! Arrows of a timeline: what ran for whom.
//!
//! A server's records say which request ran in which batch, a batch encloses its programs on its
//! thread, and a program its kernels. Elsewhere a program that ran while one request alone was
//! under way ran for it. Where the records do not say, there is no arrow.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::{DEVICES, HOST, REQUESTS, Slice, Track, micros};
use crate::event::Event;
use crate::label::Label;
use crate::recorder::Record;

/// A moment of a track.
#[derive(Clone, Copy)]
struct Spot {
    process: u32,
    track: u32,
    at_ns: u64,
}

/// Arrows, each as a pair of events with a number of its own.
#[derive(Default)]
struct Arrows {
    events: Vec<Json>,
}

impl Arrows {
    fn draw(&mut self, from: Spot, to: Spot) {
        let id = self.events.len() / 2;
        let end = |phase: &str, spot: Spot| {
            json!({
                "ph": phase, "id": id, "name": "runs", "cat": "request", "pid": spot.process,
                "tid": spot.track, "ts": micros(spot.at_ns),
            })
        };
        self.events.push(end("s", from));
        let mut tip = end("f", to);
        // At the slice around this moment, not at the next one.
        tip["bp"] = "e".into();
        self.events.push(tip);
    }
}

/// A slice of a thread.
type Placed<'a> = (u32, &'a Slice<'a>);

/// Slices of threads by thread and start.
type ByStart<'a> = BTreeMap<(u32, u64), &'a Slice<'a>>;

/// The last slice of a thread that began by a moment and had not ended.
fn around<'a>(slices: &ByStart<'a>, track: u32, at_ns: u64) -> Option<Placed<'a>> {
    let (_, slice) = slices.range((track, 0)..=(track, at_ns)).next_back()?;
    (at_ns <= slice.end_ns).then_some((track, *slice))
}

pub(super) fn arrows(
    records: &[&Record],
    threads: &BTreeMap<u32, Track<'_>>,
    lanes: &[Vec<Slice<'_>>],
    devices: &BTreeMap<Label, Vec<Slice<'_>>>,
) -> Vec<Json> {
    let of = |wanted: fn(&Event) -> bool| -> ByStart<'_> {
        let all = threads
            .iter()
            .flat_map(|(index, track)| track.slices.iter().map(|it| ((*index, it.start_ns), it)));
        all.filter(|it| wanted(&it.1.record.event)).collect()
    };
    let batches = of(|it| matches!(it, Event::BatchRan { .. }));
    let calls = of(|it| matches!(it, Event::RequestDone { .. }));
    let mut programs = Vec::new();
    for (index, track) in threads {
        let is_program = |it: &&Slice<'_>| matches!(it.record.event, Event::ProgramRan { .. });
        programs.extend(track.slices.iter().filter(is_program).map(|it| (*index, it)));
    }
    let mut out = Arrows::default();
    to_batches(&mut out, records, lanes, &batches);
    for program in &programs {
        if let Some(from) = whose(*program, &batches, &calls) {
            out.draw(spot(from), spot(*program));
        }
    }
    to_kernels(&mut out, &programs, devices);
    out.events
}

/// From each request to the batches that its inputs ran in: from the moment when they were queued.
fn to_batches(
    out: &mut Arrows,
    records: &[&Record],
    lanes: &[Vec<Slice<'_>>],
    batches: &ByStart<'_>,
) {
    let mut by_number = BTreeMap::new();
    for ((track, _), slice) in batches {
        if let Event::BatchRan { batch_index, .. } = slice.record.event {
            by_number.insert(batch_index, (*track, *slice));
        }
    }
    let mut requests = BTreeMap::new();
    for (lane, slices) in (0_u32..).zip(lanes) {
        for slice in slices {
            if let Event::RequestServed { request_index, .. } = slice.record.event {
                requests.insert(request_index, (lane, slice));
            }
        }
    }
    let mut seen = BTreeSet::new();
    for record in records {
        let Event::ItemRan { request_index, batch_index, queue_ns, .. } = record.event else {
            continue;
        };
        let (Some((lane, request)), Some(batch)) =
            (requests.get(&request_index), by_number.get(&batch_index))
        else {
            continue;
        };
        if seen.insert((request_index, batch_index)) {
            let queued_ns = batch.1.start_ns.saturating_sub(queue_ns);
            let at_ns = queued_ns.clamp(request.start_ns, request.end_ns);
            out.draw(Spot { process: REQUESTS, track: *lane, at_ns }, spot(*batch));
        }
    }
}

/// Where the arrow to a program begins: at the batch around it on its thread, else at the only call
/// that was under way.
fn whose<'a>(
    (track, program): Placed<'_>,
    batches: &ByStart<'a>,
    calls: &ByStart<'a>,
) -> Option<Placed<'a>> {
    let encloses =
        |outer: &Slice<'_>| outer.start_ns <= program.start_ns && program.end_ns <= outer.end_ns;
    let batch = around(batches, track, program.start_ns).filter(|it| encloses(it.1));
    if batch.is_some() {
        return batch;
    }
    let mut under_way =
        calls.iter().filter(|(_, it)| it.start_ns < program.end_ns && program.start_ns < it.end_ns);
    match (under_way.next(), under_way.next()) {
        (Some(((track, _), call)), None) if encloses(call) => Some((*track, *call)),
        _ => None,
    }
}

/// From each program to the first of its kernels on a device: those that were recorded on its
/// thread while it ran.
fn to_kernels(
    out: &mut Arrows,
    programs: &[Placed<'_>],
    devices: &BTreeMap<Label, Vec<Slice<'_>>>,
) {
    let programs: ByStart<'_> =
        programs.iter().map(|(track, it)| ((*track, it.start_ns), *it)).collect();
    let mut seen = BTreeSet::new();
    for (index, kernels) in (0_u32..).zip(devices.values()) {
        for kernel in kernels {
            let Record { thread_index, at_ns, .. } = *kernel.record;
            let Some(program) = around(&programs, thread_index, at_ns) else { continue };
            if seen.insert((index, thread_index, program.1.start_ns)) {
                let to = Spot { process: DEVICES, track: index, at_ns: kernel.start_ns };
                out.draw(spot(program), to);
            }
        }
    }
}

fn spot((track, slice): Placed<'_>) -> Spot {
    Spot { process: HOST, track, at_ns: slice.start_ns }
}
