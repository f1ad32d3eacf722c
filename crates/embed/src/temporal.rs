//! E2, E3 and E4: a time as a vector of 512 elements of norm 1.
//!
//! Seconds since the Unix epoch come in; nothing reads a clock here. Differences are taken in
//! i64 and everything else in f64: f32 loses seconds above 194 days.

use std::f64::consts::PI;

use crate::error::{EmbeddingError, EmbeddingResult};

/// Elements of each of the three embeddings.
pub const TEMPORAL_LEN: usize = 512;

/// Bump when a constant of this file changes; it is part of keys and stored records.
pub const TEMPORAL_VERSION: u16 = 1;

/// E2: the age of a time against a reference.
///
/// Four decay rates of 128 elements each. The first half of a block shrinks as `exp(-rate · age)`
/// and the second grows to match, so that the norm is 1 at every age and no later normalisation
/// can undo the decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemporalRecent {
    /// What ages are measured against; the batch's own time where there is none.
    pub reference_s: Option<i64>,
}

impl TemporalRecent {
    /// Ages from here on are alike: one year.
    pub const AGE_MAX_S: i64 = 31_536_000;
    /// Time constants: an hour, a day, a week, thirty days.
    pub const DECAY_S: [f64; 4] = [3_600.0, 86_400.0, 604_800.0, 2_592_000.0];

    /// The embedding of `time_s`; times after the reference have age 0. Norm 1.
    pub fn encode(&self, time_s: i64, batch_now_s: i64) -> [f32; TEMPORAL_LEN] {
        const BLOCK: usize = 128;
        let reference_s = self.reference_s.unwrap_or(batch_now_s);
        let age_s = reference_s.saturating_sub(time_s).clamp(0, Self::AGE_MAX_S) as f64;
        let scale = 1.0 / (8.0 * 2.0_f64.sqrt());
        let mut out = [0.0; TEMPORAL_LEN];
        for (block, decay_s) in out.chunks_exact_mut(BLOCK).zip(Self::DECAY_S) {
            let rate_age = age_s / decay_s;
            let alive = (-rate_age).exp();
            let faded = (-(-2.0 * rate_age).exp_m1()).sqrt();
            for (index, it) in block.iter_mut().enumerate() {
                let phase = PI * index as f64 / 64.0;
                let value = if index < BLOCK / 2 {
                    alive * (phase + 0.001 * rate_age).cos()
                } else {
                    faded * phase.cos()
                };
                *it = (value * scale) as f32;
            }
        }
        out
    }
}

/// E3: the place of a time in the hour, day, week, month of 30 and year of 365 days. UTC,
/// anchored at the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemporalPeriodic;

impl TemporalPeriodic {
    /// The five periods, in seconds.
    pub const PERIODS_S: [i64; 5] = [3_600, 86_400, 604_800, 2_592_000, 31_536_000];
    /// Harmonics of each period.
    pub const HARMONIC_COUNT: usize = 51;

    /// The embedding of `time_s`. Norm 1; the last two elements are zero.
    pub fn encode(&self, time_s: i64) -> [f32; TEMPORAL_LEN] {
        let scale = 1.0 / 255.0_f64.sqrt();
        let mut out = [0.0; TEMPORAL_LEN];
        let blocks = out.chunks_exact_mut(2 * Self::HARMONIC_COUNT);
        for (block, period_s) in blocks.zip(Self::PERIODS_S) {
            let theta = 2.0 * PI * time_s.rem_euclid(period_s) as f64 / period_s as f64;
            for (index, pair) in block.chunks_exact_mut(2).enumerate() {
                let (sin, cos) = ((index + 1) as f64 * theta).sin_cos();
                pair[0] = (sin * scale) as f32;
                pair[1] = (cos * scale) as f32;
            }
        }
        out
    }
}

/// E4: the place of a time on the time line, as a sinusoidal position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TemporalPositional {
    base: f64,
}

impl TemporalPositional {
    /// The longest wavelength is then 1,820 years.
    pub const BASE_DEFAULT: f64 = 1e10;

    /// With the default base.
    pub fn new() -> Self {
        Self { base: Self::BASE_DEFAULT }
    }

    /// With another base. 1e4 gives the usual positional code, whose longest wavelength of
    /// 16.8 hours makes days indistinguishable.
    ///
    /// # Errors
    /// [`EmbeddingError::ConfigError`] outside (1, 1e10].
    pub fn with_base(base: f64) -> EmbeddingResult<Self> {
        if 1.0 < base && base <= 1e10 {
            return Ok(Self { base });
        }
        Err(EmbeddingError::ConfigError {
            field: "base",
            value: base.to_string(),
            want: "it must be above 1 and at most 1e10",
        })
    }

    /// The base.
    pub fn base(&self) -> f64 {
        self.base
    }

    /// The embedding of `time_s`. Norm 1.
    pub fn encode(&self, time_s: i64) -> [f32; TEMPORAL_LEN] {
        let mut out = [0.0; TEMPORAL_LEN];
        for (index, pair) in out.chunks_exact_mut(2).enumerate() {
            let exponent = 2.0 * index as f64 / TEMPORAL_LEN as f64;
            let (sin, cos) = (time_s as f64 / self.base.powf(exponent)).sin_cos();
            pair[0] = (sin / 16.0) as f32;
            pair[1] = (cos / 16.0) as f32;
        }
        out
    }
}

