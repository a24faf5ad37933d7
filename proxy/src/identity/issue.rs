//! Asking the control plane for a certificate: by enrolment over a connection that trusts its CA alone, or with the current certificate.

use super::Enrolment;
use crate::config::Workload;
use crate::discovery::link;
use crate::discovery::link::Route;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::timeout;
use tonic::transport::Channel;
use weft_certs::{Identity, KeyPair, LiveIdentity, SpiffeId, Svid, TrustBundles, TrustDomain};
use weft_policy::config;
use weft_proto::v1::identity_client::IdentityClient;
use weft_proto::v1::issue_certificate_request::Proof;
use weft_proto::v1::{IssueCertificateRequest, IssueCertificateResponse};

/// One request, connection included.
const ASK: Duration = Duration::from_secs(10);

/// How long to wait before asking again, in seconds: with RESOURCE_EXHAUSTED.
const RETRY_AFTER: &str = "retry-after";
/// Nobody is made to wait longer for the next attempt.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Trying again may help: the control plane is away or busy.
    #[error("{0}")]
    Unavailable(String),
    /// Too many were asked for: trying again helps after this time.
    #[error("{0}")]
    Limited(String, Duration),
    /// Trying again will not: the proof is refused, or something here is wrong.
    #[error("{0}")]
    Refused(String),
}

impl From<weft_certs::Error> for IdentityError {
    fn from(error: weft_certs::Error) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Gets certificates for one workload.
#[derive(Clone, Debug)]
pub struct Issuer {
    control: Route,
    namespace: String,
    account: String,
    enrolment: Option<Enrolment>,
    state_dir: PathBuf,
}

impl Issuer {
    /// An issuer for a workload; `enrolment` is needed until there is a certificate.
    #[must_use]
    pub fn new(control: Route, workload: &Workload, enrolment: Option<Enrolment>, state_dir: PathBuf) -> Self {
        Self {
            control,
            namespace: workload.namespace.clone(),
            account: workload.service_account.clone(),
            enrolment,
            state_dir,
        }
    }

    /// How a first certificate is come by, if at all.
    #[must_use]
    pub fn enrolment(&self) -> Option<&Enrolment> {
        self.enrolment.as_ref()
    }

