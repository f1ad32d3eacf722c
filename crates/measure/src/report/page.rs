//! The page of one package.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value as Json;

use super::{Picture, of_case, of_suite};
use crate::error::MeasureError;
use crate::history;
use crate::package::Package;
use crate::pair::{self, Rule, Verdict};
use crate::program::Likeness;
use crate::stats::Interval;
use crate::summary::{ArmSummary, CaseSummary, Summary};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// A whole page around `body`. Its policy lets nothing in from outside.
pub(super) fn framed(title: &str, body: &Markup) -> String {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  img-src data:";
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(policy);
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    button #theme type="button" hidden { "Dark" }
                    (body)
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string()
}

/// The report of a package.
///
/// # Errors
/// When a picture cannot be drawn.
pub fn page(package: &Package) -> Result<String, MeasureError> {
    let Package { summary, suite, .. } = package;
    let mut cases = Vec::new();
    for case in &summary.cases {
        cases.push((case, of_case(case)?));
    }
    let suite_pictures = of_suite(summary)?;
    let body = html! {
        h1 { (suite.name) }
        p.about { (suite.about) }
        (tiles(package))
        (warnings(package))
        nav {
            @for (case, _) in &cases { a href={ "#" (anchor(&case.name)) } { (case.name) } }
            a href="#caches" { "caches" }
            a href="#environment" { "environment" }
        }
        @if package.is_pair() { (decisions(package)) } @else { (overview(summary)) }
        (figures(&suite_pictures))
        @for (case, pictures) in &cases { (of_one_case(case, pictures)) }
        (caches(summary))
        (environment(package))
    };
    Ok(framed(&format!("{} at {}", suite.name, history::label(package)), &body))
}

fn anchor(name: &str) -> String {
    format!("case-{}", name.replace(' ', "-"))
}

fn tiles(package: &Package) -> Markup {
    let failed: usize = package
        .summary
        .cases
        .iter()
        .flat_map(|it| &it.points)
        .flat_map(|it| it.arms.values())
        .map(|it| it.failures.len())
        .sum();
    let gpus = package.environment["gpus"].as_array().map_or(0, Vec::len);
    let machine = match gpus {
        0 => package.environment["host"]["cpu"].as_str().unwrap_or("unknown processor"),
        _ => package.environment["gpus"][0]["model"].as_str().unwrap_or("unknown GPU"),
    };
    let state = match package.manifest.dirty {
        Some(false) => "as committed",
        Some(true) => "with changes",
        None => "unknown state",
    };
    html! {
        ul.tiles {
            li { b { (history::label(package)) } span { "commit, " (state) } }
            li { b { (machine) } span { "machine" } }
            li { b { (package.summary.cases.len()) } span { "cases" } }
            li { b { (package.samples.len()) } span { "processes" } }
            li { b class=[(0 < failed).then_some("bad")] { (failed) } span { "failed" } }
        }
    }
}

fn warnings(package: &Package) -> Markup {
    html! {
        @if package.manifest.dirty != Some(false) {
            p.flag {
                "What was measured is not known to be a commit without changes; no figure of this "
                "page may be quoted."
            }
        }
    }
}

/// Nanoseconds in the unit that leaves few digits.
pub(super) fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        it if it < 1e3 => (ns, "ns"),
        it if it < 1e6 => (ns / 1e3, "µs"),
        it if it < 1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    let text = match value {
        it if it < 10.0 => format!("{value:.2}"),
        it if it < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    };
    format!("{text} {unit}")
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

fn rate(it: f64) -> String {
    if it < 1e5 { format!("{it:.0}") } else { format!("{it:.2e}") }
}

fn mebibytes(it: f64) -> String {
    format!("{:.0} MiB", it / 1_048_576.0)
}

fn cell(value: Option<f64>, text: impl Fn(f64) -> String) -> Markup {
    match value {
        Some(it) => html! { td data-value=(it) { (text(it)) } },
        None => html! { td.quiet data-value="-1" { "–" } },
    }
}

fn factor(it: f64) -> String {
    if it < 10.0 { format!("{it:.2}×") } else { format!("{it:.1}×") }
}

fn factor_cell(it: Option<&Interval>) -> Markup {
    let Some(it) = it else { return html! { td.bad data-value="-1" { "undefined" } } };
    let class = match it {
        it if 1.0 < it.low => Some("good"),
        it if it.high < 1.0 => Some("bad"),
        _ => None,
    };
    html! {
        td data-value=(it.middle) {
            span class=[class] { (factor(it.middle)) }
            " " span.quiet { (format!("{:.2}–{:.2}", it.low, it.high)) }
        }
    }
}

