//! One line of a text, read from left to right.

use super::{LIST_LEN_MAX, TextFault};
use crate::dtype::DType;
use crate::graph::{Type, ValueId};
use crate::shape::{RANK_MAX, Shape};

/// The rest of a line. Spaces separate and are otherwise free.
pub(super) struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(line: &'a str) -> Self {
        Self { rest: line.trim() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Whether the rest begins with `mark`.
    pub(super) fn sees(&self, mark: &str) -> bool {
        self.rest.starts_with(mark)
    }

    /// Takes `mark` if it comes next.
    pub(super) fn take(&mut self, mark: &str) -> bool {
        match self.rest.strip_prefix(mark) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    /// Takes `mark`, which must come next.
    pub(super) fn want(&mut self, mark: &'static str) -> Result<(), TextFault> {
        if self.take(mark) { Ok(()) } else { Err(TextFault::Syntax { want: mark }) }
    }

    /// A name of letters, digits and underscores.
    pub(super) fn name(&mut self) -> Result<&'a str, TextFault> {
        self.run(|c| c.is_ascii_alphanumeric() || c == '_', "a name")
    }

    /// A number, a whole number or a word: all that an attribute can be.
    pub(super) fn scalar(&mut self) -> Result<&'a str, TextFault> {
        self.run(|c| c.is_ascii_alphanumeric() || "_+-.".contains(c), "a number or a word")
    }

    pub(super) fn float(&mut self) -> Result<f64, TextFault> {
        float(self.scalar()?).ok_or(TextFault::Syntax { want: "a number" })
    }

    pub(super) fn index(&mut self) -> Result<usize, TextFault> {
        let digits = self.run(|c| c.is_ascii_digit(), "a whole number")?;
        digits.parse().map_err(|_| TextFault::Syntax { want: "a smaller number" })
    }

    /// A value among the first `count`.
    pub(super) fn value(&mut self, count: usize) -> Result<ValueId, TextFault> {
        self.want("%")?;
        let index = self.index()?;
        if count <= index {
            return Err(TextFault::Value { index });
        }
        Ok(ValueId::from_index(index))
    }

    /// `[1 2 3]`, with anything that `item` reads.
    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, TextFault>,
    ) -> Result<Vec<T>, TextFault> {
        self.want("[")?;
        let mut out = Vec::new();
        while !self.take("]") {
            if LIST_LEN_MAX <= out.len() {
                return Err(TextFault::TooMany { what: "numbers in a list" });
            }
            out.push(item(self)?);
        }
        Ok(out)
    }

    /// An element type and a shape, such as `f32[2,3]`.
    pub(super) fn ty(&mut self) -> Result<Type, TextFault> {
        let name = self.name()?;
        let unknown = || TextFault::Unknown { what: "element type", name: short(name) };
        let dtype = DType::by_name(name).ok_or_else(unknown)?;
        self.want("[")?;
        let mut sizes = Vec::new();
        while !self.take("]") {
            if !sizes.is_empty() {
                self.want(",")?;
            }
            if RANK_MAX <= sizes.len() {
                return Err(TextFault::Shape);
            }
            sizes.push(self.index()?);
        }
        let shape = Shape::try_new(&sizes).ok_or(TextFault::Shape)?;
        Ok(Type { dtype, shape })
    }

    /// A name in quotes, as the printer writes it.
    pub(super) fn quoted(&mut self) -> Result<String, TextFault> {
        let fault = TextFault::Syntax { want: "a name in quotes" };
        let Some(body) = self.rest.strip_prefix('"') else { return Err(fault) };
        let mut out = String::new();
        let mut chars = body.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = body[at + 1..].trim_start();
                    return Ok(out);
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\'))) => out.push(c),
                    Some((at, 'u')) => {
                        let (c, len) = escape(&body[at + 1..]).ok_or(fault.clone())?;
                        out.push(c);
                        chars.by_ref().take(len).for_each(drop);
                    }
                    Some(_) | None => return Err(fault),
                },
                c => out.push(c),
            }
        }
        Err(fault)
    }

    fn run(
        &mut self,
        belongs: impl Fn(char) -> bool,
        want: &'static str,
    ) -> Result<&'a str, TextFault> {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(TextFault::Syntax { want });
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        Ok(word)
    }
}

/// A number as the printer writes it, or a whole one.
pub(super) fn float(text: &str) -> Option<f64> {
    match text {
        "nan" => Some(f64::NAN),
        "inf" => Some(f64::INFINITY),
        "-inf" => Some(f64::NEG_INFINITY),
        _ if text.bytes().all(|it| it.is_ascii_digit() || b"+-.eE".contains(&it)) => {
            text.parse().ok()
        }
        _ => None,
    }
}

/// A name from the text, cut for an error.
pub(super) fn short(name: &str) -> String {
    name.chars().take(40).collect()
}

/// The character of `{1f600}` and how many characters that takes.
fn escape(text: &str) -> Option<(char, usize)> {
    let digits = text.strip_prefix('{')?.split('}').next()?;
    if 6 < digits.len() || !text[1 + digits.len()..].starts_with('}') {
        return None;
    }
    let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
    Some((c, digits.chars().count() + 2))
}
