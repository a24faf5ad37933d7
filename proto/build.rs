//! Compiles the `.proto` files in pure Rust, so that a fresh machine needs no protoc.

use prost::Message;

const FILES: &[&str] = &[
    "google/rpc/status.proto",
    "envoy/config/core/v3/base.proto",
    "envoy/service/discovery/v3/discovery.proto",
    "envoy/service/discovery/v3/ads.proto",
    "weft/v1/mesh.proto",
    "weft/v1/identity.proto",
    "weft/v1/control.proto",
    "spiffe/workload.proto",
    "opentelemetry/proto/common/v1/common.proto",
    "opentelemetry/proto/resource/v1/resource.proto",
    "opentelemetry/proto/trace/v1/trace.proto",
    "opentelemetry/proto/collector/trace/v1/trace_service.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR").map_err(|e| e.to_string())?);
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        // Comments and places: most of its size, and nothing that runs reads them.
        file.source_code_info = None;
    }
    std::fs::write(out.join("descriptors.bin"), bare.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".weft.v1.CommandResult.output")
        // No map order: equal resources must have equal encodings (their hash is their version).
        .btree_map(".")
        .codec_path("crate::codec::Codec")
        .compile_fds(descriptors)?;
    Ok(())
}
