//! A pair of sidecars, whatever starts them (this test's own executable, strace, valgrind), and how to know that their workers rest.
//! Shared with `integration/tests/budget`.

use crate::load::Hot;
use crate::mesh::{Mesh, Sidecar, eventually};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// Which of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Beside the client.
    Outbound,
    /// Beside the application.
    Inbound,
}

impl Side {
    /// As records and reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl Sidecar {
    /// Thread ids of its data workers.
    pub fn workers(&self) -> Vec<u32> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
        let all = threads.flatten().filter_map(|t| t.file_name().to_str()?.parse().ok());
        all.filter(|tid| {
            let name = std::fs::read_to_string(format!("/proc/{}/task/{tid}/comm", self.pid));
            name.is_ok_and(|name| name.starts_with("weft-worker"))
        })
        .collect()
    }

    /// What would change if a worker ran; `None` while one does.
    fn rest(&self) -> Option<Vec<String>> {
        let mut switches = Vec::new();
        for tid in self.workers() {
            let status = std::fs::read_to_string(format!("/proc/{}/task/{tid}/status", self.pid)).ok()?;
            if !status.contains("State:\tS") {
                return None;
            }
            switches.push(status.split_once("voluntary_ctxt_switches")?.1.to_owned());
        }
        (!switches.is_empty()).then_some(switches)
    }
}

/// Two sidecars with applications behind the second.
pub struct Pair {
    pub outbound: Sidecar,
    pub inbound: Sidecar,
}

impl Pair {
    /// Starts a pair in `folder` for these paths, each with its application. `launch` gives the command for a sidecar: its settings are
    /// in that file, and what it writes goes beside it. [`Hot::Plain`] goes alone: without a redirect a plaintext listener leads to the
    /// only port that there is.
    pub fn start(paths: &[(Hot, SocketAddr)], folder: &Path, launch: impl Fn(Side, &Path) -> Command) -> Self {
        let mesh = Mesh::new(folder);
        let start = |side: Side, account: &str, more: Value, resources: Value| {
            mesh.start(side.name(), account, &more, resources, |file| launch(side, file))
        };
        let server_name = |hot: Hot| format!("80.{}.shop.svc.cluster.local", hot.name());
        let ports = paths.iter().map(|(hot, at)| json!({
            "port": at.port(), "authorities": [at], "serverNames": [server_name(*hot)], "local": at, "protocol": hot.protocol(),
            "service": format!("shop/{}", hot.name()), "tls": if *hot == Hot::Plain { "TLS_MODE_PERMISSIVE" } else { "TLS_MODE_STRICT" },
        }));
        let served = json!({"workload": "shop/orders-1", "identity": mesh.id("orders").as_str(), "ports": ports.collect::<Value>()});
        let listen = json!({"inbound": {"tunnel": "127.0.0.1:0", "plaintext": "127.0.0.1:0"}});
        let inbound = start(Side::Inbound, "orders", listen, json!({ "inbound": served }));
        let services = paths.iter().map(|(hot, _)| json!({
            "name": format!("shop/{}", hot.name()), "hostnames": [hot.name()], "ports": [{"port": 80, "protocol": hot.protocol(),
                "frontend": {},
                // A sidecar under valgrind takes long over its first handshake, longer where the machine is busy.
                "backend": {"slices": [format!("shop/{}:80/0", hot.name())], "connectTimeout": "20s"}}],
        }));
        let slices = paths.iter().map(|(hot, at)| {
            let mut endpoint =
                json!({"uid": "shop/orders-1", "address": "127.0.0.1", "port": at.port(), "health": "HEALTH_READY", "weight": 1});
            if *hot == Hot::Plain {
                endpoint["port"] = inbound.address("plaintext").port().into();
            } else {
                endpoint["tunnel"] = inbound.ready["tunnel"].clone();
                endpoint["identity"] = mesh.id("orders").as_str().into();
                endpoint["serverName"] = server_name(*hot).into();
            }
            json!({"name": format!("shop/{}:80/0", hot.name()), "endpoints": [endpoint]})
        });
        let called = json!({"services": services.collect::<Value>(), "endpoints": slices.collect::<Value>()});
        let named = json!([{"listen": "127.0.0.1:0", "host": format!("{}:80", Hot::Tcp.name())}]);
        let listen = json!({"outbound": {"listen": "127.0.0.1:0", "tcp": named}});
        let outbound = start(Side::Outbound, "storefront", listen, called);
        Self { outbound, inbound }
    }

    /// Where the client of a path connects.
    pub fn at(&self, hot: Hot) -> SocketAddr {
        match hot {
            Hot::Tcp => self.outbound.ready["tcp"][0]["listen"].as_str().and_then(|text| text.parse().ok()).unwrap(),
            _ => self.outbound.address("outbound"),
        }
    }

    /// Each with its side.
    pub fn sides(&self) -> [(Side, &Sidecar); 2] {
        [(Side::Outbound, &self.outbound), (Side::Inbound, &self.inbound)]
    }

    /// Waits until no worker of either has run between two looks: what the last answer left to do is done.
    pub fn settle(&self) {
        let mut before = None;
        eventually("the workers rest", || {
            let now = self.outbound.rest().zip(self.inbound.rest());
            let rests = now.is_some() && now == before;
            before = now;
            rests.then_some(())
        });
    }
}
