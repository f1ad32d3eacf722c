//! Requests one after another, and where the time of each goes: what a caller sees of a server that
//! has nothing else to do, from the first request after it is ready.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, StatusCode};
use calor_telemetry::Stopwatch;

use super::{Client, LoadError, LoadOptions, on_runtime};

/// Requests that are the first ones.
const FIRST_COUNT: usize = 100;

/// What requests one after another took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadSequence {
    /// Of each answer with 200, in milliseconds and in their order.
    pub walls_ms: Vec<f64>,
    /// Answers with another status, and requests without one.
    pub failed_count: usize,
    /// For each answer that tells what its program took: microseconds in the server outside it.
    pub outside_us: Vec<f64>,
    /// Median milliseconds of each step, as the server's `server-timing` names them.
    pub steps_ms: BTreeMap<String, f64>,
}

impl LoadSequence {
    /// The very first.
    pub fn first_ms(&self) -> Option<f64> {
        self.walls_ms.first().copied()
    }

    /// 95 of the first hundred took at most this; none for fewer.
    pub fn first_p95_ms(&self) -> Option<f64> {
        percentile(self.walls_ms.get(..FIRST_COUNT)?, 95)
    }

    /// So many of a hundred behind the first hundred took at most this; none where there are none.
    pub fn steady_ms(&self, percent: usize) -> Option<f64> {
        percentile(self.walls_ms.get(FIRST_COUNT..)?, percent)
    }

    /// Median of [`LoadSequence::outside_us`].
    pub fn outside_p50_us(&self) -> Option<f64> {
        percentile(&self.outside_us, 50)
    }
}

/// Sends every body once, the next when the last was answered; blocks until it is over.
///
/// # Errors
/// As [`super::run`].
pub fn run_one_by_one(options: &LoadOptions) -> Result<LoadSequence, LoadError> {
    options.check()?;
    on_runtime(async {
        let client = Client::new(options).await?;
        let mut out = LoadSequence::default();
        let mut steps: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for body in &options.bodies {
            let watch = Stopwatch::start();
            let answer = client.ask("POST", &options.path, body.clone()).await;
            let wall_ms = watch.elapsed_ns() as f64 / 1e6;
            let Some(answer) = answer.filter(|it| it.status == StatusCode::OK) else {
                out.failed_count += 1;
                continue;
            };
            out.walls_ms.push(wall_ms);
            let told = timing(&answer.headers);
            if let (Some(total), Some(program)) = (told.get("total"), told.get("program")) {
                out.outside_us.push(1e3 * (total - program));
            }
            for (name, ms) in told {
                steps.entry(name.to_owned()).or_default().push(ms);
            }
        }
        let median = |(name, all): (String, Vec<f64>)| Some((name, percentile(&all, 50)?));
        out.steps_ms = steps.into_iter().filter_map(median).collect();
        Ok(out)
    })
}

/// Steps and their milliseconds in `server-timing`.
fn timing(headers: &HeaderMap) -> BTreeMap<&str, f64> {
    let text = headers.get("server-timing").and_then(|it| it.to_str().ok()).unwrap_or_default();
    text.split(',')
        .filter_map(|it| {
            let (name, value) = it.trim().split_once(";dur=")?;
            Some((name, value.parse().ok()?))
        })
        .collect()
}

fn percentile(all: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = all.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_first_hundred_are_told_apart_from_the_others() {
        let walls_ms: Vec<f64> =
            (0..300).map(|it| if it < 100 { 9.0 } else { f64::from(it) }).collect();
        let sequence = LoadSequence { walls_ms, ..LoadSequence::default() };
        assert_eq!((sequence.first_ms(), sequence.first_p95_ms()), (Some(9.0), Some(9.0)));
        assert_eq!((sequence.steady_ms(50), sequence.steady_ms(95)), (Some(199.0), Some(289.0)));
        let few = LoadSequence { walls_ms: vec![1.0; 99], ..LoadSequence::default() };
        assert_eq!((few.first_p95_ms(), few.steady_ms(50)), (None, None));
    }

    #[test]
    fn steps_are_read_from_a_header() {
        let mut headers = HeaderMap::new();
        assert_eq!(timing(&headers), BTreeMap::new());
        let text = HeaderValue::from_static("tokenize;dur=0.061, program;dur=1.9, odd, x;dur=y");
        headers.insert("server-timing", text);
        assert_eq!(timing(&headers), BTreeMap::from([("tokenize", 0.061), ("program", 1.9)]));
    }
}
