//! Figures over many packages, oldest first, and where they changed.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::environment::differences;
use crate::package::Package;
use crate::stats::{ChangePoint, ChangeRule, change_points};

/// How changes in histories are found.
pub const RULE: ChangeRule = ChangeRule { window_len: 30, p_max: 0.01, magnitude_min: 0.03 };

/// One figure over packages of one machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Track {
    /// Case.
    pub case: String,
    /// Size.
    pub size: u64,
    /// Arm.
    pub arm: String,
    /// Commit or time of each value.
    pub labels: Vec<String>,
    /// Nanoseconds of one call, what processes count as.
    pub values_ns: Vec<f64>,
    /// First values of a new kind, with means before and after.
    pub changes: Vec<Change>,
}

/// A change of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The first value of the new kind.
    pub index: usize,
    /// Mean before.
    pub before_ns: f64,
    /// Mean from there on.
    pub after_ns: f64,
    /// Probability that nothing changed.
    pub p: f64,
}

impl From<ChangePoint> for Change {
    fn from(it: ChangePoint) -> Self {
        Self { index: it.index, before_ns: it.before, after_ns: it.after, p: it.p }
    }
}

/// Every figure of `packages` that more than one of them has. Packages of other machines than the
/// newest are left out: their figures do not continue each other. Their number is beside it.
pub fn tracks(packages: &[Package]) -> (Vec<Track>, usize) {
    let mut ordered: Vec<&Package> = packages.iter().filter(|it| !it.is_pair()).collect();
    ordered.sort_by_key(|it| it.started_s());
    let Some(newest) = ordered.last().map(|it| it.environment["fingerprint"].clone()) else {
        return (Vec::new(), 0);
    };
    let count = ordered.len();
    ordered.retain(|it| differences(&it.environment["fingerprint"], &newest).is_empty());
    let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
    for package in &ordered {
        let label = label(package);
        for case in &package.summary.cases {
            for point in &case.points {
                for (arm, it) in &point.arms {
                    let Some(observed) = it.observed_ns else { continue };
                    let key = (case.name.clone(), point.size, arm.clone());
                    let row = rows.entry(key).or_default();
                    row.0.push(label.clone());
                    row.1.push(observed.middle);
                }
            }
        }
    }
    let track = |((case, size, arm), (labels, values_ns)): (Key, Row)| {
        let changes = change_points(&values_ns, &RULE).into_iter().map(Change::from).collect();
        Track { case, size, arm, labels, values_ns, changes }
    };
    let tracks = rows.into_iter().filter(|it| 1 < it.1.1.len()).map(track).collect();
    (tracks, count - ordered.len())
}

/// Case, size and arm.
type Key = (String, u64, String);
/// Labels and values.
type Row = (Vec<String>, Vec<f64>);

/// The commit, or the time where none is known.
pub(crate) fn label(package: &Package) -> String {
    match &package.manifest.commit {
        Some(commit) => {
            let short: String = commit.chars().take(8).collect();
            if package.manifest.dirty == Some(true) { format!("{short}+") } else { short }
        }
        None => package.started_s().to_string(),
    }
}
