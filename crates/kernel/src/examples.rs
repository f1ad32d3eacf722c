//! Representative loop programs with inputs: at least one of every template, level and corner.
//!
//! Writers keep golden text of them, devices run them against [`crate::interpret()`].

mod builder;
mod pointwise;
mod rows;
mod stepped;

use crate::program::LoopProgram;

/// A program and one launch of it.
#[derive(Clone, Debug)]
pub struct Example {
    /// Name of its golden files.
    pub name: &'static str,
    /// The program.
    pub program: LoopProgram,
    /// Launch words.
    pub words: Vec<i64>,
    /// Elements of each buffer before the launch.
    pub buffers: Vec<Vec<f64>>,
}

/// Every example.
pub fn all() -> Vec<Example> {
    let mut all = pointwise::all();
    all.extend(rows::all());
    all.extend(stepped::all());
    all
}
