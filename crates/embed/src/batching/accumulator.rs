//! Items that wait for a batch.
//!
//! One rule says when a batch is due: it is full, by items or tokens, or its oldest item has
//! waited long enough. An idle consumer may take one earlier, from `min_batch_size` items on.

use std::collections::VecDeque;
use std::sync::Arc;

use calor_telemetry::clock::now_ns;
use tokio::sync::oneshot;

use super::BatchResult;
use super::config::{BatchConfig, ItemTerms, Priority};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::pipeline::PipelineOutput;

/// Nanoseconds on a clock that never goes back.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Of a batch, the share that is kept for bulk items that have waited long: one in so many.
const BULK_SHARE: usize = 8;
/// A bulk item that has waited this many times as long as usual goes before queries.
const STARVED_AFTER: u64 = 10;

/// Dynamic batch accumulator: a bounded queue that hands out batches.
///
/// Every item that goes in is answered: by whoever took it with [`BatchAccumulator::flush`], or
/// here, with an error, when it is refused, too late or cancelled.
pub struct BatchAccumulator<T, R = PipelineOutput> {
    config: BatchConfig,
    /// By [`Priority`]; each in order of arrival.
    pending: [VecDeque<Waiting<T, R>>; 2],
    /// When the last batch was taken.
    last_flush: u64,
    clock: Clock,
    token_count: usize,
    /// What a batch took lately.
    batch_ns: u64,
    stats: QueueStats,
}

/// What a queue did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Items that were taken in.
    pub submitted_count: u64,
    /// Items that found the queue full.
    pub refused_count: u64,
    /// Items whose caller went away before their turn.
    pub cancelled_count: u64,
    /// Items that could not meet their deadline.
    pub expired_count: u64,
    /// Batches handed out.
    pub batch_count: u64,
    /// Items of these batches.
    pub item_count: u64,
    /// What these items waited together.
    pub wait_ns: u64,
}

struct Waiting<T, R> {
    item: T,
    response: oneshot::Sender<BatchResult<R>>,
    terms: ItemTerms,
    since_ns: u64,
}

impl<T, R> BatchAccumulator<T, R> {
    /// An empty queue on the process's clock.
    ///
    /// # Errors
    /// As [`BatchConfig::check`].
    pub fn new(config: BatchConfig) -> EmbeddingResult<Self> {
        Self::with_clock(config, Arc::new(now_ns))
    }

    /// An empty queue on a clock of the caller's.
    ///
    /// # Errors
    /// As [`BatchConfig::check`].
    pub fn with_clock(config: BatchConfig, clock: Clock) -> EmbeddingResult<Self> {
        config.check()?;
        Ok(Self {
            config,
            pending: [VecDeque::new(), VecDeque::new()],
            last_flush: clock(),
            clock,
            token_count: 0,
            batch_ns: 0,
            stats: QueueStats::default(),
        })
    }

    /// Queues an item that costs one token, before all bulk and without a deadline. Whether a
    /// batch is due now.
    pub fn add(&mut self, item: T, response: oneshot::Sender<BatchResult<R>>) -> bool {
        self.add_with(item, response, ItemTerms::default())
    }

    /// Queues an item. Whether a batch is due now.
    ///
    /// A full queue answers at once with [`EmbeddingError::Overloaded`], and a deadline that a
    /// batch started now would miss with [`EmbeddingError::Timeout`].
    pub fn add_with(
        &mut self,
        item: T,
        response: oneshot::Sender<BatchResult<R>>,
        terms: ItemTerms,
    ) -> bool {
        let since_ns = (self.clock)();
        let waiting = Waiting { item, response, terms, since_ns };
        let queued_count = self.len();
        if self.config.max_queued <= queued_count {
            self.stats.refused_count += 1;
            let queue_max = self.config.max_queued;
            waiting.refuse(EmbeddingError::Overloaded { queued_count, queue_max });
        } else if waiting.is_late(since_ns, self.batch_ns) {
            self.stats.expired_count += 1;
            waiting.expire(since_ns);
        } else {
            self.stats.submitted_count += 1;
            self.token_count += terms.token_count;
            self.pending[terms.priority as usize].push_back(waiting);
        }
        self.should_flush()
    }

