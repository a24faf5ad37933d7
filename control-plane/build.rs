//! Compiles what the store speaks with etcd, in pure Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .compile_fds(protox::compile(["etcd.proto"], ["proto"])?)?;
    Ok(())
}
