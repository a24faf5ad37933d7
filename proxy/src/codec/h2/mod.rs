//! HTTP/2 over the `h2` crate: calls of both sides in the shared types, byte streams over CONNECT, and connections that flush once a
//! turn. Frame-level rules and abuse protections are the crate's; what a stream means is said in `convert`.

mod alive;
mod client;
mod coalesce;
mod convert;
mod server;
mod stream;
mod tunnel;

pub(crate) use client::{Call, CallRecv, CallSend, Connection, Tasks, connect};
pub(crate) use convert::is_refused;
pub(crate) use server::ReplyWriter;
pub use server::serve;
pub(crate) use stream::Reader;
pub use tunnel::Tunnel;

#[cfg(test)]
mod tests;
