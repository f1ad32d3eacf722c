//! Normal deviates that any reader can reproduce: a key names a stream, an index a value.
//!
//! Two bytes of a ChaCha20 stream choose one of 65,536 quantiles, so value `i` of a tensor can
//! be computed alone and pieces can be computed in any order.

use std::sync::OnceLock;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// Fills `out` with standard normal deviates `begin ..` of the stream `key`.
///
/// # Panics
/// When `begin` is odd: pieces begin at whole words of the stream.
pub(super) fn fill_normal(key: [u8; 32], begin: u64, out: &mut [f32]) {
    assert!(begin.is_multiple_of(2));
    let mut stream = ChaCha20Rng::from_seed(key);
    stream.set_word_pos(u128::from(begin / 2));
    let table = quantiles();
    let mut bytes = [0; 8192];
    for values in out.chunks_mut(bytes.len() / 2) {
        stream.fill_bytes(&mut bytes);
        for (value, pair) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *value = table[usize::from(u16::from_le_bytes(*pair))];
        }
    }
}

/// Quantile `(i + 0.5) / 65536` of the standard normal distribution, for every `i`.
fn quantiles() -> &'static [f32] {
    static TABLE: OnceLock<Vec<f32>> = OnceLock::new();
    TABLE.get_or_init(|| {
        (0..1 << 16).map(|i| normal_quantile((f64::from(i) + 0.5) / 65_536.0) as f32).collect()
    })
}

/// Acklam's rational approximation of the inverse normal distribution; error below 1.2e-9.
fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 6] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
        1.0,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 5] = [
        7.784_695_709_041_462e-3,
        3.224_671_290_700_398e-1,
        2.445_134_137_142_996,
        3.754_408_661_907_416,
        1.0,
    ];
    let poly = |terms: &[f64], x: f64| terms.iter().fold(0.0, |sum, term| sum * x + term);
    const TAIL: f64 = 0.024_25;
    if p < TAIL {
        let q = (-2.0 * p.ln()).sqrt();
        poly(&C, q) / poly(&D, q)
    } else if p <= 1.0 - TAIL {
        let q = p - 0.5;
        q * poly(&A, q * q) / poly(&B, q * q)
    } else {
        -normal_quantile(1.0 - p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_quantiles() {
        for (p, want) in [(0.5, 0.0), (0.975, 1.959_963_984_540_054), (0.001, -3.090_232_306_168)] {
            assert!((normal_quantile(p) - want).abs() < 1e-8, "{p}");
        }
        let table = quantiles();
        assert!(table.is_sorted());
        let variance: f64 = table.iter().map(|it| f64::from(*it).powi(2)).sum::<f64>() / 65_536.0;
        assert!((variance - 1.0).abs() < 1e-3, "{variance}");
    }

    #[test]
    fn pieces_are_the_whole() {
        let mut whole = vec![0.0; 20_000];
        fill_normal([3; 32], 0, &mut whole);
        for begin in [0, 2, 4096, 9_998] {
            let mut part = vec![0.0; 5000];
            fill_normal([3; 32], begin, &mut part);
            assert_eq!(part, whole[begin as usize..][..5000], "{begin}");
        }
        let mut other = vec![0.0; 20_000];
        fill_normal([4; 32], 0, &mut other);
        assert_ne!(whole, other);
    }
}
