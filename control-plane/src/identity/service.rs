//! `weft.v1.Identity` behind tonic: certificates for who proves who they are, and registrations within what they may claim.

use super::registration;
use super::token::{Refusal, Tokens, is_label};
use super::{Authority, Peer, SYSTEM_NAMESPACE};
use crate::kinds::{Phase, Workload};
use kube::api::{Api, Patch, PatchParams, PostParams};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tonic::{Request, Response, Status};
use weft_certs::SpiffeId;
use weft_certs::ca::SVID_VALIDITY;
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
    tokens: Tokens,
    client: kube::Client,
    /// Addresses in this range belong to Services: no workload may claim one.
    reserved: weft_policy::config::Cidr,
    /// The longest validity of a workload's certificate, and that of who asks for none.
    lifetime: Duration,
}

impl IdentityService {
    /// Serves certificates of `authority` to holders of `tokens` and writes workloads through `client`.
    #[must_use]
    pub fn new(
        authority: Arc<Authority>,
        tokens: Tokens,
        client: kube::Client,
        reserved: weft_policy::config::Cidr,
    ) -> Self {
        Self { authority, tokens, client, reserved, lifetime: SVID_VALIDITY }
    }

    /// The same with certificates that are valid that long.
    #[must_use]
    pub fn lasting(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    async fn issue(
        &self,
        peer: Option<Peer>,
        request: v1::IssueCertificateRequest,
    ) -> Result<v1::IssueCertificateResponse, Status> {
        let ca = self.authority.ca();
        let (namespace, account) = match (peer, request.proof) {
            (Some(peer), _) => (peer.namespace, peer.service_account),
            (None, Some(Proof::JoinToken(text))) => {
                let claims = self.tokens.redeem(&text, SystemTime::now()).await.map_err(status)?;
                (claims.namespace, claims.service_account)
            }
            (None, Some(Proof::ServiceAccountToken(_))) => {
                return Err(Status::unimplemented(
                    "this control plane is not on Kubernetes: prove yourself with a join token",
                ));
            }
            (None, None) => {
                return Err(Status::unauthenticated("present a join token, or your current certificate to renew it"));
            }
        };
        let id = SpiffeId::workload(ca.trust_domain(), &namespace, &account)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        // Sidecars know the control plane by this id alone: nobody else may ever hold it.
        if namespace == SYSTEM_NAMESPACE || id == SpiffeId::control_plane(ca.trust_domain()) {
            return Err(Status::permission_denied(format!("{id} is the control plane's own and is not issued")));
        }
        let ttl = request.requested_ttl.map(Duration::try_from).transpose();
        let ttl = ttl.map_err(|_| Status::invalid_argument("requested_ttl: must not be negative"))?;
        let ttl = Some(ttl.unwrap_or(self.lifetime).min(self.lifetime));
        let issued = ca.sign(&request.csr, &id, ttl, SystemTime::now()).map_err(|e| match e {
            weft_certs::Error::Request(text) => Status::invalid_argument(text),
            other => {
                tracing::error!(error = %other, "cannot sign");
                Status::internal("the certificate authority cannot sign; its log says why")
            }
        })?;
        tracing::info!(identity = %issued.id, "issued a certificate");
        let trust = self.authority.trust().borrow().clone();
        Ok(v1::IssueCertificateResponse {
            chain: issued.chain.iter().map(|c| c.to_vec()).collect(),
            bundle: Some(v1::TrustBundle {
                trust_domain: ca.trust_domain().to_string(),
                roots: trust.roots,
                reissue_after: trust.reissue_after,
            }),
            not_after: Some(prost_types::Timestamp::from(issued.not_after)),
            identity: issued.id.to_string(),
        })
    }

    async fn register_workload(&self, peer: Peer, request: v1::RegisterRequest) -> Result<String, Status> {
        let claims = match request.join_token.as_str() {
            "" => Err(None),
            text => self.tokens.claims(text, SystemTime::now()).await.map_err(Some),
        };
        if let Ok(address) = request.address.parse::<IpAddr>()
            && self.reserved.contains(address)
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
        let peer = Peer::find(&request)?;
        let issue = self.issue(peer, request.into_inner());
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
