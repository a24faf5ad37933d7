//! Revocation: certificates that are worth nothing from now on, although they have not expired. Whoever holds one is refused by every
//! sidecar and by the control plane, may not renew it, and loses the connections it has; a join token gets it another.
//!
//! What is revoked is written down first in the [`Ledger`], signed by the authority as revocation lists, and told with the trust bundle.
//! Entries leave once their certificates have expired.

use super::Authority;
use super::audit::{Audit, Event};
use super::ledger::{Barred, Entry, Ledger, Revoked, bar, change};
use super::token::unix;
use crate::store::StoreError;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{RwLock, RwLockReadGuard};
use tokio_util::sync::CancellationToken;
use weft_certs::ca::{BACKDATE, Issued, LIST_VALIDITY, Reason, Revocation, lists_to_pem};
use weft_certs::{Error, SpiffeId};

/// How long after its expiry a certificate is remembered: for clocks that are behind.
const GRACE: u64 = 300;
/// Bounds on how often expired entries are looked for.
const SWEEP: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// What is to be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Everything that this identity has.
    Identity(SpiffeId),
    /// One certificate: hexadecimal, with or without colons.
    Serial(String),
}

/// A certificate that is revoked, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// Hexadecimal.
    pub serial: String,
    /// SPIFFE id.
    pub identity: String,
    /// As RFC 5280 writes it.
    pub reason: String,
    /// Seconds since the Unix epoch.
    pub revoked_at: u64,
    /// Seconds since the Unix epoch.
    pub not_after: u64,
}

/// Why nothing was revoked.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such certificate, or nobody may revoke it.
    #[error("{0}")]
    Invalid(String),
    /// The authority cannot sign that.
    #[error(transparent)]
    Authority(#[from] Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Default)]
pub(super) struct State {
    /// By serial number.
    revoked: BTreeMap<String, Entry>,
    /// By SPIFFE id: what was issued before may not be renewed.
    barred: BTreeMap<String, u64>,
}

/// Held while a certificate is issued: nothing is revoked meanwhile, so that whoever revokes knows of every certificate.
pub struct Issuing<'r> {
    state: RwLockReadGuard<'r, State>,
    ledger: &'r Ledger,
}

/// Revokes, and remembers what is out.
pub struct Revoker {
    authority: Arc<Authority>,
    ledger: Ledger,
    audit: Arc<Audit>,
    state: RwLock<State>,
}

impl Revoker {
    /// What an earlier run revoked is revoked again.
    ///
    /// # Errors
    /// When the store cannot be read or the authority cannot sign lists.
    pub async fn open(authority: Arc<Authority>, ledger: Ledger, audit: Arc<Audit>) -> Result<Arc<Self>, Refusal> {
        let mut state = State::default();
        for (record, entry) in ledger.certificates().await? {
            if entry.revoked.is_some() {
                state.revoked.insert(record.key.name.to_string(), entry);
            }
        }
        state.barred = ledger.barred().await?.into_iter().map(|(_, barred)| (barred.identity, barred.at)).collect();
        if !state.revoked.is_empty() {
            authority.revoke(revocations(&state.revoked))?;
        }
        Ok(Arc::new(Self { authority, ledger, audit, state: RwLock::new(state) }))
    }

