//! Native kernels for loop programs that we know by their skeleton.
//!
//! Found when a program is loaded; the interpreter runs whatever is not here, or is launched in
//! a way that the kernel does not take: that is always right, only slower. Softmax is not here,
//! because our kernel gives zeros where the definition gives no number.

use std::fmt::Write;

use calor_kernel::{Address, InstrOp, LoopProgram};

use crate::code::Launch;
use crate::rows::{Embed, Lookup, Moments, Norm, NormOver};
use crate::threads::TaskPanicked;
use crate::view::{Input, Rows, RowsMut};
use crate::vm::Buffer;

/// Most tables whose rows are added before a norm.
const LOOKUP_COUNT_MAX: usize = 3;

/// The native kernel that a program is run by, if there is one.
///
/// For tests that no program of a model misses its kernel.
pub fn native_name(program: &LoopProgram) -> Option<&'static str> {
    Native::of(program).map(|it| it.name)
}

/// A norm over rows that are read, or looked up in tables and added.
#[derive(Debug)]
pub(crate) struct Native {
    name: &'static str,
    moments: Moments,
    epsilon: f32,
    width: usize,
    /// The rows, or ids and table of each lookup.
    inputs: Vec<Element>,
    weight: Element,
    bias: Option<Element>,
    out: Element,
}

/// A buffer and the first launch word of how it is read or written.
#[derive(Clone, Copy, Debug)]
struct Element {
    arg: usize,
    word: usize,
}

impl Native {
    /// The kernel of a program.
    pub(crate) fn of(program: &LoopProgram) -> Option<Self> {
        let (skeleton, constants) = program.skeleton();
        for lookup_count in 0..=LOOKUP_COUNT_MAX {
            for moments in [Moments::Layer, Moments::RootMeanSquare] {
                if skeleton == expected(moments, lookup_count) {
                    return Self::found(program, moments, lookup_count, &constants);
                }
            }
        }
        None
    }

    fn found(
        program: &LoopProgram,
        moments: Moments,
        lookup_count: usize,
        constants: &[f64],
    ) -> Option<Self> {
        let width = program.width;
        let &[first, second, epsilon] = constants else { return None };
        let (share, one) = match moments {
            Moments::Layer => (first, second),
            Moments::RootMeanSquare => (second, first),
            Moments::L2 => return None,
        };
        if one != 1.0 || share as f32 != (1.0 / f64::from(width)) as f32 {
            return None;
        }
        let element = |arg: u8, address: &Address| Element {
            arg: usize::from(arg),
            word: address.word as usize,
        };
        let mut loads = program.body.iter().filter_map(|instr| match &instr.op {
            InstrOp::Load { arg, address, .. } => Some(element(*arg, address)),
            _ => None,
        });
        let inputs = loads.by_ref().take(if lookup_count == 0 { 1 } else { 2 * lookup_count });
        let inputs = inputs.collect();
        let (weight, bias) = (loads.next()?, loads.next());
        let store = program.stores.first()?;
        Some(Self {
            name: match (moments, lookup_count) {
                (Moments::Layer, 0) => "layer_norm",
                (Moments::Layer, _) => "embed_layer_norm",
                (_, 0) => "rms_norm",
                (_, _) => "embed_rms_norm",
            },
            moments,
            epsilon: epsilon as f32,
            width: width as usize,
            inputs,
            weight,
            bias,
            out: element(store.arg, &store.address),
        })
    }

