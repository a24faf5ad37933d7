//! What a workload may say of itself: from a registration and the proof that came with it to a `Workload` object, or a refusal. Pure.

use super::token::{Claims, is_label};
use super::{Peer, SYSTEM_NAMESPACE};
use crate::compile::endpoints::ALLOWED_SERVICES;
use crate::kinds::{Protocol, Workload, WorkloadPort, WorkloadSpec};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use weft_proto::v1;

/// Annotation of every workload that registered itself: its value is the identity that did.
pub const REGISTERED_BY: &str = "weft.mesh/registered-by";
const MAX_LABELS: usize = 64;
const MAX_PORTS: usize = 64;
const MAX_SERVICES: usize = 64;

/// Why a registration is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The proof does not cover what was asked for.
    #[error("{0}")]
    Denied(String),
    /// The request makes no sense, by field.
    #[error("{0}")]
    Invalid(String),
}

/// Whether a workload registered itself, rather than being written by an operator.
#[must_use]
pub fn is_registered(workload: &crate::world::Workload) -> bool {
    workload.annotations.get(REGISTERED_BY).is_some()
}

/// The object to be stored.
///
/// `claims` are those of the join token that was presented, `existing` is the object of that name. Without claims the workload must be
/// registered already by the same identity, and gets no more than it was allowed then.
///
/// # Errors
/// When the proof does not cover the request, or the request makes no sense.
pub fn workload(
    peer: &Peer,
    request: &v1::RegisterRequest,
    claims: Option<&Claims>,
    existing: Option<&Workload>,
) -> Result<Workload, Refusal> {
    if peer.namespace == SYSTEM_NAMESPACE {
        return Err(Refusal::Denied(format!("{} is the control plane's own namespace", peer.namespace)));
    }
    let allowed = allowed(peer, request, claims, existing)?;
    for service in &request.services {
        if !allowed.iter().any(|a| a == "*" || a == service) {
            let listed = if allowed.is_empty() { "no service".to_owned() } else { allowed.join(", ") };
            let text = format!(
                "services: {} may not register as an endpoint of {:?}; its join token allows {listed}",
                peer.identity, service
            );
            return Err(Refusal::Denied(text));
        }
    }
    let spec = spec(peer, request)?;
    let mut metadata = kube::core::ObjectMeta {
        name: Some(request.name.clone()),
        namespace: Some(peer.namespace.clone()),
        labels: Some(labels(request)?),
        ..Default::default()
    };
    metadata.annotations = Some(BTreeMap::from([
        (ALLOWED_SERVICES.to_owned(), allowed.join(",")),
        (REGISTERED_BY.to_owned(), peer.identity.clone()),
    ]));
    let mut workload = Workload::new(&request.name, spec);
    workload.metadata = metadata;
    Ok(workload)
}

fn allowed(
    peer: &Peer,
    request: &v1::RegisterRequest,
    claims: Option<&Claims>,
    existing: Option<&Workload>,
) -> Result<Vec<String>, Refusal> {
    if !is_label(&request.name) {
        return Err(Refusal::Invalid(format!("name: {:?} is not a DNS label", request.name)));
    }
    if let Some(existing) = existing {
        let annotations = existing.metadata.annotations.as_ref();
        if !annotations.is_some_and(|a| a.contains_key(REGISTERED_BY)) {
            let text = format!("name: workload {}/{} was written by an operator", peer.namespace, request.name);
            return Err(Refusal::Denied(text));
        }
        if existing.spec.service_account != peer.service_account {
            let text = format!(
                "name: workload {}/{} belongs to service account {:?}, not to {:?}",
                peer.namespace, request.name, existing.spec.service_account, peer.service_account
            );
            return Err(Refusal::Denied(text));
        }
    }
    if let Some(claims) = claims {
        if claims.namespace != peer.namespace || claims.service_account != peer.service_account {
            let text = format!(
                "the join token is for {}/{}, not for {}",
                claims.namespace, claims.service_account, peer.identity
            );
            return Err(Refusal::Denied(text));
        }
        return Ok(claims.services.clone());
    }
    let before = existing.and_then(|w| w.metadata.annotations.as_ref()?.get(ALLOWED_SERVICES));
    match before {
        Some(list) => Ok(list.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect()),
        None => {
            let text = format!("workload {}/{} is not registered: present a join token", peer.namespace, request.name);
            Err(Refusal::Denied(text))
        }
    }
}