    /// What an earlier run left, if it is this workload's and still valid.
    ///
    /// # Errors
    /// When there is state that cannot be used and no proof to start afresh with.
    pub fn remembered(&self) -> Result<Option<Identity>, IdentityError> {
        let found = match Identity::load_any(&self.state_dir) {
            Ok(Some(identity)) => identity,
            Ok(None) => return Ok(None),
            Err(error) if self.enrolment.is_some() => {
                tracing::warn!(%error, "the remembered identity is unusable; a new one will be asked for");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let expected =
            self.id(self.enrolment.as_ref().map_or(found.svid.id().trust_domain(), Enrolment::trust_domain))?;
        if found.svid.id() != &expected {
            let text = format!(
                "{} holds the identity {}, but this workload is {expected}",
                self.state_dir.display(),
                found.svid.id()
            );
            if self.enrolment.is_none() {
                return Err(IdentityError::Refused(format!("{text}; use another --state-dir or give a join token")));
            }
            tracing::warn!("{text}; a new one will be asked for");
            return Ok(None);
        }
        if found.svid.is_expired(SystemTime::now()) {
            if self.enrolment.is_none() {
                return Err(IdentityError::Refused(format!(
                    "the certificate in {} has expired and there is no join token to ask for another; make one with `weft token create`",
                    self.state_dir.display()
                )));
            }
            return Ok(None);
        }
        Ok(Some(found))
    }

    fn id(&self, domain: &TrustDomain) -> Result<SpiffeId, IdentityError> {
        SpiffeId::workload(domain, &self.namespace, &self.account).map_err(|e| IdentityError::Refused(e.to_string()))
    }

    /// A first certificate, by enrolment.
    ///
    /// # Errors
    /// Without a proof, when it is refused, or when the control plane is away.
    pub async fn join(&self) -> Result<Identity, IdentityError> {
        let enrolment = self.enrolment.as_ref().ok_or_else(|| {
            IdentityError::Refused(
                "there is neither a certificate nor a proof to get one with; make a join token with `weft token create` and pass it with --join-token-file or WEFT_JOIN_TOKEN (in a pod: --service-account-token-file)"
                    .to_owned(),
            )
        })?;
        let (proof, tls) = enrolment.begin()?;
        self.ask(link::channel(self.control.clone(), tls), Some(proof), &self.id(enrolment.trust_domain())?).await
    }

    /// The next certificate, proved by the current one; by enrolment where the current one is not accepted any more.
    ///
    /// # Errors
    /// Refused, or the control plane is away.
    pub async fn renew(&self, live: &Arc<LiveIdentity>, channel: Channel) -> Result<Identity, IdentityError> {
        let by_certificate = if live.current().svid.is_expired(SystemTime::now()) {
            Err(IdentityError::Refused("the current certificate has expired".to_owned()))
        } else if live.is_revoked() {
            Err(IdentityError::Refused("the current certificate was revoked".to_owned()))
        } else {
            self.ask(channel, None, live.id()).await
        };
        match by_certificate {
            Err(error) if self.enrolment.is_some() => {
                tracing::debug!(%error, "renewal by certificate failed; enrolling anew");
                self.join().await.map_err(|anew| match anew {
                    // A join token may long be used up: what the certificate met is the better explanation.
                    IdentityError::Refused(_) => error,
                    other => other,
                })
            }
            other => other,
        }
    }

    async fn ask(
        &self,
        channel: Channel,
        proof: Option<Proof>,
        expected: &SpiffeId,
    ) -> Result<Identity, IdentityError> {
        let key = KeyPair::generate()?;
        let request = IssueCertificateRequest { csr: key.csr()?, requested_ttl: None, proof };
        let mut client = IdentityClient::new(channel);
        let response = timeout(ASK, client.issue_certificate(request))
            .await
            .map_err(|_| IdentityError::Unavailable(format!("the control plane did not answer within {ASK:?}")))?
            .map_err(|status| refused_or_away(&status))?;
        accept(response.into_inner(), &key, expected)
    }

    /// Keeps an identity for the next start.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, identity: &Identity) -> Result<(), weft_certs::Error> {
        identity.save(&self.state_dir)
    }
}

pub(super) fn refused_or_away(status: &tonic::Status) -> IdentityError {
    use tonic::Code::{
        AlreadyExists, FailedPrecondition, InvalidArgument, PermissionDenied, Unauthenticated, Unimplemented,
    };
    let text = link::describe(status);
    if status.code() == tonic::Code::ResourceExhausted {
        let wait = status.metadata().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        return IdentityError::Limited(text, Duration::from_secs(wait.unwrap_or(1)).min(LONGEST_WAIT));
    }
    if link::says_revoked(status) {
        return IdentityError::Refused(text);
    }
    match status.code() {
        PermissionDenied | Unauthenticated | InvalidArgument | FailedPrecondition | AlreadyExists | Unimplemented => {
            IdentityError::Refused(text)
        }
        _ => IdentityError::Unavailable(text),
    }
}

fn accept(response: IssueCertificateResponse, key: &KeyPair, expected: &SpiffeId) -> Result<Identity, IdentityError> {
    let chain = response.chain.into_iter().map(weft_certs::CertificateDer::from).collect();
    let svid = Svid::new(chain, key)?;
    if svid.id() != expected {
        return Err(IdentityError::Refused(format!(
            "the control plane issued {}, but this workload is {expected}",
            svid.id()
        )));
    }
    let bundle = config::TrustBundle::from_wire(&response.bundle.unwrap_or_default());
    let bundle = bundle.map_err(|e| IdentityError::Refused(format!("the trust bundle: {}: {}", e.field, e.reason)))?;
    Ok(Identity::new(svid, TrustBundles::from(super::bundle::bundle(&bundle)?)))
}
