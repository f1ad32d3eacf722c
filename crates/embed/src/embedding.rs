//! Results: a model's vector, the twelve slots side by side, the fused vector and its record,
//! sparse vectors and token matrices.
//!
//! Holds values and the slot rule. Knows nothing about how a vector was computed.

mod missing;
mod norms;

use crate::error::{EmbeddingError, EmbeddingResult, FormatFault};
use crate::model_id::{CONCATENATED_LEN, FUSED_LEN, MODEL_COUNT, ModelId};
pub use missing::MissingModels;
use norms::scale_to_norm;
pub use norms::{cosine, l2_norm, normalize_l2};

/// Below this norm a vector has no direction and stays, or becomes, zero.
pub const NORM_MIN: f64 = 1e-8;

/// How far from 1 the norm of a filled slot may be.
pub const UNIT_TOLERANCE: f64 = 1e-6;

/// Experts of the fusion.
pub const EXPERT_COUNT: usize = 8;

/// One model's vector of one input.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelEmbedding {
    /// Who made it.
    pub model_id: ModelId,
    /// `[slot]` when projected, `[native]` otherwise.
    pub vector: Vec<f32>,
    /// From the start of the model to the vector, in microseconds.
    pub latency_us: u64,
    /// Attention of the pooled token, where a model reports it: `[tokens]`.
    pub attention_weights: Option<Vec<f32>>,
    /// Whether the vector already has the slot's length.
    pub is_projected: bool,
}

impl ModelEmbedding {
    /// A vector of the slot's length.
    ///
    /// # Errors
    /// As [`ModelEmbedding::validate`].
    pub fn projected(
        model_id: ModelId,
        vector: Vec<f32>,
        latency_us: u64,
    ) -> EmbeddingResult<Self> {
        let it = Self { model_id, vector, latency_us, attention_weights: None, is_projected: true };
        it.validate()?;
        Ok(it)
    }

    /// Checks length and values.
    ///
    /// # Errors
    /// [`EmbeddingError::DimensionMismatch`]; [`EmbeddingError::InvalidValue`] at the first
    /// element that is not finite.
    pub fn validate(&self) -> EmbeddingResult<()> {
        let want_len = if self.is_projected {
            self.model_id.slot_dimension()
        } else {
            self.model_id.native_dimension()
        };
        require_len(self.model_id.as_str(), want_len, self.vector.len())?;
        require_finite(&self.vector)
    }

    /// Euclidean norm, summed in f64.
    pub fn l2_norm(&self) -> f64 {
        l2_norm(&self.vector)
    }

    /// Scales to norm 1; a vector without direction becomes zero.
    pub fn normalize(&mut self) {
        normalize_l2(&mut self.vector);
    }

    /// Whether the norm is 1 within [`UNIT_TOLERANCE`]. Measured, not remembered.
    pub fn is_normalized(&self) -> bool {
        (self.l2_norm() - 1.0).abs() <= UNIT_TOLERANCE
    }

    /// Cosine with a vector of the same model; 0 where one has no direction.
    ///
    /// # Errors
    /// [`EmbeddingError::DimensionMismatch`] for different lengths.
    pub fn cosine_similarity(&self, other: &Self) -> EmbeddingResult<f64> {
        require_len("the other embedding", self.vector.len(), other.vector.len())?;
        Ok(cosine(&self.vector, &other.vector))
    }
}

/// How one slot is brought to scale before concatenation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SlotNorm {
    /// Norm 1.
    L2Unit,
    /// Norm `scale`.
    L2Scaled {
        /// Norm afterwards; finite and positive.
        scale: f32,
    },
    /// Mean 0 and variance 1 over the slot's elements.
    ZScore,
    /// Elements from 0 to 1.
    MinMax,
    /// As it is.
    None,
}

/// The slot rule of all twelve models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlotRule {
    /// For models without an exception.
    pub default: SlotNorm,
    /// Exceptions, in slot order.
    pub exceptions: [Option<SlotNorm>; MODEL_COUNT],
}

impl SlotRule {
    /// Norm 1 for every model.
    pub const UNIT: Self = Self { default: SlotNorm::L2Unit, exceptions: [None; MODEL_COUNT] };

