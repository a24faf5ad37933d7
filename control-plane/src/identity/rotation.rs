//! Driving a rotation of the root: each step of the authority is taken once every sidecar says that it has taken the one before, so that no
//! two peers ever disagree about whom to trust. What the steps are is `weft_certs::ca`'s; sidecars speak through their control streams.

use super::audit::Event;
use super::registration::is_registered;
use super::{Audit, Authority, Trust};
use crate::fleet::Fleet;
use crate::kinds::Phase;
use crate::world::World;
use crate::world::reconcile::Compiled;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use weft_certs::ca::{MeshCa, Pki, Replaced, Rotation, Stage, Step, Vault};
use weft_certs::{CertificateInfo, Error, Fingerprint, TrustBundle};

/// How often sidecars are looked at while there is a rotation.
const LOOK: Duration = Duration::from_millis(250);

/// What a sidecar last said of its certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Fingerprint of the root that it leads to; empty: of none that the sidecar trusts.
    pub root: String,
    /// Fingerprints of the roots that the sidecar trusts.
    pub trusted: BTreeSet<String>,
    /// Begin of validity, seconds since the Unix epoch.
    pub not_before: i64,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
    /// Serial number, hexadecimal.
    pub serial: String,
}

/// A sidecar that has not taken a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// Workload uid.
    pub sidecar: String,
    /// Why it is waited for.
    pub why: String,
}

/// A rotation under way, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// `publishing`, `reissuing` or `returning`.
    pub stage: &'static str,
    /// Fingerprint of the root that was trusted alone before.
    pub old: String,
    /// Fingerprint of the new root.
    pub new: String,
    /// Sidecars that have taken this step.
    pub done: usize,
    /// All of them.
    pub sidecars: usize,
    /// Those that have not.
    pub waiting_for: Vec<Waiting>,
}

/// Everything about the mesh's authority, as it is shown.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Trust domain of the mesh.
    pub trust_domain: String,
    /// The roots that are trusted.
    pub roots: Vec<CertificateInfo>,
    /// Fingerprint of the root that signs.
    pub signing: String,
    /// The rotation under way.
    pub rotation: Option<Progress>,
    /// What sidecars say of their certificates, by workload uid; null: nothing yet.
    pub sidecars: BTreeMap<String, Option<Certificate>>,
}

/// Takes the steps.
pub struct Rotator {
    authority: Arc<Authority>,
    audit: Arc<Audit>,
    fleet: Arc<Fleet>,
    compiled: watch::Receiver<Compiled>,
    begun: Notify,
    /// The step of which somebody has decided not to wait for who has not taken it.
    proceed: Mutex<Option<Rotation>>,
}

impl Rotator {
    /// For this authority and the sidecars of this fleet and of what was compiled last.
    #[must_use]
    pub fn new(
        authority: Arc<Authority>,
        audit: Arc<Audit>,
        fleet: Arc<Fleet>,
        compiled: watch::Receiver<Compiled>,
    ) -> Arc<Self> {
        Arc::new(Self { authority, audit, fleet, compiled, begun: Notify::new(), proceed: Mutex::new(None) })
    }

    /// Begins a rotation.
    ///
    /// # Errors
    /// When one is under way, when the root is not here, or when the authority cannot write.
    pub fn start(&self) -> Result<(), Error> {
        self.take("begun", |ca, now| ca.rotate(now).map(Step::At))?;
        self.begun.notify_one();
        Ok(())
    }

