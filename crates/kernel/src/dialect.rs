//! What a language must be able to say, so that the nest of loops is printed by one function.

use calor_ir::dtype::DType;
use calor_ir::op::{Binary, Fold, Unary};

use crate::layout::Layout;

/// How much of a loop is written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unroll {
    /// All of it: its bounds are numbers.
    Whole,
    /// A few turns, so that the loads of several are on their way at once.
    Some,
    /// None.
    No,
}

/// One language. Every method returns a piece of text; names and operands come as text.
pub(crate) trait Dialect {
    /// An immutable local of a register's type.
    fn value(&self, dtype: DType, name: &str, value: &str) -> String;
    /// A mutable local of a register's type.
    fn variable(&self, dtype: DType, name: &str, value: Option<&str>) -> String;
    /// A local array of registers.
    fn array(&self, dtype: DType, name: &str, len: u32) -> String;
    /// An immutable `i32`.
    fn int(&self, name: &str, value: &str) -> String;
    /// An immutable number of elements or points, signed.
    fn wide(&self, name: &str, value: &str) -> String;
    /// Head of a loop of an `i32` over a range.
    fn range(&self, name: &str, from: &str, below: &str, unroll: Unroll) -> String;
    /// Head of the loop over items of work; binds `item`.
    fn items(&self, layout: &Layout, count: &str) -> String;
    /// Head of the loop over every outer point in order; binds `point`.
    fn points(&self, count: &str) -> String;
    /// The unsigned quotient and remainder of an item or point by a number of points or parts.
    fn divide(&self, dividend: &str, divisor: &str) -> [String; 2];
    /// An immutable unsigned number of items.
    fn count(&self, name: &str, value: &str) -> String;
    /// A number as `i32`.
    fn narrow(&self, value: &str) -> String;
    /// Index of the thread in its team.
    fn teammate(&self, layout: &Layout) -> String;
    /// Index of the thread in the launch.
    fn thread(&self, layout: &Layout) -> String;
    /// A launch word.
    fn word(&self, word: u32) -> String;
    /// A launch word that may follow a live count: the word and its place among those.
    fn live_word(&self, word: u32, at: usize) -> String;
    /// A number that all threads of a team have, in a form that the language knows it of.
    fn agreed(&self, layout: &Layout, value: &str) -> String;
    /// An index register clamped into an extent, as a number of elements.
    fn clamped(&self, index: &str, extent: &str) -> String;
    /// A number of this type.
    fn constant(&self, dtype: DType, value: f64) -> String;
    /// One argument.
    fn unary(&self, op: Unary, dtype: DType, x: &str) -> String;
    /// Two arguments of one type.
    fn binary(&self, op: Binary, dtype: DType, a: &str, b: &str) -> String;
    /// One of two values.
    fn select(&self, condition: &str, a: &str, b: &str) -> String;
    /// Another type.
    fn cast(&self, from: DType, to: DType, x: &str) -> String;
    /// The first random word.
    fn philox(&self, key0: &str, key1: &str, counter: &str) -> String;
    /// An element of a buffer as a register.
    fn load(&self, arg: u8, dtype: DType, index: &str) -> String;
    /// Writes a register into a buffer.
    fn store(&self, arg: u8, dtype: DType, index: &str, value: &str) -> String;
    /// The fold of a value over a team, in a fixed order.
    fn combine(&self, fold: Fold, dtype: DType, value: &str) -> String;
    /// Accesses that move several neighbouring elements, if the language has them.
    fn packs(&self) -> Option<&dyn Packs>;
}

/// Accesses that move several neighbouring elements.
pub(crate) trait Packs {
    /// Declares a pack and loads it, or zeros where a guard is false.
    fn load(&self, name: &str, arg: u8, index: &str, guard: Option<&str>) -> String;
    /// An element of a pack as a register.
    fn get(&self, name: &str, dtype: DType, at: &str) -> String;
    /// Declares a pack to fill.
    fn declare(&self, name: &str, dtype: DType) -> String;
    /// Fills an element of a pack.
    fn set(&self, name: &str, dtype: DType, at: &str, value: &str) -> String;
    /// Stores a pack.
    fn store(&self, name: &str, arg: u8, index: &str) -> String;
}

/// The operation that a fold repeats.
pub(crate) fn fold_op(fold: Fold, dtype: DType) -> Binary {
    match fold {
        Fold::Sum if dtype == DType::Bool => Binary::Or,
        Fold::Sum => Binary::Add,
        Fold::Max => Binary::Max,
        Fold::Min => Binary::Min,
    }
}

/// The value of a fold of nothing. Floats narrower than `f32` are folded as `f32`.
pub(crate) fn fold_start(fold: Fold, dtype: DType) -> f64 {
    let ends = if dtype.is_float() { DType::F32 } else { dtype };
    match fold {
        Fold::Sum => 0.0,
        Fold::Max => ends.lowest(),
        Fold::Min => ends.highest(),
    }
}

/// A number as a decimal literal without a suffix, as short as it can be read back.
pub(crate) fn decimal(dtype: DType, value: f64) -> String {
    if dtype == DType::F64 { format!("{value:?}") } else { format!("{:?}", value as f32) }
}

/// The pieces of `library` that `text` calls, directly or through another piece, in the order of
/// the library: a piece before the pieces that call it.
///
/// Pieces are separated by empty lines. A piece that begins with `// name other` is called by any
/// of these names.
pub(crate) fn called_pieces(library: &str, text: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for piece in library.trim_end().split("\n\n").collect::<Vec<_>>().into_iter().rev() {
        let (names, code) = piece.split_once('\n').unwrap_or((piece, ""));
        let mut names = names.trim_start_matches("// ").split(' ');
        if names.any(|name| mentions(text, name) || kept.iter().any(|it| mentions(it, name))) {
            kept.push(code);
        }
    }
    kept.into_iter().rev().flat_map(|it| [it, "\n\n"]).collect()
}

/// Whether `name` stands in `text` as a word.
pub(crate) fn mentions(text: &str, name: &str) -> bool {
    let in_word = |it: char| it.is_alphanumeric() || it == '_';
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        !before.ends_with(in_word) && !after.starts_with(in_word)
    })
}

#[test]
fn pieces_bring_what_they_call() {
    let library = "// one\nfn one\n\n// two deux\nfn two one()\n\n// three\nfn three\n";
    assert_eq!(called_pieces(library, "deux(1)"), "fn one\n\nfn two one()\n\n");
    assert_eq!(called_pieces(library, "some_one twofold"), "");
}