fn spec(peer: &Peer, request: &v1::RegisterRequest) -> Result<WorkloadSpec, Refusal> {
    let invalid = |text: String| Err(Refusal::Invalid(text));
    if request.services.len() > MAX_SERVICES {
        return invalid(format!("services: more than {MAX_SERVICES}"));
    }
    if let Some(bad) = request.services.iter().find(|s| !is_label(s)) {
        return invalid(format!("services: {bad:?} is not a DNS label"));
    }
    let Ok(address) = request.address.parse::<IpAddr>() else {
        return invalid(format!("address: {:?} is no IP address", request.address));
    };
    if address.is_unspecified() || address.is_multicast() {
        return invalid(format!("address: {address} is no address that peers can reach"));
    }
    let Ok(tunnel) = request.tunnel.parse::<SocketAddr>() else {
        return invalid(format!("tunnel: {:?} is not <ip>:<port>", request.tunnel));
    };
    if tunnel.port() == 0 {
        return invalid("tunnel: the port is 0".to_owned());
    }
    if request.zone.len() > 63 {
        return invalid("zone: longer than 63 bytes".to_owned());
    }
    if request.ports.len() > MAX_PORTS {
        return invalid(format!("ports: more than {MAX_PORTS}"));
    }
    let mut ports = Vec::new();
    for (i, port) in request.ports.iter().enumerate() {
        ports.push(self::port(port).map_err(|text| Refusal::Invalid(format!("ports[{i}].{text}")))?);
        let number = ports[i].port;
        if ports[..i].iter().any(|p| p.port == number) {
            return invalid(format!("ports[{i}].port: {number} is listed twice"));
        }
        if SocketAddr::new(address, number) == tunnel {
            return invalid(format!("ports[{i}].port: {number} is the sidecar's own"));
        }
    }
    Ok(WorkloadSpec {
        service_account: peer.service_account.clone(),
        trust_domain: None,
        address: address.to_string(),
        tunnel: Some(tunnel.to_string()),
        zone: Some(request.zone.clone()).filter(|z| !z.is_empty()),
        services: request.services.clone(),
        weight: None,
        ports,
    })
}

fn port(port: &v1::WorkloadPort) -> Result<WorkloadPort, String> {
    let number = u16::try_from(port.port).ok().filter(|p| *p != 0);
    let number = number.ok_or_else(|| format!("port: {} is no port", port.port))?;
    if !port.name.is_empty() && !is_label(&port.name) {
        return Err(format!("name: {:?} is not a DNS label", port.name));
    }
    if !port.local.is_empty() && port.local.parse::<SocketAddr>().is_err() {
        return Err(format!("local: {:?} is not <ip>:<port>", port.local));
    }
    let protocol = match v1::Protocol::try_from(port.protocol) {
        Ok(v1::Protocol::Detect) => Protocol::Detect,
        Ok(v1::Protocol::Http1) => Protocol::Http,
        Ok(v1::Protocol::Http2) => Protocol::Http2,
        Ok(v1::Protocol::Grpc) => Protocol::Grpc,
        Ok(v1::Protocol::Tcp) => Protocol::Tcp,
        Err(_) => return Err(format!("protocol: {} is not known", port.protocol)),
    };
    Ok(WorkloadPort {
        name: Some(port.name.clone()).filter(|n| !n.is_empty()),
        port: number,
        protocol,
        local: Some(port.local.clone()).filter(|l| !l.is_empty()),
    })
}

