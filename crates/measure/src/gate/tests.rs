//! Gates on made packages: what holds, what fails, what cannot be told, and what is missing.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::answer::Answer;
use crate::package::tests::made;
use crate::record::tests::sample;
use crate::record::{Outcome, Sample};
use crate::summary::summarize;

fn package(change: impl Fn(&mut Answer, &Sample)) -> Package {
    let place = tempfile::tempdir().unwrap();
    let mut package = made(&place.path().join("p"), 2, 1);
    for sample in &mut package.samples {
        let copy = sample.clone();
        if let Some(answer) = &mut sample.answer {
            answer.counters.insert("calor.compiles".into(), 0);
            answer.counters.insert("hits".into(), 50);
            answer.counters.insert("misses".into(), 0);
            change(answer, &copy);
        }
    }
    package.summary = summarize(&package.suite, &package.samples);
    package
}

fn gates(text: &str) -> GateFile {
    let text = format!("schema = \"calor.gate/1.0\"\n{text}");
    GateFile::parse(Path::new("gate.toml"), &text).unwrap()
}

#[track_caller]
fn check(text: &str, package: &Package, want: Holds, found: &str) {
    let findings = decide(&gates(text), package);
    let row = &findings.rows[0];
    assert_eq!(row.holds, want, "{findings}");
    assert!(row.found.contains(found), "{findings}");
    assert_eq!(
        findings.exit_code(),
        match want {
            Holds::Yes => 0,
            Holds::No => 1,
            Holds::Unknown => 2,
        }
    );
}

const EXACT: &str =
    "[[exact]]\ncase = \"c\"\narm = \"ours\"\ncounter = \"calor.compiles\"\nequals = 0\n";
const RATE: &str = "[[rate]]\ncase = \"c\"\narm = \"ours\"\nhits = \"hits\"\nmisses = \"misses\"\n\
                    min = 0.95\nasked_min = 20\n";
const SPEED: &str = "[[speed]]\ncase = \"c\"\nbaseline = \"peer\"\narea_min = 1.5\n";

#[test]
fn counters_are_exact_in_every_process() {
    check(EXACT, &package(|_, _| ()), Holds::Yes, "0");
    // One process of twelve compiled something.
    let one = package(|it, sample| {
        if sample.round_index == 3 && sample.size == 10 {
            it.counters.insert("calor.compiles".into(), 1);
        }
    });
    check(EXACT, &one, Holds::No, "0 to 1");
    let dead = package(|it, _| it.counters.clear());
    check(EXACT, &dead, Holds::No, "does not count it");
    check(&EXACT.replace("\"c\"", "\"gone\""), &package(|_, _| ()), Holds::No, "was not run");
    check(&EXACT.replace("ours", "theirs"), &package(|_, _| ()), Holds::No, "no arm");
    check(&format!("{EXACT}size = 1\n"), &one, Holds::Yes, "0");
    check(&format!("{EXACT}size = 10\n"), &one, Holds::No, "0 to 1");
    check(&format!("{EXACT}size = 11\n"), &one, Holds::No, "nothing");
    check(&EXACT.replace("equals = 0", "max = 3"), &package(|_, _| ()), Holds::Yes, "0");
}

#[test]
fn what_is_not_counted_needs_a_reason_in_every_process_and_a_gate_that_allows_it() {
    let gate = EXACT.replace("calor.compiles", "call.instructions");
    let lenient = format!("{gate}where_counted = true\n");
    let said = |from: u32| {
        package(move |it, sample| {
            if from <= sample.round_index {
                it.uncounted.insert("call.instructions".into(), "no such unit".into());
            }
        })
    };
    check(&lenient, &said(0), Holds::Yes, "not counted here: no such unit");
    check(&gate, &said(0), Holds::No, "does not count it");
    check(&lenient, &said(1), Holds::No, "does not count it");
    check(&lenient, &package(|_, _| ()), Holds::No, "does not count it");
    // Where it is counted it is held to.
    let counted = package(|it, _| {
        it.uncounted.insert("call.instructions".into(), "no such unit".into());
        it.counters.insert("call.instructions".into(), 7);
    });
    check(&lenient, &counted, Holds::No, "7");
}

