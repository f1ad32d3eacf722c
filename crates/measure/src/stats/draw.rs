//! Reproducible random numbers: SplitMix64, for orders and resampling, never for secrets.

/// A stream of random numbers that follows from its seed.
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The stream of `seed` for the thing called `name`: equal names draw alike.
    pub fn named(seed: u64, name: &str) -> Self {
        let digest = blake3::hash(name.as_bytes());
        let (head, _) = digest.as_bytes().split_at(8);
        let mix = head.iter().fold(0_u64, |sum, it| sum << 8 | u64::from(*it));
        Self(seed ^ mix)
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`.
    ///
    /// # Panics
    /// When `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        assert!(0 < end, "there is no number below 0");
        // The bias is `end` in 2^64: nothing for the sizes of samples.
        ((u128::from(self.next_u64()) * end as u128) >> 64) as usize
    }

    /// A number from 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number of the normal distribution with mean 0 and deviation 1.
    pub fn normal(&mut self) -> f64 {
        let (a, b) = (1.0 - self.unit(), self.unit());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    /// Puts `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

#[test]
fn a_seed_decides() {
    // First numbers of SplitMix64 with seed 0, as published with it.
    let mut draw = Draw::new(0);
    assert_eq!(draw.next_u64(), 0xe220_a839_7b1d_cdaf);
    assert_eq!(draw.next_u64(), 0x6e78_9e6a_a1b9_65f4);
    let mut items: Vec<usize> = (0..100).collect();
    Draw::named(1, "a").shuffle(&mut items);
    let mut again: Vec<usize> = (0..100).collect();
    Draw::named(1, "a").shuffle(&mut again);
    assert_eq!(items, again);
    again.sort_unstable();
    assert_eq!(again, (0..100).collect::<Vec<_>>());
    assert_ne!(items, again);
}

#[test]
fn normal_numbers_have_their_moments() {
    let mut draw = Draw::new(7);
    let values: Vec<f64> = (0..20_000).map(|_| draw.normal()).collect();
    let mean = values.iter().sum::<f64>() / 20_000.0;
    let square = values.iter().map(|it| it * it).sum::<f64>() / 20_000.0;
    assert!(mean.abs() < 0.03 && (square - 1.0).abs() < 0.05, "{mean} {square}");
}
