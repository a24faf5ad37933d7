//! The keys of issuers, fetched from where they publish them (`RequestAuthentication.spec.rules[].jwksUri`).
//!
//! A set is fetched again as its Cache-Control says, between a minute and an hour, and soon after a failure; the last good one stays until
//! a better one comes. Size, time and redirects are bounded: an address is written by whoever may write policies, so nothing of what it
//! answers is shown but whether it is a set of keys. What the keys are for is [`crate::compile`]'s business.

use super::Table;
use crate::fetch::{Plain, exchange};
use crate::kinds::RequestAuthentication;
use http::header::{ACCEPT, CACHE_CONTROL};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::Full;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use weft_certs::jwt::Keys;
use weft_certs::{CertificateDer, tls};

/// Bytes of a set.
const LARGEST: usize = 1 << 20;
/// From the resolution of the name to the last byte.
const DEADLINE: Duration = Duration::from_secs(10);
/// Bounds of how long a set is believed to be fresh, and what holds where the issuer does not say.
const FRESH: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
const UNSAID: Duration = Duration::from_secs(300);
/// After a failure: doubled up to the first bound of freshness.
const AGAIN: Duration = Duration::from_secs(2);
/// Addresses that are asked at once, and that are followed at all.
const AT_ONCE: usize = 8;
const MOST: usize = 1024;

/// What is known of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Jwks {
    /// The last good set; `None`: there was none yet.
    pub keys: Option<Arc<str>>,
    /// Why the last fetch failed; `None`: it did not.
    pub failure: Option<String>,
}

/// Everything that is known, by address.
pub type Shared = Arc<Mutex<Table<Arc<Jwks>>>>;

/// How keys are fetched.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Roots of web servers; empty: those of the system.
    pub roots: Vec<CertificateDer<'static>>,
    /// Plain HTTP is spoken to addresses on loopback.
    pub loopback_http: bool,
}

/// When an address is asked next, and how often in a row that failed.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Instant,
    failures: u32,
}

/// The addresses that policies name.
pub fn addresses<'p>(policies: impl Iterator<Item = &'p RequestAuthentication>) -> BTreeSet<String> {
    let rules = policies.flat_map(|policy| &policy.spec.rules);
    rules.filter(|rule| rule.jwks.is_none()).filter_map(|rule| rule.jwks_uri.clone()).take(MOST).collect()
}

