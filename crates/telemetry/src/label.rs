//! Names in events: resolved once, then copied like a number.
//!
//! For open sets only (models, kernels, devices, scenarios). A closed set is an enum.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Most different labels that one process keeps.
pub const LABEL_COUNT_MAX: usize = 1 << 16;
/// Longest label; the rest is cut off at a character boundary.
pub const LABEL_LEN_MAX: usize = 256;

/// What a label past [`LABEL_COUNT_MAX`] becomes.
pub const OVERFLOW: Label = Label("(too many labels)");

static LABELS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// A name that events carry without allocating.
///
/// ```
/// use calor_telemetry::Label;
/// let model = Label::of("bert");
/// assert_eq!(model, Label::fixed("bert"));
/// assert_eq!(model.text(), "bert");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(&'static str);

impl Label {
    /// For names that are known when compiling.
    pub const fn fixed(text: &'static str) -> Self {
        Self(text)
    }

    /// Keeps `text` for the life of the process. Takes a lock: call it when something is
    /// planned or opened, not when it runs.
    pub fn of(text: &str) -> Self {
        let text = cut(text);
        let mut labels = LABELS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = labels.get(text) {
            return Self(known);
        }
        if LABEL_COUNT_MAX <= labels.len() {
            return OVERFLOW;
        }
        let kept: &'static str = Box::leak(text.to_owned().into_boxed_str());
        labels.insert(kept);
        Self(kept)
    }

    /// The name itself.
    pub const fn text(self) -> &'static str {
        self.0
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

fn cut(text: &str) -> &str {
    if text.len() <= LABEL_LEN_MAX {
        return text;
    }
    &text[..text.floor_char_boundary(LABEL_LEN_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_kept_once() {
        let (a, b) = (Label::of("kept once"), Label::of("kept once"));
        assert!(std::ptr::eq(a.text(), b.text()));
    }

    #[test]
    fn long_labels_are_cut_between_characters() {
        let label = Label::of(&"é".repeat(LABEL_LEN_MAX));
        assert_eq!(label.text().len(), LABEL_LEN_MAX);
        assert!(label.text().chars().all(|it| it == 'é'));
    }
}