    /// Brings `vector` to scale. A vector without direction becomes zero under every strategy
    /// but [`SlotNorm::None`].
    ///
    /// # Errors
    /// [`EmbeddingError::ConfigError`] for a scale that is not finite and positive.
    pub fn apply(&self, model_id: ModelId, vector: &mut [f32]) -> EmbeddingResult<()> {
        match self.exceptions[model_id.index()].unwrap_or(self.default) {
            SlotNorm::L2Unit => normalize_l2(vector),
            SlotNorm::L2Scaled { scale } => {
                if !(scale.is_finite() && 0.0 < scale) {
                    return Err(EmbeddingError::ConfigError {
                        field: "scale",
                        value: scale.to_string(),
                        want: "it must be finite and positive",
                    });
                }
                scale_to_norm(vector, f64::from(scale));
            }
            SlotNorm::ZScore => z_score(vector),
            SlotNorm::MinMax => min_max(vector),
            SlotNorm::None => {}
        }
        Ok(())
    }
}

/// The twelve slots of one input side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct ConcatenatedEmbedding {
    embeddings: [Option<ModelEmbedding>; MODEL_COUNT],
    concatenated: Vec<f32>,
    total_latency_us: u64,
    content_hash: u64,
}

impl ConcatenatedEmbedding {
    /// Other models that must be there beside E1 when not all are.
    pub const PARTIAL_OTHERS_MIN: usize = 6;

    /// Twelve empty slots for the input with this hash (see
    /// [`crate::input::ModelInput::content_hash`]).
    pub fn new(content_hash: u64) -> Self {
        Self {
            embeddings: [const { None }; MODEL_COUNT],
            concatenated: Vec::new(),
            total_latency_us: 0,
            content_hash,
        }
    }

    /// All twelve, under the unit rule. The hash of the input is set by
    /// [`ConcatenatedEmbedding::set_content_hash`].
    ///
    /// # Errors
    /// As [`ConcatenatedEmbedding::set`] and [`ConcatenatedEmbedding::concatenate`]; a missing
    /// model is an error.
    pub fn from_model_embeddings(embeddings: Vec<ModelEmbedding>) -> EmbeddingResult<Self> {
        let mut out = Self::new(0);
        for it in embeddings {
            out.set(it)?;
        }
        out.concatenate(&SlotRule::UNIT, MissingModels::Refuse)?;
        Ok(out)
    }

    /// Fills the slot of the embedding's model, replacing what was there. An earlier
    /// concatenation is dropped.
    ///
    /// # Errors
    /// [`EmbeddingError::DimensionMismatch`] unless the vector has the slot's length;
    /// [`EmbeddingError::InvalidValue`].
    pub fn set(&mut self, embedding: ModelEmbedding) -> EmbeddingResult<()> {
        let model_id = embedding.model_id;
        require_len(model_id.as_str(), model_id.slot_dimension(), embedding.vector.len())?;
        require_finite(&embedding.vector)?;
        self.concatenated.clear();
        self.embeddings[model_id.index()] = Some(embedding);
        self.total_latency_us = self.embeddings.iter().flatten().map(|it| it.latency_us).sum();
        Ok(())
    }

    /// The model's embedding as it was set.
    pub fn get(&self, model_id: ModelId) -> Option<&ModelEmbedding> {
        self.embeddings[model_id.index()].as_ref()
    }

    /// Whether all twelve are there.
    pub fn is_complete(&self) -> bool {
        self.filled_count() == MODEL_COUNT
    }

    /// How many are there.
    pub fn filled_count(&self) -> usize {
        self.embeddings.iter().flatten().count()
    }

    /// Models without a vector, in slot order.
    pub fn missing_models(&self) -> Vec<ModelId> {
        ModelId::iter().filter(|it| self.get(*it).is_none()).collect()
    }

    /// Writes the slots side by side, each under the slot rule; missing ones are zero.
    ///
    /// # Errors
    /// [`EmbeddingError::MissingModels`] as `missing` says; [`EmbeddingError::ConfigError`] for
    /// an impossible rule.
    pub fn concatenate(&mut self, rule: &SlotRule, missing: MissingModels) -> EmbeddingResult<()> {
        let model_ids = self.missing_models();
        if !missing.allows(|it| self.get(it).is_some()) {
            return Err(EmbeddingError::MissingModels { model_ids });
        }
        let mut out = vec![0.0; CONCATENATED_LEN];
        for it in self.embeddings.iter().flatten() {
            let slot = &mut out[it.model_id.slot_range()];
            slot.copy_from_slice(&it.vector);
            rule.apply(it.model_id, slot)?;
        }
        self.concatenated = out;
        Ok(())
    }

    /// The whole concatenation, `[8320]`; `None` before [`ConcatenatedEmbedding::concatenate`].
    pub fn as_slice(&self) -> Option<&[f32]> {
        (!self.concatenated.is_empty()).then_some(&self.concatenated[..])
    }

