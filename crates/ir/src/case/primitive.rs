//! Cases that cover every primitive.

use crate::case::OpCase;

/// Cases for the primitives.
pub fn primitive_cases() -> Vec<OpCase> {
    Vec::new()
}
