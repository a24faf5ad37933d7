//! Where programs run: beside their sidecar on loopback, or in a network namespace each. What differs is where a server binds and by
//! which name and port a client calls.

use std::cell::RefCell;
use weft_integration::rig::{Mesh, Output, Run, Sidecar, free_port};

/// A mesh, and the isolation of the programs in it.
pub struct Place {
    pub mesh: Mesh,
    netns: bool,
    /// Named TCP outbounds made so far, kept to give each client its own.
    clients: RefCell<usize>,
}

/// A service of the mesh as clients name it.
pub struct Service {
    pub name: &'static str,
    pub port: u16,
    /// Keeps program and sidecar running; `metrics` and the access log are asked through it.
    pub sidecar: Sidecar,
}

impl Place {
    pub fn explicit() -> Self {
        Self { mesh: Mesh::start(), netns: false, clients: RefCell::default() }
    }

    pub fn transparent() -> Self {
        Self { mesh: Mesh::start_in_namespace(), netns: true, clients: RefCell::default() }
    }

    fn flags(&self) -> &'static [&'static str] {
        if self.netns { &["--isolation", "netns"] } else { &["--isolation", "none"] }
    }

    /// Where a server binds, and on which port: in a namespace of its own it takes the service's.
    pub fn bind(&self, port: u16) -> (&'static str, u16) {
        if self.netns { ("0.0.0.0", port) } else { ("127.0.0.1", free_port()) }
    }

    /// Starts `command`, which listens on `listens`, as the service `name` on `port`, and waits until its sidecar is ready.
    pub fn serve(&self, name: &'static str, port: u16, listens: u16, protocol: &str, command: &[&str]) -> Service {
        let ports = [format!("{port}:{listens}{}{protocol}", if protocol.is_empty() { "" } else { ":" })];
        let sidecar = self.mesh.run_ready(&Run {
            name,
            services: &[name],
            ports: &ports,
            flags: self.flags(),
            command,
            ..Run::default()
        });
        Service { name, port, sidecar }
    }

    /// Runs an HTTP or gRPC client to its end: it finds the service by name, through `http_proxy` or by interception.
    pub fn call(&self, command: &[&str]) -> Output {
        self.mesh.call(&Run { flags: self.flags(), command, ..Run::default() })
    }

    /// Runs a client of a TCP service to its end. `command` gets host and port of the service as its client sees them.
    pub fn call_tcp(&self, service: &Service, command: impl Fn(&str, u16) -> Vec<String>) -> Output {
        *self.clients.borrow_mut() += 1;
        let (host, port) =
            if self.netns { (service.name.to_owned(), service.port) } else { ("127.0.0.1".to_owned(), free_port()) };
        let words = command(&host, port);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let outbound = format!("127.0.0.1:{port}={}:{}", service.name, service.port);
        let mut flags = self.flags().to_vec();
        if !self.netns {
            flags.extend(["--tcp", &outbound]);
        }
        self.mesh.call(&Run { flags: &flags, command: &words, ..Run::default() })
    }
}
