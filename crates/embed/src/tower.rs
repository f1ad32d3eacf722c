//! An encoder on a device: a program for each bucket, made when it is first needed, and packed
//! batches through them.

mod rows;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use calor_ir::CheckedGraph;
use calor_runtime::{
    Build, ChannelId, Choices, Input, LaneId, Place, PlanStep, ProgramId, ProgramSpec, Run,
    RuntimeError, WeightSource,
};
use calor_weights::{EncoderConfig, Head, Position};

use crate::encoder::{TextOutputs, text_graph};
use crate::error::{EmbeddingError, EmbeddingResult, LengthUnit};
use crate::packing::{Bucket, Keys, PackForm, PackItem, PackOrder, Positions, close_batches};
use crate::precision::InferencePrecision;
use crate::programs::Programs;
pub(crate) use rows::TextSlots;
use rows::{INPUT_NAMES, Scratch};

/// What planning does by rule.
pub(crate) static RULE: LazyLock<Choices> = LazyLock::new(Choices::default);

/// The device failed, or the graph could not be built for it.
pub(crate) fn device_error(source: RuntimeError) -> EmbeddingError {
    EmbeddingError::GpuError { source: Box::new(source) }
}

/// A graph that does not build is a bug: configurations are checked before.
pub(crate) fn graph_error(source: calor_ir::GraphError) -> EmbeddingError {
    EmbeddingError::InternalError { place: "encoder graph", source: Some(Box::new(source)) }
}

/// Device bytes of the weights that the steps of programs read, each counted once.
pub(crate) fn weights_bytes(build: &Programs, programs: impl Iterator<Item = ProgramId>) -> u64 {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    for program in programs {
        let plan = build.plan(program);
        for span in plan.steps.iter().flat_map(PlanStep::reads) {
            let Place::Buffer(index) = span.place else { continue };
            let row = &plan.buffers[index as usize];
            if row.key.is_some_and(|key| seen.insert(key)) {
                bytes += row.size_bytes();
            }
        }
    }
    bytes
}

/// What a text tower is made of.
#[derive(Clone)]
pub struct TextTowerSpec {
    /// For people and events.
    pub label: String,
    /// The encoder.
    pub config: EncoderConfig,
    /// What follows it.
    pub head: Head,
    /// `text.` for CLIP, else empty: what its weights are called.
    pub prefix: &'static str,
    /// What leaves it.
    pub outputs: TextOutputs,
    /// Its weights.
    pub source: Arc<dyn WeightSource>,
    /// Most tokens in one program run, unless a single text is longer.
    pub batch_tokens_max: usize,
    /// Most texts in one program run.
    pub batch_sequences_max: usize,
    /// Most tokens of one text, specials included.
    pub sequence_tokens_max: usize,
    /// What its products run in.
    pub precision: InferencePrecision,
}

/// A text encoder on a device.
pub struct TextTower {
    spec: TextTowerSpec,
    lane: LaneId,
    form: PackForm,
    ladder: Vec<Bucket>,
    programs: HashMap<Bucket, TextProgram>,
    scratch: Scratch,
    /// Channels that outputs lie in, by name.
    channels: Vec<(String, ChannelId)>,
}

struct TextProgram {
    id: ProgramId,
    slots: TextSlots,
}

/// Rows that left a tower.
#[derive(Clone, Debug, PartialEq)]
pub struct TowerOutput {
    /// Name of the graph's output.
    pub name: String,
    /// Elements of a row.
    pub row_len: usize,
    /// Whether there is a row for each token, else one for each item.
    pub by_token: bool,
    /// Rows of each item, in the order of the items.
    pub items: Vec<Vec<f32>>,
}

