//! What a server counts, and how a scrape shows it.
//!
//! Names beginning with `te_` are those of text-embeddings-inference, so that its dashboards work;
//! the rest begins with `calor_`. Counters of the runtime are shown beside them.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use calor_embed::pipeline::LostModel;
use calor_telemetry::Counters;
use calor_telemetry::counter::{Counter, Growth};

/// Latencies that are remembered one by one.
const RECENT_COUNT: usize = 512;
/// Requests after the start whose latencies are kept, to be compared with later ones.
const FIRST_COUNT: usize = 100;

const OVERHEAD: &str = "Seconds outside programs of a request whose one input ran alone.";

/// Why requests fail, as labels.
pub(crate) const FAILURES: [&str; 11] = [
    "Unhealthy",
    "Overloaded",
    "Unauthorized",
    "Empty",
    "Validation",
    "Tokenizer",
    "Backend",
    "Timeout",
    "Cancelled",
    "Other",
    "Dropped",
];

/// Every count.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) single_count: AtomicU64,
    pub(crate) batch_count: AtomicU64,
    pub(crate) single_success: AtomicU64,
    pub(crate) batch_success: AtomicU64,
    failures: [AtomicU64; FAILURES.len()],
    pub(crate) request: Histogram,
    pub(crate) tokenization: Histogram,
    pub(crate) queue: Histogram,
    pub(crate) inference: Histogram,
    pub(crate) overhead: Histogram,
    pub(crate) input_length: Histogram,
    pub(crate) batch_size: Histogram,
    pub(crate) batch_tokens: Histogram,
    pub(crate) items: AtomicU64,
    pub(crate) swaps: AtomicU64,
    pub(crate) recoveries: AtomicU64,
    pub(crate) rewarms: AtomicU64,
    pub(crate) overlapped_batches: AtomicU64,
    pub(crate) moved_items: AtomicU64,
    pub(crate) lost_spans: AtomicU64,
    pub(crate) busy_ns: AtomicU64,
    latencies: Mutex<Latencies>,
}

#[derive(Debug, Default)]
struct Latencies {
    first_ns: Vec<u64>,
    recent_ns: VecDeque<u64>,
}

/// Percentiles of latencies, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Percentiles {
    pub(crate) count: usize,
    pub(crate) p50_ns: u64,
    pub(crate) p95_ns: u64,
    pub(crate) p99_ns: u64,
}

