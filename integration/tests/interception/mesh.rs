//! The lab's pods of the mesh: rules and sidecars by what `weft inject` says, certificates of an authority of the test's own, and the
//! configuration that a control plane would send, as files.

use crate::clients::Protocol;
use crate::injected::{Injected, inject};
use crate::lab::{Lab, Machine};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;
use weft_certs::{Identity, MeshCa, SpiffeId};
use weft_integration::rig::{Namespace, Process, program, run, wait_for};

/// How calls to a pod are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Redirect,
    Tproxy,
}

impl Mode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirect => "REDIRECT",
            Self::Tproxy => "TPROXY",
        }
    }
}

/// Added to a port of the cart for the one that takes mTLS alone and leads to the same server.
pub const STRICT: u16 = 10_000;
/// Addresses of the services: the cart (its sidecar behind it), and the legacy.
pub const CART_VIPS: [&str; 2] = ["198.51.100.21", "2001:db8:80::21"];
pub const LEGACY_VIPS: [&str; 2] = ["198.51.100.22", "2001:db8:80::22"];

const DOMAIN: &str = "weft.local";

pub fn id(account: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/shop/sa/{account}")
}

/// A sidecar that runs; its access log is in its log.
pub struct Sidecar {
    pub process: Process,
}

impl Sidecar {
    /// The access log's lines of calls to the application.
    pub fn inbound(&self) -> Vec<Value> {
        let text = self.process.log();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["direction"] == "inbound").collect()
    }
}

/// What the tests of one mesh share.
pub struct Mesh {
    pub folder: tempfile::TempDir,
    authority: MeshCa,
    pub injected: Injected,
}

impl Mesh {
    pub fn new(mode: Mode) -> Self {
        let folder = tempfile::Builder::new().prefix("weft-lab-").tempdir().unwrap();
        crate::servers::open_to_all(folder.path());
        let authority = MeshCa::ephemeral(&DOMAIN.parse().unwrap(), SystemTime::now()).unwrap();
        let mode = format!("config.weft.mesh/interception-mode: {}", mode.name());
        let annotations = format!("{mode}, config.weft.mesh/access-log: stdout");
        Self { folder, authority, injected: inject("app", &annotations, "ports: []") }
    }

    /// Puts the rules of a pod in force and starts its sidecar, which is ready then.
    #[track_caller]
    pub fn join(&self, machine: &Machine, name: &str, resources: &str) -> Sidecar {
        self.join_with(machine, name, resources, &[])
    }

    /// The same with more flags.
    #[track_caller]
    pub fn join_with(&self, machine: &Machine, name: &str, resources: &str, more: &[&str]) -> Sidecar {
        run(&mut self.injected.install(&machine.space)).ok();
        let at = |suffix: &str| self.folder.path().join(format!("{name}.{suffix}"));
        let (file, certificates) = (at("yaml"), at("certificates"));
        std::fs::write(&file, resources).unwrap();
        let spiffe = SpiffeId::workload(&DOMAIN.parse().unwrap(), "shop", name).unwrap();
        let svid = self.authority.issue(&spiffe, None, SystemTime::now()).unwrap();
        Identity::new(svid, self.authority.bundle()).write_files(&certificates).unwrap();
        let owner = self.injected.user().to_string();
        run(Command::new("chown").args(["-R", &owner]).arg(&certificates)).ok();
        let more = [&["--resources", text(&file), "--certificates", text(&certificates)], more].concat();
        let mut command = self.injected.sidecar(&machine.space, name, &machine.v4.to_string(), &more);
        let mut process = Process::start(self.folder.path(), name, &mut command);
        wait_for("the sidecar is ready", || {
            process.assert_running();
            get(&machine.space, "http://127.0.0.1:15021/ready").map(drop)
        });
        Sidecar { process }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A GET by curl; what it says where it fails.
pub fn get(namespace: &Namespace, url: &str) -> Result<String, String> {
    let words = ["-sS", "-g", "--fail", "--noproxy", "*", "--max-time", "10", url];
    let output = run(&mut namespace.command(program("curl"), &words));
    if output.code == 0 { Ok(output.out) } else { Err(output.err) }
}

const SETTINGS: &str = "settings: {trustDomain: weft.local, domain: cluster.local}\n";

/// What the caller's sidecar knows: the cart by either family behind its sidecar, and the legacy without one.
pub fn caller_resources(lab: &Lab) -> String {
    let mut services = String::from("services:\n");
    let mut endpoints = String::from("endpoints:\n");
    for (family, v4) in [("4", true), ("6", false)] {
        let index = usize::from(!v4);
        for (name, vip, machine) in [("cart", CART_VIPS[index], &lab.cart), ("legacy", LEGACY_VIPS[index], &lab.legacy)]
        {
            let service = format!("shop/{name}{family}");
            let _ = writeln!(services, "- name: {service}\n  hostnames: [{name}{family}]\n  vips: ['{vip}']\n  ports:");
            for protocol in Protocol::ALL {
                let (port, declared) = (protocol.port(), protocol.declared());
                let _ = writeln!(
                    services,
                    "  - {{port: {port}, protocol: {declared}, frontend: {{requestTimeout: 20s}}, backend: {{slices: ['{service}:{port}/0']}}}}"
                );
                let _ = writeln!(
                    endpoints,
                    "- name: {service}:{port}/0\n  endpoints:\n  - {}",
                    endpoint(name, machine, v4, port)
                );
            }
        }
    }
    format!(
        "{SETTINGS}inbound: {{workload: shop/caller, identity: '{}', ports: []}}\n{services}{endpoints}",
        id("caller")
    )
}

fn endpoint(name: &str, machine: &Machine, v4: bool, port: u16) -> String {
    let address = machine.ip(v4);
    if name == "legacy" {
        return format!("{{uid: shop/{name}-1, address: '{address}', port: {port}, health: HEALTH_READY}}");
    }
    let (tunnel, strict) = (std::net::SocketAddr::new(address, 15_008), port + STRICT);
    format!(
        "{{uid: shop/{name}-1, address: '{address}', port: {strict}, tunnel: '{tunnel}', identity: '{}', \
         serverName: '{strict}.cart.shop.svc.cluster.local', health: HEALTH_READY}}",
        id(name)
    )
}

/// What the cart's sidecar knows: each port for everybody, and once more for mTLS alone.
pub fn cart_resources(lab: &Lab) -> String {
    let mut out = format!("{SETTINGS}inbound:\n  workload: shop/cart\n  identity: '{}'\n  ports:\n", id("cart"));
    for protocol in Protocol::ALL {
        let (port, strict, declared) = (protocol.port(), protocol.port() + STRICT, protocol.declared());
        let local = std::net::SocketAddr::new(lab.cart.ip(true), port);
        let _ = writeln!(
            out,
            "  - {{port: {port}, local: '{local}', protocol: {declared}, service: shop/cart, tls: TLS_MODE_PERMISSIVE}}"
        );
        let authorities = format!(
            "['{}', '{}']",
            std::net::SocketAddr::new(lab.cart.ip(true), strict),
            std::net::SocketAddr::new(lab.cart.ip(false), strict)
        );
        let _ = writeln!(
            out,
            "  - {{port: {strict}, local: '{local}', protocol: {declared}, service: shop/cart, tls: TLS_MODE_STRICT, \
             authorities: {authorities}, serverNames: ['{strict}.cart.shop.svc.cluster.local']}}"
        );
    }
    out
}
