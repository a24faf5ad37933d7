//! Addresses that stand in for registered hosts outside the mesh, where every connection is intercepted.
//!
//! A host outside shares its real addresses with others, so a connection to one of them does not say which host was meant. The sidecar's
//! DNS therefore gives the application an address that is nobody's, for each name its own, and the outbound side reads the name back from
//! it. Addresses never leave the workload, and a name keeps its own for as long as the process lives; mostly longer, since it is drawn from
//! the name.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// 240.240.0.0/16, of the range that is reserved for future use (RFC 1112 §4): routed nowhere.
const NETWORK: u32 = 0xf0f0_0000;
/// Addresses in it. Names are those of the mesh's own objects: there are not so many.
const SIZE: u32 = 1 << 16;

/// Names and the addresses that stand in for them.
#[derive(Debug, Default)]
pub struct StandIns(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    addresses: HashMap<Arc<str>, Ipv4Addr>,
    names: HashMap<Ipv4Addr, Arc<str>>,
}

impl StandIns {
    /// The address of a name, its own from the first time on. `None`: all are given.
    pub fn address(&self, name: &str) -> Option<Ipv4Addr> {
        let mut table = self.0.lock();
        if let Some(address) = table.addresses.get(name) {
            return Some(*address);
        }
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        #[expect(clippy::cast_possible_truncation, reason = "any sixteen bits of it do")]
        let first = hasher.finish() as u32;
        let nth = |offset: u32| Ipv4Addr::from(NETWORK | (first.wrapping_add(offset) % SIZE));
        let address = (0..SIZE).map(nth).find(|address| !table.names.contains_key(address))?;
        let name: Arc<str> = name.into();
        table.addresses.insert(Arc::clone(&name), address);
        table.names.insert(address, name);
        Some(address)
    }

    /// All of them, for a process that takes this one's place: the application may keep addresses for long.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Ipv4Addr)> {
        self.0.lock().addresses.iter().map(|(name, address)| (name.to_string(), *address)).collect()
    }

    /// What another process gave, before this one gives any. What is none of these addresses is left out.
    pub fn remember(&self, all: impl IntoIterator<Item = (String, Ipv4Addr)>) {
        let mut table = self.0.lock();
        for (name, address) in all.into_iter().filter(|(_, address)| u32::from(*address) & !(SIZE - 1) == NETWORK) {
            let name: Arc<str> = name.into();
            table.addresses.insert(Arc::clone(&name), address);
            table.names.insert(address, name);
        }
    }

    /// The name that an address stands in for.
    pub fn name(&self, address: IpAddr) -> Option<Arc<str>> {
        let IpAddr::V4(address) = address else { return None };
        if u32::from(address) & !(SIZE - 1) != NETWORK {
            return None;
        }
        self.0.lock().names.get(&address).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_an_address_of_its_own_and_keeps_it() {
        let stand_ins = StandIns::default();
        let names: Vec<String> = (0..2000).map(|n| format!("host-{n}.example.com")).collect();
        let given: Vec<Ipv4Addr> = names.iter().map(|name| stand_ins.address(name).unwrap()).collect();
        for (name, address) in names.iter().zip(&given) {
            assert_eq!(stand_ins.address(name), Some(*address));
            assert_eq!(stand_ins.name((*address).into()).as_deref(), Some(name.as_str()));
        }
        // Drawn from the name: another process gives the first the same.
        assert_eq!(StandIns::default().address(&names[0]), Some(given[0]));
    }

    #[test]
    fn another_process_goes_on_with_the_same_addresses() {
        let (before, after) = (StandIns::default(), StandIns::default());
        // Both draw the same address: the second gets another one, which its name alone does not tell.
        let names: Vec<String> = (0..3000).map(|n| format!("host-{n}.example.com")).collect();
        let given: Vec<Ipv4Addr> = names.iter().map(|name| before.address(name).unwrap()).collect();
        after.remember(before.all());
        after.remember([("elsewhere".to_owned(), Ipv4Addr::LOCALHOST)]);
        for (name, address) in names.iter().zip(given).rev() {
            assert_eq!(after.name(address.into()).as_deref(), Some(name.as_str()));
            assert_eq!(after.address(name), Some(address));
        }
        assert_eq!(after.all().len(), names.len());
    }

    #[test]
    fn no_other_address_stands_for_anything_and_a_full_table_gives_none() {
        let stand_ins = StandIns::default();
        for n in 0..SIZE {
            assert!(stand_ins.address(&n.to_string()).is_some(), "{n}");
        }
        assert_eq!(stand_ins.address("one more"), None);
        for other in ["240.239.255.255", "240.241.0.0", "127.0.0.1", "2001:db8::1", "::ffff:240.240.0.1"] {
            assert_eq!(stand_ins.name(other.parse().unwrap()), None, "{other}");
        }
    }
}
