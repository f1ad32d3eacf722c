//! Fuzz target; the body is shared with the replay on stable.
#![no_main]

#[path = "../bodies/bundle.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::replay(data));
