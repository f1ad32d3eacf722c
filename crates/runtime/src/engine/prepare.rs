//! From programs to what a device runs with one call.

use std::collections::HashMap;

use calor_device::{BufferId, CodeId, PreparedId, Span, Step, Word};
use calor_kernel::Unit;
use calor_telemetry::counter::Plain;
use calor_telemetry::event::WarmupStep;

use super::memory::{Binding, LIVE_BYTES};
use super::{Engine, LIVE_COUNT_MAX, Part, Program};
use crate::error::RuntimeError;
use crate::plan::{Place, Plan, PlanSpan, PlanStep};

impl Engine {
    /// Turns every program that is not prepared into something that runs with one call.
    pub(crate) fn prepare(&mut self) -> Result<(), RuntimeError> {
        for index in 0..self.programs.len() {
            if !self.programs[index].removed {
                self.prepare_one(index)?;
            }
        }
        Ok(())
    }

    pub(super) fn prepare_one(&mut self, index: usize) -> Result<PreparedId, RuntimeError> {
        let program = &self.programs[index];
        if program.removed {
            return Err(RuntimeError::Removed { program: program.label.text().to_owned() });
        }
        if let Some(prepared) = program.prepared {
            return Ok(prepared);
        }
        let label = program.label;
        let (prepared, wall_ns) =
            self.step(WarmupStep::Capture, label, |own| own.prepare_new(index))?;
        self.times.prepare_ns += wall_ns;
        Ok(prepared)
    }

    fn prepare_new(&mut self, index: usize) -> Result<PreparedId, RuntimeError> {
        let program = &self.programs[index];
        let mut steps = Vec::new();
        for (number, part) in program.parts.iter().enumerate() {
            steps.extend(self.part_steps(program, part, number));
        }
        let boundary = self.lanes[program.lane].boundary;
        let live = boundary.map(|buffer| Span { buffer, offset: 0, len: LIVE_BYTES });
        let prepared = self.device.queue.prepare(&steps, &edges(program), live)?;
        self.counters.increment(Plain::Preparations);
        self.programs[index].prepared = Some(prepared);
        Ok(prepared)
    }

    /// The steps of a part over real buffers. Its live counts are those behind the counts of the
    /// parts in front of it.
    fn part_steps(&self, program: &Program, part: &Part, number: usize) -> Vec<Step> {
        let lane = &self.lanes[program.lane];
        let arena = self.lanes[self.arena_lane(program.lane)].arena;
        let span = |span: &PlanSpan| {
            let at = |buffer, base| Span { buffer, offset: base + span.offset, len: span.len };
            match span.place {
                Place::Arena => arena.map(|buffer| at(buffer, part.arena_base)),
                Place::Buffer(index) => match part.bindings[index as usize] {
                    Binding::Boundary { offset } => lane.boundary.map(|buffer| at(buffer, offset)),
                    Binding::Buffer(buffer) => Some(at(buffer, 0)),
                    Binding::Channel(index) => {
                        self.channels[index].as_ref().map(|it| at(it.buffer, 0))
                    }
                    Binding::Gone => None,
                },
            }
        };
        let first = (number * LIVE_COUNT_MAX) as u8;
        let steps = part.plan.steps.iter();
        steps.map(|step| device_step(&part.plan, step, &part.codes, first, &span)).collect()
    }
}

/// Pairs (before, after) of a program's steps. The steps of a branch stay in their order, in which
/// neighbours overlap where a device can do that; between branches order what meets in channels.
fn edges(program: &Program) -> Vec<(u32, u32)> {
    let mut edges = Vec::new();
    let mut last_of_branch: HashMap<usize, u32> = HashMap::new();
    let mut writer: HashMap<usize, u32> = HashMap::new();
    let mut readers: HashMap<usize, Vec<u32>> = HashMap::new();
    let mut at = 0;
    for part in &program.parts {
        let channels = |spans: &[PlanSpan]| -> Vec<usize> {
            let found = spans.iter().filter_map(|span| match span.place {
                Place::Buffer(index) => match part.bindings[index as usize] {
                    Binding::Channel(channel) => Some(channel),
                    Binding::Boundary { .. } | Binding::Buffer(_) | Binding::Gone => None,
                },
                Place::Arena => None,
            });
            found.collect()
        };
        for step in &part.plan.steps {
            let mut before: Vec<u32> = last_of_branch.insert(part.branch, at).into_iter().collect();
            for channel in channels(step.reads()) {
                before.extend(writer.get(&channel));
                readers.entry(channel).or_default().push(at);
            }
            for channel in channels(step.writes()) {
                before.extend(readers.remove(&channel).unwrap_or_default());
                before.extend(writer.insert(channel, at));
            }
            before.retain(|it| *it != at);
            before.sort_unstable();
            before.dedup();
            edges.extend(before.into_iter().map(|it| (it, at)));
            at += 1;
        }
    }
    edges
}

/// A plan's step over real buffers, with live counts from number `first` on. What has no buffer is
/// of length zero and never touched.
pub(super) fn device_step(
    plan: &Plan,
    step: &PlanStep,
    codes: &[CodeId],
    first: u8,
    span: &dyn Fn(&PlanSpan) -> Option<Span>,
) -> Step {
    let nowhere =
        Span { buffer: BufferId { index: u32::MAX, generation: u32::MAX }, offset: 0, len: 0 };
    let span = |it: &PlanSpan| span(it).unwrap_or(nowhere);
    match step {
        PlanStep::Run { unit, words, args, .. } => {
            let code = codes[*unit as usize];
            let args: Vec<Span> = args.iter().map(span).collect();
            let words = words.iter().map(|word| match *word {
                Word::Fixed(number) => Word::Fixed(number),
                Word::Live { count, scale, max } => Word::Live { count: first + count, scale, max },
            });
            let words = words.collect();
            match plan.units[*unit as usize] {
                Unit::Call(_) => Step::Call { code, words, args },
                Unit::Loop(_) | Unit::Source(_) => Step::Launch { code, words, args },
            }
        }
        PlanStep::Copy { from, to } => Step::Copy { from: span(from), to: span(to) },
    }
}
