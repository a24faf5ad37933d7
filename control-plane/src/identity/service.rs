//! `weft.v1.Identity` behind tonic: certificates for who proves who they are, and registrations within what they may claim.

use super::audit::{By, Event};
use super::token::{Claims, Refusal, Tokens, hex, is_label, unix};
use super::{Audit, Authority, Limiter, Peer, Reviewer, Revoker, SYSTEM_NAMESPACE};
use super::{registration, review};
use crate::grpc::Caller;
use crate::kinds::{Phase, Workload};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, Patch, PatchParams, PostParams};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tonic::{Request, Response, Status};
use weft_certs::ca::{Issued, SVID_VALIDITY};
use weft_certs::{CertificateInfo, SpiffeId};
use weft_proto::v1;
use weft_proto::v1::identity_server::Identity;
use weft_proto::v1::issue_certificate_request::Proof;

/// How long a call may wait for the store.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a registration is tried against concurrent writers of the same object.
const TRIES: usize = 8;

/// The service that tonic mounts.
#[derive(Clone)]
pub struct IdentityService {
    authority: Arc<Authority>,
    issue: Arc<Issue>,
    client: kube::Client,
    /// Addresses in this range belong to Services: no workload may claim one.
    reserved: Option<weft_policy::config::Cidr>,
    /// Whether pods are workloads, which need not register.
    pods: bool,
    /// The longest validity of a workload's certificate, and that of who asks for none.
    lifetime: Duration,
}

/// What a certificate goes through before somebody gets it.
pub struct Issue {
    /// Join tokens.
    pub tokens: Tokens,
    /// Service-account tokens.
    pub reviewer: Reviewer,
    /// What is out, and what of it is worth nothing.
    pub revoker: Arc<Revoker>,
    /// How many an identity may have.
    pub limiter: Limiter,
    /// Where it is written down.
    pub audit: Arc<Audit>,
}

/// Who asks for a certificate.
struct Asker {
    /// Namespace and service account.
    of: (String, String),
    proof: Proven,
}

/// How it was proved.
enum Proven {
    /// By the certificate with this serial number, valid since.
    Certificate(String, SystemTime),
    /// By the text of a join token, with its public id.
    Token(String, String),
    /// By the token of a service account that was made then, with what a record may name it by.
    ServiceAccount(String, SystemTime),
}

impl Proven {
    fn by(&self) -> By<'_> {
        match self {
            Self::Certificate(serial, _) => By::Certificate(serial),
            Self::Token(id, _) => By::Token(id),
            Self::ServiceAccount(bearer, _) => By::ServiceAccount(bearer),
        }
    }
}

impl IdentityService {
    /// Serves certificates of `authority` as `issue` allows, and writes workloads through `client`.
    #[must_use]
    pub fn new(
        authority: Arc<Authority>,
        issue: Arc<Issue>,
        client: kube::Client,
        reserved: Option<weft_policy::config::Cidr>,
    ) -> Self {
        Self { authority, issue, client, reserved, pods: false, lifetime: SVID_VALIDITY }
    }

