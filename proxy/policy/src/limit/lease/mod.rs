//! Rates that many count together, without asking for each call: tokens are leased.
//!
//! The control plane's [`Allocator`] holds the bucket of every (limit, key) and parts with its tokens in leases of at most
//! a second's worth, by how much each asker has to do. A sidecar's [`Client`] spends them, asks for more before it runs out
//! and returns what it did not spend. Tokens are paid for when they are leased, so that a lost sidecar, or a lost message,
//! costs calls and never admits too many.
//!
//! Between leases a sidecar is not silent: a key's first calls, before an answer can have come, and calls while the
//! control plane is away, draw on a reserve: the limit divided by the sidecars that enforce it, or the part that the last
//! lease told. What was admitted so is confessed with the next ask and owed by the bucket. All together then admit no
//! more than the limit, and for each key at most once the reserves of all sidecars on top.

mod allocator;
mod client;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use allocator::{Allocator, ClientId, Terms};
pub use client::Client;

use crate::balance::hash_key;

/// How long leased tokens may be spent.
pub const VALID: Duration = Duration::from_secs(1);
/// An ask that is not answered by then will not be: the control plane is away.
const PATIENCE: Duration = Duration::from_secs(1);
/// Values longer than this are known by their hash.
const LONGEST_VALUE: usize = 128;
/// The key of the bucket that keys share for which there is no room. No other key is this: those of a limit with keys
/// are longer, that of a limit without is empty.
const OVERFLOW: &[u8] = &[0xFF];

/// The key for a combination of values: each with its length before it, as sidecars of all versions write it.
pub fn encode(values: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Vec<u8> {
    let mut key = Vec::new();
    values(&mut |value| match u8::try_from(value.len()) {
        Ok(length) if value.len() <= LONGEST_VALUE => {
            key.push(length);
            key.extend(value);
        }
        _ => {
            key.push(LONGEST_VALUE as u8 + 1);
            key.extend(hash_key(value).to_be_bytes());
            key.extend(crate::balance::hash_seeded(value, 1).to_be_bytes());
        }
    });
    key
}
