//! An identity from an agent of the SPIFFE Workload API (SPIRE's, or another's) in the place of the mesh's authority: certificate, key,
//! bundles and revocation lists, as they change.
//!
//! One stream (`FetchX509SVID`) brings all of them together and whole with each message, so nothing is asked besides: two streams could
//! disagree. There are no keep-alive pings: the end of a process ends its Unix socket, and gRPC servers turn away who pings a quiet
//! connection. What a message says is read in `material`. The key is made by the agent; nothing of it is kept on disk, since the agent
//! stands on the same machine and gives it again at the next start.

use super::IdentityError;
use super::material::{Material, Wanted};
use super::renew::{expiry, renewals, seconds};
use crate::discovery::Bundles;
use crate::discovery::link::{Backoff, innermost};
use crate::telemetry::metrics::{Counter, Gauge, Registry};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Streaming};
use weft_certs::{Identity, LiveIdentity, Svid, TrustBundles, TrustDomain};
use weft_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use weft_proto::spiffe::{X509svidRequest, X509svidResponse};

/// From the first byte to the first message.
const ASK: Duration = Duration::from_secs(10);
/// How often is looked whether an agent that says nothing should have said something. Nothing bounds the wait for a message itself: it is
/// for the agent to speak when something changes.
const LOOK: Duration = Duration::from_secs(5);
/// "Every client request to the SPIFFE Workload Endpoint MUST include" it with the value `true` (SPIFFE Workload Endpoint §3): who can only
/// make somebody send requests cannot add it.
const HEADER: &str = "workload.spiffe.io";

/// A stream of what the workload is entitled to.
type Updates = Streaming<X509svidResponse>;

/// An agent, and what is wanted of it.
#[derive(Debug)]
pub struct Agent {
    channel: Channel,
    socket: PathBuf,
    wanted: Wanted,
}

impl Agent {
    /// The agent behind a Unix socket. Nothing is asked yet.
    #[must_use]
    pub fn new(socket: &Path, wanted: Wanted) -> Self {
        let path: Arc<Path> = socket.into();
        let connect = tower::service_fn(move |_: Uri| {
            let path = Arc::clone(&path);
            async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://workload-api").connect_with_connector_lazy(connect);
        Self { channel, socket: socket.to_owned(), wanted }
    }

    /// What the agent says first, and the stream that says more.
    async fn ask(&self) -> Result<(Material, Updates), IdentityError> {
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert(HEADER, tonic::metadata::MetadataValue::from_static("true"));
        let mut client = SpiffeWorkloadApiClient::new(self.channel.clone());
        let first = async {
            let mut updates = client.fetch_x509svid(request).await?.into_inner();
            Ok((updates.message().await?, updates))
        };
        let answered = timeout(ASK, first).await;
        let silent = |_| IdentityError::Unavailable(self.says(&format!("did not answer within {ASK:?}")));
        let (message, updates) = answered.map_err(silent)?.map_err(|status: tonic::Status| self.explain(&status))?;
        let message =
            message.ok_or_else(|| IdentityError::Unavailable(self.says("ended the stream without a word")))?;
        let material = self.read(message)?;
        Ok((material, updates))
    }

    fn read(&self, message: X509svidResponse) -> Result<Material, IdentityError> {
        let material = Material::read(message, &self.wanted);
        material
            .map_err(|error| IdentityError::Unavailable(self.says(&format!("gives nothing that can be used: {error}"))))
    }

    fn says(&self, what: &str) -> String {
        format!("the Workload API agent at {} {what}", self.socket.display())
    }

    fn explain(&self, status: &tonic::Status) -> IdentityError {
        let text = innermost(status);
        match status.code() {
            Code::PermissionDenied => IdentityError::Unavailable(self.says(&format!(
                "has no identity for this sidecar (PERMISSION_DENIED: {text}); make a registration entry that selects its process"
            ))),
            // "Report an error, don't retry" (SPIFFE Workload Endpoint, appendix A); the others are to be tried again.
            Code::InvalidArgument | Code::Unimplemented => {
                IdentityError::Refused(self.says(&format!("refuses the call ({:?}: {text})", status.code())))
            }
            Code::Unavailable | Code::Unknown => IdentityError::Unavailable(self.says(&format!("is away: {text}"))),
            code => IdentityError::Unavailable(self.says(&format!("says {code:?}: {text}"))),
        }
    }

    /// The first identity, however long the agent takes.
    ///
    /// # Errors
    /// When there is no use in asking again.
    pub async fn first(self, registry: &Registry) -> Result<Followed, IdentityError> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut told = String::new();
        loop {
            match self.ask().await {
                Ok((material, updates)) => return Ok(Followed::new(self, material, updates, registry)),
                Err(IdentityError::Unavailable(reason) | IdentityError::Limited(reason, _)) => {
                    if told != reason {
                        tracing::warn!("no identity yet: {reason}; trying on");
                        told = reason;
                    }
                    sleep(backoff.wait()).await;
                }
                Err(refused) => return Err(refused),
            }
        }
    }
}

/// An identity that follows its agent.
pub struct Followed {
    agent: Agent,
    live: Arc<LiveIdentity>,
    /// `None`: to be opened anew.
    updates: Option<Updates>,
    /// Whom the agent says to trust.
    given: TrustBundles,
    /// Trust domains beyond the agent's, as discovery brings them; `None`: there is no discovery.
    discovered: Option<watch::Receiver<Bundles>>,
    expiry: Gauge,
    renewed: Counter,
    failed: Counter,
    /// Whether it was said that the own certificate is revoked.
    revoked: bool,
    /// What was said last of an agent that is away.
    told: String,
}

impl Followed {
    fn new(agent: Agent, material: Material, updates: Updates, registry: &Registry) -> Self {
        let Material { svid, bundles } = material;
        let attempts = renewals(registry);
        let followed = Self {
            live: LiveIdentity::new(Identity::new(svid, bundles.clone())),
            agent,
            updates: Some(updates),
            given: bundles,
            discovered: None,
            expiry: expiry(registry),
            renewed: attempts.with(&["ok"]),
            failed: attempts.with(&["failed"]),
            revoked: false,
            told: String::new(),
        };
        followed.say("identity taken from the Workload API agent");
        followed
    }

