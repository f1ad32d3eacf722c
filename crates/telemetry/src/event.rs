//! The table of events: what can be observed, each field with its meaning, type and name.
//!
//! The struct, the schema, the JSON lines and `docs/telemetry-events.md` come from this table; a
//! field cannot be misspelt at a call site. Adding a field is one line here, and the compiler
//! then shows each place that builds the event. Not here: where events go (`recorder`).
//!
//! Every event is `Copy` and of fixed size, so that recording one never allocates.

use crate::label::Label;

/// One field's value, as the sinks see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A size, a count, an index or a time.
    Integer(u64),
    /// Yes or no.
    Flag(bool),
    /// A label, or the name of a tag.
    Text(&'a str),
}

/// A type that a field may have.
pub trait FieldType: Copy {
    /// What the schema calls it.
    const TYPE: &'static str;
    /// Names of a tag, in order; empty for open types.
    const TAGS: &'static [&'static str];
    /// For sinks.
    fn to_value(self) -> Value<'static>;
    /// For readers; `None` when the value is of another type or an unknown tag.
    fn from_value(value: Value<'_>) -> Option<Self>;
}

impl FieldType for u64 {
    const TYPE: &'static str = "integer";
    const TAGS: &'static [&'static str] = &[];
    fn to_value(self) -> Value<'static> {
        Value::Integer(self)
    }
    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Integer(value) => Some(value),
            Value::Flag(_) | Value::Text(_) => None,
        }
    }
}

impl FieldType for bool {
    const TYPE: &'static str = "flag";
    const TAGS: &'static [&'static str] = &[];
    fn to_value(self) -> Value<'static> {
        Value::Flag(self)
    }
    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Flag(value) => Some(value),
            Value::Integer(_) | Value::Text(_) => None,
        }
    }
}

impl FieldType for Label {
    const TYPE: &'static str = "label";
    const TAGS: &'static [&'static str] = &[];
    fn to_value(self) -> Value<'static> {
        Value::Text(self.text())
    }
    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Text(value) => Some(Self::of(value)),
            Value::Integer(_) | Value::Flag(_) => None,
        }
    }
}

/// One row of the schema: an event.
#[derive(Debug)]
pub struct EventSchema {
    /// Name in JSON.
    pub name: &'static str,
    /// When it happens.
    pub doc: &'static str,
    /// Its fields, in order.
    pub fields: &'static [FieldSchema],
}

/// One row of the schema: a field of an event.
#[derive(Debug)]
pub struct FieldSchema {
    /// Name in JSON.
    pub name: &'static str,
    /// `integer`, `flag`, `label` or `tag`.
    pub ty: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// Allowed names when it is a tag.
    pub tags: &'static [&'static str],
    /// Whether it came after the first lines were written, so that there are some without it.
    pub is_late: bool,
}

macro_rules! tags {
    ($( $(#[doc = $doc:literal])+ $tag:ident {
        $( $(#[doc = $about:literal])+ $variant:ident as $name:literal, )+
    } )+) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $tag { $( $(#[doc = $about])+ $variant, )+ }

        impl $tag {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];

            /// The name in JSON and in metrics.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )+ }
            }
        }

        impl FieldType for $tag {
            const TYPE: &'static str = "tag";
            const TAGS: &'static [&'static str] = &[ $( $name, )+ ];
            fn to_value(self) -> Value<'static> {
                Value::Text(self.name())
            }
            fn from_value(value: Value<'_>) -> Option<Self> {
                match value {
                    $( Value::Text($name) => Some(Self::$variant), )+
                    Value::Text(_) | Value::Integer(_) | Value::Flag(_) => None,
                }
            }
        }
    )+ };
}