    /// The model's slot, `[slot]`; `None` before [`ConcatenatedEmbedding::concatenate`].
    pub fn get_slice(&self, model_id: ModelId) -> Option<&[f32]> {
        self.concatenated.get(model_id.slot_range())
    }

    /// Sum of the models' latencies, in microseconds.
    pub fn total_latency_us(&self) -> u64 {
        self.total_latency_us
    }

    /// Hash of the input.
    pub fn content_hash(&self) -> u64 {
        self.content_hash
    }

    /// Names the input.
    pub fn set_content_hash(&mut self, content_hash: u64) {
        self.content_hash = content_hash;
    }
}

/// What is special about a result without being wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResultFlags {
    /// Nobody named the time; the batch's was used.
    pub timestamp_defaulted: bool,
    /// Text was cut.
    pub truncated: bool,
    /// Models are missing.
    pub partial: bool,
    /// A model took longer than its budget.
    pub latency_exceeded: bool,
    /// A model ran in another precision than was asked, as the user allowed.
    pub precision_fallback: bool,
}

impl ResultFlags {
    const BIT_COUNT: u32 = 5;

    pub(crate) fn to_bits(self) -> u8 {
        let Self { timestamp_defaulted, truncated, partial, latency_exceeded, precision_fallback } =
            self;
        [timestamp_defaulted, truncated, partial, latency_exceeded, precision_fallback]
            .iter()
            .enumerate()
            .map(|(bit, it)| u8::from(*it) << bit)
            .sum()
    }

    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        if bits >> Self::BIT_COUNT != 0 {
            return None;
        }
        let bit = |index: u32| bits >> index & 1 == 1;
        Some(Self {
            timestamp_defaulted: bit(0),
            truncated: bit(1),
            partial: bit(2),
            latency_exceeded: bit(3),
            precision_fallback: bit(4),
        })
    }
}

/// The fused vector of one input.
#[derive(Clone, Debug, PartialEq)]
pub struct FusedEmbedding {
    /// `[1536]`.
    pub vector: Vec<f32>,
    /// The gate's smoothed probability of each expert; their sum is 1.
    pub expert_weights: [f32; EXPERT_COUNT],
    /// The experts that were mixed, largest weight first.
    pub selected_experts: Vec<u8>,
    /// From input to vector, in microseconds.
    pub pipeline_latency_us: u64,
    /// Hash of the input.
    pub content_hash: u64,
    /// Token vectors of E12, where they were asked for.
    pub aux_data: Option<TokenMatrix>,
    /// What is special about it.
    pub flags: ResultFlags,
}

impl FusedEmbedding {
    /// Bump when the bytes of a record change meaning.
    pub const RECORD_VERSION: u16 = 1;
    const MAGIC: [u8; 4] = *b"CALF";
    const HEADER_BYTES: usize = 8;

    /// Checks lengths, values, weights and the selection.
    ///
    /// # Errors
    /// [`EmbeddingError::DimensionMismatch`], [`EmbeddingError::InvalidValue`], or
    /// [`EmbeddingError::InvalidExpertIndex`] for an expert that is not there, named twice or
    /// out of order, and for an empty selection.
    pub fn validate(&self) -> EmbeddingResult<()> {
        require_len("fused vector", FUSED_LEN, self.vector.len())?;
        require_finite(&self.vector)?;
        require_finite(&self.expert_weights)?;
        if let Some(index) = self.expert_weights.iter().position(|it| *it < 0.0) {
            return Err(EmbeddingError::InvalidValue { index, value: self.expert_weights[index] });
        }
        let sum: f32 = self.expert_weights.iter().sum();
        if 0.01 < (sum - 1.0).abs() {
            return Err(EmbeddingError::InvalidValue { index: EXPERT_COUNT, value: sum });
        }
        if self.selected_experts.is_empty() {
            return Err(EmbeddingError::EmptyInput { what: "expert selection" });
        }
        let mut before: Option<usize> = None;
        for expert_index in self.selected_experts.iter().map(|it| usize::from(*it)) {
            let in_order = expert_index < EXPERT_COUNT
                && before.is_none_or(|it| {
                    let (high, low) = (self.expert_weights[it], self.expert_weights[expert_index]);
                    low < high || (low == high && it < expert_index)
                });
            if !in_order {
                return Err(EmbeddingError::InvalidExpertIndex {
                    expert_index,
                    expert_count: EXPERT_COUNT,
                });
            }
            before = Some(expert_index);
        }
        Ok(())
    }

