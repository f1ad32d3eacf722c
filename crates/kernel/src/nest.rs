//! Prints the loops of a kernel, in any dialect.
//!
//! Registers are `r0, r1, …`, outer indices `o0, o1, …`, extents `e0, e1, …`, other live words
//! `x5, …`, first elements of addresses `from3` (loads, by register) and `to0` (stores, by index).

use crate::dialect::{Dialect, Packs, Unroll, fold_op, mentions};
use crate::layout::{HELD_LANES_MAX, Layout};
use crate::program::{Address, InstrOp, LoopProgram, Reg, Store};
use crate::schedule::{Node, Pass, Schedule};

/// The body of the entry point, indented by one level.
pub(crate) fn body(program: &LoopProgram, layout: &Layout, dialect: &dyn Dialect) -> String {
    let schedule = Schedule::of(program, layout);
    let mut printer = Printer { program, layout, dialect, text: String::new(), depth: 1 };
    printer.points(&schedule);
    printer.text
}

/// A kernel's body in the making.
pub(crate) struct Printer<'a> {
    pub(crate) program: &'a LoopProgram,
    pub(crate) layout: &'a Layout,
    pub(crate) dialect: &'a dyn Dialect,
    text: String,
    depth: usize,
}

impl Printer<'_> {
    pub(crate) fn line(&mut self, text: &str) {
        for line in text.lines() {
            self.text.extend(std::iter::repeat_n("    ", self.depth));
            self.text.push_str(line);
            self.text.push('\n');
        }
    }

    pub(crate) fn open(&mut self, head: &str) {
        self.line(format!("{head} {{").trim_start());
        self.depth += 1;
    }

    pub(crate) fn close(&mut self, levels: usize) {
        for _ in 0..levels {
            self.depth -= 1;
            self.line("}");
        }
    }

    /// The loop over outer points, in order or shared between threads.
    fn points(&mut self, schedule: &Schedule) {
        let (layout, dialect) = (*self.layout, self.dialect);
        let rank = u32::from(self.program.rank);
        for (at, word) in self.program.live_words().into_iter().enumerate() {
            let name = if word < rank { format!("e{word}") } else { format!("x{word}") };
            self.line(&dialect.wide(&name, &dialect.live_word(word, at)));
        }
        let extents = (0..rank).map(|it| format!("e{it}"));
        let mut count = extents.collect::<Vec<_>>().join(" * ");
        if count.is_empty() {
            count = "1".into();
        }
        if 1 < layout.team {
            self.line(&dialect.int("t", &dialect.teammate(&layout)));
        }
        let mut levels = 1;
        if layout.in_order {
            if !layout.spread {
                self.line(&dialect.int("lane", &dialect.thread(&layout)));
                self.open(&format!("if (lane < {})", layout.parts));
                levels += 1;
            }
            self.open(&dialect.points(&count));
        } else if layout.parts == 1 {
            self.open(&dialect.items(&layout, &count));
            if !layout.spread {
                self.line(&dialect.int("lane", "0"));
            }
            self.line(&dialect.count("point", "item"));
        } else {
            self.open(&dialect.items(&layout, &format!("{count} * {}", layout.parts)));
            let [point, part] = dialect.divide("item", &layout.parts.to_string());
            let name = if layout.spread { "part" } else { "lane" };
            self.line(&dialect.int(name, &dialect.narrow(&part)));
            self.line(&dialect.count("point", &point));
        }
        self.point(schedule);
        self.close(levels);
    }

    /// One outer point.
    fn point(&mut self, schedule: &Schedule) {
        let dialect = self.dialect;
        let mut rest = "point".to_string();
        for axis in (0..self.program.rank).rev() {
            if axis == 0 {
                self.line(&dialect.int("o0", &dialect.narrow(&rest)));
                break;
            }
            let [quotient, index] = dialect.divide(&rest, &format!("e{axis}"));
            self.line(&dialect.int(&format!("o{axis}"), &dialect.narrow(&index)));
            rest = format!("rest{axis}");
            self.line(&dialect.count(&rest, &quotient));
        }
        for (at, instr) in self.program.body.iter().enumerate() {
            if let InstrOp::Load { address, .. } = &instr.op {
                self.first_element(&format!("from{at}"), address);
            }
            if matches!(instr.op, InstrOp::Scan { .. }) {
                self.declare(Reg(at as u32));
            }
        }
        for (at, store) in self.program.stores.iter().enumerate() {
            self.first_element(&format!("to{at}"), &store.address);
        }
        if self.layout.spread && self.layout.chunks == 1 {
            let first = if self.layout.pack == 1 { "lane" } else { "lane0" };
            self.line(&dialect.int(first, &first_lane(self.layout)));
        }
        self.nodes(&schedule.nodes, &schedule.passes);
    }

    fn first_element(&mut self, name: &str, address: &Address) {
        let word = |at: u32| self.dialect.word(address.word + at);
        let outer = (0..self.program.rank).map(|it| format!("o{it} * {}", word(1 + u32::from(it))));
        let sum = std::iter::once(word(0)).chain(outer).collect::<Vec<_>>().join(" + ");
        self.line(&self.dialect.wide(name, &sum));
    }

    fn nodes(&mut self, nodes: &[Node], passes: &[Pass]) {
        for node in nodes {
            match node {
                Node::Compute(reg) => self.compute(*reg, None),
                Node::Start(reg) => {
                    let (start, name) = (self.start(*reg, None), format!("r{}", reg.0));
                    let instr = self.program.instr(*reg);
                    if matches!(instr.op, InstrOp::Scan { .. }) {
                        self.line(&format!("{name} = {start};"));
                    } else {
                        self.line(&self.dialect.variable(instr.dtype, &name, Some(&start)));
                    }
                }
                Node::Accumulate(reg) => self.accumulate(*reg, None),
                Node::Pass(id) => self.pass(&passes[*id]),
                Node::Steps(body) => self.steps(body, passes),
                Node::Store(at) => self.single_store(*at),
            }
        }
    }

    fn steps(&mut self, body: &[Node], passes: &[Pass]) {
        let Some(bounds) = self.program.bounds else { return };
        let ends = [bounds.lo, bounds.hi].map(|it| format!("r{}", it.0));
        let agreed = ends.clone().map(|it| self.dialect.agreed(self.layout, &it));
        let mut levels = 1;
        let [lo, hi] = if agreed == ends {
            ends
        } else {
            self.open("");
            self.line(&self.dialect.int("lo", &agreed[0]));
            self.line(&self.dialect.int("hi", &agreed[1]));
            levels += 1;
            ["lo".into(), "hi".into()]
        };
        self.open(&self.dialect.range("step", &lo, &hi, Unroll::Some));
        self.nodes(body, passes);
        self.close(levels);
    }

    /// A loop over the lanes of the thread.
    fn pass(&mut self, pass: &Pass) {
        let (layout, dialect) = (*self.layout, self.dialect);
        for reg in pass.held.iter().chain(&pass.starts) {
            if !matches!(self.program.instr(*reg).op, InstrOp::Scan { .. }) {
                self.declare(*reg);
            }
        }
        for reg in &pass.lane_folds {
            let (dtype, start) = (self.program.instr(*reg).dtype, self.start(*reg, None));
            self.line(&dialect.variable(dtype, &self.partial(*reg), Some(&start)));
        }
        let mut levels = 0;
        if 1 < layout.chunks {
            let unroll = if layout.held() <= HELD_LANES_MAX { Unroll::Whole } else { Unroll::No };
            self.open(&dialect.range("k", "0", &layout.chunks.to_string(), unroll));
            levels += 1;
        }
        let first = if layout.pack == 1 { "lane" } else { "lane0" };
        if 1 < layout.chunks {
            self.line(&dialect.int(first, &first_lane(&layout)));
        }
        if layout.ragged(self.program.width) {
            self.open(&format!("if ({first} < {})", self.program.width));
            levels += 1;
        }
        match dialect.packs() {
            Some(packs) if 1 < layout.pack => self.packed(pass, packs),
            Some(_) | None => self.lane(pass, None),
        }
        self.close(levels);
        for reg in pass.lane_folds.iter().filter(|_| 1 < layout.team) {
            if let InstrOp::FoldLanes(fold, _) = self.program.instr(*reg).op {
                let dtype = self.program.instr(*reg).dtype;
                let sum = dialect.combine(fold, dtype, &self.partial(*reg));
                self.line(&dialect.value(dtype, &format!("r{}", reg.0), &sum));
            }
        }
    }

    /// The lanes of one pack, with its wide loads before and its wide stores after them.
    fn packed(&mut self, pass: &Pass, packs: &dyn Packs) {
        for reg in &pass.compute {
            let instr = self.program.instr(*reg);
            if let InstrOp::Load { arg, address, guard } = &instr.op
                && self.is_packed(address, *guard)
            {
                let index =
                    self.index(&format!("from{}", reg.0), address, instr.level, "lane0", pass);
                let guard = guard.map(|it| self.name(it, Some(pass)));
                self.line(&packs.load(&format!("p{}", reg.0), *arg, &index, guard.as_deref()));
            }
        }
        let wide: Vec<usize> = pass
            .stores
            .iter()
            .copied()
            .filter(|at| {
                let Store { address, add, .. } = &self.program.stores[*at];
                !add && self.is_packed(address, None)
            })
            .collect();
        for at in &wide {
            let dtype = self.program.args[usize::from(self.program.stores[*at].arg)].dtype;
            self.line(&packs.declare(&format!("q{at}"), dtype));
        }
        self.open(&self.dialect.range("v", "0", &self.layout.pack.to_string(), Unroll::Whole));
        let outside = std::mem::take(&mut self.text);
        self.lane(pass, Some(packs));
        let inside = std::mem::replace(&mut self.text, outside);
        if mentions(&inside, "lane") {
            self.line(&self.dialect.int("lane", "lane0 + v"));
        }
        self.text += &inside;
        self.close(1);
        for at in wide {
            let store = &self.program.stores[at];
            let level = self.program.store_level(store);
            let index = self.index(&format!("to{at}"), &store.address, level, "lane0", pass);
            self.line(&packs.store(&format!("q{at}"), store.arg, &index));
        }
    }

    /// What a pass does at one lane.
    fn lane(&mut self, pass: &Pass, packs: Option<&dyn Packs>) {
        for reg in &pass.starts {
            let line =
                format!("{} = {};", self.name(*reg, Some(pass)), self.start(*reg, Some(pass)));
            self.line(&line);
        }
        for reg in &pass.compute {
            match (&self.program.instr(*reg).op, packs) {
                (InstrOp::Load { address, guard, .. }, Some(packs))
                    if self.is_packed(address, *guard) =>
                {
                    let dtype = self.program.instr(*reg).dtype;
                    self.define(*reg, &packs.get(&format!("p{}", reg.0), dtype, "v"), Some(pass));
                }
                (_, _) => self.compute(*reg, Some(pass)),
            }
        }
        for reg in &pass.lane_folds {
            if let InstrOp::FoldLanes(fold, x) = self.program.instr(*reg).op {
                let (dtype, name) = (self.program.instr(*reg).dtype, self.partial(*reg));
                let x = self.name(x, Some(pass));
                let folded = self.dialect.binary(fold_op(fold, dtype), dtype, &name, &x);
                self.line(&format!("{name} = {folded};"));
            }
        }
        for reg in &pass.step_folds {
            self.accumulate(*reg, Some(pass));
        }
        for at in &pass.stores {
            let Store { value, address, add, .. } = &self.program.stores[*at];
            match packs {
                Some(packs) if !add && self.is_packed(address, None) => {
                    let dtype = self.program.instr(*value).dtype;
                    let value = self.name(*value, Some(pass));
                    self.line(&packs.set(&format!("q{at}"), dtype, "v", &value));
                }
                Some(_) | None => self.store(*at, Some(pass)),
            }
        }
    }
}

/// The first lane of a thread's current pack.
fn first_lane(layout: &Layout) -> String {
    let of_pack = match (1 < layout.chunks, 1 < layout.team, 1 < layout.parts) {
        (true, true, _) => format!("k * {} + t", layout.team),
        (true, false, _) => "k".into(),
        (false, true, _) => "t".into(),
        (false, false, true) => "part".into(),
        (false, false, false) => "0".into(),
    };
    match layout.pack {
        1 => of_pack,
        pack if of_pack.contains(' ') => format!("({of_pack}) * {pack}"),
        pack => format!("{of_pack} * {pack}"),
    }
}