fn overview(summary: &Summary) -> Markup {
    html! {
        h2 { "Speed-ups" }
        p.about {
            "How often faster ours is, as the area under the curve over sizes: both axes are "
            "logarithmic, so 2 means twice as fast over the whole range. Beside it the interval "
            "that holds it in 95 of 100 repetitions. A case with a failed check has none."
        }
        @let arms: Vec<&String> = summary.baselines.keys().collect();
        @if !arms.is_empty() {
            div.scroll { table.sorts {
                thead { tr { th { "case" } @for arm in &arms { th { "over " (arm) } } } }
                tbody {
                    @for case in &summary.cases {
                        @if arms.iter().any(|it| case.speedups.contains_key(*it)) {
                            tr {
                                td.word { a href={ "#" (anchor(&case.name)) } { (case.name) } }
                                @for arm in &arms {
                                    @match case.speedups.get(*arm) {
                                        Some(it) => { (factor_cell(it.area.as_ref())) }
                                        None => { td.quiet data-value="-1" { "–" } }
                                    }
                                }
                            }
                        }
                    }
                    tr {
                        td.word { b { "the suite" } }
                        @for arm in &arms { (factor_cell(summary.baselines[*arm].area.as_ref())) }
                    }
                }
            } }
        }
        h3 { "Ranking" }
        div.scroll { table {
            thead { tr { th { "place" } th.word { "arm" } th { "speed" } th { "cases" } } }
            tbody {
                @for rank in &summary.ranking {
                    tr {
                        td { (rank.place) }
                        td.word { (rank.arm) }
                        (factor_cell(Some(&rank.speed)))
                        td { (rank.case_count) }
                    }
                }
            }
        } }
    }
}

pub(super) fn figures(pictures: &[Picture]) -> Markup {
    html! {
        @if !pictures.is_empty() {
            div.pictures {
                @for it in pictures {
                    figure {
                        (PreEscaped(it.inline()))
                        figcaption { (it.title) }
                    }
                }
            }
        }
    }
}

fn of_one_case(case: &CaseSummary, pictures: &[Picture]) -> Markup {
    html! {
        h2 id=(anchor(&case.name)) { (case.name) }
        p.about { (case.about) }
        (figures(pictures))
        div.scroll { table.sorts {
            thead { tr {
                th { (case.size_unit) } th.word { "arm" } th { "a call" } th { "fastest" }
                th { "middle" } th { "95 %" } th { "first call" } th { "start, warm" }
                th { "start, cold" } th { "items/s" } th { "of the roof" } th { "host memory" }
                th { "processes" } th { "samples" }
            } }
            tbody {
                @for point in &case.points {
                    @for (name, arm) in &point.arms { (arm_row(point.size, name, arm)) }
                }
            }
        } }
        @for point in &case.points {
            @for (name, arm) in &point.arms {
                @for failure in &arm.failures {
                    p.flag { (name) " at " (point.size) ": " (failure) }
                }
            }
        }
        @if !case.speedups.is_empty() {
            div.scroll { table.sorts {
                thead { tr {
                    th { (case.size_unit) }
                    @for arm in case.speedups.keys() { th { "over " (arm) } }
                } }
                tbody {
                    @for point in &case.points {
                        tr {
                            td data-value=(point.size) { (point.size) }
                            @for it in case.speedups.values() {
                                @let found = it.points.iter().find(|it| it.0 == point.size);
                                (factor_cell(found.and_then(|it| it.1.as_ref())))
                            }
                        }
                    }
                }
            } }
        }
    }
}

fn arm_row(size: u64, name: &str, arm: &ArmSummary) -> Markup {
    html! {
        tr {
            td data-value=(size) { (size) }
            td.word { (name) }
            @match arm.observed_ns {
                Some(it) => {
                    td data-value=(it.middle) {
                        (time(it.middle)) " "
                        span.quiet { "±" (percent(0.5 * (it.high - it.low) / it.middle)) }
                    }
                }
                None => { td.bad data-value="-1" { "none" } }
            }
            (cell(arm.min_ns, time)) (cell(arm.median_ns, time)) (cell(arm.p95_ns, time))
            (cell(arm.first_ns, time)) (cell(arm.start_ns, time)) (cell(arm.cold_start_ns, time))
            (cell(arm.items_per_s, rate))
            (cell(arm.roofline_share, percent))
            (cell(arm.peak_host_bytes.map(|it| it as f64), mebibytes))
            td { (arm.process_count) } td { (arm.sample_count) }
        }
    }
}

