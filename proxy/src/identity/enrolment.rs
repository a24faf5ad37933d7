//! How a workload proves who it is while it has no certificate, and whom it believes meanwhile: by a join token, which says both, or by
//! the service-account token that Kubernetes projects into its file system, beside a file with the roots of the mesh.
//!
//! What may change under a running sidecar is read when it is needed: kubelet replaces projected tokens long before they expire.

use super::{IdentityError, JoinToken};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weft_certs::tls::{ALPN_GRPC, bootstrap_client_config, rooted_client_config};
use weft_certs::{TrustBundle, TrustBundles, TrustDomain, files};
use weft_proto::v1::issue_certificate_request::Proof;

/// Longer files hold no token: a bound service-account token has about a thousand bytes.
const MAX_TOKEN: usize = 16 << 10;

/// One way to a first certificate.
#[derive(Clone, Debug)]
pub enum Enrolment {
    /// A secret that somebody made with `weft token create`.
    JoinToken(JoinToken),
    /// What the API server says of the workload's service account.
    ServiceAccount(ServiceAccount),
}

/// Files that are mounted into a pod.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    token: PathBuf,
    roots: PathBuf,
    domain: TrustDomain,
}

impl ServiceAccount {
    /// Proof from the file `token`, towards a control plane below the roots (PEM) of the file `roots`. Neither needs to exist yet.
    #[must_use]
    pub const fn new(token: PathBuf, roots: PathBuf, domain: TrustDomain) -> Self {
        Self { token, roots, domain }
    }

    fn proof(&self) -> Result<String, IdentityError> {
        let text = read(&self.token)?;
        let token = text.trim();
        if token.is_empty() || token.len() > MAX_TOKEN {
            let text = format!("{}: {} bytes are no service-account token", self.token.display(), token.len());
            return Err(IdentityError::Unavailable(text));
        }
        Ok(token.to_owned())
    }

    fn roots(&self) -> Result<TrustBundle, IdentityError> {
        let named = |reason: String| IdentityError::Unavailable(format!("{}: {reason}", self.roots.display()));
        let bundles = TrustBundles::from_pem(&read(&self.roots)?, &self.domain).map_err(|e| named(e.to_string()))?;
        bundles.get(&self.domain).cloned().ok_or_else(|| named(format!("holds no root of {}", self.domain)))
    }
}

/// A file that is not there yet may come: volumes are filled by others.
fn read(path: &Path) -> Result<String, IdentityError> {
    files::read(path).map_err(|error| IdentityError::Unavailable(error.to_string()))
}

impl Enrolment {
    /// The mesh.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::JoinToken(token) => &token.trust_domain,
            Self::ServiceAccount(account) => &account.domain,
        }
    }

    /// What a registration shows beside the certificate; a secret.
    #[must_use]
    pub fn join_token(&self) -> Option<&str> {
        match self {
            Self::JoinToken(token) => Some(token.secret()),
            Self::ServiceAccount(_) => None,
        }
    }

    /// What to show, and how to connect to the one who may see it.
    pub(super) fn begin(&self) -> Result<(Proof, Arc<rustls::ClientConfig>), IdentityError> {
        match self {
            Self::JoinToken(token) => {
                let tls = bootstrap_client_config(token.root, &token.trust_domain, &[ALPN_GRPC])?;
                Ok((Proof::JoinToken(token.secret().to_owned()), tls))
            }
            Self::ServiceAccount(account) => {
                let tls = rooted_client_config(account.roots()?, &[ALPN_GRPC])?;
                Ok((Proof::ServiceAccountToken(account.proof()?), tls))
            }
        }
    }
}

impl std::fmt::Display for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::JoinToken(_) => f.write_str("join token"),
            Self::ServiceAccount(account) => write!(f, "service-account token of {}", account.token.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_certs::ca::MeshCa;

    fn account(dir: &Path) -> ServiceAccount {
        ServiceAccount::new(dir.join("token"), dir.join("roots.pem"), "weft.test".parse().unwrap())
    }

    #[test]
    fn files_that_are_not_there_yet_are_waited_for_and_read_anew_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let account = account(dir.path());
        let enrolment = Enrolment::ServiceAccount(account.clone());
        let error = enrolment.begin().unwrap_err();
        assert!(matches!(&error, IdentityError::Unavailable(text) if text.contains("roots.pem")), "{error}");

        let ca = MeshCa::open(&dir.path().join("ca"), &"weft.test".parse().unwrap(), std::time::SystemTime::now());
        std::fs::write(dir.path().join("roots.pem"), ca.unwrap().bundle().to_pem()).unwrap();
        std::fs::write(dir.path().join("token"), "\n").unwrap();
        let error = enrolment.begin().unwrap_err();
        assert!(matches!(&error, IdentityError::Unavailable(text) if text.contains("0 bytes")), "{error}");

        for text in ["first", "second\n"] {
            std::fs::write(dir.path().join("token"), text).unwrap();
            let (proof, _) = enrolment.begin().unwrap();
            assert_eq!(proof, Proof::ServiceAccountToken(text.trim().to_owned()));
        }
        std::fs::write(dir.path().join("token"), "x".repeat(MAX_TOKEN + 1)).unwrap();
        assert!(enrolment.begin().is_err());
    }

    #[test]
    fn roots_of_another_mesh_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let ca = MeshCa::open(&dir.path().join("ca"), &"other.test".parse().unwrap(), std::time::SystemTime::now());
        let text = TrustBundles::from(ca.unwrap().bundle()).to_pem();
        std::fs::write(dir.path().join("roots.pem"), text).unwrap();
        std::fs::write(dir.path().join("token"), "one").unwrap();
        let error = Enrolment::ServiceAccount(account(dir.path())).begin().unwrap_err();
        assert!(error.to_string().contains("no root of weft.test"), "{error}");
    }
}
