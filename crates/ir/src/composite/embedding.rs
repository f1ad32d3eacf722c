//! Rows of a table.

use crate::case::{CaseBuilder, OpCase};
use crate::composite::arguments::{exactly, sizes};
use crate::composite::{Attrs, Composite, Meaning};
use crate::dtype::DType;
use crate::graph::{Graph, GraphError, ValueId};

/// Row `ids[i]` of the table. Ids outside the table are clamped into it.
///
/// Shapes: `table: [v, d]`, `ids: i32 [t]`, result `[t, d]`.
pub static EMBEDDING: Composite = Composite {
    name: "embedding",
    about: "rows of a table by their index",
    meaning: Meaning::Expand(expand),
    cases,
};

fn expand(g: &mut Graph, _attrs: &Attrs, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let [table, ids] = exactly(g, EMBEDDING.name, inputs)?;
    let [_, _] = sizes(g, EMBEDDING.name, table)?;
    let [_] = sizes(g, EMBEDDING.name, ids)?;
    Ok(vec![g.gather(table, 0, ids)?])
}

fn cases() -> Vec<OpCase> {
    let mut out = Vec::new();
    for (name, v, d, ids) in [
        ("rows", 10, 8, &[3, 0, 9, 3, 3][..]),
        ("one row", 1, 3, &[0, 0]),
        ("outside the table", 5, 7, &[-1, 5, 1000, 4]),
    ] {
        let mut case = CaseBuilder::new(name);
        let table = case.random("table", DType::F32, &[v, d]);
        let ids = case.indices("ids", ids);
        out.push(case.of(&EMBEDDING, Attrs::NONE, &[table, ids]));
    }
    let mut case = CaseBuilder::new("f16");
    let table = case.random("table", DType::F16, &[6, 5]);
    let ids = case.indices("ids", &[5, 1]);
    out.push(case.of(&EMBEDDING, Attrs::NONE, &[table, ids]));
    out
}
