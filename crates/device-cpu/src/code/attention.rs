//! The source `attention`.
//!
//! Parameters: `heads`, `kv_heads`, `d`, `scale` (a float's bits), `extra`, `bias`, `lse`
//! (flags), `reach` (of the distance table, 0 without).
//! Words: query rows, key rows, then the strides of q, k and v.
//! Arguments: q, k, v, lo, hi, extra if any, table if any, result `[tq, heads, d]`, and the
//! logarithms of the sums `[tq, heads]` if wanted.
//! Intervals are cut to the keys that are there; an extra key that is not there is none.

use calor_kernel::Source;

use super::{
    Code, Launch, Machine, NoCode, SourceRow, carve, holds, param, size, slice, slice_mut,
};
use crate::attention::{Attention, DistanceBias, Scratch, scratch_len};
use crate::threads::TaskPanicked;
use crate::view::{Rows, RowsMut};
use crate::vm::Buffer;

pub(super) const SOURCE: SourceRow = SourceRow {
    name: "attention",
    params: &["heads", "kv_heads", "d", "scale", "extra", "bias", "lse", "reach"],
    make,
};

#[derive(Debug)]
struct AttentionCode {
    heads: usize,
    kv_heads: usize,
    d: usize,
    scale: f32,
    extra: bool,
    bias: bool,
    lse: bool,
    reach: usize,
}

fn make(source: &Source) -> Result<Box<dyn Code>, NoCode> {
    let flag = |name| param(source, name).map(|it| it != 0);
    let scale = source.param_f64("scale");
    let code = AttentionCode {
        heads: param(source, "heads")?,
        kv_heads: param(source, "kv_heads")?,
        d: param(source, "d")?,
        scale: scale.ok_or_else(|| NoCode::Wrong("`attention` needs a scale".into()))? as f32,
        extra: flag("extra")?,
        bias: flag("bias")?,
        lse: flag("lse")?,
        reach: param(source, "reach")?,
    };
    if code.kv_heads == 0 || !code.heads.is_multiple_of(code.kv_heads) || code.d == 0 {
        return Err(NoCode::Wrong("the heads of `attention` do not fit the key heads".into()));
    }
    Ok(Box::new(code))
}

struct Arguments<'a> {
    rows: [&'a Buffer; 3],
    intervals: [&'a Buffer; 2],
    extra: Option<&'a Buffer>,
    table: Option<&'a Buffer>,
    out: &'a Buffer,
    lse: Option<&'a Buffer>,
}

impl AttentionCode {
    fn arguments<'a>(&self, buffers: &'a [Buffer]) -> Option<Arguments<'a>> {
        let mut rest = buffers.iter();
        let mut optional = |wanted: bool| if wanted { rest.next().map(Some) } else { Some(None) };
        let [q, k, v, lo, hi] = [(); 5].map(|()| optional(true).flatten());
        let (extra, table) = (optional(self.extra)?, optional(self.bias)?);
        let (out, lse) = (optional(true)??, optional(self.lse)?);
        if rest.next().is_some() {
            return None;
        }
        Some(Arguments { rows: [q?, k?, v?], intervals: [lo?, hi?], extra, table, out, lse })
    }

    fn table_len(&self) -> usize {
        (2 * self.reach + 1) * self.heads
    }
}

