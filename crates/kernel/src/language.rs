//! The text of a loop program in a language of machines.
//!
//! # What a kernel takes
//!
//! CUDA C++, in order: one pointer for each buffer; a struct of the launch words, `i64` each (one
//! unused word where there are none); a pointer to the live counts, `u32` each; a struct of one
//! pair of `i64` (count index, scale) for each of [`KernelText::live_words`] (one unused pair
//! where there are none).
//!
//! WGSL, in group 0: one read-write storage buffer for each buffer of the program, so that parts
//! of one arena can be bound side by side; then a uniform buffer of `i32`, first the launch words,
//! then a pair (count index, scale) for each live word, padded to a multiple of four; then a
//! read-only storage buffer with the live counts, `u32` each. Offsets and indices are `i32`.
//! Types narrower than 32 bits are packed as in memory and written by atomic operations on their
//! word, so a buffer's size is a multiple of four bytes. `i64` and `f64` do not exist.
//!
//! A CUDA kernel waits itself for the kernel in front of it (from sm_90), so it may be launched
//! before that one has ended.
//!
//! A live word is the smaller of the launch word and `live[count] * scale`, and the launch word
//! alone where the count index is -1. The pointer to the counts is then not followed.
//!
//! A written buffer may share its memory with a read one only where an element is read by nothing
//! but the outer point, step and lane that write it.

use std::fmt;

use calor_ir::dtype::DType;

use crate::layout::{Layout, Shape};
use crate::program::{LoopProgram, ProgramError};
use crate::{write_cuda, write_wgsl};

/// A language of machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Language {
    /// CUDA C++ without headers, for NVRTC.
    CudaCpp,
    /// The WebGPU shading language.
    Wgsl,
}

impl Language {
    /// Every language, in declaration order.
    pub const ALL: [Self; 2] = [Self::CudaCpp, Self::Wgsl];

    /// The usual ending of its files.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::CudaCpp => "cu",
            Self::Wgsl => "wgsl",
        }
    }

    /// Whether registers and buffers of this type can be written in it.
    pub const fn has(self, dtype: DType) -> bool {
        match (self, dtype) {
            (Self::Wgsl, DType::I64 | DType::F64) => false,
            (
                Self::Wgsl,
                DType::Bool
                | DType::U8
                | DType::I8
                | DType::I32
                | DType::U32
                | DType::F8E4M3
                | DType::F16
                | DType::BF16
                | DType::F32,
            )
            | (Self::CudaCpp, _) => true,
        }
    }

    pub(crate) const fn shape(self) -> Shape {
        match self {
            Self::CudaCpp => Shape {
                workgroup: 256,
                teams: &[32, 64, 128, 256, 512, 1024],
                pack_max: 4,
                groups_max: 1 << 20,
            },
            Self::Wgsl => Shape {
                workgroup: 64,
                teams: &[64, 128, 256],
                pack_max: 1,
                groups_max: u16::MAX as u32,
            },
        }
    }
}

/// How a launch finds the number of workgroups, all along the first axis. Every kernel is right
/// under any number; this one is fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grid {
    /// Always as many.
    Fixed {
        /// Number of workgroups; fewer would leave lanes out.
        groups: u32,
    },
    /// Enough for every outer point.
    Points {
        /// Items of work in an outer point.
        items_per_point: u32,
        /// Items of work that a workgroup does at once.
        items_per_group: u32,
        /// Most workgroups.
        groups_max: u32,
    },
}

impl Grid {
    /// The number of workgroups for these extents, the first launch words: at least one.
    pub fn groups(self, extents: &[i64]) -> u32 {
        match self {
            Self::Fixed { groups } => groups,
            Self::Points { items_per_point, items_per_group, groups_max } => {
                let items = extents.iter().fold(u64::from(items_per_point), |n, it| {
                    n.saturating_mul((*it).max(0) as u64)
                });
                items.div_ceil(items_per_group.into()).clamp(1, groups_max.into()) as u32
            }
        }
    }
}

/// A kernel's text and what a launch must know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelText {
    /// The source.
    pub text: String,
    /// Name of the entry point.
    pub entry: String,
    /// Threads of a workgroup along each axis.
    pub workgroup: [u32; 3],
    /// How many workgroups a launch takes.
    pub grid: Grid,
    /// Indices of the launch words that may follow a live count, in the order of their pairs: the
    /// extents first.
    pub live_words: Vec<u32>,
}

/// Why there is no text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// The program breaks a rule: a bug in whoever made it.
    Program(ProgramError),
    /// The language has no such type.
    Lacks {
        /// The language.
        language: Language,
        /// The type.
        dtype: DType,
    },
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(error) => error.fmt(f),
            Self::Lacks { language, dtype } => write!(f, "{language:?} has no type {dtype}"),
        }
    }
}

impl std::error::Error for WriteError {}

/// The text of `program`. Programs with equal canonical bytes have equal text.
///
/// # Errors
/// [`WriteError::Program`] when the program breaks its own rules, [`WriteError::Lacks`] when a
/// buffer or register has a type that the language does not have.
pub fn write(program: &LoopProgram, language: Language) -> Result<KernelText, WriteError> {
    program.check().map_err(WriteError::Program)?;
    let mut dtypes =
        program.args.iter().map(|it| it.dtype).chain(program.body.iter().map(|it| it.dtype));
    if let Some(dtype) = dtypes.find(|it| !language.has(*it)) {
        return Err(WriteError::Lacks { language, dtype });
    }
    let shape = language.shape();
    let layout = Layout::of(program, &shape);
    let entry = format!("calor_{}", program.template().name());
    let text = match language {
        Language::CudaCpp => write_cuda::text(program, &layout, &entry),
        Language::Wgsl => write_wgsl::text(program, &layout, &entry),
    };
    Ok(KernelText {
        text,
        entry,
        workgroup: [layout.workgroup, 1, 1],
        grid: layout.grid(shape.groups_max),
        live_words: program.live_words(),
    })
}

#[test]
fn a_grid_covers_every_item() {
    let grid = Grid::Points { items_per_point: 3, items_per_group: 8, groups_max: 100 };
    assert_eq!(grid.groups(&[2, 4]), 3);
    assert_eq!(grid.groups(&[0]), 1);
    assert_eq!(grid.groups(&[i64::MAX, i64::MAX]), 100);
    assert_eq!(Grid::Fixed { groups: 7 }.groups(&[1000]), 7);
}
