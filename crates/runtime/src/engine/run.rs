//! Running programs: what is written in front of a run, its start, and its end.

use std::time::Duration;

use calor_device::Ticket;
use calor_telemetry::clock::Stopwatch;
use calor_telemetry::counter::Plain;
use calor_telemetry::event::Event;

use super::memory::{ALIGN_BYTES, Binding};
use super::{Engine, LIVE_COUNT_MAX, PART_COUNT_MAX, Part, ProgramId};
use crate::error::RuntimeError;

/// Most inputs that a run is given at once; a limit keeps the heap out of a run.
pub const INPUT_COUNT_MAX: usize = 8 * PART_COUNT_MAX;

/// Bytes for an input of a program.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Which part of the program.
    pub part: usize,
    /// Index of the buffer in the part's plan.
    pub slot: usize,
    /// Its first bytes.
    pub bytes: &'a [u8],
}

/// A run that was started and not waited for.
#[derive(Clone, Copy, Debug)]
#[must_use = "a run is waited for with `finish`"]
pub struct Run {
    program: ProgramId,
    ticket: Ticket,
    watch: Stopwatch,
    /// Tokens and sequences of each part.
    live: [[u32; 2]; PART_COUNT_MAX],
    /// Multiplications and additions of all parts.
    flops: u64,
}

impl Engine {
    /// Runs a program of one part and waits for its end. `live` are the live counts, in order;
    /// counts that are not given are at their most.
    pub(crate) fn run(
        &mut self,
        id: ProgramId,
        live: &[u32],
        deadline: Duration,
    ) -> Result<(), RuntimeError> {
        let run = self.start(id, &[], &[live])?;
        self.finish(run, deadline)
    }

    /// Writes inputs and live counts of each part, and starts the program behind whatever was
    /// started before. Parts that `live` leaves out are at their most.
    pub(crate) fn start(
        &mut self,
        id: ProgramId,
        inputs: &[Input<'_>],
        live: &[&[u32]],
    ) -> Result<Run, RuntimeError> {
        let watch = Stopwatch::start();
        let prepared = self.prepare_one(id.0)?;
        let mut counts = [u32::MAX; LIVE_COUNT_MAX * PART_COUNT_MAX];
        let mut live_of = [[0; 2]; PART_COUNT_MAX];
        let parts = &self.programs[id.0].parts;
        for (number, part) in parts.iter().enumerate() {
            live_of[number] = part.bucket;
            let given = live.get(number).copied().unwrap_or_default();
            for (index, got) in given.iter().enumerate().take(LIVE_COUNT_MAX) {
                let max = part.bucket.get(index).copied().unwrap_or(u32::MAX);
                if max < *got {
                    return Err(RuntimeError::Live { index, got: *got, max });
                }
                counts[number * LIVE_COUNT_MAX + index] = *got;
                if let Some(live) = live_of[number].get_mut(index) {
                    *live = *got;
                }
            }
        }
        self.write_front(id, &counts[..parts.len() * LIVE_COUNT_MAX], inputs)?;
        let ticket = self.device.queue.run(prepared)?;
        // Intervals are looked at while the device works.
        let flops = self.flops(id, inputs, &live_of);
        Ok(Run { program: id, ticket, watch, live: live_of, flops })
    }

    /// Work of a run on live rows.
    fn flops(&self, id: ProgramId, inputs: &[Input<'_>], live: &[[u32; 2]]) -> u64 {
        let of_part = |(number, (part, live)): (usize, (&Part, &[u32; 2]))| {
            let input = |slot: usize| {
                let is_it = |it: &&Input<'_>| (it.part, it.slot) == (number, slot);
                inputs.iter().find(is_it).map(|it| it.bytes)
            };
            part.plan.work.flops(part.bucket, *live, input)
        };
        self.programs[id.0].parts.iter().zip(live).enumerate().map(of_part).sum()
    }

    /// Waits until a run has ended.
    pub(crate) fn finish(&mut self, run: Run, deadline: Duration) -> Result<(), RuntimeError> {
        self.device.queue.wait(run.ticket, deadline)?;
        self.tell_steps();
        self.count(&run);
        Ok(())
    }

    /// Writes the live block and inputs with as few writes as their places allow: what lies
    /// between neighbours is padding.
    fn write_front(
        &mut self,
        id: ProgramId,
        counts: &[u32],
        inputs: &[Input<'_>],
    ) -> Result<(), RuntimeError> {
        assert!(inputs.len() <= INPUT_COUNT_MAX, "a run is given at most {INPUT_COUNT_MAX} inputs");
        let mut pieces: [(u64, &[u8]); INPUT_COUNT_MAX] = [(0, &[]); INPUT_COUNT_MAX];
        let mut count = 0;
        for input in inputs {
            let Input { part, slot, bytes } = *input;
            let (buffer, offset) = self.place(id, part, slot, bytes.len())?;
            match self.programs[id.0].parts[part].bindings[slot] {
                Binding::Boundary { .. } => {
                    pieces[count] = (offset, bytes);
                    count += 1;
                }
                Binding::Buffer(_) | Binding::Channel(_) | Binding::Gone => {
                    self.device.memory.write(buffer, offset, bytes)?;
                    self.uploaded(bytes.len());
                }
            }
        }
        let pieces = &mut pieces[..count];
        pieces.sort_unstable_by_key(|it| it.0);
        let Some(buffer) = self.lanes[self.programs[id.0].lane].boundary else { return Ok(()) };
        let mut written = std::mem::take(&mut self.written);
        written.clear();
        counts.iter().for_each(|it| written.extend(it.to_le_bytes()));
        let mut start = 0;
        let mut outcome = Ok(());
        for (offset, bytes) in pieces.iter().copied() {
            let end = start + written.len() as u64;
            if offset < end || end.next_multiple_of(ALIGN_BYTES) != offset {
                outcome = outcome.and_then(|()| self.device.memory.write(buffer, start, &written));
                self.uploaded(written.len());
                written.clear();
                start = offset;
            }
            written.resize((offset - start) as usize, 0);
            written.extend_from_slice(bytes);
        }
        outcome = outcome.and_then(|()| self.device.memory.write(buffer, start, &written));
        self.uploaded(written.len());
        self.written = written;
        Ok(outcome?)
    }

    fn count(&self, run: &Run) {
        let wall_ns = run.watch.elapsed_ns();
        self.counters.increment(Plain::Programs);
        self.counters.add(Plain::Flops, run.flops);
        for (part, [live_tokens, live_sequences]) in
            self.programs[run.program.0].parts.iter().zip(run.live)
        {
            let [tokens, sequences] = part.bucket;
            self.counters.add(Plain::Tokens, u64::from(live_tokens));
            self.counters.add(Plain::PaddingTokens, u64::from(tokens - live_tokens));
            self.counters.add(Plain::Kernels, part.plan.steps.len() as u64);
            self.counters.add(Plain::MovedBytes, part.moved_bytes);
            self.recorder.record(Event::ProgramRan {
                model: part.label,
                device: self.device_label,
                bucket_token_count: u64::from(tokens),
                bucket_sequence_count: u64::from(sequences),
                live_token_count: u64::from(live_tokens),
                live_sequence_count: u64::from(live_sequences),
                wall_ns,
            });
        }
    }
}
