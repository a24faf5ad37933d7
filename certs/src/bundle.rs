//! Trust bundles: which roots may vouch for the ids of which trust domain. A root of one domain never vouches for another (SPIFFE
//! Trust Domain and Bundle §4), so the domain is part of every look-up. Where bundles come from, and when, is their holders' business.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::leaf;
use crate::pem;
use crate::revocation::RevocationList;
use crate::spiffe::TrustDomain;

/// Marks, in a file of several domains, whose roots follow.
const DOMAIN_MARK: &str = "# trust-domain: ";

/// The roots of one trust domain: at least one, each a CA certificate, without duplicates; and what was revoked below them.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustBundle {
    domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    // Invariant: one for each of `roots`, in their order.
    anchors: Vec<TrustAnchor<'static>>,
    revocations: Arc<[RevocationList]>,
}

impl TrustBundle {
    /// Takes the roots in DER, as the control plane pushes them.
    pub fn from_der<T: Into<Vec<u8>>>(domain: TrustDomain, roots: impl IntoIterator<Item = T>) -> Result<Self, Error> {
        let roots = roots.into_iter().map(|der| CertificateDer::from(der.into()));
        Self::new(domain, roots)
    }

    /// Takes DER certificates that stand one after another as roots.
    pub fn from_der_sequence(domain: TrustDomain, der: &[u8]) -> Result<Self, Error> {
        let roots = crate::der::certificates(&format!("trust bundle of \"{domain}\""), der)?;
        Self::new(domain, roots)
    }

    /// Takes every certificate of a PEM text as a root.
    pub fn from_pem(domain: TrustDomain, text: &str) -> Result<Self, Error> {
        let roots = pem::certificates(&format!("trust bundle of \"{domain}\""), text)?;
        Self::new(domain, roots)
    }