/// Hits and misses of every cache that an arm counted, at the largest size.
fn caches(summary: &Summary) -> Markup {
    let mut rows = Vec::new();
    for case in &summary.cases {
        for (arm, it) in case.points.last().into_iter().flat_map(|it| &it.arms) {
            for (name, hits) in &it.counters {
                let cache =
                    name.strip_prefix("calor.cache.hits{").and_then(|it| it.strip_suffix('}'));
                let Some(cache) = cache else { continue };
                let misses = it.counters.get(&format!("calor.cache.misses{{{cache}}}"));
                let misses = misses.copied().unwrap_or(0);
                if 0 < hits + misses {
                    rows.push((&case.name, arm, cache.to_owned(), *hits, misses));
                }
            }
        }
    }
    html! {
        h2 id="caches" { "Caches" }
        p.about { "Of the last warm process at each case's largest size." }
        @if rows.is_empty() { p.quiet { "No arm counted any." } } @else {
            div.scroll { table.sorts {
                thead { tr {
                    th { "case" } th.word { "arm" } th.word { "cache" }
                    th { "hits" } th { "misses" } th { "rate" }
                } }
                tbody {
                    @for (case, arm, cache, hits, misses) in &rows {
                        @let part = *hits as f64 / (hits + misses) as f64;
                        tr {
                            td { (case) } td.word { (arm) } td.word { (cache) }
                            td { (hits) } td { (misses) }
                            td data-value=(part) { (percent(part)) }
                        }
                    }
                }
            } }
        }
    }
}

fn decisions(package: &Package) -> Markup {
    let found = pair::decide(
        &package.samples,
        &Rule::STANDARD,
        package.suite.observation,
        package.suite.seed,
    );
    html! {
        h2 { "Head against base" }
        p.about {
            "Each pair is two fresh processes in one round. A change counts when it is larger than "
            "the floor, shows in the fastest processes too, and is confirmed by a second batch."
        }
        @if matches!(package.likeness(), Some(Likeness::Whole | Likeness::Code)) {
            p.flag {
                "Both hold the same code at the same addresses. What times show here has another "
                "cause than the code."
            }
        }
        div.scroll { table.sorts {
            thead { tr {
                th { "case" } th { "size" } th.word { "verdict" } th { "head is slower by" }
                th { "control" } th { "pairs" } th { "false alarms" } th { "seen from" }
            } }
            tbody {
                @for it in &found {
                    @let class = match it.verdict {
                        Verdict::Faster => Some("good"),
                        Verdict::Slower | Verdict::Invalid | Verdict::Incomparable => Some("bad"),
                        Verdict::Same | Verdict::Unproven | Verdict::Contaminated => None,
                    };
                    @let shown = it.batches.first();
                    tr {
                        td { (it.case) } td { (it.size) }
                        td.word { span class=[class] { (it.verdict) } }
                        @match shown {
                            Some(shown) => {
                                td { (change(&shown.effect)) } td { (change(&shown.control)) }
                            }
                            None => { td.quiet { "–" } td.quiet { "–" } }
                        }
                        td { (it.pair_counts[0]) " + " (it.pair_counts[1]) }
                        @match it.power {
                            Some(power) => {
                                td {
                                    (percent(power.false_alarm_rate))
                                    " (at most " (percent(power.false_alarm_max)) ")"
                                }
                                td { (power.detectable.map_or("over 50 %".to_owned(), percent)) }
                            }
                            None => { td.quiet { "–" } td.quiet { "–" } }
                        }
                    }
                }
            }
        } }
    }
}

/// The interval of a logarithm as per cents.
fn change(it: &Interval) -> String {
    let [low, middle, high] = [it.low, it.middle, it.high].map(|it| 100.0 * it.exp_m1());
    format!("{middle:+.1} % ({low:+.1} to {high:+.1})")
}

fn environment(package: &Package) -> Markup {
    let pretty = |it: &Json| format!("{it:#}");
    let versions: Vec<(&String, &String, &String)> = {
        let arms = package.summary.cases.iter().flat_map(|it| &it.points).flat_map(|it| &it.arms);
        let mut all: Vec<_> =
            arms.flat_map(|(arm, it)| it.versions.iter().map(move |(a, b)| (arm, a, b))).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    html! {
        h2 id="environment" { "Environment" }
        @if !versions.is_empty() {
            div.scroll { table {
                thead { tr { th { "arm" } th.word { "part" } th.word { "version" } } }
                tbody { @for (arm, name, version) in &versions {
                    tr { td { (arm) } td.word { (name) } td.word { (version) } }
                } }
            } }
        }
        details { summary { "Machine" } pre { (pretty(&package.environment)) } }
        details { summary { "Run" } pre { (pretty(&package.run)) } }
    }
}
