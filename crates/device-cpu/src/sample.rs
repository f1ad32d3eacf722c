//! Numbers for tests: made up, the same each time, and compared with a stated tolerance.

/// A sequence of made-up numbers.
pub(crate) struct Sample(u64);

impl Sample {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// In `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1 << 24) as f32
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.unit() * end as f32) as usize
    }

    /// `len` numbers in `[-1, 1)`.
    pub(crate) fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.unit() * 2.0 - 1.0).collect()
    }
}

/// Asserts that each pair differs by at most `error_max * (1 + |want|)`.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f64], error_max: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let got = f64::from(*got);
        let same = got == *want || (got.is_nan() && want.is_nan());
        let close = (got - want).abs() <= error_max * (1.0 + want.abs());
        assert!(same || close, "{what}: {got} and not {want} at {index}");
    }
}
