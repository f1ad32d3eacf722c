//! Offsets in the arena from lifetimes.
//!
//! Works on lifetimes and sizes only. Largest first, each at the lowest offset where nothing alive
//! at the same time lies; tried in three orders, the smallest arena wins.

/// Alignment of every interior value.
pub(super) const ALIGN_BYTES: u64 = 256;

/// Steps at which a value is written first and read last, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) bytes: u64,
}

impl Lifetime {
    fn meets(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Where each value lies, and how large that makes the arena.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) offsets: Vec<u64>,
    pub(super) bytes: u64,
}

/// Rounds up to the alignment.
pub(super) fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGN_BYTES)
}

/// The smallest layout found.
pub(super) fn lay_out(lives: &[Lifetime]) -> Layout {
    let order = |key: &dyn Fn(&Lifetime) -> (u64, usize)| {
        let mut order: Vec<usize> = (0..lives.len()).collect();
        order.sort_by_key(|at| {
            let (primary, secondary) = key(&lives[*at]);
            (primary, secondary, *at)
        });
        order
    };
    let by_size = order(&|it| (u64::MAX - it.bytes, it.first));
    let by_span = order(&|it| {
        (u64::MAX - it.bytes.saturating_mul((it.last - it.first + 1) as u64), it.first)
    });
    let by_start = order(&|it| (it.first as u64, usize::MAX - it.bytes as usize));
    [by_size, by_span, by_start]
        .iter()
        .map(|order| place(lives, order))
        .min_by_key(|it| it.bytes)
        .unwrap_or_default()
}

/// Most bytes alive at one step.
pub(super) fn peak_bytes(lives: &[Lifetime]) -> u64 {
    let steps = lives.iter().map(|it| it.last + 1).max().unwrap_or(0);
    let mut change = vec![0_i64; steps + 1];
    for life in lives {
        change[life.first] += aligned(life.bytes) as i64;
        change[life.last + 1] -= aligned(life.bytes) as i64;
    }
    let alive = change.iter().scan(0_i64, |alive, by| {
        *alive += by;
        Some(*alive)
    });
    alive.max().unwrap_or(0) as u64
}

fn place(lives: &[Lifetime], order: &[usize]) -> Layout {
    let mut offsets = vec![0; lives.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut bytes = 0;
    for at in order {
        let life = &lives[*at];
        let size = aligned(life.bytes);
        let mut taken: Vec<(u64, u64)> = placed
            .iter()
            .filter(|other| lives[**other].meets(life))
            .map(|other| (offsets[*other], offsets[*other] + aligned(lives[*other].bytes)))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (from, to) in taken {
            if offset + size <= from {
                break;
            }
            offset = offset.max(to);
        }
        offsets[*at] = offset;
        bytes = bytes.max(offset + size);
        placed.push(*at);
    }
    Layout { offsets, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(first: usize, last: usize, bytes: u64) -> Lifetime {
        Lifetime { first, last, bytes }
    }

    #[test]
    fn values_that_never_meet_share() {
        let lives = [life(0, 1, 512), life(2, 3, 512), life(1, 2, 256)];
        let layout = lay_out(&lives);
        assert_eq!(layout.bytes, 768);
        assert_eq!(peak_bytes(&lives), 768);
    }

    /// A deterministic stream of numbers.
    fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        move |below| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        }
    }

    #[test]
    fn no_two_live_values_overlap() {
        for seed in 0..200 {
            let mut next = numbers(seed);
            let lives: Vec<Lifetime> = (0..40)
                .map(|_| {
                    let first = next(50) as usize;
                    life(first, first + next(8) as usize, next(5000) + 1)
                })
                .collect();
            let layout = lay_out(&lives);
            for (i, a) in lives.iter().enumerate() {
                assert_eq!(layout.offsets[i] % ALIGN_BYTES, 0);
                for (j, b) in lives.iter().enumerate().skip(i + 1) {
                    let (x, y) = (layout.offsets[i], layout.offsets[j]);
                    let apart = x + aligned(a.bytes) <= y || y + aligned(b.bytes) <= x;
                    assert!(apart || !a.meets(b), "seed {seed}: {i} and {j}");
                }
            }
            assert!(peak_bytes(&lives) <= layout.bytes);
        }
    }
}
