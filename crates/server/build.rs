//! Messages and services of the published protocol files.

use std::error::Error;

#[expect(clippy::disallowed_methods, reason = "a build script is told its folder this way")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    // A compiler in Rust: nothing has to be installed to build.
    let files = protox::compile(["tei.proto", "calor.proto"], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&files))?;
    tonic_prost_build::configure().build_client(false).build_transport(false).compile_fds(files)?;
    Ok(())
}
