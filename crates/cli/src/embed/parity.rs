//! How far vectors are from those in f32: measured on a run's first items, at the user's wish or
//! because the precision asks for it.

use calor_embed::{Closeness, EmbeddingResult, InferencePrecision, embedding::cosine};
use serde_json::{Map, Value as Json, json};

use super::{Engine, Made};
use crate::{exit::Failure, input::Content, output::Cell};

/// Items that are embedded in f32 as well.
const ITEMS: usize = 16;

/// The measurement on its way.
pub(super) struct Parity {
    /// Makes the vectors in f32; gone when enough was measured.
    engine: Option<Box<dyn Engine>>,
    /// What is compared with it, if that is known.
    precision: Option<InferencePrecision>,
    item_count: usize,
    columns: Vec<Distance>,
}

/// How far the vectors of a column are.
struct Distance {
    name: String,
    cell_count: usize,
    cosine_min: f64,
    cosine_sum: f64,
    difference_max: f32,
    /// Vectors and exact ones.
    got: Vec<Vec<f32>>,
    exact: Vec<Vec<f32>>,
}

/// The column whose vectors depend on which experts were chosen: two vectors of nearly equal slots
/// can have different ones.
const OF_CHOICE: &str = "fused";

impl Parity {
    pub(super) fn new(engine: Box<dyn Engine>, precision: Option<InferencePrecision>) -> Self {
        Self { engine: Some(engine), precision, item_count: 0, columns: Vec::new() }
    }

    /// Embeds the first of the items in f32, until there were enough, and compares.
    ///
    /// # Errors
    /// What the device says, and [`calor_embed::EmbeddingError::PrecisionTooFar`] for a column that
    /// is further away than the precision promises.
    pub(super) fn measure(
        &mut self,
        items: &[&Content],
        results: &[EmbeddingResult<Made>],
    ) -> Result<(), Failure> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let items = &items[..items.len().min(ITEMS - self.item_count)];
        let exact = engine.embed(items)?;
        if self.columns.is_empty() {
            let name = |it: &crate::output::Column| it.name.clone();
            let new = |name| Distance {
                name,
                cell_count: 0,
                cosine_min: 1.0,
                cosine_sum: 0.0,
                difference_max: 0.0,
                got: Vec::new(),
                exact: Vec::new(),
            };
            self.columns = engine.columns().iter().map(name).map(new).collect();
        }
        for (got, want) in results.iter().zip(&exact) {
            let (Ok(got), Ok(want)) = (got, want) else { continue };
            self.item_count += 1;
            for ((got, want), of) in got.cells.iter().zip(&want.cells).zip(&mut self.columns) {
                if *want != Cell::Absent {
                    let len = len(got).max(len(want));
                    of.add(&numbers(got, len), &numbers(want, len));
                }
            }
        }
        if ITEMS <= self.item_count {
            self.engine = None;
        }
        self.judge()
    }

    /// Refuses a column that is too far away.
    fn judge(&self) -> Result<(), Failure> {
        let Some(precision) = self.precision else { return Ok(()) };
        for column in self.columns.iter().filter(|it| it.name != OF_CHOICE) {
            column.closeness().require(&column.name, precision)?;
        }
        Ok(())
    }

    /// What was measured, by column.
    pub(super) fn to_json(&self) -> Json {
        let rows = self.columns.iter().filter(|it| 0 < it.cell_count).map(|it| {
            let count = it.cell_count as f64;
            let figures = json!({
                "cosine_min": it.cosine_min, "cosine_mean": it.cosine_sum / count,
                "difference_max": it.difference_max,
            });
            (it.name.clone(), figures)
        });
        json!({ "item_count": self.item_count, "columns": rows.collect::<Map<_, _>>() })
    }
}

impl Distance {
    fn add(&mut self, got: &[f32], want: &[f32]) {
        self.cell_count += 1;
        let near = cosine(got, want);
        self.cosine_min = self.cosine_min.min(near);
        self.cosine_sum += near;
        let apart = got.iter().zip(want).map(|(a, b)| (a - b).abs());
        self.difference_max = apart.fold(self.difference_max, f32::max);
        self.got.push(got.to_vec());
        self.exact.push(want.to_vec());
    }

    /// Of all vectors at once where they have one length; rows of tokens are compared each alone.
    fn closeness(&self) -> Closeness {
        let len = self.exact.first().map_or(0, Vec::len);
        match self.exact.iter().all(|it| it.len() == len) {
            true => Closeness::of(&self.got, &self.exact),
            false => Closeness { plain: self.cosine_min, centred: 1.0 },
        }
    }
}

/// How many numbers a cell has; of terms, those up to the last one.
fn len(cell: &Cell) -> usize {
    match cell {
        Cell::Dense(vector) => vector.len(),
        Cell::Tokens(matrix) => matrix.as_slice().len(),
        Cell::Sparse(terms) => terms.indices().last().map_or(0, |it| *it as usize + 1),
        Cell::Absent => 0,
    }
}

/// The first `len` numbers of a cell, zeros where it has fewer.
fn numbers(cell: &Cell, len: usize) -> Vec<f32> {
    let mut out = vec![0.0; len];
    match cell {
        Cell::Dense(vector) => out[..vector.len()].copy_from_slice(vector),
        Cell::Tokens(matrix) => out[..matrix.as_slice().len()].copy_from_slice(matrix.as_slice()),
        Cell::Sparse(terms) => {
            for (at, value) in terms.indices().iter().zip(terms.values()) {
                out[*at as usize] = *value;
            }
        }
        Cell::Absent => {}
    }
    out
}
