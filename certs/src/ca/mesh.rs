//! The authority of the mesh: a root that stays in the data directory, an intermediate that signs, and SVIDs for workloads. Or, with an
//! existing PKI, an intermediate from files whose root is elsewhere. Whether an asker may have an id is decided before it comes here.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::rotation::{Files, Rotation, Stage};
use super::{ROOT_VALIDITY, Signer, authority, store, validity};
use crate::bundle::TrustBundle;
use crate::error::{Error, unix_time};
use crate::fingerprint::Fingerprint;
use crate::identity::Svid;
use crate::key::KeyPair;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::tls::verify;
use crate::{files, leaf, pem};

/// Validity of an SVID when nobody asks for less; also the most that is given unless [`MeshCa::with_max_ttl`] says otherwise.
pub const SVID_VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// Validity of the intermediate; a new one signs when a third of it is left.
const INTERMEDIATE_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// A request of one key is a few hundred bytes.
const MAX_CSR_LEN: usize = 16 << 10;

/// What an authority gave out.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Who it is for.
    pub id: SpiffeId,
    /// Leaf first, then intermediates; without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Begin of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

/// An intermediate from an existing PKI, as PEM texts.
#[derive(Debug, Clone, Copy)]
pub struct Pki<'a> {
    /// The intermediate's certificate, then those above it, without the root.
    pub chain: &'a str,
    /// The intermediate's private key.
    pub key: &'a str,
    /// The roots of the trust domain; the chain must lead to one of them.
    pub roots: &'a str,
}

/// The certificate authority of one trust domain. Shared by reference; signing takes no lock.
pub struct MeshCa {
    domain: TrustDomain,
    max_ttl: Duration,
    trust: ArcSwap<Trust>,
    issuing: ArcSwap<Issuing>,
    // Held by an authority that has its root: not by one of an existing PKI.
    keeper: Option<Mutex<Keeper>>,
}

/// Whom sidecars are to trust, and what shows that it is right.
struct Trust {
    bundle: TrustBundle,
    // The root to which the chain leads: one of the bundle's.
    root: CertificateDer<'static>,
    // What follows the chain where all that the asker knows is a root's key: that root, and on the way there, while there are two, the
    // one that signs, signed by the other.
    above: Vec<CertificateDer<'static>>,
    rotation: Option<Rotation>,
}

struct Issuing {
    signer: Signer,
    // From the signer's certificate upwards, without the root.
    chain: Vec<CertificateDer<'static>>,
}

/// The roots with their keys.
struct Keeper {
    root: Signer,
    // The new root while there is one.
    next: Option<Signer>,
    // None for an ephemeral authority.
    files: Option<Files>,
}

impl Keeper {
    /// The root that signs, and the other one that is trusted.
    fn signing(&self, rotation: Option<Rotation>) -> (&Signer, Option<&Signer>) {
        match (&self.next, rotation.map(|r| r.stage)) {
            (Some(next), Some(Stage::Reissuing)) => (next, Some(&self.root)),
            (next, _) => (&self.root, next.as_ref()),
        }
    }

    fn trust(&self, domain: &TrustDomain, rotation: Option<Rotation>, now: SystemTime) -> Result<Trust, Error> {
        let (signing, other) = self.signing(rotation);
        let roots = [Some(&self.root), self.next.as_ref()].into_iter().flatten().map(|root| root.certificate.clone());
        let above = match other.filter(|_| rotation.is_some_and(|r| r.stage != Stage::Publishing)) {
            None => vec![signing.certificate.clone()],
            Some(other) => {
                let key = leaf::parse(&signing.certificate)?.public_key().raw.to_vec();
                vec![other.sign(&mut root(domain, now)?, &key)?, other.certificate.clone()]
            }
        };
        let bundle = TrustBundle::new(domain.clone(), roots)?;
        Ok(Trust { bundle, root: signing.certificate.clone(), above, rotation })
    }
}

