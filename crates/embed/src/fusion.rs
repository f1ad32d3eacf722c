//! FuseMoE: its configuration, its weights and what it means.
//!
//! [`FuseMoeWeights::fuse`] is the reference in f64, one item at a time, slow and plain: the
//! oracle beside the device's program. No trained weights exist; seeded ones make an untrained
//! mixture, the same on every machine.

use std::path::Path;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::embedding::{EXPERT_COUNT, FusedEmbedding, ResultFlags, require_finite, require_len};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::model_id::{CONCATENATED_LEN, FUSED_LEN};
use crate::tensor_file::{DigestRule, TensorFile, TensorFileWriter, TensorShape};

/// Bump when the definition or the generator changes.
pub const FUSION_VERSION: u16 = 1;

/// The seed when nobody names one.
pub const FUSION_SEED_DEFAULT: u64 = 42;

/// Added to a variance before its root.
pub const NORM_EPSILON: f64 = 1e-5;

/// Sizes and choices of the fusion. Eight experts always.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FuseMoeConfig {
    /// Elements of the concatenation.
    pub input_len: usize,
    /// Elements between an expert's two layers.
    pub hidden_len: usize,
    /// Elements of the fused vector.
    pub output_len: usize,
    /// Experts mixed for an item, 1 to 8.
    pub top_k: usize,
    /// Divides the gate's logits, 0.01 to 100: higher is more even.
    pub temperature: f64,
    /// Added to every probability before it is scaled back, 0 to 1; 0 switches it off.
    pub smoothing: f64,
    /// Whether the result passes a layer norm of its own.
    pub output_norm: bool,
    /// Whether the result is scaled to norm 1 at the end.
    pub normalize: bool,
}

impl FuseMoeConfig {
    /// 8320 → 4096 → 1536, 4 of 8 experts.
    pub const STANDARD: Self = Self {
        input_len: CONCATENATED_LEN,
        hidden_len: 4_096,
        output_len: FUSED_LEN,
        top_k: 4,
        temperature: 1.0,
        smoothing: 0.01,
        output_norm: false,
        normalize: false,
    };

    /// The mini profile's: 256 between the layers.
    pub const MINI: Self = Self { hidden_len: 256, ..Self::STANDARD };

    /// Checks every field.
    ///
    /// # Errors
    /// [`EmbeddingError::ConfigError`] with the first field outside its range.
    pub fn validate(&self) -> EmbeddingResult<()> {
        let lengths = [
            ("input_len", self.input_len),
            ("hidden_len", self.hidden_len),
            ("output_len", self.output_len),
        ];
        for (field, value) in lengths {
            if value == 0 || 1 << 20 < value {
                return Err(config_error(field, value, "it must be within 1..=1048576"));
            }
        }
        if !(1..=EXPERT_COUNT).contains(&self.top_k) {
            return Err(config_error("top_k", self.top_k, "it must be within 1..=8"));
        }
        if !(0.01..=100.0).contains(&self.temperature) {
            let want = "it must be within 0.01..=100";
            return Err(config_error("temperature", self.temperature, want));
        }
        if !(0.0..=1.0).contains(&self.smoothing) {
            return Err(config_error("smoothing", self.smoothing, "it must be within 0..=1"));
        }
        Ok(())
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> Vec<FusionTensor> {
        let gate = [
            FusionTensor::filled(0, "gating.layer_norm.weight", self.input_len, Init::Ones),
            FusionTensor::filled(1, "gating.layer_norm.bias", self.input_len, Init::Zeros),
            FusionTensor::matrix(2, "gating.projection.weight", EXPERT_COUNT, self.input_len),
            FusionTensor::filled(3, "gating.projection.bias", EXPERT_COUNT, Init::Zeros),
        ];
        let mut out = gate.to_vec();
        for expert in 0..EXPERT_COUNT {
            let name = |part: &str| format!("experts.{expert}.{part}");
            let stream = 4 * (expert as u64 + 1);
            let (input, hidden, output) = (self.input_len, self.hidden_len, self.output_len);
            out.extend([
                FusionTensor::matrix(stream, &name("input_proj.weight"), hidden, input),
                FusionTensor::filled(stream + 1, &name("input_proj.bias"), hidden, Init::Zeros),
                FusionTensor::matrix(stream + 2, &name("output_proj.weight"), output, hidden),
                FusionTensor::filled(stream + 3, &name("output_proj.bias"), output, Init::Zeros),
            ]);
        }
        if self.output_norm {
            let len = self.output_len;
            out.push(FusionTensor::filled(OUTPUT_NORM_STREAM, OUTPUT_NORM, len, Init::Ones));
            let bias = "output_norm.bias";
            out.push(FusionTensor::filled(OUTPUT_NORM_STREAM + 1, bias, len, Init::Zeros));
        }
        out
    }

    /// Writes seeded weights tensor by tensor, without holding them; the digest comes back.
    ///
    /// # Errors
    /// As [`FuseMoeConfig::validate`]; [`EmbeddingError::IoError`].
    pub fn save_seeded(&self, seed: u64, path: &Path) -> EmbeddingResult<[u8; 32]> {
        const CHUNK: usize = 1 << 16;
        self.validate()?;
        let tensors = self.tensors();
        let mut out = create(path, &tensors, Some(seed))?;
        let mut buffer = vec![0.0; CHUNK];
        for tensor in &tensors {
            let count = tensor.shape.element_count();
            for first in (0..count).step_by(CHUNK) {
                let chunk = &mut buffer[..CHUNK.min(count - first)];
                tensor.fill_seeded(seed, first, chunk);
                out.write(chunk)?;
            }
        }
        out.finish()
    }
}

/// A tensor of the fusion and how it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct FusionTensor {
    /// Its name and extents.
    pub shape: TensorShape,
    init: Init,
    stream: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Init {
    Zeros,
    Ones,
    XavierUniform { bound: f64 },
}

const OUTPUT_NORM: &str = "output_norm.weight";
const OUTPUT_NORM_STREAM: u64 = 4 * (EXPERT_COUNT as u64 + 1);

impl FusionTensor {
    fn matrix(stream: u64, name: &str, rows: usize, columns: usize) -> Self {
        let bound = (6.0 / (rows + columns) as f64).sqrt();
        let shape = TensorShape { name: name.to_owned(), shape: vec![rows, columns] };
        Self { shape, init: Init::XavierUniform { bound }, stream }
    }

