//! The mesh CA of this control plane, what the mesh is to trust, and the certificate that the control plane itself presents.
//!
//! Keys live in `identity/` of the data directory, 0600. Signing rules, and the steps of a rotation, are `weft_certs::MeshCa`'s; who may be
//! signed for is decided in [`super::service`], when a step may be taken in [`super::rotation`].

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use weft_certs::ca::{Pki, Replaced, Revocation, Step, Vault};
use weft_certs::{Error, Identity, LiveIdentity, MeshCa, RevocationList, Svid, TrustDomain};
use weft_proto::v1;

/// Between attempts at a certificate of the control plane's own.
const AGAIN: Duration = Duration::from_secs(2);

/// What every sidecar is told of this trust domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The roots, DER.
    pub roots: Vec<Vec<u8>>,
    /// Certificates issued before this are to be renewed at once. Seconds since the Unix epoch; zero: none.
    pub reissue_after: i64,
    /// What was revoked, a list for each key that signed it.
    pub revocations: Arc<[v1::RevocationList]>,
}

impl Trust {
    fn of(ca: &MeshCa, reissue_after: i64) -> Self {
        let bundle = ca.bundle();
        let list = |list: &RevocationList| v1::RevocationList {
            crl: list.der().to_vec(),
            issuer: list.issuer().iter().map(|issuer| issuer.to_vec()).collect(),
        };
        Self { roots: bundle.to_der(), reissue_after, revocations: bundle.revocations().iter().map(list).collect() }
    }
}

/// The CA, and the identity under which the gRPC server is known.
#[derive(Debug)]
pub struct Authority {
    ca: MeshCa,
    live: Arc<LiveIdentity>,
    trust: watch::Sender<Trust>,
    /// The control plane's own certificate is not the one that it should be.
    stale: Notify,
}

impl Authority {
    /// Opens the CA in a directory, making root and intermediate when there are none, and issues the control plane's own certificate.
    ///
    /// # Errors
    /// When the files cannot be read or written, or belong to another trust domain.
    pub fn open(directory: &Path, vault: &Vault, trust_domain: &TrustDomain) -> Result<Arc<Self>, Error> {
        Self::new(MeshCa::open_locked(directory, vault, trust_domain, SystemTime::now())?)
    }

    /// Signs with an intermediate of an existing PKI; the directory remembers whom sidecars were told to trust.
    ///
    /// # Errors
    /// When sidecars would refuse what it signs.
    pub fn open_pki(
        directory: &Path,
        vault: &Vault,
        trust_domain: &TrustDomain,
        pki: Pki<'_>,
    ) -> Result<Arc<Self>, Error> {
        Self::new(MeshCa::open_pki(directory, vault, trust_domain, pki, SystemTime::now())?)
    }

    /// The same over a CA that exists.
    ///
    /// # Errors
    /// When the CA cannot sign.
    pub fn new(ca: MeshCa) -> Result<Arc<Self>, Error> {
        let svid = ca.issue_control_plane(SystemTime::now())?;
        let live = LiveIdentity::new(Identity::new(svid, ca.bundle()));
        let trust = watch::Sender::new(Trust::of(&ca, reissue_after(&ca)));
        Ok(Arc::new(Self { ca, live, trust, stale: Notify::new() }))
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

    /// Takes a step of a rotation: what `step` makes of the CA is told and presented from now on.
    ///
    /// # Errors
    /// When the CA refuses the step, or cannot keep it.
    pub fn step(&self, step: impl FnOnce(&MeshCa, SystemTime) -> Result<Step, Error>) -> Result<Step, Error> {
        let now = SystemTime::now();
        let taken = step(&self.ca, now)?;
        if taken != Step::Passed {
            self.tell(|| self.ca.issue_control_plane(now));
        }
        Ok(taken)
    }

    /// Signs with another intermediate of an existing PKI.
    ///
    /// # Errors
    /// When sidecars would refuse what it signs: then nothing has changed.
    pub fn replace(&self, pki: Pki<'_>, vault: &Vault) -> Result<Replaced, Error> {
        let now = SystemTime::now();
        let replaced = self.ca.replace(pki, vault, now)?;
        if replaced == Replaced::Issuer {
            let demand = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            let demand = i64::try_from(demand).unwrap_or(i64::MAX);
            self.trust.send_modify(|trust| trust.reissue_after = trust.reissue_after.max(demand));
        }
        if replaced != Replaced::Nothing {
            self.tell(|| self.ca.issue_control_plane(now));
        }
        Ok(replaced)
    }

    /// Tells whom to trust now, and presents a certificate that fits. The step stands whether or not there is such a certificate, so it is
    /// told first; the certificate is tried for again in [`Self::keep_fresh`].
    fn tell(&self, issue: impl FnOnce() -> Result<Svid, Error>) {
        self.announce();
        if let Err(error) = issue().and_then(|svid| self.live.replace_svid(svid)) {
            tracing::error!(%error, "the control plane has no certificate that fits the step that was taken; it tries again");
            self.stale.notify_one();
        }
    }

    /// From now on exactly these certificates are revoked.
    ///
    /// # Errors
    /// When the CA cannot sign lists of them.
    pub fn revoke(&self, revoked: Vec<Revocation>) -> Result<(), Error> {
        self.ca.revoke(revoked, SystemTime::now())?;
        self.announce();
        Ok(())
    }

    /// Trusts, and has sidecars trust, whom the CA says to.
    pub fn announce(&self) {
        self.live.replace_bundle(&self.ca.bundle());
        // What was demanded stays demanded after the last step.
        self.trust.send_modify(|trust| {
            *trust = Trust::of(&self.ca, trust.reissue_after.max(reissue_after(&self.ca)));
        });
    }

    /// Renews the control plane's own certificate at half life, and sooner where it is not the right one, until `shutdown`.
    pub async fn keep_fresh(&self, shutdown: CancellationToken) {
        let mut failed = false;
        loop {
            let half = self.live.current().svid.half_life();
            // At least a minute: a clock that jumped must not turn this into a busy loop.
            let wait = half.duration_since(SystemTime::now()).unwrap_or_default().max(Duration::from_secs(60));
            tokio::select! {
                () = tokio::time::sleep(if failed { AGAIN } else { wait }) => {}
                () = self.stale.notified() => tokio::time::sleep(AGAIN).await,
                () = shutdown.cancelled() => return,
            }
            let renewed = self.ca.issue_control_plane(SystemTime::now()).and_then(|svid| self.live.replace_svid(svid));
            failed = renewed.is_err();
            match renewed {
                Ok(()) => tracing::info!("renewed the control plane's own certificate"),
                Err(error) => tracing::error!(%error, "cannot renew the control plane's own certificate"),
            }
        }
    }
}

fn reissue_after(ca: &MeshCa) -> i64 {
    ca.rotation().and_then(|rotation| i64::try_from(rotation.reissue_after).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_even_if_the_control_plane_gets_no_certificate_for_it() {
        let domain = "weft.test".parse().unwrap();
        let authority = Authority::new(MeshCa::ephemeral(&domain, SystemTime::now()).unwrap()).unwrap();
        let mut trust = authority.trust();
        authority.ca().rotate(SystemTime::now()).unwrap();
        authority.tell(|| Err(Error::Crypto("broken".into())));
        assert_eq!(trust.borrow_and_update().roots.len(), 2);
        let own = authority.live().current();
        assert_eq!(own.bundles.get(&domain).unwrap().roots().len(), 2, "and clients under either root are let in");
    }
}