/// Keeps the sets of the wanted addresses until `changes` ends; `news` is told when one differs.
pub async fn follow(
    settings: Settings,
    wanted: impl Fn() -> BTreeSet<String>,
    known: Shared,
    mut changes: watch::Receiver<u64>,
    news: impl Fn(),
) {
    let client = Arc::new(Client::new(settings));
    let mut due: BTreeMap<String, Due> = BTreeMap::new();
    let mut asked: JoinSet<(String, Result<Fetched, String>)> = JoinSet::new();
    let mut waiting: BTreeSet<String> = BTreeSet::new();
    loop {
        changes.borrow_and_update();
        let now = Instant::now();
        let wanted = wanted();
        due.retain(|address, _| wanted.contains(address));
        forget(&known, &wanted);
        for address in &wanted {
            due.entry(address.clone()).or_insert(Due { at: now, failures: 0 });
        }
        let ready = due.iter().filter(|(address, due)| due.at <= now && !waiting.contains(*address));
        let ready: Vec<String> = ready.map(|(address, _)| address.clone()).take(AT_ONCE - asked.len()).collect();
        for address in ready {
            waiting.insert(address.clone());
            let client = client.clone();
            asked.spawn(async move {
                let fetched = client.fetch(&address).await;
                (address, fetched)
            });
        }
        let next = due.iter().filter(|(address, _)| !waiting.contains(*address)).map(|(_, due)| due.at).min();
        let full = asked.len() >= AT_ONCE;
        let pause = next.filter(|_| !full).map_or(FRESH.1, |at| at.saturating_duration_since(Instant::now()));
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            Some(Ok((address, fetched))) = asked.join_next() => {
                waiting.remove(&address);
                if let Some(due) = due.get_mut(&address) {
                    *due = due.after(&fetched);
                    if learn(&known, &address, fetched) {
                        news();
                    }
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Due {
    fn after(self, fetched: &Result<Fetched, String>) -> Self {
        match fetched {
            Ok(fetched) => Self { at: Instant::now() + fetched.fresh, failures: 0 },
            Err(_) => {
                let wait = AGAIN.saturating_mul(1 << self.failures.min(16)).min(FRESH.0);
                Self { at: Instant::now() + wait, failures: self.failures.saturating_add(1) }
            }
        }
    }
}

fn forget(known: &Shared, wanted: &BTreeSet<String>) {
    let mut known = known.lock();
    let gone: Vec<Arc<str>> = known.keys().filter(|address| !wanted.contains(&***address)).cloned().collect();
    for address in gone {
        known.remove(&address);
    }
}

/// Whether that is news.
fn learn(known: &Shared, address: &str, fetched: Result<Fetched, String>) -> bool {
    let mut known = known.lock();
    let before = known.get(address).map(|known| (**known).clone()).unwrap_or_default();
    let now = match fetched {
        Ok(fetched) if before.keys.as_deref() == Some(&*fetched.keys) => Jwks { failure: None, ..before.clone() },
        Ok(fetched) => Jwks { keys: Some(fetched.keys), failure: None },
        Err(failure) => {
            tracing::warn!(%address, %failure, "the keys of an issuer could not be fetched");
            Jwks { failure: Some(failure), ..before.clone() }
        }
    };
    let is_news = now != before || known.get(address).is_none();
    if is_news {
        known.insert(address.to_owned(), Arc::new(now));
    }
    is_news
}

#[derive(Debug)]
struct Fetched {
    keys: Arc<str>,
    fresh: Duration,
}

struct Client {
    settings: Settings,
    tls: Mutex<Option<Arc<rustls::ClientConfig>>>,
}

impl Client {
    fn new(settings: Settings) -> Self {
        Self { settings, tls: Mutex::new(None) }
    }

    /// Made when it is first needed: without RequestAuthentications no roots are read.
    fn tls(&self) -> Result<Arc<rustls::ClientConfig>, String> {
        let mut made = self.tls.lock();
        if let Some(config) = &*made {
            return Ok(config.clone());
        }
        let roots = match self.settings.roots.as_slice() {
            [] => tls::system_roots().map_err(|error| error.to_string())?,
            roots => roots.to_vec(),
        };
        let config = tls::web_client_config(roots).map_err(|error| error.to_string())?;
        *made = Some(config.clone());
        Ok(config)
    }

    async fn fetch(&self, address: &str) -> Result<Fetched, String> {
        let uri: Uri = address.parse().map_err(|_| "is no address".to_owned())?;
        let plain = if self.settings.loopback_http { Plain::Loopback } else { Plain::Never };
        if plain == Plain::Never && uri.scheme_str() != Some("https") && uri.host().is_some() {
            return Err("plain HTTP is not spoken (weft up --jwks-loopback-http)".to_owned());
        }
        let request = Request::get("/").header(ACCEPT, "application/jwk-set+json, application/json");
        let request = request.body(Full::default()).map_err(|_| "is no address".to_owned())?;
        let (parts, body) = exchange(&uri, request, || self.tls(), plain, (LARGEST, DEADLINE)).await?;
        if parts.status != StatusCode::OK {
            return Err(format!("answered {}", parts.status.as_u16()));
        }
        let text = std::str::from_utf8(&body).map_err(|_| "the answer is no text".to_owned())?;
        // What a reader of JSON says may quote what it read.
        Keys::parse(text).map_err(|fault| match fault {
            weft_certs::jwt::KeyFault::NotASet(_) => "the answer is no JSON Web Key Set".to_owned(),
            fault => format!("the answer {fault}"),
        })?;
        Ok(Fetched { keys: text.into(), fresh: freshness(&parts.headers) })
    }
}

/// `max-age` within its bounds; `no-store` and `no-cache` are the least of them (RFC 9111 §5.2.2).
fn freshness(headers: &HeaderMap) -> Duration {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut fresh = UNSAID;
    for directive in values.flat_map(|value| value.split(',')).map(str::trim) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return FRESH.0,
            "max-age" => {
                if let Ok(seconds) = value.trim_matches('"').parse() {
                    fresh = Duration::from_secs(seconds);
                }
            }
            _ => {}
        }
    }
    fresh.clamp(FRESH.0, FRESH.1)
}

#[cfg(test)]
mod tests;
