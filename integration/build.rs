//! Compiles the shop's gRPC service in pure Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    tonic_prost_build::configure().compile_fds(protox::compile(["shop.proto"], ["proto"])?)?;
    Ok(())
}
