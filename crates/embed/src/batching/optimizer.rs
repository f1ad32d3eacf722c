//! How large a batch should be: what fits into memory by arithmetic, and what pays by measuring.

use crate::error::{EmbeddingError, EmbeddingResult};

/// Largest batch that is ever proposed.
const BATCH_MAX: usize = 256;
/// Part of the memory that stays free for workspaces, in percent.
const RESERVE_PERCENT: usize = 20;
/// What the next larger batch must gain in throughput to be worth its latency: 5 %.
const GAIN_MIN: f64 = 1.05;

/// Optimal batch size finder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchSizeOptimizer {
    /// Bytes of the model's weights.
    model_memory: usize,
    /// Bytes of the device.
    gpu_memory: usize,
    /// Tokens of one item.
    sequence_length: usize,
    shape: ActivationShape,
}

/// What decides the bytes of a token on its way through an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivationShape {
    /// Width of the rows between layers.
    pub hidden_len: usize,
    /// Width inside the feed-forward part.
    pub feed_forward_len: usize,
    /// Bytes of one number in the rows: 4 for f32, 2 for bf16 and f16.
    pub element_bytes: usize,
}

impl ActivationShape {
    /// A base-size encoder in f32.
    pub const BASE: Self = Self { hidden_len: 768, feed_forward_len: 3072, element_bytes: 4 };

    /// Bytes of a token where most is alive at once. Layers follow each other in the same memory,
    /// so their number does not count; attention reads intervals and keeps no square of scores.
    ///
    /// Alive are the residual and the normalised row, and beside them either queries, keys, values
    /// and what attention makes of them, or the row inside the feed-forward part and its result.
    pub fn token_bytes(&self) -> usize {
        let attention = 4_usize.saturating_mul(self.hidden_len);
        let feed_forward = self.feed_forward_len.saturating_add(self.hidden_len);
        let rows = 2_usize.saturating_mul(self.hidden_len);
        rows.saturating_add(attention.max(feed_forward)).saturating_mul(self.element_bytes)
    }
}

/// One measured batch size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SweepPoint {
    /// Items of the batch.
    pub item_count: usize,
    /// What it took, in nanoseconds: the smallest of the repetitions.
    pub wall_ns: u64,
}

impl SweepPoint {
    /// Items in a second.
    pub fn items_per_s(&self) -> f64 {
        self.item_count as f64 * 1e9 / self.wall_ns.max(1) as f64
    }
}

/// What a sweep measured, and what it chose.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    /// Every size that was measured, rising.
    pub points: Vec<SweepPoint>,
    /// The size that was chosen.
    pub batch_size: usize,
}

impl BatchSizeOptimizer {
    /// For a model of `model_memory` bytes on a device of `gpu_memory` bytes and items of
    /// `sequence_length` tokens, with rows of a base-size encoder in f32.
    pub fn new(model_memory: usize, gpu_memory: usize, sequence_length: usize) -> Self {
        let shape = ActivationShape::BASE;
        Self { model_memory, gpu_memory, sequence_length, shape }
    }

    /// With the rows of another encoder.
    #[must_use]
    pub fn with_shape(self, shape: ActivationShape) -> Self {
        Self { shape, ..self }
    }

    /// The largest batch that fits, 1 to 256: 80 % of the memory less the model. Whether it is
    /// also the quickest only [`BatchSizeOptimizer::sweep`] can say.
    pub fn optimal_batch_size(&self) -> usize {
        let usable = self.gpu_memory / 100 * (100 - RESERVE_PERCENT);
        let for_batches = usable.saturating_sub(self.model_memory);
        (for_batches / self.estimate_per_sample_memory()).clamp(1, BATCH_MAX)
    }

    /// Bytes of one item where most is alive at once; at least one.
    pub fn estimate_per_sample_memory(&self) -> usize {
        self.sequence_length.saturating_mul(self.shape.token_bytes()).max(1)
    }

    /// Measures batches of 1, 2, 4, … up to what fits, and chooses the last one that was still
    /// worth it: its throughput is at least 5 % above that of the choice before, and it takes no
    /// longer than `latency_ns_max`. The smallest is chosen where even it is slower.
    ///
    /// `run` runs a batch of so many items and says how long it took. Each is run
    /// `repeat_count` times and the quickest counts, after one run that does not.
    /// The sweep ends early where two sizes in a row gained nothing, or one took too long.
    ///
    /// # Errors
    /// That of the first run that failed; [`EmbeddingError::ConfigError`] for no repetition.
    pub fn sweep(
        &self,
        latency_ns_max: u64,
        repeat_count: usize,
        mut run: impl FnMut(usize) -> EmbeddingResult<u64>,
    ) -> EmbeddingResult<Sweep> {
        if repeat_count == 0 {
            return Err(EmbeddingError::ConfigError {
                field: "repeat_count",
                value: "0".into(),
                want: "it must be at least 1",
            });
        }
        let most = self.optimal_batch_size();
        let mut points: Vec<SweepPoint> = Vec::new();
        let mut chosen: Option<SweepPoint> = None;
        let mut idle_count = 0;
        for item_count in sizes(most) {
            run(item_count)?;
            let mut wall_ns = u64::MAX;
            for _ in 0..repeat_count {
                wall_ns = wall_ns.min(run(item_count)?);
            }
            let point = SweepPoint { item_count, wall_ns };
            points.push(point);
            match chosen {
                None => chosen = Some(point),
                Some(_) if latency_ns_max < wall_ns => break,
                Some(best) if GAIN_MIN * best.items_per_s() <= point.items_per_s() => {
                    chosen = Some(point);
                    idle_count = 0;
                }
                Some(_) => idle_count += 1,
            }
            if 2 <= idle_count {
                break;
            }
        }
        let batch_size = chosen.map_or(1, |it| it.item_count);
        Ok(Sweep { points, batch_size })
    }
}