impl MeshCa {
    /// Opens the authority in a directory (0700), and makes root and intermediate when it is empty. Files: `root.pem` and `issuing.pem`,
    /// each a key with its certificate (0600), and while the root is rotated `next.pem` and `rotation`.
    pub fn open(directory: &Path, domain: &TrustDomain, now: SystemTime) -> Result<Self, Error> {
        files::private_dir(directory)?;
        let files = Files::of(directory);
        let root = match Signer::load(&files.root())? {
            Some(root) => root,
            None => {
                let (root, key) = new_root(domain, now)?;
                store(&files.root(), &root, &key)?;
                root
            }
        };
        check_domain(&files.root(), &root, domain)?;
        let (rotation, next) = files.resume(&root)?.unzip();
        let keeper = Keeper { root, next, files: Some(files.clone()) };
        let signing = keeper.signing(rotation).0;
        let issuing = match Signer::load(&files.issuing())? {
            // One that another root signed is of no use.
            Some(signer) if !signer.is_ageing(now) && is_signed_by(&signer, signing, now) => signer,
            _ => new_intermediate(domain, signing, Some(&files.issuing()), now)?,
        };
        Self::assemble(domain, keeper, rotation, issuing, now)
    }

    /// An authority that lives in memory alone: for tests and one-off meshes.
    pub fn ephemeral(domain: &TrustDomain, now: SystemTime) -> Result<Self, Error> {
        let (root, _) = new_root(domain, now)?;
        let issuing = new_intermediate(domain, &root, None, now)?;
        Self::assemble(domain, Keeper { root, next: None, files: None }, None, issuing, now)
    }

    fn assemble(
        domain: &TrustDomain,
        keeper: Keeper,
        rotation: Option<Rotation>,
        signer: Signer,
        now: SystemTime,
    ) -> Result<Self, Error> {
        Ok(Self {
            domain: domain.clone(),
            max_ttl: SVID_VALIDITY,
            trust: ArcSwap::from_pointee(keeper.trust(domain, rotation, now)?),
            issuing: ArcSwap::from_pointee(Issuing { chain: vec![signer.certificate.clone()], signer }),
            keeper: Some(Mutex::new(keeper)),
        })
    }

    /// Signs with an intermediate of an existing PKI. Proves with a throw-away leaf that what it signs is accepted by peers that hold
    /// the given roots, so a wrong file is told now and not by every sidecar.
    pub fn from_pki(domain: &TrustDomain, pki: Pki<'_>, now: SystemTime) -> Result<Self, Error> {
        let chain = pem::certificates("intermediate", pki.chain)?;
        let bundle = TrustBundle::from_pem(domain.clone(), pki.roots)?;
        let Some(first) = chain.first().cloned() else {
            return Err(Error::configuration("intermediate", "holds no certificate"));
        };
        let signer = Signer::new("intermediate", first, KeyPair::from_pem("intermediate's key", pki.key)?)?;
        let root = signer.certificate.clone();
        let ca = Self {
            domain: domain.clone(),
            max_ttl: SVID_VALIDITY,
            issuing: ArcSwap::from_pointee(Issuing { signer, chain }),
            trust: ArcSwap::from_pointee(Trust { bundle, root, above: Vec::new(), rotation: None }),
            keeper: None,
        };
        let root = ca.prove(now)?;
        let bundle = ca.bundle();
        ca.trust.store(Arc::new(Trust { bundle, above: vec![root.clone()], root, rotation: None }));
        Ok(ca)
    }