    fn filled(stream: u64, name: &str, len: usize, init: Init) -> Self {
        Self { shape: TensorShape { name: name.to_owned(), shape: vec![len] }, init, stream }
    }

    /// Makes elements `first ..` of the tensor: Xavier uniform for matrices from ChaCha20
    /// stream = number of the tensor, one u32 an element; ones and zeros for the rest. Any part
    /// can be made alone, so several threads may share a tensor.
    ///
    /// # Panics
    /// When the part is not inside the tensor: that is a bug in the caller.
    pub fn fill_seeded(&self, seed: u64, first: usize, out: &mut [f32]) {
        assert!(first + out.len() <= self.shape.element_count());

        match self.init {
            Init::Zeros => out.fill(0.0),
            Init::Ones => out.fill(1.0),
            Init::XavierUniform { bound } => {
                let mut words = ChaCha20Rng::seed_from_u64(seed);
                words.set_stream(self.stream);
                words.set_word_pos(first as u128);
                for it in out {
                    let unit = (f64::from(words.next_u32()) + 0.5) / 2_147_483_648.0 - 1.0;
                    *it = (unit * bound) as f32;
                }
            }
        }
    }
}

/// All weights of a fusion in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct FuseMoeWeights {
    config: FuseMoeConfig,
    /// In the order of [`FuseMoeConfig::tensors`].
    tensors: Vec<Vec<f32>>,
}

impl FuseMoeWeights {
    /// Seeded weights.
    ///
    /// # Errors
    /// As [`FuseMoeConfig::validate`].
    pub fn seeded(config: FuseMoeConfig, seed: u64) -> EmbeddingResult<Self> {
        config.validate()?;
        let make = |tensor: &FusionTensor| {
            let mut out = vec![0.0; tensor.shape.element_count()];
            tensor.fill_seeded(seed, 0, &mut out);
            out
        };
        let tensors = config.tensors().iter().map(make).collect();
        Ok(Self { config, tensors })
    }

