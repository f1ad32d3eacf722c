//! Units out of their canonical bytes: what `calor_kernel` writes, read back.
//!
//! Nothing is trusted: anything that is not exactly what a unit writes gives nothing, and loop
//! programs are checked by whoever compiles them.

mod program;

use calor_ir::DType;
use calor_kernel::{Activation, Call, Source, Unit};

use crate::code::SOURCES;

/// The unit whose canonical form these bytes are.
pub(crate) fn unit(bytes: &[u8]) -> Option<Unit> {
    let mut from = Reader(bytes);
    let kind = from.text()?;
    let format = from.u16()?;
    let unit = match (kind, format) {
        ("loop", 1) => Unit::Loop(program::program(&mut from)?),
        ("source", 1) => Unit::Source(source(&mut from)?),
        ("call", 2) => Unit::Call(call(&mut from)?),
        _ => return None,
    };
    // The canonical form is the only one: what reads the same but was written otherwise is not.
    (from.0.is_empty() && unit.canonical() == bytes).then_some(unit)
}

fn source(from: &mut Reader<'_>) -> Option<Source> {
    let name = from.text()?;
    let known = SOURCES.iter().find(|it| it.name == name)?;
    let count = from.count()?;
    let mut params = Vec::new();
    for _ in 0..count {
        let name = from.text()?;
        let name = known.params.iter().find(|it| **it == name)?;
        params.push((*name, from.i64()?));
    }
    Some(Source { name: known.name, params })
}

fn call(from: &mut Reader<'_>) -> Option<Call> {
    match from.text()? {
        "gemm" => {
            let (rows, n, k, dtype) = (from.u32()?, from.u32()?, from.u32()?, from.dtype()?);
            let (tf32, bias) = (from.flag()?, from.flag()?);
            let activation = Activation::by_name(from.text()?)?;
            let (residual, packed) = (from.flag()?, from.flag()?);
            Some(Call::Gemm { rows, n, k, dtype, tf32, bias, activation, residual, packed })
        }
        "pack" => {
            let (n, k, dtype) = (from.u32()?, from.u32()?, from.dtype()?);
            Some(Call::Pack { n, k, dtype })
        }
        _ => None,
    }
}

/// Canonical bytes that are still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[it]| it)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }

    fn f64(&mut self) -> Option<f64> {
        self.take().map(|it| f64::from_bits(u64::from_le_bytes(it)))
    }

    /// A number of things; never more than there are bytes, so that nobody reserves for it.
    fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.i64()?).ok()?;
        (count <= self.0.len()).then_some(count)
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = self.count()?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn dtype(&mut self) -> Option<DType> {
        DType::by_name(self.text()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(unit: &Unit) {
        let bytes = unit.canonical();
        assert_eq!(super::unit(&bytes).as_ref(), Some(unit));
        for len in 0..bytes.len() {
            assert_eq!(super::unit(&bytes[..len]), None, "cut at {len}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x41;
            if let Some(other) = super::unit(&damaged) {
                assert_eq!(other.canonical(), damaged, "damaged at {at}");
            }
        }
    }

    #[test]
    fn calls_round_trip() {
        let (n, k, dtype) = (768, 3072, DType::F32);
        check(&Unit::Call(Call::Pack { n, k, dtype }));
        for activation in Activation::ALL {
            let call = Call::Gemm {
                rows: 64,
                n,
                k,
                dtype,
                tf32: false,
                bias: true,
                activation,
                residual: activation == Activation::None,
                packed: true,
            };
            check(&Unit::Call(call));
        }
    }

    #[test]
    fn loop_programs_round_trip() {
        for example in calor_kernel::examples::all() {
            check(&Unit::Loop(example.program));
        }
    }

    #[test]
    fn sources_round_trip() {
        for row in SOURCES {
            let params = row.params.iter().zip(-1..).map(|(name, value)| (*name, value)).collect();
            check(&Unit::Source(Source { name: row.name, params }));
        }
        let unknown = Source { name: "unknown", params: vec![] };
        assert_eq!(super::unit(&Unit::Source(unknown).canonical()), None);
    }
}
