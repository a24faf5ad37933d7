//! The authority of the mesh: a root that stays in the data directory, an intermediate that signs, and SVIDs for workloads. Or, with an
//! existing PKI, an intermediate from files whose root is elsewhere. Whether an asker may have an id is decided before it comes here.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;

use super::issue::{Issued, SVID_VALIDITY, new_intermediate, new_root, public_key, root, svid};
use super::lists::{Issuing, Lists, Revocation};
use super::rotation::{Files, Rotation, Stage, Step};
use super::{Signer, store};
use crate::bundle::TrustBundle;
use crate::error::{Error, unix_time};
use crate::fingerprint::Fingerprint;
use crate::identity::Svid;
use crate::key::KeyPair;
use crate::revocation::RevocationList;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::tls::verify;
use crate::{files, leaf, pem};

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
    // Locked after `keeper`.
    lists: Mutex<Lists>,
    // What `lists` has signed last.
    signed: ArcSwap<Vec<RevocationList>>,
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
            Some(signer) => {
                files.retire(&Fingerprint::of_public_key(&signer.certificate)?)?;
                new_intermediate(domain, signing, Some(&files.issuing()), now)?
            }
            None => new_intermediate(domain, signing, Some(&files.issuing()), now)?,
        };
        Self::assemble(domain, keeper, rotation, issuing, Lists::load(directory), now)
    }

    /// An authority that lives in memory alone: for tests and one-off meshes.
    pub fn ephemeral(domain: &TrustDomain, now: SystemTime) -> Result<Self, Error> {
        let (root, _) = new_root(domain, now)?;
        let issuing = new_intermediate(domain, &root, None, now)?;
        Self::assemble(domain, Keeper { root, next: None, files: None }, None, issuing, Lists::default(), now)
    }

    fn assemble(
        domain: &TrustDomain,
        keeper: Keeper,
        rotation: Option<Rotation>,
        signer: Signer,
        lists: Lists,
        now: SystemTime,
    ) -> Result<Self, Error> {
        Ok(Self {
            domain: domain.clone(),
            max_ttl: SVID_VALIDITY,
            trust: ArcSwap::from_pointee(keeper.trust(domain, rotation, now)?),
            issuing: ArcSwap::from_pointee(Issuing::below_root(signer)?),
            lists: Mutex::new(lists),
            signed: ArcSwap::default(),
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
            issuing: ArcSwap::from_pointee(Issuing::new(signer, chain)?),
            lists: Mutex::default(),
            signed: ArcSwap::default(),
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
    fn follow(&self, replaced: Option<Arc<Issuing>>, files: Option<&Files>, now: SystemTime) {
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

    /// The next step after `judged`, of which the asker knows that every sidecar has taken it. Nothing is done where the rotation is
    /// another by now: of that one nothing is known yet.
    pub fn advance(&self, judged: Rotation, now: SystemTime) -> Result<Step, Error> {
        let mut keeper = self.keeper()?;
        // Only who holds the lock changes it.
        let Some(rotation) = self.rotation().filter(|rotation| *rotation == judged) else { return Ok(Step::Passed) };
        match rotation.stage {
            Stage::Publishing => self.sign_with_the_other(&keeper, rotation.to(Stage::Reissuing, now), now),
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

    /// Breaks the rotation under way off: at once when nothing was signed by the new root; otherwise what it signed is reissued by the old
    /// one first.
    pub fn abort(&self, now: SystemTime) -> Result<Step, Error> {
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
            Stage::Reissuing => self.sign_with_the_other(&keeper, rotation.to(Stage::Returning, now), now),
            Stage::Returning => Ok(Step::At(rotation)),
        }
    }

    fn keeper(&self) -> Result<MutexGuard<'_, Keeper>, Error> {
        let keeper = self.keeper.as_ref().ok_or_else(|| {
            Error::Request("the root is that of an existing PKI: rotate it there, and give the new files here".into())
        })?;
        Ok(keeper.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn sign_with_the_other(&self, keeper: &Keeper, rotation: Rotation, now: SystemTime) -> Result<Step, Error> {
        let trust = keeper.trust(&self.domain, Some(rotation), now)?;
        let path = self.make_way(keeper)?;
        let signer = new_intermediate(&self.domain, keeper.signing(Some(rotation)).0, path.as_deref(), now)?;
        if let Some(files) = &keeper.files {
            files.write(rotation)?;
        }
        let fresh = Arc::new(Issuing::below_root(signer)?);
        self.trust.store(Arc::new(trust));
        let replaced = self.issuing.swap(fresh);
        self.follow(Some(replaced), keeper.files.as_ref(), now);
        Ok(Step::At(rotation))
    }

    fn end(&self, keeper: &Keeper, now: SystemTime) -> Result<Step, Error> {
        self.trust.store(Arc::new(keeper.trust(&self.domain, None, now)?));
        self.follow(None, keeper.files.as_ref(), now);
        Ok(Step::Over)
    }

    /// Where a new intermediate goes, the present one being out of the way.
    fn make_way(&self, keeper: &Keeper) -> Result<Option<std::path::PathBuf>, Error> {
        let Some(files) = &keeper.files else { return Ok(None) };
        files.retire(&self.issuing.load().key)?;
        Ok(Some(files.issuing()))
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
        let serial = params.serial_number.map(|serial| serial.to_bytes()).unwrap_or_default();
        Ok(Issued { id: id.clone(), chain, serial, issuer: issuing.key, not_before, not_after })
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
        let path = self.make_way(&keeper)?;
        let signer = new_intermediate(&self.domain, keeper.signing(self.rotation()).0, path.as_deref(), now)?;
        let fresh = Arc::new(Issuing::below_root(signer)?);
        let replaced = self.issuing.swap(fresh.clone());
        self.follow(Some(replaced), keeper.files.as_ref(), now);
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
