//! One measured thing: raw samples, what was executed for each, and what came out.

use calor_kernel::{Canonical, Digest};

/// What samples count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds of wall clock.
    Ns,
    /// Bytes of memory.
    Bytes,
}

impl Unit {
    /// As reports write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ns => "ns",
            Self::Bytes => "bytes",
        }
    }
}

/// One measured thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// Its name; the scenario's where it measures one thing.
    pub name: String,
    /// What the samples count.
    pub unit: Unit,
    /// Every sample, in order; never an average.
    pub samples: Vec<u64>,
    /// The first call, where it differs in kind: it plans, compiles and loads.
    pub first: Option<u64>,
    /// Runs inside one sample.
    pub runs_per_sample_count: u64,
    /// Items that one run computed, by the program's own counting.
    pub item_count: u64,
    /// Tokens that one run computed, likewise.
    pub token_count: u64,
    /// Bytes that one run moves, as its plan says.
    pub moved_bytes: Option<u64>,
    /// Floating-point operations of one run, as its plan says.
    pub flops: Option<u64>,
    /// Of the rounded result: two runs that differ here did not compute the same.
    pub digest: Digest,
}

impl Measure {
    /// The smallest sample, of one run.
    pub fn min(&self) -> Option<u64> {
        self.samples.iter().min().map(|it| it / self.runs_per_sample_count.max(1))
    }

    /// The middle sample, of one run; the upper of two.
    pub fn median(&self) -> Option<u64> {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).map(|it| it / self.runs_per_sample_count.max(1))
    }
}

/// Digest of numbers in steps of 10^-4; nothing if one of them is no number, or there is none.
pub fn digest_of(values: impl IntoIterator<Item = f64>) -> Option<Digest> {
    let mut out = Canonical::new("benchmark result", 1);
    let mut is_empty = true;
    for value in values {
        if !value.is_finite() {
            return None;
        }
        out.i64((value * 1e4).round() as i64);
        is_empty = false;
    }
    (!is_empty).then(|| Digest::of(&out.finish()))
}

#[test]
fn digests_forgive_rounding_and_nothing_else() {
    let of = |values: &[f64]| digest_of(values.iter().copied());
    assert_eq!(of(&[0.5, -0.0]), of(&[0.500_01, 0.000_01]));
    assert_ne!(of(&[0.5]), of(&[0.5002]));
    assert_ne!(of(&[0.5]), of(&[0.5, 0.0]));
    assert_eq!(of(&[f64::NAN]), None);
    assert_eq!(of(&[]), None);
}

#[test]
fn the_middle_is_of_one_run() {
    let measure = Measure {
        name: "m".into(),
        unit: Unit::Ns,
        samples: vec![90, 30, 60],
        first: None,
        runs_per_sample_count: 3,
        item_count: 1,
        token_count: 0,
        moved_bytes: None,
        flops: None,
        digest: Digest([0; 32]),
    };
    assert_eq!((measure.min(), measure.median()), (Some(10), Some(20)));
}