    /// Signs with another intermediate of an existing PKI; other roots begin a rotation.
    ///
    /// # Errors
    /// When sidecars would refuse what it signs, or while the roots are being replaced: nothing has changed then.
    pub fn replace(&self, pki: Pki<'_>, vault: &Vault) -> Result<(), Error> {
        let replaced = self.authority.replace(pki, vault)?;
        let root = self.authority.ca().root_fingerprint()?.to_string();
        match replaced {
            Replaced::Nothing => return Ok(()),
            Replaced::Issuer => tracing::info!(%root, "another intermediate signs; certificates are reissued"),
            Replaced::Roots(rotation) => {
                tracing::info!(old = %rotation.old, new = %rotation.new, "other roots are given: they are published first");
                self.audit.write(Event::Rotation { step: "begun", stage: Some(rotation.stage.name()), root });
                self.begun.notify_one();
            }
        }
        let roots = self.authority.ca().bundle();
        let roots = roots.roots().iter().filter_map(|root| Fingerprint::of_public_key(root).ok());
        let issuer = self.authority.ca().issuer().to_string();
        self.audit.write(Event::Issuer { issuer, roots: roots.map(|root| root.to_string()).collect() });
        Ok(())
    }

    /// Writes down that files were not taken.
    pub fn refused(&self, reason: &str) {
        self.audit.refuse("intermediate", (None, None), None, reason);
    }

    /// Breaks the rotation under way off.
    ///
    /// # Errors
    /// When there is none, or when the authority cannot write.
    pub fn abort(&self) -> Result<(), Error> {
        self.take("broken off", MeshCa::abort)
    }

    /// Takes the next step without those who have not taken the present one. What they hold is not trusted once the rotation has ended.
    ///
    /// # Errors
    /// When there is no rotation.
    pub fn proceed(&self) -> Result<(), Error> {
        let Some(rotation) = self.authority.ca().rotation() else {
            return Err(Error::Request("the root is not being rotated".into()));
        };
        *self.proceed.lock() = Some(rotation);
        Ok(())
    }

    fn take(
        &self,
        what: &'static str,
        step: impl FnOnce(&MeshCa, SystemTime) -> Result<Step, Error>,
    ) -> Result<(), Error> {
        let taken = self.authority.step(step)?;
        let root = self.authority.ca().root_fingerprint()?.to_string();
        match taken {
            Step::At(rotation) => {
                let stage = Some(rotation.stage.name());
                self.audit.write(Event::Rotation { step: what, stage, root });
                tracing::info!(stage = rotation.stage.name(), old = %rotation.old, new = %rotation.new, "root rotation {what}");
            }
            Step::Passed => {}
            Step::Over => {
                tracing::info!(%root, "root rotation {what}: one root is trusted");
                self.audit.write(Event::Rotation { step: what, stage: None, root });
            }
        }
        Ok(())
    }

    /// Whom sidecars are told to trust.
    #[must_use]
    pub fn bundle(&self) -> TrustBundle {
        self.authority.ca().bundle()
    }

    /// How things are.
    ///
    /// # Errors
    /// When a root cannot be read.
    pub fn status(&self) -> Result<Status, Error> {
        let ca = self.authority.ca();
        let sidecars = self.sidecars();
        Ok(Status {
            trust_domain: ca.trust_domain().to_string(),
            roots: ca.bundle().roots().iter().map(|root| CertificateInfo::of(root)).collect::<Result<_, _>>()?,
            signing: ca.root_fingerprint()?.to_string(),
            rotation: ca.rotation().map(|rotation| progress(rotation, &sidecars)),
            sidecars,
        })
    }

    fn sidecars(&self) -> BTreeMap<String, Option<Certificate>> {
        let world = self.compiled.borrow().world.clone();
        everyone(&world, self.fleet.certificates())
    }

