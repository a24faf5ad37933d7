//! What this sidecar knows of the mesh: the [`Directory`] that every worker reads, and the sources that fill it (xDS on demand, or a
//! watched file). Reading is one atomic load per call; everything that writes runs on the control thread.
//!
//! Decisions about resources (validation, warming, what to subscribe to) are pure and live in `state`; streams, files and disks
//! are in `xds`, `file` and `keep`. Nothing here looks at a request.

pub mod control;
mod dump;
pub mod file;
mod held;
mod keep;
pub mod link;
pub mod metrics;
mod publish;
pub mod state;
pub mod xds;

pub use dump::DumpRequest;
use dump::dump;
pub use keep::Keep;
use link::{Backoff, describe};
pub use publish::{Bundles, Publisher};

use crate::endpoint::Cluster;
use arc_swap::{ArcSwap, Guard};
use foldhash::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use weft_policy::config;

/// A name under which an application calls a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Alias {
    /// A host without its port, in lower case.
    Host(String),
    /// The address of a connection's original destination.
    Vip(IpAddr),
}

impl std::fmt::Display for Alias {
    /// The form that travels: `host:catalog`, `vip:10.96.0.7`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host(host) => write!(f, "host:{host}"),
            Self::Vip(ip) => write!(f, "vip:{ip}"),
        }
    }
}

impl Alias {
    /// Reads the form that travels; hosts come out in lower case and without a final dot.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(host) = text.strip_prefix("host:") {
            let host = host.trim_end_matches('.');
            (!host.is_empty()).then(|| Self::Host(host.to_ascii_lowercase()))
        } else {
            text.strip_prefix("vip:")?.parse().ok().map(Self::Vip)
        }
    }
}

/// What is known of an alias.
#[derive(Clone, Debug)]
pub enum Resolution {
    /// The service, as this client's namespace sees it.
    Found(Arc<config::Service>),
    /// The mesh answered that it has no such service: pass through or refuse, by egress mode.
    Absent,
    /// Nobody answered in time and nothing is remembered: 503.
    Unanswered,
}

/// What an alias means, with the mark by which its use is noticed.
#[derive(Clone, Debug)]
struct Entry {
    /// `None`: absent.
    service: Option<Arc<config::Service>>,
    /// Set by readers, cleared by the idle sweep.
    used: Arc<AtomicBool>,
}

impl Entry {
    fn touch(&self) {
        // Read first: a store on every call would move the cache line between workers.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }
}

/// Everything in force at one moment. A call loads it once and keeps it to its end.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows with every publication.
    pub generation: u64,
    /// Services in force by "namespace/name", those that are only backends included.
    pub services: HashMap<Arc<str>, Arc<config::Service>>,
    /// Live endpoint sets of every service in force, by "namespace/name" and port.
    clusters: HashMap<Arc<str>, Vec<(u16, Arc<Cluster>)>>,
    hosts: HashMap<Box<str>, Entry>,
    vips: HashMap<IpAddr, Entry>,
    /// Whether what is not listed is absent (a file lists everything) or only unknown (xDS on demand).
    complete: bool,
    /// What this workload accepts; `None` until known.
    pub inbound: Option<Arc<config::Inbound>>,
    /// Mesh-wide settings.
    pub settings: Arc<config::Settings>,
}

impl Snapshot {
    /// What is known of a host (no port, lower case) right now; `None`: ask. Marks the service as used.
    #[must_use]
    pub fn host(&self, host: &str) -> Option<Resolution> {
        self.known(self.hosts.get(host))
    }

    /// What is known of a virtual address right now; `None`: ask. Marks the service as used.
    #[must_use]
    pub fn vip(&self, ip: IpAddr) -> Option<Resolution> {
        self.known(self.vips.get(&ip))
    }

    /// What is known of an alias right now; `None`: ask.
    #[must_use]
    pub fn alias(&self, alias: &Alias) -> Option<Resolution> {
        match alias {
            Alias::Host(host) => self.host(host),
            Alias::Vip(ip) => self.vip(*ip),
        }
    }

    fn known(&self, entry: Option<&Entry>) -> Option<Resolution> {
        let Some(entry) = entry else {
            return self.complete.then_some(Resolution::Absent);
        };
        entry.touch();
        Some(entry.service.clone().map_or(Resolution::Absent, Resolution::Found))
    }

    /// The endpoints behind a backend; `None` when the service or the port is not known.
    #[must_use]
    pub fn cluster(&self, service: &str, port: u16) -> Option<&Arc<Cluster>> {
        self.clusters.get(service)?.iter().find(|(p, _)| *p == port).map(|(_, cluster)| cluster)
    }

    /// Every live endpoint set, for metrics and dumps.
    pub fn clusters(&self) -> impl Iterator<Item = (&str, u16, &Arc<Cluster>)> {
        self.clusters.iter().flat_map(|(name, ports)| ports.iter().map(move |(port, c)| (&**name, *port, c)))
    }
}

/// The door through which workers learn of the mesh. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Directory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    snapshot: ArcSwap<Snapshot>,
    published: watch::Sender<u64>,
    inbound: watch::Sender<u64>,
    asks: mpsc::Sender<Alias>,
}

impl Directory {
    /// What is in force now: one load per call.
    #[must_use]
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.0.snapshot.load()
    }

    /// What an alias means, asking the control plane when it is not known. Concurrent asks share one subscription. Returns by
    /// `deadline` at the latest.
    pub async fn resolve(&self, alias: Alias, deadline: Instant) -> Resolution {
        if let Some(known) = self.snapshot().alias(&alias) {
            return known;
        }
        let mut published = self.0.published.subscribe();
        let ask = async {
            if self.0.asks.send(alias.clone()).await.is_err() {
                return Resolution::Unanswered;
            }
            loop {
                published.borrow_and_update();
                if let Some(known) = self.snapshot().alias(&alias) {
                    return known;
                }
                if published.changed().await.is_err() {
                    return Resolution::Unanswered;
                }
            }
        };
        tokio::time::timeout_at(deadline.into(), ask).await.unwrap_or(Resolution::Unanswered)
    }

    /// Changes when `Snapshot::inbound` or the trust in peers does: open connections check authorization again.
    #[must_use]
    pub fn inbound_changes(&self) -> watch::Receiver<u64> {
        self.0.inbound.subscribe()
    }

    /// Changes with every published snapshot.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.published.subscribe()
    }
}
