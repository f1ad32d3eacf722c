//! The fusion on a device: gate, top-k and experts as one graph for each batch size.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use calor_ir::nn::{self, ExpertWeights, GateWeights};
use calor_ir::{CheckedGraph, DType, Graph, GraphError, Role, Type, ValueId};
use calor_kernel::{Canonical, Digest};
use calor_runtime::{Build, ChannelId, Input, LaneId, Plan, ProgramId, ProgramSpec, WeightSource};

use crate::embedding::{EXPERT_COUNT, FusedEmbedding, ResultFlags, require_finite};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::fusion::{FuseMoeConfig, NORM_EPSILON};
use crate::model_id::{CONCATENATED_LEN, ModelId};
use crate::precision::InferencePrecision;
use crate::programs::Programs;
use crate::slots::slot_name;
use crate::tensor_file::{DigestRule, TensorFile};
use crate::tower::{RULE, device_error, graph_error};

/// Batch sizes that have a program.
pub(crate) const BATCH_SIZES: [usize; 5] = [1, 4, 16, 32, 64];

/// A mixture of experts on a device.
#[derive(Debug)]
pub struct FuseMoE {
    config: FuseMoeConfig,
    precision: InferencePrecision,
    source: Arc<FusionFile>,
    lane: LaneId,
    programs: HashMap<usize, Program>,
}

#[derive(Clone, Copy, Debug)]
struct Program {
    id: ProgramId,
    x: usize,
    fused: usize,
    weights: usize,
    chosen: usize,
}

/// One fused item: vector, expert weights, chosen experts.
#[derive(Clone, Debug, PartialEq)]
pub struct FusedRow {
    /// `[1536]`.
    pub vector: Vec<f32>,
    /// All eight, sum 1.
    pub expert_weights: [f32; EXPERT_COUNT],
    /// In order of weight.
    pub selected: Vec<u8>,
}

impl FuseMoE {
    /// A fusion with the weights of a file that [`FuseMoeConfig::save_seeded`] or the trainer
    /// wrote. The file is verified. The experts run in the precision's type of rows; norm, gate and
    /// choice stay f32.
    ///
    /// # Errors
    /// [`EmbeddingError::SerializationError`] for a damaged file or one of other sizes.
    pub fn open(
        config: FuseMoeConfig,
        precision: InferencePrecision,
        path: &Path,
        lane: LaneId,
    ) -> EmbeddingResult<Self> {
        config.validate()?;
        let file = TensorFile::open(path, DigestRule::Required)?;
        for tensor in config.tensors() {
            file.require(&tensor.shape)?;
        }
        let source = Arc::new(FusionFile { config, file });
        Ok(Self { config, precision, source, lane, programs: HashMap::new() })
    }

    /// Sizes and choices.
    pub fn config(&self) -> &FuseMoeConfig {
        &self.config
    }

