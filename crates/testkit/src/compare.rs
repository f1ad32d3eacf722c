//! When two tensors agree.

use calor_ir::{Tensor, Type};
use thiserror::Error;

/// The element that is furthest from what was wanted.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum Mismatch {
    /// Other types.
    #[error("the type is {got}, not {want}")]
    Type {
        /// Type that came.
        got: Box<Type>,
        /// Type that was wanted.
        want: Box<Type>,
    },
    /// A number too far away.
    #[error("element {element_index} is {got}, not {want} within {tolerance}")]
    Element {
        /// Row-major index of the element.
        element_index: usize,
        /// Number that came.
        got: f64,
        /// Number that was wanted.
        want: f64,
        /// Absolute plus relative tolerance.
        tolerance: f64,
    },
}

/// Whether each element is within `tolerance`, absolute plus relative to the wanted number.
///
/// A NaN agrees with a NaN only, an infinity with itself only.
///
/// # Errors
/// The worst element that is not.
pub fn agree(got: &Tensor, want: &Tensor, tolerance: f64) -> Result<(), Mismatch> {
    if got.ty != want.ty || got.data.len() != want.data.len() {
        let (got, want) = (Box::new(got.ty), Box::new(want.ty));
        return Err(Mismatch::Type { got, want });
    }
    let excess = |got: f64, want: f64| {
        if got == want || (got.is_nan() && want.is_nan()) {
            return 0.0;
        }
        let off = (got - want).abs() / (tolerance * (1.0 + want.abs()));
        if off.is_finite() { off } else { f64::INFINITY }
    };
    let pairs = got.data.iter().zip(&want.data).map(|(got, want)| excess(*got, *want));
    let worst = pairs.enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    match worst {
        Some((element_index, off)) if off > 1.0 => Err(Mismatch::Element {
            element_index,
            got: got.data[element_index],
            want: want.data[element_index],
            tolerance,
        }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calor_ir::DType;

    #[track_caller]
    fn check(got: f64, want: f64, agrees: bool) {
        let tensor = |it: f64| Tensor::new(DType::F64, &[1], &[it]);
        assert_eq!(agree(&tensor(got), &tensor(want), 1e-3).is_ok(), agrees, "{got} for {want}");
    }

    #[test]
    fn tolerance_is_absolute_plus_relative() {
        check(1.0019, 1.0, true);
        check(1.0021, 1.0, false);
        check(1000.9, 1000.0, true);
    }

    #[test]
    fn what_is_no_number_agrees_with_itself() {
        check(f64::NAN, f64::NAN, true);
        check(f64::NAN, 0.0, false);
        check(0.0, f64::NAN, false);
        check(f64::INFINITY, f64::INFINITY, true);
        check(f64::NEG_INFINITY, f64::INFINITY, false);
    }
}
