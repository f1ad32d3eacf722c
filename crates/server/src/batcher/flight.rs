//! A batch in three steps: preparing, computing, answering. Full batches fly one behind the other:
//! the next is prepared and the previous one answered while one is computed.

use std::convert::Infallible;
use std::sync::Arc;

use calor_embed::batching::{is_out_of_memory, run_split};
use calor_embed::pipeline::{ComputedBatch, PreparedBatch};
use calor_embed::streams::{OverlappedExecutor, StreamPool};
use calor_embed::{EmbeddingError, EmbeddingResult, PipelineCore, PipelineFront, PipelineOutput};
use calor_telemetry::clock::{Stopwatch, now_ns};

use super::run::{BatchFacts, Going, groups, guarded, observed};
use super::{Group, Place, Steps, next_full};
use crate::engine::{Engine, Wanted};
use crate::metrics::add;

/// A batch on its way.
struct Flight {
    /// With what preparing it took.
    groups: Vec<(Wanted, Going, Stage, u64)>,
    about: BatchFacts,
    since_ns: u64,
    device_ns: u64,
}

/// Where a group is.
enum Stage {
    /// Fused vectors, whose tokens are there.
    Prepared(PreparedBatch),
    /// Some models, one after another: nothing is prepared for them.
    Whole,
    /// The device is done with it.
    Computed(ComputedBatch),
    Done(EmbeddingResult<Vec<EmbeddingResult<PipelineOutput>>>),
}

/// Runs a batch, step by step.
pub(super) fn alone(place: &Place<'_>, core: &mut PipelineCore, batch: Group) {
    let front = core.front().clone();
    let flight = prepare(place, &front, batch);
    let flight = compute(place, core, flight);
    finish(place, &front, flight);
}

/// Runs a batch, and more as long as full ones wait.
pub(super) fn overlapped(place: &Place<'_>, core: &mut PipelineCore, first: Group) {
    let front = core.front().clone();
    let Ok(pool) = StreamPool::new(1) else { return };
    let executor = OverlappedExecutor::new(Arc::new(pool));
    let batches = std::iter::once(first).chain(std::iter::from_fn(|| next_full(place)));
    let computed = executor.execute_overlapped(
        batches,
        &mut [core],
        |batch| prepare(place, &front, batch),
        |core, flight| Ok::<Flight, Infallible>(compute(place, core, flight)),
        |flight| {
            add(&place.shared.metrics.overlapped_batches, 1);
            finish(place, &front, flight);
        },
    );
    let Ok(_) = computed;
}

fn prepare(place: &Place<'_>, front: &Arc<PipelineFront>, batch: Group) -> Flight {
    let since_ns = now_ns();
    let about = BatchFacts::of(place, &batch);
    let now_s = (place.shared.clock)();
    let groups = groups(batch).into_iter().map(|(wanted, group)| {
        let mut going = Going::of(group, about.batch_index);
        let watch = Stopwatch::start();
        let stage = match wanted {
            Wanted::Fused { .. } => {
                let ready = std::mem::take(&mut going.prepared);
                let prepared = guarded(place, || Ok(front.gather(&going.inputs, ready, now_s)));
                prepared.map_or_else(|err| Stage::Done(Err(err)), Stage::Prepared)
            }
            Wanted::Models(_) => Stage::Whole,
        };
        (wanted, going, stage, watch.elapsed_ns())
    });
    Flight { groups: groups.collect(), about, since_ns, device_ns: 0 }
}

fn compute(place: &Place<'_>, core: &mut PipelineCore, flight: Flight) -> Flight {
    let watch = Stopwatch::start();
    let _load = place.shared.balancer.reserve_on(place.index, flight.about.token_count as u64);
    let groups = flight.groups.into_iter().map(|(wanted, mut going, stage, prepare_ns)| {
        let own = Stopwatch::start();
        let stage = match stage {
            // What lost the device was another batch.
            Stage::Prepared(_) | Stage::Whole if place.is_broken() => Stage::Done(Err(gone())),
            Stage::Prepared(prepared) => {
                core.set_own_forms(wanted == Wanted::Fused { own_forms: true });
                match guarded(place, || core.compute_batch(prepared)) {
                    Ok(computed) => {
                        going.ran(core);
                        Stage::Computed(computed)
                    }
                    Err(err) if is_out_of_memory(&err) => whole(place, core, &wanted, &going),
                    Err(err) => Stage::Done(Err(err)),
                }
            }
            Stage::Whole => whole(place, core, &wanted, &going),
            it @ (Stage::Computed(_) | Stage::Done(_)) => it,
        };
        if let Some(steps) = &mut going.steps {
            *steps = Steps { prepare_ns, compute_ns: own.elapsed_ns(), ..*steps };
        }
        if let Stage::Done(Err(err)) = &stage
            && super::run::is_lost(err)
        {
            place.breaks();
        }
        (wanted, going, stage, prepare_ns)
    });
    let groups = groups.collect();
    let device_ns = watch.elapsed_ns();
    flight.about.ran(place, device_ns);
    Flight { groups, device_ns, ..flight }
}

fn whole(place: &Place<'_>, core: &mut PipelineCore, wanted: &Wanted, going: &Going) -> Stage {
    let now_s = (place.shared.clock)();
    let run = || run_split(&going.inputs, |part| core.run(wanted, part, now_s));
    Stage::Done(guarded(place, run))
}

fn finish(place: &Place<'_>, front: &PipelineFront, flight: Flight) {
    for (_, mut going, stage, _) in flight.groups {
        let watch = Stopwatch::start();
        let results = match stage {
            Stage::Done(results) => results,
            Stage::Computed(computed) => guarded(place, || Ok(front.finish_batch(computed))),
            Stage::Prepared(_) | Stage::Whole => Err(gone()),
        };
        if let Some(steps) = &mut going.steps {
            steps.group.output_ns = watch.elapsed_ns();
        }
        going.answer(place, results);
    }
    let wall_ns = now_ns().saturating_sub(flight.since_ns);
    observed(place, flight.about.token_count, flight.device_ns, wall_ns);
}

/// Of a batch behind one that lost the device.
fn gone() -> EmbeddingError {
    EmbeddingError::GpuError { source: "the device was lost in a batch before".into() }
}
