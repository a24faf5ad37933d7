//! The whole shop: every service with a sidecar, called from outside by somebody with one.

use weft_integration::rig::Mesh;
use weft_integration::rig::stage::{Caller, Instance, services};

/// A running shop.
pub struct Shop {
    pub mesh: Mesh,
    pub instances: Vec<Instance>,
}

impl Shop {
    /// Its services, of which payments fails this share of its calls.
    #[track_caller]
    pub fn open(fail_percent: u32) -> Self {
        let mesh = Mesh::start();
        services(&mesh, "shop", &["storefront", "catalog", "orders", "inventory", "payments"], 80, "http");
        services(&mesh, "shop", &["users"], 9000, "grpc");
        let fail = fail_percent.to_string();
        let start = |service: &str, what: &[&str]| Instance::start(&mesh, service, &format!("{service}-1"), what);
        let instances = vec![
            start("users", &["users"]),
            start("inventory", &["inventory"]),
            start("payments", &["payments", "--fail-percent", &fail]),
            start("catalog", &["catalog"]),
            start("orders", &["orders"]),
            start("storefront", &["storefront"]),
        ];
        Self { mesh, instances }
    }

    /// Somebody who calls.
    #[track_caller]
    pub fn caller(&self) -> Caller {
        Caller::start(&self.mesh, "shop", "caller")
    }
}

/// Memory of a process that nothing else shares, in KiB.
pub fn own_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_ascii_whitespace().next().unwrap().parse().unwrap()
}