    /// Digest of the weights.
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.source.file.digest()
    }

    /// Removes every program; the next batch builds them anew.
    ///
    /// # Errors
    /// What the device says.
    pub fn release(&mut self, programs: &mut Programs) -> EmbeddingResult<()> {
        if self.programs.is_empty() {
            return Ok(());
        }
        let build = programs.to_build(|| "the fusion".into())?;
        let mut programs = self.programs.drain();
        programs.try_for_each(|(_, it)| build.remove(it.id).map_err(device_error))
    }

    /// The gate's smoothed weights and the mixtures of a batch.
    ///
    /// Shapes: each of `items` is `[8320]`.
    ///
    /// # Errors
    /// [`EmbeddingError::EmptyInput`] for no items, [`EmbeddingError::DimensionMismatch`] and
    /// [`EmbeddingError::InvalidValue`] for a bad one, and what the device says.
    pub fn fuse_batch(
        &mut self,
        programs: &mut Programs,
        items: &[&[f32]],
    ) -> EmbeddingResult<Vec<FusedRow>> {
        if items.is_empty() {
            return Err(EmbeddingError::EmptyInput { what: "batch" });
        }
        for item in items {
            if item.len() != self.config.input_len {
                return Err(EmbeddingError::DimensionMismatch {
                    what: "a concatenated embedding",
                    want_len: self.config.input_len,
                    got_len: item.len(),
                });
            }
            require_finite(item)?;
        }
        let mut out = Vec::with_capacity(items.len());
        let largest = BATCH_SIZES[BATCH_SIZES.len() - 1];
        for chunk in items.chunks(largest) {
            self.fuse_chunk(programs, chunk, &mut out)?;
        }
        Ok(out)
    }

    fn fuse_chunk(
        &mut self,
        programs: &mut Programs,
        items: &[&[f32]],
        out: &mut Vec<FusedRow>,
    ) -> EmbeddingResult<()> {
        let size = BATCH_SIZES.into_iter().find(|it| items.len() <= *it).unwrap_or(items.len());
        self.ensure(programs, size)?;
        let Program { id, x, fused, weights, chosen } = self.programs[&size];
        let FuseMoeConfig { output_len, top_k, .. } = self.config;
        let flat: Vec<f32> = items.concat();
        let bytes = bytemuck::cast_slice(&flat);
        programs.run(id, &[Input { part: 0, slot: x, bytes }], &[&[items.len() as u32]])?;
        let mut vectors = vec![0.0_f32; items.len() * output_len];
        let mut shares = vec![0.0_f32; items.len() * EXPERT_COUNT];
        let mut indices = vec![0_i32; items.len() * top_k];
        programs.read(id, 0, fused, &mut vectors)?;
        programs.read(id, 0, weights, &mut shares)?;
        programs.read(id, 0, chosen, &mut indices)?;
        for item in 0..items.len() {
            let mut expert_weights = [0.0; EXPERT_COUNT];
            expert_weights.copy_from_slice(&shares[item * EXPERT_COUNT..][..EXPERT_COUNT]);
            out.push(FusedRow {
                vector: vectors[item * output_len..][..output_len].to_vec(),
                expert_weights,
                selected: indices[item * top_k..][..top_k].iter().map(|it| *it as u8).collect(),
            });
        }
        Ok(())
    }

    fn ensure(&mut self, programs: &mut Programs, size: usize) -> EmbeddingResult<()> {
        if self.programs.contains_key(&size) {
            return Ok(());
        }
        let build = programs.to_build(|| format!("the fusion of {size} items"))?;
        let graph = self.graph(size)?;
        let spec = self.program_spec(size, self.lane, &graph, &[]);
        let id = build.program(&spec).map_err(device_error)?;
        self.add(build, size, id)
    }

    /// The graph for `size` items that lie side by side already.
    pub(crate) fn graph(&self, size: usize) -> EmbeddingResult<CheckedGraph> {
        fusion_graph(&self.config, size, self.precision.rows()).map_err(graph_error)
    }

    /// The graph for `size` items whose slots lie apart.
    pub(crate) fn slot_graph(&self, size: usize) -> EmbeddingResult<CheckedGraph> {
        slot_fusion_graph(&self.config, size, self.precision.rows()).map_err(graph_error)
    }

    /// What the program of a graph is to be.
    pub(crate) fn program_spec<'a>(
        &'a self,
        size: usize,
        lane: LaneId,
        graph: &'a CheckedGraph,
        channels: &'a [(&'a str, ChannelId)],
    ) -> ProgramSpec<'a> {
        let source: Arc<dyn WeightSource> = self.source.clone();
        ProgramSpec {
            label: "fusion",
            token_count_max: size as u32,
            sequence_count_max: size as u32,
            lane,
            graph,
            source: Some(source),
            choices: &RULE,
            channels,
        }
    }

    /// Takes over the program for `size` items.
    pub(crate) fn add(&mut self, build: &Build, size: usize, id: ProgramId) -> EmbeddingResult<()> {
        let plan = build.plan(id);
        let missing = || EmbeddingError::InternalError { place: "fusion plan", source: None };
        let program = Program {
            id,
            x: plan.input_index("x").ok_or_else(missing)?,
            fused: plan.output_index("fused").ok_or_else(missing)?,
            weights: plan.output_index("expert_weights").ok_or_else(missing)?,
            chosen: plan.output_index("selected").ok_or_else(missing)?,
        };
        self.programs.insert(size, program);
        Ok(())
    }

    /// Where the gate looks for an expert: what a vector of slots has to be like for the gate to
    /// give that expert the most. `[8320]`, of no particular length.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn gate_row(&self, expert: usize) -> EmbeddingResult<Vec<f32>> {
        let len = self.config.input_len;
        let (mut row, mut gain) = (vec![0.0; len], vec![0.0; len]);
        self.source.file.read("gating.projection.weight", expert * len, &mut row)?;
        self.source.file.read("gating.layer_norm.weight", 0, &mut gain)?;
        row.iter_mut().zip(&gain).for_each(|(row, gain)| *row *= gain);
        Ok(row)
    }

    /// How the rows that a plan of [`FuseMoE::slot_graph`] leaves are read.
    pub(crate) fn rows(&self) -> FusedRows {
        FusedRows { output_len: self.config.output_len, top_k: self.config.top_k }
    }
}

