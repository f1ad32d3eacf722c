//! A form as lists of actions over registers, ready to run.
//!
//! Lanes are computed in tiles. A fold over lanes needs all tiles before its result exists, so
//! the tape has *stages*, each of which walks the tiles of a row; what a later stage needs of an
//! earlier one is kept for the whole row, or loaded again. Within a tile, folds over steps cut
//! the work into *parts*, each with at most one loop over steps; what varies over steps is
//! computed again in each loop that needs it.

mod emit;
mod registers;
mod schedule;

use calor_ir::DType;

use super::lanes::{FoldEnd, FoldPart, Kept, Run};
use super::lower::{Form, NodeIndex, Place, Width};
use schedule::Schedule;

/// A program ready to run in one form.
#[derive(Debug)]
pub(super) struct Tape {
    /// Actions whose results are the same everywhere; run once for each task.
    pub(super) once: Vec<Action>,
    /// In order, for each point of the looped outer dimensions.
    pub(super) stages: Vec<Stage>,
    /// Where each node's register is.
    pub(super) homes: Vec<Home>,
    /// Bytes of scratch that the registers take.
    pub(super) scratch_bytes: usize,
    /// Outer dimensions that are looped over.
    pub(super) outer_rank: usize,
    /// Lanes of a row.
    pub(super) width: Width,
    /// Most lanes of a tile.
    pub(super) tile_len: usize,
    /// Whether stores add, so that points must run in order.
    pub(super) adds: bool,
}

/// One walk over the tiles of a row.
#[derive(Debug, Default)]
pub(super) struct Stage {
    /// Before the walk.
    pub(super) before: Vec<Action>,
    /// For each tile.
    pub(super) tile: Vec<Action>,
    /// After the walk.
    pub(super) after: Vec<Action>,
}

/// Where a register is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home {
    /// Bytes from the start of the scratch.
    pub(super) offset: usize,
    /// Bytes of a lane.
    pub(super) lane_bytes: usize,
    pub(super) extent: Extent,
}

/// How much of a row a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// One value, in each lane of one block.
    One,
    /// A tile.
    Tile,
    /// The row.
    Row,
}

/// One thing to do.
#[derive(Debug)]
pub(super) enum Action {
    /// A vector operation.
    Map { run: Run, to: NodeIndex, from: [NodeIndex; 3], lanes: bool },
    /// The same lane everywhere, given by its bits.
    Fill { to: NodeIndex, bits: u64, lanes: bool },
    /// The index along an outer dimension.
    Outer { to: NodeIndex, axis: usize },
    /// The step.
    Step { to: NodeIndex },
    /// The lane.
    Lane { to: NodeIndex },
    /// A launch word.
    Word { to: NodeIndex, word: usize },
    /// Elements of a buffer.
    Load(Load),
    /// Elements to a buffer.
    Store(Store),
    /// The row's last vector operation, whose results go to the buffer at once where they lie
    /// side by side there.
    MapStore { run: Run, from: [NodeIndex; 3], store: Store },
    /// Adds a tile to a fold over lanes.
    FoldPart { part: FoldPart, to: NodeIndex, from: NodeIndex },
    /// The result of a fold over lanes.
    FoldEnd { end: FoldEnd, to: NodeIndex },
    /// A loop over steps.
    Steps(Box<StepLoop>),
}

/// A loop over steps.
#[derive(Debug, Default)]
pub(super) struct StepLoop {
    pub(super) lo: NodeIndex,
    pub(super) hi: NodeIndex,
    pub(super) before: Vec<Action>,
    pub(super) body: Vec<Action>,
    pub(super) after: Vec<Action>,
}

/// A load.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) to: NodeIndex,
    pub(super) arg: usize,
    pub(super) dtype: DType,
    pub(super) place: Located,
    pub(super) guard: Option<NodeIndex>,
    /// Whether each lane has its own element.
    pub(super) lanes: bool,
    /// Whether the register may stand for the buffer itself.
    pub(super) direct: bool,
}

/// A store.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) value: NodeIndex,
    pub(super) arg: usize,
    pub(super) dtype: DType,
    pub(super) place: Located,
    pub(super) add: bool,
    pub(super) lanes: bool,
}

/// A place with what is known of its terms.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) place: Place,
    /// Whether the step counts.
    pub(super) step: bool,
    /// For each term whether its index is `i64`, else `i32`, and whether it varies over lanes.
    pub(super) terms: Vec<(bool, bool)>,
}

impl Located {
    fn new(form: &Form, place: &Place, step: bool) -> Self {
        let terms = place.terms.iter().map(|term| {
            let node = &form.nodes[term.index];
            (node.dtype == DType::I64, node.level.has_lane())
        });
        Self { place: place.clone(), step, terms: terms.collect() }
    }
}

/// A node that this device does not compute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoSuchOperation {
    /// Name of the operation or rule.
    pub(crate) what: &'static str,
    /// Type of its arguments.
    pub(crate) dtype: DType,
}

impl Tape {
    /// Orders the nodes of a form and gives them registers.
    pub(super) fn new(form: &Form) -> Result<Self, NoSuchOperation> {
        let schedule = Schedule::new(form);
        let mut emitter = emit::Emitter::new(form, &schedule);
        let (once, stages) = emitter.run()?;
        let (homes, scratch_bytes) = registers::assign(form, &schedule, &emitter.spans);
        Ok(Self {
            once,
            stages,
            homes,
            scratch_bytes,
            outer_rank: form.outer_rank,
            width: form.width,
            tile_len: schedule.tile_len,
            adds: form.puts.iter().any(|it| it.add),
        })
    }

    /// Whether parts of a row can run apart.
    pub(super) fn lanes_are_free(&self) -> bool {
        fn folds(actions: &[Action]) -> bool {
            actions.iter().any(|it| match it {
                Action::FoldPart { .. } => true,
                Action::Steps(steps) => folds(&steps.body),
                _ => false,
            })
        }
        !self.adds && !self.stages.iter().any(|it| folds(&it.tile))
    }

    /// A rough number of vector operations for each block and point, for splitting the work.
    pub(super) fn weight(&self) -> usize {
        let action = |it: &Action| match it {
            Action::Steps(steps) => steps.body.len() * STEP_COUNT_GUESS,
            _ => 1,
        };
        self.stages.iter().flat_map(|it| &it.tile).map(action).sum::<usize>().max(1)
    }
}

/// How many steps a loop has, where nobody knows.
const STEP_COUNT_GUESS: usize = 32;

/// Bytes of one lane of a register.
fn lane_bytes(dtype: DType) -> usize {
    Kept::of(dtype).size_bytes()
}