macro_rules! events {
    (@read $get:ident, $json:literal) => { field($get, $json)? };
    (@read $get:ident, $json:literal, $absent:expr) => {
        match $get($json) {
            None => $absent,
            Some(_) => field($get, $json)?,
        }
    };
    (@is_late) => { false };
    (@is_late $absent:expr) => { true };
    ($( $(#[doc = $doc:literal])+ $event:ident as $name:literal {
        $( $(#[doc = $about:literal])+ $field:ident: $ty:ty as $json:literal $(or $absent:expr)?, )+
    } )+) => {
        /// Something that happened. Of fixed size, without pointers to free.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $( $(#[doc = $doc])+ $event { $( $(#[doc = $about])+ $field: $ty, )+ }, )+
        }

        impl Event {
            /// The name in JSON.
            pub const fn name(&self) -> &'static str {
                match self { $( Self::$event { .. } => $name, )+ }
            }

            /// Calls `f` with each field's JSON name and value, in table order.
            pub fn fields(&self, f: &mut dyn FnMut(&'static str, Value<'static>)) {
                match *self {
                    $( Self::$event { $($field),+ } => { $( f($json, $field.to_value()); )+ } )+
                }
            }

            /// The event called `name` with the values that `get` has.
            ///
            /// # Errors
            /// [`Misfit`] for an unknown event, and for the first field that is absent or of
            /// another type.
            pub fn from_fields<'a>(
                name: &str,
                get: &dyn Fn(&'static str) -> Option<Value<'a>>,
            ) -> Result<Self, Misfit> {
                match name {
                    $( $name => Ok(Self::$event {
                        $( $field: events!(@read get, $json $(, $absent)?), )+
                    }), )+
                    _ => Err(Misfit::UnknownEvent),
                }
            }
        }

        /// Every event with its fields. `cargo xtask docs` renders it.
        pub static SCHEMA: &[EventSchema] = &[ $( EventSchema {
            name: $name,
            doc: concat!($($doc),+),
            fields: &[ $( FieldSchema {
                name: $json,
                ty: <$ty as FieldType>::TYPE,
                doc: concat!($($about),+),
                tags: <$ty as FieldType>::TAGS,
                is_late: events!(@is_late $($absent)?),
            }, )+ ],
        }, )+ ];
    };
}

tags! {
    /// A cache, by the name that the command line uses.
    Cache {
        /// A loop program and its choices to a kernel, in memory.
        KernelStructural as "kernel_structural",
        /// Kernel text and target to machine code, on disk.
        KernelArtifact as "kernel_artifact",
        /// A library call to its chosen algorithm.
        LibraryAlgorithm as "library_algorithm",
        /// A checkpoint to its weights in one precision, on disk.
        ConvertedWeights as "converted_weights",
        /// A graph, bucket, precision and device to a program.
        Program as "program",
        /// A manifest to everything that its warm-up built.
        Bundle as "bundle",
        /// Buffers by size, kept for the next request.
        BufferPool as "buffer_pool",
        /// An input and a model revision to its embedding.
        EmbeddingResults as "embedding_results",
        /// A word to its tokens.
        TokenizedWords as "tokenized_words",
    }
    /// What memory is for.
    Memory {
        /// Model weights.
        Weights as "weights",
        /// Interior values of programs.
        Arena as "arena",
        /// Inputs and outputs of programs.
        Boundary as "boundary",
        /// Scratch of a library call.
        Workspace as "workspace",
        /// Host memory that copies pass through.
        Staging as "staging",
    }
    /// Where something came from.
    Origin {
        /// Made now.
        Made as "made",
        /// Read from this machine's disk.
        Disk as "disk",
        /// Read from an imported bundle.
        Bundle as "bundle",
        /// Fetched over the network.
        Network as "network",
    }
    /// What was wrong with an entry that a cache found.
    EntryFlaw {
        /// Damaged or cut off; moved aside.
        Corrupt as "corrupt",
        /// Whole, but under another entry's name; moved aside.
        Misplaced as "misplaced",
        /// Of another format version; left.
        Stale as "stale",
        /// Of another architecture or kind; left.
        Foreign as "foreign",
        /// The device could not use it; moved aside.
        Refused as "refused",
    }
    /// What keeps a cache from its place on the disk.
    StorageFault {
        /// The folder belongs to somebody else or others may write to it.
        NotPrivate as "not_private",
        /// Permission was denied.
        Denied as "denied",
        /// The file system is read-only.
        ReadOnly as "read_only",
        /// No space or quota is left.
        Full as "full",
        /// The entry is larger than the cache may be.
        TooLarge as "too_large",
        /// Something else.
        Other as "other",
    }
    /// Why an input was refused.
    Refusal {
        /// It holds nothing to embed.
        Empty as "empty",
        /// It is longer than the model takes, and cutting was not allowed.
        TooLong as "too_long",
        /// The model does not take inputs of this kind.
        WrongKind as "wrong_kind",
        /// It cannot be read as what it claims to be.
        Malformed as "malformed",
        /// The queue is full.
        Overload as "overload",
        /// Its deadline passed before it could run.
        Deadline as "deadline",
    }
    /// What became of a request to a server.
    Outcome {
        /// Every input was answered.
        Answered as "answered",
        /// Some inputs were answered.
        Partly as "partly",
        /// It was not as it must be.
        Refused as "refused",
        /// There was too much to do, or nobody to do it.
        Overloaded as "overloaded",
        /// It took longer than it might.
        TimedOut as "timed_out",
        /// The models or their device failed.
        Failed as "failed",
        /// Whoever asked went away.
        Gone as "gone",
    }
    /// A step of warm-up, in the order in which they run.
    WarmupStep {
        /// Every program of the manifest was planned.
        Plan as "plan",
        /// Kernels were found or compiled, and loaded.
        Compile as "compile",
        /// Modules were loaded, where that is a step of its own.
        Load as "load",
        /// Arenas and workspaces were reserved.
        Reserve as "reserve",
        /// Weights were read and uploaded.
        Weights as "weights",
        /// Every program ran once on synthetic inputs.
        Run as "run",
        /// Programs were captured.
        Capture as "capture",
        /// Outputs were compared with the smallest bucket and the stored vectors.
        Check as "check",
        /// The right to build was given up.
        Seal as "seal",
    }
}