impl TextTower {
    /// A tower without any program yet.
    ///
    /// # Errors
    /// [`EmbeddingError::ConfigError`] for token limits outside 1..=16,384, and
    /// [`EmbeddingError::PrecisionRefused`] for a precision that the model does not run in.
    pub fn new(lane: LaneId, spec: TextTowerSpec) -> EmbeddingResult<Self> {
        spec.precision.check_model(&spec.label, spec.config.family)?;
        let room = spec.batch_tokens_max.max(spec.sequence_tokens_max).max(64);
        let mut ladder = Bucket::ladder(room)?;
        for bucket in &mut ladder {
            bucket.sequence_count = bucket.sequence_count.min(spec.batch_sequences_max.max(1));
        }
        let pad_id = spec.config.special.pad.unwrap_or(0);
        let positions = match spec.config.position {
            Position::Learned { offset: 0, .. } | Position::Rope { .. } | Position::None => {
                Positions::FromZero
            }
            Position::Learned { offset, .. } => Positions::AfterPad { pad_id: offset as u32 - 1 },
        };
        let form = PackForm { keys: Keys::Full, positions, type_id: 0, pad_id };
        let (programs, scratch) = (HashMap::new(), Scratch::default());
        Ok(Self { spec, lane, form, ladder, programs, scratch, channels: Vec::new() })
    }

    /// Buckets, rising.
    pub fn ladder(&self) -> &[Bucket] {
        &self.ladder
    }

    /// What the tower is made of.
    pub fn spec(&self) -> &TextTowerSpec {
        &self.spec
    }

    /// The graph of a bucket.
    ///
    /// # Errors
    /// [`EmbeddingError::InternalError`] when it does not build.
    pub fn graph(&self, bucket: Bucket) -> EmbeddingResult<CheckedGraph> {
        let TextTowerSpec { config, head, prefix, outputs, precision, .. } = &self.spec;
        text_graph(config, *head, prefix, bucket, outputs, *precision).map_err(graph_error)
    }

    /// The most tokens of one text.
    pub fn sequence_tokens_max(&self) -> usize {
        self.spec.sequence_tokens_max
    }

    /// Its programs.
    pub(crate) fn programs(&self) -> impl Iterator<Item = ProgramId> {
        self.programs.values().map(|it| it.id)
    }

    /// Removes every program; the next run builds them anew.
    ///
    /// # Errors
    /// What the device says, and [`EmbeddingError::NotWarm`] once everything is sealed.
    pub fn release(&mut self, programs: &mut Programs) -> EmbeddingResult<()> {
        if self.programs.is_empty() {
            return Ok(());
        }
        let build = programs.to_build(|| self.spec.label.clone())?;
        let mut programs = self.programs.drain();
        programs.try_for_each(|(_, it)| build.remove(it.id).map_err(device_error))
    }

    /// From now on outputs lie in channels, and programs in this lane.
    pub(crate) fn leave_in(&mut self, lane: LaneId, channels: Vec<(String, ChannelId)>) {
        (self.lane, self.channels) = (lane, channels);
    }

    /// Channels by the outputs' names.
    pub(crate) fn channels(&self) -> Vec<(&str, ChannelId)> {
        self.channels.iter().map(|(name, id)| (name.as_str(), *id)).collect()
    }