    /// Items that wait.
    pub fn len(&self) -> usize {
        self.pending.iter().map(VecDeque::len).sum()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens that wait.
    pub fn token_count(&self) -> usize {
        self.token_count
    }

    /// How the queue was set up.
    pub fn config(&self) -> &BatchConfig {
        &self.config
    }

    /// What was done so far.
    pub fn stats(&self) -> QueueStats {
        self.stats
    }

    /// Whether a batch is due: it is full, or its oldest item has waited `max_wait`.
    pub fn should_flush(&self) -> bool {
        self.is_full() || self.oldest_due_ns().is_some_and(|due_ns| due_ns <= (self.clock)())
    }

    /// Whether a consumer that has nothing to do may take a batch: one is due, or at least
    /// `min_batch_size` items wait.
    pub fn may_flush(&self) -> bool {
        self.config.min_batch_size <= self.len() || self.should_flush()
    }

    /// When something is to be done although nothing arrives: the oldest item has waited
    /// `max_wait`, or a deadline passes. `None` while nothing waits.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let deadlines = self.pending.iter().flatten().filter_map(|it| it.terms.deadline_ns);
        deadlines.chain(self.oldest_due_ns()).min()
    }

    /// When the last batch was taken; when the queue was made, if none was.
    pub fn last_flush_ns(&self) -> u64 {
        self.last_flush
    }

    /// Takes a batch: at most `max_batch_size` items and `max_batch_tokens` tokens, queries
    /// first, each priority in order of arrival. What does not fit keeps its place and its time.
    ///
    /// Items whose caller went away are dropped; items that would be too late are answered with
    /// [`EmbeddingError::Timeout`]. Neither takes a place in the batch.
    pub fn flush(&mut self) -> Vec<(T, oneshot::Sender<BatchResult<R>>)> {
        let at_ns = (self.clock)();
        self.last_flush = at_ns;
        self.drop_dead(at_ns);
        let mut batch = Vec::new();
        let mut tokens_left = self.config.max_batch_tokens;
        let kept_for_bulk = self.bulk_share(at_ns);
        if self.bulk_waits(at_ns, STARVED_AFTER) {
            // A heavy item would never fit behind an endless row of queries.
            self.take(Priority::Bulk, kept_for_bulk.max(1), &mut tokens_left, at_ns, &mut batch);
        }
        let query_max = self.config.max_batch_size - kept_for_bulk;
        self.take(Priority::Query, query_max, &mut tokens_left, at_ns, &mut batch);
        self.take(Priority::Bulk, self.config.max_batch_size, &mut tokens_left, at_ns, &mut batch);
        // What bulk did not need.
        self.take(Priority::Query, self.config.max_batch_size, &mut tokens_left, at_ns, &mut batch);
        if !batch.is_empty() {
            self.stats.batch_count += 1;
            self.stats.item_count += batch.len() as u64;
        }
        batch
    }

    /// Answers what would be too late and forgets what nobody waits for, without taking a batch.
    pub fn expire(&mut self) {
        self.drop_dead((self.clock)());
    }

    /// Answers everything that waits with what `refusal` says, and forgets it.
    pub fn refuse_all(&mut self, refusal: impl Fn() -> EmbeddingError) {
        for waiting in self.pending.iter_mut().flat_map(|it| it.drain(..)) {
            waiting.refuse(refusal());
        }
        self.token_count = 0;
    }

    /// Tells what a batch took. Deadlines are measured against it: the recent past counts for
    /// three quarters, this batch for one.
    pub fn observe_batch(&mut self, wall_ns: u64) {
        self.batch_ns = match self.batch_ns {
            0 => wall_ns,
            before => before - before / 4 + wall_ns / 4,
        };
    }

    /// What a batch took lately.
    pub fn expected_batch_ns(&self) -> u64 {
        self.batch_ns
    }

    /// Whether what waits fills a batch, by items or tokens.
    pub fn is_full(&self) -> bool {
        self.config.max_batch_size <= self.len()
            || (self.config.max_batch_tokens <= self.token_count && !self.is_empty())
    }

    fn oldest_due_ns(&self) -> Option<u64> {
        let oldest = self.pending.iter().filter_map(|it| it.front()).map(|it| it.since_ns).min();
        oldest.map(|since_ns| since_ns.saturating_add(self.config.max_wait_ns()))
    }

