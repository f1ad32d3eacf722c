//! Loads and stores of a tile.

use super::{BLOCK, Buffer, Machine, Register};
use crate::vm::lanes::is_narrow;
use crate::vm::lower::LaneStride;
use crate::vm::stored::{Stored, with_stored};
use crate::vm::tape::{Load, Located, Store};

/// Where a tile's elements lie: `base + lane * stride` and the terms that vary over lanes.
struct Reach {
    base: i64,
    stride: i64,
    /// Whether indices out of lanes count too.
    varied: bool,
    /// Least and greatest element that any lane can reach.
    least: i64,
    greatest: i64,
}

impl Reach {
    fn inside(&self, len: i64) -> bool {
        0 <= self.least && self.greatest < len
    }
}

#[cold]
fn outside(what: &str, at: i64, len: i64) -> ! {
    panic!("a loop program {what} element {at} of a buffer of {len}")
}

impl Machine<'_> {
    pub(super) fn load(&mut self, load: &Load) {
        with_stored!(load.dtype, S => self.load_as::<S>(load));
    }

    fn load_as<S: Stored>(&mut self, load: &Load) {
        let Buffer { start, len_bytes } = self.launch.buffers[load.arg];
        let memory = start.cast::<S::Memory>().cast_const();
        let len = (len_bytes / size_of::<S::Memory>()) as i64;
        let reach = self.reach(&load.place, load.lanes);
        let home = self.tape.homes[load.to];
        let to = if home.extent == super::Extent::Row {
            self.registers[load.to].at
        } else {
            self.scratch.wrapping_add(home.offset)
        };
        let mut register = Register { at: to, step: BLOCK * home.lane_bytes };
        let lanes = to.cast::<S::Lane>();
        if load.guard.is_some() || (load.lanes && reach.varied) {
            self.load_each::<S>(load, &reach, memory, len, lanes);
            register.step = if load.lanes { register.step } else { 0 };
            self.registers[load.to] = register;
            return;
        }
        if !reach.inside(len) {
            let at = if reach.least < 0 { reach.least } else { reach.greatest };
            outside("reads", at, len);
        }
        let first = memory.wrapping_offset(reach.base as isize);
        let count = self.lane_count;
        if !load.lanes || reach.stride == 0 {
            // SAFETY: the element is inside its buffer.
            let value = S::load(unsafe { first.read() });
            // SAFETY: a register has room for a block.
            unsafe { lanes.cast::<[S::Lane; BLOCK]>().write([value; BLOCK]) };
            register.step = 0;
        } else if reach.stride != 1 {
            for lane in 0..count {
                let from = first.wrapping_offset(lane as isize * reach.stride as isize);
                // SAFETY: every lane's element is inside its buffer.
                let value = S::load(unsafe { from.read() });
                // SAFETY: the register has room for a tile.
                unsafe { lanes.wrapping_add(lane).write(value) };
            }
        } else if S::SAME && load.direct && count.is_multiple_of(BLOCK) {
            register.at = first.cast::<u8>().cast_mut();
        } else {
            for lane in 0..count {
                // SAFETY: every lane's element is inside its buffer.
                let value = S::load(unsafe { first.wrapping_add(lane).read() });
                // SAFETY: the register has room for a tile.
                unsafe { lanes.wrapping_add(lane).write(value) };
            }
        }
        self.registers[load.to] = register;
    }

    /// A lane at a time: guards, and indices out of lanes.
    fn load_each<S: Stored>(
        &self,
        load: &Load,
        reach: &Reach,
        memory: *const S::Memory,
        len: i64,
        lanes: *mut S::Lane,
    ) {
        let inside = reach.inside(len);
        let guard = load.guard.map(|it| self.registers[it]);
        let count = if load.lanes { self.lane_count } else { 1 };
        for lane in 0..count {
            let skip = guard.is_some_and(|it| lane_of::<u8>(it, lane) == 0);
            let value = if skip {
                S::zero()
            } else {
                let at = self.element(&load.place, reach, lane);
                if !inside && !(0..len).contains(&at) {
                    outside("reads", at, len);
                }
                // SAFETY: the element is inside its buffer.
                S::load(unsafe { memory.wrapping_offset(at as isize).read() })
            };
            // SAFETY: the register has room for a tile.
            unsafe { lanes.wrapping_add(lane).write(value) };
        }
        if !load.lanes {
            // SAFETY: the lane was just written.
            let value = unsafe { lanes.read() };
            // SAFETY: a register has room for a block.
            unsafe { lanes.cast::<[S::Lane; BLOCK]>().write([value; BLOCK]) };
        }
    }

    pub(super) fn store(&mut self, store: &Store) {
        if !store.lanes && self.first_lane != 0 {
            return; // The first tile has written it.
        }
        with_stored!(store.dtype, S => self.store_as::<S>(store));
    }

    /// Where the tile lies in its buffer, if its lanes lie there as in a register.
    pub(super) fn direct_place(&self, store: &Store) -> Option<*mut u8> {
        if !self.lane_count.is_multiple_of(BLOCK) || is_narrow(store.dtype) {
            return None;
        }
        let Buffer { start, len_bytes } = self.launch.buffers[store.arg];
        let reach = self.reach(&store.place, true);
        let bytes = store.dtype.size_bytes();
        let plain = reach.stride == 1 && !reach.varied && reach.inside((len_bytes / bytes) as i64);
        plain.then(|| start.wrapping_offset(reach.base as isize * bytes as isize))
    }

    fn store_as<S: Stored>(&self, store: &Store) {
        let Buffer { start, len_bytes } = self.launch.buffers[store.arg];
        let memory = start.cast::<S::Memory>();
        let len = (len_bytes / size_of::<S::Memory>()) as i64;
        let reach = self.reach(&store.place, store.lanes);
        if !reach.inside(len) {
            let at = if reach.least < 0 { reach.least } else { reach.greatest };
            outside("writes", at, len);
        }
        let value = self.registers[store.value];
        let count = if store.lanes { self.lane_count } else { 1 };
        let plain = reach.stride == 1 && !reach.varied && value.step != 0;
        if S::SAME && plain && !store.add {
            let from = value.at.cast::<S::Memory>().cast_const();
            let to = memory.wrapping_offset(reach.base as isize);
            // SAFETY: `count` lanes are in the register and their elements inside the buffer.
            unsafe { std::ptr::copy(from, to, count) };
            return;
        }
        for lane in 0..count {
            let at = self.element(&store.place, &reach, lane);
            let to = memory.wrapping_offset(at as isize);
            let lane = lane_of::<S::Lane>(value, lane);
            let new = if store.add {
                // SAFETY: the element is inside its buffer.
                S::add(unsafe { to.read() }, lane)
            } else {
                S::store(lane)
            };
            // SAFETY: as above.
            unsafe { to.write(new) };
        }
    }

    /// The element of a lane.
    #[inline]
    fn element(&self, located: &Located, reach: &Reach, lane: usize) -> i64 {
        let mut at = reach.base + lane as i64 * reach.stride;
        if reach.varied {
            for (term, (wide, varies)) in located.place.terms.iter().zip(&located.terms) {
                if *varies {
                    let [stride, extent] = self.term_words(term.stride_word);
                    at += self.index(term.index, *wide, lane).clamp(0, extent - 1) * stride;
                }
            }
        }
        at
    }

    fn reach(&self, located: &Located, lanes: bool) -> Reach {
        let words = self.launch.words;
        let place = &located.place;
        let word = place.word as usize;
        let mut base = words[word] + place.extra;
        for (outer, stride) in self.outer[..self.tape.outer_rank].iter().zip(&words[word + 1..]) {
            base += outer * stride;
        }
        if located.step {
            base += self.step * words[place.step_word as usize];
        }
        let mut varied = false;
        let (mut under, mut over) = (0, 0);
        for (term, (wide, varies)) in place.terms.iter().zip(&located.terms) {
            let [stride, extent] = self.term_words(term.stride_word);
            if *varies {
                varied = true;
                let span = (extent - 1) * stride;
                under += span.min(0);
                over += span.max(0);
            } else {
                base += self.index(term.index, *wide, 0).clamp(0, extent - 1) * stride;
            }
        }
        let mut stride = 0;
        if lanes {
            stride = match place.lane {
                LaneStride::Fixed(stride) => stride,
                LaneStride::Word(word) => words[word as usize],
            };
            base += self.first_lane as i64 * stride;
            let span = (self.lane_count as i64 - 1) * stride;
            under += span.min(0);
            over += span.max(0);
        }
        Reach { base, stride, varied, least: base + under, greatest: base + over }
    }

    /// Stride and extent of a term; an empty extent counts as one, whose element is then outside.
    fn term_words(&self, stride_word: u32) -> [i64; 2] {
        let word = stride_word as usize;
        [self.launch.words[word], self.launch.words[word + 1].max(1)]
    }

    #[inline]
    fn index(&self, node: usize, wide: bool, lane: usize) -> i64 {
        let register = self.registers[node];
        if wide {
            lane_of::<i64>(register, lane)
        } else {
            i64::from(lane_of::<i32>(register, lane))
        }
    }
}

/// One lane of a register that holds at least so many.
#[inline(always)]
fn lane_of<T: Copy>(register: Register, lane: usize) -> T {
    let lane = if register.step == 0 { 0 } else { lane };
    // SAFETY: callers ask for lanes of the tile, which every register of a tile holds.
    unsafe { register.at.cast::<T>().cast_const().wrapping_add(lane).read() }
}