    /// The record of this embedding, little-endian: magic (4), version (2), flags (1), k (1);
    /// vector (6144), expert weights (32), k expert numbers, latency (8), hash (8), length of
    /// the auxiliary data in bytes (4), the auxiliary data (row length as u32, then its
    /// elements). 8 + 6196 + k bytes without auxiliary data.
    ///
    /// # Errors
    /// As [`FusedEmbedding::validate`]; [`EmbeddingError::InputTooLong`] for auxiliary data
    /// beyond 4 GiB.
    pub fn to_bytes(&self) -> EmbeddingResult<Vec<u8>> {
        self.validate()?;
        let aux_len = self.aux_data.as_ref().map_or(0, |it| 4 + 4 * it.data.len());
        let aux_bytes = u32::try_from(aux_len).map_err(|_| EmbeddingError::InputTooLong {
            got_len: aux_len,
            limit_max: u32::MAX as usize,
            unit: crate::error::LengthUnit::Bytes,
        })?;

        let mut out = Vec::with_capacity(Self::HEADER_BYTES + 6196 + EXPERT_COUNT + aux_len);
        out.extend(Self::MAGIC);
        out.extend(Self::RECORD_VERSION.to_le_bytes());
        out.push(self.flags.to_bits());
        out.push(self.selected_experts.len() as u8);
        put_f32(&mut out, &self.vector);
        put_f32(&mut out, &self.expert_weights);
        out.extend(&self.selected_experts);
        out.extend(self.pipeline_latency_us.to_le_bytes());
        out.extend(self.content_hash.to_le_bytes());
        out.extend(aux_bytes.to_le_bytes());
        if let Some(it) = &self.aux_data {
            out.extend((it.dim as u32).to_le_bytes());
            put_f32(&mut out, &it.data);
        }
        Ok(out)
    }

    /// Reads [`FusedEmbedding::to_bytes`]; every byte must be accounted for.
    ///
    /// # Errors
    /// [`EmbeddingError::SerializationError`] for bytes that are no such record.
    pub fn from_bytes(bytes: &[u8]) -> EmbeddingResult<Self> {
        let mut reader = Reader { rest: bytes, total_bytes: bytes.len() as u64 };
        if reader.array::<4>()? != Self::MAGIC {
            return Err(bad_record(FormatFault::Magic));
        }
        let version = u16::from_le_bytes(reader.array()?);
        if version != Self::RECORD_VERSION {
            return Err(bad_record(FormatFault::Version { got: u32::from(version) }));
        }
        let [flag_bits, k] = reader.array()?;
        let flags = ResultFlags::from_bits(flag_bits).ok_or_else(|| bad_field("flags"))?;
        if EXPERT_COUNT < usize::from(k) {
            return Err(bad_field("k"));
        }
        let vector = reader.f32s(FUSED_LEN)?;
        let mut expert_weights = [0.0; EXPERT_COUNT];
        expert_weights.copy_from_slice(&reader.f32s(EXPERT_COUNT)?);
        let selected_experts = reader.bytes(usize::from(k))?.to_vec();
        let pipeline_latency_us = u64::from_le_bytes(reader.array()?);
        let content_hash = u64::from_le_bytes(reader.array()?);
        let aux_bytes = u32::from_le_bytes(reader.array()?) as usize;
        let mut aux = Reader { rest: reader.bytes(aux_bytes)?, total_bytes: aux_bytes as u64 };
        if !reader.rest.is_empty() {
            let want_bytes = (bytes.len() - reader.rest.len()) as u64;
            let got_bytes = bytes.len() as u64;
            return Err(bad_record(FormatFault::Length { want_bytes, got_bytes }));
        }
        let aux_data = if aux_bytes == 0 {
            None
        } else {
            let dim = u32::from_le_bytes(aux.array()?) as usize;
            if !aux.rest.len().is_multiple_of(4) {
                return Err(bad_field("auxiliary data"));
            }
            let data = aux.f32s(aux.rest.len() / 4)?;
            Some(TokenMatrix::new(data, dim).map_err(|_| bad_field("auxiliary data"))?)
        };
        let out = Self {
            vector,
            expert_weights,
            selected_experts,
            pipeline_latency_us,
            content_hash,
            aux_data,
            flags,
        };
        out.validate().map_err(|_| bad_field("values"))?;
        Ok(out)
    }
}

