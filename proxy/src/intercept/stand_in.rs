//! Addresses that stand in for registered hosts outside the mesh, where every connection is intercepted.
//!
//! A host outside shares its real addresses with others, so a connection to one of them does not say which host was meant. The sidecar's
//! DNS therefore gives the application an address that is nobody's, for each name its own, and the outbound side reads the name back from
//! it. Addresses never leave the workload, and a name keeps its own for as long as the process lives; mostly longer, since it is drawn from
//! the name.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// 240.240.0.0/16, of the range that is reserved for future use (RFC 1112 §4): routed nowhere.
const NETWORK: u32 = 0xf0f0_0000;
/// 2001:2:0:f0f0::/112, of the range for benchmarks (RFC 5180 §8): routed nowhere.
const NETWORK_V6: u128 = 0x2001_0002_0000_f0f0 << 64;

/// Names and the addresses that stand in for them: one of each family with the same number at its end.
#[derive(Debug, Default)]
pub struct StandIns(Mutex<Table>);

/// Names are those of the mesh's own objects: there are not more than there are numbers.
#[derive(Debug, Default)]
struct Table {
    numbers: HashMap<Arc<str>, u16>,
    names: HashMap<u16, Arc<str>>,
}

impl StandIns {
    /// The addresses of a name, its own from the first time on. `None`: all are given.
    pub fn addresses(&self, name: &str) -> Option<[IpAddr; 2]> {
        let number = self.number(name)?;
        let v4 = Ipv4Addr::from(NETWORK | u32::from(number));
        Some([v4.into(), Ipv6Addr::from(NETWORK_V6 | u128::from(number)).into()])
    }

    fn number(&self, name: &str) -> Option<u16> {
        let mut table = self.0.lock();
        if let Some(number) = table.numbers.get(name) {
            return Some(*number);
        }
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        #[expect(clippy::cast_possible_truncation, reason = "any sixteen bits of it do")]
        let first = hasher.finish() as u16;
        let number = (0..=u16::MAX).map(|n| first.wrapping_add(n)).find(|number| !table.names.contains_key(number))?;
        let name: Arc<str> = name.into();
        table.numbers.insert(Arc::clone(&name), number);
        table.names.insert(number, name);
        Some(number)
    }

    /// All of them by their IPv4 addresses, for a process that takes this one's place: the application may keep addresses for long.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Ipv4Addr)> {
        let address = |number: &u16| Ipv4Addr::from(NETWORK | u32::from(*number));
        self.0.lock().numbers.iter().map(|(name, number)| (name.to_string(), address(number))).collect()
    }

    /// What another process gave, before this one gives any. What is none of these addresses is left out.
    pub fn remember(&self, all: impl IntoIterator<Item = (String, Ipv4Addr)>) {
        let mut table = self.0.lock();
        for (name, address) in all {
            let Ok(number) = u16::try_from(u32::from(address) ^ NETWORK) else { continue };
            let name: Arc<str> = name.into();
            table.numbers.insert(Arc::clone(&name), number);
            table.names.insert(number, name);
        }
    }

    /// The name that an address stands in for.
    pub fn name(&self, address: IpAddr) -> Option<Arc<str>> {
        let number = match address {
            IpAddr::V4(address) => u16::try_from(u32::from(address) ^ NETWORK),
            IpAddr::V6(address) => u16::try_from(u128::from(address) ^ NETWORK_V6),
        };
        self.0.lock().names.get(&number.ok()?).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_an_address_of_its_own_and_keeps_it() {
        let stand_ins = StandIns::default();
        let names: Vec<String> = (0..2000).map(|n| format!("host-{n}.example.com")).collect();
        let given: Vec<[IpAddr; 2]> = names.iter().map(|name| stand_ins.addresses(name).unwrap()).collect();
        for (name, addresses) in names.iter().zip(&given) {
            assert_eq!(stand_ins.addresses(name), Some(*addresses));
            for address in addresses {
                assert_eq!(stand_ins.name(*address).as_deref(), Some(name.as_str()));
            }
        }
        // Drawn from the name: another process gives the first the same.
        assert_eq!(StandIns::default().addresses(&names[0]), Some(given[0]));
        assert!(given[0][0].to_string().starts_with("240.240."), "{given:?}");
        assert!(given[0][1].to_string().starts_with("2001:2:0:f0f0::"), "{given:?}");
    }

    #[test]
    fn another_process_goes_on_with_the_same_addresses() {
        let (before, after) = (StandIns::default(), StandIns::default());
        // Both draw the same address: the second gets another one, which its name alone does not tell.
        let names: Vec<String> = (0..3000).map(|n| format!("host-{n}.example.com")).collect();
        let given: Vec<[IpAddr; 2]> = names.iter().map(|name| before.addresses(name).unwrap()).collect();
        after.remember(before.all());
        after.remember([("elsewhere".to_owned(), Ipv4Addr::LOCALHOST)]);
        for (name, addresses) in names.iter().zip(given).rev() {
            assert!(addresses.iter().all(|address| after.name(*address).as_deref() == Some(name.as_str())));
            assert_eq!(after.addresses(name), Some(addresses));
        }
        assert_eq!(after.all().len(), names.len());
    }

    #[test]
    fn no_other_address_stands_for_anything_and_a_full_table_gives_none() {
        let stand_ins = StandIns::default();
        for n in 0..=u16::MAX {
            assert!(stand_ins.addresses(&n.to_string()).is_some(), "{n}");
        }
        assert_eq!(stand_ins.addresses("one more"), None);
        for other in
            ["240.239.255.255", "240.241.0.0", "127.0.0.1", "2001:db8::1", "::ffff:240.240.0.1", "2001:2:0:f0f0::1:0"]
        {
            assert_eq!(stand_ins.name(other.parse().unwrap()), None, "{other}");
        }
    }
}
