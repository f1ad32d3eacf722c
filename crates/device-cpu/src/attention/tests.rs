//! Attention against a reference in f64.

use super::*;
use crate::sample::{Sample, assert_close};

#[derive(Clone)]
struct Case {
    d: usize,
    heads: usize,
    kv_heads: usize,
    tk: usize,
    intervals: Vec<(i32, i32)>,
    extra: Option<Vec<i32>>,
    reach: Option<usize>,
    magnitude: f32,
}

/// `q`, `k` and `v` are parts of one buffer's rows, as after a joint projection.
struct Data {
    qkv: Vec<f32>,
    stride: usize,
    table: Vec<f32>,
}

impl Case {
    fn plain(d: usize, intervals: Vec<(i32, i32)>) -> Self {
        let tk = intervals.len();
        Self { d, heads: 2, kv_heads: 2, tk, intervals, extra: None, reach: None, magnitude: 1.0 }
    }

    fn data(&self) -> Data {
        let mut sample = Sample::new(5);
        let stride = (self.heads + 2 * self.kv_heads) * self.d + 5;
        let rows = self.tk.max(self.intervals.len());
        let mut qkv = sample.floats(rows * stride);
        qkv.iter_mut().for_each(|it| *it *= self.magnitude);
        let table = sample.floats(self.reach.map_or(0, |it| (2 * it + 1) * self.heads));
        Data { qkv, stride, table }
    }

    fn exact(&self, data: &Data) -> (Vec<f64>, Vec<f64>) {
        let (d, stride) = (self.d, data.stride);
        let (mut out, mut log_sum_exp) = (Vec::new(), Vec::new());
        for (row, (lo, hi)) in self.intervals.iter().enumerate() {
            let mut keys: Vec<i32> = (*lo..*hi).collect();
            let extra = self.extra.as_ref().map_or(-1, |it| it[row]);
            if 0 <= extra && !keys.contains(&extra) {
                keys.push(extra);
            }
            for head in 0..self.heads {
                let kv_head = head / (self.heads / self.kv_heads);
                let q = &data.qkv[row * stride + head * d..][..d];
                let k_at = (self.heads + kv_head) * d;
                let v_at = k_at + self.kv_heads * d;
                let score = |key: i32| {
                    let k = &data.qkv[key as usize * stride + k_at..][..d];
                    let dot: f64 =
                        q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                    let bias = self.reach.map_or(0.0, |reach| {
                        let reach = reach as i64;
                        let distance = (i64::from(key) - row as i64).clamp(-reach, reach) + reach;
                        f64::from(data.table[distance as usize * self.heads + head])
                    });
                    dot * 0.3 + bias
                };
                let scores: Vec<f64> = keys.iter().map(|key| score(*key)).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|it| (it - largest).exp()).sum();
                log_sum_exp.push(if keys.is_empty() { largest } else { largest + total.ln() });
                for c in 0..d {
                    let terms = keys.iter().zip(&scores).map(|(key, score)| {
                        let v = data.qkv[*key as usize * stride + v_at + c];
                        (score - largest).exp() / total * f64::from(v)
                    });
                    out.push(terms.sum::<f64>());
                }
            }
        }
        (out, log_sum_exp)
    }

    fn compute(&self, data: &Data, level: Level, pool: &Pool) -> (Vec<f32>, Vec<f32>) {
        let (d, tq) = (self.d, self.intervals.len());
        let k_at = self.heads * d;
        let v_at = k_at + self.kv_heads * d;
        let lo: Vec<i32> = self.intervals.iter().map(|it| it.0).collect();
        let hi: Vec<i32> = self.intervals.iter().map(|it| it.1).collect();
        let mut out = vec![9.0; tq * self.heads * d];
        let mut log_sum_exp = vec![9.0; tq * self.heads];
        // Scratch that was used before must not matter.
        let mut floats = vec![f32::NAN; scratch_len(level, d, pool.thread_count())];
        let mut tiles = vec![0; tq + 1];
        let part = |from: usize, rows: usize, heads: usize| {
            Rows::new(&data.qkv[from..], rows, heads * d, data.stride)
        };
        let attention = Attention {
            q: part(0, tq, self.heads),
            k: part(k_at, self.tk, self.kv_heads),
            v: part(v_at, self.tk, self.kv_heads),
            heads: self.heads,
            kv_heads: self.kv_heads,
            scale: 0.3,
            lo: &lo,
            hi: &hi,
            extra: self.extra.as_deref(),
            bias: self.reach.map(|reach| DistanceBias { table: &data.table, reach }),
            out: RowsMut::dense(&mut out, tq, self.heads * d),
            log_sum_exp: Some(&mut log_sum_exp),
        };
        attention.run(level, pool, Scratch { floats: &mut floats, tiles: &mut tiles }).unwrap();
        (out, log_sum_exp)
    }
}