    /// The same with certificates that are valid that long.
    #[must_use]
    pub fn lasting(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// The same in a cluster, whose pods are workloads.
    #[must_use]
    pub fn with_pods(self, pods: bool) -> Self {
        Self { pods, ..self }
    }

    /// Who asks, as far as it can be said without spending anything.
    async fn asker(&self, peer: Option<(Peer, CertificateInfo)>, proof: Option<Proof>) -> Result<Asker, Status> {
        match (peer, proof) {
            (Some((peer, certificate)), _) => Ok(Asker {
                of: (peer.namespace, peer.service_account),
                proof: Proven::Certificate(certificate.serial.replace(':', ""), certificate.not_before),
            }),
            (None, Some(Proof::JoinToken(text))) => {
                let claims = self.issue.tokens.claims(&text, SystemTime::now()).await.map_err(status)?;
                let id = Tokens::id(&text).unwrap_or_default();
                Ok(Asker { of: (claims.namespace, claims.service_account), proof: Proven::Token(id, text) })
            }
            (None, Some(Proof::ServiceAccountToken(text))) => {
                let account = self.issue.reviewer.review(&text).await.map_err(|refusal| match refusal {
                    review::Refusal::NotGood(_) => Status::unauthenticated(refusal.to_string()),
                    review::Refusal::Away(_) => Status::unavailable(refusal.to_string()),
                })?;
                Ok(Asker {
                    of: (account.namespace, account.name),
                    proof: Proven::ServiceAccount(account.bearer, account.issued_at),
                })
            }
            (None, None) => Err(Status::unauthenticated(
                "present a join token, a service-account token, or your current certificate to renew it",
            )),
        }
    }

    async fn issue(
        &self,
        peer: Option<(Peer, CertificateInfo)>,
        request: v1::IssueCertificateRequest,
        address: Option<SocketAddr>,
    ) -> Result<v1::IssueCertificateResponse, Status> {
        let audit = &self.issue.audit;
        // Of a token that is not good only the id is known, and that it was this one nobody has proved.
        let claimed = match &request.proof {
            Some(Proof::JoinToken(text)) => Tokens::id(text),
            _ => None,
        };
        let asker = self.asker(peer, request.proof).await.inspect_err(|refusal| {
            let by = claimed.as_deref().map(By::Token);
            audit.refuse("certificate", (None, by), address, refusal.message());
        })?;
        let (namespace, account) = &asker.of;
        let id = SpiffeId::workload(self.authority.ca().trust_domain(), namespace, account)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let ttl = request.requested_ttl.map(Duration::try_from).transpose();
        let ttl = ttl.map_err(|_| Status::invalid_argument("requested_ttl: must not be negative"))?;
        let ttl = Some(ttl.unwrap_or(self.lifetime).min(self.lifetime));
        let issued = self.sign(&asker, &id, &request.csr, ttl, address).await.inspect_err(|refusal| {
            let who = (Some(id.as_str()), Some(asker.proof.by()));
            audit.refuse("certificate", who, address, refusal.message());
        })?;
        tracing::info!(identity = %issued.id, "issued a certificate");
        audit.write(Event::Issued {
            identity: id.as_str(),
            serial: &hex(&issued.serial),
            not_before: unix(issued.not_before),
            not_after: unix(issued.not_after),
            issuer: issued.issuer.to_string(),
            by: asker.proof.by(),
            address,
        });
        let trust = self.authority.trust().borrow().clone();
        Ok(v1::IssueCertificateResponse {
            chain: issued.chain.iter().map(|c| c.to_vec()).collect(),
            bundle: Some(v1::TrustBundle {
                trust_domain: id.trust_domain().to_string(),
                roots: trust.roots,
                reissue_after: trust.reissue_after,
                revocations: trust.revocations.to_vec(),
            }),
            not_after: Some(prost_types::Timestamp::from(issued.not_after)),
            identity: issued.id.to_string(),
        })
    }

    async fn sign(
        &self,
        asker: &Asker,
        id: &SpiffeId,
        csr: &[u8],
        ttl: Option<Duration>,
        address: Option<SocketAddr>,
    ) -> Result<Issued, Status> {
        let ca = self.authority.ca();
        // Sidecars know the control plane by this id alone: nobody else may ever hold it.
        if id.namespace() == Some(SYSTEM_NAMESPACE) || *id == SpiffeId::control_plane(ca.trust_domain()) {
            return Err(Status::permission_denied(format!("{id} is the control plane's own and is not issued")));
        }
        let issuing = self.issue.revoker.issuing().await;
        let limiter = &self.issue.limiter;
        match &asker.proof {
            Proven::Certificate(_, since) if !issuing.may_renew(id.as_str(), *since) => {
                return Err(Status::permission_denied(format!(
                    "what {id} had was revoked: only a join token, or a service-account token made after that, gets it another certificate"
                )));
            }
            Proven::ServiceAccount(_, made) if !issuing.may_enrol(id.as_str(), *made) => {
                return Err(Status::permission_denied(format!(
                    "what {id} had was revoked, after this service-account token was made: delete the pod, or wait for its next token"
                )));
            }
            Proven::Certificate(..) | Proven::ServiceAccount(..) => {}
            Proven::Token(token, text) => {
                // Before a use is spent, and not yet counted: a token that is used up must not use up the identity's share.
                limiter.ask(id.as_str(), Instant::now()).map_err(|wait| limited(id, wait))?;
                self.issue.tokens.redeem(text, SystemTime::now()).await.map_err(status)?;
                self.issue.audit.write(Event::TokenUsed { token, address });
            }
        }
        limiter.take(id.as_str(), Instant::now()).map_err(|wait| limited(id, wait))?;
        let issued = ca.sign(csr, id, ttl, SystemTime::now()).map_err(|e| match e {
            weft_certs::Error::Request(text) => Status::invalid_argument(text),
            other => {
                tracing::error!(error = %other, "cannot sign");
                Status::internal("the certificate authority cannot sign; its log says why")
            }
        })?;
        issuing.record(&issued).await.map_err(|error| {
            tracing::error!(%error, "cannot write a certificate down, so nobody gets it");
            Status::unavailable("the record of certificates cannot be written now")
        })?;
        Ok(issued)
    }

    async fn register_workload(&self, peer: Peer, request: v1::RegisterRequest) -> Result<String, Status> {
        if let Some(uid) = self.pod(&peer, &request.name).await? {
            return Ok(uid);
        }
        let claims = match request.join_token.as_str() {
            "" => Err(None),
            text => self.issue.tokens.claims(text, SystemTime::now()).await.map_err(Some),
        };
        let claims = match claims {
            Err(refusal) => self.of_account(&peer).await?.ok_or(refusal),
            good => good,
        };
        if let Ok(address) = request.address.parse::<IpAddr>()
            && self.reserved.is_some_and(|reserved| reserved.contains(address))
        {
            return Err(Status::invalid_argument(format!("address: {address} is in the range of Services' addresses")));
        }
        // Before it becomes part of a path.
        if !is_label(&request.name) {
            return Err(Status::invalid_argument(format!("name: {:?} is not a DNS label", request.name)));
        }
        let api: Api<Workload> = Api::namespaced(self.client.clone(), &peer.namespace);
        for _ in 0..TRIES {
            let existing = api.get_opt(&request.name).await.map_err(unavailable)?;
            let mut workload = match registration::workload(&peer, &request, claims.as_ref().ok(), existing.as_ref()) {
                Ok(workload) => workload,
                Err(refusal) => {
                    tracing::warn!(peer = %peer.identity, %refusal, "refused a registration");
                    let who = (Some(peer.identity.as_str()), None);
                    self.issue.audit.refuse("registration", who, None, &refusal.to_string());
                    return Err(match (refusal, claims) {
                        // A token that is no longer good says more than "not registered".
                        (registration::Refusal::Denied(_), Err(Some(token))) => status(token),
                        (registration::Refusal::Denied(text), _) => Status::permission_denied(text),
                        (registration::Refusal::Invalid(text), _) => Status::invalid_argument(text),
                    });
                }
            };
            let written = match existing {
                None => api.create(&PostParams::default(), &workload).await,
                Some(existing) => {
                    // Restarted under the same name: nothing to write.
                    if is_same(&existing, &workload) {
                        return Ok(format!("{}/{}", peer.namespace, request.name));
                    }
                    workload.metadata.resource_version = existing.metadata.resource_version;
                    api.replace(&request.name, &PostParams::default(), &workload).await
                }
            };
            match written {
                Ok(written) => {
                    if written.status.is_some() {
                        self.begin_again(&api, &request.name).await?;
                    }
                    tracing::info!(workload = %format!("{}/{}", peer.namespace, request.name), peer = %peer.identity, "registered");
                    return Ok(format!("{}/{}", peer.namespace, request.name));
                }
                Err(kube::Error::Api(e)) if e.code == 409 => {}
                Err(kube::Error::Api(e)) if e.code == 404 => {
                    return Err(Status::failed_precondition(format!("namespace {} does not exist", peer.namespace)));
                }
                Err(kube::Error::Api(e)) if e.code == 422 || e.code == 400 => {
                    return Err(Status::invalid_argument(e.message.clone()));
                }
                Err(error) => return Err(unavailable(error)),
            }
        }
        Err(Status::aborted(format!("workload {}/{} is being written by others", peer.namespace, request.name)))
    }
}

impl IdentityService {
    /// The uid of the pod of this name, where there is one: what it is, Kubernetes says.
    async fn pod(&self, peer: &Peer, name: &str) -> Result<Option<String>, Status> {
        if !self.pods || !is_label(name) || peer.namespace == SYSTEM_NAMESPACE {
            return Ok(None);
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &peer.namespace);
        let Some(pod) = api.get_opt(name).await.map_err(unavailable)? else { return Ok(None) };
        let uid = format!("{}/{name}", peer.namespace);
        let account = pod.spec.and_then(|spec| spec.service_account_name).unwrap_or_else(|| "default".to_owned());
        if account == peer.service_account {
            return Ok(Some(uid));
        }
        let text = format!("name: pod {uid} runs as service account {account:?}, not as {:?}", peer.service_account);
        tracing::warn!(peer = %peer.identity, refusal = %text, "refused a registration");
        self.issue.audit.refuse("registration", (Some(peer.identity.as_str()), None), None, &text);
        Err(Status::permission_denied(text))
    }

