//! E2, E3 and E4 of a time: made once for all texts of it. Texts that say no time have that of
//! their batch, so those of one second share one.

use std::sync::{Arc, Mutex, PoisonError};

use crate::model_id::ModelId;
use crate::temporal::{TEMPORAL_LEN, TemporalPeriodic, TemporalPositional, TemporalRecent};

/// The three vectors of a time.
type Vectors = [[f32; TEMPORAL_LEN]; 3];

/// A time, and the one that ages are measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    time_s: i64,
    now_s: i64,
}

/// The models that a time is all they need, and what they said last.
#[derive(Debug)]
pub(super) struct TemporalModels {
    recent: TemporalRecent,
    positional: TemporalPositional,
    last: Mutex<Option<(Times, Arc<Vectors>)>>,
}

impl TemporalModels {
    /// E2, E3 and E4, in the order of what [`TemporalModels::encode`] gives.
    pub(super) const MODELS: [ModelId; 3] =
        [ModelId::TemporalRecent, ModelId::TemporalPeriodic, ModelId::TemporalPositional];

    /// `reference_s` is what ages are measured against; the batch's own time where there is none.
    pub(super) fn new(reference_s: Option<i64>) -> Self {
        Self {
            recent: TemporalRecent { reference_s },
            positional: TemporalPositional::new(),
            last: Mutex::new(None),
        }
    }

    /// All three of a time.
    pub(super) fn encode(&self, time_s: i64, now_s: i64) -> Arc<Vectors> {
        let times = Times { time_s, now_s };
        // A value is whole whenever the lock is free.
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, vectors)) = last.filter(|it| it.0 == times) {
            return vectors;
        }
        let vectors = Arc::new([
            self.recent.encode(time_s, now_s),
            TemporalPeriodic.encode(time_s),
            self.positional.encode(time_s),
        ]);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((times, vectors.clone()));
        vectors
    }
}

#[test]
fn a_time_is_made_once_and_is_never_anothers() {
    let models = TemporalModels::new(None);
    let first = models.encode(100, 5000);
    assert!(Arc::ptr_eq(&first, &models.encode(100, 5000)));
    for (time_s, now_s) in [(100, 9000), (101, 5000), (100, 5000)] {
        let [recent, periodic, positional] = *models.encode(time_s, now_s);
        assert_eq!(recent, TemporalRecent { reference_s: None }.encode(time_s, now_s));
        assert_eq!(periodic, TemporalPeriodic.encode(time_s));
        assert_eq!(positional, TemporalPositional::new().encode(time_s));
    }
    let fixed = TemporalModels::new(Some(7000));
    assert_eq!(fixed.encode(100, 5000)[0], fixed.encode(100, 9000)[0]);
}