/// Rows that a plan of [`FuseMoE::slot_graph`] leaves, one for each item.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FusedRows {
    output_len: usize,
    top_k: usize,
}

impl FusedRows {
    /// A row's parts: the slots, and what the fusion made of them.
    ///
    /// # Errors
    /// [`EmbeddingError::InvalidValue`] for a number that is not finite.
    pub(crate) fn split<'a>(&self, row: &'a [f32]) -> EmbeddingResult<(&'a [f32], FusedRow)> {
        require_finite(row)?;
        let (slots, rest) = row.split_at(CONCATENATED_LEN);
        let (vector, rest) = rest.split_at(self.output_len);
        let (shares, chosen) = rest.split_at(EXPERT_COUNT);
        let mut expert_weights = [0.0; EXPERT_COUNT];
        expert_weights.copy_from_slice(shares);
        let selected = chosen.iter().map(|it| *it as u8).collect();
        Ok((slots, FusedRow { vector: vector.to_vec(), expert_weights, selected }))
    }

    /// Elements of a row.
    pub(crate) fn row_len(&self) -> usize {
        CONCATENATED_LEN + self.output_len + EXPERT_COUNT + self.top_k
    }
}

/// Where the inputs and the output of a plan of [`FuseMoE::slot_graph`] are.
#[derive(Clone, Debug)]
pub(crate) struct SlotFusion {
    /// Slot of each model's input.
    pub(crate) inputs: Vec<(ModelId, usize)>,
    pub(crate) result: usize,
}

impl SlotFusion {
    pub(crate) fn of(plan: &Plan) -> EmbeddingResult<Self> {
        let missing = || EmbeddingError::InternalError { place: "fusion plan", source: None };
        let input = |model: ModelId| {
            let slot = plan.input_index(&slot_name(model)).ok_or_else(missing)?;
            Ok((model, slot))
        };
        let inputs = ModelId::iter().map(input).collect::<EmbeddingResult<_>>()?;
        Ok(Self { inputs, result: plan.output_index("result").ok_or_else(missing)? })
    }
}

impl FusedRow {
    /// The result as it is handed out.
    pub fn into_embedding(
        self,
        content_hash: u64,
        pipeline_latency_us: u64,
        flags: ResultFlags,
    ) -> FusedEmbedding {
        FusedEmbedding {
            vector: self.vector,
            expert_weights: self.expert_weights,
            selected_experts: self.selected,
            pipeline_latency_us,
            content_hash,
            aux_data: None,
            flags,
        }
    }
}

/// The graph of the fusion for `size` items: input `x [size, 8320]`, outputs `fused`,
/// `expert_weights [size, 8]` and `selected i32 [size, k]`. Only the gate sees the norm of `x`, and
/// only the experts are in `dtype`.
///
/// # Errors
/// When the sizes do not fit together; validated ones do.
pub fn fusion_graph(
    config: &FuseMoeConfig,
    size: usize,
    dtype: DType,
) -> Result<CheckedGraph, GraphError> {
    let mut g = Graph::new();
    let x = g.live_input("x", 0, Type::new(DType::F32, &[size, config.input_len]));
    let Mixed { fused, shares, selected } = mix(&mut g, config, x, dtype)?;
    g.output("fused", fused);
    g.output("expert_weights", shares);
    g.output("selected", selected);
    g.check()
}

