//! Load on a server at given rates, whether it keeps up or not, and what came of it.
//!
//! Arrivals are a Poisson process that does not wait for answers, and a latency begins when its
//! request was due: a server that falls behind is seen to.

mod sequence;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, Request, StatusCode, header};
use calor_telemetry::Stopwatch;
use futures_util::StreamExt;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub use sequence::{LoadSequence, run_one_by_one};

type Body = axum::body::Body;

/// Longest that answers are waited for after the last arrival.
const REST: Duration = Duration::from_secs(30);
/// Histogram that is read before and after.
const OVERHEAD: &str = "calor_server_overhead_seconds";
/// Counter that is read before and after.
const FLOPS: &str = "calor_flops_total ";

/// What load to make.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where the server listens.
    pub address: SocketAddr,
    /// Where requests go, such as `/v1/embeddings`.
    pub path: String,
    /// Bodies of requests, in turn.
    pub bodies: Vec<String>,
    /// Inputs of each.
    pub item_count: usize,
    /// Key that the server wants.
    pub api_key: Option<String>,
    /// Requests a second, one point of the curve after another.
    pub rates: Vec<f64>,
    /// How long each.
    pub duration: Duration,
}

/// One point of the latency-throughput curve.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadPoint {
    /// Requests a second that were due.
    pub offered_per_s: f64,
    /// Inputs a second that were answered, from the first arrival to the last answer.
    pub items_per_s: f64,
    /// Requests that were sent.
    pub sent_count: usize,
    /// Answered with 200.
    pub good_count: usize,
    /// Answered with 429 or 503.
    pub refused_count: usize,
    /// Anything else, and no answer.
    pub failed_count: usize,
    /// Of those answered with 200, from when they were due.
    pub p50_ms: f64,
    /// As above.
    pub p95_ms: f64,
    /// As above.
    pub p99_ms: f64,
    /// Median of what a request of one text that ran alone spent outside programs, in
    /// microseconds, by the server's own histogram; none where none ran alone.
    pub overhead_p50_us: Option<f64>,
    /// Multiplications and additions a second of the server's matrix products on live rows, by its
    /// own counter, from the first arrival to the last answer; none where it does not tell.
    pub flop_per_s: Option<f64>,
}

/// Why there is no curve.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No thread or executor.
    #[error("the system gives no threads")]
    System {
        /// What it says.
        source: std::io::Error,
    },
    /// The server is not there.
    #[error("nobody answers at {address}")]
    Absent {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Nothing would be sent.
    #[error("`{field}` must be {want}")]
    Setting {
        /// Which setting.
        field: &'static str,
        /// What it must be.
        want: &'static str,
    },
}

/// Makes load and measures; blocks until it is over. `told` hears each point when it is there.
///
/// # Errors
/// [`LoadError`]; requests that fail are counted and no error.
pub fn run(
    options: &LoadOptions,
    mut told: impl FnMut(&LoadPoint),
) -> Result<Vec<LoadPoint>, LoadError> {
    let refused = |field, want| Err(LoadError::Setting { field, want });
    options.check()?;
    if options.rates.is_empty() || !options.rates.iter().all(|it| it.is_finite() && 0.0 < *it) {
        return refused("rates", "at least one, each above 0");
    }
    if options.duration.is_zero() {
        return refused("duration", "above 0");
    }
    on_runtime(async {
        let client = Arc::new(Client::new(options).await?);
        let mut points = Vec::with_capacity(options.rates.len());
        for rate in options.rates.iter().copied() {
            let point = point(&client, rate).await;
            told(&point);
            points.push(point);
        }
        Ok(points)
    })
}

impl LoadOptions {
    fn check(&self) -> Result<(), LoadError> {
        match self.bodies.is_empty() {
            true => Err(LoadError::Setting { field: "bodies", want: "at least one" }),
            false => Ok(()),
        }
    }
}

/// Blocks until it is done; what still runs then is not waited for.
fn on_runtime<T>(work: impl Future<Output = Result<T, LoadError>>) -> Result<T, LoadError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| LoadError::System { source })?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

