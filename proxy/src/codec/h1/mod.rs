//! HTTP/1.0 and 1.1 of our own, over `httparse`: strict in what delimits messages, faithful in everything else.
//!
//! `parse` and `encode` are pure; `wire` holds a connection's state; `server` and `client` are its two ends. Translation to and
//! from HTTP/2 happens in the shared types, not here.

mod chunked;
mod client;
mod encode;
mod parse;
mod server;
mod wire;

pub(crate) use client::{Client, ClientReader, ClientWriter, Idle, Shelf};
pub(in crate::codec) use parse::{is_authority, may_be_trailer};
pub(crate) use server::ReplyWriter;
pub use server::serve;
pub(crate) use wire::Reader;
