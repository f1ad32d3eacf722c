//! Typed events, counters and sinks: everything that Calor lets be observed.
//!
//! One table each for events ([`event`]) and counters ([`counter`]); sinks, the schema of the
//! JSON lines and of a run's document ([`run`]), `docs/telemetry-events.md` and the Prometheus text
//! ([`prometheus`]) come from them.
//! Not here: deciding what to observe (the callers do), and serving it over a network.
//!
//! On the hot path there is one sharded atomic per program run and one fixed-size record in
//! the thread's ring. Labels are resolved once, when a plan is made or a model is opened.

#![forbid(unsafe_code)]

pub mod clock;
pub mod counter;
pub mod event;
pub mod jsonl;
pub mod label;
pub mod prometheus;
pub mod recorder;
pub mod run;
pub mod schema;
pub mod tally;
pub mod thread;
pub mod trace;

pub use clock::Stopwatch;
pub use counter::{CacheCount, Change, Counter, Counters, Scope, Snapshot};
pub use event::{
    Cache, EntryFlaw, Event, Memory, Origin, Outcome, Refusal, StorageFault, WarmupStep,
};
pub use label::Label;
pub use recorder::{Log, Null, Record, Recorder, Ring, Tee};
pub use tally::Tally;
