//! Who may talk to the API: what a client certificate says of its holder, which `Host` and `Origin` are ours, and the kubeconfig that
//! the operator gets.
//!
//! Keys and rustls configurations are made by `weft_certs`; what a name may do is the `door`'s.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, Method, Uri, header, uri::Authority};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use weft_certs::ca::ClientName;

use super::Caller;
use crate::rbac::User;

/// What a verified client certificate says of its holder.
pub fn caller(certificate: &CertificateDer<'_>) -> Caller {
    match ClientName::of(certificate) {
        Ok(name) => {
            let until = weft_certs::CertificateInfo::of(certificate).ok().map(|info| info.not_after);
            Caller::Known(Arc::new(User { until, ..User::new(name.user, name.groups) }))
        }
        Err(_) => Caller::Anonymous,
    }
}

/// The administrator's kubeconfig: one cluster, user and context named `weft`. All PEM.
pub fn kubeconfig(server: &str, ca: &str, certificate: &str, key: &str) -> String {
    kubeconfig_of("weft", server, ca, certificate, key)
}

/// A kubeconfig with one cluster and context named `weft`, and one user. All PEM.
pub fn kubeconfig_of(user: &str, server: &str, ca: &str, certificate: &str, key: &str) -> String {
    let encode = |pem: &str| STANDARD.encode(pem);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "weft", "cluster": { "server": server, "certificate-authority-data": encode(ca) } }],
        "users": [{ "name": user, "user": {
            "client-certificate-data": encode(certificate), "client-key-data": encode(key) } }],
        "contexts": [{ "name": "weft", "context": { "cluster": "weft", "user": user, "namespace": "default" } }],
        "current-context": "weft",
        "preferences": {},
    });
    // JSON is YAML; the pretty form is what people expect to read.
    format!("{config:#}\n")
}

/// Whether the request was meant for us: its `Host` is loopback, `localhost` or a configured name (a browser that was lured by a DNS
/// name that points here sends another), and its `Origin`, if any, is ours.
pub fn is_ours(uri: &Uri, headers: &HeaderMap, hosts: &[String]) -> bool {
    let hosts_headers = headers.get_all(header::HOST);
    let mut named = hosts_headers.iter().map(|h| h.to_str().ok()?.parse::<Authority>().ok());
    let authority = match (uri.authority().cloned(), named.next(), named.next()) {
        (None, Some(Some(host)), None) => host,
        (Some(uri), None, None) => uri,
        (Some(uri), Some(Some(host)), None) if uri == host => uri,
        _ => return false,
    };
    if !is_local(authority.host(), hosts) {
        return false;
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => true,
        (Some(origin), None) => origin.as_bytes() == format!("https://{authority}").as_bytes(),
        _ => false,
    }
}

fn is_local(host: &str, hosts: &[String]) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || hosts.iter().any(|h| h.eq_ignore_ascii_case(bare))
}

/// What everyone may ask for, known or not.
pub fn is_public(method: &Method, path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    (method == Method::GET || method == Method::HEAD) && matches!(path, "/livez" | "/readyz" | "/healthz" | "/version")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        is_ours(&Uri::from_static("/api"), &headers, &["mesh.example".into()])
    }

    #[test]
    fn a_name_that_was_made_to_point_here_is_refused() {
        for host in ["127.0.0.1:15080", "[::1]:15080", "localhost", "LOCALHOST:1", "mesh.example:15080"] {
            assert!(ours(host, None), "{host}");
        }
        for host in ["rebound.example:15080", "192.0.2.1", "127.0.0.1.rebound.example", ""] {
            assert!(!ours(host, None), "{host}");
        }
    }

    #[test]
    fn another_sites_origin_is_refused() {
        assert!(ours("127.0.0.1:15080", Some("https://127.0.0.1:15080")));
        for origin in ["https://rebound.example", "http://127.0.0.1:15080", "https://127.0.0.1:1", "null"] {
            assert!(!ours("127.0.0.1:15080", Some(origin)), "{origin}");
        }
    }

    #[test]
    fn only_health_and_version_are_public() {
        for path in ["/livez", "/readyz", "/healthz", "/version", "/version/"] {
            assert!(is_public(&Method::GET, path));
        }
        assert!(!is_public(&Method::POST, "/version"));
        for path in ["/", "/api", "/apis", "/openapi/v3", "/api/v1/namespaces", "/version/x", "//version"] {
            assert!(!is_public(&Method::GET, path), "{path}");
        }
    }
}