    pub(crate) fn new(
        domain: TrustDomain,
        candidates: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, Error> {
        let bad = |reason: String| Error::configuration(format!("trust bundle of \"{domain}\""), reason);
        let mut roots = Vec::new();
        let mut anchors = Vec::new();
        for root in candidates {
            if roots.contains(&root) {
                continue;
            }
            if roots.len() == pem::MAX_CERTIFICATES {
                return Err(bad(format!("holds more than {} roots", pem::MAX_CERTIFICATES)));
            }
            anchors.push(anchor(&root).map_err(&bad)?);
            roots.push(root);
        }
        if roots.is_empty() {
            return Err(bad("holds no root".into()));
        }
        Ok(Self { domain, roots, anchors, revocations: Arc::default() })
    }

    /// The domain whose ids these roots may vouch for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The roots, oldest first as they were given.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The roots in DER, as they travel.
    pub fn to_der(&self) -> Vec<Vec<u8>> {
        self.roots.iter().map(|root| root.to_vec()).collect()
    }

    /// The roots in PEM.
    pub fn to_pem(&self) -> String {
        pem::encode_certificates(&self.roots)
    }

    /// Adds the roots of another bundle of the same domain: the first step of a rotation.
    pub fn with_roots_of(&self, other: &TrustBundle) -> Result<Self, Error> {
        let both = Self::new(self.domain.clone(), self.roots.iter().chain(&other.roots).cloned())?;
        Ok(both.with_revocations(self.revocations.clone()))
    }

    /// The same with these lists instead of those that it has.
    #[must_use]
    pub fn with_revocations(self, revocations: impl Into<Arc<[RevocationList]>>) -> Self {
        Self { revocations: revocations.into(), ..self }
    }

    /// What was revoked, a list for each authority.
    pub fn revocations(&self) -> &[RevocationList] {
        &self.revocations
    }

    /// Whether the certificate with this serial number (big endian) of the issuer with this key was revoked.
    pub fn revokes(&self, issuer: &Fingerprint, serial: &[u8]) -> bool {
        self.revocations.iter().any(|list| list.names(issuer, serial))
    }

    /// Whether it vouches by the same roots as another.
    pub(crate) fn has_roots_of(&self, other: &TrustBundle) -> bool {
        self.roots == other.roots
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustBundle({}, {} roots)", self.domain, self.roots.len())
    }
}

fn anchor(root: &CertificateDer<'static>) -> Result<TrustAnchor<'static>, String> {
    let parsed = leaf::parse(root).map_err(|e| format!("holds something that is no certificate: {e}"))?;
    let ca = parsed.basic_constraints().ok().flatten().is_some_and(|c| c.value.ca);
    if !ca {
        return Err(format!("holds \"{}\", which is no CA certificate", parsed.subject()));
    }
    Ok(webpki::anchor_from_trusted_cert(root).map_err(|e| format!("holds an unusable root: {e}"))?.to_owned())
}

/// The bundles of every trust domain that is trusted: usually one, more with federation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustBundles(BTreeMap<TrustDomain, TrustBundle>);

impl TrustBundles {
    /// Nobody is trusted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces the bundle of its domain.
    pub fn insert(&mut self, bundle: TrustBundle) {
        self.0.insert(bundle.domain.clone(), bundle);
    }

    /// Stops trusting a domain; true if it was trusted.
    pub fn remove(&mut self, domain: &TrustDomain) -> bool {
        self.0.remove(domain).is_some()
    }

    /// The bundle of a domain.
    pub fn get(&self, domain: &TrustDomain) -> Option<&TrustBundle> {
        self.0.get(domain)
    }

    /// All bundles, by name of their domain.
    pub fn iter(&self) -> impl Iterator<Item = &TrustBundle> {
        self.0.values()
    }

    /// The domains that are trusted.
    pub fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.0.keys()
    }

    /// True when nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lists of every domain in PEM, each followed by the certificates of its issuer; empty where nothing is revoked.
    pub fn revocations_to_pem(&self) -> String {
        let lists = self.iter().flat_map(TrustBundle::revocations);
        lists.map(|list| pem::encode("X509 CRL", list.der()) + &pem::encode_certificates(list.issuer())).collect()
    }

    /// Puts lists (DER), of any of the domains, in the place of those that there are. Their issuers are found among the roots and
    /// `candidates`. Gives, for each list that no domain's root vouches for and that is left out, why.
    #[must_use = "what was left out does not hold"]
    pub fn revoke(&mut self, lists: Vec<Vec<u8>>, candidates: &[CertificateDer<'static>]) -> Vec<Error> {
        let mut all: BTreeMap<TrustDomain, Vec<RevocationList>> = BTreeMap::new();
        let mut refused = Vec::new();
        for der in lists {
            let mut why = Vec::new();
            let verified =
                self.iter().find_map(|bundle| match RevocationList::of_issuer_among(bundle, der.clone(), candidates) {
                    Ok(list) => Some((bundle.domain.clone(), list)),
                    Err(error) => {
                        why.push(error);
                        None
                    }
                });
            match verified {
                Some((domain, list)) => all.entry(domain).or_default().push(list),
                None => refused.extend(why.into_iter().next()),
            }
        }
        for bundle in self.0.values_mut() {
            bundle.revocations = all.remove(&bundle.domain).unwrap_or_default().into();
        }
        refused
    }

    /// One PEM text: the roots of each domain after a line `# trust-domain: <name>`.
    pub fn to_pem(&self) -> String {
        self.iter().map(|bundle| format!("{DOMAIN_MARK}{}\n{}", bundle.domain, bundle.to_pem())).collect()
    }

    /// Reads what [`Self::to_pem`] writes. Roots before the first mark belong to `default`, so that a plain `roots.pem` of one domain
    /// is read as well.
    pub fn from_pem(text: &str, default: &TrustDomain) -> Result<Self, Error> {
        let (head, sections) = split_sections(text)?;
        let mut bundles = Self::new();
        if sections.is_empty() || head.contains(pem::CERTIFICATE) {
            bundles.insert(TrustBundle::from_pem(default.clone(), head)?);
        }
        for (domain, body) in sections {
            let bundle = TrustBundle::from_pem(domain.clone(), body)?;
            match bundles.get(&domain) {
                Some(same) => bundles.insert(same.with_roots_of(&bundle)?),
                None => bundles.insert(bundle),
            }
        }
        Ok(bundles)
    }
}

impl From<TrustBundle> for TrustBundles {
    fn from(bundle: TrustBundle) -> Self {
        let mut all = Self::new();
        all.insert(bundle);
        all
    }
}

/// What follows each mark, with the domain it names.
type Sections<'a> = Vec<(TrustDomain, &'a str)>;

/// What precedes the first mark, and the sections after it.
pub(crate) fn split_sections(text: &str) -> Result<(&str, Sections<'_>), Error> {
    let mut starts = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if let Some(name) = line.strip_prefix(DOMAIN_MARK) {
            let domain = TrustDomain::new(name.trim())
                .map_err(|e| Error::configuration(format!("trust domain {:?}:", name.trim()), e.to_string()))?;
            starts.push((at, at + line.len(), domain));
        }
        at += line.len();
    }
    let head = &text[..starts.first().map_or(text.len(), |(start, ..)| *start)];
    let ends = starts.iter().skip(1).map(|(start, ..)| *start).chain([text.len()]).collect::<Vec<_>>();
    let sections = starts.into_iter().zip(ends).map(|((_, body, domain), end)| (domain, &text[body..end])).collect();
    Ok((head, sections))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::MeshCa;
    use std::time::SystemTime;