async fn point(client: &Arc<Client>, rate: f64) -> LoadPoint {
    let before = client.reading().await;
    let watch = Stopwatch::start();
    let outcomes: Arc<Mutex<Vec<Outcome>>> = Arc::default();
    let mut tasks = Vec::new();
    let mut arrivals = Arrivals { state: 0x5eed, rate, at_s: 0.0 };
    while let Some(due_ns) = arrivals.next_within(client.options.duration) {
        let now = watch.elapsed_ns();
        if now < due_ns {
            tokio::time::sleep(Duration::from_nanos(due_ns - now)).await;
        }
        let (client, outcomes, number) = (client.clone(), outcomes.clone(), tasks.len());
        tasks.push(tokio::spawn(async move {
            let body = &client.options.bodies[number % client.options.bodies.len()];
            let answer = client.ask("POST", &client.options.path, body.clone()).await;
            let status = answer.map(|it| it.status);
            let outcome = Outcome { status, end_ns: watch.elapsed_ns(), due_ns };
            outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
        }));
    }
    let sent_count = tasks.len();
    // What has no answer by then has none.
    let _ = tokio::time::timeout(REST, futures_util::future::join_all(tasks)).await;
    let after = client.reading().await;
    let outcomes = std::mem::take(&mut *outcomes.lock().unwrap_or_else(PoisonError::into_inner));
    let change = before.zip(after).map(|(before, after)| after.since(&before));
    summary(client.options.item_count, rate, sent_count, outcomes, change.unwrap_or_default())
}

/// What became of a request.
struct Outcome {
    status: Option<StatusCode>,
    due_ns: u64,
    end_ns: u64,
}

fn summary(
    item_count: usize,
    offered_per_s: f64,
    sent_count: usize,
    outcomes: Vec<Outcome>,
    change: Change,
) -> LoadPoint {
    let is_good = |it: &&Outcome| it.status == Some(StatusCode::OK);
    let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    let refused = |it: &&Outcome| it.status.is_some_and(|it| busy.contains(&it));
    let good: Vec<&Outcome> = outcomes.iter().filter(is_good).collect();
    let refused_count = outcomes.iter().filter(refused).count();
    let mut walls_ns: Vec<u64> = good.iter().map(|it| it.end_ns - it.due_ns).collect();
    walls_ns.sort_unstable();
    let at = |percent: usize| {
        let rank = (walls_ns.len() * percent).div_ceil(100).max(1) - 1;
        walls_ns.get(rank).map_or(0.0, |it| *it as f64 / 1e6)
    };
    let first_ns = good.iter().map(|it| it.due_ns).min().unwrap_or(0);
    let last_ns = good.iter().map(|it| it.end_ns).max().unwrap_or(0);
    let wall_s = (last_ns - first_ns).max(1) as f64 / 1e9;
    LoadPoint {
        offered_per_s,
        items_per_s: (good.len() * item_count) as f64 / wall_s,
        sent_count,
        good_count: good.len(),
        refused_count,
        failed_count: sent_count - good.len() - refused_count,
        p50_ms: at(50),
        p95_ms: at(95),
        p99_ms: at(99),
        overhead_p50_us: change.overhead_p50_us,
        flop_per_s: change.flops.filter(|_| !good.is_empty()).map(|it| it / wall_s),
    }
}

/// What a server says of itself.
#[derive(Debug, Default)]
struct Reading {
    /// Counts of its overhead by their bounds.
    overhead: Vec<(f64, f64)>,
    flops: Option<f64>,
}

/// What was added between two readings.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    overhead_p50_us: Option<f64>,
    flops: Option<f64>,
}

impl Reading {
    /// From a page of metrics.
    fn of(page: &str) -> Self {
        let flops = page.lines().find_map(|it| it.strip_prefix(FLOPS)?.trim().parse().ok());
        Self { overhead: buckets(page, OVERHEAD), flops }
    }

    fn since(&self, before: &Self) -> Change {
        let flops = before.flops.zip(self.flops).map(|(before, after)| after - before);
        Change { overhead_p50_us: median_us(&before.overhead, &self.overhead), flops }
    }
}

/// A Poisson process, the same for the same rate.
struct Arrivals {
    state: u64,
    rate: f64,
    at_s: f64,
}

impl Arrivals {
    /// When the next is due, in nanoseconds from the start; none after the end.
    fn next_within(&mut self, duration: Duration) -> Option<u64> {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let uniform = ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        self.at_s -= uniform.ln() / self.rate;
        (self.at_s < duration.as_secs_f64()).then_some((self.at_s * 1e9) as u64)
    }
}

/// Connections that are kept for the next request.
struct Client {
    options: LoadOptions,
    idle: Mutex<Vec<SendRequest<Body>>>,
}