/// A vector of which most elements are zero.
///
/// Indices rise strictly and values are finite.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SparseVector {
    indices: Vec<u32>,
    values: Vec<f32>,
}

impl SparseVector {
    /// From indices that rise strictly and as many values.
    ///
    /// # Errors
    /// [`EmbeddingError::DimensionMismatch`] for different lengths;
    /// [`EmbeddingError::InvalidValue`] for a value that is not finite, and at the first index
    /// that does not rise.
    pub fn new(indices: Vec<u32>, values: Vec<f32>) -> EmbeddingResult<Self> {
        require_len("values of a sparse vector", indices.len(), values.len())?;
        require_finite(&values)?;
        if let Some(before) = indices.windows(2).position(|it| it[1] <= it[0]) {
            let index = before + 1;
            return Err(EmbeddingError::InvalidValue { index, value: indices[index] as f32 });
        }
        Ok(Self { indices, values })
    }

    /// The elements of `dense` that are not zero.
    ///
    /// # Errors
    /// [`EmbeddingError::InvalidValue`] for an element that is not finite;
    /// [`EmbeddingError::InvalidDimension`] beyond `u32` indices.
    pub fn from_dense(dense: &[f32]) -> EmbeddingResult<Self> {
        require_finite(dense)?;
        let got_len = dense.len();
        if u32::try_from(got_len).is_err() {
            return Err(EmbeddingError::InvalidDimension { what: "sparse vector", got_len });
        }
        let filled = dense.iter().enumerate().filter(|(_, value)| **value != 0.0);
        let (indices, values) = filled.map(|(index, value)| (index as u32, *value)).unzip();
        Ok(Self { indices, values })
    }

    /// Places of the elements, rising.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// The elements.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// How many elements are stored.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Inner product, in f64.
    pub fn dot(&self, other: &Self) -> f64 {
        let (mut a, mut b, mut sum) = (0, 0, 0.0);
        while a < self.len() && b < other.len() {
            match self.indices[a].cmp(&other.indices[b]) {
                std::cmp::Ordering::Less => a += 1,
                std::cmp::Ordering::Greater => b += 1,
                std::cmp::Ordering::Equal => {
                    sum += f64::from(self.values[a]) * f64::from(other.values[b]);
                    a += 1;
                    b += 1;
                }
            }
        }
        sum
    }
}

/// One vector a token, `[tokens, dim]`, at least one token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenMatrix {
    data: Vec<f32>,
    dim: usize,
}

impl TokenMatrix {
    /// From rows one after another.
    ///
    /// Shapes: `data: [tokens, dim]`.
    ///
    /// # Errors
    /// [`EmbeddingError::InvalidDimension`] for rows of no or over 65,536 elements;
    /// [`EmbeddingError::EmptyInput`] without rows; [`EmbeddingError::DimensionMismatch`] for a
    /// broken last row; [`EmbeddingError::InvalidValue`].
    pub fn new(data: Vec<f32>, dim: usize) -> EmbeddingResult<Self> {
        if dim == 0 || 1 << 16 < dim {
            return Err(EmbeddingError::InvalidDimension { what: "token vector", got_len: dim });
        }
        if data.is_empty() {
            return Err(EmbeddingError::EmptyInput { what: "token matrix" });
        }
        let want_len = data.len().next_multiple_of(dim);
        require_len("token matrix", want_len, data.len())?;
        require_finite(&data)?;
        Ok(Self { data, dim })
    }

    /// Elements of one token's vector.
    pub fn dimension(&self) -> usize {
        self.dim
    }

    /// How many tokens.
    pub fn token_count(&self) -> usize {
        self.data.len() / self.dim
    }

    /// All rows, `[tokens, dim]`.
    pub fn as_slice(&self) -> &[f32] {
        &self.data
    }

    /// The tokens' vectors.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.data.chunks_exact(self.dim)
    }

    /// MaxSim with `self` as the query: the sum over its tokens of the largest inner product
    /// with a token of `document`. Not symmetric.
    ///
    /// # Errors
    /// [`EmbeddingError::DimensionMismatch`] for different row lengths.
    pub fn max_sim(&self, document: &Self) -> EmbeddingResult<f64> {
        require_len("document token", self.dim, document.dim)?;
        let best = |q: &[f32]| document.rows().map(|d| dot(q, d)).fold(f32::MIN, f32::max);
        Ok(self.rows().map(|q| f64::from(best(q))).sum())
    }

    /// The slot vector: the mean of the rows, scaled to norm 1. Shape `[dim]`.
    pub fn mean_unit(&self) -> Vec<f32> {
        let mut sums = vec![0.0_f64; self.dim];
        for row in self.rows() {
            for (sum, it) in sums.iter_mut().zip(row) {
                *sum += f64::from(*it);
            }
        }
        let count = self.token_count() as f64;
        let mut mean: Vec<f32> = sums.iter().map(|it| (it / count) as f32).collect();
        normalize_l2(&mut mean);
        mean
    }
}