impl Default for TemporalPositional {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedding::{cosine, l2_norm};

    const HOUR: i64 = 3_600;
    const DAY: i64 = 86_400;
    const YEAR: i64 = 365 * DAY;
    const NOW: i64 = 1_714_564_800;
    const RECENT: TemporalRecent = TemporalRecent { reference_s: None };

    #[track_caller]
    fn check_age(age_s: i64, want_cosine: f64) {
        let (fresh, aged) = (RECENT.encode(NOW, NOW), RECENT.encode(NOW - age_s, NOW));
        let got = cosine(&fresh, &aged);
        assert!((got - want_cosine).abs() < 6e-4, "age {age_s} s: {got}");
        assert!((l2_norm(&aged) - 1.0).abs() < 1e-6, "age {age_s} s");
        for (block, decay_s) in aged.chunks_exact(128).zip(TemporalRecent::DECAY_S) {
            let alive = 2.0 * l2_norm(&block[..64]);
            let want = (-(age_s.min(TemporalRecent::AGE_MAX_S) as f64) / decay_s).exp();
            assert!((alive - want).abs() < 1e-5, "age {age_s} s, decay {decay_s} s: {alive}");
        }
    }

    #[test]
    fn recent_decays_at_constant_norm() {
        check_age(0, 1.0);
        check_age(HOUR, 0.830);
        check_age(DAY, 0.551);
        check_age(7 * DAY, 0.290);
        check_age(30 * DAY, 0.095);
        check_age(YEAR, 0.0);
        check_age(10 * YEAR, 0.0);
        let thirty = RECENT.encode(NOW - 30 * DAY, NOW);
        let year = RECENT.encode(NOW - YEAR, NOW);
        assert!(cosine(&thirty, &year) < 0.99, "the decay must survive the norm");
    }

    #[test]
    fn recent_similarity_falls_as_ages_part() {
        let base = RECENT.encode(NOW, NOW);
        let mut before = 1.1;
        for hours in [0, 1, 5, 24, 100, 500, 2_000, 8_000] {
            let now = cosine(&base, &RECENT.encode(NOW - hours * HOUR, NOW));
            assert!(now < before, "{hours} hours: {now} after {before}");
            before = now;
        }
    }

    #[test]
    fn recent_clamps_and_prefers_its_own_reference() {
        assert_eq!(RECENT.encode(NOW + 5, NOW), RECENT.encode(NOW, NOW));
        assert_eq!(RECENT.encode(i64::MIN, i64::MAX), RECENT.encode(NOW - YEAR, NOW));
        let fixed = TemporalRecent { reference_s: Some(NOW) };
        assert_eq!(fixed.encode(NOW - DAY, 0), RECENT.encode(NOW - DAY, NOW));
    }

    #[test]
    fn periodic_repeats_block_by_block() {
        for (index, period_s) in TemporalPeriodic::PERIODS_S.into_iter().enumerate() {
            for time_s in [NOW, -NOW, 0] {
                let now = TemporalPeriodic.encode(time_s);
                let later = TemporalPeriodic.encode(time_s + period_s);
                let block = index * 102..(index + 1) * 102;
                assert_eq!(now[block.clone()], later[block], "period {period_s} s");
                assert!((l2_norm(&now) - 1.0).abs() < 1e-6);
                assert_eq!(now[510..], [0.0, 0.0]);
            }
        }
        assert_ne!(TemporalPeriodic.encode(NOW), TemporalPeriodic.encode(NOW + 1));
    }

    #[track_caller]
    fn check_position(base: f64, apart_s: i64, want: f64) {
        let e4 = TemporalPositional::with_base(base).unwrap();
        let got = cosine(&e4.encode(NOW), &e4.encode(NOW + apart_s));
        assert!((got - want).abs() < 1e-3, "base {base}, {apart_s} s: {got}");
    }

    #[test]
    fn positional_similarity_by_distance() {
        check_position(1e10, 1, 0.989);
        check_position(1e10, HOUR, 0.621);
        check_position(1e10, DAY, 0.469);
        check_position(1e10, 30 * DAY, 0.375);
        check_position(1e10, YEAR, 0.232);
        check_position(1e10, 10 * YEAR, 0.108);
        check_position(1e4, DAY, -0.035);
        check_position(1e4, 30 * DAY, -0.044);
        check_position(1e4, 10 * YEAR, 0.088);
        let e4 = TemporalPositional::new();
        assert!((l2_norm(&e4.encode(NOW)) - 1.0).abs() < 1e-6);
        assert!(l2_norm(&e4.encode(i64::MIN)).is_finite());
    }

    #[test]
    fn positional_base_has_bounds() {
        for (base, ok) in
            [(1.0, false), (1.000_001, true), (1e10, true), (1.1e10, false), (f64::NAN, false)]
        {
            assert_eq!(TemporalPositional::with_base(base).is_ok(), ok, "{base}");
        }
    }
}