    /// Runs the kernel, if it takes this launch.
    ///
    /// # Safety
    /// As for the code that it stands for.
    pub(crate) unsafe fn run(&self, launch: &Launch<'_>) -> Option<Result<(), TaskPanicked>> {
        let it = At { launch, rows: usize::try_from(launch.words[0]).ok()? };
        let d = self.width;
        let norm = Norm {
            moments: self.moments,
            weight: Some(it.row(self.weight, d)?),
            bias: match self.bias {
                Some(bias) => Some(it.row(bias, d)?),
                None => None,
            },
            epsilon: self.epsilon,
        };
        let (start, stride) = it.place(self.out, d)?;
        if stride < d && 1 < it.rows {
            return None;
        }
        // SAFETY: `place` has seen that the rows are inside their buffer, which is ours to write.
        let out = unsafe { RowsMut::from_raw(start.cast_mut(), it.rows, d, stride) };
        if let [input] = self.inputs[..] {
            let (from, from_stride) = it.place(input, d)?;
            let input = if from == start && from_stride == stride {
                Input::InPlace
            } else {
                // SAFETY: `place` has seen that the rows are inside their buffer.
                Input::Rows(unsafe { Rows::from_raw(from, it.rows, d, from_stride) })
            };
            let over = NormOver { norm, input, residual: None, sum: None, out };
            return Some(over.run(launch.level, launch.pool));
        }
        let mut lookups: [Option<Lookup<'_>>; LOOKUP_COUNT_MAX] = [None; LOOKUP_COUNT_MAX];
        for (to, pair) in lookups.iter_mut().zip(self.inputs.chunks_exact(2)) {
            *to = Some(it.lookup(pair[0], pair[1], d)?);
        }
        let first = lookups[0]?;
        let lookups = lookups.map(|it| it.unwrap_or(first));
        let count = self.inputs.len() / 2;
        let embed = Embed { lookups: &lookups[..count], norm: Some(norm), out };
        Some(embed.run(launch.level, launch.pool))
    }
}

/// A launch, read as rows of floats. Everything is nothing where it is not of that form.
struct At<'a> {
    launch: &'a Launch<'a>,
    rows: usize,
}

impl<'a> At<'a> {
    /// First float of the first row, and floats from row to row.
    fn place(&self, element: Element, d: usize) -> Option<(*const f32, usize)> {
        let stride = self.word(element, 1)?;
        let first = self.inside(element, self.rows.saturating_sub(1).checked_mul(stride)?, d)?;
        Some((first, stride))
    }

    /// One row that all points share.
    fn row(&self, element: Element, d: usize) -> Option<&'a [f32]> {
        if self.word(element, 1)? != 0 {
            return None;
        }
        let first = self.inside(element, 0, d)?;
        // SAFETY: `inside` has seen that the floats are there; nobody writes them meanwhile.
        Some(unsafe { std::slice::from_raw_parts(first, d) })
    }

    /// Ids side by side, each a row of the table.
    fn lookup(&self, ids: Element, table: Element, d: usize) -> Option<Lookup<'a>> {
        if self.word(ids, 1)? != 1 || self.word(table, 1)? != 0 {
            return None;
        }
        let first = self.inside(ids, 0, self.rows)?.cast::<i32>();
        // SAFETY: `inside` has seen that the ids are there; nobody writes them meanwhile.
        let ids = unsafe { std::slice::from_raw_parts(first, self.rows) };
        let (stride, extent) = (self.word(table, 3)?, self.word(table, 4)?);
        let start = self.inside(table, extent.checked_sub(1)?.checked_mul(stride)?, d)?;
        // The kernel does not clamp: ids outside of the table are the interpreter's.
        let known = |id: &i32| usize::try_from(*id).is_ok_and(|it| it < extent);
        if !ids.iter().all(known) {
            return None;
        }
        // SAFETY: `inside` has seen that the rows are inside their buffer.
        Some(Lookup { table: unsafe { Rows::from_raw(start, extent, d, stride) }, ids })
    }

    fn word(&self, element: Element, at: usize) -> Option<usize> {
        usize::try_from(*self.launch.words.get(element.word + at)?).ok()
    }

    /// The element at the offset, if `len` elements `further` on are still in the buffer.
    fn inside(&self, element: Element, further: usize, len: usize) -> Option<*const f32> {
        let Buffer { start, len_bytes } = *self.launch.buffers.get(element.arg)?;
        let offset = self.word(element, 0)?;
        let end = offset.checked_add(further)?.checked_add(len)?;
        let first = start.cast::<f32>().cast_const().wrapping_add(offset);
        (end.checked_mul(4)? <= len_bytes).then_some(first)
    }
}