    /// Begins to issue a certificate.
    pub async fn issuing(&self) -> Issuing<'_> {
        Issuing { state: self.state.read().await, ledger: &self.ledger }
    }

    /// Revokes. Gives what is revoked now that was not before; may be none, for an identity that has no certificate.
    ///
    /// # Errors
    /// When there is no such certificate, or it cannot be signed or kept: then nothing was revoked.
    pub async fn revoke(&self, subject: &Subject, reason: Reason, now: SystemTime) -> Result<Vec<Shown>, Refusal> {
        let mut state = self.state.write().await;
        let at = unix(now);
        // One of the two.
        let (identity, serial) = match subject {
            Subject::Identity(id) => {
                let domain = self.authority.ca().trust_domain();
                if id.trust_domain() != domain {
                    let text =
                        format!("{id} is not of trust domain \"{domain}\": only its own authority can revoke it");
                    return Err(Refusal::Invalid(text));
                }
                if *id == SpiffeId::control_plane(domain) {
                    return Err(Refusal::Invalid(format!("{id} is the control plane itself")));
                }
                (Some(id.to_string()), None)
            }
            Subject::Serial(serial) => (None, Some(normal(serial)?)),
        };
        let matches = |name: &str, entry: &Entry| {
            identity.as_ref().is_none_or(|id| entry.identity == *id)
                && serial.as_ref().is_none_or(|serial| name == serial)
        };
        let mut writes = Vec::new();
        let mut revoked = state.revoked.clone();
        let mut fresh = Vec::new();
        for (record, mut entry) in self.ledger.certificates().await? {
            let name = &*record.key.name;
            if entry.not_after < at || entry.revoked.is_some() || !matches(name, &entry) {
                continue;
            }
            entry.revoked = Some(Revoked { at, reason: reason.name().to_owned() });
            writes.push(change(&record, Some(&entry))?);
            fresh.push(name.to_owned());
            revoked.insert(name.to_owned(), entry);
        }
        if let Subject::Serial(serial) = subject
            && fresh.is_empty()
        {
            let known = state.revoked.contains_key(&normal(serial)?);
            let text = if known { "is revoked already" } else { "is that of no certificate that is valid now" };
            return Err(Refusal::Invalid(format!("serial number {serial} {text}")));
        }
        if let Some(identity) = &identity {
            let barred = Barred { identity: identity.clone(), at };
            let before = self.ledger.barred().await?.into_iter().find(|(_, other)| other.identity == *identity);
            writes.push(match before {
                Some((record, _)) => change(&record, Some(&barred))?,
                None => bar(&barred)?,
            });
        }
        // Signed first: what cannot be signed is not written. Nobody is told of it before it is written.
        let list = revocations(&revoked);
        self.authority.ca().revoke(list, now)?;
        if let Err(error) = self.ledger.write(writes).await {
            self.authority.ca().revoke(revocations(&state.revoked), now)?;
            return Err(error.into());
        }
        state.revoked = revoked;
        if let Some(identity) = identity {
            state.barred.insert(identity, at);
        }
        self.authority.announce();
        let done: Vec<_> = fresh.iter().filter_map(|serial| shown(serial, state.revoked.get(serial)?)).collect();
        for one in &done {
            tracing::info!(serial = %one.serial, identity = %one.identity, reason = %one.reason, "revoked a certificate");
            self.audit.write(Event::Revoked { serial: &one.serial, identity: &one.identity, reason: &one.reason });
        }
        Ok(done)
    }

    /// What is revoked, the latest first.
    pub async fn revoked(&self) -> Vec<Shown> {
        let state = self.state.read().await;
        let mut all: Vec<_> = state.revoked.iter().filter_map(|(serial, entry)| shown(serial, entry)).collect();
        all.sort_by(|a, b| b.revoked_at.cmp(&a.revoked_at).then_with(|| a.serial.cmp(&b.serial)));
        all
    }

    /// The lists as they are told, in PEM.
    #[must_use]
    pub fn lists(&self) -> String {
        lists_to_pem(self.authority.ca().bundle().revocations())
    }

    /// Forgets what has expired, and signs the lists anew where that is due.
    ///
    /// # Errors
    /// When the store fails or the authority cannot sign.
    pub async fn sweep(&self, now: SystemTime) -> Result<(), Refusal> {
        let mut state = self.state.write().await;
        let at = unix(now);
        let mut writes = Vec::new();
        let mut revoked = state.revoked.clone();
        for (record, entry) in self.ledger.certificates().await? {
            if entry.not_after + GRACE < at {
                revoked.remove(&*record.key.name);
                writes.push(change::<Entry>(&record, None)?);
            }
        }
        // Whatever such an identity had has expired by then.
        let life = self.authority.ca().max_ttl().as_secs() + GRACE;
        let mut barred = state.barred.clone();
        for (record, one) in self.ledger.barred().await? {
            if one.at + life < at {
                barred.remove(&one.identity);
                writes.push(change::<Barred>(&record, None)?);
            }
        }
        self.ledger.write(writes).await?;
        let fewer = revoked.len() < state.revoked.len();
        *state = State { revoked, barred };
        let bundle = self.authority.ca().bundle();
        let due = bundle.revocations().iter().any(|list| list.next_update() < now + LIST_VALIDITY / 2);
        if fewer || due {
            self.authority.revoke(revocations(&state.revoked))?;
        }
        Ok(())
    }

    /// Sweeps until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let every = (self.authority.ca().max_ttl() / 4).clamp(SWEEP.0, SWEEP.1);
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = shutdown.cancelled() => return,
            }
            if let Err(error) = self.sweep(SystemTime::now()).await {
                tracing::error!(%error, "cannot renew the revocation lists; those that are out still hold");
            }
        }
    }
}

impl Issuing<'_> {
    /// Whether the holder of a certificate of this identity, valid from `not_before`, may have another for it.
    #[must_use]
    pub fn may_renew(&self, identity: &str, not_before: SystemTime) -> bool {
        // Certificates begin in the past: what counts is when they were issued.
        self.state.barred.get(identity).is_none_or(|at| unix(not_before + BACKDATE) >= *at)
    }

    /// Whether a token that was made then proves anything of this identity. One of the second in which the identity was revoked does not: it
    /// may be of before.
    #[must_use]
    pub fn may_enrol(&self, identity: &str, made: SystemTime) -> bool {
        self.state.barred.get(identity).is_none_or(|at| unix(made) > *at)
    }

    /// Writes down what was issued.
    ///
    /// # Errors
    /// When the store fails: then nobody may get it, since nobody could revoke it.
    pub async fn record(self, issued: &Issued) -> Result<(), StoreError> {
        self.ledger.record(issued).await
    }
}

fn revocations(revoked: &BTreeMap<String, Entry>) -> Vec<Revocation> {
    let one = |(serial, entry): (&String, &Entry)| {
        let said = entry.revoked.as_ref()?;
        Some(Revocation {
            issuer: entry.issuer,
            serial: bytes(serial)?,
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(said.at),
            reason: said.reason.parse().unwrap_or_default(),
        })
    };
    revoked.iter().filter_map(one).collect()
}

fn shown(serial: &str, entry: &Entry) -> Option<Shown> {
    let said = entry.revoked.as_ref()?;
    Some(Shown {
        serial: serial.to_owned(),
        identity: entry.identity.clone(),
        reason: said.reason.clone(),
        revoked_at: said.at,
        not_after: entry.not_after,
    })
}

/// As serial numbers are written here: lower case, no colons.
fn normal(serial: &str) -> Result<String, Refusal> {
    let digits: String = serial.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
    let wrong = digits.is_empty() || digits.len() > 40 || !digits.bytes().all(|b| b.is_ascii_hexdigit());
    if wrong {
        return Err(Refusal::Invalid(format!("{serial:?} is no serial number: write hexadecimal digits")));
    }
    Ok(digits)
}

fn bytes(serial: &str) -> Option<Vec<u8>> {
    (0..serial.len()).step_by(2).map(|i| u8::from_str_radix(serial.get(i..i + 2)?, 16).ok()).collect()
}

#[cfg(test)]
#[path = "revoker_tests.rs"]
mod tests;
