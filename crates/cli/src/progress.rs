//! Bars on standard error. Nothing is drawn where nobody looks.

use std::{io::IsTerminal, ops::ControlFlow};

use calor_weights::{Progress, ProgressStep};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::interrupt;

/// A bar for each file of a pull, one after another.
pub(crate) struct FileBars {
    hidden: bool,
    current: Option<(String, ProgressBar)>,
}

impl FileBars {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { hidden: quiet || !std::io::stderr().is_terminal(), current: None }
    }
}

impl Progress for FileBars {
    fn step(&mut self, step: &ProgressStep<'_>) -> ControlFlow<()> {
        if !self.hidden {
            let is_other = self.current.as_ref().is_none_or(|(file, _)| file != step.file);
            if is_other && let Some((_, bar)) = self.current.take() {
                bar.finish_and_clear();
            }
            let (_, bar) = self.current.get_or_insert_with(|| {
                let bar = ProgressBar::new(0).with_style(style(
                    "  {msg:<36!} {bar:24} {bytes:>10} of {total_bytes:<10} {bytes_per_sec}",
                ));
                bar.set_message(step.file.to_owned());
                (step.file.to_owned(), bar)
            });
            bar.set_length(step.total_bytes.unwrap_or(step.done_bytes));
            bar.set_position(step.done_bytes);
        }
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Drop for FileBars {
    fn drop(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.finish_and_clear();
        }
    }
}

/// How many items are done; their number is not known before the end.
pub(crate) struct ItemSpinner(ProgressBar);

impl ItemSpinner {
    pub(crate) fn new(quiet: bool) -> Self {
        let target = match quiet || !std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style("  {spinner} {pos} items, {per_sec}"));
        Self(bar)
    }

    pub(crate) fn advance(&self, count: usize) {
        self.0.inc(count as u64);
    }
}

impl Drop for ItemSpinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// How many of at most so many steps are done.
pub(crate) struct StepBar(ProgressBar);

impl StepBar {
    pub(crate) fn new(quiet: bool) -> Self {
        let target = match quiet || !std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        bar.set_style(style("  {bar:24} {pos} of at most {len}, {elapsed}  {msg}"));
        Self(bar)
    }

    pub(crate) fn show(&self, done: usize, most: usize, text: &str) {
        self.0.set_length(most as u64);
        self.0.set_position(done.saturating_sub(1) as u64);
        self.0.set_message(text.to_owned());
    }
}

impl Drop for StepBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
