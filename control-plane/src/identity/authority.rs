//! The mesh CA of this control plane and the certificate that the control plane itself presents.
//!
//! Keys live in `identity/` of the data directory, 0600. Signing rules are `weft_certs::MeshCa`'s; who may be signed for is decided in
//! [`super::service`].

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;
use weft_certs::{Error, Identity, LiveIdentity, MeshCa, TrustDomain};

/// The CA, and the identity under which the gRPC server is known.
#[derive(Debug)]
pub struct Authority {
    ca: MeshCa,
    live: Arc<LiveIdentity>,
}

impl Authority {
    /// Opens the CA in a directory, making root and intermediate when there are none, and issues the control plane's own certificate.
    ///
    /// # Errors
    /// When the files cannot be read or written, or belong to another trust domain.
    pub fn open(directory: &Path, trust_domain: &TrustDomain) -> Result<Arc<Self>, Error> {
        Self::new(MeshCa::open(directory, trust_domain, SystemTime::now())?)
    }

    /// The same over a CA that exists.
    ///
    /// # Errors
    /// When the CA cannot sign.
    pub fn new(ca: MeshCa) -> Result<Arc<Self>, Error> {
        let svid = ca.issue_control_plane(SystemTime::now())?;
        let live = LiveIdentity::new(Identity::new(svid, ca.bundle()));
        Ok(Arc::new(Self { ca, live }))
    }

    /// The CA.
    #[must_use]
    pub fn ca(&self) -> &MeshCa {
        &self.ca
    }

    /// What the gRPC server presents and whom it trusts.
    #[must_use]
    pub fn live(&self) -> &Arc<LiveIdentity> {
        &self.live
    }

    /// Renews the control plane's own certificate at half life, until `shutdown`.
    pub async fn keep_fresh(&self, shutdown: CancellationToken) {
        loop {
            let half = self.live.current().svid.half_life();
            // At least a minute: a clock that jumped must not turn this into a busy loop.
            let wait = half.duration_since(SystemTime::now()).unwrap_or_default().max(Duration::from_secs(60));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
            match self.ca.issue_control_plane(SystemTime::now()).and_then(|svid| self.live.replace_svid(svid)) {
                Ok(()) => tracing::info!("renewed the control plane's own certificate"),
                Err(error) => tracing::error!(%error, "cannot renew the control plane's own certificate"),
            }
        }
    }
}
