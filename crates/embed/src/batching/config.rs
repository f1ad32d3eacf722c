//! Settings of batching, and what an item says about itself when it is queued.

use std::time::Duration;

use crate::error::{EmbeddingError, EmbeddingResult};

/// Batching configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchConfig {
    /// Most items of a batch.
    pub max_batch_size: usize,
    /// How long the oldest item waits for company.
    pub max_wait: Duration,
    /// Items from which on an idle consumer need not wait. Once the wait is over a single item
    /// is enough.
    pub min_batch_size: usize,
    /// Most tokens of a batch, unless a single item has more.
    pub max_batch_tokens: usize,
    /// Most items that wait; more are refused.
    pub max_queued: usize,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            max_batch_size: 64,
            max_wait: Duration::from_millis(10),
            min_batch_size: 8,
            max_batch_tokens: 16_384,
            max_queued: 10_000,
        }
    }
}

impl BatchConfig {
    /// Refuses settings under which nothing could ever run, or a lone item would wait for ever.
    ///
    /// # Errors
    /// [`EmbeddingError::ConfigError`] with the field.
    pub fn check(&self) -> EmbeddingResult<()> {
        let refused =
            |field, value: String, want| Err(EmbeddingError::ConfigError { field, value, want });
        for (field, value) in [
            ("max_batch_size", self.max_batch_size),
            ("min_batch_size", self.min_batch_size),
            ("max_batch_tokens", self.max_batch_tokens),
            ("max_queued", self.max_queued),
        ] {
            if value == 0 {
                return refused(field, "0".into(), "it must be at least 1");
            }
        }
        if self.max_batch_size < self.min_batch_size {
            let want = "it must not be above max_batch_size";
            return refused("min_batch_size", self.min_batch_size.to_string(), want);
        }
        if self.max_wait.is_zero() && 1 < self.min_batch_size {
            let want = "without a wait nothing gathers min_batch_size items: set one of them to 1";
            return refused("max_wait", "0".into(), want);
        }
        Ok(())
    }

    pub(super) fn max_wait_ns(&self) -> u64 {
        u64::try_from(self.max_wait.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Who goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits for this one.
    #[default]
    Query,
    /// Part of a large job; it takes what queries leave, and a share of every batch once it has
    /// waited long.
    Bulk,
}

/// What an item says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemTerms {
    /// What it costs, in tokens; an estimate will do.
    pub token_count: usize,
    /// Who goes first.
    pub priority: Priority,
    /// When its result is of no use any more, on the accumulator's clock.
    pub deadline_ns: Option<u64>,
}

impl Default for ItemTerms {
    fn default() -> Self {
        Self { token_count: 1, priority: Priority::Query, deadline_ns: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_specification() {
        let config = BatchConfig::default();
        assert_eq!(config.max_batch_size, 64);
        assert_eq!(config.max_wait, Duration::from_millis(10));
        assert_eq!(config.min_batch_size, 8);
        config.check().unwrap();
    }

    #[track_caller]
    fn check(change: impl Fn(&mut BatchConfig), want: Option<&str>) {
        let mut config = BatchConfig::default();
        change(&mut config);
        let got = match config.check() {
            Ok(()) => None,
            Err(EmbeddingError::ConfigError { field, .. }) => Some(field),
            Err(err) => panic!("{err}"),
        };
        assert_eq!(got, want, "{config:?}");
    }

    #[test]
    fn settings_that_never_run_anything_are_refused() {
        check(|it| it.max_batch_size = 0, Some("max_batch_size"));
        check(|it| it.min_batch_size = 0, Some("min_batch_size"));
        check(|it| it.max_batch_tokens = 0, Some("max_batch_tokens"));
        check(|it| it.max_queued = 0, Some("max_queued"));
        check(|it| it.min_batch_size = 65, Some("min_batch_size"));
        check(|it| it.max_wait = Duration::ZERO, Some("max_wait"));
        let greedy = |it: &mut BatchConfig| (it.max_wait, it.min_batch_size) = (Duration::ZERO, 1);
        check(greedy, None);
    }
}
