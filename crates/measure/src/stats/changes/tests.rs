//! Change points against the published golden series, in the published form and in ours.

use super::*;

/// Throughput of TigerBeetle over 365 commits, as `apache/otava` publishes it (Apache-2.0).
const HISTORY: &str = include_str!("../history-365.txt");

const SMALL: [f64; 14] =
    [0.3, 2.4, 1.5, -0.9, -0.5, 99.7, 98.3, 99.1, 149.0, 149.7, 149.5, 149.1, 148.8, 150.0];

fn history() -> Vec<f64> {
    HISTORY.split_whitespace().map(|it| it.parse().unwrap()).collect()
}

#[track_caller]
fn check(p_max: f64, magnitude_min: f64, merge: Merge, dof: usize, want: &str) {
    let rule = ChangeRule { window_len: 30, p_max, magnitude_min };
    let found = with_quirks(&history(), &rule, merge, dof);
    let found: Vec<String> = found.iter().map(|it| it.index.to_string()).collect();
    assert_eq!(found.join(" "), want, "p {p_max}, magnitude {magnitude_min}, {merge:?}, {dof}");
}

#[test]
fn the_series_is_the_published_one() {
    let all = history();
    assert_eq!((all.len(), all.iter().sum::<f64>()), (365, 10_218_214.0));
    // In this order: its SHA-256 was compared when it was brought here.
    let places: f64 = (1..).zip(&all).map(|(place, it)| f64::from(place) * it).sum();
    assert_eq!(places, 1_932_201_859.0);
}

const MANY: &str = "15 61 71 95 117 131 142 148 165 169 192 212 260";
const OTAVA_MOST: &str = "10 11 15 28 29 35 37 48 49 61 71 95 117 131 142 148 165 169 192 206 212 \
                          260 265 268 278 282 363";

#[test]
fn the_published_form_finds_the_published_points() {
    let check = |p, magnitude, want: &str| check(p, magnitude, Merge::Published, 0, want);
    check(0.01, 0.05, "15 71");
    check(0.05, 0.05, "15 71");
    check(0.1, 0.05, "10 11 15 71 363");
    check(0.2, 0.05, "10 11 15 71");
    check(0.01, 0.0, "15 26 61 71 95 117 131 142 148 165 169 192 212 260");
    check(0.001, 0.0, "15 61 71 95 117 131 142 148 192 212 260");
    check(0.0001, 0.0, "71 95 117 131 142 148 192 212");
    check(0.00001, 0.0, "71 95 131 192 212");
    check(0.1, 0.01, OTAVA_MOST);
}

#[test]
fn the_corrected_merge_finds_its_points() {
    let check = |p, magnitude, want: &str| check(p, magnitude, Merge::Corrected, 0, want);
    check(0.01, 0.05, "15 71");
    check(0.05, 0.05, "15 71");
    check(0.1, 0.05, "10 11 15 71");
    check(0.2, 0.05, "10 11 15 71");
    check(0.01, 0.0, MANY);
    check(0.001, 0.0, "15 61 71 95 117 131 142 148 192 212");
    check(0.0001, 0.0, "71 95 117 131 142 148 192 212");
    check(0.00001, 0.0, "71 95 131 192 212");
    check(0.1, 0.01, &OTAVA_MOST.replace(" 265", ""));
}

#[test]
fn ours_finds_its_points() {
    let check = |p, magnitude, want: &str| check(p, magnitude, Merge::Corrected, 1, want);
    check(0.01, 0.05, "15 71");
    check(0.05, 0.05, "15 71");
    check(0.1, 0.05, "10 11 15 71");
    check(0.2, 0.05, "10 11 15 71");
    check(0.01, 0.0, "15 61 71 95 117 131 142 148 192 212 260");
    check(0.001, 0.0, "15 61 71 95 117 131 142 148 192 212");
    check(0.0001, 0.0, "71 95 131 192 212");
    check(0.00001, 0.0, "71 95 131 192");
    check(0.1, 0.01, &OTAVA_MOST.replace(" 265", ""));
}

#[test]
fn a_small_series_has_the_known_divergence() {
    let best = candidate(&SMALL, 0, SMALL.len()).unwrap();
    assert_eq!(best.index, 5);
    assert!((best.q - 761.282_142_857_1).abs() < 1e-9, "{}", best.q);
    let rule = ChangeRule { window_len: 30, p_max: 0.01, magnitude_min: 0.0 };
    let found: Vec<usize> = change_points(&SMALL, &rule).iter().map(|it| it.index).collect();
    assert_eq!(found, [5, 8]);
}

#[test]
fn nothing_changes_where_there_is_nothing() {
    let rule = ChangeRule { window_len: 30, p_max: 0.05, magnitude_min: 0.01 };
    assert!(change_points(&[], &rule).is_empty());
    assert!(change_points(&[1.0], &rule).is_empty());
    assert!(change_points(&[2.0; 90], &rule).is_empty());
    let step: Vec<f64> = (0..60).map(|it| if it < 31 { 1.0 } else { 2.0 }).collect();
    let found = change_points(&step, &rule);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].index, found[0].magnitude()), (31, 1.0));
}
