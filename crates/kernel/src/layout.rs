//! Which thread has which lanes: the one decision about a machine that text contains.

use crate::language::Grid;
use crate::program::{InstrOp, LoopProgram, Store, Template};

/// Most lanes of one thread that are held in registers between passes.
pub(crate) const HELD_LANES_MAX: u32 = 16;

/// What a language's machines want.
pub(crate) struct Shape {
    /// Threads of a workgroup whose threads do not work together.
    pub(crate) workgroup: u32,
    /// Numbers of threads that may share an outer point, increasing.
    pub(crate) teams: &'static [u32],
    /// Most neighbouring lanes that one access moves.
    pub(crate) pack_max: u32,
    /// Most workgroups of a launch.
    pub(crate) groups_max: u32,
}

/// The lanes of each thread.
///
/// An item of work is one part of one outer point; a team of threads does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Whether a thread loops over lanes; otherwise it has exactly one, its part.
    pub(crate) spread: bool,
    /// Parts of an outer point that know nothing of each other.
    pub(crate) parts: u32,
    /// Threads that share a part.
    pub(crate) team: u32,
    /// Packs of lanes in each thread.
    pub(crate) chunks: u32,
    /// Neighbouring lanes in a pack.
    pub(crate) pack: u32,
    /// Whether outer points are visited one after the other.
    pub(crate) in_order: bool,
    /// Threads of a workgroup.
    pub(crate) workgroup: u32,
}

impl Layout {
    /// The layout of a program.
    pub(crate) fn of(program: &LoopProgram, shape: &Shape) -> Self {
        let width = program.width;
        let folds = program.body.iter().any(|it| matches!(it.op, InstrOp::FoldLanes(..)));
        let in_order = program.template() == Template::Scatter;
        let alone = Self {
            spread: false,
            parts: width,
            team: 1,
            chunks: 1,
            pack: 1,
            in_order,
            // Few lanes in each group, so that a scatter reaches more processors.
            workgroup: if in_order { 32 } else { shape.workgroup },
        };
        if in_order && lanes_meet(program) {
            return Self { spread: true, parts: 1, chunks: width, workgroup: 1, ..alone };
        }
        let pack = pack_of(program, shape.pack_max);
        if folds {
            return Self::team(&alone, width, pack, shape);
        }
        if program.template() == Template::Elementwise && 1 < pack {
            return Self { spread: true, parts: width / pack, pack, ..alone };
        }
        alone
    }

    fn team(alone: &Self, width: u32, pack: u32, shape: &Shape) -> Self {
        let spread = Self { spread: true, parts: 1, pack, ..*alone };
        if width <= HELD_LANES_MAX {
            let workgroup = if alone.in_order { 1 } else { shape.workgroup };
            return Self { chunks: width / pack, workgroup, ..spread };
        }
        let chunks = |team: u32| (width / pack).div_ceil(team);
        let fits = |team: &&u32| chunks(**team) * pack <= HELD_LANES_MAX;
        let largest = shape.teams.last().copied().unwrap_or(1);
        let team = shape.teams.iter().find(fits).copied().unwrap_or(largest);
        let workgroup = if alone.in_order { team } else { shape.workgroup.max(team) };
        // Teams larger than a warp meet in workgroup memory, which one team has to itself.
        let workgroup = if 32 < team { team } else { workgroup };
        Self { team, chunks: chunks(team), workgroup, ..spread }
    }

    /// Lanes of one thread.
    pub(crate) fn held(&self) -> u32 {
        self.chunks * self.pack
    }

    /// Whether some threads have fewer lanes than others.
    pub(crate) fn ragged(&self, width: u32) -> bool {
        self.spread && self.parts * self.team * self.held() != width
    }

    /// Teams in a workgroup.
    pub(crate) fn teams_per_group(&self) -> u32 {
        self.workgroup / self.team
    }

    /// How many workgroups a launch takes.
    pub(crate) fn grid(&self, groups_max: u32) -> Grid {
        if self.in_order {
            return Grid::Fixed { groups: (self.parts * self.team).div_ceil(self.workgroup) };
        }
        let items_per_group = self.teams_per_group();
        Grid::Points { items_per_point: self.parts, items_per_group, groups_max }
    }
}

/// Whether two lanes may add to one element, so that their order matters.
fn lanes_meet(program: &LoopProgram) -> bool {
    let adds = || program.stores.iter().filter(|it| it.add);
    let meets = |store: &Store| {
        let by_lane = |reg| program.instr(reg).level.has_lane();
        program.store_level(store).has_lane()
            && (store.address.lane_stride == 0
                || store.address.terms.iter().any(|term| by_lane(term.index))
                || adds().filter(|it| it.arg == store.arg).count() != 1)
    };
    1 < program.width && adds().any(meets)
}

/// Neighbouring lanes that one access can move: a divisor of the width, one where no access has
/// neighbouring elements.
fn pack_of(program: &LoopProgram, pack_max: u32) -> u32 {
    let loads = program.body.iter().filter_map(|it| match &it.op {
        InstrOp::Load { address, .. } if it.level.has_lane() => Some(address),
        InstrOp::Load { .. }
        | InstrOp::Const(_)
        | InstrOp::Outer(_)
        | InstrOp::Step
        | InstrOp::Lane
        | InstrOp::Word(_)
        | InstrOp::Unary(..)
        | InstrOp::Binary(..)
        | InstrOp::Select(..)
        | InstrOp::Cast(_)
        | InstrOp::FoldLanes(..)
        | InstrOp::FoldSteps(..)
        | InstrOp::Scan { .. }
        | InstrOp::Philox { .. } => None,
    });
    let mut addresses = loads.chain(program.stores.iter().map(|it| &it.address));
    if !addresses.any(|it| it.lane_stride == 1) {
        return 1;
    }
    [4, 2].into_iter().find(|it| *it <= pack_max && program.width.is_multiple_of(*it)).unwrap_or(1)
}
