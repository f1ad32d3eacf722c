//! Ragged texts as the rows of a bucket: which items go together, and what is written for each
//! row.
//!
//! A bucket is T token rows and N sequences. Sequences lie one after another without padding
//! between them; the rest of the bucket is padding rows that attend to nothing. The packer
//! writes into the caller's buffers and allocates nothing.

use crate::error::{EmbeddingError, EmbeddingResult, LengthUnit};

/// The extra key of a row that has none.
pub const NO_EXTRA_KEY: i32 = -1;

/// The statics of a text program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket {
    /// Rows, T.
    pub token_count: usize,
    /// Sequences, N.
    pub sequence_count: usize,
}

impl Bucket {
    /// The largest bucket's rows.
    pub const TOKENS_MAX: usize = 16_384;
    /// Most sequences of any bucket.
    pub const SEQUENCES_MAX: usize = 512;

    /// T rows and T / 8 sequences, at least 1 and at most 512.
    pub const fn of_tokens(token_count: usize) -> Self {
        let eighth = token_count / 8;
        let sequence_count = if eighth < 1 {
            1
        } else if Self::SEQUENCES_MAX < eighth {
            Self::SEQUENCES_MAX
        } else {
            eighth
        };
        Self { token_count, sequence_count }
    }

    /// The buckets of a text model, rising: 64, 128, 256, then steps of 1.5 rounded up to
    /// multiples of 64, and `token_count_max` rounded up at the end. A step that comes within a
    /// quarter of the end is left out.
    ///
    /// # Errors
    /// [`EmbeddingError::ConfigError`] for an end outside 64..=16,384.
    pub fn ladder(token_count_max: usize) -> EmbeddingResult<Vec<Self>> {
        const STEP: usize = 64;
        if !(STEP..=Self::TOKENS_MAX).contains(&token_count_max) {
            return Err(EmbeddingError::ConfigError {
                field: "token_count_max",
                value: token_count_max.to_string(),
                want: "it must be within 64..=16384",
            });
        }
        let end = token_count_max.next_multiple_of(STEP);
        let mut out = Vec::new();
        let mut token_count = STEP;
        while token_count < end && (token_count <= 256 || token_count * 5 / 4 <= end) {
            out.push(Self::of_tokens(token_count));
            let factor_halves = if token_count < 256 { 4 } else { 3 };
            token_count = (token_count * factor_halves / 2).next_multiple_of(STEP);
        }
        out.push(Self::of_tokens(end));
        Ok(out)
    }

    /// The smallest of `buckets` (rising) that holds so much.
    pub fn smallest(buckets: &[Self], token_count: usize, sequence_count: usize) -> Option<Self> {
        buckets
            .iter()
            .copied()
            .find(|it| token_count <= it.token_count && sequence_count <= it.sequence_count)
    }
}

/// In which order items are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackOrder {
    /// As they came.
    Input,
    /// Longest first; equal lengths as they came. Fewer, fuller and more alike batches.
    LongestFirst,
}

/// Items that run together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Places of the items in the caller's list, in packing order.
    pub item_indexes: Vec<usize>,
    /// Rows they fill.
    pub token_count: usize,
}

/// Splits items into batches that each fit `bucket`; a batch closes when the next item would
/// exceed either budget. Every item is in exactly one batch.
///
/// # Errors
/// [`EmbeddingError::BatchError`] with the item: around [`EmbeddingError::EmptyInput`] for no
/// tokens, around [`EmbeddingError::InputTooLong`] for more than the bucket has.
pub fn close_batches(
    lengths: &[usize],
    bucket: Bucket,
    order: PackOrder,
) -> EmbeddingResult<Vec<Batch>> {
    for (item_index, length) in lengths.iter().enumerate() {
        check_length(*length, bucket)
            .map_err(|it| EmbeddingError::BatchError { item_index, source: Box::new(it) })?;
    }
    let mut item_indexes: Vec<usize> = (0..lengths.len()).collect();
    match order {
        PackOrder::Input => {}
        PackOrder::LongestFirst => {
            item_indexes.sort_by_key(|it| std::cmp::Reverse(lengths[*it]));
        }
    }
    let mut out: Vec<Batch> = Vec::new();
    for item_index in item_indexes {
        let length = lengths[item_index];
        match out.last_mut() {
            Some(batch)
                if batch.token_count + length <= bucket.token_count
                    && batch.item_indexes.len() < bucket.sequence_count =>
            {
                batch.item_indexes.push(item_index);
                batch.token_count += length;
            }
            _ => out.push(Batch { item_indexes: vec![item_index], token_count: length }),
        }
    }
    Ok(out)
}

