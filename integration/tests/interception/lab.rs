//! Two nodes with a bridge each and a cable between them, pods on both, and a world behind a router; IPv4 and IPv6. All of it is network
//! namespaces that go away with the value.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use weft_integration::rig::{Namespace, program, run};

/// A machine on the network: a pod, or one of the world.
pub struct Machine {
    pub space: Namespace,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Machine {
    fn new(v4: &str, v6: &str) -> Self {
        Self { space: Namespace::new(), v4: v4.parse().unwrap(), v6: v6.parse().unwrap() }
    }

    /// Its address of a family.
    pub fn ip(&self, v4: bool) -> IpAddr {
        if v4 { self.v4.into() } else { self.v6.into() }
    }
}

/// All of them. `caller` and `visitor` are on one node; `cart`, `legacy` and the router to the world on the other.
pub struct Lab {
    pub nodes: [Namespace; 2],
    /// A pod of the mesh that calls.
    pub caller: Machine,
    /// A pod that has no sidecar, and calls.
    pub visitor: Machine,
    /// A pod of the mesh that serves.
    pub cart: Machine,
    /// A pod that has no sidecar, and serves.
    pub legacy: Machine,
    /// Outside.
    pub world: Machine,
}

/// The bridge on each node.
pub const BRIDGE: &str = "pods";

#[track_caller]
pub fn ip(namespace: &Namespace, words: &str) {
    let words: Vec<&str> = words.split(' ').collect();
    run(&mut namespace.command(program("ip"), &words)).ok();
}

#[track_caller]
pub fn sysctl(namespace: &Namespace, setting: &str) {
    run(&mut namespace.command(program("sysctl"), &["-qw", setting])).ok();
}

impl Lab {
    pub fn new() -> Self {
        let lab = Self {
            nodes: [Namespace::new(), Namespace::new()],
            caller: Machine::new("192.0.2.11", "2001:db8:1::11"),
            visitor: Machine::new("192.0.2.12", "2001:db8:1::12"),
            cart: Machine::new("192.0.2.21", "2001:db8:1::21"),
            legacy: Machine::new("192.0.2.22", "2001:db8:1::22"),
            world: Machine::new("203.0.113.10", "2001:db8:2::10"),
        };
        let [first, second] = &lab.nodes;
        for node in &lab.nodes {
            ip(node, &format!("link add {BRIDGE} type bridge"));
            ip(node, &format!("link set {BRIDGE} up"));
        }
        ip(first, &format!("link add cable type veth peer name cable netns {}", second.name()));
        for node in &lab.nodes {
            ip(node, &format!("link set cable master {BRIDGE}"));
            ip(node, "link set cable up");
        }
        for (node, pod) in [(first, &lab.caller), (first, &lab.visitor), (second, &lab.cart), (second, &lab.legacy)] {
            let port = format!("port{}", pod.v4.octets()[3]);
            plug(node, pod, &port, 24);
            ip(node, &format!("link set {port} master {BRIDGE}"));
            ip(&pod.space, "route add default via 192.0.2.254");
            ip(&pod.space, "-6 route add default via 2001:db8:1::fe");
        }
        for address in ["192.0.2.254/24", "2001:db8:1::fe/64 nodad"] {
            ip(second, &format!("address add {address} dev {BRIDGE}"));
        }
        plug(second, &lab.world, "world", 24);
        for address in ["203.0.113.1/24", "2001:db8:2::1/64 nodad"] {
            ip(second, &format!("address add {address} dev world"));
        }
        ip(&lab.world.space, "route add default via 203.0.113.1");
        ip(&lab.world.space, "-6 route add default via 2001:db8:2::1");
        // As strict as distributions have it: packets must come by the way that answers take.
        for machine in [&lab.caller, &lab.visitor, &lab.cart, &lab.legacy, &lab.world] {
            sysctl(&machine.space, "net.ipv4.conf.all.rp_filter=1");
        }
        sysctl(second, "net.ipv4.ip_forward=1");
        sysctl(second, "net.ipv6.conf.all.forwarding=1");
        lab
    }
}

fn plug(node: &Namespace, machine: &Machine, port: &str, prefix: u8) {
    ip(node, &format!("link add {port} type veth peer name eth0 netns {}", machine.space.name()));
    ip(node, &format!("link set {port} up"));
    ip(&machine.space, &format!("address add {}/{prefix} dev eth0", machine.v4));
    ip(&machine.space, &format!("address add {}/64 dev eth0 nodad", machine.v6));
    ip(&machine.space, "link set eth0 up");
}
