//! Which address of the mesh's range a program of this host has: one lock file each, held as long as the process lives.
//!
//! Leases are kept apart by the network namespace that the bridge is in, since each has a bridge of its own.

use crate::failure::Failure;
use std::fs::{File, OpenOptions, TryLockError};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

/// Below 198.19.0.0/16; 1 is the bridge.
const FIRST: u16 = 2;
const LAST: u16 = 4094;

/// An address that is ours until the value drops, or the process ends however it does.
pub struct Lease {
    number: u16,
    parent: u64,
    dir: PathBuf,
    _lock: File,
}

impl Lease {
    /// The lowest address that nobody holds.
    pub fn take() -> Result<Self, Failure> {
        let parent = std::fs::metadata("/proc/self/ns/net")
            .map_err(|error| Failure::not_well(format!("cannot see this network namespace: {error}")))?
            .ino();
        Self::take_in(PathBuf::from(format!("/run/weft/netns-{parent:x}")), parent)
    }

    fn take_in(dir: PathBuf, parent: u64) -> Result<Self, Failure> {
        let bad =
            |error: std::io::Error| Failure::not_well(format!("cannot keep addresses in {}: {error}", dir.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(bad)?;
        for number in (FIRST..=LAST).filter(|number| !matches!(number & 0xff, 0 | 0xff)) {
            let lock = open(dir.join(number.to_string())).map_err(bad)?;
            match lock.try_lock() {
                Ok(()) => return Ok(Self { number, parent, dir, _lock: lock }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(bad(error)),
            }
        }
        Err(Failure::not_well("every address of 198.19.0.0/20 is taken by a running program"))
    }

    /// Runs `work` while no other process does.
    pub fn exclusively(&self, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let bad = |error: std::io::Error| Failure::not_well(format!("cannot lock {}: {error}", self.dir.display()));
        let lock = open(self.dir.join("bridge")).map_err(bad)?;
        lock.lock().map_err(bad)?;
        work()
    }

    /// What tells this lease from others of the host.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The network namespace that the bridge is in.
    pub fn parent(&self) -> u64 {
        self.parent
    }

    /// The address.
    pub fn address(&self) -> Ipv4Addr {
        let [high, low] = self.number.to_be_bytes();
        Ipv4Addr::new(198, 19, high, low)
    }

    /// The bridge's own address.
    pub fn gateway() -> Ipv4Addr {
        Ipv4Addr::new(198, 19, 0, 1)
    }
}

fn open(path: PathBuf) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_free_again_when_its_holder_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let take = || Lease::take_in(dir.path().join("leases"), 7).unwrap();
        let (first, second) = (take(), take());
        assert_eq!(first.address(), Ipv4Addr::new(198, 19, 0, 2));
        assert_eq!(second.address(), Ipv4Addr::new(198, 19, 0, 3));
        drop(first);
        assert_eq!(take().address(), Ipv4Addr::new(198, 19, 0, 2));
    }
}
