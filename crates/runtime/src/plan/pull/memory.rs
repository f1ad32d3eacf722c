//! Loads, and the words of addresses.

use calor_ir::{Shape, ValueId};
use calor_kernel::{Address, Instr, InstrOp, Level, Reg, Term};

use super::super::PlanError;
use super::super::index::{Coord, LANE, Map, STEP};
use super::{Puller, Stop};

impl Puller<'_> {
    pub(in crate::plan) fn load(
        &mut self,
        base: ValueId,
        shape: Shape,
        map: &Map,
    ) -> Result<Reg, Stop> {
        let dtype = self.graph.ty(base).dtype;
        let strides = shape.strides();
        let linear = map.iter().zip(strides).fold(Coord::default(), |sum, (coord, stride)| {
            sum.plus(&coord.scaled(stride as i64, 0))
        });
        let Ok(lane_stride) = u32::try_from(linear.coef[LANE]) else {
            return Err(Stop::Fail(PlanError::Template { op: "load", why: "lanes run backwards" }));
        };
        let arg = match self.args.iter().position(|(it, _)| *it == base) {
            Some(arg) => arg,
            None => {
                self.args.push((base, dtype));
                self.args.len() - 1
            }
        };
        let word = self.words.len() as u32;
        let rank = self.rank;
        self.words.push(linear.constant);
        self.words.extend_from_slice(&linear.coef[..rank]);
        self.words.push(linear.coef[STEP]);
        let mut level = Level::of(linear.has(STEP), lane_stride != 0);
        let mut terms = Vec::new();
        for indirect in &linear.indirect {
            self.words.extend([indirect.scale, indirect.extent]);
            level = level.join(self.level(indirect.index));
            terms.push(Term { index: indirect.index });
        }
        if let Some(guard) = self.guard {
            level = level.join(self.level(guard));
        }
        let address = Address { word, lane_stride, terms };
        let op = InstrOp::Load { arg: arg as u8, address, guard: self.guard };
        Ok(self.push(Instr { op, level, dtype }))
    }

    /// Words for an address that is stored to.
    pub(in crate::plan) fn address(&mut self, linear: &Coord) -> Result<Address, Stop> {
        let Ok(lane_stride) = u32::try_from(linear.coef[LANE]) else {
            return Err(Stop::Fail(PlanError::Template {
                op: "store",
                why: "lanes run backwards",
            }));
        };
        let word = self.words.len() as u32;
        let rank = self.rank;
        self.words.push(linear.constant);
        self.words.extend_from_slice(&linear.coef[..rank]);
        self.words.push(linear.coef[STEP]);
        let mut terms = Vec::new();
        for indirect in &linear.indirect {
            self.words.extend([indirect.scale, indirect.extent]);
            terms.push(Term { index: indirect.index });
        }
        Ok(Address { word, lane_stride, terms })
    }
}
