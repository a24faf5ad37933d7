//! The authority of the resource API: its server certificate (DNS names and addresses) and the client certificates of people and
//! programs, named as Kubernetes names them (common name = user, organisations = groups). No SVIDs here, and no roles: what a name may
//! do is the API's business.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use super::issue::public_key;
use super::{ROOT_VALIDITY, Signer, Vault, authority, host_name, store, validity};
use crate::error::Error;
use crate::key::KeyPair;
use crate::{files, leaf, pem};

/// Validity of what this authority signs when nobody says otherwise: a year, as kubeadm gives.
pub const CREDENTIAL_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// How a group stands among the alternative names of a client, since rcgen writes one organisation only. This authority alone makes them.
const GROUP: &str = "urn:weft:group:";

/// A certificate with its key: of a server or of a client.
pub struct Credential {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    not_after: SystemTime,
}

impl Credential {
    /// Reads a chain (leaf first) and its key from PEM; `what` names them in errors.
    pub fn from_pem(what: &str, chain: &str, key: &str) -> Result<Self, Error> {
        Self::new(what, pem::certificates(what, chain)?, KeyPair::from_pem(what, key)?)
    }

    fn new(what: &str, chain: Vec<CertificateDer<'static>>, key: KeyPair) -> Result<Self, Error> {
        let bad = |reason: &str| Error::configuration(what, reason);
        let first = chain.first().ok_or_else(|| bad("holds no certificate"))?;
        let parsed = leaf::parse(first).map_err(|e| bad(&format!("holds a bad certificate: {e}")))?;
        if parsed.public_key().raw != key.public_der() {
            return Err(bad("holds a private key that is not the certificate's"));
        }
        let not_after = leaf::system_time(parsed.validity().not_after);
        Ok(Self { chain, key, not_after })
    }

    /// Leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The chain in PEM.
    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(&self.chain)
    }

    /// The key. A secret.
    pub fn key(&self) -> &KeyPair {
        &self.key
    }

    /// End of validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({} certificates)", self.chain.len())
    }
}

/// Who a client certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientName {
    /// The user: the common name.
    pub user: String,
    /// The groups: the organisations.
    pub groups: Vec<String>,
}

impl ClientName {
    /// Reads the subject of a client certificate (DER) whose chain was verified before.
    pub fn of(certificate: &[u8]) -> Result<Self, Error> {
        let parsed = leaf::parse(certificate)?;
        let subject = parsed.subject();
        let users = subject.iter_common_name().filter_map(|n| n.as_str().ok()).collect::<Vec<_>>();
        let [user] = users[..] else {
            return Err(Error::Request(format!("client certificate \"{subject}\" has no single common name")));
        };
        let first = subject.iter_organization().filter_map(|n| n.as_str().ok()).map(str::to_owned);
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|extension| &extension.value.general_names);
        let more = names.filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(GROUP).map(str::to_owned),
            _ => None,
        });
        Ok(Self { user: user.to_owned(), groups: first.chain(more).collect() })
    }
}

/// The certificate authority of the resource API.
pub struct ApiCa(Signer);

impl ApiCa {
    /// Opens the authority in a directory (0700), and makes it when there is none: `ca.pem`, key and certificate (0600).
    pub fn open(directory: &Path, now: SystemTime) -> Result<Self, Error> {
        Self::open_locked(directory, &Vault::default(), now)
    }

    /// The same with its key in a vault.
    pub fn open_locked(directory: &Path, vault: &Vault, now: SystemTime) -> Result<Self, Error> {
        files::private_dir(directory)?;
        let path = directory.join("ca.pem");
        if let Some(signer) = Signer::load(&path, vault)? {
            return Ok(Self(signer));
        }
        let (signer, key) = new_root(now)?;
        store(&path, vault, &signer, &key)?;
        Ok(Self(signer))
    }

    /// An authority that lives in memory alone.
    pub fn ephemeral(now: SystemTime) -> Result<Self, Error> {
        Ok(Self(new_root(now)?.0))
    }

    /// The root: what clients of the API trust, and what the API trusts of them.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.0.certificate
    }

    /// The root in PEM, as a kubeconfig carries it.
    pub fn certificate_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.0.certificate)
    }

    /// A server certificate for DNS names and IP addresses, at least one.
    pub fn issue_server(&self, names: &[&str], ttl: Option<Duration>, now: SystemTime) -> Result<Credential, Error> {
        let Some(first) = names.first() else {
            return Err(Error::Request("a server certificate needs a name".into()));
        };
        let mut params = leaf_params(ExtendedKeyUsagePurpose::ServerAuth, ttl, now);
        params.distinguished_name.push(DnType::CommonName, *first);
        params.subject_alt_names = names.iter().map(|name| host_name(name)).collect::<Result<_, _>>()?;
        self.issue(params)
    }

    /// A client certificate for a user and its groups.
    pub fn issue_client(
        &self,
        user: &str,
        groups: &[&str],
        ttl: Option<Duration>,
        now: SystemTime,
    ) -> Result<Credential, Error> {
        self.issue(client_params(user, groups, ttl, now)?)
    }

    /// The same over the key of a certificate signing request (DER), of which only that is used: its PEM, and the end of its validity.
    pub fn sign_client(
        &self,
        csr: &[u8],
        user: &str,
        groups: &[&str],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<(String, SystemTime), Error> {
        let mut params = client_params(user, groups, Some(ttl), now)?;
        let certificate = self.0.sign(&mut params, &public_key(csr)?)?;
        Ok((pem::encode("CERTIFICATE", &certificate), params.not_after.into()))
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Credential, Error> {
        let key = KeyPair::generate()?;
        let certificate = self.0.sign(&mut params, &key.public_der())?;
        Credential::new("new certificate", vec![certificate], key)
    }
}

impl fmt::Debug for ApiCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiCa")
    }
}

