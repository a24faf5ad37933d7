//! How things are called on the wire: services, slices, host names, server names, identities. Nowhere else are these put together.

/// `namespace/name`.
#[must_use]
pub fn namespaced(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// `namespace/~workload`: the service of a workload's own address.
#[must_use]
pub fn workload_service(namespace: &str, workload: &str) -> String {
    format!("{namespace}/~{workload}")
}

/// The same, from the uid of a workload (`namespace/name`).
#[must_use]
pub fn of_workload(uid: &str) -> String {
    let (namespace, name) = uid.split_once('/').unwrap_or(("", uid));
    workload_service(namespace, name)
}

/// `namespace/name:port/slice`.
#[must_use]
pub fn slice(service: &str, port: u16, slice: usize) -> String {
    format!("{service}:{port}/{slice}")
}

/// Names under which clients of any namespace reach the service.
#[must_use]
pub fn hosts(namespace: &str, name: &str, domain: &str) -> Vec<String> {
    vec![format!("{name}.{namespace}"), format!("{name}.{namespace}.svc"), format!("{name}.{namespace}.svc.{domain}")]
}

/// SNI of a native stream to a port of a service.
#[must_use]
pub fn service_sni(namespace: &str, name: &str, port: u16, domain: &str) -> String {
    format!("{port}.{name}.{namespace}.svc.{domain}")
}

/// SNI of a native stream to a workload's own address.
#[must_use]
pub fn workload_sni(namespace: &str, name: &str, port: u16, domain: &str) -> String {
    format!("{port}.{name}.{namespace}.workload.{domain}")
}

/// SPIFFE id of a service account.
#[must_use]
pub fn identity(trust_domain: &str, namespace: &str, service_account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
}
