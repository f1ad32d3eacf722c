//! Writes the synthetic checkpoints: `write_synth <dir> [full|tiny] [seed]`.
//!
//! `tests/load_synth.py` loads what it writes in the reference implementation.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::Write;
use std::path::Path;

use calor_weights::{Dtype, SYNTH_MODELS, SynthModel, SynthOptions, SynthProfile, synth};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let Some(dir) = args.get(1) else {
        writeln!(std::io::stdout(), "usage: write_synth DIR [full|tiny] [SEED]")?;
        return Ok(());
    };
    let full = args.get(2).is_some_and(|it| it == "full");
    let models: Vec<&SynthModel> = SYNTH_MODELS.iter().collect();
    let options = SynthOptions {
        profile: if full { SynthProfile::Full } else { SynthProfile::Tiny },
        seed: args.get(3).and_then(|it| it.parse().ok()).unwrap_or(0),
        dtype: Dtype::F32,
        models: &models,
    };
    synth(&options, Path::new(dir), &mut ())?;
    Ok(())
}