#[test]
fn rates_have_bounds_and_nothing_asked_is_invalid() {
    check(RATE, &package(|_, _| ()), Holds::Yes, "100.0 % of 600");
    let set = |hits: i64, misses: i64| {
        package(move |it, _| {
            it.counters.insert("hits".into(), hits);
            it.counters.insert("misses".into(), misses);
        })
    };
    check(RATE, &set(0, 0), Holds::Unknown, "invalid");
    check(RATE, &set(40, 10), Holds::No, "80.0 %");
    // All hits, but too few to promise 95 %.
    check(RATE, &set(2, 0), Holds::Unknown, "100.0 % of 24");
}

#[test]
fn floors_hold_the_lower_end() {
    check(SPEED, &package(|_, _| ()), Holds::Yes, "2.00×");
    check(&SPEED.replace("1.5", "2.5"), &package(|_, _| ()), Holds::No, "2.00×");
    check(&SPEED.replace("peer", "nobody"), &package(|_, _| ()), Holds::No, "was not run");
    let suite = "[[suite]]\nsuite = \"small\"\nbaseline = \"peer\"\narea_min = 1.9\n";
    check(suite, &package(|_, _| ()), Holds::Yes, "2.00×");
    let noisy = package(|it, sample| {
        if sample.arm == "peer" && sample.round_index % 2 == 0 {
            it.samples_ns.iter_mut().for_each(|it| *it /= 2);
        }
    });
    check(SPEED, &noisy, Holds::Unknown, "×");
}

#[test]
fn a_failed_process_fails_the_gates_whatever_they_ask() {
    let mut package = package(|_, _| ());
    package.samples[3].outcome = Outcome::WrongValue;
    package.samples[3].why = Some("another result".into());
    package.summary = summarize(&package.suite, &package.samples);
    let findings = decide(&gates(EXACT), &package);
    let last = findings.rows.last().unwrap();
    assert!(last.holds == Holds::No && last.found.contains("another result"), "{findings}");
    // Its curve has no area either.
    check(SPEED, &package, Holds::No, "undefined");
}

/// A pair in which head takes a fifth longer, both times, with what its programs hold.
fn slow_pair(sides: Option<[&str; 2]>) -> Package {
    let mut package = package(|_, _| ());
    package.suite = pair::as_pair(&package.suite, 10);
    package.run["kind"] = "pair".into();
    if let Some([base, head]) = sides {
        let side = |data: &str| json!({ "code_blake3": "c", "data_blake3": data });
        package.run["revision"]["sides"] = json!({ "base": side(base), "head": side(head) });
    }
    package.samples.clear();
    for (batch, round) in [0, 1].into_iter().flat_map(|it| (0..10).map(move |round| (it, round))) {
        for (side, ns) in [("base", 1_000_000), ("head", 1_200_000), ("control", 1_000_000)] {
            for size in [1, 10] {
                let mut one = sample(&format!("ours {side}"), size, round, ns);
                one.batch_index = batch;
                package.samples.push(one);
            }
        }
    }
    package
}

#[test]
fn the_same_code_is_not_called_slower() {
    check("", &slow_pair(None), Holds::No, "slower: +20.0 %");
    let other = json!({ "code_blake3": "d", "data_blake3": "x" });
    let mut package = slow_pair(Some(["x", "y"]));
    check("", &package, Holds::Unknown, "slower by times, but both hold the same code");
    assert_eq!(decide(&gates(""), &package).rows[0].verdict, Some(Verdict::Unproven));
    package.run["revision"]["sides"]["head"] = other;
    check("", &package, Holds::No, "slower: +20.0 %");
}

