//! An intermediate of an existing PKI as the authority's key: what files give is checked whole before it is put to use, and sidecars trust
//! the roots of before and of now while one takes the place of the other. Reading the files, and noticing that they changed, is the control
//! plane's business.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::issue::leaf;
use super::lists::Issuing;
use super::{Signer, Vault};
use crate::bundle::TrustBundle;
use crate::error::{Error, unix_time};
use crate::key::KeyPair;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::tls::verify;
use crate::{files, pem};

/// An intermediate from an existing PKI, as PEM texts.
#[derive(Debug, Clone, Copy)]
pub struct Pki<'a> {
    /// The intermediate's certificate, then those above it, without the root.
    pub chain: &'a str,
    /// The intermediate's private key; PKCS#8 that is encrypted is opened with the vault.
    pub key: &'a str,
    /// The roots of the trust domain; the chain must lead to one of them.
    pub roots: &'a str,
}

/// What became of files that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// They say what was said before.
    Nothing,
    /// Another intermediate signs, under the same root: what the one before signed is to be reissued.
    Issuer,
    /// Other roots: a rotation has begun, in which both are trusted until every sidecar has a new certificate.
    Roots(super::Rotation),
}

/// An intermediate that was checked, with the roots that it came with.
pub(super) struct Given {
    pub issuing: Arc<Issuing>,
    pub bundle: TrustBundle,
    /// The one of them to which the chain leads.
    pub root: CertificateDer<'static>,
}

/// The one in use, and the one that is to be.
pub(super) struct Present {
    pub now: Given,
    pub next: Option<Given>,
    /// Roots that an earlier run told, and that sidecars may still need.
    pub before: Option<TrustBundle>,
    /// Where the roots that are told are remembered.
    told: Option<PathBuf>,
}

impl Given {
    /// Checks all of it, and proves with a throw-away leaf that what it signs is accepted by peers that hold the roots: a wrong file is told
    /// now, and not by every sidecar.
    pub fn check(domain: &TrustDomain, pki: Pki<'_>, vault: &Vault, now: SystemTime) -> Result<Self, Error> {
        let bad = |reason: String| Error::configuration("intermediate", reason);
        let chain = pem::certificates("intermediate", pki.chain)?;
        let bundle = TrustBundle::from_pem(domain.clone(), pki.roots)?;
        let first = chain.first().cloned().ok_or_else(|| bad("holds no certificate".into()))?;
        let key = vault.open("intermediate's key", pki.key)?;
        let signer = Signer::new("intermediate", first, KeyPair::from_pem("intermediate's key", &key)?)?;
        if signer.not_after <= now {
            return Err(bad(format!("expired at {}", crate::error::rfc3339(signer.not_after))));
        }
        for der in &chain {
            let certificate = crate::leaf::parse(der)?;
            if !admits(&certificate, domain) {
                let text = format!(
                    "\"{}\" may not vouch for trust domain \"{domain}\": its name constraints",
                    certificate.subject()
                );
                return Err(bad(text));
            }
        }
        let issuing = Issuing::new(signer, chain)?;
        let root = prove(&issuing, &bundle, domain, now)?;
        Ok(Self { issuing: Arc::new(issuing), bundle, root })
    }

    fn has_roots_of(&self, other: &Self) -> bool {
        let has = |a: &TrustBundle, b: &TrustBundle| a.roots().iter().all(|root| b.roots().contains(root));
        has(&self.bundle, &other.bundle) && has(&other.bundle, &self.bundle)
    }

    /// Whether putting this in the place of `other` asks for no root that sidecars do not know yet.
    pub fn is_under_the_root_of(&self, other: &Self) -> bool {
        self.root == other.root || self.has_roots_of(other)
    }

    pub fn is_same(&self, other: &Self) -> bool {
        self.issuing.chain == other.issuing.chain && self.has_roots_of(other)
    }
}

impl Present {
    /// For the first time in this run. Roots that an earlier run told and that are not among those of now are trusted until every sidecar
    /// has a certificate of now.
    pub fn new(now: Given, told: Option<PathBuf>) -> Result<Self, Error> {
        let text = told.as_deref().map(files::read_if_exists).transpose()?.flatten();
        let before = text.map(|text| TrustBundle::from_pem(now.bundle.trust_domain().clone(), &text)).transpose()?;
        let before = before.filter(|before| before.roots().iter().any(|root| !now.bundle.roots().contains(root)));
        Ok(Self { now, next: None, before, told })
    }

    /// Every root that may be needed.
    pub fn bundle(&self) -> Result<TrustBundle, Error> {
        let mut bundle = self.now.bundle.clone();
        for other in [self.next.as_ref().map(|next| &next.bundle), self.before.as_ref()].into_iter().flatten() {
            bundle = bundle.with_roots_of(other)?;
        }
        Ok(bundle)
    }

    /// Remembers the roots that are told.
    pub fn remember(&self, bundle: &TrustBundle) -> Result<(), Error> {
        match &self.told {
            Some(path) => files::write_public(path, bundle.to_pem().as_bytes()),
            None => Ok(()),
        }
    }

    /// The root of before that is told first: what a rotation goes away from.
    pub fn old_root(&self) -> Option<&CertificateDer<'static>> {
        let before = self.before.as_ref()?;
        before.roots().iter().find(|root| !self.now.bundle.roots().contains(root))
    }
}

/// Where an authority of given keys remembers what it told.
pub(super) fn told(directory: &Path) -> PathBuf {
    directory.join("told-roots.pem")
}

/// Finds the root that vouches for what is signed.
fn prove(
    issuing: &Issuing,
    bundle: &TrustBundle,
    domain: &TrustDomain,
    now: SystemTime,
) -> Result<CertificateDer<'static>, Error> {
    let id = SpiffeId::workload(domain, "weft-system", "self-test")?;
    let issued =
        leaf(issuing, domain, &KeyPair::generate()?.public_der(), &id, std::time::Duration::from_secs(60), now)?;
    let mut reason = String::from("there is none");
    for root in bundle.roots() {
        let only = TrustBundle::new(domain.clone(), [root.clone()])?.into();
        let accepted = |side| verify::chain(&only, &id, &issued.chain, unix_time(now), side);
        match accepted(verify::Side::Client).and_then(|()| accepted(verify::Side::Server)) {
            Ok(()) => return Ok(root.clone()),
            Err(e) => reason = e.to_string(),
        }
    }
    Err(Error::configuration("intermediate", format!("does not lead to any of the given roots: {reason}")))
}

/// Whether the URI constraints of a CA, if it has any, leave it the ids of a trust domain: they speak of the host (RFC 5280 §4.2.1.10).
fn admits(certificate: &X509Certificate<'_>, domain: &TrustDomain) -> bool {
    let Ok(Some(constraints)) = certificate.name_constraints() else { return true };
    let hosts = |subtrees: &Option<Vec<x509_parser::extensions::GeneralSubtree<'_>>>| {
        let all = subtrees.iter().flatten().filter_map(|subtree| match &subtree.base {
            GeneralName::URI(host) => Some((*host).to_owned()),
            _ => None,
        });
        all.collect::<Vec<_>>()
    };
    let within = |constraint: &String| match constraint.strip_prefix('.') {
        Some(_) => domain.as_str().ends_with(constraint.as_str()),
        None => domain.as_str() == constraint.as_str(),
    };
    let permitted = hosts(&constraints.value.permitted_subtrees);
    let excluded = hosts(&constraints.value.excluded_subtrees);
    (permitted.is_empty() || permitted.iter().any(within)) && !excluded.iter().any(within)
}

#[cfg(test)]
#[path = "pki_tests.rs"]
mod tests;
