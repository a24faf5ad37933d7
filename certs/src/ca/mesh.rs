//! The authority of the mesh: a root that stays in the data directory, an intermediate that signs, and SVIDs for workloads. Or, with an
//! existing PKI, an intermediate from files whose root is elsewhere. Whether an asker may have an id is decided before it comes here.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;

use super::issue::{self, Issued, SVID_VALIDITY, new_intermediate, new_root, public_key, root};
use super::lists::{Issuing, Lists, Revocation};
use super::pki::{self, Given, Pki, Present};
use super::rotation::{Files, Rotation, Stage};
use super::{Signer, Vault, store};
use crate::bundle::TrustBundle;
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::identity::Svid;
use crate::key::KeyPair;
use crate::revocation::RevocationList;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::{files, leaf};

/// The certificate authority of one trust domain. Shared by reference; signing takes no lock.
pub struct MeshCa {
    pub(super) domain: TrustDomain,
    max_ttl: Duration,
    pub(super) trust: ArcSwap<Trust>,
    pub(super) issuing: ArcSwap<Issuing>,
    // Locked after `keeper`.
    lists: Mutex<Lists>,
    // What `lists` has signed last.
    signed: ArcSwap<Vec<RevocationList>>,
    keeper: Mutex<Keeper>,
}

/// Whom sidecars are to trust, and what shows that it is right.
pub(super) struct Trust {
    pub bundle: TrustBundle,
    // The root to which the chain leads: one of the bundle's.
    pub root: CertificateDer<'static>,
    // What follows the chain where all that the asker knows is a root's key: that root, and on the way there, while there are two, the
    // one that signs, signed by the other.
    pub above: Vec<CertificateDer<'static>>,
    pub rotation: Option<Rotation>,
}

/// What an authority signs by.
pub(super) enum Keeper {
    /// Roots of its own.
    Own(Box<Own>),
    /// An intermediate of an existing PKI.
    Given(Box<Present>),
}

/// The roots with their keys.
pub(super) struct Own {
    pub root: Signer,
    // The new root while there is one.
    pub next: Option<Signer>,
    // None for an ephemeral authority.
    pub files: Option<Files>,
}

impl Own {
    /// The root that signs, and the other one that is trusted.
    pub fn signing(&self, rotation: Option<Rotation>) -> (&Signer, Option<&Signer>) {
        match (&self.next, rotation.map(|r| r.stage)) {
            (Some(next), Some(Stage::Reissuing)) => (next, Some(&self.root)),
            (next, _) => (&self.root, next.as_ref()),
        }
    }

    pub fn trust(&self, domain: &TrustDomain, rotation: Option<Rotation>, now: SystemTime) -> Result<Trust, Error> {
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
        Self::open_locked(directory, &Vault::default(), domain, now)
    }

    /// The same with its keys in a vault.
    pub fn open_locked(directory: &Path, vault: &Vault, domain: &TrustDomain, now: SystemTime) -> Result<Self, Error> {
        files::private_dir(directory)?;
        let files = Files::of(directory, vault);
        let root = match Signer::load(&files.root(), vault)? {
            Some(root) => root,
            None => {
                let (root, key) = new_root(domain, now)?;
                store(&files.root(), vault, &root, &key)?;
                root
            }
        };
        check_domain(&files.root(), &root, domain)?;
        let (rotation, next) = files.resume(&root)?.unzip();
        let own = Own { root, next, files: Some(files.clone()) };
        let signing = own.signing(rotation).0;
        let issuing = match Signer::load(&files.issuing(), vault)? {
            // One that another root signed is of no use.
            Some(signer) if !signer.is_ageing(now) && is_signed_by(&signer, signing, now) => signer,
            Some(signer) => {
                files.retire(&Fingerprint::of_public_key(&signer.certificate)?)?;
                new_intermediate(domain, signing, Some((&files.issuing(), vault)), now)?
            }
            None => new_intermediate(domain, signing, Some((&files.issuing(), vault)), now)?,
        };
        Self::assemble(domain, own, rotation, issuing, Lists::load(directory, vault), now)
    }

    /// An authority that lives in memory alone: for tests and one-off meshes.
    pub fn ephemeral(domain: &TrustDomain, now: SystemTime) -> Result<Self, Error> {
        let (root, _) = new_root(domain, now)?;
        let issuing = new_intermediate(domain, &root, None, now)?;
        Self::assemble(domain, Own { root, next: None, files: None }, None, issuing, Lists::default(), now)
    }

    fn assemble(
        domain: &TrustDomain,
        own: Own,
        rotation: Option<Rotation>,
        signer: Signer,
        lists: Lists,
        now: SystemTime,
    ) -> Result<Self, Error> {
        Ok(Self {
            domain: domain.clone(),
            max_ttl: SVID_VALIDITY,
            trust: ArcSwap::from_pointee(own.trust(domain, rotation, now)?),
            issuing: ArcSwap::from_pointee(Issuing::below_root(signer)?),
            lists: Mutex::new(lists),
            signed: ArcSwap::default(),
            keeper: Mutex::new(Keeper::Own(Box::new(own))),
        })
    }