/// Gauges that somebody else keeps, at the time of a scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Levels {
    pub(crate) queue_size: usize,
    pub(crate) queue_tokens: usize,
    pub(crate) requests_inside: usize,
    pub(crate) connections: usize,
    pub(crate) is_ready: bool,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_bytes_max: u64,
    /// Results that are kept.
    pub(crate) result_count: usize,
    /// Models with whether each answers.
    pub(crate) models: Vec<(&'static str, bool)>,
    /// Models that failed when the server became ready.
    pub(crate) lost: Vec<LostModel>,
    /// Places by name: whether models serve there, and tokens that run.
    pub(crate) places: Vec<(String, bool, u64)>,
    pub(crate) warm_seconds: f64,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            single_count: zero(),
            batch_count: zero(),
            single_success: zero(),
            batch_success: zero(),
            failures: std::array::from_fn(|_| zero()),
            request: Histogram::durations(),
            tokenization: Histogram::durations(),
            queue: Histogram::durations(),
            inference: Histogram::durations(),
            overhead: Histogram::of((0..=80).map(|it| 1e-5 * 1.1_f64.powi(it)).collect()),
            input_length: Histogram::powers(),
            batch_size: Histogram::powers(),
            batch_tokens: Histogram::powers(),
            items: zero(),
            swaps: zero(),
            recoveries: zero(),
            rewarms: zero(),
            overlapped_batches: zero(),
            moved_items: zero(),
            lost_spans: zero(),
            busy_ns: zero(),
            latencies: Mutex::default(),
        }
    }

    /// A request that was refused or failed.
    pub(crate) fn failed(&self, word: &str) {
        let index = FAILURES.iter().position(|it| *it == word).unwrap_or(FAILURES.len() - 2);
        add(&self.failures[index], 1);
    }

    /// A request that was answered after `wall_ns`.
    pub(crate) fn answered(&self, input_count: usize, wall_ns: u64) {
        add(if input_count == 1 { &self.single_success } else { &self.batch_success }, 1);
        self.request.record_ns(wall_ns);
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        if latencies.first_ns.len() < FIRST_COUNT {
            latencies.first_ns.push(wall_ns);
        }
        if latencies.recent_ns.len() == RECENT_COUNT {
            latencies.recent_ns.pop_front();
        }
        latencies.recent_ns.push_back(wall_ns);
    }

    /// Requests that were refused or failed, in the order of [`FAILURES`].
    pub(crate) fn failure_counts(&self) -> impl Iterator<Item = u64> {
        self.failures.iter().map(get)
    }

    /// Of the first requests after the start, and of the last ones.
    pub(crate) fn latencies(&self) -> (Percentiles, Percentiles) {
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = latencies.recent_ns.iter().copied().collect();
        (Percentiles::of(latencies.first_ns.clone()), Percentiles::of(recent))
    }

    /// All of it as Prometheus reads it.
    pub(crate) fn text(&self, levels: &Levels, counters: &Counters) -> String {
        let mut out = String::with_capacity(16 << 10);
        let page = &mut out;
        head(page, "te_request_count", "counter", "Requests that came in.");
        value(page, "te_request_count", "method=\"single\"", get(&self.single_count));
        value(page, "te_request_count", "method=\"batch\"", get(&self.batch_count));
        head(page, "te_request_success", "counter", "Requests that were answered.");
        value(page, "te_request_success", "method=\"single\"", get(&self.single_success));
        value(page, "te_request_success", "method=\"batch\"", get(&self.batch_success));
        head(page, "te_request_failure", "counter", "Requests that were refused or failed.");
        for (word, count) in FAILURES.iter().zip(&self.failures) {
            let label = format!("err=\"{}\"", word.to_lowercase());
            value(page, "te_request_failure", &label, get(count));
        }
        for (name, doc, histogram) in [
            ("te_request_duration", "Seconds from a request to its answer.", &self.request),
            ("te_request_tokenization_duration", "Seconds of counting.", &self.tokenization),
            ("te_request_queue_duration", "Seconds of waiting.", &self.queue),
            ("te_request_inference_duration", "Seconds of running.", &self.inference),
            ("calor_server_overhead_seconds", OVERHEAD, &self.overhead),
            ("te_request_input_length", "Tokens of an input.", &self.input_length),
            ("te_batch_next_size", "Items of a batch.", &self.batch_size),
            ("te_batch_next_tokens", "Tokens of a batch.", &self.batch_tokens),
        ] {
            histogram.write(page, name, doc);
        }
        self.levels(page, levels);
        runtime(page, counters);
        out
    }

    fn levels(&self, page: &mut String, levels: &Levels) {
        let ready = f64::from(u8::from(levels.is_ready));
        let rows: [(&str, &str, &str, f64); 17] = [
            ("te_queue_size", "gauge", "Items that wait.", levels.queue_size as f64),
            ("calor_server_queue_tokens", "gauge", "Tokens that wait.", levels.queue_tokens as f64),
            ("calor_server_requests", "gauge", "Requests inside.", levels.requests_inside as f64),
            ("calor_server_connections", "gauge", "Open connections.", levels.connections as f64),
            ("calor_server_ready", "gauge", "Whether requests are answered.", ready),
            ("calor_server_items_total", "counter", "Items computed.", get(&self.items) as f64),
            ("calor_server_swaps_total", "counter", "Swaps of models.", get(&self.swaps) as f64),
            (
                "calor_server_recoveries_total",
                "counter",
                "Recoveries.",
                get(&self.recoveries) as f64,
            ),
            (
                "calor_server_rewarms_total",
                "counter",
                "Runs while idle.",
                get(&self.rewarms) as f64,
            ),
            (
                "calor_server_overlapped_batches_total",
                "counter",
                "Batches prepared and answered while others were computed.",
                get(&self.overlapped_batches) as f64,
            ),
            (
                "calor_server_moved_items_total",
                "counter",
                "Items that a lost device left to the others.",
                get(&self.moved_items) as f64,
            ),
            (
                "calor_server_busy_seconds_total",
                "counter",
                "Seconds in which a batch ran.",
                get(&self.busy_ns) as f64 / 1e9,
            ),
            (
                "calor_server_memory_bytes",
                "gauge",
                "Device memory in use.",
                levels.memory_bytes as f64,
            ),
            (
                "calor_server_memory_bytes_max",
                "gauge",
                "Device memory.",
                levels.memory_bytes_max as f64,
            ),
            (
                "calor_server_lost_spans_total",
                "counter",
                "Spans that no collector took.",
                get(&self.lost_spans) as f64,
            ),
            ("calor_server_results", "gauge", "Results kept.", levels.result_count as f64),
            ("calor_server_warm_seconds", "gauge", "Seconds of warming up.", levels.warm_seconds),
        ];
        for (name, kind, doc, amount) in rows {
            head(page, name, kind, doc);
            let _ = writeln!(page, "{name} {amount}");
        }
        model_lines(page, &levels.models);
        lost_lines(page, &levels.lost);
        place_lines(page, &levels.places);
    }
}