    /// The identity, which follows the agent.
    #[must_use]
    pub fn live(&self) -> Arc<LiveIdentity> {
        Arc::clone(&self.live)
    }

    /// Trusts those that discovery names besides. Of a domain that the agent names too the agent's bundle counts.
    #[must_use]
    pub fn with_discovered(self, bundles: watch::Receiver<Bundles>) -> Self {
        Self { discovered: Some(bundles), ..self }
    }

    fn say(&self, what: &str) {
        let identity = self.live.current();
        self.expiry.set(seconds(identity.svid.not_after()));
        let (id, domains) = (self.live.id(), identity.bundles.domains().collect::<Vec<_>>());
        let revoked: usize =
            identity.bundles.iter().flat_map(|b| b.revocations()).map(weft_certs::RevocationList::len).sum();
        tracing::info!(%id, valid_until = seconds(identity.svid.not_after()), ?domains, revoked, "{what}");
    }

    /// Follows the agent until the future is dropped. While it is away the last good identity stays in use, to its end.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        self.trust();
        loop {
            let why = self.follow(&mut backoff).await;
            self.updates = None;
            self.failed.increment();
            let left = self.live.current().svid.not_after().duration_since(SystemTime::now()).unwrap_or_default();
            if self.told != why {
                tracing::warn!(valid_for = ?left, "{why}; the last identity stays in use");
                self.told = why;
            }
            sleep(backoff.wait()).await;
        }
    }

    /// Takes what comes until the stream ends; gives why.
    async fn follow(&mut self, backoff: &mut Backoff) -> String {
        if self.updates.is_none() {
            match self.agent.ask().await {
                Ok((material, updates)) => {
                    self.updates = Some(updates);
                    self.take(material);
                }
                Err(error) => return error.to_string(),
            }
        }
        if !std::mem::take(&mut self.told).is_empty() {
            tracing::info!("{}", self.agent.says("is back"));
        }
        backoff.reset();
        loop {
            let Some(updates) = &mut self.updates else { return String::new() };
            let discovered = async {
                let changed = match &mut self.discovered {
                    Some(bundles) => bundles.changed().await.is_ok(),
                    None => false,
                };
                if !changed {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                message = updates.message() => match message {
                    Ok(Some(message)) => match self.agent.read(message) {
                        Ok(material) => self.take(material),
                        // The next message may be better; the stream is as good as before.
                        Err(error) => {
                            self.failed.increment();
                            tracing::error!("{error}; the last identity stays in use");
                        }
                    },
                    Ok(None) => return self.agent.says("ended the stream"),
                    Err(status) => return self.agent.explain(&status).to_string(),
                },
                () = discovered => self.trust(),
                () = sleep(LOOK) => if is_late(&self.live.current().svid) {
                    return self.agent.says("is silent although the certificate ends soon");
                },
            }
        }
    }

    /// Puts what the agent gave to use: first whom to trust, then who we are, so that nobody meets a peer that it cannot judge.
    fn take(&mut self, material: Material) {
        self.given = material.bundles;
        self.trust();
        let is_new = self.live.current().svid.chain() != material.svid.chain();
        if is_new {
            match self.live.replace_svid(material.svid) {
                Ok(()) => {
                    self.renewed.increment();
                    self.say("identity replaced by the Workload API agent");
                }
                Err(error) => {
                    self.failed.increment();
                    tracing::error!(
                        "{}",
                        self.agent.says(&format!("{error}; the last identity stays in use, restart to be another"))
                    );
                }
            }
        }
        let revoked = self.live.is_revoked();
        if revoked && !self.revoked {
            tracing::error!(id = %self.live.id(), "this workload's certificate was revoked: only the agent can give it another");
        }
        self.revoked = revoked;
    }

    /// Trusts whom the agent names, and whom discovery names besides.
    fn trust(&mut self) {
        let mut all = self.given.clone();
        if let Some(discovered) = &mut self.discovered {
            for wire in discovered.borrow_and_update().values() {
                match super::bundle::bundle(wire) {
                    Ok(bundle) if all.get(bundle.trust_domain()).is_none() => all.insert(bundle),
                    Ok(_) => {}
                    Err(error) => tracing::error!(domain = &*wire.trust_domain, %error, "trust bundle ignored"),
                }
            }
        }
        let before: BTreeSet<TrustDomain> = self.live.current().bundles.domains().cloned().collect();
        let mut changed = false;
        for bundle in all.iter() {
            changed |= self.live.replace_bundle(bundle);
        }
        for gone in before.iter().filter(|domain| all.get(domain).is_none()) {
            changed |= self.live.remove_bundle(gone);
        }
        if changed {
            self.say("trust bundles changed");
        }
    }
}

/// Less than a fifth of its life is left: an agent renews at half.
fn is_late(svid: &Svid) -> bool {
    svid.not_after().duration_since(SystemTime::now()).unwrap_or_default() < svid.lifetime() / 5
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
