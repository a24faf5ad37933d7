//! Wire types of Weft: the xDS v3 incremental transport, Weft's own resources, identity and the control stream, and what Weft speaks to
//! others: the SPIFFE Workload API and the OpenTelemetry protocol.
//!
//! Everything here is generated from `proto/proto/`; the only code of our own is [`json`] (the canonical protobuf JSON
//! mapping of the same messages, for files and dumps) and [`Resource`], which names the types that travel over xDS.
//! What a value means, and whether it is valid, is decided in `weft-policy`, never here.

pub mod codec;
pub mod json;
pub mod metrics;
mod resource;

pub use resource::{Resource, hash_of, type_url, version_of};

/// Generated packages, nested as their names are: generated code refers to its neighbours by relative paths.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    rustdoc::invalid_html_tags,
    reason = "generated"
)]
mod generated {
    pub mod google {
        pub mod rpc {
            tonic::include_proto!("google.rpc");
        }
    }
    pub mod envoy {
        pub mod config {
            pub mod core {
                pub mod v3 {
                    tonic::include_proto!("envoy.config.core.v3");
                }
            }
        }
        pub mod service {
            pub mod discovery {
                pub mod v3 {
                    tonic::include_proto!("envoy.service.discovery.v3");
                }
            }
        }
    }
    pub mod weft {
        pub mod v1 {
            tonic::include_proto!("weft.v1");
        }
    }
    pub mod opentelemetry {
        pub mod proto {
            pub mod common {
                pub mod v1 {
                    tonic::include_proto!("opentelemetry.proto.common.v1");
                }
            }
            pub mod resource {
                pub mod v1 {
                    tonic::include_proto!("opentelemetry.proto.resource.v1");
                }
            }
            pub mod trace {
                pub mod v1 {
                    tonic::include_proto!("opentelemetry.proto.trace.v1");
                }
            }
            pub mod collector {
                pub mod trace {
                    pub mod v1 {
                        tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
                    }
                }
            }
        }
    }
    pub mod spiffe {
        // What has no package.
        tonic::include_proto!("_");
    }
}

/// `envoy.config.core.v3`: the parts that the transport refers to.
pub use generated::envoy::config::core::v3 as core;
/// `envoy.service.discovery.v3`: the incremental aggregated stream.
pub use generated::envoy::service::discovery::v3 as discovery;
/// `google.rpc`: the status that carries refusals.
pub use generated::google::rpc;
/// Spans of the OpenTelemetry protocol and how they are handed over, as far as sidecars make them.
pub mod otlp {
    pub use super::generated::opentelemetry::proto::collector::trace::v1 as collector;
    pub use super::generated::opentelemetry::proto::common::v1 as common;
    pub use super::generated::opentelemetry::proto::resource::v1 as resource;
    pub use super::generated::opentelemetry::proto::trace::v1 as trace;
}
/// The SPIFFE Workload API, which has no package.
pub use generated::spiffe;
/// `weft.v1`: Weft's resources, identity and control stream, documented in the `.proto` files.
pub use generated::weft::v1;

/// The compiled descriptors of every file above, as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The greatest `CallStats.series`: the control plane keeps the names of all of them for as long as the stream lasts.
pub const MAX_NUMBERED: u32 = 1 << 12;

/// Upper bounds of `CallStats.latency_buckets`, in microseconds: ten a decade, so that a percentile read from them is off by 13 % at most.
/// A call is counted at the first bound that is not below it; what exceeds the last bound is counted in one more bucket.
pub const LATENCY_BOUNDS_US: [u64; 57] = [
    100, 130, 160, 200, 250, 320, 400, 500, 630, 800, 1_000, 1_300, 1_600, 2_000, 2_500, 3_200, 4_000, 5_000, 6_300,
    8_000, 10_000, 13_000, 16_000, 20_000, 25_000, 32_000, 40_000, 50_000, 63_000, 80_000, 100_000, 130_000, 160_000,
    200_000, 250_000, 320_000, 400_000, 500_000, 630_000, 800_000, 1_000_000, 1_300_000, 1_600_000, 2_000_000,
    2_500_000, 3_200_000, 4_000_000, 5_000_000, 6_300_000, 8_000_000, 10_000_000, 13_000_000, 16_000_000, 20_000_000,
    25_000_000, 40_000_000, 60_000_000,
];
