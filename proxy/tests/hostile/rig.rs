//! What the suites have in common: sidecars of the build under test, the resources that connect them, and TLS as a member of the mesh.

use crate::mesh::{Mesh, Sidecar};
use crate::wire::Link;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use weft_certs::LiveIdentity;
use weft_certs::tls::ClientConfigs;

/// A sidecar beside `account` with these resources.
pub fn sidecar(mesh: &Mesh, name: &str, account: &str, more: &Value, resources: Value) -> Sidecar {
    mesh.start(name, account, more, resources, |file| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft-proxy"));
        command.env_clear().arg("--config").arg(file);
        command
    })
}

/// SNI under which the application at `at` is reached natively.
pub fn server_name(at: SocketAddr) -> String {
    format!("{}.orders.shop.svc.cluster.local", at.port())
}

/// What a sidecar in front of these applications serves to its peers.
pub fn serves(mesh: &Mesh, applications: &[SocketAddr], protocol: &str) -> Value {
    let ports = applications.iter().map(|at| {
        json!({"port": at.port(), "authorities": [at], "serverNames": [server_name(*at)], "local": at, "protocol": protocol,
            "service": "shop/orders", "tls": "TLS_MODE_STRICT"})
    });
    json!({"inbound": {"workload": "shop/orders-1", "identity": mesh.id("orders").as_str(), "ports": ports.collect::<Value>()}})
}

/// An endpoint without a sidecar.
pub fn bare(uid: &str, at: SocketAddr) -> Value {
    json!({"uid": format!("shop/{uid}"), "address": at.ip(), "port": at.port(), "health": "HEALTH_READY", "weight": 1})
}

/// An endpoint behind the sidecar of `orders` at `tunnel`.
pub fn meshed(mesh: &Mesh, uid: &str, at: SocketAddr, tunnel: SocketAddr) -> Value {
    let mut endpoint = bare(uid, at);
    endpoint["tunnel"] = json!(tunnel);
    endpoint["identity"] = mesh.id("orders").as_str().into();
    endpoint["serverName"] = server_name(at).into();
    endpoint
}

/// `shop/<name>` at port 80 with these endpoints: the service and its slice. Breakers are off: each call is to meet its endpoint.
pub fn service(name: &str, protocol: &str, frontend: &Value, endpoints: &[Value]) -> (Value, Value) {
    let slice = format!("shop/{name}:80/0");
    let backend = json!({"slices": [slice], "breaker": {"disabled": true}});
    let port = json!({"port": 80, "protocol": protocol, "frontend": frontend, "backend": backend});
    let service = json!({"name": format!("shop/{name}"), "hostnames": [name], "ports": [port]});
    (service, json!({"name": slice, "endpoints": endpoints}))
}

/// The resources of a caller of these services.
pub fn calls(services: Vec<(Value, Value)>) -> Value {
    let (services, endpoints): (Vec<_>, Vec<_>) = services.into_iter().unzip();
    json!({"services": services, "endpoints": endpoints})
}

/// A TLS connection of `storefront` to the sidecar of `orders`, as any member of the mesh can make one.
pub fn join(mesh: &Mesh, tunnel: SocketAddr, alpn: &'static [&'static [u8]], server_name: Option<&str>) -> Link {
    let live = LiveIdentity::new(mesh.identity("storefront"));
    let config = ClientConfigs::new(live).to_peer(&mesh.id("orders"), alpn).unwrap();
    let name = match server_name {
        Some(name) => rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap(),
        None => weft_certs::tls::unnamed(),
    };
    let session = rustls::ClientConnection::new(config, name).unwrap();
    Link::tls(session, TcpStream::connect(tunnel).unwrap())
}