    /// Finds the root that vouches for what is signed here.
    fn prove(&self, now: SystemTime) -> Result<CertificateDer<'static>, Error> {
        let id = SpiffeId::workload(&self.domain, "weft-system", "self-test")?;
        let issued = self.sign_public_key(&KeyPair::generate()?.public_der(), &id, None, now)?;
        let mut reason = String::from("there is none");
        for root in self.bundle().roots() {
            let only = TrustBundle::new(self.domain.clone(), [root.clone()])?.into();
            let accepted = |side| verify::chain(&only, &id, &issued.chain, unix_time(now), side);
            match accepted(verify::Side::Client).and_then(|()| accepted(verify::Side::Server)) {
                Ok(()) => return Ok(root.clone()),
                Err(e) => reason = e.to_string(),
            }
        }
        Err(Error::configuration("intermediate", format!("does not lead to any of the given roots: {reason}")))
    }

    /// Caps the validity of SVIDs, and makes the cap their default; 24 h otherwise.
    #[must_use]
    pub fn with_max_ttl(mut self, max_ttl: Duration) -> Self {
        self.max_ttl = max_ttl;
        self
    }

    /// The trust domain whose ids are signed here.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The roots of this trust domain, as sidecars are to hold them.
    pub fn bundle(&self) -> TrustBundle {
        self.trust.load().bundle.clone()
    }

    /// The root to which the chains of this authority lead.
    pub fn root(&self) -> CertificateDer<'static> {
        self.trust.load().root.clone()
    }

    /// The fingerprint of the root's public key, as join tokens carry it.
    pub fn root_fingerprint(&self) -> Result<Fingerprint, Error> {
        Fingerprint::of_public_key(&self.trust.load().root)
    }

    /// The rotation of the root that is under way.
    pub fn rotation(&self) -> Option<Rotation> {
        self.trust.load().rotation
    }

    /// Begins to rotate the root: makes a new one, which is trusted from now on and signs nothing yet. Refused while a rotation is under
    /// way, and where the root is that of an existing PKI.
    pub fn rotate(&self, now: SystemTime) -> Result<Rotation, Error> {
        let mut keeper = self.keeper()?;
        if self.rotation().is_some() {
            return Err(Error::Request("the root is being rotated already".into()));
        }
        let (next, key) = new_root(&self.domain, now)?;
        let rotation = Rotation::begin(&keeper.root, &next)?;
        if let Some(files) = &keeper.files {
            store(&files.next(), &next, &key)?;
            files.write(rotation)?;
        }
        keeper.next = Some(next);
        self.trust.store(Arc::new(keeper.trust(&self.domain, Some(rotation), now)?));
        Ok(rotation)
    }

    /// The next step of the rotation under way; `None`: that was the last. Only for who knows that every sidecar has taken this one.
    pub fn advance(&self, now: SystemTime) -> Result<Option<Rotation>, Error> {
        let mut keeper = self.keeper()?;
        let rotation = self.rotation().ok_or_else(not_rotated)?;
        match rotation.stage {
            Stage::Publishing => self.sign_with_the_other(&keeper, rotation.to(Stage::Reissuing, now), now).map(Some),
            Stage::Reissuing => {
                if let Some(files) = &keeper.files {
                    files.finish()?;
                }
                if let Some(next) = keeper.next.take() {
                    keeper.root = next;
                }
                self.end(&keeper, now)
            }
            Stage::Returning => {
                if let Some(files) = &keeper.files {
                    files.give_up()?;
                }
                keeper.next = None;
                self.end(&keeper, now)
            }
        }
    }

    /// Breaks the rotation under way off: `None`: at once, since nothing was signed by the new root; otherwise what it signed is reissued
    /// by the old one first.
    pub fn abort(&self, now: SystemTime) -> Result<Option<Rotation>, Error> {
        let mut keeper = self.keeper()?;
        let rotation = self.rotation().ok_or_else(not_rotated)?;
        match rotation.stage {
            Stage::Publishing => {
                if let Some(files) = &keeper.files {
                    files.give_up()?;
                }
                keeper.next = None;
                self.end(&keeper, now)
            }
            Stage::Reissuing => self.sign_with_the_other(&keeper, rotation.to(Stage::Returning, now), now).map(Some),
            Stage::Returning => Ok(Some(rotation)),
        }
    }

    fn keeper(&self) -> Result<MutexGuard<'_, Keeper>, Error> {
        let keeper = self.keeper.as_ref().ok_or_else(|| {
            Error::Request("the root is that of an existing PKI: rotate it there, and give the new files here".into())
        })?;
        Ok(keeper.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn sign_with_the_other(&self, keeper: &Keeper, rotation: Rotation, now: SystemTime) -> Result<Rotation, Error> {
        let trust = keeper.trust(&self.domain, Some(rotation), now)?;
        let path = keeper.files.as_ref().map(Files::issuing);
        let signer = new_intermediate(&self.domain, keeper.signing(Some(rotation)).0, path.as_deref(), now)?;
        if let Some(files) = &keeper.files {
            files.write(rotation)?;
        }
        self.trust.store(Arc::new(trust));
        self.issuing.store(Arc::new(Issuing { chain: vec![signer.certificate.clone()], signer }));
        Ok(rotation)
    }

    fn end(&self, keeper: &Keeper, now: SystemTime) -> Result<Option<Rotation>, Error> {
        self.trust.store(Arc::new(keeper.trust(&self.domain, None, now)?));
        Ok(None)
    }

    /// Issues an SVID over the public key of a certificate signing request (PKCS#10, DER). Its signature is checked, which proves that
    /// the asker has the key; of what it asks for, nothing is read. `ttl` above the cap is cut to it.
    pub fn sign(&self, csr: &[u8], id: &SpiffeId, ttl: Option<Duration>, now: SystemTime) -> Result<Issued, Error> {
        self.sign_public_key(&public_key(csr)?, id, ttl, now)
    }

    /// Issues an SVID with a key made here: for a process that is its own authority, and for files.
    pub fn issue(&self, id: &SpiffeId, ttl: Option<Duration>, now: SystemTime) -> Result<Svid, Error> {
        let key = KeyPair::generate()?;
        Svid::new(self.sign_public_key(&key.public_der(), id, ttl, now)?.chain, &key)
    }

    /// The control plane's own SVID. Its chain ends with the root, so that a sidecar which holds only the root's fingerprint can verify
    /// it and take the root from it; while the root is rotated, the fingerprint of either.
    pub fn issue_control_plane(&self, now: SystemTime) -> Result<Svid, Error> {
        let key = KeyPair::generate()?;
        let id = SpiffeId::control_plane(&self.domain);
        let mut chain = self.sign_public_key(&key.public_der(), &id, None, now)?.chain;
        chain.extend(self.trust.load().above.iter().cloned());
        Svid::new(chain, &key)
    }

    fn sign_public_key(
        &self,
        public_key: &[u8],
        id: &SpiffeId,
        ttl: Option<Duration>,
        now: SystemTime,
    ) -> Result<Issued, Error> {
        if id.trust_domain() != &self.domain {
            let text = format!("{id} is not of trust domain \"{}\", the only one signed here", self.domain);
            return Err(Error::Request(text));
        }
        if id.path().is_empty() {
            return Err(Error::Request(format!("{id} names no workload")));
        }
        let ttl = ttl.unwrap_or(self.max_ttl).min(self.max_ttl);
        if ttl < Duration::from_secs(1) {
            return Err(Error::Request("a certificate of less than a second was asked for".into()));
        }
        let issuing = self.issuing(now)?;
        let mut params = svid(id, ttl, now)?;
        let leaf = issuing.signer.sign(&mut params, public_key)?;
        let (not_before, not_after) = (params.not_before.into(), params.not_after.into());
        if not_after <= now {
            return Err(Error::configuration("issuing certificate", "has expired"));
        }
        let chain = std::iter::once(leaf).chain(issuing.chain.iter().cloned()).collect();
        Ok(Issued { id: id.clone(), chain, not_before, not_after })
    }

    /// The intermediate that signs now: a new one when the present one ages and the root is here.
    fn issuing(&self, now: SystemTime) -> Result<Arc<Issuing>, Error> {
        let current = self.issuing.load_full();
        let Some(keeper) = self.keeper.as_ref().filter(|_| current.signer.is_ageing(now)) else {
            return Ok(current);
        };
        let keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.issuing.load_full();
        if !current.signer.is_ageing(now) {
            return Ok(current);
        }
        let path = keeper.files.as_ref().map(Files::issuing);
        let signer = new_intermediate(&self.domain, keeper.signing(self.rotation()).0, path.as_deref(), now)?;
        let fresh = Arc::new(Issuing { chain: vec![signer.certificate.clone()], signer });
        self.issuing.store(fresh.clone());
        Ok(fresh)
    }
}

