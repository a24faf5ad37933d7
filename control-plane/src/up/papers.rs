//! What the API is known by: its own authority, the kubeconfig of whoever installed it, the names in its certificate, the key of tokens.

use super::{ADMIN, Error, Settings, failed};
use crate::api;
use crate::store::{Lead, Store};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_certs::ca::{TokenKey, Vault};
use weft_certs::{ApiCa, files};

/// The control plane's Service in a cluster.
const SERVICE: &str = "weft-control";

pub(super) fn vault(settings: &Settings) -> Result<Vault, Error> {
    match &settings.ca_key_passphrase_file {
        Some(path) => Vault::from_file(path).map_err(failed("passphrase of the CA keys")),
        None => Ok(Vault::default()),
    }
}

/// Under which addresses and names the API is asked besides those of loopback: its own, those of the replicas that carry requests to it, and
/// those of its Service in a cluster.
pub(super) fn names(lead: &Lead, settings: &Settings) -> Vec<String> {
    let others = lead.replicas.iter().filter_map(|replica| Some(replica.at.as_ref()?.api.ip()));
    let all: std::collections::BTreeSet<IpAddr> = std::iter::once(settings.api.ip()).chain(others).collect();
    let service = settings.kubernetes.iter().flat_map(|kubernetes| {
        let name = format!("{SERVICE}.{}", kubernetes.namespace);
        [format!("{name}.svc"), format!("{name}.svc.{}", settings.domain), name]
    });
    all.into_iter().map(|ip| ip.to_string()).chain(service).collect()
}

/// The resource API under the names of those that carry requests to it.
pub(super) struct Named {
    pub store: Arc<dyn Store>,
    pub api: api::Api,
    pub authority: Arc<ApiCa>,
    pub settings: Settings,
}

impl Named {
    /// Follows who is there until `shutdown`.
    pub async fn follow(self, tls: watch::Sender<Arc<rustls::ServerConfig>>, shutdown: CancellationToken) {
        let mut lead = self.store.lead();
        let mut known = Vec::new();
        loop {
            let now = names(&lead.borrow_and_update(), &self.settings);
            if now != known {
                match api_tls(&self.authority, &now) {
                    Ok(config) => {
                        tls.send_replace(config);
                        self.api.is_called(now.clone());
                        known = now;
                    }
                    Err(error) => tracing::error!(%error, "the API has no certificate for all of its names"),
                }
            }
            tokio::select! {
                changed = lead.changed() => if changed.is_err() { return shutdown.cancelled().await },
                () = shutdown.cancelled() => return,
            }
        }
    }
}

/// The API's own CA, with the administrator's kubeconfig written.
pub(super) fn api_authority(dir: &Path, vault: &Vault, server: &str) -> Result<ApiCa, Error> {
    let now = SystemTime::now();
    let ca = ApiCa::open_locked(&dir.join("api"), vault, now).map_err(failed("API CA"))?;
    let admin = ca
        .issue_client("weft-admin", &[api::ADMIN_GROUP], Some(ADMIN), now)
        .map_err(failed("administrator's certificate"))?;
    let kubeconfig = api::access::kubeconfig(server, &ca.certificate_pem(), &admin.chain_pem(), &admin.key().to_pem());
    files::write_private(&dir.join("kubeconfig"), kubeconfig.as_bytes())
        .map_err(failed("cannot write the kubeconfig"))?;
    Ok(ca)
}

/// What the API presents where it is asked under these names.
pub(super) fn api_tls(ca: &ApiCa, called: &[String]) -> Result<Arc<rustls::ServerConfig>, Error> {
    let mut names = vec!["localhost", "127.0.0.1", "::1"];
    names.extend(called.iter().map(String::as_str).filter(|name| !matches!(*name, "127.0.0.1" | "::1")));
    let credential = ca.issue_server(&names, None, SystemTime::now()).map_err(failed("API server certificate"))?;
    let tls = weft_certs::tls::api_server_config(&credential, ca.certificate(), &[b"h2", b"http/1.1"]);
    tls.map_err(failed("API TLS"))
}

/// The authority over the tokens of service accounts, whose key is beside those of the API.
pub(super) fn accounts(dir: &Path, vault: &Vault, domain: &str) -> Result<api::accounts::Accounts, Error> {
    let key = TokenKey::open(&dir.join("api/tokens.pem"), vault).map_err(failed("key of tokens"))?;
    let issuer = format!("https://weft-control.weft-system.svc.{domain}");
    api::accounts::Accounts::new(key, issuer).map_err(failed("key of tokens"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Place, Replica};

    #[test]
    fn the_api_is_called_by_the_addresses_of_all_who_carry_requests_to_it() {
        let replica = |ip: [u8; 4]| {
            let at = std::net::SocketAddr::from((ip, 15080));
            Replica { name: at.to_string(), at: Some(Place { grpc: at, api: at }) }
        };
        let replicas = vec![replica([198, 51, 100, 12]), Replica::default(), replica([198, 51, 100, 10])];
        let lead = Lead { replicas, ..Lead::default() };
        let at = |ip: [u8; 4]| Settings { api: (ip, 15080).into(), ..Settings::default() };
        let all = names(&lead, &at([198, 51, 100, 10]));
        assert_eq!(all, ["198.51.100.10", "198.51.100.12"]);
        assert_eq!(names(&Lead::default(), &at([127, 0, 0, 1])), ["127.0.0.1"]);
    }
}