    /// Places of a batch for bulk that has waited long, so that queries cannot starve it.
    fn bulk_share(&self, at_ns: u64) -> usize {
        let most = self.config.max_batch_size.saturating_sub(1);
        match self.bulk_waits(at_ns, 1) {
            true => (self.config.max_batch_size / BULK_SHARE).max(1).min(most),
            false => 0,
        }
    }

    /// Whether a bulk item has waited for `rounds` times what is usual.
    fn bulk_waits(&self, at_ns: u64, rounds: u64) -> bool {
        let patience_ns = self.config.max_wait_ns().max(self.batch_ns).saturating_mul(rounds);
        let oldest = self.pending[Priority::Bulk as usize].front();
        oldest.is_some_and(|it| it.since_ns.saturating_add(patience_ns) <= at_ns)
    }

    fn take(
        &mut self,
        priority: Priority,
        count_max: usize,
        tokens_left: &mut usize,
        at_ns: u64,
        batch: &mut Vec<(T, oneshot::Sender<BatchResult<R>>)>,
    ) {
        let queue = &mut self.pending[priority as usize];
        while batch.len() < count_max {
            let fits =
                |it: &mut Waiting<T, R>| it.terms.token_count <= *tokens_left || batch.is_empty();
            let Some(waiting) = queue.pop_front_if(fits) else { return };
            let token_count = waiting.terms.token_count;
            *tokens_left = tokens_left.saturating_sub(token_count);
            self.token_count -= token_count;
            self.stats.wait_ns += at_ns.saturating_sub(waiting.since_ns);
            batch.push((waiting.item, waiting.response));
        }
    }

    /// Removes what nobody waits for, and what would be too late.
    fn drop_dead(&mut self, at_ns: u64) {
        let Self { pending, token_count, batch_ns, stats, .. } = self;
        for queue in pending {
            let mut kept = VecDeque::with_capacity(queue.len());
            for waiting in queue.drain(..) {
                if waiting.response.is_closed() {
                    stats.cancelled_count += 1;
                    *token_count -= waiting.terms.token_count;
                } else if waiting.is_late(at_ns, *batch_ns) {
                    stats.expired_count += 1;
                    *token_count -= waiting.terms.token_count;
                    waiting.expire(at_ns);
                } else {
                    kept.push_back(waiting);
                }
            }
            *queue = kept;
        }
    }
}

impl<T, R> Waiting<T, R> {
    /// Whether a batch that starts now and takes as long as the last ones ends after the deadline.
    fn is_late(&self, at_ns: u64, batch_ns: u64) -> bool {
        self.terms.deadline_ns.is_some_and(|it| it < at_ns.saturating_add(batch_ns))
    }

    fn expire(self, at_ns: u64) {
        let had_ns = self.terms.deadline_ns.unwrap_or(at_ns).saturating_sub(self.since_ns);
        self.refuse(EmbeddingError::Timeout { timeout_ms: had_ns / 1_000_000 });
    }

    fn refuse(self, err: EmbeddingError) {
        // A caller that went away does not want to know.
        let _ = self.response.send(Err(err));
    }
}