events! {
    /// A program ran from submission to its last result.
    ProgramRan as "program_ran" {
        /// Model that the program belongs to.
        model: Label as "model",
        /// Device that ran it.
        device: Label as "device",
        /// Tokens that the program has room for.
        bucket_token_count: u64 as "bucket_token_count",
        /// Sequences that the program has room for.
        bucket_sequence_count: u64 as "bucket_sequence_count",
        /// Tokens that were not padding.
        live_token_count: u64 as "live_token_count",
        /// Sequences that were not padding.
        live_sequence_count: u64 as "live_sequence_count",
        /// Host time from submission to completion.
        wall_ns: u64 as "wall_ns",
    }
    /// One kernel ran to its end, in a profiled run.
    KernelRan as "kernel_ran" {
        /// Kernel's short name.
        kernel: Label as "kernel",
        /// How it is set up: its parameters and launch words, or what the device says of its grid.
        config: Label as "config" or Label::fixed(""),
        /// Device that ran it.
        device: Label as "device",
        /// Device clock, from start to end.
        device_time_ns: u64 as "device_time_ns",
        /// Read plus written, by the plan's own estimate.
        moved_bytes: u64 as "moved_bytes",
        /// Floating-point operations, by the plan's own estimate.
        flop_count: u64 as "flop_count",
    }
    /// Code for a kernel was obtained.
    Compiled as "compiled" {
        /// Kernel's entry name.
        kernel: Label as "kernel",
        /// Device it is for.
        device: Label as "device",
        /// Compiled now, or found.
        origin: Origin as "origin",
        /// Size of the machine code.
        code_bytes: u64 as "code_bytes",
        /// Host time that it took.
        wall_ns: u64 as "wall_ns",
    }
    /// A module was loaded onto a device.
    ModuleLoaded as "module_loaded" {
        /// Kernel's entry name.
        kernel: Label as "kernel",
        /// Device that holds it.
        device: Label as "device",
        /// Size of the machine code.
        code_bytes: u64 as "code_bytes",
        /// Host time that it took.
        wall_ns: u64 as "wall_ns",
    }
    /// Memory was taken from a device or from the host.
    Allocated as "allocated" {
        /// Device whose memory it is.
        device: Label as "device",
        /// What it is for.
        purpose: Memory as "purpose",
        /// Size as reserved, after rounding.
        size_bytes: u64 as "size_bytes",
        /// Whether this happened after the seal, where nothing may allocate.
        after_seal: bool as "after_seal",
    }
    /// A plan was made for one bucket of a model.
    PlanMade as "plan_made" {
        /// Model that was planned.
        model: Label as "model",
        /// Device it was planned for.
        device: Label as "device",
        /// Tokens that the program has room for.
        bucket_token_count: u64 as "bucket_token_count",
        /// Sequences that the program has room for.
        bucket_sequence_count: u64 as "bucket_sequence_count",
        /// Steps that a run submits.
        step_count: u64 as "step_count",
        /// Memory for interior values.
        arena_bytes: u64 as "arena_bytes",
        /// Host time that planning took.
        wall_ns: u64 as "wall_ns",
    }
    /// A cache was asked.
    CacheAsked as "cache_asked" {
        /// Which one.
        cache: Cache as "cache",
        /// Whether nothing had to be made.
        hit: bool as "hit",
    }
    /// A cache found an entry that it does not give to anyone.
    CacheEntryFlawed as "cache_entry_flawed" {
        /// Which cache.
        cache: Cache as "cache",
        /// What the entry was asked for.
        label: Label as "label",
        /// What is wrong with it.
        flaw: EntryFlaw as "flaw",
    }
    /// A cache's place on the disk failed, for the first time in this way; work goes on
    /// without it.
    CacheStorageFailed as "cache_storage_failed" {
        /// Which cache.
        cache: Cache as "cache",
        /// How.
        fault: StorageFault as "fault",
    }
    /// A step of warm-up ended.
    WarmupStepDone as "warmup_step_done" {
        /// Which step.
        step: WarmupStep as "step",
        /// Model that it was for.
        model: Label as "model",
        /// Whether it succeeded.
        success: bool as "success",
        /// Device memory that it took.
        device_bytes: u64 as "device_bytes",
        /// Host time that it took.
        wall_ns: u64 as "wall_ns",
    }
    /// A model's weights became resident.
    WeightsLoaded as "weights_loaded" {
        /// Whose weights.
        model: Label as "model",
        /// Device that holds them.
        device: Label as "device",
        /// Size as stored on the device.
        size_bytes: u64 as "size_bytes",
        /// Bytes read from the source, as 32-bit floats.
        read_bytes: u64 as "read_bytes",
        /// Of these, bytes whose digests were compared with recorded ones.
        checked_bytes: u64 as "checked_bytes",
        /// Of these, bytes that were summed on the device and compared.
        proven_bytes: u64 as "proven_bytes",
        /// Host time from the first read to the last byte on the device.
        wall_ns: u64 as "wall_ns",
    }
    /// A request was answered.
    RequestDone as "request_done" {
        /// Model that was asked.
        model: Label as "model",
        /// Inputs in the request.
        item_count: u64 as "item_count",
        /// Tokens of all inputs, after cutting.
        token_count: u64 as "token_count",
        /// Host time from call to answer.
        wall_ns: u64 as "wall_ns",
    }
    /// A request to a server ended. What nobody could read as a request is in the server's metrics
    /// alone.
    RequestServed as "request_served" {
        /// Model that was asked, or the fusion of all.
        model: Label as "model",
        /// What became of it.
        outcome: Outcome as "outcome",
        /// Which request of its process, from 1.
        request_index: u64 as "request_index",
        /// Inputs in the request.
        item_count: u64 as "item_count",
        /// Of these, inputs whose results were there or under way already.
        hit_count: u64 as "hit_count",
        /// Tokens of all inputs, after cutting.
        token_count: u64 as "token_count",
        /// Host time of tokenizing, to know what it costs.
        tokenization_ns: u64 as "tokenization_ns",
        /// Waiting for a batch, the mean over inputs.
        queue_ns: u64 as "queue_ns",
        /// Time of the inputs' batches, the mean over inputs.
        inference_ns: u64 as "inference_ns",
        /// Host time from the request to its end.
        wall_ns: u64 as "wall_ns",
    }
    /// An input of a request to a server ran in a batch.
    ItemRan as "item_ran" {
        /// Whose input.
        request_index: u64 as "request_index",
        /// In which batch.
        batch_index: u64 as "batch_index",
        /// Tokens of the input.
        token_count: u64 as "token_count",
        /// From the queue to the start of the batch.
        queue_ns: u64 as "queue_ns",
    }
    /// A batch of a server ran; its programs ran meanwhile on the same thread.
    BatchRan as "batch_ran" {
        /// Which batch of its process, from 1.
        batch_index: u64 as "batch_index",
        /// Place where the models are, from 0.
        place_index: u64 as "place_index",
        /// Inputs in the batch.
        item_count: u64 as "item_count",
        /// Tokens of all inputs.
        token_count: u64 as "token_count",
        /// Host time of running it.
        wall_ns: u64 as "wall_ns",
    }
    /// An input was refused; the caller got the reason.
    InputRefused as "input_refused" {
        /// Model that was asked.
        model: Label as "model",
        /// Why.
        reason: Refusal as "reason",
        /// Position in its request.
        item_index: u64 as "item_index",
    }
    /// An input was cut to what a model takes; of several models it is the one that takes least.
    InputTruncated as "input_truncated" {
        /// Model that was asked.
        model: Label as "model",
        /// Position in its request.
        item_index: u64 as "item_index",
        /// Tokens before the cut, as far as the text was read: a long one is not read to its end.
        token_count: u64 as "token_count",
        /// Tokens after the cut.
        kept_token_count: u64 as "kept_token_count",
    }
    /// A model's files were brought into the model store.
    ModelPulled as "model_pulled" {
        /// Which model.
        model: Label as "model",
        /// Where its files were.
        origin: Origin as "origin",
        /// Size of its files.
        size_bytes: u64 as "size_bytes",
        /// Host time that it took.
        wall_ns: u64 as "wall_ns",
    }
    /// A benchmark scenario took one sample.
    ScenarioSampled as "scenario_sampled" {
        /// Which scenario.
        scenario: Label as "scenario",
        /// Position in its run.
        sample_index: u64 as "sample_index",
        /// Items that this sample really processed.
        item_count: u64 as "item_count",
        /// Tokens that this sample really processed.
        token_count: u64 as "token_count",
        /// Host time that it took.
        wall_ns: u64 as "wall_ns",
    }
}

