//! Where registers are: tiles share memory when they are not needed at the same time.

use super::super::lanes::BLOCK;
use super::super::lower::{Form, Width};
use super::schedule::Schedule;
use super::{Extent, Home, lane_bytes};

/// First and last position at which a register is in use; none for one that is never made.
pub(super) type Span = Option<(usize, usize)>;

/// Bytes between registers beyond their length, so that they do not all fall into one cache set.
const GAP_BYTES: usize = 64;

/// A home for each node, and the bytes that all of them take.
pub(super) fn assign(form: &Form, schedule: &Schedule, spans: &[Span]) -> (Vec<Home>, usize) {
    let mut homes = Vec::with_capacity(form.nodes.len());
    let mut end = 0;
    let mut take = |bytes: usize| {
        let offset = end;
        end += bytes.next_multiple_of(64) + GAP_BYTES;
        offset
    };
    let row_len = match form.width {
        Width::Fixed(width) => (width as usize).next_multiple_of(BLOCK),
        Width::Word(_) => 0, // Nothing is kept for such rows.
    };
    for (index, node) in form.nodes.iter().enumerate() {
        let lane_bytes = lane_bytes(node.dtype);
        let extent = match (node.level.has_lane(), schedule.kept[index]) {
            (false, _) => Extent::One,
            (true, false) => Extent::Tile,
            (true, true) => Extent::Row,
        };
        let offset = match (extent, spans[index]) {
            (_, None) | (Extent::Tile, Some(_)) => 0, // Tiles are placed below.
            (Extent::One, Some(_)) => take(BLOCK * lane_bytes),
            (Extent::Row, Some(_)) => take(row_len * lane_bytes),
        };
        homes.push(Home { offset, lane_bytes, extent });
    }

    let tile = |index: usize| homes[index].extent == Extent::Tile;
    let mut order: Vec<usize> =
        (0..homes.len()).filter(|it| tile(*it) && spans[*it].is_some()).collect();
    order.sort_unstable_by_key(|it| spans[*it]);
    // Places in use (size, last position, offset); freed once the last position has passed.
    let mut places: Vec<(usize, usize, usize)> = Vec::new();
    for index in order {
        let Some((first, last)) = spans[index] else { continue };
        let lane_bytes = homes[index].lane_bytes;
        let free = places.iter_mut().find(|(size, until, _)| *size == lane_bytes && *until < first);
        homes[index].offset = match free {
            Some((_, until, offset)) => {
                *until = last;
                *offset
            }
            None => {
                let offset = take(schedule.tile_len * lane_bytes);
                places.push((lane_bytes, last, offset));
                offset
            }
        };
    }
    (homes, end)
}