fn labels(request: &v1::RegisterRequest) -> Result<BTreeMap<String, String>, Refusal> {
    if request.labels.len() > MAX_LABELS {
        return Err(Refusal::Invalid(format!("labels: more than {MAX_LABELS}")));
    }
    // The prefix says what the mesh vouches for; a workload cannot say that of itself.
    if let Some((key, _)) =
        request.labels.iter().find(|(k, v)| k.len() > 317 || v.len() > 63 || k.starts_with("weft.mesh/"))
    {
        return Err(Refusal::Invalid(format!("labels: {key:?} is too long or reserved")));
    }
    Ok(request.labels.clone().into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(account: &str) -> Peer {
        Peer {
            identity: format!("spiffe://weft.local/ns/shop/sa/{account}"),
            trust_domain: "weft.local".into(),
            namespace: "shop".into(),
            service_account: account.into(),
        }
    }

    fn claims(services: &[&str]) -> Claims {
        Claims {
            namespace: "shop".into(),
            service_account: "cart".into(),
            services: services.iter().map(|s| (*s).to_owned()).collect(),
            uses: None,
            expires_at: u64::MAX,
        }
    }

    fn request(services: &[&str]) -> v1::RegisterRequest {
        v1::RegisterRequest {
            name: "cart-1".into(),
            services: services.iter().map(|s| (*s).to_owned()).collect(),
            address: "192.0.2.7".into(),
            tunnel: "192.0.2.7:15008".into(),
            ports: vec![v1::WorkloadPort { name: "http".into(), port: 8080, ..Default::default() }],
            ..Default::default()
        }
    }

    #[test]
    fn carts_token_cannot_register_as_payments() {
        let refused = workload(&peer("cart"), &request(&["payments"]), Some(&claims(&["cart"])), None).unwrap_err();
        assert!(matches!(&refused, Refusal::Denied(text) if text.contains("payments")), "{refused}");
        let other = workload(&peer("payments"), &request(&["cart"]), Some(&claims(&["cart"])), None).unwrap_err();
        assert!(matches!(other, Refusal::Denied(_)), "a token is of no use to another identity");
        assert!(workload(&peer("cart"), &request(&["cart"]), Some(&claims(&["cart"])), None).is_ok());
    }

    #[test]
    fn an_svid_alone_renews_what_is_registered_and_no_more() {
        let cart = peer("cart");
        let first = workload(&cart, &request(&["cart"]), Some(&claims(&["cart"])), None).unwrap();
        assert!(workload(&cart, &request(&["cart"]), None, Some(&first)).is_ok());
        assert!(workload(&cart, &request(&["payments"]), None, Some(&first)).is_err());
        assert!(workload(&cart, &request(&["cart"]), None, None).is_err(), "nothing is registered under that name");
        assert!(workload(&peer("other"), &request(&["cart"]), None, Some(&first)).is_err());
        let mut written = first.clone();
        written.metadata.annotations = None;
        assert!(workload(&cart, &request(&["cart"]), Some(&claims(&["*"])), Some(&written)).is_err());
    }

    #[test]
    fn nonsense_is_refused_by_field() {
        let cart = peer("cart");
        type Spoil = fn(&mut v1::RegisterRequest);
        let broken: [(&str, Spoil); 7] = [
            ("name", |r| r.name = "Cart_1".into()),
            ("address", |r| r.address = "cart.shop".into()),
            ("tunnel", |r| r.tunnel = "192.0.2.7".into()),
            ("ports[0].port", |r| r.ports[0].port = 70_000),
            ("ports[0].port", |r| r.ports[0].port = 15_008),
            ("ports[0].local", |r| r.ports[0].local = "8080".into()),
            ("labels", |r| drop(r.labels.insert("weft.mesh/x".into(), String::new()))),
        ];
        for (field, spoil) in broken {
            let mut request = request(&["cart"]);
            spoil(&mut request);
            let error = workload(&cart, &request, Some(&claims(&["cart"])), None).unwrap_err();
            assert!(error.to_string().starts_with(field), "{field}: {error}");
        }
    }
}