    /// What the object of the peer's service account lets its workloads register as.
    async fn of_account(&self, peer: &Peer) -> Result<Option<Claims>, Status> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &peer.namespace);
        let account = api.get_opt(&peer.service_account).await.map_err(unavailable)?;
        Ok(account.as_ref().and_then(review::claims))
    }

    /// A workload that registers differently has started anew: what was known of its predecessor's readiness says nothing of it.
    async fn begin_again(&self, api: &Api<Workload>, name: &str) -> Result<(), Status> {
        let status = serde_json::json!({ "status": { "phase": Phase::Pending, "conditions": [] } });
        match api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(e)) if e.code == 404 => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }
}

fn is_same(existing: &Workload, wanted: &Workload) -> bool {
    existing.spec == wanted.spec
        && existing.metadata.labels.clone().unwrap_or_default() == wanted.metadata.labels.clone().unwrap_or_default()
        && existing.metadata.annotations == wanted.metadata.annotations
}

/// Too many: says when there may be another, in words and for programs.
fn limited(id: &SpiffeId, wait: Duration) -> Status {
    let seconds = wait.as_secs().saturating_add(1);
    let text = format!("{id} has had as many certificates as it may have for now; the next one in {seconds} s");
    let mut status = Status::resource_exhausted(text);
    status.metadata_mut().insert("retry-after", seconds.into());
    status
}

