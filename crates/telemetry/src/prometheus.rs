//! Counters and summed events as Prometheus text (exposition format 0.0.4): names, types and help
//! come from the tables. Serving it over a network is the server's.

use std::fmt::Write as _;

use crate::counter::{Counter, CounterSpec, Growth, Snapshot, registry};
use crate::event::Cache;
use crate::tally::Sum;

/// A family of samples whose values the caller has, such as a histogram of requests.
#[derive(Clone, Debug)]
pub struct Family<'a> {
    /// Name, with unit and `_total` where it has them.
    pub name: &'a str,
    /// What it means.
    pub help: &'a str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'a str,
    /// Its samples.
    pub samples: &'a [Sample<'a>],
}

/// Behind the name (`_bucket`, `_sum`, `_count` or nothing), labels, and value.
pub type Sample<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

/// The text of one scrape: every counter of `snapshot`, every sum of `events`, then `families`.
/// `labels` stand on every sample: the device, the version.
///
/// ```
/// use calor_telemetry::{Counters, Tally, prometheus};
/// let text = prometheus::render(&Counters::new().snapshot(), &Tally::new().sums(), &[], &[]);
/// assert!(text.contains("# TYPE calor_programs_total counter\ncalor_programs_total 0\n"));
/// ```
pub fn render(
    snapshot: &Snapshot,
    events: &[Sum],
    families: &[Family<'_>],
    labels: &[(&str, &str)],
) -> String {
    let mut out = String::new();
    let (plain, per_cache) = registry();
    let all: Vec<Counter> = Counter::all().collect();
    for (spec, counter) in plain.iter().zip(&all) {
        head(&mut out, spec);
        sample(&mut out, &spec.prometheus(), labels, &[], &snapshot.get(*counter).to_string());
    }
    for spec in per_cache {
        head(&mut out, spec);
        for counter in &all {
            if let Counter::Cache(cache, _) = counter
                && counter.spec().name == spec.name
            {
                let own = [("cache", cache_name(*cache))];
                let value = snapshot.get(*counter).to_string();
                sample(&mut out, &spec.prometheus(), labels, &own, &value);
            }
        }
    }
    for sum in events {
        of_event(&mut out, sum, labels);
    }
    for family in families {
        let _ = writeln!(out, "# HELP {} {}", family.name, escaped(family.help, false));
        let _ = writeln!(out, "# TYPE {} {}", family.name, family.kind);
        for (suffix, own, value) in family.samples {
            let name = format!("{}{suffix}", family.name);
            sample(&mut out, &name, labels, own, &number(*value));
        }
    }
    out
}

fn cache_name(cache: Cache) -> &'static str {
    cache.name()
}

fn head(out: &mut String, spec: &CounterSpec) {
    let kind = match spec.growth {
        Growth::Total => "counter",
        Growth::Level => "gauge",
    };
    let name = spec.prometheus();
    let _ = writeln!(out, "# HELP {name} {}", escaped(spec.doc.trim(), false));
    let _ = writeln!(out, "# TYPE {name} {kind}");
}

fn of_event(out: &mut String, sum: &Sum, labels: &[(&str, &str)]) {
    let name = format!("calor_event_{}_total", sum.event);
    let _ = writeln!(out, "# HELP {name} {}", escaped(sum.doc.trim(), false));
    let _ = writeln!(out, "# TYPE {name} counter");
    sample(out, &name, labels, &[], &sum.count.to_string());
    if let Some(wall_ns) = sum.wall_ns {
        let name = format!("calor_event_{}_seconds_total", sum.event);
        let _ = writeln!(out, "# HELP {name} Host time of these events.");
        let _ = writeln!(out, "# TYPE {name} counter");
        sample(out, &name, labels, &[], &number(wall_ns as f64 / 1e9));
    }
    let mut field = "";
    for (of, value, count) in &sum.values {
        let name = format!("calor_event_{}_{of}_total", sum.event);
        if *of != field {
            field = of;
            let _ = writeln!(out, "# HELP {name} These events by {of}.");
            let _ = writeln!(out, "# TYPE {name} counter");
        }
        sample(out, &name, labels, &[(of, value)], &count.to_string());
    }
}

fn sample(
    out: &mut String,
    name: &str,
    common: &[(&str, &str)],
    own: &[(&str, &str)],
    value: &str,
) {
    out.push_str(name);
    for (index, (label, text)) in common.iter().chain(own).enumerate() {
        out.push(if index == 0 { '{' } else { ',' });
        let _ = write!(out, "{label}=\"{}\"", escaped(text, true));
    }
    if !(common.is_empty() && own.is_empty()) {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}

fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

fn number(value: f64) -> String {
    match value {
        it if it.is_nan() => "NaN".into(),
        it if it.is_infinite() => if 0.0 < it { "+Inf" } else { "-Inf" }.into(),
        it => it.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::counter::Plain;
    use crate::recorder::Recorder;
    use crate::tally::one_of_each;
    use crate::{Counters, Tally};

    fn text() -> String {
        let (counters, tally) = (Counters::new(), Tally::new());
        counters.add(Plain::Tokens, 5);
        counters.cache_asked(Cache::Program, true);
        one_of_each().into_iter().for_each(|it| tally.record(it));
        let le: &[(&str, &str)] = &[("le", "0.005")];
        let family = Family {
            name: "calor_request_duration_seconds",
            help: "a \\ and\na break",
            kind: "histogram",
            samples: &[("_bucket", le, 3.0), ("_sum", &[], 0.5), ("_count", &[], 3.0)],
        };
        let labels = [("version", "0.1 \"x\"\n")];
        render(&counters.snapshot(), &tally.sums(), &[family], &labels)
    }

    /// The grammar of the text format, as its page states it.
    #[test]
    fn every_line_is_of_the_format() {
        let is_name = |it: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
            !it.is_empty() && !it.starts_with(|c: char| c.is_ascii_digit()) && it.chars().all(fits)
        };
        let mut types: BTreeMap<String, String> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for line in text().lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(
                    is_name(name) && ["counter", "gauge", "histogram"].contains(&kind),
                    "{line}"
                );
                assert!(types.insert(name.into(), kind.into()).is_none(), "{line} twice");
                continue;
            }
            if line.starts_with("# HELP ") {
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().unwrap();
            assert!(is_name(name), "{line}");
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|it| name.strip_suffix(it));
            let kind = types.get(name).or_else(|| types.get(family.unwrap_or(name)));
            assert!(kind.is_some(), "{line} has no type above it");
            assert_eq!(name.ends_with("_total"), kind.unwrap() == "counter", "{line}");
            assert!(seen.insert(series.to_owned()), "{line} twice");
        }
    }

    #[test]
    fn values_labels_and_escapes_are_there() {
        let text = text();
        for line in [
            "calor_tokens_total{version=\"0.1 \\\"x\\\"\\n\"} 5",
            "calor_cache_hits_total{version=\"0.1 \\\"x\\\"\\n\",cache=\"program\"} 1",
            "calor_request_duration_seconds_bucket{version=\"0.1 \\\"x\\\"\\n\",le=\"0.005\"} 3",
            "# HELP calor_request_duration_seconds a \\\\ and\\na break",
            "# TYPE calor_memory_arena_bytes gauge",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        assert!(text.contains("calor_event_program_ran_seconds_total{"));
        assert_eq!(number(f64::INFINITY), "+Inf");
    }
}
