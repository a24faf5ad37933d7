//! Address ranges of a cluster: those in which a sidecar asks what an address is, everything else being outside.
//!
//! The ranges of Services are said where the cluster says them (ServiceCIDR objects, or a flag). Of pods, and of Services elsewhere, the
//! neighbourhoods of their addresses are known; they only grow, and seldom.

use crate::kinds::Service;
use crate::world::{Table, Workload};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use weft_policy::config::Cidr;

/// More neighbourhoods are joined into wider ones: what sidecars are told is bounded.
const MOST: usize = 256;
/// Prefix lengths of neighbourhoods, IPv4 and IPv6, each wider than the one before.
const WIDTHS: [(u8, u8); 4] = [(24, 64), (20, 56), (16, 48), (8, 32)];

/// What is known of a cluster's addresses.
#[derive(Debug, Default)]
pub struct Ranges {
    workloads: Table<Arc<Workload>>,
    services: Table<Arc<Service>>,
    declared: Vec<Cidr>,
    near: BTreeSet<(IpAddr, u8)>,
    told: Arc<[String]>,
}

impl Ranges {
    /// Follows the world, of which the ranges are: those declared, then the neighbourhoods of addresses outside of them, in order.
    pub fn update(
        &mut self,
        declared: Vec<Cidr>,
        workloads: &Table<Arc<Workload>>,
        services: &Table<Arc<Service>>,
    ) -> Arc<[String]> {
        let new = workloads.changes(&self.workloads, Arc::ptr_eq).into_iter().filter_map(|(_, _, is)| is);
        let mut addresses: Vec<IpAddr> = new.filter_map(|workload| workload.spec.address.parse().ok()).collect();
        let new = services.changes(&self.services, Arc::ptr_eq).into_iter().filter_map(|(_, _, is)| is);
        for spec in new.filter_map(|service| service.spec.as_ref()) {
            let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
            addresses.extend(all.filter_map(|text| text.parse::<IpAddr>().ok()));
        }
        (self.workloads, self.services) = (workloads.clone(), services.clone());
        let (known, same) = (self.near.len(), declared == self.declared);
        self.declared = declared;
        let (four, six) = WIDTHS[0];
        self.near.extend(addresses.into_iter().map(|a| masked(a, if a.is_ipv4() { four } else { six })));
        if self.near.len() != known || !same {
            self.told = self.made();
        }
        self.told.clone()
    }

    fn made(&self) -> Arc<[String]> {
        let mut out: Vec<String> = self.declared.iter().map(Cidr::to_string).collect();
        let outside = || self.near.iter().filter(|(net, _)| !self.declared.iter().any(|range| range.contains(*net)));
        let joined = |(four, six): (u8, u8)| -> BTreeSet<(IpAddr, u8)> {
            outside().map(|(net, _)| masked(*net, if net.is_ipv4() { four } else { six })).collect()
        };
        let found = WIDTHS.into_iter().map(joined).find(|found| found.len() <= MOST);
        out.extend(found.into_iter().flatten().map(|(net, length)| format!("{net}/{length}")));
        out.into()
    }
}

fn masked(address: IpAddr, length: u8) -> (IpAddr, u8) {
    let masked = match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((u128::from(address) & mask).into())
        }
    };
    (masked, length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use serde_json::json;

    fn at(address: &str) -> Arc<Workload> {
        let spec = json!({"metadata": {"namespace": "shop"}, "spec": {"address": address}});
        Arc::new(serde_json::from_value::<kinds::Workload>(spec).unwrap().into())
    }

    fn update(ranges: &mut Ranges, declared: &[&str], all: &[&str]) -> Vec<String> {
        let declared = declared.iter().map(|text| text.parse().unwrap()).collect();
        let mut workloads = Table::default();
        for (i, address) in all.iter().enumerate() {
            workloads.insert(format!("shop/w-{i}"), at(address));
        }
        let mut services = Table::default();
        let service = json!({"spec": {"clusterIP": "198.18.3.4", "clusterIPs": ["198.18.3.4"]}});
        services.insert("shop/cart", Arc::new(serde_json::from_value(service).unwrap()));
        ranges.update(declared, &workloads, &services).to_vec()
    }

    #[test]
    fn what_is_declared_is_said_and_the_rest_with_its_neighbourhood() {
        let mut ranges = Ranges::default();
        let all = ["192.0.2.7", "192.0.2.9", "203.0.113.1", "2001:db8::9"];
        let near = ["192.0.2.0/24", "203.0.113.0/24", "2001:db8::/64"];
        assert_eq!(update(&mut ranges, &["198.18.0.0/16"], &all), [&["198.18.0.0/16"], &near[..]].concat());
        assert_eq!(update(&mut ranges, &["198.18.0.0/16"], &[]).len(), 4, "they only grow");
        let undeclared = update(&mut ranges, &[], &[]);
        assert_eq!(undeclared, [&near[..1], &["198.18.3.0/24"], &near[1..]].concat());
    }

    #[test]
    fn of_many_neighbourhoods_wider_ones_are_made() {
        let many: Vec<String> =
            (0..2000_u32).map(|n| IpAddr::V4((0x0a00_0000 + (n << 8)).into()).to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let found = update(&mut Ranges::default(), &[], &many);
        assert!(found.len() <= MOST && found.contains(&"10.0.0.0/20".to_owned()), "{found:?}");
        let all: Vec<Cidr> = found.iter().map(|text| text.parse().unwrap()).collect();
        assert!(many.iter().all(|address| all.iter().any(|range| range.contains(address.parse().unwrap()))));
    }
}