    /// Reads a file of [`FuseMoeWeights::save`] or [`FuseMoeConfig::save_seeded`], or a trained
    /// one with these names. A file with an output norm switches it on.
    ///
    /// # Errors
    /// As [`FuseMoeConfig::validate`], [`TensorFile::open`] and [`TensorFile::require`];
    /// [`EmbeddingError::InvalidValue`] for weights that are not finite.
    pub fn load(mut config: FuseMoeConfig, path: &Path) -> EmbeddingResult<Self> {
        config.validate()?;
        let file = TensorFile::open(path, DigestRule::IfPresent)?;
        config.output_norm |= file.contains(OUTPUT_NORM);
        let mut tensors = Vec::new();
        for tensor in config.tensors() {
            file.require(&tensor.shape)?;
            let mut out = vec![0.0; tensor.shape.element_count()];
            file.read(&tensor.shape.name, 0, &mut out)?;
            require_finite(&out)?;
            tensors.push(out);
        }
        Ok(Self { config, tensors })
    }

    /// Writes all tensors; the digest comes back.
    ///
    /// # Errors
    /// [`EmbeddingError::IoError`].
    pub fn save(&self, path: &Path) -> EmbeddingResult<[u8; 32]> {
        let mut out = create(path, &self.config.tensors(), None)?;
        for it in &self.tensors {
            out.write(it)?;
        }
        out.finish()
    }

    /// The configuration.
    pub fn config(&self) -> &FuseMoeConfig {
        &self.config
    }

    /// A tensor by its name in the file.
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        let place = self.config.tensors().iter().position(|it| it.shape.name == name)?;
        Some(&self.tensors[place])
    }

    /// Replaces a tensor: for tests and for optimisers on the host.
    ///
    /// # Errors
    /// [`EmbeddingError::ConfigError`] for a name that is not there;
    /// [`EmbeddingError::DimensionMismatch`].
    pub fn set_tensor(&mut self, name: &str, elements: Vec<f32>) -> EmbeddingResult<()> {
        let place = self.config.tensors().iter().position(|it| it.shape.name == name);
        let Some(place) = place else {
            return Err(config_error("tensor", name, "the fusion has no such tensor"));
        };
        require_len("fusion tensor", self.tensors[place].len(), elements.len())?;
        self.tensors[place] = elements;
        Ok(())
    }

    /// Which experts an item goes to. `noise` is added to the logits: N(0, 0.1²) in training,
    /// nothing at inference.
    ///
    /// Shapes: `x: [input]`.
    ///
    /// # Errors
    /// [`EmbeddingError::DimensionMismatch`]; [`EmbeddingError::InvalidValue`].
    pub fn route(
        &self,
        x: &[f32],
        noise: Option<&[f64; EXPERT_COUNT]>,
    ) -> EmbeddingResult<Routing> {
        require_len("concatenated embedding", self.config.input_len, x.len())?;
        require_finite(x)?;
        let x: Vec<f64> = x.iter().map(|it| f64::from(*it)).collect();
        let [gamma, beta, weight, bias] = self.part(0);
        let h = layer_norm(&x, gamma, beta);
        let mut logits = [0.0; EXPERT_COUNT];
        for (expert, logit) in logits.iter_mut().enumerate() {
            let row = &weight[expert * h.len()..][..h.len()];
            *logit = f64::from(bias[expert]) + product(row, &h);
            *logit += noise.map_or(0.0, |it| it[expert]);
        }
        Ok(Routing::of_logits(&logits, &self.config))
    }

    /// The fused vector of one item.
    ///
    /// # Errors
    /// As [`FuseMoeWeights::route`].
    pub fn fuse(&self, x: &[f32]) -> EmbeddingResult<Fusion> {
        let routing = self.route(x, None)?;
        Ok(Fusion { vector: self.mix(x, &routing)?, routing })
    }

    /// [`FuseMoeWeights::fuse`] of each item; no item sees another.
    ///
    /// # Errors
    /// [`EmbeddingError::EmptyInput`] for no items; [`EmbeddingError::BatchError`] with the item.
    pub fn fuse_batch(&self, items: &[&[f32]]) -> EmbeddingResult<Vec<Fusion>> {
        if items.is_empty() {
            return Err(EmbeddingError::EmptyInput { what: "batch" });
        }
        let fuse = |(item_index, x): (usize, &&[f32])| {
            self.fuse(x)
                .map_err(|it| EmbeddingError::BatchError { item_index, source: Box::new(it) })
        };
        items.iter().enumerate().map(fuse).collect()
    }

    /// The chosen experts' outputs in a given mixture: with the selection held fixed, two
    /// implementations can be compared although top-k is discontinuous.
    ///
    /// Shapes: `x: [input]`, result `[output]`.
    ///
    /// # Errors
    /// [`EmbeddingError::DimensionMismatch`]; [`EmbeddingError::InvalidValue`].
    pub fn mix(&self, x: &[f32], routing: &Routing) -> EmbeddingResult<Vec<f64>> {
        require_len("concatenated embedding", self.config.input_len, x.len())?;
        require_finite(x)?;
        let x: Vec<f64> = x.iter().map(|it| f64::from(*it)).collect();
        let mut out = vec![0.0; self.config.output_len];
        for (expert, share) in routing.selected.iter().zip(&routing.mixture) {
            for (sum, it) in out.iter_mut().zip(self.expert(*expert, &x)) {
                *sum += share * it;
            }
        }
        if self.config.output_norm {
            let place = 4 * (EXPERT_COUNT + 1);
            out = layer_norm(&out, &self.tensors[place], &self.tensors[place + 1]);
        }
        if self.config.normalize {
            let norm = out.iter().map(|it| it * it).sum::<f64>().sqrt();
            let factor = if norm < crate::embedding::NORM_MIN { 0.0 } else { 1.0 / norm };
            out.iter_mut().for_each(|it| *it *= factor);
        }
        Ok(out)
    }

    fn expert(&self, expert: usize, x: &[f64]) -> Vec<f64> {
        let [w1, b1, w2, b2] = self.part(expert + 1);
        let hidden: Vec<f64> = linear(w1, b1, x).into_iter().map(gelu_tanh).collect();
        linear(w2, b2, &hidden)
    }

    /// The gate is part 0, expert `i` part `i + 1`: four tensors each.
    fn part(&self, index: usize) -> [&[f32]; 4] {
        std::array::from_fn(|it| &self.tensors[4 * index + it][..])
    }
}

