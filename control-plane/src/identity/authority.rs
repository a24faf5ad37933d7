//! The mesh CA of this control plane, what the mesh is to trust, and the certificate that the control plane itself presents.
//!
//! Keys live in `identity/` of the data directory, 0600. Signing rules, and the steps of a rotation, are `weft_certs::MeshCa`'s; who may be
//! signed for is decided in [`super::service`], when a step may be taken in [`super::rotation`].

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_certs::ca::Rotation;
use weft_certs::{Error, Identity, LiveIdentity, MeshCa, TrustDomain};

/// What every sidecar is told of this trust domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The roots, DER.
    pub roots: Vec<Vec<u8>>,
    /// Certificates issued before this are to be renewed at once. Seconds since the Unix epoch; zero: none.
    pub reissue_after: i64,
}

/// The CA, and the identity under which the gRPC server is known.
#[derive(Debug)]
pub struct Authority {
    ca: MeshCa,
    live: Arc<LiveIdentity>,
    trust: watch::Sender<Trust>,
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
        let trust = watch::Sender::new(Trust { roots: ca.bundle().to_der(), reissue_after: reissue_after(&ca) });
        Ok(Arc::new(Self { ca, live, trust }))
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

    /// What sidecars are told, as it changes.
    #[must_use]
    pub fn trust(&self) -> watch::Receiver<Trust> {
        self.trust.subscribe()
    }

    /// Takes a step of a rotation: what `step` makes of the CA is presented and told from now on.
    ///
    /// # Errors
    /// When the CA refuses the step, or cannot keep it.
    pub fn step(
        &self,
        step: impl FnOnce(&MeshCa, SystemTime) -> Result<Option<Rotation>, Error>,
    ) -> Result<Option<Rotation>, Error> {
        let now = SystemTime::now();
        let rotation = step(&self.ca, now)?;
        self.live.replace(Identity::new(self.ca.issue_control_plane(now)?, self.ca.bundle()))?;
        self.trust.send_modify(|trust| {
            trust.roots = self.ca.bundle().to_der();
            // What was demanded stays demanded after the last step.
            trust.reissue_after = trust.reissue_after.max(reissue_after(&self.ca));
        });
        Ok(rotation)
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

fn reissue_after(ca: &MeshCa) -> i64 {
    ca.rotation().and_then(|rotation| i64::try_from(rotation.reissue_after).ok()).unwrap_or_default()
}