    /// What the program of a bucket is to be.
    pub(crate) fn program_spec<'a>(
        &'a self,
        bucket: Bucket,
        lane: LaneId,
        graph: &'a CheckedGraph,
        channels: &'a [(&'a str, ChannelId)],
    ) -> ProgramSpec<'a> {
        ProgramSpec {
            label: &self.spec.label,
            token_count_max: bucket.token_count as u32,
            sequence_count_max: bucket.sequence_count as u32,
            lane,
            graph,
            source: Some(self.spec.source.clone()),
            choices: &RULE,
            channels,
        }
    }

    /// The lane of its programs.
    pub(crate) fn lane(&self) -> LaneId {
        self.lane
    }

    /// Takes over the program of a bucket.
    pub(crate) fn add(
        &mut self,
        build: &Build,
        graph: &CheckedGraph,
        bucket: Bucket,
        id: ProgramId,
    ) -> EmbeddingResult<()> {
        let slots = TextSlots::of(graph, build.plan(id), bucket)?;
        self.programs.insert(bucket, TextProgram { id, slots });
        Ok(())
    }

    /// Builds the program of a bucket unless it is there.
    ///
    /// # Errors
    /// When the graph, its plan, the weights or the device fail, and
    /// [`EmbeddingError::NotWarm`] once everything is sealed.
    pub fn ensure(&mut self, programs: &mut Programs, bucket: Bucket) -> EmbeddingResult<()> {
        if self.programs.contains_key(&bucket) {
            return Ok(());
        }
        let label = &self.spec.label;
        let build = programs.to_build(|| format!("{label} for {} tokens", bucket.token_count))?;
        let graph = self.graph(bucket)?;
        let channels = self.channels();
        let spec = self.program_spec(bucket, self.lane, &graph, &channels);
        let id = build.program(&spec).map_err(device_error)?;
        self.add(build, &graph, bucket, id)
    }

    /// Runs items, packed together as far as the budget goes, longest first. The results are in
    /// the items' order.
    ///
    /// # Errors
    /// [`EmbeddingError::BatchError`] for an item that is empty or longer than the largest
    /// bucket; nothing has run then.
    pub fn run(
        &mut self,
        programs: &mut Programs,
        items: &[PackItem<'_>],
    ) -> EmbeddingResult<Vec<TowerOutput>> {
        let lengths: Vec<usize> = items.iter().map(|it| it.ids.len()).collect();
        self.check_lengths(&lengths)?;
        let budget = self.budget(lengths.iter().copied().max().unwrap_or(0));
        let batches = close_batches(&lengths, budget, PackOrder::LongestFirst)?;
        let mut all: Vec<TowerOutput> = Vec::new();
        for batch in &batches {
            let part: Vec<PackItem<'_>> = batch.item_indexes.iter().map(|at| items[*at]).collect();
            let outputs = self.run_batch(programs, &part, batch.token_count)?;
            if all.is_empty() {
                all = outputs
                    .iter()
                    .map(|it| TowerOutput { items: vec![Vec::new(); items.len()], ..it.clone() })
                    .collect();
            }
            for (whole, part) in all.iter_mut().zip(outputs) {
                for (at, rows) in batch.item_indexes.iter().zip(part.items) {
                    whole.items[*at] = rows;
                }
            }
        }
        Ok(all)
    }

    fn check_lengths(&self, lengths: &[usize]) -> EmbeddingResult<()> {
        let limit_max = self.spec.sequence_tokens_max;
        for (item_index, length) in lengths.iter().enumerate() {
            if limit_max < *length {
                let source = Box::new(EmbeddingError::InputTooLong {
                    got_len: *length,
                    limit_max,
                    unit: LengthUnit::Tokens,
                });
                return Err(EmbeddingError::BatchError { item_index, source });
            }
        }
        Ok(())
    }

    /// The budget of a batch: the configured one, or the bucket of a single longer text.
    fn budget(&self, longest: usize) -> Bucket {
        let wanted = self.spec.batch_tokens_max.max(longest);
        let fits = self.ladder.iter().rev().find(|it| it.token_count <= wanted.max(64));
        let holds = Bucket::smallest(&self.ladder, longest, 1);
        match (fits, holds) {
            (Some(fits), Some(holds)) => (*fits).max(holds),
            (Some(one), None) => *one,
            (None, Some(one)) => one,
            (None, None) => self.ladder[0],
        }
    }

    /// The smallest bucket that holds so much.
    pub(crate) fn bucket(&self, token_count: usize, item_count: usize) -> Option<Bucket> {
        Bucket::smallest(&self.ladder, token_count, item_count)
    }

    fn run_batch(
        &mut self,
        programs: &mut Programs,
        items: &[PackItem<'_>],
        token_count: usize,
    ) -> EmbeddingResult<Vec<TowerOutput>> {
        let bucket =
            self.bucket(token_count, items.len()).ok_or(EmbeddingError::InternalError {
                place: "bucket of a closed batch",
                source: None,
            })?;
        self.ensure(programs, bucket)?;
        self.run_in(programs, bucket, items)
    }

    /// Runs items in a bucket whose program is there.
    pub(crate) fn run_in(
        &mut self,
        programs: &mut Programs,
        bucket: Bucket,
        items: &[PackItem<'_>],
    ) -> EmbeddingResult<Vec<TowerOutput>> {
        let run = self.start(programs, bucket, items)?;
        programs.finish(run)?;
        let token_count = items.iter().map(|it| it.ids.len()).sum();
        self.collect(programs, bucket, items, token_count)
    }

    /// Packs items and starts the program of a bucket, which is there.
    pub(crate) fn start(
        &mut self,
        programs: &mut Programs,
        bucket: Bucket,
        items: &[PackItem<'_>],
    ) -> EmbeddingResult<Run> {
        let live = self.pack(items, bucket)?;
        let program = &self.programs[&bucket];
        let (inputs, count) = self.inputs(&program.slots, 0);
        programs.start(program.id, &inputs[..count], &[&live])
    }

    /// Writes items into the tower's own memory as the rows of a bucket. The live counts come
    /// back.
    pub(crate) fn pack(
        &mut self,
        items: &[PackItem<'_>],
        bucket: Bucket,
    ) -> EmbeddingResult<[u32; 2]> {
        self.scratch.pack(items, bucket, &self.form)?;
        let token_count: usize = items.iter().map(|it| it.ids.len()).sum();
        Ok([token_count as u32, items.len() as u32])
    }

    /// What was packed last as the inputs of a plan, and how many there are.
    pub(crate) fn inputs<'a>(
        &'a self,
        slots: &TextSlots,
        part: usize,
    ) -> ([Input<'a>; INPUT_NAMES.len()], usize) {
        let mut inputs = [Input { part, slot: 0, bytes: &[] }; INPUT_NAMES.len()];
        let mut count = 0;
        for (slot, bytes) in slots.inputs.iter().zip(self.scratch.rows(slots.bucket())) {
            if let Some(slot) = *slot {
                inputs[count] = Input { part, slot, bytes };
                count += 1;
            }
        }
        (inputs, count)
    }

    /// The program of a bucket, if it is there.
    pub(crate) fn program(&self, bucket: Bucket) -> Option<(ProgramId, &TextSlots)> {
        self.programs.get(&bucket).map(|it| (it.id, &it.slots))
    }

    fn collect(
        &mut self,
        programs: &mut Programs,
        bucket: Bucket,
        items: &[PackItem<'_>],
        token_count: usize,
    ) -> EmbeddingResult<Vec<TowerOutput>> {
        let TextProgram { id, slots } = &self.programs[&bucket];
        let mut outputs = Vec::with_capacity(slots.outputs.len());
        for output in &slots.outputs {
            let row_count = if output.by_token { token_count } else { items.len() };
            let rows = &mut self.scratch.read;
            rows.resize(row_count * output.row_len, 0.0);
            programs.read(*id, 0, output.slot, rows.as_mut_slice())?;
            let mut start = 0;
            let items = items
                .iter()
                .map(|item| {
                    let count = if output.by_token { item.ids.len() } else { 1 };
                    let len = count * output.row_len;
                    start += len;
                    rows[start - len..start].to_vec()
                })
                .collect();
            outputs.push(TowerOutput {
                name: output.name.clone(),
                row_len: output.row_len,
                by_token: output.by_token,
                items,
            });
        }
        Ok(outputs)
    }
}

impl std::fmt::Debug for TextTower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextTower")
            .field("label", &self.spec.label)
            .field("programs", &self.programs.len())
            .finish_non_exhaustive()
    }
}