impl Code for AttentionCode {
    fn check(&self, words: &[i64], buffers: &[Buffer]) -> Result<(), &'static str> {
        let Some(it) = self.arguments(buffers) else {
            return Err("the arguments are not those of the attention");
        };
        if words.len() != 5 || words.iter().any(|it| *it < 0) {
            return Err("attention takes five sizes");
        }
        let (tq, tk) = (size(words, 0), size(words, 1));
        let (wide, narrow) = (self.heads * self.d, self.kv_heads * self.d);
        if !holds(it.rows[0], tq, wide, size(words, 2))
            || !holds(it.rows[1], tk, narrow, size(words, 3))
            || !holds(it.rows[2], tk, narrow, size(words, 4))
            || !it.intervals.into_iter().chain(it.extra).all(|it| holds(it, 1, tq, 0))
            || !it.table.is_none_or(|it| holds(it, 1, self.table_len(), 0))
            || !holds(it.out, tq, wide, wide)
            || !it.lse.is_none_or(|it| holds(it, tq, self.heads, self.heads))
        {
            return Err("an argument of the attention is too short");
        }
        if self.bias && tq != tk {
            return Err("distances need queries and keys to be the same rows");
        }
        Ok(())
    }

    fn scratch_bytes(&self, machine: Machine, words: &[i64]) -> usize {
        let floats = scratch_len(machine.level, self.d, machine.thread_count);
        4 * (floats + 4 * (size(words, 0) + 1)) + 5 * 64
    }

    unsafe fn run(&self, launch: &Launch<'_>) -> Result<(), TaskPanicked> {
        let Some(it) = self.arguments(launch.buffers) else { return Ok(()) };
        let words = launch.words;
        let (tq, tk) = (size(words, 0), size(words, 1));
        let (wide, narrow) = (self.heads * self.d, self.kv_heads * self.d);
        let mut scratch = launch.scratch;
        let floats = scratch_len(launch.level, self.d, launch.pool.thread_count());
        let [lo, hi, extra] = [(); 3].map(|()| carve(&mut scratch, 4 * tq));
        let (tiles, working) = (carve(&mut scratch, 4 * (tq + 1)), carve(&mut scratch, 4 * floats));
        // SAFETY: the scratch was carved for it; this holds for the next two as well.
        let (lo, hi) = unsafe { (slice_mut::<i32>(&lo, tq), slice_mut::<i32>(&hi, tq)) };
        // SAFETY: `check` has seen that the intervals are there.
        let [from_lo, from_hi] = it.intervals.map(|it| unsafe { slice::<i32>(it, tq) });
        cut_intervals(from_lo, from_hi, tk, lo, hi);
        let extra = it.extra.map(|from| {
            // SAFETY: the scratch was carved for it.
            let to = unsafe { slice_mut::<i32>(&extra, tq) };
            // SAFETY: `check` has seen that the extra keys are there.
            let from = unsafe { slice::<i32>(from, tq) };
            for (to, from) in to.iter_mut().zip(from) {
                *to = if (0..tk as i64).contains(&i64::from(*from)) { *from } else { -1 };
            }
            &*to
        });
        let [q, k, v] =
            [(0, tq, wide), (1, tk, narrow), (2, tk, narrow)].map(|(at, rows, cols)| {
                let stride = size(words, 2 + at);
                // SAFETY: `check` has seen that the rows are there.
                unsafe { Rows::from_raw(it.rows[at].start.cast(), rows, cols, stride) }
            });
        let attention = Attention {
            q,
            k,
            v,
            heads: self.heads,
            kv_heads: self.kv_heads,
            scale: self.scale,
            lo,
            hi,
            extra,
            bias: it.table.map(|table| DistanceBias {
                // SAFETY: `check` has seen that the table is there.
                table: unsafe { slice(table, self.table_len()) },
                reach: self.reach,
            }),
            // SAFETY: `check` has seen that there is room, and nobody else uses it.
            out: unsafe { RowsMut::from_raw(it.out.start.cast(), tq, wide, wide) },
            // SAFETY: as above.
            log_sum_exp: it.lse.map(|it| unsafe { slice_mut(it, tq * self.heads) }),
        };
        // SAFETY: the scratch was carved for it.
        let floats = unsafe { slice_mut(&working, floats) };
        // SAFETY: as above.
        let tiles = unsafe { slice_mut(&tiles, tq + 1) };
        attention.run(launch.level, launch.pool, Scratch { floats, tiles })
    }
}

/// Intervals cut to the rows that are there; an empty one stays empty.
pub(super) fn cut_intervals(
    from_lo: &[i32],
    from_hi: &[i32],
    row_count: usize,
    lo: &mut [i32],
    hi: &mut [i32],
) {
    let end = i32::try_from(row_count).unwrap_or(i32::MAX);
    let to = lo.iter_mut().zip(hi);
    for ((lo, hi), (from_lo, from_hi)) in to.zip(from_lo.iter().zip(from_hi)) {
        *lo = (*from_lo).clamp(0, end);
        *hi = (*from_hi).clamp(*lo, end);
    }
}

#[test]
fn intervals_are_cut_to_the_keys() {
    let (mut lo, mut hi) = ([9; 4], [9; 4]);
    cut_intervals(&[-4, 2, 7, 3], &[100, 1, 9, 4], 5, &mut lo, &mut hi);
    assert_eq!((lo, hi), ([0, 2, 5, 3], [5, 2, 5, 4]));
}