/// Where one item goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    /// The gate's softmax.
    pub probabilities: [f64; EXPERT_COUNT],
    /// The same after smoothing; sum 1.
    pub expert_weights: [f64; EXPERT_COUNT],
    /// The chosen experts, largest weight first, ties to the lower number.
    pub selected: Vec<usize>,
    /// Share of each chosen expert; sum 1.
    pub mixture: Vec<f64>,
    /// By how much the last chosen expert's weight exceeds the best one left out; infinite when
    /// none is. Where it is below the error of the weights, another implementation may choose
    /// differently and be right.
    pub margin: f64,
}

impl Routing {
    /// Softmax at a temperature, smoothing, and the `top_k` largest.
    ///
    /// # Panics
    /// For a configuration that does not pass [`FuseMoeConfig::validate`].
    pub fn of_logits(logits: &[f64; EXPERT_COUNT], config: &FuseMoeConfig) -> Self {
        assert!(config.validate().is_ok());

        let largest = logits.iter().fold(f64::MIN, |a, b| a.max(*b));
        let powers = logits.map(|it| ((it - largest) / config.temperature).exp());
        let sum: f64 = powers.iter().sum();
        let probabilities = powers.map(|it| it / sum);
        let a = config.smoothing;
        let expert_weights = probabilities.map(|it| (it + a) / (1.0 + EXPERT_COUNT as f64 * a));
        let mut order: Vec<usize> = (0..EXPERT_COUNT).collect();
        order.sort_by(|a, b| expert_weights[*b].total_cmp(&expert_weights[*a]).then(a.cmp(b)));
        let margin = match order.get(config.top_k) {
            Some(next) => expert_weights[order[config.top_k - 1]] - expert_weights[*next],
            None => f64::INFINITY,
        };
        order.truncate(config.top_k);
        let mut out =
            Self { probabilities, expert_weights, selected: order, mixture: Vec::new(), margin };
        out.share();
        out
    }

    /// Shares in proportion to the weights of the experts that are selected now.
    fn share(&mut self) {
        let sum: f64 = self.selected.iter().map(|it| self.expert_weights[*it]).sum();
        self.mixture = self.selected.iter().map(|it| self.expert_weights[*it] / sum).collect();
    }
}

/// A fused vector and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Fusion {
    /// `[output]`.
    pub vector: Vec<f64>,
    /// Where the item went.
    pub routing: Routing,
}