#[track_caller]
fn check(case: &Case, what: &str) {
    let pool = Pool::new(2).unwrap();
    let data = case.data();
    let (want, want_sums) = case.exact(&data);
    for level in Level::available() {
        let what = format!("{level:?} {what} d {}", case.d);
        let (got, got_sums) = case.compute(&data, level, &pool);
        assert_close(&got, &want, 1e-5 * f64::from(case.magnitude.powi(2).max(1.0)), &what);
        assert_close(&got_sums, &want_sums, 1e-5, &what);
    }
}

fn full(count: i32) -> Vec<(i32, i32)> {
    (0..count).map(|_| (0, count)).collect()
}

fn causal(count: i32) -> Vec<(i32, i32)> {
    (0..count).map(|row| (0, row + 1)).collect()
}

fn window(count: i32, reach: i32) -> Vec<(i32, i32)> {
    (0..count).map(|row| ((row - reach).max(0), (row + reach + 1).min(count))).collect()
}

/// Sequences one after the other.
fn packed(parts: &[Vec<(i32, i32)>]) -> Vec<(i32, i32)> {
    let mut out = Vec::new();
    for part in parts {
        let at = out.len() as i32;
        out.extend(part.iter().map(|(lo, hi)| (lo + at, hi + at)));
    }
    out
}

#[test]
fn widths_of_heads() {
    for d in [1, 7, 8, 16, 20, 32, 64, 80, 96, 128] {
        check(&Case::plain(d, full(37)), "full");
        check(&Case::plain(d, causal(70)), "causal");
    }
}

#[test]
fn lengths() {
    for count in [1, 2, 5, 8, 9, 63, 64, 65, 127, 128, 129, 300] {
        check(&Case::plain(16, full(count)), "full");
        check(&Case::plain(16, causal(count)), "causal");
        check(&Case::plain(16, window(count, 3)), "narrow window");
        check(&Case::plain(16, window(count, 100)), "wide window");
    }
}

#[test]
fn many_sequences_and_empty_rows() {
    let nothing = vec![(0, 0); 5];
    let mut parts: Vec<_> = [3, 1, 70, 2, 9].map(full).into();
    parts.push(causal(20));
    parts.push(window(140, 10));
    let mut intervals = packed(&parts);
    intervals.extend(&nothing);
    let mut case = Case::plain(20, intervals);
    check(&case, "packed");
    case.extra = Some(case.intervals.iter().map(|it| it.1 / 2 - 1).collect());
    check(&case, "packed with extra keys");
}

#[test]
fn grouped_queries_and_other_keys() {
    let mut case = Case::plain(24, vec![(0, 90), (0, 90), (3, 7), (90, 90), (89, 90)]);
    (case.heads, case.kv_heads, case.tk) = (6, 2, 90);
    check(&case, "grouped");
    case.extra = Some(vec![-1, 5, 0, 89, 89]);
    check(&case, "grouped with extra keys");
}

#[test]
fn distances() {
    for reach in [0, 1, 5, 300] {
        let mut case = Case::plain(32, packed(&[full(3), full(150), causal(9)]));
        case.reach = Some(reach);
        check(&case, "bias");
        case.extra = Some(vec![0; case.tk]);
        check(&case, "bias with extra key");
    }
}

#[test]
fn large_scores() {
    let mut case = Case::plain(32, packed(&[full(150), causal(70)]));
    case.magnitude = 30.0;
    check(&case, "scores in the thousands");
}

/// A sequence's bits are the same alone and behind others, however many threads there are.
#[test]
fn sequences_stand_alone() {
    for alone in [full(200), causal(200), window(200, 17)] {
        for level in Level::available() {
            let case = Case::plain(40, alone.clone());
            let whole = Case::plain(40, packed(&[full(13), causal(77), alone.clone(), full(6)]));
            let data = whole.data();
            let mut own = whole.data();
            own.qkv.drain(..90 * own.stride);
            let got = case.compute(&own, level, &Pool::new(1).unwrap());
            let batch = whole.compute(&data, level, &Pool::new(3).unwrap());
            assert_eq!(got.0, batch.0[90 * 80..290 * 80], "{level:?}");
            assert_eq!(got.1, batch.1[90 * 2..290 * 2], "{level:?}");
        }
    }
}

/// What other sequences hold, even no numbers, stays with them.
#[test]
fn sequences_do_not_leak() {
    let case = Case::plain(16, packed(&[full(10), full(70), full(10)]));
    for level in Level::available() {
        let pool = Pool::new(2).unwrap();
        let mut data = case.data();
        let clean = case.compute(&data, level, &pool);
        for row in (0..10).chain(80..90) {
            data.qkv[row * data.stride..][..96].fill(f32::NAN);
        }
        let dirty = case.compute(&data, level, &pool);
        assert_eq!(clean.0[10 * 32..80 * 32], dirty.0[10 * 32..80 * 32]);
    }
}

#[test]
#[should_panic(expected = "outside the keys")]
fn keys_that_are_not_there() {
    let case = Case::plain(16, vec![(0, 2)]);
    let data = case.data();
    case.compute(&data, Level::detect(), &Pool::new(1).unwrap());
}
