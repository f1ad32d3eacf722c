//! Several devices: what each runs with, and how it is called.

use std::num::NonZeroUsize;

use super::checkpoint::threads;
use crate::arguments::RunArguments;
use crate::devices::{Wish, check_distinct};
use crate::exit::Failure;

/// What each place runs with; one where no devices are named. Places on the processor share its
/// threads.
///
/// # Errors
/// For a GPU that is named twice.
pub(crate) fn places(run: &RunArguments, devices: &[Wish]) -> Result<Vec<RunArguments>, Failure> {
    check_distinct(devices)?;
    if devices.is_empty() {
        return Ok(vec![run.clone()]);
    }
    let share = NonZeroUsize::new(threads(run).get() / devices.len());
    let share = share.unwrap_or(NonZeroUsize::MIN);
    let place =
        |it: &Wish| RunArguments { device: it.clone(), threads: Some(share), ..run.clone() };
    Ok(devices.iter().map(place).collect())
}

/// Places by name.
pub(crate) fn names(runs: &[RunArguments]) -> Vec<String> {
    let named = |(place, it): (usize, &RunArguments)| match runs.len() {
        1 => it.device.to_string(),
        // The processor may be there twice.
        _ => format!("{place}:{}", it.device),
    };
    runs.iter().enumerate().map(named).collect()
}