impl Fusion {
    /// The result as it is handed out.
    ///
    /// # Errors
    /// As [`FusedEmbedding::validate`]: a reduced fusion has no embedding.
    pub fn to_embedding(
        &self,
        content_hash: u64,
        pipeline_latency_us: u64,
        flags: ResultFlags,
    ) -> EmbeddingResult<FusedEmbedding> {
        let out = FusedEmbedding {
            vector: self.vector.iter().map(|it| *it as f32).collect(),
            expert_weights: self.routing.expert_weights.map(|it| it as f32),
            selected_experts: self.routing.selected.iter().map(|it| *it as u8).collect(),
            pipeline_latency_us,
            content_hash,
            aux_data: None,
            flags,
        };
        out.validate()?;
        Ok(out)
    }
}

/// The load-balance loss `c · N · Σ fᵢ Pᵢ`: fᵢ the share of all assignments that went to expert
/// i, Pᵢ the batch mean of its probability before smoothing. `c` when balanced.
///
/// # Errors
/// [`EmbeddingError::EmptyInput`] for no items.
pub fn load_balance_loss(coefficient: f64, routings: &[Routing]) -> EmbeddingResult<f64> {
    let assignment_count: usize = routings.iter().map(|it| it.selected.len()).sum();
    if assignment_count == 0 {
        return Err(EmbeddingError::EmptyInput { what: "batch" });
    }
    let mut counts = [0.0; EXPERT_COUNT];
    let mut means = [0.0; EXPERT_COUNT];
    for routing in routings {
        for expert in &routing.selected {
            counts[*expert] += 1.0 / assignment_count as f64;
        }
        for (mean, it) in means.iter_mut().zip(routing.probabilities) {
            *mean += it / routings.len() as f64;
        }
    }
    let sum: f64 = counts.iter().zip(means).map(|(f, p)| f * p).sum();
    Ok(coefficient * EXPERT_COUNT as f64 * sum)
}

/// Items an expert takes from a batch in training: ⌈1.25 · items · k / 8⌉. Never at inference,
/// where it would make a result depend on its neighbours.
pub fn expert_capacity(item_count: usize, top_k: usize) -> usize {
    (5 * item_count * top_k).div_ceil(4 * EXPERT_COUNT)
}

/// Drops, from each expert with more than `capacity` items, those of smallest weight (of equal
/// ones the later item), and shares anew what is left. An item may end with no expert.
pub fn drop_over_capacity(routings: &mut [Routing], capacity: usize) {
    for expert in 0..EXPERT_COUNT {
        let mut items: Vec<usize> =
            (0..routings.len()).filter(|it| routings[*it].selected.contains(&expert)).collect();
        let weight = |item: &usize| routings[*item].expert_weights[expert];
        items.sort_by(|a, b| weight(b).total_cmp(&weight(a)).then(a.cmp(b)));
        for item in items.into_iter().skip(capacity) {
            routings[item].selected.retain(|it| *it != expert);
        }
    }
    routings.iter_mut().for_each(Routing::share);
}

fn layer_norm(x: &[f64], gamma: &[f32], beta: &[f32]) -> Vec<f64> {
    let count = x.len() as f64;
    let mean = x.iter().sum::<f64>() / count;
    let variance = x.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / count;
    let factor = 1.0 / (variance + NORM_EPSILON).sqrt();
    let affine = |((it, gamma), beta): ((&f64, &f32), &f32)| {
        f64::from(*gamma) * (it - mean) * factor + f64::from(*beta)
    };
    x.iter().zip(gamma).zip(beta).map(affine).collect()
}

fn linear(weight: &[f32], bias: &[f32], x: &[f64]) -> Vec<f64> {
    let rows = weight.chunks_exact(x.len());
    rows.zip(bias).map(|(row, bias)| f64::from(*bias) + product(row, x)).collect()
}

fn product(row: &[f32], x: &[f64]) -> f64 {
    row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()
}

fn gelu_tanh(u: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (u + 0.044_715 * u.powi(3));
    0.5 * u * (1.0 + inner.tanh())
}

fn create(
    path: &Path,
    tensors: &[FusionTensor],
    seed: Option<u64>,
) -> EmbeddingResult<TensorFileWriter> {
    let shapes: Vec<TensorShape> = tensors.iter().map(|it| it.shape.clone()).collect();
    let mut notes = vec![("fusion_version", FUSION_VERSION.to_string())];
    notes.extend(seed.map(|it| ("seed", it.to_string())));
    TensorFileWriter::create(path, &shapes, &notes)
}

