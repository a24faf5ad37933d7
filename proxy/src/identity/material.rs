//! What a message of the SPIFFE Workload API says: one identity out of those that it offers, and everybody's bundles and lists. Pure; every
//! length is bounded by the message's and by `weft-certs`.

use weft_certs::{CertificateDer, Error, SpiffeId, Svid, TrustBundle, TrustBundles, TrustDomain};
use weft_proto::spiffe::{X509svid, X509svidResponse};

/// Which of several identities is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Exactly this one.
    pub id: Option<SpiffeId>,
    /// The first with this hint.
    pub hint: Option<String>,
    /// Namespace and service account that the identity must be of; without `id` and `hint` the first such is taken.
    pub workload: Option<(String, String)>,
}

/// An identity and whom its holder trusts.
#[derive(Debug)]
pub(super) struct Material {
    pub svid: Svid,
    pub bundles: TrustBundles,
}

/// Why a message cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// None of its identities is the one that is wanted.
    #[error("{wanted} is not among the identities that it gives: {offered}")]
    NotOffered { wanted: String, offered: String },
    /// All but the hint are mandatory: a message without one "SHOULD" be discarded (SPIFFE Workload API §5.5).
    #[error("{id:?} comes without {field}")]
    Missing { id: String, field: &'static str },
    /// The name beside the certificate is another than the one in it.
    #[error("the certificate that is said to be of {said:?} is of {is}")]
    Another { said: String, is: SpiffeId },
    /// The mesh knows workloads by namespace and service account.
    #[error(
        "{id} is not the identity of {namespace}/{account}, which would be spiffe://{domain}/ns/{namespace}/sa/{account}"
    )]
    OtherWorkload { id: SpiffeId, namespace: String, account: String, domain: TrustDomain },
    /// Something in it is no certificate, key or id.
    #[error("{0}")]
    Malformed(#[from] Error),
}

impl Wanted {
    fn is_of_workload(&self, id: &SpiffeId) -> bool {
        self.workload.as_ref().is_none_or(|(namespace, account)| {
            id.namespace() == Some(namespace) && id.service_account() == Some(account)
        })
    }

    fn choose<'m>(&self, offered: &'m [X509svid]) -> Result<&'m X509svid, Unusable> {
        let found = match (&self.id, &self.hint) {
            (Some(id), _) => offered.iter().find(|one| one.spiffe_id == id.as_str()),
            (None, Some(hint)) => offered.iter().find(|one| one.hint == *hint),
            (None, None) => {
                let fits = |one: &&X509svid| SpiffeId::new(&one.spiffe_id).is_ok_and(|id| self.is_of_workload(&id));
                offered.iter().find(fits).or(offered.first())
            }
        };
        found.ok_or_else(|| Unusable::NotOffered {
            wanted: match (&self.id, &self.hint) {
                (Some(id), _) => id.to_string(),
                (None, Some(hint)) => format!("one with the hint {hint:?}"),
                (None, None) => "any".to_owned(),
            },
            offered: match offered {
                [] => "none".to_owned(),
                some => some
                    .iter()
                    .map(|one| format!("{:?} (hint {:?})", one.spiffe_id, one.hint))
                    .collect::<Vec<_>>()
                    .join(", "),
            },
        })
    }
}

impl Material {
    /// Reads a message. A bundle of another domain or a revocation list that cannot be used is left out and said: without it the rest is as
    /// good as before.
    pub fn read(message: X509svidResponse, wanted: &Wanted) -> Result<Self, Unusable> {
        let chosen = wanted.choose(&message.svids)?;
        let fields = [
            ("a SPIFFE id", chosen.spiffe_id.is_empty()),
            ("a certificate", chosen.x509_svid.is_empty()),
            ("a key", chosen.x509_svid_key.is_empty()),
            ("a bundle", chosen.bundle.is_empty()),
        ];
        if let Some((field, _)) = fields.into_iter().find(|(_, missing)| *missing) {
            return Err(Unusable::Missing { id: chosen.spiffe_id.clone(), field });
        }
        let svid = Svid::from_der(&chosen.x509_svid, &chosen.x509_svid_key)?;
        let id = svid.id();
        if id.as_str() != chosen.spiffe_id {
            return Err(Unusable::Another { said: chosen.spiffe_id.clone(), is: id.clone() });
        }
        if let Some((namespace, account)) = wanted.workload.clone().filter(|_| !wanted.is_of_workload(id)) {
            return Err(Unusable::OtherWorkload {
                id: id.clone(),
                namespace,
                account,
                domain: id.trust_domain().clone(),
            });
        }
        let mut bundles =
            TrustBundles::from(TrustBundle::from_der_sequence(id.trust_domain().clone(), &chosen.bundle)?);
        for (name, der) in &message.federated_bundles {
            match federated(name, der) {
                // Its own bundle came with the certificate.
                Ok(bundle) if bundle.trust_domain() == id.trust_domain() => {}
                Ok(bundle) => bundles.insert(bundle),
                Err(error) => tracing::error!("{error}; the trust domain is left out"),
            }
        }
        // The lists come without their issuers, which are the roots or those above some certificate at hand.
        let chains = message.svids.iter().filter_map(|one| weft_certs::der::certificates("chain", &one.x509_svid).ok());
        let above: Vec<CertificateDer<'static>> = chains.flat_map(|chain| chain.into_iter().skip(1)).collect();
        for error in bundles.revoke(message.crl, &above) {
            tracing::error!("{error}; it is ignored, and what it names is not refused");
        }
        Ok(Self { svid, bundles })
    }
}

/// The bundle of another trust domain, named by its SPIFFE id.
fn federated(name: &str, der: &[u8]) -> Result<TrustBundle, Error> {
    let name = name.strip_prefix("spiffe://").unwrap_or(name);
    TrustBundle::from_der_sequence(name.trim_end_matches('/').parse()?, der)
}