    /// Signs with an intermediate of an existing PKI, which is checked first. Lives in memory alone.
    pub fn from_pki(domain: &TrustDomain, pki: Pki<'_>, now: SystemTime) -> Result<Self, Error> {
        Self::given(domain, Given::check(domain, pki, &Vault::default(), now)?, None)
    }

    /// The same, and remembers in a directory (0700) whom it told to trust: a run that begins with other roots trusts those of before too
    /// until every sidecar has a certificate under the new ones.
    pub fn open_pki(
        directory: &Path,
        vault: &Vault,
        domain: &TrustDomain,
        pki: Pki<'_>,
        now: SystemTime,
    ) -> Result<Self, Error> {
        files::private_dir(directory)?;
        Self::given(domain, Given::check(domain, pki, vault, now)?, Some(pki::told(directory)))
    }

    fn given(domain: &TrustDomain, given: Given, told: Option<PathBuf>) -> Result<Self, Error> {
        let present = Present::new(given, told)?;
        let rotation = present.old_root().map(|old| Rotation::between(Stage::Reissuing, old, &present.now.root));
        let trust = present.trust(rotation.transpose()?)?;
        present.remember(&trust.bundle)?;
        Ok(Self {
            domain: domain.clone(),
            max_ttl: SVID_VALIDITY,
            issuing: ArcSwap::new(present.now.issuing.clone()),
            lists: Mutex::default(),
            signed: ArcSwap::default(),
            trust: ArcSwap::from_pointee(trust),
            keeper: Mutex::new(Keeper::Given(Box::new(present))),
        })
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

    /// The longest validity of an SVID.
    pub fn max_ttl(&self) -> Duration {
        self.max_ttl
    }

    /// The roots of this trust domain and what was revoked below them, as sidecars are to hold them.
    pub fn bundle(&self) -> TrustBundle {
        self.trust.load().bundle.clone().with_revocations(self.signed.load().as_slice())
    }

    /// From now on exactly these certificates are revoked: lists of them are signed, each by the key that signed the certificates.
    pub fn revoke(&self, revoked: Vec<Revocation>, now: SystemTime) -> Result<(), Error> {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut lists.revoked, revoked);
        let signed = self.sign_lists(&mut lists, now);
        if signed.is_err() {
            lists.revoked = before;
        }
        signed
    }

    fn sign_lists(&self, lists: &mut Lists, now: SystemTime) -> Result<(), Error> {
        let signed = lists.sign(&self.trust.load().bundle, &self.issuing.load_full(), now)?;
        self.signed.store(Arc::new(signed));
        Ok(())
    }

    /// After a change of what signs or of who is trusted: the lists follow, and so do the files of keys that sign no more.
    pub(super) fn follow(&self, replaced: Option<Arc<Issuing>>, files: Option<&Files>, now: SystemTime) {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(replaced) = replaced {
            lists.retire(replaced);
        }
        // It fails only where a new key may not sign lists; those that were signed before still hold.
        drop(self.sign_lists(&mut lists, now));
        if let Some(files) = files {
            lists.sweep(files.directory());
        }
    }

    /// The root to which the chains of this authority lead.
    pub fn root(&self) -> CertificateDer<'static> {
        self.trust.load().root.clone()
    }

    /// The fingerprint of the root's public key, as join tokens carry it.
    pub fn root_fingerprint(&self) -> Result<Fingerprint, Error> {
        Fingerprint::of_public_key(&self.trust.load().root)
    }

    /// The fingerprint of the key that signs.
    pub fn issuer(&self) -> Fingerprint {
        self.issuing.load().key
    }

    /// The rotation of the root that is under way.
    pub fn rotation(&self) -> Option<Rotation> {
        self.trust.load().rotation
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
        let ttl = ttl.unwrap_or(self.max_ttl).min(self.max_ttl);
        issue::leaf(&*self.issuing(now)?, &self.domain, public_key, id, ttl, now)
    }

    /// The intermediate that signs now: a new one when the present one ages and the root is here.
    fn issuing(&self, now: SystemTime) -> Result<Arc<Issuing>, Error> {
        let current = self.issuing.load_full();
        if !current.signer.is_ageing(now) {
            return Ok(current);
        }
        let keeper = self.keeper();
        let Keeper::Own(own) = &*keeper else { return Ok(current) };
        let current = self.issuing.load_full();
        if !current.signer.is_ageing(now) {
            return Ok(current);
        }
        let fresh = self.new_intermediate(own, self.rotation(), now)?;
        let replaced = self.issuing.swap(fresh.clone());
        self.follow(Some(replaced), own.files.as_ref(), now);
        Ok(fresh)
    }

    pub(super) fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An intermediate under the root that signs at a step; the present one is put out of its way.
    pub(super) fn new_intermediate(
        &self,
        own: &Own,
        rotation: Option<Rotation>,
        now: SystemTime,
    ) -> Result<Arc<Issuing>, Error> {
        let path = own.files.as_ref().map(|files| (files.issuing(), files.vault()));
        if let Some(files) = &own.files {
            files.retire(&self.issuing.load().key)?;
        }
        let place = path.as_ref().map(|(path, vault)| (path.as_path(), *vault));
        let signer = new_intermediate(&self.domain, own.signing(rotation).0, place, now)?;
        Ok(Arc::new(Issuing::below_root(signer)?))
    }
}

impl fmt::Debug for MeshCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshCa({})", self.domain)
    }
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