/// The skeleton that the planner gives such a norm.
fn expected(moments: Moments, lookup_count: usize) -> String {
    let centred = moments == Moments::Layer;
    let mut text = Text::default();
    let x = match lookup_count {
        0 => text.read(None),
        _ => {
            let mut sum = text.looked_up();
            for _ in 1..lookup_count {
                let next = text.looked_up();
                sum = text.reg("lane", &format!("add r{sum} r{next}"));
            }
            sum
        }
    };
    // One over the width, for both means; the layer norm writes it first.
    let factor = if centred { text.layer(x) } else { text.root_mean_square(x) };
    let normal = text.reg("lane", &format!("mul {factor}"));
    let weight = text.read(None);
    let mut y = text.reg("lane", &format!("mul r{normal} r{weight}"));
    if centred {
        let bias = text.read(None);
        y = text.reg("lane", &format!("add r{y} r{bias}"));
    }
    let args = text.args.join(", ");
    let out = text.args.len();
    format!("rank 1; W; {args}, a{out} mut f32;{}; store a{out} +1 = r{y}", text.body)
}

/// A skeleton under construction.
#[derive(Default)]
struct Text {
    args: Vec<String>,
    body: String,
    count: usize,
}

impl Text {
    fn reg(&mut self, level: &str, what: &str) -> usize {
        self.typed(level, "f32", what)
    }

    fn typed(&mut self, level: &str, dtype: &str, what: &str) -> usize {
        let separator = if self.count == 0 { " " } else { "; " };
        let at = self.count;
        // Writing to a string cannot fail.
        let _ = write!(self.body, "{separator}r{at} {level} {dtype} = {what}");
        self.count += 1;
        at
    }

    /// A row of a new argument, or the row that an id names.
    fn read(&mut self, id: Option<usize>) -> usize {
        let arg = self.args.len();
        self.args.push(format!("a{arg} f32"));
        let index = id.map_or(String::new(), |it| format!(" [r{it}]"));
        self.reg("lane", &format!("load a{arg} +1{index}"))
    }

    fn looked_up(&mut self) -> usize {
        let arg = self.args.len();
        self.args.push(format!("a{arg} i32"));
        let id = self.typed("row", "i32", &format!("load a{arg} +0"));
        self.read(Some(id))
    }

    /// What is multiplied: the centred row and one over its deviation.
    fn layer(&mut self, x: usize) -> String {
        let sum = self.reg("row", &format!("lanes.sum r{x}"));
        let share = self.reg("row", "?");
        let mean = self.reg("row", &format!("mul r{sum} r{share}"));
        let centred = self.reg("lane", &format!("sub r{x} r{mean}"));
        let one = self.reg("row", "?");
        let square = self.reg("lane", &format!("mul r{centred} r{centred}"));
        let factor = self.one_over_root(square, Some(share), one);
        format!("r{centred} r{factor}")
    }

    /// What is multiplied: the row and one over its root mean square.
    fn root_mean_square(&mut self, x: usize) -> String {
        let one = self.reg("row", "?");
        let square = self.reg("lane", &format!("mul r{x} r{x}"));
        let factor = self.one_over_root(square, None, one);
        format!("r{x} r{factor}")
    }

    fn one_over_root(&mut self, square: usize, share: Option<usize>, one: usize) -> usize {
        let sum = self.reg("row", &format!("lanes.sum r{square}"));
        let share = share.unwrap_or_else(|| self.reg("row", "?"));
        let mean = self.reg("row", &format!("mul r{sum} r{share}"));
        let epsilon = self.reg("row", "?");
        let more = self.reg("row", &format!("add r{mean} r{epsilon}"));
        let root = self.reg("row", &format!("sqrt r{more}"));
        self.reg("row", &format!("div r{one} r{root}"))
    }
}
