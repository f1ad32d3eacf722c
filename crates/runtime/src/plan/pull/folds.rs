//! Folds: sums, extremes, contractions and pooled segments, over lanes or over steps.

use calor_ir::{Attrs, Binary, DType, DotDims, Fold, ValueId};
use calor_kernel::{Bounds, InstrOp, Level, Reg};

use super::super::PlanError;
use super::super::index::{Coord, LANE, Map, STEP};
use super::{Puller, Steps, Stop};

impl Puller<'_> {
    /// A fold over one extent: over lanes where the coordinates have none, else over steps.
    pub(in crate::plan) fn fold(
        &mut self,
        value: ValueId,
        fold: Fold,
        extent: usize,
        map: &Map,
        item: impl FnOnce(&mut Self, Coord) -> Result<Reg, Stop>,
    ) -> Result<Reg, Stop> {
        let level = self.level_of(map);
        let out = self.graph.ty(value).dtype;
        if extent == 0 {
            let nothing = match fold {
                Fold::Sum => 0.0,
                Fold::Max => out.lowest(),
                Fold::Min => out.highest(),
            };
            return Ok(self.number(out, nothing));
        }
        let over_lanes = !level.has_lane() && self.width.is_none_or(|width| width == extent);
        if over_lanes {
            self.width = Some(extent);
            let x = item(self, Coord::var(LANE))?;
            let x = self.widen(x);
            let level = Level::of(self.level(x).has_step(), false);
            let dtype = self.dtype(x);
            let x = self.spread(x, Level::Lane);
            let folded = self.emit(InstrOp::FoldLanes(fold, x), level, dtype);
            return Ok(self.cast(folded, out));
        }
        if !level.has_lane() && self.width != Some(1) && extent > 64 {
            // A long fold beside lanes of another number runs better on its own.
            return Err(Stop::Store(value));
        }
        self.enter_steps(value, Steps::Extent(extent), map)?;
        let x = item(self, Coord::var(STEP));
        self.folding = false;
        let x = self.widen(x?);
        let x = self.spread(x, Level::Step);
        let level = Level::of(false, self.level(x).has_lane());
        let dtype = self.dtype(x);
        let folded = self.emit(InstrOp::FoldSteps(fold, x), level, dtype);
        Ok(self.cast(folded, out))
    }

    /// Makes a register vary over the folded loop, as folds want, even if it is constant there.
    pub(in crate::plan) fn spread(&mut self, x: Reg, over: Level) -> Reg {
        let level = self.level(x);
        let has = if over == Level::Lane { level.has_lane() } else { level.has_step() };
        if has {
            return x;
        }
        let index = match over {
            Level::Lane => self.emit(InstrOp::Lane, Level::Lane, DType::I32),
            Level::Row | Level::Step | Level::StepLane => {
                self.emit(InstrOp::Step, Level::Step, DType::I32)
            }
        };
        let zero = self.number(DType::I32, 0.0);
        let always = self.binary(Binary::Le, zero, index);
        self.select(always, x, x)
    }

    fn enter_steps(&mut self, value: ValueId, steps: Steps, map: &Map) -> Result<(), Stop> {
        let nested = self.folding || self.level_of(map).has_step();
        if nested || self.steps.is_some_and(|it| it != steps) {
            return Err(Stop::Store(value));
        }
        if self.steps.is_none() {
            let (lo, hi) = match steps {
                Steps::Segment(lo, hi) => (lo, hi),
                Steps::Extent(extent) => {
                    let word = self.words.len() as u32;
                    self.words.push(extent as i64);
                    let lo = self.number(DType::I32, 0.0);
                    (lo, self.emit(InstrOp::Word(word), Level::Row, DType::I32))
                }
            };
            self.bounds = Some(Bounds { lo, hi });
            self.steps = Some(steps);
        }
        self.folding = true;
        Ok(())
    }

    pub(in crate::plan) fn dot(
        &mut self,
        value: ValueId,
        a: ValueId,
        b: ValueId,
        dims: &DotDims,
        map: &Map,
    ) -> Result<Reg, Stop> {
        let (left, right) = (self.graph.shape(a).rank(), self.graph.shape(b).rank());
        let mut left_map = vec![None; left];
        let mut right_map = vec![None; right];
        for (at, (i, j)) in dims.batch.iter().enumerate() {
            left_map[*i] = Some(map[at].clone());
            right_map[*j] = Some(map[at].clone());
        }
        let contracted = |axis: usize, of: fn(&(usize, usize)) -> usize| {
            dims.contract.iter().any(|pair| of(pair) == axis)
        };
        let mut next = dims.batch.len();
        for (axis, slot) in left_map.iter_mut().enumerate() {
            if slot.is_none() && !contracted(axis, |pair| pair.0) {
                *slot = Some(map[next].clone());
                next += 1;
            }
        }
        for (axis, slot) in right_map.iter_mut().enumerate() {
            if slot.is_none() && !contracted(axis, |pair| pair.1) {
                *slot = Some(map[next].clone());
                next += 1;
            }
        }
        let product = |this: &mut Self, at: Option<Coord>| {
            let fill = |map: &[Option<Coord>]| -> Map {
                let fill = |it: &Option<Coord>| it.clone().or_else(|| at.clone());
                map.iter().map(|it| fill(it).unwrap_or_default()).collect()
            };
            let x = this.pull(a, &fill(&left_map))?;
            let y = this.pull(b, &fill(&right_map))?;
            let (x, y) = (this.cast(x, dims.out), this.cast(y, dims.out));
            let (x, y) = (this.widen(x), this.widen(y));
            Ok(this.binary(Binary::Mul, x, y))
        };
        match dims.contract.as_slice() {
            [] => {
                let x = product(self, None)?;
                Ok(self.cast(x, dims.out))
            }
            [(i, _)] => {
                let extent = self.graph.shape(a).sizes()[*i];
                self.fold(value, Fold::Sum, extent, map, |this, at| product(this, Some(at)))
            }
            [_, _, ..] => Err(Stop::Fail(PlanError::Template {
                op: "dot",
                why: "more than one contracted pair is left after normalisation",
            })),
        }
    }

    /// A pooled segment: steps from `lo` to `hi`.
    pub(in crate::plan) fn segment(
        &mut self,
        value: ValueId,
        attrs: &Attrs,
        map: &Map,
    ) -> Result<Reg, Stop> {
        let graph = self.graph;
        let node = graph.node(graph.maker(value));
        let (x, lo, hi) = (node.inputs[0], node.inputs[1], node.inputs[2]);
        let row = vec![map[0].clone()];
        let lo = self.pull(lo, &row)?;
        let hi = self.pull(hi, &row)?;
        if self.level(lo) != Level::Row || self.level(hi) != Level::Row {
            return Err(Stop::Store(value));
        }
        // A segment never leaves the rows of `x`. Their number is a word, not text.
        let word = self.words.len() as u32;
        self.words.push(graph.shape(x).sizes()[0] as i64);
        let end = self.emit(InstrOp::Word(word), Level::Row, DType::I32);
        let zero = self.number(DType::I32, 0.0);
        let first = self.binary(Binary::Max, lo, zero);
        let hi = self.binary(Binary::Min, hi, end);
        self.enter_steps(value, Steps::Segment(first, hi), map)?;
        let item = self.pull(x, &vec![Coord::var(STEP), map[1].clone()]);
        self.folding = false;
        let item = self.widen(item?);
        let dtype = self.dtype(item);
        let kind = attrs.get_word("kind").unwrap_or("sum");
        let fold = match kind {
            "max" => Fold::Max,
            "min" => Fold::Min,
            _ => Fold::Sum,
        };
        let item = self.spread(item, Level::Step);
        let level = Level::of(false, self.level(item).has_lane());
        let folded = self.emit(InstrOp::FoldSteps(fold, item), level, dtype);
        let out = graph.ty(value).dtype;
        let count = self.binary(Binary::Sub, hi, first);
        let result = match kind {
            "mean" => {
                let one = self.number(DType::I32, 1.0);
                let count = self.binary(Binary::Max, count, one);
                let count = self.cast(count, dtype);
                self.binary(Binary::Div, folded, count)
            }
            "max" | "min" => {
                let some = self.binary(Binary::Lt, first, hi);
                let nothing = self.number(dtype, 0.0);
                self.select(some, folded, nothing)
            }
            _ => folded,
        };
        Ok(self.cast(result, out))
    }

    /// Starts a step loop for a root that runs along an axis.
    pub(in crate::plan) fn run_steps(&mut self, value: ValueId, extent: usize) -> Result<(), Stop> {
        self.enter_steps(value, Steps::Extent(extent), &Vec::new())?;
        self.folding = false;
        Ok(())
    }
}
