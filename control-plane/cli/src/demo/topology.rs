//! Which workloads the shop has, and with which flags each is run. Plain data: nothing here starts anything.

use std::path::Path;

/// Namespace of the shop.
pub const NAMESPACE: &str = "shop";
/// Name of the load driver's workload.
pub const LOAD: &str = "load-1";
/// The instance that the script kills and starts again.
pub const VICTIM: &str = "inventory-2";
/// The workload that calls the victim.
pub const VICTIMS_CALLER: &str = "orders-1";
/// Services that answer calls, and that the summary speaks of: catalog's calls are answered by one of its two versions.
pub const SERVICES: [&str; 7] = ["storefront", "catalog-v1", "catalog-v2", "orders", "inventory", "payments", "users"];

/// One instance of a service.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Name of the instance.
    pub name: &'static str,
    /// Services it belongs to; the first is the program's and the service account's name.
    pub services: &'static [&'static str],
    /// `http` or `grpc`.
    pub protocol: &'static str,
    /// What the program is told besides where to listen.
    pub flags: &'static [&'static str],
    /// Label `version`.
    pub version: &'static str,
}

/// Every service's instances, callees before callers.
pub const WORKLOADS: [Workload; 9] = [
    Workload { name: "users-1", services: &["users"], protocol: "grpc", flags: &[], version: "v1" },
    Workload {
        name: "payments-1",
        services: &["payments"],
        protocol: "http",
        flags: &["--fail-percent", "5"],
        version: "v1",
    },
    Workload { name: "inventory-1", services: &["inventory"], protocol: "http", flags: SLOW, version: "v1" },
    Workload { name: VICTIM, services: &["inventory"], protocol: "http", flags: SLOW, version: "v1" },
    Workload { name: "catalog-v1-1", services: &["catalog", "catalog-v1"], protocol: "http", flags: V1, version: "v1" },
    Workload { name: "catalog-v1-2", services: &["catalog", "catalog-v1"], protocol: "http", flags: V1, version: "v1" },
    Workload { name: "catalog-v2-1", services: &["catalog", "catalog-v2"], protocol: "http", flags: V2, version: "v2" },
    Workload { name: VICTIMS_CALLER, services: &["orders"], protocol: "http", flags: &[], version: "v1" },
    Workload { name: "storefront-1", services: &["storefront"], protocol: "http", flags: &[], version: "v1" },
];

const SLOW: &[&str] = &["--slow-percent", "5", "--slow-for", "120ms"];
const V1: &[&str] = &["--version", "v1"];
const V2: &[&str] = &["--version", "v2"];

impl Workload {
    /// Arguments of `weft` that run this instance with its application on loopback port `port`.
    pub fn arguments(&self, shop: &Path, port: u16) -> Vec<String> {
        let first = self.services.first().copied().unwrap_or_default();
        let mut arguments = run_arguments(self.name, first);
        for service in self.services {
            arguments.extend(["--service".into(), (*service).into()]);
        }
        let spec = format!("{0}={port}:{0}", self.protocol);
        arguments.extend(["--port".into(), spec, "--label".into(), format!("version={}", self.version), "--".into()]);
        let listen = format!("127.0.0.1:{port}");
        arguments.extend([shop.display().to_string(), first.into(), "--listen".into(), listen]);
        arguments.extend(self.flags.iter().map(|flag| (*flag).to_owned()));
        arguments
    }
}

/// Arguments of `weft` that run the load driver.
pub fn load_arguments(shop: &Path, rps: u32, report: &Path) -> Vec<String> {
    let mut arguments = run_arguments(LOAD, "load");
    arguments.extend(["--".into(), shop.display().to_string(), "load".into()]);
    arguments.extend(["--target".into(), "http://storefront".into(), "--rps".into(), rps.to_string()]);
    arguments.extend(["--report".into(), report.display().to_string()]);
    arguments
}

fn run_arguments(name: &str, account: &str) -> Vec<String> {
    let words = ["run", "--isolation", "none", "--death", "kill", "--drain-deadline", "5s", "--stop-timeout", "6s"];
    let mut arguments: Vec<String> = words.map(str::to_owned).to_vec();
    arguments.extend(["-n", NAMESPACE, "--name", name, "--service-account", account].map(str::to_owned));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instance_runs_through_the_same_command_as_a_users_program() {
        let workload = WORKLOADS.iter().find(|workload| workload.name == "catalog-v2-1").unwrap();
        let line = workload.arguments(Path::new("weft-shop"), 20_000).join(" ");
        assert_eq!(
            line,
            "run --isolation none --death kill --drain-deadline 5s --stop-timeout 6s -n shop --name catalog-v2-1 \
             --service-account catalog --service catalog --service catalog-v2 --port http=20000:http \
             --label version=v2 -- weft-shop catalog --listen 127.0.0.1:20000 --version v2"
        );
    }

    #[test]
    fn names_are_unique_and_the_victim_is_one_of_two() {
        let mut names: Vec<_> = WORKLOADS.iter().map(|workload| workload.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), WORKLOADS.len());
        assert_eq!(WORKLOADS.iter().filter(|workload| workload.services == ["inventory"]).count(), 2);
    }
}
