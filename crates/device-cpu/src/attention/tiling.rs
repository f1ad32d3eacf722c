//! Which query rows are computed together: neighbours that see nearly the same keys.

use super::TILE_ROWS;

/// Cuts the rows into tiles; writes each tile's first row and at last the number of rows to
/// `tiles` and returns how many tiles there are.
///
/// A tile ends where a row shares no key with the rows before it, which is where a sequence
/// ends; so cuts inside a sequence do not depend on what precedes it. It also ends where the
/// union would be much longer than one row's interval, as for a global row among local ones.
pub(super) fn cut(lo: &[i32], hi: &[i32], tiles: &mut [u32]) -> usize {
    let mut tile_count = 0;
    let mut row = 0;
    while row < lo.len() {
        tiles[tile_count] = row as u32;
        tile_count += 1;
        let mut union = (lo[row], hi[row]);
        let mut shortest = hi[row] - lo[row];
        let first = row;
        row += 1;
        while row < lo.len() && row - first < TILE_ROWS {
            let (lo, hi) = (lo[row], hi[row]);
            let both_empty = shortest == 0 && lo == hi;
            let joined = (union.0.min(lo), union.1.max(hi));
            let least = shortest.min(hi - lo);
            let near = lo < hi
                && lo < union.1
                && union.0 < hi
                && joined.1 - joined.0 - least <= 2 * TILE_ROWS as i32;
            if !near && !both_empty {
                break;
            }
            if near {
                (union, shortest) = (joined, least);
            }
            row += 1;
        }
    }
    tiles[tile_count] = lo.len() as u32;
    tile_count
}

#[cfg(test)]
mod tests {
    fn check(intervals: &[(i32, i32)], want: &[u32]) {
        let lo: Vec<i32> = intervals.iter().map(|it| it.0).collect();
        let hi: Vec<i32> = intervals.iter().map(|it| it.1).collect();
        let mut tiles = vec![0; lo.len() + 1];
        let count = super::cut(&lo, &hi, &mut tiles);
        assert_eq!(tiles[..=count], *want);
    }

    #[test]
    fn sequences_are_apart() {
        check(&[], &[0]);
        check(&[(0, 2), (0, 2), (2, 5), (2, 5), (2, 5), (0, 0), (0, 0)], &[0, 2, 5, 7]);
    }

    #[test]
    fn long_sequences_are_cut() {
        check(&[(0, 150); 150], &[0, 64, 128, 150]);
    }

    #[test]
    fn global_rows_are_apart() {
        let mut rows = vec![(0, 1000)];
        rows.extend((1..10).map(|it| (it, it + 20)));
        check(&rows, &[0, 1, 10]);
    }

    #[test]
    fn causal_rows_join() {
        let rows: Vec<_> = (0..70).map(|it| (0, it + 1)).collect();
        check(&rows, &[0, 64, 70]);
    }
}