impl Event {
    /// How long it took by the host's clock, for events that have a length.
    pub fn wall_ns(&self) -> Option<u64> {
        let mut found = None;
        self.fields(&mut |name, value| {
            if let ("wall_ns", Value::Integer(ns)) = (name, value) {
                found = Some(ns);
            }
        });
        found
    }
}

/// Why fields do not make an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// No event of the table has this name.
    UnknownEvent,
    /// The event needs a field that is not there.
    Missing {
        /// Its JSON name.
        field: &'static str,
    },
    /// The field is there, with a value that it cannot have.
    Wrong {
        /// Its JSON name.
        field: &'static str,
        /// What the schema says.
        want: &'static str,
    },
}

fn field<'a, T: FieldType>(
    get: &dyn Fn(&'static str) -> Option<Value<'a>>,
    field: &'static str,
) -> Result<T, Misfit> {
    let value = get(field).ok_or(Misfit::Missing { field })?;
    T::from_value(value).ok_or(Misfit::Wrong { field, want: T::TYPE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_snake_case(name: &str) -> bool {
        name.starts_with(|it: char| it.is_ascii_lowercase())
            && name.chars().all(|it| it.is_ascii_lowercase() || it == '_')
    }

    #[test]
    fn the_table_drives_everything() {
        let event = Event::CacheAsked { cache: Cache::Program, hit: true };
        let mut seen = Vec::new();
        event.fields(&mut |name, value| seen.push((name, value)));
        assert_eq!(seen, [("cache", Value::Text("program")), ("hit", Value::Flag(true))]);
        assert_eq!(event.name(), "cache_asked");
    }

    #[test]
    fn names_are_unique_snake_case_with_the_unit_last() {
        let mut events = std::collections::BTreeSet::new();
        for event in SCHEMA {
            assert!(is_snake_case(event.name) && events.insert(event.name), "{}", event.name);
            let mut fields = std::collections::BTreeSet::new();
            for field in event.fields {
                assert!(is_snake_case(field.name), "{}.{}", event.name, field.name);
                assert!(fields.insert(field.name), "{}.{} twice", event.name, field.name);
                let unit =
                    ["_ns", "_bytes", "_count", "_index"].iter().any(|it| field.name.ends_with(it));
                assert_eq!(unit, field.ty == "integer", "{}.{}", event.name, field.name);
                assert_eq!(field.tags.is_empty(), field.ty != "tag");
            }
        }
    }

    #[test]
    fn fields_make_the_event_again() {
        for row in SCHEMA {
            let get = |name: &'static str| {
                let field = row.fields.iter().find(|it| it.name == name)?;
                Some(match field.ty {
                    "integer" => Value::Integer(7),
                    "flag" => Value::Flag(true),
                    "tag" => Value::Text(field.tags[field.tags.len() - 1]),
                    _ => Value::Text("some label"),
                })
            };
            let event = Event::from_fields(row.name, &get).unwrap();
            assert_eq!(event.name(), row.name);
            let mut count = 0;
            event.fields(&mut |name, value| {
                assert_eq!(Some(value), get(name));
                count += 1;
            });
            assert_eq!(count, row.fields.len());
        }
    }

    #[test]
    fn a_misfit_names_the_field() {
        let absent = Event::from_fields("cache_asked", &|_| None);
        assert_eq!(absent, Err(Misfit::Missing { field: "cache" }));
        let wrong = Event::from_fields("cache_asked", &|_| Some(Value::Text("attic")));
        assert_eq!(wrong, Err(Misfit::Wrong { field: "cache", want: "tag" }));
        assert_eq!(Event::from_fields("tea_made", &|_| None), Err(Misfit::UnknownEvent));
    }

    #[test]
    fn an_event_stays_small() {
        assert!(size_of::<Event>() <= 96, "{}", size_of::<Event>());
    }
}