/// What came back.
struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Client {
    /// For a server that is there.
    async fn new(options: &LoadOptions) -> Result<Self, LoadError> {
        let address = options.address;
        let absent = |source| LoadError::Absent { address, source };
        drop(TcpStream::connect(address).await.map_err(absent)?);
        Ok(Self { options: options.clone(), idle: Mutex::default() })
    }

    /// An answer; none where there was none.
    async fn ask(&self, method: &str, path: &str, body: String) -> Option<Answered> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut sender = match idle.filter(|it| !it.is_closed()) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let address = self.options.address;
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(header::HOST, address.to_string());
        request = request.header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.options.api_key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        sender.ready().await.ok()?;
        let response = sender.send_request(request.body(Body::from(body)).ok()?).await.ok()?;
        let (head, body) = response.into_parts();
        let mut parts = Body::new(body).into_data_stream();
        let mut bytes = Vec::new();
        while let Some(part) = parts.next().await {
            bytes.extend_from_slice(&part.ok()?);
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Some(Answered { status: head.status, headers: head.headers, body: bytes.into() })
    }

    async fn connect(&self) -> Option<SendRequest<Body>> {
        let stream = TcpStream::connect(self.options.address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(sender)
    }

    /// What the server says of itself; none where it does not tell.
    async fn reading(&self) -> Option<Reading> {
        let page = self.ask("GET", "/metrics", String::new()).await?;
        Some(Reading::of(&String::from_utf8_lossy(&page.body)))
    }
}

/// Bounds and cumulative counts of a histogram on a page of metrics.
fn buckets(page: &str, name: &str) -> Vec<(f64, f64)> {
    let start = format!("{name}_bucket{{le=\"");
    let line = |line: &str| {
        let (bound, count) = line.strip_prefix(&start)?.split_once("\"} ")?;
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
        Some((bound, count.trim().parse().ok()?))
    };
    page.lines().filter_map(line).collect()
}

/// The median of what was added between two readings, in microseconds: within its bucket by a
/// straight line.
fn median_us(before: &[(f64, f64)], after: &[(f64, f64)]) -> Option<f64> {
    let added: Vec<(f64, f64)> =
        before.iter().zip(after).map(|(before, after)| (after.0, after.1 - before.1)).collect();
    let half = added.last().map(|it| it.1 / 2.0).filter(|it| 0.0 < *it)?;
    let at = added.iter().position(|it| half <= it.1)?;
    let (low, below) = at.checked_sub(1).map_or((0.0, 0.0), |it| added[it]);
    let (high, upto) = added[at];
    let share = (half - below) / (upto - below);
    Some(1e6 * if high.is_finite() { low + share * (high - low) } else { low })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_come_at_the_rate_and_the_same_each_time() {
        let all = || -> Vec<u64> {
            let mut arrivals = Arrivals { state: 7, rate: 200.0, at_s: 0.0 };
            std::iter::from_fn(|| arrivals.next_within(Duration::from_secs(20))).collect()
        };
        let first = all();
        assert_eq!(first, all());
        assert!(first.is_sorted() && (3_600..4_400).contains(&first.len()), "{}", first.len());
    }

    #[test]
    fn a_latency_begins_when_its_request_was_due() {
        let outcome = |due_ms: u64, end_ms: u64, status| Outcome {
            status,
            due_ns: due_ms * 1_000_000,
            end_ns: end_ms * 1_000_000,
        };
        let ok = Some(StatusCode::OK);
        let outcomes = vec![
            outcome(0, 10, ok),
            outcome(10, 200, ok),
            outcome(20, 30, Some(StatusCode::TOO_MANY_REQUESTS)),
            outcome(30, 31, None),
        ];
        let change = Change { overhead_p50_us: None, flops: Some(400.0) };
        let point = summary(2, 5.0, 5, outcomes, change);
        assert_eq!((point.good_count, point.refused_count, point.failed_count), (2, 1, 2));
        assert_eq!((point.p50_ms, point.p99_ms), (10.0, 190.0));
        assert!((point.items_per_s - 20.0).abs() < 1e-9, "{point:?}");
        // From the first arrival to the last answer there were 200 ms.
        assert_eq!(point.flop_per_s, Some(2_000.0));
    }

    #[test]
    fn a_reading_is_taken_from_a_page_and_another_one_from_it() {
        let page = |flops: u64| {
            format!("# TYPE calor_flops_total counter\ncalor_flops_total {flops}\nx 1\n")
        };
        let (before, after) = (Reading::of(&page(1_000)), Reading::of(&page(3_500)));
        assert_eq!(after.since(&before).flops, Some(2_500.0));
        assert_eq!(after.since(&Reading::of("x 1\n")).flops, None, "no counter, no rate");
    }

    #[test]
    fn a_median_is_of_what_was_added() {
        let page = |counts: [u32; 3]| {
            let [a, b, c] = counts;
            let line = |bound: &str, count| format!("x_bucket{{le=\"{bound}\"}} {count}\n");
            [line("0.0001", a), line("0.0002", b), line("+Inf", c), "x_count 9\n".into()].concat()
        };
        let (before, after) = (buckets(&page([5, 5, 5]), "x"), buckets(&page([5, 15, 15]), "x"));
        assert_eq!(before.len(), 3);
        assert!((median_us(&before, &after).unwrap() - 150.0).abs() < 1e-6);
        assert_eq!(median_us(&after, &after), None);
    }
}
