//! `weft.v1.Service`: names, addresses and ports of a Service, one variant for each client namespace that sees it differently.

use super::members::Members;
use super::route::Attached;
use super::traffic::Policies;
use super::{Packed, Variants, names};
use crate::kinds::Service;
use crate::world::{Table, World};
use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_proto::v1;

/// The slices that exist, by name.
type Slices = Table<Packed<v1::Endpoints>>;

/// Ports on which servers usually speak first, or whose protocol nobody sniffs: opaque unless declared otherwise.
const OPAQUE: [u16; 8] = [25, 587, 3306, 4444, 5432, 6379, 9300, 11211];

/// Port numbers of a Service, TCP only.
pub fn ports(service: &Service) -> impl Iterator<Item = u16> {
    declared(service).filter_map(|p| u16::try_from(p.port).ok().filter(|n| *n != 0))
}

/// Ports of a Service, TCP only: the mesh carries nothing else.
pub fn declared(service: &Service) -> impl Iterator<Item = &ServicePort> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    ports.iter().filter(|p| p.protocol.as_deref().is_none_or(|p| p == "TCP"))
}

/// Whether the Service has no cluster address by its own wish.
#[must_use]
pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| s.cluster_ip.as_deref() == Some("None"))
}

/// Whether the Service only stands for a name outside.
#[must_use]
pub fn is_external_name(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| s.type_.as_deref() == Some("ExternalName"))
}

/// The host outside that a Service of type ExternalName stands for, in lower case; an IP address is one too. `None`: it is of another type, or
/// its name is one of the mesh's own, which is resolved as ever and skips the mesh's names, addresses and identities.
#[must_use]
pub fn external_host(service: &Service, domain: &str) -> Option<String> {
    let name = service.spec.as_ref().filter(|_| is_external_name(service))?.external_name.as_deref()?;
    let host = name.trim_end_matches('.').to_ascii_lowercase();
    let within = |parent: &str| host.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    (!host.is_empty() && !within("svc") && !within(domain)).then_some(host)
}

/// How the port is declared, by `appProtocol`, else by the prefix of its name; in lower case.
fn declaration(port: &ServicePort) -> Option<String> {
    let word = match &port.app_protocol {
        Some(protocol) => protocol.as_str(),
        None => port.name.as_deref()?.split('-').next()?,
    };
    Some(word.to_ascii_lowercase())
}

/// Whether the port is declared to speak TLS.
#[must_use]
pub fn declares_tls(port: &ServicePort) -> bool {
    declaration(port).is_some_and(|word| matches!(word.as_str(), "tls" | "https" | "kubernetes.io/wss"))
}

/// What the port is declared to speak, as far as the mesh is concerned.
#[must_use]
pub fn declared_protocol(port: &ServicePort) -> Option<v1::Protocol> {
    match declaration(port)?.as_str() {
        "http" | "http1" | "kubernetes.io/ws" => Some(v1::Protocol::Http1),
        "http2" | "h2c" | "kubernetes.io/h2c" => Some(v1::Protocol::Http2),
        "grpc" => Some(v1::Protocol::Grpc),
        "tcp" | "tls" | "https" | "kubernetes.io/wss" | "mysql" | "postgres" | "postgresql" | "redis" | "mongo"
        | "amqp" | "smtp" => Some(v1::Protocol::Tcp),
        _ => None,
    }
}

