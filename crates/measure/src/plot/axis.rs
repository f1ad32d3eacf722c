//! Axes: how far they reach, their round places, and the numbers at these.

pub(super) fn range(values: impl Iterator<Item = f64> + Clone) -> Option<(f64, f64)> {
    let values = values.filter(|it| it.is_finite() && 0.0 < *it);
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(0.0, f64::max);
    // A single value needs room around it.
    (low <= high)
        .then(|| if high / low < 1.2 { (low * 0.8, high * 1.25) } else { (low / 1.1, high * 1.15) })
}

/// Round places on a logarithmic axis: 1, 2 and 5 of each power of ten, or fewer of them.
pub(super) fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let of = |digits: &[f64]| -> Vec<f64> {
        let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let all = powers.flat_map(|it| digits.iter().map(move |digit| digit * 10_f64.powi(it)));
        all.filter(|it| low <= *it && *it <= high).collect()
    };
    let choices = [&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0][..], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
    let fitting = choices.into_iter().map(of).find(|it| it.len() <= 7);
    fitting.unwrap_or_else(|| {
        let powers = of(&[1.0]);
        powers.iter().copied().step_by(powers.len().div_ceil(7)).collect()
    })
}

/// Round places from nothing to `most`: steps of 1, 2 or 5 of a power of ten, at most six of them.
pub(super) fn steps(most: f64) -> Vec<f64> {
    let power = 10_f64.powf((most / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|it| it * power).into_iter().find(|it| most / it <= 5.0);
    let Some(step) = step else { return vec![0.0] };
    (0..).map(|at| f64::from(at) * step).take_while(|it| *it <= most).collect()
}

/// Numbers on axes: short, without zeros that say nothing.
pub(super) fn short(value: f64) -> String {
    let (value, suffix) = match value.abs() {
        it if 1e9 <= it => (value / 1e9, "G"),
        it if 1e6 <= it => (value / 1e6, "M"),
        it if 1e4 <= it => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = match value.abs() {
        it if 100.0 <= it => format!("{value:.0}"),
        it if 10.0 <= it => format!("{value:.1}"),
        it if 1.0 <= it => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_a_handful_of_round_places() {
        assert_eq!(ticks((8.0, 120.0)), [10.0, 20.0, 50.0, 100.0]);
        assert_eq!(ticks((0.9, 2.2)), [1.0, 1.5, 2.0]);
        for range in [(1.0, 1e9), (0.3, 0.5), (3.2, 4.4), (500.0, 64_000.0)] {
            let found = ticks(range);
            assert!((1..=7).contains(&found.len()), "{range:?}: {found:?}");
        }
    }

    #[test]
    fn bars_stand_over_round_steps() {
        assert_eq!(steps(306.0), [0.0, 100.0, 200.0, 300.0]);
        assert_eq!(steps(4.5), [0.0, 1.0, 2.0, 3.0, 4.0]);
        for most in [1e-6, 0.3, 1.0, 7.0, 999.0, 1e9] {
            let found = steps(most);
            assert!((3..=6).contains(&found.len()), "{most}: {found:?}");
        }
    }

    #[test]
    fn axes_have_short_numbers() {
        let texts = [1e9, 64_000.0, 512.0, 2.5, 0.25, 1000.0].map(short);
        assert_eq!(texts, ["1G", "64k", "512", "2.5", "0.25", "1000"]);
    }
}