fn model_lines(page: &mut String, models: &[(&'static str, bool)]) {
    head(page, "calor_server_model_ready", "gauge", "Whether a model answers.");
    for (model, ready) in models {
        let label = format!("model=\"{model}\"");
        value(page, "calor_server_model_ready", &label, u64::from(*ready));
    }
}

/// Reasons are cut: a label is no page.
const REASON_LEN_MAX: usize = 200;

fn lost_lines(page: &mut String, lost: &[LostModel]) {
    head(page, "calor_server_model_lost", "gauge", "A model that failed at the warm-up, and why.");
    for LostModel { model_id, why } in lost {
        let short: String = why.chars().take(REASON_LEN_MAX).collect();
        let reason = short.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let label = format!("model=\"{}\",reason=\"{reason}\"", model_id.as_str());
        value(page, "calor_server_model_lost", &label, 1);
    }
}

fn place_lines(page: &mut String, places: &[(String, bool, u64)]) {
    head(page, "calor_server_place_ready", "gauge", "Whether models serve on a device.");
    for (place, ready, _) in places {
        let label = format!("place=\"{place}\"");
        value(page, "calor_server_place_ready", &label, u64::from(*ready));
    }
    head(page, "calor_server_place_tokens", "gauge", "Tokens that run on a device.");
    for (place, _, tokens) in places {
        value(page, "calor_server_place_tokens", &format!("place=\"{place}\""), *tokens);
    }
}

/// Counters of the runtime, by the names of their table.
fn runtime(page: &mut String, counters: &Counters) {
    let snapshot = counters.snapshot();
    let mut seen = Vec::new();
    for counter in Counter::all() {
        let name = counter.spec().prometheus();
        if !seen.contains(&name) {
            let kind = match counter.spec().growth {
                Growth::Total => "counter",
                Growth::Level => "gauge",
            };
            head(page, &name, kind, counter.spec().doc.trim());
            // Lines of one name stand together.
            for it in Counter::all().filter(|it| it.spec().prometheus() == name) {
                let label = match it {
                    Counter::Plain(_) => String::new(),
                    Counter::Cache(cache, _) => format!("cache=\"{}\"", cache.name()),
                };
                value(page, &name, &label, snapshot.get(it));
            }
            seen.push(name);
        }
    }
}

/// Counts by size.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: Vec<f64>,
    counts: Vec<AtomicU64>,
    /// In billionths of the unit.
    sum: AtomicU64,
}

impl Histogram {
    /// 15 µs to 14.6 s, each bound half as large again.
    fn durations() -> Self {
        Self::of((1..=35).map(|it| 1e-5 * 1.5_f64.powi(it)).collect())
    }

    /// 1 to 65,536 by powers of two.
    fn powers() -> Self {
        Self::of((0..=16).map(|it| f64::from(1_u32 << it)).collect())
    }

    fn of(bounds: Vec<f64>) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    pub(crate) fn record_ns(&self, ns: u64) {
        self.put(ns as f64 / 1e9, ns);
    }

    pub(crate) fn record(&self, amount: usize) {
        self.put(amount as f64, (amount as u64).saturating_mul(1_000_000_000));
    }

    fn put(&self, amount: f64, billionths: u64) {
        let index = self.bounds.partition_point(|it| *it < amount);
        add(&self.counts[index], 1);
        add(&self.sum, billionths);
    }

    fn write(&self, page: &mut String, name: &str, doc: &str) {
        head(page, name, "histogram", doc);
        let mut count = 0;
        for (bound, own) in self.bounds.iter().zip(&self.counts) {
            count += get(own);
            value(page, &format!("{name}_bucket"), &format!("le=\"{bound}\""), count);
        }
        count += self.counts.last().map_or(0, get);
        value(page, &format!("{name}_bucket"), "le=\"+Inf\"", count);
        let _ = writeln!(page, "{name}_sum {}", get(&self.sum) as f64 / 1e9);
        let _ = writeln!(page, "{name}_count {count}");
    }
}

impl Percentiles {
    fn of(mut all_ns: Vec<u64>) -> Self {
        all_ns.sort_unstable();
        let at = |percent: usize| {
            let rank = (all_ns.len() * percent).div_ceil(100).max(1) - 1;
            all_ns.get(rank).copied().unwrap_or(0)
        };
        Self { count: all_ns.len(), p50_ns: at(50), p95_ns: at(95), p99_ns: at(99) }
    }
}

pub(crate) fn add(cell: &AtomicU64, amount: u64) {
    cell.fetch_add(amount, Ordering::Relaxed);
}

pub(crate) fn get(cell: &AtomicU64) -> u64 {
    cell.load(Ordering::Relaxed)
}

// Writing into a string does not fail.
fn head(page: &mut String, name: &str, kind: &str, doc: &str) {
    let _ = writeln!(page, "# HELP {name} {doc}\n# TYPE {name} {kind}");
}

fn value(page: &mut String, name: &str, label: &str, amount: u64) {
    let _ = match label {
        "" => writeln!(page, "{name} {amount}"),
        label => writeln!(page, "{name}{{{label}}} {amount}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_to_its_bounds() {
        let histogram = Histogram::powers();
        for amount in [0, 1, 2, 3, 65_536, 1 << 20] {
            histogram.record(amount);
        }
        let mut page = String::new();
        histogram.write(&mut page, "x", "doc");
        for line in [
            "x_bucket{le=\"1\"} 2",
            "x_bucket{le=\"2\"} 3",
            "x_bucket{le=\"4\"} 4",
            "x_bucket{le=\"65536\"} 5",
            "x_bucket{le=\"+Inf\"} 6",
            "x_count 6",
            "x_sum 1114118",
        ] {
            assert!(page.lines().any(|it| it == line), "no `{line}` in {page}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let found = Percentiles::of((1..=100).rev().collect());
        assert_eq!(found, Percentiles { count: 100, p50_ns: 50, p95_ns: 95, p99_ns: 99 });
        assert_eq!(
            Percentiles::of(vec![7]),
            Percentiles { count: 1, p50_ns: 7, p95_ns: 7, p99_ns: 7 }
        );
        assert_eq!(Percentiles::of(Vec::new()), Percentiles::default());
    }

    #[test]
    fn every_line_of_a_scrape_is_well_formed_and_no_name_stands_twice() {
        let metrics = Metrics::new();
        metrics.answered(1, 2_000_000);
        metrics.failed("Overloaded");
        metrics.failed("no such word");
        let model_id = calor_embed::ModelId::Entity;
        let lost = vec![LostModel { model_id, why: "no \"file\"\nthere".into() }];
        let levels = Levels { models: vec![("semantic", true)], lost, ..Levels::default() };
        let text = metrics.text(&levels, &Counters::new());
        let mut names = std::collections::BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let name = rest.split(' ').next().unwrap();
                assert!(names.insert(name.to_owned()), "{name} twice");
            } else if !line.starts_with('#') {
                let (series, amount) = line.rsplit_once(' ').unwrap();
                assert!(amount.parse::<f64>().is_ok(), "{line}");
                let name = series.split('{').next().unwrap();
                assert!(names.iter().any(|it| name.starts_with(it.as_str())), "{line}");
            }
        }
        let line = "calor_server_model_lost{model=\"entity\",reason=\"no \\\"file\\\"\\nthere\"} 1";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("te_request_failure{err=\"overloaded\"} 1"));
        assert!(text.contains("te_request_failure{err=\"other\"} 1"));
        assert!(text.contains("te_request_success{method=\"single\"} 1"));
    }
}