/// One sequence to be placed.
#[derive(Clone, Copy, Debug)]
pub struct PackItem<'a> {
    /// Its ids.
    pub ids: &'a [u32],
    /// Keys end here: its length, or less where the last rows are not attended to (the
    /// `[MASK]` run of a ColBERT query).
    pub attended_len: usize,
    /// Which rows count in pooling; all where there is no list. As long as `ids`.
    pub keep: Option<&'a [bool]>,
}

impl<'a> PackItem<'a> {
    /// A sequence all of whose rows are attended to and pooled.
    pub fn whole(ids: &'a [u32]) -> Self {
        Self { ids, attended_len: ids.len(), keep: None }
    }
}

/// Which keys a row sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Its sequence.
    Full,
    /// Its sequence up to itself.
    Causal,
    /// `side_len` rows before itself, itself, and `side_len` rows after; and the first row of
    /// its sequence as the extra key, unless that lies inside (Longformer; `side_len` is half
    /// of `attention_window`). The first rows' own global attention is a second one over
    /// [`PackBuffers::bounds`].
    Window {
        /// Rows on each side.
        side_len: usize,
    },
}

/// Where a sequence's positions start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// 0, 1, 2 …; padding rows have 0.
    FromZero,
    /// pad + 1, pad + 2 …; padding rows have pad (RoBERTa, Longformer).
    AfterPad {
        /// The padding id.
        pad_id: u32,
    },
}

impl Positions {
    fn first(self) -> i32 {
        match self {
            Self::FromZero => 0,
            Self::AfterPad { pad_id } => pad_id as i32 + 1,
        }
    }

    fn padding(self) -> i32 {
        match self {
            Self::FromZero => 0,
            Self::AfterPad { pad_id } => pad_id as i32,
        }
    }
}

/// What a model wants written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackForm {
    /// Which keys a row sees.
    pub keys: Keys,
    /// Where positions start.
    pub positions: Positions,
    /// Type of every row.
    pub type_id: u32,
    /// Id of the padding rows: any that is in the vocabulary.
    pub pad_id: u32,
}

/// The caller's buffers in the types that programs take: one element a row, but for the bounds.
#[derive(Debug)]
pub struct PackBuffers<'a> {
    /// Vocabulary ids, `[T]`.
    pub ids: &'a mut [i32],
    /// Places in the sequence, `[T]`.
    pub positions: &'a mut [i32],
    /// Token types, `[T]`.
    pub types: &'a mut [i32],
    /// First key of each row, `[T]`.
    pub lo: &'a mut [i32],
    /// End of the keys of each row, `[T]`; equal to `lo` for padding rows.
    pub hi: &'a mut [i32],
    /// A key outside the interval, `[T]`, or [`NO_EXTRA_KEY`].
    pub extra: &'a mut [i32],
    /// First row of each sequence and, after the last, the number of rows filled, `[N + 1]`:
    /// the first N are where segments start, the last N where they end. Sequences that are not
    /// there are empty.
    pub bounds: &'a mut [i32],
    /// Weight of each row in pooling, `[T]`: 1, or 0 for padding and rows left out.
    pub keep: &'a mut [f32],
}