/// Inner product in f32, in eight running sums so that the order is fixed and the compiler may
/// use vector registers.
///
/// # Panics
/// When the lengths differ: that is a bug in the caller.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());

    const LANES: usize = 8;
    let mut sums = [0.0_f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// Refuses the first element that is not finite.
pub(crate) fn require_finite(vector: &[f32]) -> EmbeddingResult<()> {
    // Without a way out in the middle many are looked at together.
    if vector.iter().fold(true, |all, it| all & it.is_finite()) {
        return Ok(());
    }
    match vector.iter().position(|it| !it.is_finite()) {
        None => Ok(()),
        Some(index) => Err(EmbeddingError::InvalidValue { index, value: vector[index] }),
    }
}

/// Refuses another length than the one that is needed.
pub(crate) fn require_len(
    what: &'static str,
    want_len: usize,
    got_len: usize,
) -> EmbeddingResult<()> {
    if want_len == got_len {
        Ok(())
    } else {
        Err(EmbeddingError::DimensionMismatch { what, want_len, got_len })
    }
}

fn z_score(vector: &mut [f32]) {
    let count = vector.len() as f64;
    let mean = vector.iter().map(|it| f64::from(*it)).sum::<f64>() / count;
    let variance = vector.iter().map(|it| (f64::from(*it) - mean).powi(2)).sum::<f64>() / count;
    let deviation = variance.sqrt();
    if deviation < NORM_MIN {
        vector.fill(0.0);
        return;
    }
    for it in vector {
        *it = ((f64::from(*it) - mean) / deviation) as f32;
    }
}

fn min_max(vector: &mut [f32]) {
    let low = vector.iter().fold(f64::MAX, |low, it| low.min(f64::from(*it)));
    let high = vector.iter().fold(f64::MIN, |high, it| high.max(f64::from(*it)));
    if high - low < NORM_MIN {
        vector.fill(0.0);
        return;
    }
    for it in vector {
        *it = ((f64::from(*it) - low) / (high - low)) as f32;
    }
}

pub(crate) fn put_f32(out: &mut Vec<u8>, values: &[f32]) {
    for it in values {
        out.extend(it.to_le_bytes());
    }
}

/// Bytes of a record, from the front.
pub(crate) struct Reader<'a> {
    pub(crate) rest: &'a [u8],
    pub(crate) total_bytes: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> EmbeddingResult<&'a [u8]> {
        let Some((head, rest)) = self.rest.split_at_checked(len) else {
            let read_bytes = self.total_bytes - self.rest.len() as u64;
            let want_bytes = read_bytes + len as u64;
            let got_bytes = self.total_bytes;
            return Err(bad_record(FormatFault::Length { want_bytes, got_bytes }));
        };
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> EmbeddingResult<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    pub(crate) fn f32s(&mut self, len: usize) -> EmbeddingResult<Vec<f32>> {
        let bytes = self.bytes(4 * len)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it)).collect())
    }
}

fn bad_record(fault: FormatFault) -> EmbeddingError {
    EmbeddingError::SerializationError { what: "fused embedding record".to_owned(), fault }
}

