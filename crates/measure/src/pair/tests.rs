//! The rule of pairs on made times: how often it cries wolf, and what it finds.

use super::*;
use crate::record::tests::sample;

/// Times of processes as a shared machine gives them: a slow drift that all arms of a round see,
/// noise of their own, and now and then a disturbance.
fn batch(len: usize, slowdown: f64, draw: &mut Draw) -> Batch {
    let mut drift = 0.0;
    let mut round = || {
        drift = 0.9 * drift + 0.05 * draw.normal();
        let mut one = |factor: f64| {
            let spike = if draw.below(12) == 0 { draw.unit() } else { 0.0 };
            1e6 * factor * (drift + 0.015 * draw.normal().abs() + spike).exp()
        };
        [one(1.0), one(1.0 + slowdown), one(1.0)]
    };
    Batch { rounds: (0..len).map(|_| round()).collect() }
}

fn compare(slowdown: f64, draw: &mut Draw) -> Verdict {
    let rule = Rule { resample_count: 500, ..Rule::STANDARD };
    let first = batch(20, slowdown, draw).shows(&rule, draw);
    let second = batch(20, slowdown, draw).shows(&rule, draw);
    verdict(first.as_ref(), second.as_ref())
}

#[test]
fn a_hundred_null_comparisons_raise_at_most_five_alarms() {
    for seed in 0..3 {
        let mut draw = Draw::new(seed);
        let alarm = |it: &Verdict| matches!(it, Verdict::Slower | Verdict::Faster);
        let alarms = (0..100).map(|_| compare(0.0, &mut draw)).filter(alarm).count();
        assert!(alarms <= 5, "{alarms} alarms with seed {seed}");
    }
}

#[test]
fn five_per_cent_are_found_in_nine_of_ten_and_twenty_always() {
    let mut draw = Draw::new(11);
    let found = (0..100).filter(|_| compare(0.05, &mut draw) == Verdict::Slower).count();
    assert!(90 <= found, "{found} of 100");
    assert!((0..100).all(|_| compare(0.20, &mut draw) == Verdict::Slower));
    assert!((0..50).all(|_| compare(-0.20, &mut draw) == Verdict::Faster));
}

#[test]
fn a_disturbed_control_contaminates() {
    let mut rounds = batch(20, 0.2, &mut Draw::new(1));
    rounds.rounds.iter_mut().for_each(|it| it[2] *= 1.3);
    let shown = rounds.shows(&Rule::STANDARD, &mut Draw::new(0)).unwrap();
    assert_eq!(shown.verdict, Verdict::Contaminated);
}

#[test]
fn little_noise_is_the_same_and_few_rounds_are_nothing() {
    let rounds = (0..20).map(|it| [1e6, 1e6 + f64::from(it), 1e6 + 3.0]).collect();
    let shown = Batch { rounds }.shows(&Rule::STANDARD, &mut Draw::new(0)).unwrap();
    assert_eq!(shown.verdict, Verdict::Same);
    assert_eq!(batch(7, 0.5, &mut Draw::new(0)).shows(&Rule::STANDARD, &mut Draw::new(0)), None);
    assert_eq!(verdict(None, None), Verdict::Unproven);
}

#[test]
fn a_change_has_to_be_confirmed() {
    let shown =
        |slowdown| batch(20, slowdown, &mut Draw::new(5)).shows(&Rule::STANDARD, &mut Draw::new(0));
    let (slow, null) = (shown(0.2).unwrap(), shown(0.0).unwrap());
    assert_eq!(verdict(Some(&slow), Some(&slow)), Verdict::Slower);
    assert_eq!(verdict(Some(&slow), Some(&null)), Verdict::Unproven);
    assert_eq!(verdict(Some(&slow), None), Verdict::Unproven);
}

#[test]
fn a_rule_knows_what_it_sees() {
    let mut draw = Draw::new(2);
    let quiet = [batch(20, 0.0, &mut draw), Batch::default()];
    let found = power(&quiet, &Rule::STANDARD, &mut draw).unwrap();
    assert!(found.false_alarm_rate <= 0.025 && found.false_alarm_rate <= found.false_alarm_max);
    assert!(found.detectable.unwrap() <= 0.05, "{found:?}");
    let mut loud = quiet.clone();
    for round in &mut loud[0].rounds {
        round.iter_mut().for_each(|it| *it *= (0.4 * draw.normal()).exp());
    }
    let found_loud = power(&loud, &Rule::STANDARD, &mut draw).unwrap();
    assert!(found.detectable < found_loud.detectable || found_loud.detectable.is_none());
}

#[test]
fn a_failed_process_is_no_verdict_on_times() {
    let mut samples = Vec::new();
    for round in 0..20 {
        for side in ARMS {
            samples.push(sample(&format!("ours {side}"), 1, round, 1_000_000));
        }
    }
    let good = decide(&samples, &Rule::STANDARD, Observation::Minimum, 0);
    assert_eq!((good.len(), good[0].verdict), (1, Verdict::Same));
    assert_eq!(good[0].pair_counts, [20, 0]);
    samples[4].outcome = Outcome::WrongValue;
    let bad = decide(&samples, &Rule::STANDARD, Observation::Minimum, 0);
    assert_eq!((bad[0].verdict, bad[0].failures.len()), (Verdict::Invalid, 1));
}

#[test]
fn a_suite_becomes_a_pair_of_its_own_arm() {
    let path = std::path::Path::new("s.toml");
    let suite = Suite::parse(path, crate::suite::tests::SMALL).unwrap();
    let pair = as_pair(&suite, 20);
    assert_eq!(pair.cases[0].arms, ["ours base", "ours head", "ours control"]);
    assert_eq!(pair.arms["ours head"].command[0], "{head}");
    assert_eq!(pair.arms["ours control"].command[0], "{base}");
    let rounds = pair.rounds_of(&pair.cases[0]);
    assert_eq!((rounds.count_min, rounds.count_max, rounds.cold_count), (20, 20, 0));
}
