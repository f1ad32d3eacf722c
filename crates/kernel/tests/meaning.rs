//! What the reference interpreter says about the examples, against sums written out here.

use calor_kernel::examples::{self, Example};
use calor_kernel::{Access, InterpretError, interpret};

fn example(name: &str) -> Example {
    examples::all().into_iter().find(|it| it.name == name).expect("an example of that name")
}

/// The buffers after a run.
fn run(name: &str) -> (Example, Vec<Vec<f64>>) {
    let example = example(name);
    let mut buffers = example.buffers.clone();
    interpret(&example.program, &example.words, &mut buffers).expect("examples run");
    (example, buffers)
}

#[track_caller]
fn check(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 1e-5 * want.abs().max(1.0), "{at}: {got}, not {want}");
    }
}

#[test]
fn all_examples_run() {
    for example in examples::all() {
        let mut buffers = example.buffers.clone();
        let done = interpret(&example.program, &example.words, &mut buffers);
        assert_eq!(done, Ok(()), "{}", example.name);
        for (before, (after, arg)) in
            example.buffers.iter().zip(buffers.iter().zip(&example.program.args))
        {
            let is_nan = |it: &f64| it.is_nan();
            let same = before == after || before.iter().any(is_nan);
            assert!(same || arg.access == Access::Write, "{}", example.name);
        }
    }
}

#[test]
fn softmax_rows_sum_to_one() {
    for name in ["softmax", "softmax_narrow", "softmax_wide"] {
        let (example, buffers) = run(name);
        for row in buffers[1].chunks(example.program.width as usize) {
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-4, "{name}");
        }
    }
}

#[test]
fn contraction_is_a_product_of_matrices() {
    let (_, buffers) = run("contraction");
    let mut want = Vec::new();
    for row in 0..5 {
        for column in 0..20 {
            want.push(
                (0..17).map(|k| buffers[0][row * 17 + k] * buffers[1][k * 20 + column]).sum(),
            );
        }
    }
    check(&buffers[2], &want);
}

#[test]
fn segments_are_averaged() {
    let (_, buffers) = run("segment_mean");
    let mut want = Vec::new();
    for (lo, hi) in [(0, 3), (3, 3), (3, 8), (8, 9)] {
        for lane in 0..16 {
            let sum: f64 = (lo..hi).map(|row| buffers[0][row * 16 + lane]).sum();
            want.push(sum / f64::max((hi - lo) as f64, 1.0));
        }
    }
    check(&buffers[2], &want);
}

#[test]
fn scattered_rows_add_up() {
    let (_, buffers) = run("scatter_add");
    let mut want = vec![0.0; 4 * 33];
    for (row, id) in [2, 0, 2, 3, 0].into_iter().enumerate() {
        for lane in 0..33 {
            want[id * 33 + lane] += buffers[0][row * 33 + lane];
        }
    }
    check(&buffers[2], &want);
    let (_, buffers) = run("histogram");
    assert_eq!(buffers[1].iter().sum::<f64>(), 57.0);
}

#[test]
fn recurrence_runs_from_the_start() {
    let (_, buffers) = run("linear_scan");
    let mut want = vec![0.0; 96];
    for (batch, lane) in (0..2).flat_map(|batch| (0..8).map(move |lane| (batch, lane))) {
        let mut state = buffers[2][batch * 8 + lane];
        for step in 0..6 {
            let at = batch * 48 + step * 8 + lane;
            state = buffers[0][at] * state + buffers[1][at];
            want[at] = state;
        }
    }
    check(&buffers[3], &want);
}

#[test]
fn padding_reads_nothing() {
    let (_, buffers) = run("pad");
    let row = |at: usize| &buffers[1][at * 14..(at + 1) * 14];
    assert_eq!(row(0)[..3], [-1.0; 3]);
    assert_eq!(row(3)[3..12], buffers[0][27..36]);
    assert_eq!(row(3)[12..], [-1.0; 2]);
}

#[test]
fn faults_are_named() {
    let Example { program, words, mut buffers, .. } = example("contraction");
    let short = interpret(&program, &words[1..], &mut buffers);
    let (want_count, got_count) = (words.len(), words.len() - 1);
    assert_eq!(short, Err(InterpretError::Words { want_count, got_count }));
    buffers[1].pop();
    let outside = interpret(&program, &words, &mut buffers);
    let (arg, access, element, element_count) = (1, Access::Read, 339, 339);
    assert_eq!(outside, Err(InterpretError::Outside { arg, access, element, element_count }));
    let missing = interpret(&program, &words, &mut buffers[1..]);
    assert_eq!(missing, Err(InterpretError::Buffers { want_count: 3, got_count: 2 }));
}
