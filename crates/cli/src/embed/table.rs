//! An item's result for people: a compact table.

use std::fmt::Write;

use calor_embed::{ModelId, PipelineOutput, TokenMatrix, embedding::l2_norm};

use crate::output::Row;

/// What people see of a result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    headline: String,
    lines: Vec<String>,
}

/// Numbers of a vector that are shown.
const SHOWN: usize = 4;
/// Characters of a text that are shown.
const TEXT_LEN: usize = 56;

impl Table {
    /// Of one vector.
    pub(super) fn vector(vector: &[f32], token_count: usize) -> Self {
        let headline = format!("{token_count} tokens");
        Self { headline, lines: vec![line("", "vector", Some(vector))] }
    }

    /// Of a vector for each token.
    pub(super) fn tokens(matrix: &TokenMatrix) -> Self {
        let lines = matrix.rows().take(3).enumerate();
        let mut lines: Vec<String> =
            lines.map(|(at, row)| line("", &format!("token {at}"), Some(row))).collect();
        if lines.len() < matrix.token_count() {
            lines.push(format!("       … {} more tokens", matrix.token_count() - lines.len()));
        }
        Self { headline: format!("{} tokens", matrix.token_count()), lines }
    }

    /// Of twelve slots and their fusion.
    pub(super) fn twelve(output: &PipelineOutput) -> Self {
        let embeddings = &output.embeddings;
        let headline = format!("{} of 12 models", embeddings.filled_count());
        let mut lines: Vec<String> = ModelId::iter()
            .filter_map(|model| {
                let found = embeddings.get(model)?;
                let mut out =
                    line(&format!("E{}", model.index() + 1), model.as_str(), Some(&found.vector));
                match (model, &output.sparse, &output.tokens) {
                    (ModelId::Sparse, Some(it), _) => {
                        let _ = write!(out, "  {} terms", it.len());
                    }
                    (ModelId::LateInteraction, _, Some(it)) => {
                        let _ = write!(out, "  {} tokens", it.token_count());
                    }
                    _ => {}
                }
                Some(out)
            })
            .collect();
        if let Some(fused) = &output.fused {
            lines.push(line("", "fused", Some(&fused.vector)));
            lines.push(format!("       experts  {}", experts(&fused.expert_weights)));
            let selected: Vec<String> = fused.selected_experts.iter().map(u8::to_string).collect();
            lines.push(format!("       selected {}", selected.join(" ")));
        }
        Self { headline, lines }
    }
}

/// The table of a row.
pub(super) fn of(row: &Row, table: &Table) -> String {
    let subject = match &row.text {
        Some(text) => format!("“{}”", shorten(text)),
        None => row.id.clone(),
    };
    let cut = if row.details.get("truncated") == Some(&true.into()) { ", cut" } else { "" };
    let mut out = format!("{}  {subject}  ({}{cut})", row.item_index + 1, table.headline);
    for line in &table.lines {
        out.push('\n');
        out.push_str(line.trim_end());
    }
    out
}

fn line(number: &str, name: &str, vector: Option<&[f32]>) -> String {
    let mut out = format!("  {number:<4} {name:<20}");
    if let Some(vector) = vector {
        let _ = write!(out, "{:>6}  norm {:.4} ", vector.len(), l2_norm(vector));
        for it in vector.iter().take(SHOWN) {
            let _ = write!(out, " {it:>8.4}");
        }
        out.push_str(" …");
    }
    out
}

/// Weights as numbers with bars, in order.
fn experts(weights: &[f32]) -> String {
    let bars = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = weights.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let one = |(index, weight): (usize, &f32)| {
        let step = (weight / most * 7.0).round().clamp(0.0, 7.0) as usize;
        format!("{index}{} {weight:.2}", bars[step])
    };
    weights.iter().enumerate().map(one).collect::<Vec<_>>().join("  ")
}

/// A text on one line, without what a terminal would obey.
fn shorten(text: &str) -> String {
    let plain = |it: char| if it.is_control() { ' ' } else { it };
    let mut out: String = text.chars().take(TEXT_LEN).map(plain).collect();
    if text.chars().nth(TEXT_LEN).is_some() {
        out.push('…');
    }
    out
}

#[test]
fn texts_cannot_command_the_terminal() {
    assert_eq!(shorten("a\u{1b}[2Jb\nc"), "a [2Jb c");
    assert_eq!(shorten(&"x".repeat(100)).chars().count(), TEXT_LEN + 1);
}
