//! Sums over what was read and over what arrived on the device, which must be equal.
//!
//! Words are summed by rows: once as they are, which finds every single changed bit, and once
//! weighted by their distance from the row's end, which finds words that changed places. Each row
//! is compared on its own, so a row at another's place is found too.

use calor_device::Word;
use calor_ir::{Binary, DType, Fold};
use calor_kernel::{Access, Address, Arg, Instr, InstrOp, Level, LoopProgram, Reg, Store, Unit};

/// Words of a row.
pub(super) const ROW_LEN: usize = 1024;
/// Bytes of a row's two sums.
pub(super) const SUMS_BYTES: u64 = 8;
/// Words whose sums one launch takes: their indices are `i32`.
const LAUNCH_LEN: usize = 1 << 30;
/// Sums that are kept apart while a row is read, so that several words are taken at once.
const LANES: usize = 16;

/// Launch word that holds how many words there are, behind the addresses.
const COUNT_WORD: u32 = 10;

/// The two sums of a row.
pub(super) type Sums = [u32; 2];

/// The sums of each row of elements; the last row is as if zeros followed.
pub(super) fn sums(elements: &[f32], out: &mut Vec<Sums>) {
    for row in bytemuck::cast_slice::<f32, u32>(elements).chunks(ROW_LEN) {
        let whole: Result<&[u32; ROW_LEN], _> = row.try_into();
        out.push(whole.map_or_else(
            |_| {
                let mut padded = [0; ROW_LEN];
                padded[..row.len()].copy_from_slice(row);
                row_sums(&padded)
            },
            row_sums,
        ));
    }
}

fn row_sums(row: &[u32; ROW_LEN]) -> Sums {
    let (mut plain, mut stepped) = ([0_u32; LANES], [0_u32; LANES]);
    for words in row.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            plain[lane] = plain[lane].wrapping_add(words[lane]);
            // A word is added once more in each later step: its distance from the end.
            stepped[lane] = stepped[lane].wrapping_add(plain[lane]);
        }
    }
    let mut out = [0_u32; 2];
    for lane in 0..LANES {
        let ahead = plain[lane].wrapping_mul(lane as u32);
        let weighted = stepped[lane].wrapping_mul(LANES as u32).wrapping_sub(ahead);
        out[0] = out[0].wrapping_add(plain[lane]);
        out[1] = out[1].wrapping_add(weighted);
    }
    out
}

/// The kernel that sums: rows of `u32` in, two sums for each row out.
pub(super) fn unit() -> Unit {
    let mut body = Vec::new();
    let mut push = |op, level, dtype| {
        body.push(Instr { op, level, dtype });
        Reg(body.len() as u32 - 1)
    };
    let (row, lane, word) = (Level::Row, Level::Lane, DType::U32);
    let outer = push(InstrOp::Outer(0), row, DType::I32);
    let width = push(InstrOp::Const(ROW_LEN as f64), row, DType::I32);
    let start = push(InstrOp::Binary(Binary::Mul, outer, width), row, DType::I32);
    let count = push(InstrOp::Word(COUNT_WORD), row, DType::I32);
    let left = push(InstrOp::Binary(Binary::Sub, count, start), row, DType::I32);
    let at = push(InstrOp::Lane, lane, DType::I32);
    let inside = push(InstrOp::Binary(Binary::Lt, at, left), lane, DType::Bool);
    let address = Address { word: 1, lane_stride: 1, terms: Vec::new() };
    let load = InstrOp::Load { arg: 0, address, guard: Some(inside) };
    let value = push(load, lane, word);
    let distance = push(InstrOp::Binary(Binary::Sub, width, at), lane, DType::I32);
    let distance = push(InstrOp::Cast(distance), lane, word);
    let weighted = push(InstrOp::Binary(Binary::Mul, value, distance), lane, word);
    let plain = push(InstrOp::FoldLanes(Fold::Sum, value), row, word);
    let weighted = push(InstrOp::FoldLanes(Fold::Sum, weighted), row, word);
    let store = |value, at| {
        let address = Address { word: at, lane_stride: 0, terms: Vec::new() };
        Store { arg: 1, address, value, add: false }
    };
    Unit::Loop(LoopProgram {
        rank: 1,
        width: ROW_LEN as u32,
        args: vec![
            Arg { dtype: word, access: Access::Read },
            Arg { dtype: word, access: Access::Write },
        ],
        body,
        bounds: None,
        stores: vec![store(plain, 4), store(weighted, 7)],
        word_count: COUNT_WORD + 1,
    })
}

/// Launch words for a weight of `count` words: one list for each launch.
pub(super) fn launches(count: usize) -> impl Iterator<Item = Vec<Word>> {
    (0..count).step_by(LAUNCH_LEN).map(move |first| {
        let len = LAUNCH_LEN.min(count - first);
        let sums_at = (first / ROW_LEN * 2) as i64;
        let (rows, row_len) = (len.div_ceil(ROW_LEN) as i64, ROW_LEN as i64);
        let words = [rows, first as i64, row_len, 0, sums_at, 2, 0, sums_at + 1, 2, 0, len as i64];
        words.map(Word::Fixed).to_vec()
    })
}

#[test]
fn the_kernel_keeps_the_rules_of_its_form() {
    let Unit::Loop(program) = unit() else { panic!("a loop program") };
    program.check().expect("it is well formed");
    let words = launches(ROW_LEN + 1).next().expect("one launch");
    assert_eq!(words.len(), program.word_count as usize);
    assert_eq!(launches(LAUNCH_LEN + 1).count(), 2);
}

#[test]
fn sums_tell_bits_and_places() {
    let of = |elements: &[f32]| {
        let mut out = Vec::new();
        sums(elements, &mut out);
        out
    };
    let elements: Vec<f32> = (0..1500).map(|it| it as f32 / 7.0).collect();
    let want: Sums = elements[..ROW_LEN].iter().enumerate().fold([0, 0], |[a, b], (at, it)| {
        let distance = (ROW_LEN - at) as u32;
        [a.wrapping_add(it.to_bits()), b.wrapping_add(it.to_bits().wrapping_mul(distance))]
    });
    let all = of(&elements);
    assert_eq!((all.len(), all[0]), (2, want));
    for at in [0, 5, 1023, 1024, 1499] {
        for bit in [0, 13, 31] {
            let mut other = elements.clone();
            other[at] = f32::from_bits(other[at].to_bits() ^ (1 << bit));
            assert_ne!(of(&other), all, "bit {bit} of element {at}");
        }
    }
    let mut other = elements;
    other.swap(3, 700);
    assert_ne!(of(&other), all, "two elements changed places");
}
