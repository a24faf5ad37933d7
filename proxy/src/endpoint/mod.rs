//! Live endpoints: which one takes a call (`cluster`, of `member`s; a `pick` while the call lasts), and how it is reached (`connect`, `bound`, `pool`, `hbone`, `native`, `tls_io`, `disguised`, for as long as `term` says).
//!
//! The cluster knows load, breakers and limits and never opens a socket; the connector opens sockets and never chooses an endpoint.

mod bound;
pub mod cluster;
pub mod connect;
mod disguised;
pub mod external;
pub mod hbone;
pub mod member;
pub mod native;
pub mod pick;
pub mod pool;
pub mod probe;
pub mod term;
pub mod tls_io;

pub use cluster::Cluster;
pub use disguised::Origin;
pub use member::{Member, Place};
pub use pick::Pick;
