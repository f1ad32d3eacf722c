//! A file of kept code: any bytes give entries that can be written again, or what is wrong.

use calor_runtime::cache::Bundle;

/// Runs one input; panics when a promise is broken.
pub(crate) fn replay(data: &[u8]) {
    check(data);
    // A right digest over wrong contents leads past the first gate.
    let digest = calor_kernel::Digest::of(data);
    check(&[data, &digest.0].concat());
}

fn check(data: &[u8]) {
    match Bundle::parse(data) {
        Ok(bundle) => {
            assert_eq!(bundle.keys().len(), bundle.entry_count());
            assert_eq!(Bundle::parse(&bundle.bytes()), Ok(bundle));
        }
        Err(flaw) => assert!(!flaw.to_string().is_empty()),
    }
}
