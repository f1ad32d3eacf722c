//! `calor load`: load on a running server, and what came of it.

use std::time::Duration;

use calor_embed::{ModelId, SyntheticDataGenerator};
use calor_server::load::{
    LoadError, LoadOptions, LoadPoint, LoadSequence, run as load, run_one_by_one,
};
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
    if let Some(count) = arguments.one_by_one {
        return one_by_one(arguments, count);
    }
    let most: f64 = arguments.rates.iter().map(|it| it * arguments.seconds).sum();
    let duration = Duration::try_from_secs_f64(arguments.seconds)
        .map_err(|err| Failure::usage(format!("--seconds: {err}")))?;
    // Somewhat more than will be due, so that no text comes twice.
    let count = (1.2 * most) as usize + 100;
    let options = options(arguments, count.min(BODY_COUNT_MAX), duration);
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
    let points = points.map_err(failure)?;
    match failed {
        Some(failed) => Err(failed),
        None if points.iter().all(|it| it.failed_count == 0) => Ok(Exit::Done),
        None => Ok(Exit::SomeItems),
    }
}

fn failure(err: LoadError) -> Failure {
    match err {
        LoadError::Setting { .. } => Failure::usage(chain(&err)),
        _ => Failure::new(Exit::Environment, chain(&err)),
    }
}

fn options(arguments: &LoadArguments, body_count: usize, duration: Duration) -> LoadOptions {
    LoadOptions {
        address: arguments.address,
        path: arguments.path.clone(),
        bodies: bodies(arguments, body_count),
        item_count: arguments.items,
        api_key: arguments.api_key.clone(),
        rates: arguments.rates.clone(),
        duration,
    }
}

/// Requests one after another.
fn one_by_one(arguments: &LoadArguments, count: usize) -> Result<Exit, Failure> {
    let sequence = run_one_by_one(&options(arguments, count, Duration::ZERO)).map_err(failure)?;
    match arguments.json {
        true => answer::line(json!({
            "failed_count": sequence.failed_count,
            "first_ms": sequence.first_ms(),
            "first_100_p95_ms": sequence.first_p95_ms(),
            "steady_p50_ms": sequence.steady_ms(50),
            "steady_p95_ms": sequence.steady_ms(95),
            "outside_p50_us": sequence.outside_p50_us(),
            "steps_ms": sequence.steps_ms,
            "walls_ms": sequence.walls_ms,
            "outside_us": sequence.outside_us,
        }))?,
        false => said(&sequence)?,
    }
    Ok(if sequence.failed_count == 0 { Exit::Done } else { Exit::SomeItems })
}

fn said(sequence: &LoadSequence) -> Result<(), Failure> {
    let number = |it: Option<f64>| it.map_or("-".into(), |it| format!("{it:.2}"));
    let good_count = sequence.walls_ms.len();
    answer::line(format!("{good_count} answered, {} failed", sequence.failed_count))?;
    for (name, value) in [
        ("the first, ms", sequence.first_ms()),
        ("first 100, p95 ms", sequence.first_p95_ms()),
        ("the others, p50 ms", sequence.steady_ms(50)),
        ("the others, p95 ms", sequence.steady_ms(95)),
        ("outside programs, p50 us", sequence.outside_p50_us()),
    ] {
        answer::line(format!("{name:<26} {:>9}", number(value)))?;
    }
    for (name, ms) in &sequence.steps_ms {
        answer::line(format!("  {name:<24} {ms:>9.3}"))?;
    }
    Ok(())
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