fn status(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Store(error) => {
            tracing::error!(%error, "cannot read join tokens");
            Status::unavailable("join tokens cannot be read now")
        }
        Refusal::Invalid(text) => Status::invalid_argument(text),
        other => Status::unauthenticated(other.to_string()),
    }
}

fn unavailable(error: kube::Error) -> Status {
    tracing::error!(%error, "cannot write a workload");
    Status::unavailable("the registry cannot be written now")
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn issue_certificate(
        &self,
        request: Request<v1::IssueCertificateRequest>,
    ) -> Result<Response<v1::IssueCertificateResponse>, Status> {
        let caller = Caller::of(&request);
        let address = caller.map(|caller| caller.address);
        let certificate = caller.and_then(|caller| CertificateInfo::of(caller.certificate.as_ref()?).ok());
        let refuse = |refusal: &Status| {
            self.issue.audit.refuse("certificate", (None, None), address, refusal.message());
        };
        let peer = Peer::find(&request).inspect_err(refuse)?.zip(certificate);
        let issue = self.issue(peer, request.into_inner(), address);
        let issued = tokio::time::timeout(DEADLINE, issue).await;
        issued.map_err(|_| Status::deadline_exceeded("the store did not answer in time"))?.map(Response::new)
    }

    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        let peer = Peer::of(&request)?;
        let register = self.register_workload(peer, request.into_inner());
        let registered = tokio::time::timeout(DEADLINE, register).await;
        let uid = registered.map_err(|_| Status::deadline_exceeded("the store did not answer in time"))??;
        Ok(Response::new(v1::RegisterResponse { uid }))
    }
}
