//! HTTP/1.0 and 1.1 of our own: strict in what delimits messages, faithful in everything else.
//!
//! `scan`, `target`, `parse` and `encode` are pure; `wire` holds a connection's state; `server` and `client` are its two ends. Translation to and
//! from HTTP/2 happens in the shared types, not here.

mod chunked;
mod client;
mod encode;
mod parse;
mod scan;
mod server;
mod target;
mod wire;

pub use client::{Client, Idle, Shelf};
pub(crate) use client::{ClientReader, ClientWriter};
pub(crate) use parse::may_be_trailer;
pub(crate) use server::ReplyWriter;
pub use server::serve;
pub(crate) use target::is_authority;
pub(crate) use wire::Reader;