impl<T, R> std::fmt::Debug for BatchAccumulator<T, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchAccumulator")
            .field("config", &self.config)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    const MS: u64 = 1_000_000;

    /// A queue of numbers on a clock that the test moves.
    struct Bench {
        queue: BatchAccumulator<usize, usize>,
        time: Arc<AtomicU64>,
        receivers: Vec<oneshot::Receiver<BatchResult<usize>>>,
    }

    impl Bench {
        fn new(change: impl Fn(&mut BatchConfig)) -> Self {
            let mut config = BatchConfig::default();
            change(&mut config);
            let time = Arc::new(AtomicU64::new(1_000 * MS));
            let clock = time.clone();
            let clock: Clock = Arc::new(move || clock.load(Ordering::Relaxed));
            let queue = BatchAccumulator::with_clock(config, clock).unwrap();
            Self { queue, time, receivers: Vec::new() }
        }

        fn pass(&self, ms: u64) {
            self.time.fetch_add(ms * MS, Ordering::Relaxed);
        }

        fn now_ns(&self) -> u64 {
            self.time.load(Ordering::Relaxed)
        }

        fn add(&mut self, terms: ItemTerms) -> bool {
            let (sender, receiver) = oneshot::channel();
            let item = self.receivers.len();
            self.receivers.push(receiver);
            self.queue.add_with(item, sender, terms)
        }

        fn add_plain(&mut self, count: usize) -> bool {
            (0..count).map(|_| self.add(ItemTerms::default())).last().unwrap_or(false)
        }

        fn add_bulk(&mut self, count: usize) {
            let terms = ItemTerms { priority: Priority::Bulk, ..ItemTerms::default() };
            for _ in 0..count {
                self.add(terms);
            }
        }

        fn flush(&mut self) -> Vec<usize> {
            let batch = self.queue.flush();
            batch
                .into_iter()
                .map(|(item, response)| {
                    let _ = response.send(Ok(item));
                    item
                })
                .collect()
        }

        /// What an item was answered, where it was.
        fn answer(&mut self, item: usize) -> Option<BatchResult<usize>> {
            self.receivers[item].try_recv().ok()
        }
    }

    #[test]
    fn a_hundred_requests_are_64_and_36() {
        let mut bench = Bench::new(|_| {});
        assert!(bench.add_plain(100));
        assert_eq!(bench.flush(), (0..64).collect::<Vec<_>>());
        assert!(!bench.queue.should_flush(), "36 wait for company");
        assert!(bench.queue.may_flush(), "and an idle consumer may have them");
        bench.pass(10);
        assert!(bench.queue.should_flush());
        assert_eq!(bench.flush(), (64..100).collect::<Vec<_>>());
        assert!(bench.queue.is_empty());
        let stats = bench.queue.stats();
        assert_eq!((stats.batch_count, stats.item_count), (2, 100));
        assert_eq!(stats.wait_ns, 36 * 10 * MS);
    }

    #[test]
    fn of_15_000_submitted_10_000_are_queued_and_the_rest_refused() {
        let mut bench = Bench::new(|_| {});
        bench.add_plain(15_000);
        assert_eq!(bench.queue.len(), 10_000);
        let stats = bench.queue.stats();
        assert_eq!((stats.submitted_count, stats.refused_count), (10_000, 5_000));
        assert!(bench.answer(9_999).is_none());
        for item in 10_000..15_000 {
            match bench.answer(item) {
                Some(Err(EmbeddingError::Overloaded { queued_count, queue_max })) => {
                    assert_eq!((queued_count, queue_max), (10_000, 10_000));
                }
                other => panic!("{other:?}"),
            }
        }
        let mut served = Vec::new();
        while !bench.queue.is_empty() {
            let batch = bench.flush();
            assert!(batch.len() <= 64);
            served.extend(batch);
        }
        assert_eq!(served, (0..10_000).collect::<Vec<_>>());
    }

    #[test]
    fn every_one_of_320_texts_runs_once_and_in_order() {
        let mut bench = Bench::new(|it| it.max_batch_size = 32);
        bench.add_plain(320);
        let batches: Vec<Vec<usize>> = (0..10).map(|_| bench.flush()).collect();
        assert!(batches.iter().all(|it| it.len() == 32));
        assert_eq!(batches.concat(), (0..320).collect::<Vec<_>>());
        assert!(bench.flush().is_empty());
        for item in 0..320 {
            assert_eq!(bench.answer(item).unwrap().unwrap(), item);
        }
    }

    #[test]
    fn after_idling_a_lone_item_waits_from_its_own_arrival() {
        let mut bench = Bench::new(|_| {});
        bench.add_plain(1);
        bench.pass(10);
        assert_eq!(bench.flush(), [0]);
        bench.pass(60_000);
        assert!(!bench.add_plain(1), "the last batch was a minute ago, this item came now");
        let due_ns = bench.now_ns() + 10 * MS;
        assert_eq!(bench.queue.next_deadline_ns(), Some(due_ns));
        bench.pass(9);
        assert!(!bench.queue.should_flush());
        bench.pass(1);
        assert!(bench.queue.should_flush());
    }

    #[test]
    fn what_stays_keeps_its_own_time() {
        let mut bench = Bench::new(|it| (it.max_batch_size, it.min_batch_size) = (2, 1));
        bench.add_plain(2);
        bench.pass(6);
        bench.add_plain(1);
        assert_eq!(bench.flush(), [0, 1]);
        bench.pass(9);
        assert!(!bench.queue.should_flush(), "the third has waited 9 ms");
        bench.pass(1);
        assert!(bench.queue.should_flush());
    }

    #[test]
    fn few_items_gate_only_before_the_wait_is_over() {
        let mut bench = Bench::new(|_| {});
        bench.add_plain(7);
        assert!(!bench.queue.may_flush());
        assert!(!bench.add_plain(1));
        assert!(bench.queue.may_flush(), "eight are enough for an idle consumer");
        bench.flush();
        bench.add_plain(1);
        bench.pass(10);
        assert!(bench.queue.may_flush() && bench.queue.should_flush());
    }

    #[test]
    fn a_heavy_bulk_item_gets_its_turn_under_endless_queries() {
        for size in [1, 4] {
            let mut bench = Bench::new(|it| {
                (it.max_batch_size, it.min_batch_size, it.max_batch_tokens) = (size, 1, 10);
            });
            bench.add(ItemTerms { token_count: 10, priority: Priority::Bulk, deadline_ns: None });
            for _ in 0..10 {
                bench.add_plain(size);
                assert!(!bench.flush().contains(&0));
                bench.pass(10);
            }
            bench.add_plain(size);
            assert_eq!(bench.flush(), [0], "batches of {size}");
        }
    }

    fn of_tokens(token_count: usize) -> ItemTerms {
        ItemTerms { token_count, ..ItemTerms::default() }
    }

    #[test]
    fn a_batch_closes_on_tokens() {
        let mut bench = Bench::new(|it| it.max_batch_tokens = 100);
        assert!(!bench.add(of_tokens(60)));
        assert!(bench.add(of_tokens(50)), "110 of 100 tokens");
        bench.add(of_tokens(30));
        assert_eq!(bench.queue.token_count(), 140);
        assert_eq!(bench.flush(), [0], "the second does not fit behind the first");
        assert_eq!(bench.flush(), [1, 2]);
        assert_eq!(bench.queue.token_count(), 0);
    }

    #[test]
    fn one_item_over_the_budget_runs_alone() {
        let mut bench = Bench::new(|it| it.max_batch_tokens = 100);
        bench.add(of_tokens(500));
        bench.add(of_tokens(1));
        assert_eq!(bench.flush(), [0]);
        assert_eq!(bench.flush(), [1]);
    }

    #[test]
    fn queries_go_before_bulk_and_do_not_starve_it() {
        let mut bench = Bench::new(|it| (it.max_batch_size, it.min_batch_size) = (8, 1));
        bench.add_bulk(4); // 0 … 3
        bench.add_plain(8); // 4 … 11
        assert_eq!(bench.flush(), (4..12).collect::<Vec<_>>());
        bench.pass(10);
        bench.add_plain(8); // 12 … 19
        assert_eq!(bench.flush(), [12, 13, 14, 15, 16, 17, 18, 0], "a place for what waited long");
        assert_eq!(bench.flush(), [19, 1, 2, 3]);
    }

    #[test]
    fn a_place_that_bulk_does_not_need_is_a_querys() {
        let mut bench = Bench::new(|it| {
            (it.max_batch_size, it.min_batch_size, it.max_batch_tokens) = (4, 1, 10);
        });
        let heavy = ItemTerms { token_count: 9, priority: Priority::Bulk, deadline_ns: None };
        bench.add(heavy);
        bench.pass(10);
        bench.add_plain(4);
        assert_eq!(bench.flush(), [1, 2, 3, 4], "no room for the bulk item's tokens");
        assert_eq!(bench.flush(), [0]);
    }

    #[test]
    fn what_cannot_meet_its_deadline_is_refused_and_not_computed() {
        let mut bench = Bench::new(|it| it.min_batch_size = 1);
        let until = |bench: &Bench, ms: u64| ItemTerms {
            deadline_ns: Some(bench.now_ns() + ms * MS),
            ..ItemTerms::default()
        };
        let (soon, later) = (until(&bench, 5), until(&bench, 500));
        bench.add(soon);
        bench.add(later);
        assert_eq!(bench.queue.next_deadline_ns(), soon.deadline_ns);
        bench.pass(6);
        bench.queue.expire();
        assert_eq!(bench.queue.len(), 1);
        assert_eq!(bench.flush(), [1]);
        assert!(matches!(bench.answer(0), Some(Err(EmbeddingError::Timeout { timeout_ms: 5 }))));
        // A batch takes 100 ms: a deadline in 50 is refused on arrival.
        bench.queue.observe_batch(100 * MS);
        let soon = until(&bench, 50);
        bench.add(soon);
        assert!(matches!(bench.answer(2), Some(Err(EmbeddingError::Timeout { .. }))));
        assert!(bench.queue.is_empty());
        assert_eq!(bench.queue.stats().expired_count, 2);
    }

    #[test]
    fn what_nobody_waits_for_is_not_computed() {
        let mut bench = Bench::new(|it| it.min_batch_size = 1);
        bench.add(of_tokens(7));
        bench.add(of_tokens(5));
        bench.receivers[0].close();
        assert_eq!(bench.flush(), [1]);
        assert_eq!(bench.queue.stats().cancelled_count, 1);
        assert_eq!(bench.queue.token_count(), 0);
    }

    #[test]
    fn what_a_batch_takes_follows_the_recent_past() {
        let mut bench = Bench::new(|_| {});
        bench.queue.observe_batch(400);
        assert_eq!(bench.queue.expected_batch_ns(), 400);
        bench.queue.observe_batch(0);
        assert_eq!(bench.queue.expected_batch_ns(), 300);
        (0..40).for_each(|_| bench.queue.observe_batch(4_000));
        assert!((3_900..=4_000).contains(&bench.queue.expected_batch_ns()));
    }

    #[test]
    fn refusing_everything_answers_everything() {
        let mut bench = Bench::new(|_| {});
        bench.add_plain(3);
        bench.add_bulk(2);
        bench.queue.refuse_all(|| EmbeddingError::Cancelled);
        assert!(bench.queue.is_empty() && bench.queue.token_count() == 0);
        for item in 0..5 {
            assert!(matches!(bench.answer(item), Some(Err(EmbeddingError::Cancelled))));
        }
    }

    #[test]
    fn a_queue_without_wait_is_due_at_once() {
        let greedy = |it: &mut BatchConfig| {
            (it.max_wait, it.min_batch_size) = (Duration::ZERO, 1);
        };
        let mut bench = Bench::new(greedy);
        assert!(bench.add_plain(1));
        assert_eq!(bench.flush(), [0]);
        assert!(!bench.queue.should_flush() && bench.queue.next_deadline_ns().is_none());
    }

    /// Arbitrary traffic: nothing is lost, doubled or out of order, and no limit is passed.
    #[test]
    fn under_any_traffic_every_item_is_answered_once_and_in_order() {
        let mut state = 0x1234_5678_9abc_def0_u64;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..200 {
            let (size, tokens) = (1 + random(9) as usize, 1 + random(40) as usize);
            let mut bench = Bench::new(|it| {
                (it.max_batch_size, it.min_batch_size) = (size, 1);
                (it.max_batch_tokens, it.max_queued) = (tokens, 30);
            });
            let mut seen = Vec::new();
            let mut terms = Vec::new();
            for _ in 0..120 {
                if random(4) < 3 {
                    let priority = if random(2) == 0 { Priority::Query } else { Priority::Bulk };
                    let token_count = 1 + random(20) as usize;
                    terms.push(ItemTerms { token_count, priority, deadline_ns: None });
                    bench.add(terms[terms.len() - 1]);
                } else {
                    bench.pass(random(8));
                    let batch = bench.flush();
                    let sum: usize = batch.iter().map(|it| terms[*it].token_count).sum();
                    assert!(batch.len() <= size && (sum <= tokens || batch.len() == 1));
                    seen.extend(batch);
                }
            }
            while !bench.queue.is_empty() {
                seen.extend(bench.flush());
            }
            assert_eq!(bench.queue.token_count(), 0);
            for priority in [Priority::Query, Priority::Bulk] {
                let of = seen.iter().filter(|it| terms[**it].priority == priority);
                assert!(of.is_sorted(), "order of {priority:?}");
            }
            let mut answered = 0;
            for item in 0..terms.len() {
                match bench.answer(item) {
                    Some(Ok(it)) => assert!(it == item && seen.contains(&item)),
                    Some(Err(EmbeddingError::Overloaded { .. })) => {
                        assert!(!seen.contains(&item));
                    }
                    other => panic!("{other:?}"),
                }
                answered += 1;
            }
            let stats = bench.queue.stats();
            assert_eq!(stats.submitted_count + stats.refused_count, answered);
        }
    }
}