/// Compiles one Service; `None` for those that the mesh does not serve: of type ExternalName and without ports, or for a name of the mesh's
/// own.
#[must_use]
pub fn compile(
    world: &World,
    service: &Service,
    members: &Members,
    routes: &Attached,
    traffic: &Policies,
    slices: &Slices,
) -> Option<Variants<v1::Service>> {
    let (namespace, own) = (service.metadata.namespace.as_deref()?, service.metadata.name.as_deref()?);
    let external = external_host(service, &world.mesh.domain);
    if is_external_name(service) && (external.is_none() || ports(service).next().is_none()) {
        return None;
    }
    let name = names::namespaced(namespace, own);
    let spec = service.spec.as_ref();
    let addresses = spec.and_then(|s| s.cluster_ips.clone()).filter(|ips| !ips.is_empty());
    let addresses = addresses.or_else(|| spec.and_then(|s| s.cluster_ip.clone()).map(|ip| vec![ip]));
    let mut vips: Vec<String> =
        addresses.into_iter().flatten().filter(|ip| ip.parse::<std::net::IpAddr>().is_ok()).collect();
    vips.dedup();
    if external.is_some() {
        vips.clear();
    }

    let variant = |client: Option<&str>| {
        let mut hostnames = names::hosts(namespace, own, &world.mesh.domain);
        let mut vips = vips.clone();
        if client == Some(namespace) {
            hostnames.push(own.to_owned());
            // A namespace says for itself what a name outside means, and for nobody else.
            match &external {
                Some(host) if host.parse::<std::net::IpAddr>().is_ok() => vips.push(host.clone()),
                Some(host) if !hostnames.contains(host) => hostnames.push(host.clone()),
                _ => {}
            }
        }
        let ports = declared(service).filter_map(|port| {
            let number = u16::try_from(port.port).ok().filter(|n| *n != 0)?;
            let attached = routes.of(&name, number, client);
            let protocol = protocol(port, number, &name, members, attached);
            let part = traffic.of(&name, port.name.as_deref());
            Some(v1::ServicePort {
                port: number.into(),
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol.into(),
                frontend: Some(v1::Frontend {
                    routes: attached.iter().map(|r| (**r).clone()).collect(),
                    ..part.frontend
                }),
                backend: Some(v1::Backend {
                    slices: slice_names(slices, &name, number),
                    external: external
                        .clone()
                        .map(|host| v1::ExternalHost { host, port: outside(port, number).into() }),
                    ..part.backend
                }),
            })
        });
        let mut ports: Vec<_> = ports.collect();
        ports.sort_by_key(|p| p.port);
        ports.dedup_by_key(|p| p.port);
        v1::Service { name: name.clone(), hostnames, vips, ports }
    };
    let default = variant(None);
    let mut by_namespace = BTreeMap::new();
    for client in routes.namespaces_of(&name).chain(std::iter::once(namespace)) {
        by_namespace.insert(client.to_owned(), variant(Some(client)));
    }
    Some(Variants { default, by_namespace })
}

/// The port of the host outside: `targetPort` where it is a number, else the same.
fn outside(port: &ServicePort, number: u16) -> u16 {
    match &port.target_port {
        Some(IntOrString::Int(target)) => u16::try_from(*target).ok().filter(|t| *t != 0).unwrap_or(number),
        _ => number,
    }
}

fn protocol(
    port: &ServicePort,
    number: u16,
    service: &str,
    members: &Members,
    attached: &[Arc<v1::Route>],
) -> v1::Protocol {
    if let Some(declared) = declared_protocol(port) {
        return declared;
    }
    let has = |kind: v1::RouteKind| attached.iter().any(|r| r.kind == i32::from(kind));
    if has(v1::RouteKind::Grpc) {
        return v1::Protocol::Grpc;
    }
    // A route of connections says that nothing in them is to be read.
    if has(v1::RouteKind::Tls) || has(v1::RouteKind::Tcp) {
        return v1::Protocol::Tcp;
    }
    // What all endpoints declare holds for the port too.
    let mut spoken = members
        .of_service(service)
        .flat_map(|(_, targets)| targets)
        .filter(|t| t.service_port == number)
        .map(|t| t.protocol);
    let first = spoken.next().unwrap_or_default();
    // A route says that HTTP is spoken, whatever workloads say.
    let plausible = first != v1::Protocol::Tcp || attached.is_empty();
    if first != v1::Protocol::Detect && plausible && spoken.all(|p| p == first) {
        return first;
    }
    if attached.is_empty() && OPAQUE.contains(&number) { v1::Protocol::Tcp } else { v1::Protocol::Detect }
}

fn slice_names(slices: &Slices, service: &str, port: u16) -> Vec<String> {
    let prefix = format!("{service}:{port}/");
    let mut found: Vec<&Arc<str>> = slices.with_prefix(&prefix).map(|(name, _)| name).collect();
    found.sort_by_key(|n| n[prefix.len()..].parse::<usize>().unwrap_or(usize::MAX));
    found.into_iter().map(|name| name.to_string()).collect()
}
