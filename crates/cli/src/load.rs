//! `calor load`: load on a running server, and what came of it.

use std::time::Duration;

use calor_embed::{ModelId, SyntheticDataGenerator};
use calor_server::load::{LoadError, LoadOptions, LoadPoint, run as load};
use serde_json::{Map, Value as Json, json};

use crate::answer;
use crate::arguments::LoadArguments;
use crate::exit::{Exit, Failure, chain};

/// Most bodies that are made; with more requests they come again.
const BODY_COUNT_MAX: usize = 20_000;

/// Makes load and prints a row for each rate.
///
/// # Errors
/// For settings under which nothing is sent, and a server that is not there.
pub(crate) fn run(arguments: &LoadArguments) -> Result<Exit, Failure> {
    let most: f64 = arguments.rates.iter().map(|it| it * arguments.seconds).sum();
    let duration = Duration::try_from_secs_f64(arguments.seconds)
        .map_err(|err| Failure::usage(format!("--seconds: {err}")))?;
    // Somewhat more than will be due, so that no text comes twice.
    let count = (1.2 * most) as usize + 100;
    let options = LoadOptions {
        address: arguments.address,
        path: arguments.path.clone(),
        bodies: bodies(arguments, count.min(BODY_COUNT_MAX)),
        item_count: arguments.items,
        api_key: arguments.api_key.clone(),
        rates: arguments.rates.clone(),
        duration,
    };
    if !arguments.json {
        answer::line(format!(
            "{:>10} {:>10} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9} {:>11} {:>9}",
            "offered/s",
            "items/s",
            "good",
            "refused",
            "failed",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "outside us",
            "Tflop/s"
        ))?;
    }
    let mut failed = None;
    let points = load(&options, |point| {
        let line = if arguments.json { in_json(point).to_string() } else { row(point) };
        failed = failed.take().or(answer::line(line).err());
    });
    match (points, failed) {
        (Err(err @ LoadError::Setting { .. }), _) => Err(Failure::usage(chain(&err))),
        (Err(err), _) => Err(Failure::new(Exit::Environment, chain(&err))),
        (_, Some(failed)) => Err(failed),
        (Ok(points), None) => Ok(match points.iter().all(|it| it.failed_count == 0) {
            true => Exit::Done,
            false => Exit::SomeItems,
        }),
    }
}

/// Bodies of requests; every text is another.
fn bodies(arguments: &LoadArguments, count: usize) -> Vec<String> {
    let texts = SyntheticDataGenerator::new(arguments.seed);
    let is_openai = arguments.path.ends_with("/embeddings");
    let body = |number: usize| {
        let text = |item: usize| {
            let place = number * arguments.items + item;
            let words = texts.at(ModelId::Semantic, place);
            Json::from(words.generate_text(arguments.words, arguments.words))
        };
        let inputs = Json::from((0..arguments.items).map(text).collect::<Vec<_>>());
        let mut body = Map::new();
        body.insert(if is_openai { "input" } else { "inputs" }.into(), inputs);
        if is_openai {
            body.insert("encoding_format".into(), "base64".into());
            body.insert("model".into(), arguments.model.as_deref().unwrap_or("fused").into());
        }
        Json::from(body).to_string()
    };
    (0..count).map(body).collect()
}

fn row(point: &LoadPoint) -> String {
    let outside = point.overhead_p50_us.map_or("-".into(), |it| format!("{it:.0}"));
    let tflops = point.flop_per_s.map_or("-".into(), |it| format!("{:.3}", it / 1e12));
    format!(
        "{:>10.1} {:>10.1} {:>8} {:>8} {:>8} {:>9.2} {:>9.2} {:>9.2} {outside:>11} {tflops:>9}",
        point.offered_per_s,
        point.items_per_s,
        point.good_count,
        point.refused_count,
        point.failed_count,
        point.p50_ms,
        point.p95_ms,
        point.p99_ms,
    )
}

fn in_json(point: &LoadPoint) -> Json {
    json!({
        "offered_per_s": point.offered_per_s,
        "items_per_s": point.items_per_s,
        "sent_count": point.sent_count,
        "good_count": point.good_count,
        "refused_count": point.refused_count,
        "failed_count": point.failed_count,
        "p50_ms": point.p50_ms,
        "p95_ms": point.p95_ms,
        "p99_ms": point.p99_ms,
        "overhead_p50_us": point.overhead_p50_us,
        "flop_per_s": point.flop_per_s,
    })
}
