//! What crosses the seam: steps over spans of buffers.

use crate::contract::{BufferId, CodeId};

/// A piece of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Whose bytes.
    pub buffer: BufferId,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// One launch word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// A number fixed by the plan.
    Fixed(i64),
    /// An extent that follows the request: the smaller of `max` and count `count` of the live
    /// block, times `scale`, read when the program runs.
    Live {
        /// Which count.
        count: u8,
        /// Rows for each counted thing.
        scale: i64,
        /// The bucket's extent.
        max: i64,
    },
}

/// One thing that a program does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A generated or named kernel.
    Launch {
        /// Loaded code.
        code: CodeId,
        /// Launch words, in the order that the kernel defines.
        words: Vec<Word>,
        /// Buffers, in the order that the kernel defines.
        args: Vec<Span>,
    },
    /// A library operation.
    Call {
        /// Loaded code.
        code: CodeId,
        /// Launch words, in the order that the operation defines.
        words: Vec<Word>,
        /// Buffers, in the order that the operation defines.
        args: Vec<Span>,
    },
    /// Bytes from one span to another of the same length; they do not overlap.
    Copy {
        /// Source.
        from: Span,
        /// Destination.
        to: Span,
    },
    /// One byte everywhere.
    Fill {
        /// Destination.
        to: Span,
        /// The byte.
        byte: u8,
    },
}