fn bad_field(name: &'static str) -> EmbeddingError {
    bad_record(FormatFault::Field { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(len: usize, salt: usize) -> Vec<f32> {
        (0..len).map(|it| ((it * 37 + salt * 11) % 101) as f32 - 50.0).collect()
    }

    fn embedding(model_id: ModelId) -> ModelEmbedding {
        let vector = ramp(model_id.slot_dimension(), model_id.index());
        ModelEmbedding::projected(model_id, vector, 10).unwrap()
    }

    #[test]
    fn twelve_slots_are_unit_and_in_place() {
        let all =
            ConcatenatedEmbedding::from_model_embeddings(ModelId::iter().map(embedding).collect())
                .unwrap();
        assert!(all.is_complete());
        assert_eq!(all.total_latency_us(), 120);
        assert_eq!(all.as_slice().unwrap().len(), CONCATENATED_LEN);
        for model_id in ModelId::iter() {
            let slot = all.get_slice(model_id).unwrap();
            assert!((l2_norm(slot) - 1.0).abs() <= UNIT_TOLERANCE, "{model_id}");
            let want = &all.as_slice().unwrap()[model_id.slot_range()];
            assert_eq!(slot, want);
            assert!((cosine(slot, &all.get(model_id).unwrap().vector) - 1.0).abs() < 1e-6);
        }
    }

    #[track_caller]
    fn check_partial(filled: &[usize], missing: MissingModels, want_ok: bool) {
        let mut some = ConcatenatedEmbedding::new(7);
        for index in filled {
            some.set(embedding(ModelId::ALL[*index])).unwrap();
        }
        let got = some.concatenate(&SlotRule::UNIT, missing);
        assert_eq!(got.is_ok(), want_ok, "{filled:?}");
        match got {
            Ok(()) => {
                for model_id in some.missing_models() {
                    assert!(some.get_slice(model_id).unwrap().iter().all(|it| *it == 0.0));
                }
            }
            Err(EmbeddingError::MissingModels { model_ids }) => {
                assert_eq!(model_ids, some.missing_models());
                assert_eq!(some.as_slice(), None);
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn missing_models_are_an_error_or_listed_zeros() {
        check_partial(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], MissingModels::Refuse, false);
        check_partial(&[0, 1, 2, 3, 4, 5, 6], MissingModels::AllowPartial, true);
        check_partial(&[0, 1, 2, 3, 4, 5], MissingModels::AllowPartial, false);
        check_partial(&[1, 2, 3, 4, 5, 6, 7, 8], MissingModels::AllowPartial, false);
    }

    #[test]
    fn set_refuses_wrong_lengths_and_values_and_drops_the_old_concatenation() {
        let mut all =
            ConcatenatedEmbedding::from_model_embeddings(ModelId::iter().map(embedding).collect())
                .unwrap();
        let mut it = embedding(ModelId::Graph);
        it.vector[5] = f32::NAN;
        assert!(matches!(all.set(it.clone()), Err(EmbeddingError::InvalidValue { index: 5, .. })));
        it.vector.pop();
        assert!(matches!(
            all.set(it.clone()),
            Err(EmbeddingError::DimensionMismatch { want_len: 384, got_len: 383, .. })
        ));
        assert!(all.as_slice().is_some());
        all.set(embedding(ModelId::Graph)).unwrap();
        assert_eq!(all.as_slice(), None);
    }

    #[track_caller]
    fn check_rule(default: SlotNorm, vector: &[f32], want: &[f32]) {
        let mut got = vector.to_vec();
        let rule = SlotRule { default, exceptions: [None; MODEL_COUNT] };
        rule.apply(ModelId::Code, &mut got).unwrap();
        for (index, (got, want)) in got.iter().zip(want).enumerate() {
            assert!((got - want).abs() < 1e-6, "{default:?} of {vector:?} at {index}: {got}");
        }
    }

    #[test]
    fn strategies_of_the_slot_rule() {
        check_rule(SlotNorm::L2Unit, &[3.0, -4.0], &[0.6, -0.8]);
        check_rule(SlotNorm::L2Unit, &[0.0, 0.0], &[0.0, 0.0]);
        check_rule(SlotNorm::L2Unit, &[1e-9, 0.0], &[0.0, 0.0]);
        check_rule(SlotNorm::L2Unit, &[3e30, 4e30], &[0.6, 0.8]);
        check_rule(SlotNorm::L2Scaled { scale: 10.0 }, &[3.0, -4.0], &[6.0, -8.0]);
        check_rule(SlotNorm::ZScore, &[1.0, 3.0], &[-1.0, 1.0]);
        check_rule(SlotNorm::ZScore, &[2.0, 2.0], &[0.0, 0.0]);
        check_rule(SlotNorm::MinMax, &[1.0, 3.0, 2.0], &[0.0, 1.0, 0.5]);
        check_rule(SlotNorm::None, &[1.0, 3.0], &[1.0, 3.0]);
        let mut exceptions = [None; MODEL_COUNT];
        exceptions[ModelId::Code.index()] = Some(SlotNorm::L2Scaled { scale: -1.0 });
        let rule = SlotRule { default: SlotNorm::None, exceptions };
        assert!(rule.apply(ModelId::Code, &mut [1.0]).is_err());
        assert!(rule.apply(ModelId::Graph, &mut [1.0]).is_ok());
    }

    fn fused(k: u8, aux: bool) -> FusedEmbedding {
        let matrix = || TokenMatrix::new(ramp(12, 1), 4).unwrap();
        FusedEmbedding {
            vector: ramp(FUSED_LEN, 3),
            expert_weights: [0.05, 0.3, 0.1, 0.1, 0.2, 0.05, 0.15, 0.05],
            selected_experts: [1, 4, 6, 2, 3, 0, 5, 7][..usize::from(k)].to_vec(),
            pipeline_latency_us: 1_234,
            content_hash: 0xDEAD_BEEF_0000_0001,
            aux_data: aux.then(matrix),
            flags: ResultFlags { truncated: true, precision_fallback: true, ..Default::default() },
        }
    }

    #[test]
    fn records_come_back_as_they_went() {
        for (k, aux, want_len) in [(2, false, 6206), (4, false, 6208), (8, true, 6212 + 52)] {
            let it = fused(k, aux);
            let bytes = it.to_bytes().unwrap();
            assert_eq!(bytes.len(), want_len);
            assert_eq!(FusedEmbedding::from_bytes(&bytes).unwrap(), it);
            for len in [0, 3, 7, 100, 6175, bytes.len() - 1] {
                assert!(FusedEmbedding::from_bytes(&bytes[..len]).is_err(), "{len} bytes");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(FusedEmbedding::from_bytes(&longer).is_err());
        }
    }

    #[track_caller]
    fn check_damaged(byte_index: usize, value: u8, want: FormatFault) {
        let mut bytes = fused(2, false).to_bytes().unwrap();
        bytes[byte_index] = value;
        match FusedEmbedding::from_bytes(&bytes) {
            Err(EmbeddingError::SerializationError { fault, .. }) => assert_eq!(fault, want),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn damaged_records_are_refused() {
        check_damaged(0, b'X', FormatFault::Magic);
        check_damaged(4, 9, FormatFault::Version { got: 9 });
        check_damaged(6, 0x20, FormatFault::Field { name: "flags" });
        check_damaged(7, 9, FormatFault::Field { name: "k" });
        check_damaged(7, 3, FormatFault::Length { want_bytes: 6207, got_bytes: 6206 });
        check_damaged(11, 0x7F, FormatFault::Field { name: "values" }); // 0x7F80… is infinite…
        check_damaged(8 + 6176, 200, FormatFault::Field { name: "values" });
        check_damaged(8 + 6176, 4, FormatFault::Field { name: "values" }); // Named twice.
    }

    #[test]
    fn sparse_vectors_are_sorted_and_finite() {
        let a = SparseVector::new(vec![1, 4, 9], vec![1.0, 2.0, 3.0]).unwrap();
        let b = SparseVector::new(vec![0, 4, 9, 10], vec![5.0, 2.0, -1.0, 7.0]).unwrap();
        assert_eq!(a.dot(&b), 1.0);
        assert_eq!(a.dot(&SparseVector::default()), 0.0);
        assert!(SparseVector::new(vec![1, 1], vec![1.0, 1.0]).is_err());
        assert!(SparseVector::new(vec![1], vec![f32::INFINITY]).is_err());
        assert!(SparseVector::new(vec![1], vec![]).is_err());
        let dense = SparseVector::from_dense(&[0.0, 1.0, 0.0, 2.0]).unwrap();
        assert_eq!((dense.indices(), dense.values()), (&[1, 3][..], &[1.0, 2.0][..]));
    }

    #[test]
    fn max_sim_sums_the_best_of_each_query_token() {
        let query = TokenMatrix::new(vec![1.0, 0.0, 0.0, 1.0], 2).unwrap();
        let document = TokenMatrix::new(vec![0.6, 0.8, 1.0, 0.0, -1.0, 0.0], 2).unwrap();
        assert!((query.max_sim(&document).unwrap() - 1.8).abs() < 1e-6);
        assert!((document.max_sim(&query).unwrap() - 1.8).abs() < 1e-6);
        let other = TokenMatrix::new(vec![1.0; 3], 3).unwrap();
        assert!(query.max_sim(&other).is_err());
        assert!(TokenMatrix::new(vec![], 2).is_err());
        assert!(TokenMatrix::new(vec![1.0; 3], 2).is_err());
        assert!(TokenMatrix::new(vec![1.0; 3], 0).is_err());
        assert_eq!(query.mean_unit().len(), 2);
    }

    #[test]
    fn the_dot_product_takes_the_tail() {
        let (a, b) = (ramp(19, 1), ramp(19, 2));
        let want: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
        assert!((f64::from(dot(&a, &b)) - want).abs() < 1e-2);
    }
}