/// As [`fusion_graph`], of twelve unit slots that are inputs of their own, `slot.<model>`. The
/// output `result [size, 8320 + 1536 + 8 + k]` has all of an item in one row: slots, vector,
/// expert weights, and the chosen experts as numbers.
///
/// # Errors
/// As [`fusion_graph`].
pub fn slot_fusion_graph(
    config: &FuseMoeConfig,
    size: usize,
    dtype: DType,
) -> Result<CheckedGraph, GraphError> {
    let mut g = Graph::new();
    let mut slots = Vec::new();
    for model in ModelId::iter() {
        let ty = Type::new(DType::F32, &[size, model.slot_dimension()]);
        slots.push(g.live_input(&slot_name(model), 0, ty));
    }
    let x = g.concat(1, &slots)?;
    let Mixed { fused, shares, selected } = mix(&mut g, config, x, dtype)?;
    let selected = g.cast(selected, DType::F32)?;
    let result = g.concat(1, &[x, fused, shares, selected])?;
    g.output("result", result);
    g.check()
}

/// What the fusion makes of a concatenation.
struct Mixed {
    fused: ValueId,
    shares: ValueId,
    selected: ValueId,
}

fn mix(
    g: &mut Graph,
    config: &FuseMoeConfig,
    x: ValueId,
    dtype: DType,
) -> Result<Mixed, GraphError> {
    let FuseMoeConfig { input_len, hidden_len, output_len, top_k, .. } = *config;
    let weight = |g: &mut Graph, name: &str, sizes: &[usize]| {
        g.input(name, Role::Weight, Type::new(DType::F32, sizes))
    };
    let gate = GateWeights {
        norm_w: weight(g, "gating.layer_norm.weight", &[input_len]),
        norm_b: weight(g, "gating.layer_norm.bias", &[input_len]),
        w: weight(g, "gating.projection.weight", &[EXPERT_COUNT, input_len]),
        b: weight(g, "gating.projection.bias", &[EXPERT_COUNT]),
    };
    let shares = nn::gate(g, x, &gate, config.temperature, config.smoothing)?;
    let [mixture, selected] = nn::top_k(g, shares, top_k)?;
    let e = EXPERT_COUNT;
    let mut of_experts = |name: &str, sizes: &[usize]| {
        let exact = weight(g, name, sizes);
        g.cast(exact, dtype)
    };
    let experts = ExpertWeights {
        w1: of_experts("experts.input_proj.weight", &[e, hidden_len, input_len])?,
        b1: of_experts("experts.input_proj.bias", &[e, hidden_len])?,
        w2: of_experts("experts.output_proj.weight", &[e, output_len, hidden_len])?,
        b2: of_experts("experts.output_proj.bias", &[e, output_len])?,
    };
    let rows = g.cast(x, dtype)?;
    let fused = nn::experts(g, rows, mixture, &experts)?;
    let mut fused = g.cast(fused, DType::F32)?;
    if config.output_norm {
        let norm = weight(g, "output_norm.weight", &[output_len]);
        let bias = weight(g, "output_norm.bias", &[output_len]);
        fused = nn::layer_norm(g, fused, norm, Some(bias), NORM_EPSILON)?;
    }
    if config.normalize {
        fused = nn::l2_normalize(g, fused, crate::embedding::NORM_MIN)?;
    }
    Ok(Mixed { fused, shares, selected })
}

/// A file of fusion weights. The experts' tensors are read as one stack of eight.
#[derive(Debug)]
struct FusionFile {
    config: FuseMoeConfig,
    file: TensorFile,
}

impl WeightSource for FusionFile {
    fn identity(&self) -> Digest {
        let mut out = Canonical::new("fusion", 1);
        out.bytes(&self.file.digest().unwrap_or_default());
        Digest::of(&out.finish())
    }

    fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let FuseMoeConfig { input_len, hidden_len, output_len, .. } = self.config;
        let Some(part) = name.strip_prefix("experts.") else {
            return Ok(self.file.read(name, first, out)?);
        };
        let each = match part {
            "input_proj.weight" => hidden_len * input_len,
            "input_proj.bias" => hidden_len,
            "output_proj.weight" => output_len * hidden_len,
            _ => output_len,
        };
        let mut done = 0;
        while done < out.len() {
            let at = first + done;
            let (expert, inside) = (at / each, at % each);
            let count = (each - inside).min(out.len() - done);
            let stored = format!("experts.{expert}.{part}");
            self.file.read(&stored, inside, &mut out[done..done + count])?;
            done += count;
        }
        Ok(())
    }
}