fn not_rotated() -> Error {
    Error::Request("the root is not being rotated".into())
}

impl fmt::Debug for MeshCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshCa({})", self.domain)
    }
}

/// The leaf: the authority decides every field (X509-SVID §4 and its appendix A).
fn svid(id: &SpiffeId, ttl: Duration, now: SystemTime) -> Result<CertificateParams, Error> {
    let mut params = validity(now, ttl);
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// The public key of a request whose signature proves possession of the private one. Nothing else of it is looked at.
fn public_key(csr: &[u8]) -> Result<Vec<u8>, Error> {
    let bad = |reason: String| Error::Request(format!("certificate signing request {reason}"));
    if csr.len() > MAX_CSR_LEN {
        return Err(bad(format!("of {} bytes; at most {MAX_CSR_LEN} are read", csr.len())));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(csr).map_err(|e| bad(format!("is not PKCS#10 in DER: {e}")))?;
    if !rest.is_empty() {
        return Err(bad("has bytes after its end".into()));
    }
    let der = request.certification_request_info.subject_pki.raw;
    let key = rcgen::SubjectPublicKeyInfo::from_der(der).map_err(|e| bad(format!("has an unusable key: {e}")))?;
    // Strong, and cheap in a handshake; RSA is neither here.
    if ![&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519].contains(&key.algorithm()) {
        return Err(bad("has a key that is neither ECDSA P-256, ECDSA P-384 nor Ed25519".into()));
    }
    request.verify_signature().map_err(|_| bad("is not signed by its own key".into()))?;
    Ok(der.to_vec())
}

fn new_root(domain: &TrustDomain, now: SystemTime) -> Result<(Signer, KeyPair), Error> {
    Signer::root(root(domain, now)?)
}

fn root(domain: &TrustDomain, now: SystemTime) -> Result<CertificateParams, Error> {
    let mut params = authority(&format!("{domain} root"), 1, now, ROOT_VALIDITY);
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    Ok(params)
}

fn new_intermediate(
    domain: &TrustDomain,
    root: &Signer,
    path: Option<&Path>,
    now: SystemTime,
) -> Result<Signer, Error> {
    let mut params = authority(&format!("{domain} issuing"), 0, now, INTERMEDIATE_VALIDITY);
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
    let (signer, key) = root.intermediate(params)?;
    if let Some(path) = path {
        store(path, &signer, &key)?;
    }
    Ok(signer)
}

/// A root that was made for another domain must not sign for this one: its SVIDs would be refused everywhere.
fn check_domain(path: &Path, root: &Signer, domain: &TrustDomain) -> Result<(), Error> {
    let parsed = leaf::parse(&root.certificate)?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let wanted = format!("spiffe://{domain}");
    let named = names.iter().flat_map(|n| &n.value.general_names).any(|name| match name {
        x509_parser::extensions::GeneralName::URI(uri) => *uri == wanted,
        _ => false,
    });
    if named {
        return Ok(());
    }
    let reason = format!("is the root \"{}\", not one of trust domain \"{domain}\"", parsed.subject());
    Err(Error::configuration(path.display().to_string(), reason))
}

fn is_signed_by(signer: &Signer, root: &Signer, now: SystemTime) -> bool {
    let check = || {
        let parsed = leaf::parse(&signer.certificate).ok()?;
        let above = leaf::parse(&root.certificate).ok()?;
        let valid = signer.not_before <= now && now < signer.not_after && parsed.issuer() == above.subject();
        (valid && parsed.verify_signature(Some(above.public_key())).is_ok()).then_some(())
    };
    check().is_some()
}

#[cfg(test)]
#[path = "mesh_tests.rs"]
mod tests;
