//! Who is who: the certificate authority's service, join tokens, and the registration of workloads.
//!
//! [`token`] keeps join tokens (hashed, counted, bound to claims), [`review`] has an API server say whose a service-account token is, [`registration`] decides what a workload may say of itself (pure),
//! [`authority`] holds the mesh CA and the control plane's own certificate, [`rotation`] changes its root under a running mesh, [`pki`] follows the files of an intermediate that is not its own, [`ledger`]
//! knows which certificates are out, [`revoker`] makes them worthless, [`limiter`] bounds how many there are, [`audit`] writes down what was
//! done, [`service`] puts them behind `weft.v1.Identity`. Verification
//! of chains is `weft_certs`' business; what a registered workload means for others is the compiler's.

pub mod audit;
pub mod authority;
pub mod ledger;
pub mod limiter;
pub mod pki;
pub mod registration;
pub mod review;
pub mod revoker;
pub mod rotation;
pub mod service;
pub mod token;

pub use audit::Audit;
pub use authority::{Authority, Trust};
pub use ledger::Ledger;
pub use limiter::Limiter;
pub use review::Reviewer;
pub use revoker::Revoker;
pub use rotation::Rotator;
pub use service::IdentityService;
pub use token::Tokens;

use crate::grpc::Caller;
use tonic::{Request, Status};
use weft_certs::SpiffeId;

/// Namespace of the control plane's own identity: nobody joins it.
pub const SYSTEM_NAMESPACE: &str = "weft-system";

/// Who is at the other end of a connection, from the certificate that TLS has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The whole SPIFFE id.
    pub identity: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
}

impl Peer {
    /// The peer of a request.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when it presented no certificate, `PERMISSION_DENIED` when its id is not that of a workload.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        Self::find(request)?.ok_or_else(|| {
            Status::unauthenticated(
                "present an SVID of this mesh: without a certificate only IssueCertificate is served",
            )
        })
    }

    /// The same; `None` when it presented no certificate.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` when its id is not that of a workload.
    pub fn find<T>(request: &Request<T>) -> Result<Option<Self>, Status> {
        let Some(leaf) = Caller::of(request).and_then(|caller| caller.certificate.as_ref()) else {
            return Ok(None);
        };
        let id = weft_certs::tls::peer_identity_of(std::slice::from_ref(leaf))
            .ok_or_else(|| Status::permission_denied("the client certificate is no SVID"))?;
        Self::from_id(&id)
            .map(Some)
            .ok_or_else(|| Status::permission_denied(format!("{id} is not the identity of a workload")))
    }

    /// The parts of a workload's id; `None` for ids of another shape.
    #[must_use]
    pub fn from_id(id: &SpiffeId) -> Option<Self> {
        Some(Self {
            identity: id.to_string(),
            trust_domain: id.trust_domain().to_string(),
            namespace: id.namespace()?.to_owned(),
            service_account: id.service_account()?.to_owned(),
        })
    }
}