fn client_params(
    user: &str,
    groups: &[&str],
    ttl: Option<Duration>,
    now: SystemTime,
) -> Result<CertificateParams, Error> {
    if user.is_empty() {
        return Err(Error::Request("a client certificate needs a user".into()));
    }
    let mut params = leaf_params(ExtendedKeyUsagePurpose::ClientAuth, ttl, now);
    if let Some((first, more)) = groups.split_first() {
        params.distinguished_name.push(DnType::OrganizationName, *first);
        for group in more {
            let name = format!("{GROUP}{group}").try_into();
            let name = name.map_err(|_| Error::Request(format!("group {group:?} is not ASCII")))?;
            params.subject_alt_names.push(SanType::URI(name));
        }
    }
    params.distinguished_name.push(DnType::CommonName, user);
    Ok(params)
}

fn leaf_params(usage: ExtendedKeyUsagePurpose, ttl: Option<Duration>, now: SystemTime) -> CertificateParams {
    let mut params = validity(now, ttl.unwrap_or(CREDENTIAL_VALIDITY));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params
}

fn new_root(now: SystemTime) -> Result<(Signer, KeyPair), Error> {
    Signer::root(authority("Weft API", 0, now, ROOT_VALIDITY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::CertificateInfo;

    #[test]
    fn the_authority_is_the_same_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let first = ApiCa::open(&dir.path().join("api"), now).unwrap();
        let again = ApiCa::open(&dir.path().join("api"), now).unwrap();
        assert_eq!(first.certificate(), again.certificate());
    }

    #[test]
    fn a_client_certificate_names_user_and_group() {
        let ca = ApiCa::ephemeral(SystemTime::now()).unwrap();
        let client = ca.issue_client("admin", &["system:masters"], None, SystemTime::now()).unwrap();
        let name = ClientName::of(&client.chain()[0]).unwrap();
        assert_eq!(name, ClientName { user: "admin".into(), groups: vec!["system:masters".into()] });
        let back = Credential::from_pem("kubeconfig", &client.chain_pem(), &client.key().to_pem()).unwrap();
        assert_eq!(back.chain(), client.chain());
    }

    #[test]
    fn a_client_certificate_over_a_request_carries_all_groups_and_its_end() {
        let now = SystemTime::now();
        let ca = ApiCa::ephemeral(now).unwrap();
        let key = KeyPair::generate().unwrap();
        let day = Duration::from_secs(24 * 3600);
        let (pem, end) =
            ca.sign_client(&key.csr().unwrap(), "ana", &["team", "shop:dev", "on-call"], day, now).unwrap();
        let client = Credential::from_pem("kubeconfig", &pem, &key.to_pem()).unwrap();
        assert_eq!(ClientName::of(&client.chain()[0]).unwrap().groups, ["team", "shop:dev", "on-call"]);
        assert_eq!(client.not_after(), end);
        assert!(end <= now + day && end > now + day - Duration::from_secs(2));
        assert!(ca.sign_client(b"no request", "ana", &[], day, now).is_err());
    }

    #[test]
    fn a_server_certificate_names_hosts_and_addresses() {
        let ca = ApiCa::ephemeral(SystemTime::now()).unwrap();
        let server = ca.issue_server(&["localhost", "127.0.0.1", "::1"], None, SystemTime::now()).unwrap();
        let info = CertificateInfo::of(&server.chain()[0]).unwrap();
        assert_eq!(info.dns_names, ["localhost"]);
        assert_eq!(info.ip_addresses, ["127.0.0.1", "::1"]);
        assert!(info.uris.is_empty() && !info.is_ca);
        assert!(ca.issue_server(&["not a name"], None, SystemTime::now()).is_err());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let ca = ApiCa::ephemeral(SystemTime::now()).unwrap();
        let one = ca.issue_client("a", &[], None, SystemTime::now()).unwrap();
        let other = ca.issue_client("b", &[], None, SystemTime::now()).unwrap();
        let error = Credential::from_pem("kubeconfig", &one.chain_pem(), &other.key().to_pem()).unwrap_err();
        assert_eq!(error.to_string(), "kubeconfig holds a private key that is not the certificate's");
    }
}
