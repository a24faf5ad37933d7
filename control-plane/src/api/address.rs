//! Cluster addresses of Services: which one a new Service gets.
//!
//! Pure: the caller says which are taken. A name gets the same address again as long as nobody took it meanwhile, so that what a client
//! resolved stays right when a Service is made anew.

use std::{collections::HashSet, net::Ipv4Addr, str::FromStr};

use aws_lc_rs::digest::{SHA256, digest};

/// A range of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    first: u32,
    size: u32,
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("{text:?} is no IPv4 range such as 198.18.0.0/16, of at least 4 and at most 16777216 addresses");
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let length: u32 = length.parse().map_err(|_| bad())?;
        if !(8..=30).contains(&length) {
            return Err(bad());
        }
        let size = 1u32 << (32 - length);
        Ok(Self { first: u32::from(address) & !(size - 1), size })
    }
}

impl Range {
    /// Whether a Service may have this address: the first and the last of the range are nobody's.
    pub fn holds(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(self.first);
        offset > 0 && offset < self.size - 1
    }

    /// An address that is not taken, the same for the same name if it can be; `None` when the range is full.
    pub fn pick(&self, namespace: &str, name: &str, taken: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let hash = digest(&SHA256, format!("{namespace}/{name}").as_bytes());
        let seed = hash.as_ref().first_chunk::<4>().map_or(0, |b| u32::from_be_bytes(*b));
        let usable = self.size - 2;
        (0..usable)
            .map(|i| Ipv4Addr::from(self.first + 1 + (seed % usable + i) % usable))
            .find(|address| !taken.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_the_range_is_given_out_once() {
        let range: Range = "198.18.0.8/29".parse().unwrap();
        let mut taken = HashSet::new();
        for i in 0..6 {
            let address = range.pick("shop", &format!("s{i}"), &taken).unwrap();
            assert!(range.holds(address) && taken.insert(address));
        }
        assert_eq!(range.pick("shop", "more", &taken), None);
        assert!(!range.holds("198.18.0.8".parse().unwrap()) && !range.holds("198.18.0.15".parse().unwrap()));
    }

    #[test]
    fn a_name_gets_the_same_address_again() {
        let range: Range = "198.18.0.0/16".parse().unwrap();
        let none = HashSet::new();
        assert_eq!(range.pick("shop", "catalog", &none), range.pick("shop", "catalog", &none));
        assert_ne!(range.pick("shop", "catalog", &none), range.pick("shop", "orders", &none));
        for bad in ["", "198.18.0.0", "198.18.0.0/33", "198.18.0.0/4", "::/64", "x/16"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }
}