/// Writes `items` into a bucket. Every element of every buffer is written.
///
/// # Errors
/// [`EmbeddingError::BatchError`] with the item that is empty, does not fit, or has an
/// `attended_len` or `keep` of another length; [`EmbeddingError::InputTooLong`] for more items
/// than sequences.
///
/// # Panics
/// When the buffers do not have the bucket's sizes: that is a bug in the caller.
pub fn pack(
    items: &[PackItem<'_>],
    bucket: Bucket,
    form: &PackForm,
    buffers: &mut PackBuffers<'_>,
) -> EmbeddingResult<()> {
    assert_eq!(buffers.bounds.len(), bucket.sequence_count + 1);
    for len in [
        buffers.ids.len(),
        buffers.positions.len(),
        buffers.types.len(),
        buffers.lo.len(),
        buffers.hi.len(),
        buffers.extra.len(),
        buffers.keep.len(),
    ] {
        assert_eq!(len, bucket.token_count);
    }
    check_items(items, bucket)?;

    let mut start = 0;
    for (sequence_index, item) in items.iter().enumerate() {
        buffers.bounds[sequence_index] = start as i32;
        write_sequence(item, start, form, buffers);
        start += item.ids.len();
    }
    buffers.bounds[items.len()..].fill(start as i32);
    buffers.ids[start..].fill(form.pad_id as i32);
    buffers.positions[start..].fill(form.positions.padding());
    buffers.types[start..].fill(form.type_id as i32);
    buffers.lo[start..].fill(0);
    buffers.hi[start..].fill(0);
    buffers.extra[start..].fill(NO_EXTRA_KEY);
    buffers.keep[start..].fill(0.0);
    Ok(())
}

/// Intervals and bounds of `live_count` sequences of `row_count` rows each, for inputs without
/// ids such as image patches. Rows of sequences that are not live attend to nothing.
///
/// Shapes: `lo, hi: [N * row_count]`, `bounds: [N + 1]`.
///
/// # Panics
/// When the buffers do not have these sizes or hold fewer sequences: a bug in the caller.
pub fn pack_uniform(
    live_count: usize,
    row_count: usize,
    lo: &mut [i32],
    hi: &mut [i32],
    bounds: &mut [i32],
) {
    let sequence_count = bounds.len() - 1;
    assert!(live_count <= sequence_count);
    assert_eq!(lo.len(), sequence_count * row_count);
    assert_eq!(hi.len(), lo.len());

    for (index, bound) in bounds.iter_mut().enumerate() {
        *bound = (index.min(live_count) * row_count) as i32;
    }
    for row in 0..lo.len() {
        let start = row / row_count * row_count;
        let live = row / row_count < live_count;
        lo[row] = if live { start as i32 } else { 0 };
        hi[row] = if live { (start + row_count) as i32 } else { 0 };
    }
}

fn write_sequence(
    item: &PackItem<'_>,
    start: usize,
    form: &PackForm,
    buffers: &mut PackBuffers<'_>,
) {
    let rows = start..start + item.ids.len();
    let keys_end = start + item.attended_len;
    for (place, id) in buffers.ids[rows.clone()].iter_mut().zip(item.ids) {
        *place = *id as i32;
    }
    buffers.types[rows.clone()].fill(form.type_id as i32);
    match item.keep {
        None => buffers.keep[rows.clone()].fill(1.0),
        Some(keep) => {
            for (it, keep) in buffers.keep[rows.clone()].iter_mut().zip(keep) {
                *it = if *keep { 1.0 } else { 0.0 };
            }
        }
    }
    for row in rows {
        buffers.positions[row] = form.positions.first() + (row - start) as i32;
        let (lo, hi) = match form.keys {
            Keys::Full => (start, keys_end),
            Keys::Causal => (start, keys_end.min(row + 1)),
            Keys::Window { side_len } => {
                let hi = keys_end.min(row.saturating_add(side_len).saturating_add(1));
                (start.max(row.saturating_sub(side_len)).min(hi), hi)
            }
        };
        buffers.lo[row] = lo as i32;
        buffers.hi[row] = hi as i32;
        buffers.extra[row] = match form.keys {
            Keys::Window { .. } if start < lo || lo == hi => start as i32,
            Keys::Window { .. } | Keys::Full | Keys::Causal => NO_EXTRA_KEY,
        };
    }
}

fn check_items(items: &[PackItem<'_>], bucket: Bucket) -> EmbeddingResult<()> {
    if bucket.sequence_count < items.len() {
        return Err(EmbeddingError::InvalidDimension {
            what: "a batch in this bucket",
            got_len: items.len(),
        });
    }
    let mut left = bucket.token_count;
    for (item_index, item) in items.iter().enumerate() {
        let length = item.ids.len();
        let bucket_left = Bucket { token_count: left, ..bucket };
        check_length(length, bucket_left)
            .and_then(|()| check_masks(item))
            .map_err(|it| EmbeddingError::BatchError { item_index, source: Box::new(it) })?;
        left -= length;
    }
    Ok(())
}

fn check_masks(item: &PackItem<'_>) -> EmbeddingResult<()> {
    let want_len = item.ids.len();
    if item.attended_len == 0 || want_len < item.attended_len {
        let (what, got_len) = ("attended part", item.attended_len);
        return Err(EmbeddingError::DimensionMismatch { what, want_len, got_len });
    }
    match item.keep {
        Some(keep) if keep.len() != want_len => {
            let (what, got_len) = ("pooling mask", keep.len());
            Err(EmbeddingError::DimensionMismatch { what, want_len, got_len })
        }
        _ => Ok(()),
    }
}

fn check_length(length: usize, bucket: Bucket) -> EmbeddingResult<()> {
    if length == 0 {
        return Err(EmbeddingError::EmptyInput { what: "token sequence" });
    }
    if bucket.token_count < length {
        return Err(EmbeddingError::InputTooLong {
            got_len: length,
            limit_max: bucket.token_count,
            unit: LengthUnit::Tokens,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: PackForm =
        PackForm { keys: Keys::Full, positions: Positions::FromZero, type_id: 0, pad_id: 0 };

    /// Owns what [`PackBuffers`] borrows, filled with rubbish.
    #[derive(Clone, Debug, PartialEq)]
    struct Rows {
        ids: Vec<i32>,
        positions: Vec<i32>,
        types: Vec<i32>,
        lo: Vec<i32>,
        hi: Vec<i32>,
        extra: Vec<i32>,
        bounds: Vec<i32>,
        keep: Vec<f32>,
    }

    impl Rows {
        fn of(bucket: Bucket, rubbish: i32) -> Self {
            let rows = vec![rubbish; bucket.token_count];
            Self {
                ids: rows.clone(),
                positions: rows.clone(),
                types: rows.clone(),
                lo: rows.clone(),
                hi: rows.clone(),
                extra: rows,
                bounds: vec![rubbish; bucket.sequence_count + 1],
                keep: vec![rubbish as f32; bucket.token_count],
            }
        }

        fn pack(
            items: &[PackItem<'_>],
            bucket: Bucket,
            form: &PackForm,
            rubbish: i32,
        ) -> EmbeddingResult<Self> {
            let mut out = Self::of(bucket, rubbish);
            let mut buffers = PackBuffers {
                ids: &mut out.ids,
                positions: &mut out.positions,
                types: &mut out.types,
                lo: &mut out.lo,
                hi: &mut out.hi,
                extra: &mut out.extra,
                bounds: &mut out.bounds,
                keep: &mut out.keep,
            };
            pack(items, bucket, form, &mut buffers)?;
            Ok(out)
        }
    }

    #[test]
    fn the_ladder_has_about_a_dozen_steps() {
        let tokens = |max| -> Vec<usize> {
            Bucket::ladder(max).unwrap().iter().map(|it| it.token_count).collect()
        };
        let all = [64, 128, 256, 384, 576, 896, 1344, 2048, 3072, 4608, 6912, 10368, 16384];
        assert_eq!(tokens(16_384), all);
        assert_eq!(tokens(512), [64, 128, 256, 384, 512]);
        assert_eq!(tokens(64), [64]);
        assert_eq!(tokens(100), [64, 128]);
        assert!(Bucket::ladder(63).is_err() && Bucket::ladder(16_385).is_err());
        assert_eq!(Bucket::of_tokens(64).sequence_count, 8);
        assert_eq!(Bucket::of_tokens(16_384).sequence_count, 512);
        let ladder = Bucket::ladder(16_384).unwrap();
        assert_eq!(Bucket::smallest(&ladder, 60, 9).unwrap().token_count, 128);
        assert_eq!(Bucket::smallest(&ladder, 129, 1).unwrap().token_count, 256);
        assert_eq!(Bucket::smallest(&ladder, 16_385, 1), None);
    }

    #[track_caller]
    fn check_batches(lengths: &[usize], bucket: Bucket, order: PackOrder, want: &[&[usize]]) {
        let got = close_batches(lengths, bucket, order).unwrap();
        let got: Vec<&[usize]> = got.iter().map(|it| &it.item_indexes[..]).collect();
        assert_eq!(got, want, "for {lengths:?}");
    }

    #[test]
    fn batches_close_on_either_budget() {
        let bucket = Bucket { token_count: 10, sequence_count: 3 };
        use PackOrder::{Input, LongestFirst};
        check_batches(&[], bucket, Input, &[]);
        check_batches(&[4, 6, 1], bucket, Input, &[&[0, 1], &[2]]);
        check_batches(&[1, 1, 1, 1], bucket, Input, &[&[0, 1, 2], &[3]]);
        check_batches(&[1, 9, 10, 2], bucket, LongestFirst, &[&[2], &[1], &[3, 0]]);
        for (lengths, want) in [([3, 0], true), ([3, 11], false)] {
            match close_batches(&lengths, bucket, Input) {
                Err(EmbeddingError::BatchError { item_index: 1, source }) => {
                    let empty = matches!(*source, EmbeddingError::EmptyInput { .. });
                    assert_eq!(empty, want, "{source}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[track_caller]
    fn check_keys(keys: Keys, item: PackItem<'_>, want: &[(i32, i32, Option<i32>)]) {
        let bucket = Bucket { token_count: 16, sequence_count: 2 };
        let form = PackForm { keys, ..PLAIN };
        let items = [PackItem::whole(&[1, 1]), item];
        let got = Rows::pack(&items, bucket, &form, 99).unwrap();
        for (index, (lo, hi, extra)) in want.iter().enumerate() {
            let row = 2 + index;
            let extra = extra.unwrap_or(NO_EXTRA_KEY);
            let got = (got.lo[row], got.hi[row], got.extra[row]);
            assert_eq!(got, (*lo, *hi, extra), "{keys:?}, row {row}");
        }
    }

    #[test]
    fn keys_are_intervals_with_an_extra_row() {
        let ids = [7; 5];
        let whole = PackItem::whole(&ids);
        check_keys(Keys::Full, whole, &[(2, 7, None); 5]);
        let causal = [(2, 3, None), (2, 4, None), (2, 5, None), (2, 6, None), (2, 7, None)];
        check_keys(Keys::Causal, whole, &causal);
        let window =
            [(2, 4, None), (2, 5, None), (3, 6, Some(2)), (4, 7, Some(2)), (5, 7, Some(2))];
        check_keys(Keys::Window { side_len: 1 }, whole, &window);
        check_keys(Keys::Window { side_len: 256 }, whole, &[(2, 7, None); 5]);
        check_keys(Keys::Window { side_len: usize::MAX }, whole, &[(2, 7, None); 5]);
        let masked = PackItem { ids: &ids, attended_len: 3, keep: None };
        check_keys(Keys::Full, masked, &[(2, 5, None); 5]);
    }

    #[test]
    fn positions_types_and_masks() {
        let bucket = Bucket { token_count: 8, sequence_count: 3 };
        let positions = Positions::AfterPad { pad_id: 1 };
        let form = PackForm { positions, type_id: 0, pad_id: 1, ..PLAIN };
        let keep = [true, false, true];
        let items = [
            PackItem::whole(&[5, 6]),
            PackItem { ids: &[7, 8, 9], attended_len: 3, keep: Some(&keep) },
        ];
        let got = Rows::pack(&items, bucket, &form, 99).unwrap();
        assert_eq!(got.ids, [5, 6, 7, 8, 9, 1, 1, 1]);
        assert_eq!(got.positions, [2, 3, 2, 3, 4, 1, 1, 1]);
        assert_eq!(got.types, [0; 8]);
        assert_eq!(got.keep, [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(got.bounds, [0, 2, 5, 5]);
        assert_eq!(got.lo[5..], got.hi[5..]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_place() {
        let bucket = Bucket { token_count: 4, sequence_count: 2 };
        let short = PackItem::whole(&[1]);
        let refused = |items: &[PackItem<'_>]| match Rows::pack(items, bucket, &PLAIN, 0) {
            Err(EmbeddingError::BatchError { item_index, .. }) => Some(item_index),
            Err(_) => None,
            Ok(rows) => panic!("{rows:?}"),
        };
        assert_eq!(refused(&[short, PackItem::whole(&[1; 4])]), Some(1));
        assert_eq!(refused(&[PackItem::whole(&[])]), Some(0));
        assert_eq!(refused(&[PackItem { ids: &[1], attended_len: 2, keep: None }]), Some(0));
        assert_eq!(refused(&[PackItem { ids: &[1], attended_len: 0, keep: None }]), Some(0));
        assert_eq!(
            refused(&[short, PackItem { ids: &[1], attended_len: 1, keep: Some(&[]) }]),
            Some(1)
        );
        assert_eq!(refused(&[short; 3]), None);
    }

    #[test]
    fn uniform_rows_attend_within_their_image() {
        let (mut lo, mut hi, mut bounds) = ([9; 12], [9; 12], [9; 4]);
        pack_uniform(2, 4, &mut lo, &mut hi, &mut bounds);
        assert_eq!(bounds, [0, 4, 8, 8]);
        assert_eq!(lo, [0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0]);
        assert_eq!(hi, [4, 4, 4, 4, 8, 8, 8, 8, 0, 0, 0, 0]);
    }

    struct XorShift(u64);

    impl XorShift {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % end as u64) as usize
        }
    }

    #[test]
    fn every_token_is_placed_once_and_budgets_hold() {
        let mut random = XorShift(0x2545_F491_4F6C_DD1D);
        let ladder = Bucket::ladder(1_024).unwrap();
        for round in 0..300 {
            let bucket = ladder[random.below(ladder.len())];
            let items: Vec<Vec<u32>> = (0..random.below(40))
                .map(|item| {
                    let len = 1 + random.below(bucket.token_count.min(120));
                    (0..len).map(|place| (item * 1_000 + place) as u32).collect()
                })
                .collect();
            let lengths: Vec<usize> = items.iter().map(Vec::len).collect();
            let order = [PackOrder::Input, PackOrder::LongestFirst][round % 2];
            let keys =
                [Keys::Full, Keys::Causal, Keys::Window { side_len: random.below(20) }][round % 3];
            let batches = close_batches(&lengths, bucket, order).unwrap();
            let mut seen: Vec<u32> = Vec::new();
            for batch in &batches {
                assert!(batch.token_count <= bucket.token_count);
                assert!(batch.item_indexes.len() <= bucket.sequence_count);
                seen.extend(check_rows(&items, batch, bucket, keys));
            }
            seen.sort_unstable();
            assert_eq!(seen, items.concat(), "round {round}");
        }
    }

    /// Packs over two kinds of rubbish, checks each row and returns the ids placed.
    fn check_rows(items: &[Vec<u32>], batch: &Batch, bucket: Bucket, keys: Keys) -> Vec<u32> {
        let packed: Vec<PackItem<'_>> =
            batch.item_indexes.iter().map(|it| PackItem::whole(&items[*it])).collect();
        let form = PackForm { keys, ..PLAIN };
        let got = Rows::pack(&packed, bucket, &form, 77).unwrap();
        assert_eq!(got, Rows::pack(&packed, bucket, &form, 1_234_567).unwrap(), "left unwritten");
        assert!(got.bounds.is_sorted());
        assert_eq!(got.bounds[bucket.sequence_count] as usize, batch.token_count);
        for (sequence, item) in packed.iter().enumerate() {
            let (start, end) = (got.bounds[sequence], got.bounds[sequence + 1]);
            let rows = start as usize..end as usize;
            assert!(got.ids[rows.clone()].iter().zip(item.ids).all(|(a, b)| *a == *b as i32));
            for row in rows {
                assert_eq!(got.positions[row], row as i32 - start);
                assert!(start <= got.lo[row] && got.lo[row] < got.hi[row] && got.hi[row] <= end);
                assert!((got.lo[row]..got.hi[row]).contains(&(row as i32)));
                if got.extra[row] != NO_EXTRA_KEY {
                    assert_eq!(got.extra[row], start);
                    assert!(!(got.lo[row]..got.hi[row]).contains(&start));
                }
            }
        }
        for row in batch.token_count..bucket.token_count {
            assert_eq!((got.lo[row], got.keep[row]), (got.hi[row], 0.0));
            assert_eq!((got.ids[row], got.extra[row]), (0, NO_EXTRA_KEY));
        }
        got.ids[..batch.token_count].iter().map(|it| *it as u32).collect()
    }
}