    fn bundle(domain: &str) -> TrustBundle {
        MeshCa::ephemeral(&domain.parse().unwrap(), SystemTime::now()).unwrap().bundle()
    }

    #[test]
    fn bundles_of_several_domains_come_back_from_pem() {
        let one = bundle("one.test");
        let mut all = TrustBundles::from(one.with_roots_of(&bundle("one.test")).unwrap());
        all.insert(bundle("two.test"));
        let back = TrustBundles::from_pem(&all.to_pem(), &"other.test".parse().unwrap()).unwrap();
        assert_eq!(back, all);
        assert_eq!(back.get(one.trust_domain()).unwrap().roots().len(), 2);
    }

    #[test]
    fn roots_without_a_mark_belong_to_the_default_domain() {
        let one = bundle("one.test");
        let back = TrustBundles::from_pem(&one.to_pem(), one.trust_domain()).unwrap();
        assert_eq!(back, one.into());
    }

    #[test]
    fn the_same_root_twice_counts_once() {
        let one = bundle("one.test");
        assert_eq!(one.with_roots_of(&one).unwrap(), one);
        assert_eq!(TrustBundle::from_der(one.trust_domain().clone(), one.to_der()).unwrap(), one);
    }

    #[test]
    fn a_bundle_without_roots_or_with_a_leaf_in_it_is_refused() {
        let domain: TrustDomain = "one.test".parse().unwrap();
        let none = TrustBundle::from_der(domain.clone(), Vec::<Vec<u8>>::new()).unwrap_err();
        assert_eq!(none.to_string(), "trust bundle of \"one.test\" holds no root");
        assert!(TrustBundle::from_der(domain.clone(), [vec![0u8; 10]]).is_err());
        let ca = MeshCa::ephemeral(&domain, SystemTime::now()).unwrap();
        let id = crate::SpiffeId::workload(&domain, "shop", "cart").unwrap();
        let svid = ca.issue(&id, None, SystemTime::now()).unwrap();
        let leaf = TrustBundle::from_der(domain, [svid.chain()[0].to_vec()]).unwrap_err().to_string();
        assert!(leaf.contains("no CA certificate"), "{leaf}");
    }
}
