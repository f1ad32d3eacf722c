//! What can go wrong with a device, by whose fault it is.

use thiserror::Error;

/// A failure of a device or of its use.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The machine or its driver is not here.
    #[error("no {kind} device: {why}")]
    Absent {
        /// Kind of device.
        kind: &'static str,
        /// What was looked for and not found.
        why: String,
    },
    /// Not enough memory is left.
    #[error("out of device memory: {want_bytes} bytes wanted, {left_bytes} left")]
    OutOfMemory {
        /// Bytes wanted.
        want_bytes: u64,
        /// Bytes left.
        left_bytes: u64,
    },
    /// The device does not do this.
    #[error("{kind} does not do {what}")]
    Unsupported {
        /// Kind of device.
        kind: &'static str,
        /// The unit, type or shape.
        what: String,
    },
    /// A file cannot be read straight into a buffer; it can through memory of the host.
    #[error("{kind} cannot read the file: {why}")]
    File {
        /// Kind of device.
        kind: &'static str,
        /// What its library said.
        why: String,
    },
    /// Text that we made does not compile: a bug of ours.
    #[error("kernel `{label}` does not compile: {log}")]
    Compile {
        /// Label of the unit.
        label: String,
        /// What the compiler said.
        log: String,
    },
    /// Code for another architecture.
    #[error("code for `{found}` cannot be loaded on `{wanted}`")]
    WrongTarget {
        /// The device's architecture.
        wanted: String,
        /// The artifact's.
        found: String,
    },
    /// Bytes that are no artifact of this device.
    #[error("damaged artifact: {why}")]
    Damaged {
        /// What does not fit.
        why: &'static str,
    },
    /// An id that is not alive, or belongs to an older generation.
    #[error("stale {what} id")]
    Stale {
        /// Kind of id.
        what: &'static str,
    },
    /// A span outside its buffer, or steps that their code cannot take: a bug of the caller.
    #[error("step {step}: {why}")]
    Step {
        /// Index of the step.
        step: usize,
        /// What does not fit.
        why: &'static str,
    },
    /// Bytes outside a buffer.
    #[error("bytes {offset}..{end} of a buffer of {len}")]
    Span {
        /// First byte.
        offset: u64,
        /// One past the last byte.
        end: u64,
        /// Bytes in the buffer.
        len: u64,
    },
    /// The run has not ended in time.
    #[error("the device did not finish within {waited_ms} ms")]
    Deadline {
        /// How long was waited.
        waited_ms: u64,
    },
    /// A step failed while it ran, on data that only the run could see.
    #[error("step {step} failed: {why}")]
    Failed {
        /// Index of the step.
        step: usize,
        /// What was seen.
        why: String,
    },
    /// The machine or its context is gone; everything must be built again.
    #[error("the {kind} device is lost: {why}")]
    Lost {
        /// Kind of device.
        kind: &'static str,
        /// What was seen.
        why: String,
    },
}
