//! Steps of runs on devices that time them: one event each.

use std::collections::HashMap;

use calor_device::{Profile, TimedRun, Word};
use calor_kernel::Unit;
use calor_telemetry::event::Event;
use calor_telemetry::{Label, Record, clock, thread};

use super::{Engine, Program};
use crate::plan::{Plan, PlanStep};

/// Where times come from, and what is known of the steps that they are of.
pub(super) struct Timed {
    profile: Profile,
    /// By the program's number: a prepared form comes and goes, its steps stay.
    known: HashMap<usize, Box<[KnownStep]>>,
}

/// What an event says of a step beside its time.
struct KnownStep {
    kernel: Label,
    config: Label,
    moved_bytes: u64,
    flop_count: u64,
}

impl Timed {
    pub(super) fn new(profile: Profile) -> Self {
        Self { profile, known: HashMap::new() }
    }
}

impl Engine {
    /// Records the steps of every run that has ended since this was asked last. Runs that are no
    /// program's, such as those over weights while they load, are left out.
    pub(super) fn tell_steps(&mut self) {
        let Some(timed) = &mut self.timed else { return };
        let now_ns = clock::now_ns();
        let runs = timed.profile.take();
        // Steps are told of when all have ended; each follows the one before it.
        let mut left_ns: u64 = runs.iter().flat_map(|it| &it.steps).map(|it| it.1).sum();
        for run in &runs {
            let is_it = |it: &Program| it.prepared == Some(run.program);
            let known = self.programs.iter().position(is_it).map(|at| {
                let known = timed.known.entry(at);
                &*known.or_insert_with(|| known_steps(&self.programs[at], run))
            });
            for (at, (_, device_time_ns)) in run.steps.iter().enumerate() {
                left_ns -= device_time_ns;
                let Some(step) = known.and_then(|it| it.get(at)) else { continue };
                self.recorder.accept(&Record {
                    at_ns: now_ns.saturating_sub(left_ns),
                    thread_index: thread::index(),
                    event: Event::KernelRan {
                        kernel: step.kernel,
                        config: step.config,
                        device: self.device_label,
                        device_time_ns: *device_time_ns,
                        moved_bytes: step.moved_bytes,
                        flop_count: step.flop_count,
                    },
                });
            }
        }
    }
}

/// What is known of a program's steps, in the order in which a device has them.
fn known_steps(program: &Program, run: &TimedRun) -> Box<[KnownStep]> {
    let plans = program.parts.iter().map(|it| &it.plan);
    let steps = plans.flat_map(|plan| plan.steps.iter().map(move |step| (plan, step)));
    let known = steps.zip(&run.steps).map(|((plan, step), (name, _))| known_step(plan, step, name));
    known.collect()
}

/// `name` is what the device calls the step; empty where it has no names.
fn known_step(plan: &Plan, step: &PlanStep, name: &str) -> KnownStep {
    match step {
        PlanStep::Run { unit, words, moved_bytes, flops, .. } => {
            let unit = &plan.units[*unit as usize];
            let config = match name {
                "" => config(unit, words),
                name => name.to_owned(),
            };
            KnownStep {
                kernel: Label::of(&unit.label()),
                config: Label::of(&config),
                moved_bytes: *moved_bytes,
                flop_count: *flops,
            }
        }
        PlanStep::Copy { from, .. } => KnownStep {
            kernel: Label::fixed("copy"),
            config: Label::of(&format!("{} bytes", from.len)),
            moved_bytes: 2 * from.len,
            flop_count: 0,
        },
    }
}

/// Parameters and launch words; words that follow a count at their most.
fn config(unit: &Unit, words: &[Word]) -> String {
    let mut parts: Vec<String> = match unit {
        Unit::Source(source) => {
            source.params.iter().map(|(name, value)| format!("{name} {value}")).collect()
        }
        Unit::Loop(_) | Unit::Call(_) => Vec::new(),
    };
    let word = |it: &Word| match it {
        Word::Fixed(value) => value.to_string(),
        Word::Live { max, .. } => format!("<={max}"),
    };
    if !words.is_empty() {
        let words: Vec<String> = words.iter().map(word).collect();
        parts.push(format!("words {}", words.join(" ")));
    }
    parts.join(", ")
}