    /// Takes steps as sidecars allow, until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut trust = self.authority.trust();
        loop {
            let wait = async {
                if self.authority.ca().rotation().is_some() {
                    tokio::time::sleep(LOOK).await;
                } else {
                    self.begun.notified().await;
                }
            };
            tokio::select! {
                () = wait => {}
                () = shutdown.cancelled() => return,
            }
            let Some(rotation) = self.authority.ca().rotation() else { continue };
            if !self.is_told(&trust.borrow_and_update()) {
                continue;
            }
            let ready = progress(rotation, &self.sidecars()).waiting_for.is_empty();
            // Said of one step, it does not hold for the next.
            let insisted = *self.proceed.lock() == Some(rotation);
            if (ready || insisted)
                && let Err(error) = self.take("goes on", |ca, now| ca.advance(rotation, now))
            {
                tracing::error!(%error, "the next step of the root rotation failed; it is tried again");
                tokio::time::sleep(LOOK * 20).await;
            }
        }
    }

    /// Whether what was compiled last says what sidecars are to trust now.
    fn is_told(&self, trust: &Trust) -> bool {
        let compiled = self.compiled.borrow();
        compiled.generation > 0 && compiled.world.mesh.roots == trust.roots
    }
}

/// Every sidecar that may have a certificate: those that are connected, and those that registered and have not left.
fn everyone(world: &World, connected: BTreeMap<String, Option<Certificate>>) -> BTreeMap<String, Option<Certificate>> {
    let leaving = |w: &crate::world::Workload| w.phase == Some(Phase::Draining);
    let registered = world.workloads.iter().filter(|(_, w)| is_registered(w) && !leaving(w));
    let mut all: BTreeMap<_, _> = registered.map(|(uid, _)| (uid.to_string(), None)).collect();
    all.extend(connected);
    all
}

fn progress(rotation: Rotation, sidecars: &BTreeMap<String, Option<Certificate>>) -> Progress {
    let (old, new, target) = (rotation.old.to_string(), rotation.new.to_string(), rotation.target().to_string());
    let why = |certificate: &Option<Certificate>| {
        let Some(certificate) = certificate else { return Some("it is not connected, or does not say".to_owned()) };
        match rotation.stage {
            Stage::Publishing if [&old, &new].iter().all(|root| certificate.trusted.contains(*root)) => None,
            Stage::Publishing => Some("it does not trust both roots yet".to_owned()),
            Stage::Reissuing | Stage::Returning if certificate.root == target => None,
            Stage::Reissuing | Stage::Returning => Some("its certificate leads to the other root".to_owned()),
        }
    };
    let waiting_for: Vec<_> = sidecars
        .iter()
        .filter_map(|(uid, certificate)| Some(Waiting { sidecar: uid.clone(), why: why(certificate)? }))
        .collect();
    Progress {
        stage: rotation.stage.name(),
        done: sidecars.len() - waiting_for.len(),
        sidecars: sidecars.len(),
        waiting_for,
        old,
        new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(root: &[u8], trusted: &[&[u8]]) -> Option<Certificate> {
        let print = |of: &&[u8]| Fingerprint::of(of).to_string();
        Some(Certificate { root: print(&root), trusted: trusted.iter().map(print).collect(), ..Certificate::default() })
    }

    #[test]
    fn each_step_waits_for_exactly_those_who_have_not_taken_it() {
        let rotation =
            |stage| Rotation { stage, old: Fingerprint::of(b"old"), new: Fingerprint::of(b"new"), reissue_after: 1 };
        let sidecars: BTreeMap<String, _> = [
            ("shop/away", None),
            ("shop/behind", said(b"old", &[b"old"])),
            ("shop/both", said(b"old", &[b"old", b"new"])),
            ("shop/done", said(b"new", &[b"old", b"new"])),
        ]
        .map(|(uid, certificate)| (uid.to_owned(), certificate))
        .into();
        for (stage, waits) in [
            (Stage::Publishing, &["shop/away", "shop/behind"][..]),
            (Stage::Reissuing, &["shop/away", "shop/behind", "shop/both"]),
            (Stage::Returning, &["shop/away", "shop/done"]),
        ] {
            let progress = progress(rotation(stage), &sidecars);
            let waiting: Vec<_> = progress.waiting_for.iter().map(|w| w.sidecar.as_str()).collect();
            assert_eq!((&waiting[..], progress.done, progress.sidecars), (waits, 4 - waits.len(), 4), "{stage:?}");
        }
    }
}
