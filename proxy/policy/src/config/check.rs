//! The checks that several resources share: names, ports, addresses, durations, identities.

/// `namespace/name`: two DNS labels or subdomains in lower case; the name may begin with `~` (a workload's own address).
pub fn is_namespaced_name(text: &str) -> bool {
    unimplemented!("{text}")
}

/// Trust domain, namespace and service account of `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`; `None` for any other shape.
pub fn identity_parts(identity: &str) -> Option<(&str, &str, &str)> {
    unimplemented!("{identity}")
}
