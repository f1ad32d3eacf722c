//! What headers say: how urgent a request is, and where its answer came from.

use std::fmt::Write as _;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use calor_embed::batching::Priority;

use crate::engine::About;
use crate::refusal::Refusal;
use crate::service::{Summary, Terms};

/// `query` or `bulk`.
pub(crate) const PRIORITY: &str = "x-calor-priority";
/// Milliseconds after which the answer is of no use.
const TIMEOUT: &str = "x-calor-timeout-ms";

/// How urgent a request is.
pub(super) fn terms(headers: &HeaderMap) -> Result<Terms, Refusal> {
    let text = |name: &str| headers.get(name).map(|it| it.to_str().unwrap_or("?"));
    let priority = match text(PRIORITY) {
        None => Priority::Query,
        Some(it) => priority(it)?,
    };
    let timeout = match text(TIMEOUT) {
        None => None,
        Some(it) => match it.parse() {
            Ok(ms) if 0 < ms => Some(Duration::from_millis(ms)),
            _ => {
                let (value, want) = (it.chars().take(40).collect(), "milliseconds are needed");
                return Err(Refusal::Field { field: TIMEOUT, value, want });
            }
        },
    };
    Ok(Terms { priority, timeout })
}

/// A priority by its word.
pub(crate) fn priority(word: &str) -> Result<Priority, Refusal> {
    match word {
        "query" => Ok(Priority::Query),
        "bulk" => Ok(Priority::Bulk),
        other => {
            let (value, want) = (other.chars().take(40).collect(), "it is `query` or `bulk`");
            Err(Refusal::Field { field: PRIORITY, value, want })
        }
    }
}

/// What a request took, step by step, in milliseconds, as pages and tools of browsers show it.
/// `handling_ns` is from its head to that of its answer.
pub(super) fn timing(summary: &Summary, handling_ns: u64) -> Option<HeaderValue> {
    let steps = [
        ("tokenize", Some(summary.tokenization_ns)),
        ("queue", Some(summary.queue_ns)),
        ("batch", Some(summary.inference_ns)),
        ("prepare", summary.steps.map(|it| it.prepare_ns)),
        ("compute", summary.steps.map(|it| it.compute_ns)),
        ("device", summary.steps.map(|it| it.group.device_ns)),
        ("program", summary.steps.map(|it| it.group.program_ns())),
        ("output", summary.steps.map(|it| it.group.output_ns)),
        ("wake", summary.steps.map(|_| summary.wake_ns)),
        ("total", Some(handling_ns)),
    ];
    let mut text = String::with_capacity(192);
    for (name, ns) in steps {
        if let Some(ns) = ns {
            let separator = if text.is_empty() { "" } else { ", " };
            // Nothing goes wrong when a string is written to.
            let _ = write!(text, "{separator}{name};dur={:.3}", ns as f64 / 1e6);
        }
    }
    HeaderValue::try_from(text).ok()
}

/// An answer with where it came from: device, precision, batch, cache and times in ms.
pub(super) fn with_provenance(
    answer: impl IntoResponse,
    summary: &Summary,
    about: &About,
) -> Response {
    let mut response = answer.into_response();
    response.extensions_mut().insert(*summary);
    let headers = response.headers_mut();
    let kind = if about.device == "cpu" { "cpu" } else { "gpu+optimized" };
    headers.insert("x-compute-type", HeaderValue::from_static(kind));
    headers.insert("x-calor-precision", HeaderValue::from_static(about.precision));
    for (name, value) in [
        ("x-compute-time", (summary.tokenization_ns + summary.inference_ns) / 1_000_000),
        ("x-compute-characters", summary.char_count as u64),
        ("x-compute-tokens", summary.token_count as u64),
        ("x-total-time", summary.total_ns / 1_000_000),
        ("x-tokenization-time", summary.tokenization_ns / 1_000_000),
        ("x-queue-time", summary.queue_ns / 1_000_000),
        ("x-inference-time", summary.inference_ns / 1_000_000),
        ("x-calor-batch-items", summary.batch_count as u64),
        ("x-calor-cached-items", summary.hit_count as u64),
    ] {
        headers.insert(name, HeaderValue::from(value));
    }
    response
}
