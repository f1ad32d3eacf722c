//! An encoder on a device: a program for each bucket, made when it is first needed, and packed
//! batches through them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use calor_ir::CheckedGraph;
use calor_runtime::{
    Build, Choices, LaneId, Place, PlanStep, ProgramId, ProgramSpec, RuntimeError, WeightSource,
};
use calor_weights::{EncoderConfig, Head, Position};

use crate::encoder::{TextOutputs, text_graph};
use crate::error::{EmbeddingError, EmbeddingResult, LengthUnit};
use crate::packing::{
    Bucket, Keys, PackBuffers, PackForm, PackItem, PackOrder, Positions, close_batches, pack,
};
use crate::precision::InferencePrecision;

/// Longest that one program may take.
pub(crate) const RUN_DEADLINE: Duration = Duration::from_secs(600);

/// The device failed, or the graph could not be built for it.
pub(crate) fn device_error(source: RuntimeError) -> EmbeddingError {
    EmbeddingError::GpuError { source: Box::new(source) }
}

/// A graph that does not build is a bug: configurations are checked before.
pub(crate) fn graph_error(source: calor_ir::GraphError) -> EmbeddingError {
    EmbeddingError::InternalError { place: "encoder graph", source: Some(Box::new(source)) }
}

/// Device bytes of the weights that the steps of programs read, each counted once.
pub(crate) fn weights_bytes(build: &Build, programs: impl Iterator<Item = ProgramId>) -> u64 {
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
}

struct TextProgram {
    id: ProgramId,
    /// Slot of each input, where the graph has it.
    ids: Option<usize>,
    positions: Option<usize>,
    types: Option<usize>,
    segment: Option<usize>,
    lo: Option<usize>,
    hi: Option<usize>,
    seg_lo: Option<usize>,
    seg_hi: Option<usize>,
    outputs: Vec<OutputSlot>,
}

struct OutputSlot {
    name: String,
    slot: usize,
    row_len: usize,
    by_token: bool,
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

#[derive(Default)]
struct Scratch {
    ids: Vec<i32>,
    positions: Vec<i32>,
    types: Vec<i32>,
    lo: Vec<i32>,
    hi: Vec<i32>,
    extra: Vec<i32>,
    segment: Vec<i32>,
    bounds: Vec<i32>,
    keep: Vec<f32>,
    rows: Vec<f32>,
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
        let ladder = Bucket::ladder(room)?;
        let pad_id = spec.config.special.pad.unwrap_or(0);
        let positions = match spec.config.position {
            Position::Learned { offset: 0, .. } | Position::Rope { .. } | Position::None => {
                Positions::FromZero
            }
            Position::Learned { offset, .. } => Positions::AfterPad { pad_id: offset as u32 - 1 },
        };
        let form = PackForm { keys: Keys::Full, positions, type_id: 0, pad_id };
        let (programs, scratch) = (HashMap::new(), Scratch::default());
        Ok(Self { spec, lane, form, ladder, programs, scratch })
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
    /// What the device says.
    pub fn release(&mut self, build: &mut Build) -> EmbeddingResult<()> {
        let mut programs = self.programs.drain();
        programs.try_for_each(|(_, it)| build.remove(it.id).map_err(device_error))
    }

    /// Builds the program of a bucket unless it is there.
    ///
    /// # Errors
    /// When the graph, its plan, the weights or the device fail.
    pub fn ensure(&mut self, build: &mut Build, bucket: Bucket) -> EmbeddingResult<()> {
        if self.programs.contains_key(&bucket) {
            return Ok(());
        }
        let graph = self.graph(bucket)?;
        let spec = ProgramSpec {
            label: &self.spec.label,
            token_count_max: bucket.token_count as u32,
            sequence_count_max: bucket.sequence_count as u32,
            lane: self.lane,
            graph: &graph,
            source: Some(self.spec.source.clone()),
            choices: &Choices::default(),
        };
        let id = build.program(&spec).map_err(device_error)?;
        let plan = build.plan(id);
        let mut outputs = Vec::new();
        for output in graph.graph().outputs() {
            let shape = graph.graph().shape(output.value);
            let slot = plan.output_index(&output.name).ok_or_else(|| {
                EmbeddingError::InternalError { place: "plan outputs", source: None }
            })?;
            outputs.push(OutputSlot {
                name: output.name.clone(),
                slot,
                row_len: shape.last(),
                by_token: shape.sizes()[0] == bucket.token_count
                    && plan.buffers[slot].live != Some(crate::encoder::LIVE_SEQUENCES),
            });
        }
        let program = TextProgram {
            id,
            ids: plan.input_index("ids"),
            positions: plan.input_index("positions"),
            types: plan.input_index("types"),
            segment: plan.input_index("segment"),
            lo: plan.input_index("lo"),
            hi: plan.input_index("hi"),
            seg_lo: plan.input_index("seg_lo"),
            seg_hi: plan.input_index("seg_hi"),
            outputs,
        };
        self.programs.insert(bucket, program);
        Ok(())
    }