fn config_error(
    field: &'static str,
    value: impl std::fmt::Display,
    want: &'static str,
) -> EmbeddingError {
    EmbeddingError::ConfigError { field, value: value.to_string(), want }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: FuseMoeConfig =
        FuseMoeConfig { input_len: 24, hidden_len: 10, output_len: 12, ..FuseMoeConfig::STANDARD };

    fn item(salt: usize) -> Vec<f32> {
        (0..SMALL.input_len).map(|it| ((it * 31 + salt * 17) % 23) as f32 / 11.0 - 1.0).collect()
    }

    fn seeded(config: FuseMoeConfig) -> FuseMoeWeights {
        FuseMoeWeights::seeded(config, FUSION_SEED_DEFAULT).unwrap()
    }

    #[track_caller]
    fn check_config(change: impl FnOnce(&mut FuseMoeConfig), want: Option<&str>) {
        let mut config = FuseMoeConfig::STANDARD;
        change(&mut config);
        let got = match config.validate() {
            Ok(()) => None,
            Err(EmbeddingError::ConfigError { field, .. }) => Some(field),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(got, want, "{config:?}");
    }

    #[test]
    fn settings_have_ranges() {
        check_config(|_| {}, None);
        check_config(|it| it.top_k = 8, None);
        check_config(|it| it.top_k = 0, Some("top_k"));
        check_config(|it| it.top_k = 9, Some("top_k"));
        check_config(|it| it.temperature = 0.0, Some("temperature"));
        check_config(|it| it.temperature = f64::NAN, Some("temperature"));
        check_config(|it| it.temperature = 100.0, None);
        check_config(|it| it.smoothing = 0.0, None);
        check_config(|it| it.smoothing = -0.1, Some("smoothing"));
        check_config(|it| it.hidden_len = 0, Some("hidden_len"));
    }

    #[test]
    fn parameters_are_as_many_as_stated() {
        let count = |config: FuseMoeConfig| -> usize {
            config.tensors().iter().map(|it| it.shape.element_count()).sum()
        };
        assert_eq!(count(FuseMoeConfig::STANDARD), 323_006_464 + 83_208);
        let with_norm = FuseMoeConfig { output_norm: true, ..FuseMoeConfig::STANDARD };
        assert_eq!(count(with_norm), 323_006_464 + 83_208 + 3_072);
    }

    #[track_caller]
    fn check_routing(logits: [f64; 8], top_k: usize, temperature: f64, want: &[usize]) {
        for smoothing in [0.0, 0.01] {
            let config = FuseMoeConfig { top_k, temperature, smoothing, ..SMALL };
            let got = Routing::of_logits(&logits, &config);
            assert_eq!(got.selected, want, "{logits:?}");
            assert!((got.expert_weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            assert!((got.mixture.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let floor = smoothing / (1.0 + 8.0 * smoothing);
            assert!(got.expert_weights.iter().all(|it| floor <= *it));
            assert!(0.0 <= got.margin);
        }
    }

    #[test]
    fn the_largest_are_chosen_and_ties_go_to_the_lower_number() {
        let rising = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        check_routing(rising, 4, 1.0, &[7, 6, 5, 4]);
        check_routing(rising, 1, 1.0, &[7]);
        check_routing(rising, 8, 1.0, &[7, 6, 5, 4, 3, 2, 1, 0]);
        check_routing([1.0; 8], 4, 1.0, &[0, 1, 2, 3]);
        check_routing([0.0, 5.0, 5.0, 0.0, 5.0, 0.0, 0.0, 0.0], 2, 1.0, &[1, 2]);
        check_routing([-1e9, 1e9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 1, 0.01, &[1]);
        let hot = FuseMoeConfig { temperature: 100.0, ..SMALL };
        let even = Routing::of_logits(&rising, &hot);
        assert!(even.expert_weights.iter().all(|it| (it - 0.125).abs() < 0.01), "near uniform");
        assert_eq!(Routing::of_logits(&[1.0; 8], &SMALL).margin, 0.0);
    }

    /// Everything spelt out again, without the code above.
    #[test]
    fn fusing_follows_the_definition() {
        let config = FuseMoeConfig { top_k: 2, smoothing: 0.01, temperature: 0.5, ..SMALL };
        let weights = seeded(config);
        let x = item(3);
        let get = |name: &str| weights.tensor(name).unwrap();
        let mean = x.iter().map(|it| f64::from(*it)).sum::<f64>() / 24.0;
        let variance = x.iter().map(|it| (f64::from(*it) - mean).powi(2)).sum::<f64>() / 24.0;
        let mut p: Vec<f64> = (0..8)
            .map(|expert| {
                let row = &get("gating.projection.weight")[24 * expert..];
                let logit: f64 = (0..24)
                    .map(|it| {
                        let h = (f64::from(x[it]) - mean) / (variance + 1e-5).sqrt();
                        f64::from(row[it]) * h
                    })
                    .sum();
                (logit / 0.5).exp()
            })
            .collect();
        let sum: f64 = p.iter().sum();
        p.iter_mut().for_each(|it| *it = (*it / sum + 0.01) / 1.08);
        let mut order: Vec<usize> = (0..8).collect();
        order.sort_by(|a, b| p[*b].partial_cmp(&p[*a]).unwrap());
        let mut want = [0.0; 12];
        for expert in &order[..2] {
            let w1 = get(&format!("experts.{expert}.input_proj.weight"));
            let w2 = get(&format!("experts.{expert}.output_proj.weight"));
            for (out, sum) in want.iter_mut().enumerate() {
                for hidden in 0..10 {
                    let u: f64 =
                        (0..24).map(|it| f64::from(w1[24 * hidden + it]) * f64::from(x[it])).sum();
                    let cubic = 0.797_884_560_8 * (u + 0.044_715 * u * u * u);
                    let gelu = 0.5 * u * (1.0 + cubic.tanh());
                    let share = p[*expert] / (p[order[0]] + p[order[1]]);
                    *sum += share * f64::from(w2[10 * out + hidden]) * gelu;
                }
            }
        }
        let got = weights.fuse(&x).unwrap();
        assert_eq!(got.routing.selected, order[..2]);
        for (got, want) in got.vector.iter().zip(want) {
            assert!((got - want).abs() < 1e-9, "{got} for {want}");
        }
    }

    #[test]
    fn a_batch_is_its_items() {
        let weights = seeded(SMALL);
        let items: Vec<Vec<f32>> = (0..33).map(item).collect();
        let slices: Vec<&[f32]> = items.iter().map(|it| &it[..]).collect();
        let batch = weights.fuse_batch(&slices).unwrap();
        for (got, x) in batch.iter().zip(&slices) {
            assert_eq!(*got, weights.fuse(x).unwrap());
        }
        assert!(matches!(weights.fuse_batch(&[]), Err(EmbeddingError::EmptyInput { .. })));
        let mut bad = item(1);
        bad[4] = f32::NAN;
        match weights.fuse_batch(&[&item(0), &bad]) {
            Err(EmbeddingError::BatchError { item_index: 1, source }) => {
                assert!(matches!(*source, EmbeddingError::InvalidValue { index: 4, .. }));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            weights.fuse(&items[0][1..]),
            Err(EmbeddingError::DimensionMismatch { want_len: 24, got_len: 23, .. })
        ));
    }

    #[test]
    fn output_norm_and_normalize_shape_the_result() {
        let normed = seeded(FuseMoeConfig { output_norm: true, ..SMALL }).fuse(&item(1)).unwrap();
        assert!(normed.vector.iter().sum::<f64>().abs() < 1e-9);
        let unit = seeded(FuseMoeConfig { normalize: true, ..SMALL }).fuse(&item(1)).unwrap();
        assert!((unit.vector.iter().map(|it| it * it).sum::<f64>() - 1.0).abs() < 1e-12);
        let plain = seeded(SMALL).fuse(&item(1)).unwrap();
        assert_eq!(plain.routing, unit.routing);
        let noise = [0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0];
        let noisy = seeded(SMALL).route(&item(1), Some(&noise)).unwrap();
        assert_eq!(noisy.selected[0], 3);
    }

    #[test]
    fn weights_repeat_and_parts_can_be_made_alone() {
        let weights = seeded(SMALL);
        assert_eq!(weights, seeded(SMALL));
        assert_ne!(weights, FuseMoeWeights::seeded(SMALL, 43).unwrap());
        let tensors = SMALL.tensors();
        let whole = weights.tensor("experts.5.input_proj.weight").unwrap();
        let tensor =
            tensors.iter().find(|it| it.shape.name == "experts.5.input_proj.weight").unwrap();
        for (first, len) in [(0, 5), (17, 100), (239, 1)] {
            let mut part = vec![0.0; len];
            tensor.fill_seeded(42, first, &mut part);
            assert_eq!(part, whole[first..first + len]);
        }
        let bound = (6.0_f32 / 34.0).sqrt();
        assert!(whole.iter().all(|it| it.abs() <= bound));
        assert!(whole.iter().any(|it| 0.9 * bound < it.abs()));
        assert_ne!(whole, weights.tensor("experts.4.input_proj.weight").unwrap());
        let with_norm = seeded(FuseMoeConfig { output_norm: true, ..SMALL });
        assert_eq!(with_norm.tensors[..36], weights.tensors[..]);
    }

    #[test]
    fn saved_weights_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fusion.safetensors");
        let with_norm = FuseMoeConfig { output_norm: true, ..SMALL };
        let weights = seeded(with_norm);
        weights.save(&path).unwrap();
        assert_eq!(FuseMoeWeights::load(SMALL, &path).unwrap(), weights, "the norm is switched on");
        let digest = SMALL.save_seeded(42, &path).unwrap();
        assert_eq!(SMALL.save_seeded(42, &path).unwrap(), digest);
        assert_eq!(FuseMoeWeights::load(SMALL, &path).unwrap(), seeded(SMALL));
        assert!(FuseMoeWeights::load(with_norm, &path).is_err(), "a norm was asked for");
        let wider = FuseMoeConfig { hidden_len: 11, ..SMALL };
        assert!(matches!(
            FuseMoeWeights::load(wider, &path),
            Err(EmbeddingError::SerializationError { .. })
        ));
        let mut changed = weights.clone();
        changed.set_tensor("gating.projection.bias", vec![f32::NAN; 8]).unwrap();
        changed.save(&path).unwrap();
        assert!(FuseMoeWeights::load(SMALL, &path).is_err());
        assert!(changed.set_tensor("gating.bias", vec![]).is_err());
        assert!(changed.set_tensor("gating.projection.bias", vec![]).is_err());
    }

    fn routing(selected: usize, others: f64) -> Routing {
        let mut logits = [0.0; 8];
        logits[selected] = others;
        Routing::of_logits(&logits, &FuseMoeConfig { top_k: 1, smoothing: 0.0, ..SMALL })
    }

    #[test]
    fn load_balance_is_c_when_balanced_and_cn_over_k_when_not() {
        let balanced: Vec<Routing> = (0..8).map(|it| routing(it, 50.0)).collect();
        assert!((load_balance_loss(0.01, &balanced).unwrap() - 0.01).abs() < 1e-12);
        let collapsed: Vec<Routing> = (0..8).map(|_| routing(3, 50.0)).collect();
        assert!((load_balance_loss(0.01, &collapsed).unwrap() - 0.08).abs() < 1e-12);
        assert!(load_balance_loss(0.01, &[]).is_err());
    }

    #[test]
    fn capacity_drops_the_smallest_weights() {
        for (item_count, top_k, want) in [(1, 4, 1), (8, 1, 2), (32, 4, 20), (33, 4, 21)] {
            assert_eq!(expert_capacity(item_count, top_k), want);
        }
        let config = FuseMoeConfig { top_k: 2, ..SMALL };
        let mut all: Vec<Routing> = [1.0, 3.0, 2.0, 3.0]
            .map(|it| Routing::of_logits(&[it, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], &config))
            .to_vec();
        drop_over_capacity(&mut all, 2);
        let selected: Vec<&[usize]> = all.iter().map(|it| &it.selected[..]).collect();
        // Expert 0 keeps the two of weight 3; expert 1 the two that like it best.
        assert_eq!(selected, [&[1][..], &[0], &[1], &[0]]);
        assert!(all.iter().all(|it| it.mixture == [1.0]));
        drop_over_capacity(&mut all, 0);
        assert!(all.iter().all(|it| it.selected.is_empty() && it.mixture.is_empty()));
    }

    #[test]
    fn a_standard_size_result_is_an_embedding() {
        let config = FuseMoeConfig { hidden_len: 4, ..FuseMoeConfig::STANDARD };
        let mut x = vec![0.0; CONCATENATED_LEN];
        x[17] = 1.0;
        let flags = ResultFlags::default();
        let fused = seeded(config).fuse(&x).unwrap().to_embedding(7, 9, flags).unwrap();
        assert_eq!((fused.content_hash, fused.selected_experts.len()), (7, 4));
        assert!(seeded(SMALL).fuse(&item(0)).unwrap().to_embedding(7, 9, flags).is_err());
    }
}
