//! The fusion on a device: gate, top-k and experts as one graph for each batch size.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use calor_ir::nn::{self, ExpertWeights, GateWeights};
use calor_ir::{CheckedGraph, DType, Graph, GraphError, Role, Type};
use calor_kernel::{Canonical, Digest};
use calor_runtime::{Build, Choices, LaneId, ProgramId, ProgramSpec, WeightSource};

use crate::embedding::{EXPERT_COUNT, FusedEmbedding, ResultFlags};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::fusion::{FuseMoeConfig, NORM_EPSILON};
use crate::tensor_file::{DigestRule, TensorFile};
use crate::tower::{device_error, graph_error};

/// Batch sizes that have a program.
const BATCH_SIZES: [usize; 4] = [1, 4, 16, 64];
const RUN_DEADLINE: Duration = Duration::from_secs(600);

/// A mixture of experts on a device.
#[derive(Debug)]
pub struct FuseMoE {
    config: FuseMoeConfig,
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
    /// wrote. The file is verified.
    ///
    /// # Errors
    /// [`EmbeddingError::SerializationError`] for a damaged file or one of other sizes.
    pub fn open(config: FuseMoeConfig, path: &Path, lane: LaneId) -> EmbeddingResult<Self> {
        config.validate()?;
        let file = TensorFile::open(path, DigestRule::Required)?;
        for tensor in config.tensors() {
            file.require(&tensor.shape)?;
        }
        let source = Arc::new(FusionFile { config, file });
        Ok(Self { config, source, lane, programs: HashMap::new() })
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
    pub fn release(&mut self, build: &mut Build) -> EmbeddingResult<()> {
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
        build: &mut Build,
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
            if let Some(index) = item.iter().position(|it| !it.is_finite()) {
                return Err(EmbeddingError::InvalidValue { index, value: item[index] });
            }
        }
        let mut out = Vec::with_capacity(items.len());
        let largest = BATCH_SIZES[BATCH_SIZES.len() - 1];
        for chunk in items.chunks(largest) {
            self.fuse_chunk(build, chunk, &mut out)?;
        }
        Ok(out)
    }

    fn fuse_chunk(
        &mut self,
        build: &mut Build,
        items: &[&[f32]],
        out: &mut Vec<FusedRow>,
    ) -> EmbeddingResult<()> {
        let size = BATCH_SIZES.into_iter().find(|it| items.len() <= *it).unwrap_or(items.len());
        let program = self.program(build, size)?;
        let FuseMoeConfig { output_len, top_k, .. } = self.config;
        let flat: Vec<f32> = items.concat();
        build.write(program.id, program.x, bytemuck::cast_slice(&flat)).map_err(device_error)?;
        build.run(program.id, &[items.len() as u32], RUN_DEADLINE).map_err(device_error)?;
        let mut vectors = vec![0.0_f32; items.len() * output_len];
        let mut weights = vec![0.0_f32; items.len() * EXPERT_COUNT];
        let mut chosen = vec![0_i32; items.len() * top_k];
        let id = program.id;
        let mut read = |slot, bytes: &mut [u8]| build.read(id, slot, bytes).map_err(device_error);
        read(program.fused, bytemuck::cast_slice_mut(&mut vectors))?;
        read(program.weights, bytemuck::cast_slice_mut(&mut weights))?;
        read(program.chosen, bytemuck::cast_slice_mut(&mut chosen))?;
        for item in 0..items.len() {
            let mut expert_weights = [0.0; EXPERT_COUNT];
            expert_weights.copy_from_slice(&weights[item * EXPERT_COUNT..][..EXPERT_COUNT]);
            out.push(FusedRow {
                vector: vectors[item * output_len..][..output_len].to_vec(),
                expert_weights,
                selected: chosen[item * top_k..][..top_k].iter().map(|it| *it as u8).collect(),
            });
        }
        Ok(())
    }

    fn program(&mut self, build: &mut Build, size: usize) -> EmbeddingResult<Program> {
        if let Some(program) = self.programs.get(&size) {
            return Ok(*program);
        }
        let graph = fusion_graph(&self.config, size).map_err(graph_error)?;
        let source: Arc<dyn WeightSource> = self.source.clone();
        let spec = ProgramSpec {
            label: "fusion",
            token_count_max: size as u32,
            sequence_count_max: size as u32,
            lane: self.lane,
            graph: &graph,
            source: Some(source),
            choices: &Choices::default(),
        };
        let id = build.program(&spec).map_err(device_error)?;
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
        Ok(program)
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
/// `expert_weights [size, 8]` and `selected i32 [size, k]`. Only the gate sees the norm of `x`.
///
/// # Errors
/// When the sizes do not fit together; validated ones do.
pub fn fusion_graph(config: &FuseMoeConfig, size: usize) -> Result<CheckedGraph, GraphError> {
    let FuseMoeConfig { input_len, hidden_len, output_len, top_k, .. } = *config;
    let mut g = Graph::new();
    let x = g.live_input("x", 0, Type::new(DType::F32, &[size, input_len]));
    let weight = |g: &mut Graph, name: &str, sizes: &[usize]| {
        g.input(name, Role::Weight, Type::new(DType::F32, sizes))
    };
    let gate = GateWeights {
        norm_w: weight(&mut g, "gating.layer_norm.weight", &[input_len]),
        norm_b: weight(&mut g, "gating.layer_norm.bias", &[input_len]),
        w: weight(&mut g, "gating.projection.weight", &[EXPERT_COUNT, input_len]),
        b: weight(&mut g, "gating.projection.bias", &[EXPERT_COUNT]),
    };
    let q = nn::gate(&mut g, x, &gate, config.temperature, config.smoothing)?;
    let [mixture, selected] = nn::top_k(&mut g, q, top_k)?;
    let e = EXPERT_COUNT;
    let experts = ExpertWeights {
        w1: weight(&mut g, "experts.input_proj.weight", &[e, hidden_len, input_len]),
        b1: weight(&mut g, "experts.input_proj.bias", &[e, hidden_len]),
        w2: weight(&mut g, "experts.output_proj.weight", &[e, output_len, hidden_len]),
        b2: weight(&mut g, "experts.output_proj.bias", &[e, output_len]),
    };
    let mut y = nn::experts(&mut g, x, mixture, &experts)?;
    if config.output_norm {
        let norm = weight(&mut g, "output_norm.weight", &[output_len]);
        let bias = weight(&mut g, "output_norm.bias", &[output_len]);
        y = nn::layer_norm(&mut g, y, norm, Some(bias), NORM_EPSILON)?;
    }
    if config.normalize {
        y = nn::l2_normalize(&mut g, y, crate::embedding::NORM_MIN)?;
    }
    g.output("fused", y);
    g.output("expert_weights", q);
    g.output("selected", selected);
    g.check()
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