    /// Runs items, packed together as far as the budget goes, longest first. The results are in
    /// the items' order.
    ///
    /// # Errors
    /// [`EmbeddingError::BatchError`] for an item that is empty or longer than the largest
    /// bucket; nothing has run then.
    pub fn run(
        &mut self,
        build: &mut Build,
        items: &[PackItem<'_>],
    ) -> EmbeddingResult<Vec<TowerOutput>> {
        let lengths: Vec<usize> = items.iter().map(|it| it.ids.len()).collect();
        self.check_lengths(&lengths)?;
        let budget = self.budget(lengths.iter().copied().max().unwrap_or(0));
        let batches = close_batches(&lengths, budget, PackOrder::LongestFirst)?;
        let mut all: Vec<TowerOutput> = Vec::new();
        for batch in &batches {
            let part: Vec<PackItem<'_>> = batch.item_indexes.iter().map(|at| items[*at]).collect();
            let outputs = self.run_batch(build, &part, batch.token_count)?;
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

    fn run_batch(
        &mut self,
        build: &mut Build,
        items: &[PackItem<'_>],
        token_count: usize,
    ) -> EmbeddingResult<Vec<TowerOutput>> {
        let bucket = Bucket::smallest(&self.ladder, token_count, items.len()).ok_or(
            EmbeddingError::InternalError { place: "bucket of a closed batch", source: None },
        )?;
        self.ensure(build, bucket)?;
        self.scratch.pack(items, bucket, &self.form)?;
        let program = &self.programs[&bucket];
        let scratch = &self.scratch;
        let sequences = bucket.sequence_count;
        let inputs = [
            (program.ids, scratch.ids.as_slice()),
            (program.positions, scratch.positions.as_slice()),
            (program.types, scratch.types.as_slice()),
            (program.segment, scratch.segment.as_slice()),
            (program.lo, scratch.lo.as_slice()),
            (program.hi, scratch.hi.as_slice()),
            (program.seg_lo, &scratch.bounds[..sequences]),
            (program.seg_hi, &scratch.bounds[1..]),
        ];
        for (slot, values) in inputs {
            if let Some(slot) = slot {
                let bytes = bytemuck::cast_slice(values);
                build.write(program.id, slot, bytes).map_err(device_error)?;
            }
        }
        let live = [token_count as u32, items.len() as u32];
        build.run(program.id, &live, RUN_DEADLINE).map_err(device_error)?;
        self.collect(build, bucket, items, token_count)
    }

    fn collect(
        &mut self,
        build: &mut Build,
        bucket: Bucket,
        items: &[PackItem<'_>],
        token_count: usize,
    ) -> EmbeddingResult<Vec<TowerOutput>> {
        let program = &self.programs[&bucket];
        let mut outputs = Vec::with_capacity(program.outputs.len());
        for output in &program.outputs {
            let row_count = if output.by_token { token_count } else { items.len() };
            let rows = &mut self.scratch.rows;
            rows.resize(row_count * output.row_len, 0.0);
            build
                .read(program.id, output.slot, bytemuck::cast_slice_mut(rows.as_mut_slice()))
                .map_err(device_error)?;
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

impl Scratch {
    fn pack(
        &mut self,
        items: &[PackItem<'_>],
        bucket: Bucket,
        form: &PackForm,
    ) -> EmbeddingResult<()> {
        let Bucket { token_count, sequence_count } = bucket;
        for buffer in [
            &mut self.ids,
            &mut self.positions,
            &mut self.types,
            &mut self.lo,
            &mut self.hi,
            &mut self.extra,
            &mut self.segment,
        ] {
            buffer.resize(token_count, 0);
        }
        self.bounds.resize(sequence_count + 1, 0);
        self.keep.resize(token_count, 0.0);
        pack(
            items,
            bucket,
            form,
            &mut PackBuffers {
                ids: &mut self.ids,
                positions: &mut self.positions,
                types: &mut self.types,
                lo: &mut self.lo,
                hi: &mut self.hi,
                extra: &mut self.extra,
                bounds: &mut self.bounds,
                keep: &mut self.keep,
            },
        )?;
        self.segment.fill(0);
        let mut start = 0;
        for (number, item) in items.iter().enumerate() {
            self.segment[start..start + item.ids.len()].fill(number as i32);
            start += item.ids.len();
        }
        Ok(())
    }
}