/// 1, 2, 4, … and `most` itself.
fn sizes(most: usize) -> impl Iterator<Item = usize> {
    let powers = std::iter::successors(Some(1_usize), |it| it.checked_mul(2));
    powers.take_while(move |it| *it < most).chain([most])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: usize = 1_000_000_000;

    #[track_caller]
    fn check(model: usize, gpu: usize, tokens: usize, want: usize) {
        let optimizer = BatchSizeOptimizer::new(model, gpu, tokens);
        assert_eq!(optimizer.optimal_batch_size(), want, "{optimizer:?}");
    }

    #[test]
    fn what_fits_is_80_percent_less_the_model() {
        // 512 tokens × (2 × 768 + 3072 + 768) numbers × 4 bytes = 11,010,048 bytes an item.
        let item = BatchSizeOptimizer::new(0, 0, 512).estimate_per_sample_memory();
        assert_eq!(item, 11_010_048);
        check(GB, 2 * GB, 512, (2 * GB * 8 / 10 - GB) / item);
        check(0, 140 * GB, 512, 256);
        check(2 * GB, GB, 512, 1);
        check(0, 0, 512, 1);
    }

    #[test]
    fn no_size_overflows_or_divides_by_zero() {
        check(0, usize::MAX, usize::MAX, 1);
        check(usize::MAX, usize::MAX, 1, 1);
        check(0, GB, 0, 256);
    }

    #[test]
    fn narrower_rows_make_room() {
        let base = BatchSizeOptimizer::new(0, GB, 512);
        let half = ActivationShape { element_bytes: 2, ..ActivationShape::BASE };
        let half = base.clone().with_shape(half);
        assert_eq!(2 * half.estimate_per_sample_memory(), base.estimate_per_sample_memory());
        assert!(base.optimal_batch_size() < half.optimal_batch_size());
    }

    /// A machine that takes `fixed_ns`, and `item_ns` for each item beyond `free_count`.
    fn machine(fixed_ns: u64, free_count: u64, item_ns: u64) -> impl Fn(usize) -> u64 {
        move |count| fixed_ns + item_ns * (count as u64).saturating_sub(free_count)
    }

    fn sweep(latency_ns_max: u64, cost: impl Fn(usize) -> u64) -> Sweep {
        let optimizer = BatchSizeOptimizer::new(0, 140 * GB, 512);
        optimizer.sweep(latency_ns_max, 3, |count| Ok(cost(count))).unwrap()
    }

    #[test]
    fn the_knee_beats_one_and_256() {
        // 32 items cost no more than one; from there on each pays for itself, and far above the
        // caches are too small.
        let near = machine(1_000, 32, 31);
        let cost = move |count: usize| near(count) + if 128 < count { 9_000 } else { 0 };
        let found = sweep(u64::MAX, &cost);
        let rate = |count: usize| count as f64 / cost(count) as f64;
        assert_eq!(found.batch_size, 32);
        assert!(20.0 * rate(1) < rate(found.batch_size) && rate(256) < rate(found.batch_size));
        let measured: Vec<usize> = found.points.iter().map(|it| it.item_count).collect();
        assert_eq!(measured, [1, 2, 4, 8, 16, 32, 64, 128], "the sweep ends behind the knee");
    }

    #[test]
    fn a_latency_limit_ends_the_sweep() {
        let cost = machine(0, 0, 100);
        let cost = |count: usize| 1_000 + cost(count);
        assert_eq!(sweep(u64::MAX, cost).batch_size, 128);
        let found = sweep(2_000, cost);
        assert_eq!(found.batch_size, 8);
        assert_eq!(found.points.last().map(|it| it.item_count), Some(16));
        assert_eq!(sweep(10, cost).batch_size, 1);
    }

    #[test]
    fn a_flat_machine_is_served_one_by_one() {
        assert_eq!(sweep(u64::MAX, machine(0, 0, 100)).batch_size, 1);
    }

    #[test]
    fn a_first_run_does_not_count() {
        let optimizer = BatchSizeOptimizer::new(0, 140 * GB, 512);
        let mut seen = Vec::new();
        let found = optimizer.sweep(u64::MAX, 2, |count| {
            let is_first = !seen.contains(&count);
            seen.push(count);
            Ok(if is_first { 1_000_000 } else { 100 })
        });
        assert!(found.unwrap().points.iter().all(|it| it.wall_ns == 100));
        let failed = optimizer.sweep(u64::MAX, 1, |_| Err(EmbeddingError::Cancelled));
        assert!(matches!(failed, Err(EmbeddingError::Cancelled)));
        assert!(optimizer.sweep(u64::MAX, 0, |_| Ok(1)).is_err());
    }

    #[test]
    fn sizes_end_with_what_fits() {
        assert_eq!(sizes(1).collect::<Vec<_>>(), [1]);
        assert_eq!(sizes(5).collect::<Vec<_>>(), [1, 2, 4, 5]);
        assert_eq!(sizes(8).collect::<Vec<_>>(), [1, 2, 4, 8]);
    }
}