const SAME: &str = "[[same]]\ncase = \"c\"\nbase = \"peer\"\nhead = \"ours\"\n\
                    control = \"again\"\neffect_min = 0.01\n";

/// Twelve rounds of ours, its peer and a control, each so many parts of a million slower.
fn arms_that_take([ours, again]: [u64; 2]) -> Package {
    let mut package = package(|_, _| ());
    let text = crate::suite::tests::SMALL
        .replace("[[cases]]", "[arms.again]\nrole = \"control\"\ncommand = [\"true\"]\n[[cases]]");
    package.suite = crate::suite::Suite::parse(Path::new("s.toml"), &text).unwrap();
    package.samples.clear();
    for round in 0..12 {
        for size in [1, 10] {
            let noise = u64::from(round * 7 % 5) * 100;
            for (arm, more) in [("ours", ours), ("peer", 0), ("again", again)] {
                let ns = 1_000_000 + more + noise;
                package.samples.push(sample(arm, size, round, ns));
            }
        }
    }
    package.summary = summarize(&package.suite, &package.samples);
    package
}

#[test]
fn arms_that_must_be_the_same_are_decided_as_a_pair_is() {
    check(SAME, &arms_that_take([0, 0]), Holds::Yes, "same: +0.0 %");
    check(SAME, &arms_that_take([9_000, 0]), Holds::Yes, "same: +0.9 %");
    check(SAME, &arms_that_take([20_000, 0]), Holds::No, "slower: +2.0 %");
    check(SAME, &arms_that_take([0, 50_000]), Holds::Unknown, "contaminated");
    check(&SAME.replace("again", "nobody"), &arms_that_take([0, 0]), Holds::No, "no arm");
    let more = format!("{SAME}pairs_min = 13\n");
    check(&more, &arms_that_take([0, 0]), Holds::No, "12 rounds, 13 asked for");
    let rows = decide(&gates(SAME), &arms_that_take([0, 0])).rows;
    assert_eq!(rows.len(), 2, "one for each size");
    assert!(rows[0].false_alarm_max.is_some() && rows[0].detectable.is_some());
}

#[test]
fn no_gate_at_all_cannot_tell() {
    check("", &package(|_, _| ()), Holds::Unknown, "has none");
}

#[test]
fn gates_that_cannot_fail_are_refused() {
    for (text, want) in [
        (EXACT.replace("equals = 0\n", ""), "allows everything"),
        (RATE.replace("min = 0.95", "min = 1.0"), "cannot"),
        (RATE.replace("asked_min = 20", "asked_min = 0"), "cannot"),
        (SPEED.replace("1.5", "0"), "above 0"),
        ("[[pair]]\neffect_min = 0.0001".into(), "0.005"),
        (SAME.replace("0.01", "0.001"), "0.005"),
        ("[[tea]]\n".into(), "tea"),
    ] {
        let text = format!("schema = \"calor.gate/1.0\"\n{text}");
        let err = GateFile::parse(Path::new("gate.toml"), &text).unwrap_err().to_string();
        assert!(err.contains(want), "{err}");
    }
}

#[test]
fn findings_read_well_everywhere() {
    let one = decide(&gates(&format!("{EXACT}{SPEED}")), &package(|_, _| ()));
    let table = one.to_string();
    assert!(table.contains("ok") && table.contains("2 hold, 0 failed"), "{table}");
    assert!(one.markdown().contains("| ok | c, ours: calor.compiles | exactly 0 | 0 | exact |"));
    let two = decide(&gates(&SPEED.replace("1.5", "3")), &package(|_, _| ()));
    let junit = two.junit().unwrap();
    assert!(junit.contains("<failure") && junit.contains("speed: c over peer"), "{junit}");
    let mut odd = two;
    odd.rows[0].found = "a | b <b>\n\u{0}".into();
    assert!(odd.markdown().contains("a \\| b &lt;b>"));
    assert!(!odd.junit().unwrap().contains("<b>"));
}
