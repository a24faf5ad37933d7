//! Worker threads: each its own current-thread runtime, sockets, connections and pools, so that no call ever waits for another thread.
//! What they share is atomics and the snapshots of discovery.

use super::sockets::{Bound, Sockets};
use crate::codec::{Limits, Timers};
use crate::config::Settings;
use crate::discovery::Directory;
use crate::drain::{Drain, Side};
use crate::endpoint::connect::{self, Connector};
use crate::endpoint::probe;
use crate::exchange::Exchange;
use crate::inbound::{self, Inbound};
use crate::intercept::{Mode, StandIns};
use crate::listen::{self, Dealer, Gate};
use crate::outbound::{self, Outbound};
use crate::takeover::message::Kind;
use crate::takeover::{Shelf, Turn};
use crate::telemetry::{Direction, Telemetry};
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use weft_certs::LiveIdentity;
use weft_certs::tls::ClientConfigs;
use weft_policy::limit::Bulkhead;

/// What all workers share.
#[derive(Clone)]
pub(super) struct Shared {
    settings: Arc<Settings>,
    directory: Directory,
    identity: Option<Arc<LiveIdentity>>,
    drain: Drain,
    telemetry: Arc<Telemetry>,
    own: Vec<SocketAddr>,
    ports: Arc<inbound::Ports>,
    outbound_limit: Arc<Bulkhead>,
    inbound_limit: Arc<Bulkhead>,
    outbound_permits: Arc<Semaphore>,
    inbound_permits: Arc<Semaphore>,
    arrival: inbound::Arrival,
    /// What the application's DNS gives for hosts outside.
    pub(super) stand_ins: Arc<StandIns>,
    /// When connections are accepted.
    pub(super) turn: Turn,
    /// Where listeners are found by a successor.
    pub(super) shelf: Shelf,
}

/// Ports that interception rules must know.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports {
    pub outbound: u16,
    pub plaintext: Option<u16>,
    pub dns: Option<u16>,
    pub direct: Vec<u16>,
}

/// The running workers.
pub(super) struct Workers {
    threads: Vec<std::thread::JoinHandle<()>>,
    ended: mpsc::UnboundedReceiver<String>,
    pub ports: Ports,
}

/// One accept loop.
type Loop = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Shared {
    pub(super) fn new(
        settings: &Settings,
        directory: &Directory,
        identity: Option<&Arc<LiveIdentity>>,
        drain: &Drain,
        telemetry: &Arc<Telemetry>,
        ports: &Arc<inbound::Ports>,
        own: Vec<SocketAddr>,
    ) -> Self {
        let limits = &settings.limits;
        Self {
            directory: directory.clone(),
            identity: identity.cloned(),
            drain: drain.clone(),
            telemetry: telemetry.clone(),
            own,
            ports: ports.clone(),
            outbound_limit: Arc::new(Bulkhead::new(limits.requests)),
            inbound_limit: Arc::new(Bulkhead::new(limits.requests)),
            outbound_permits: Arc::new(Semaphore::new(limits.outbound_connections as usize)),
            inbound_permits: Arc::new(Semaphore::new(limits.inbound_connections as usize)),
            settings: Arc::new(settings.clone()),
            arrival: inbound::Arrival::Direct,
            stand_ins: Arc::default(),
            turn: Turn::new(),
            shelf: Shelf::default(),
        }
    }

    /// Whom metrics name as the source of outbound calls: the first service, else the workload, else nobody.
    fn source(&self) -> String {
        let Some(workload) = &self.settings.workload else {
            let snapshot = self.directory.snapshot();
            return snapshot.inbound.as_ref().map(|i| i.workload.to_string()).unwrap_or_default();
        };
        match workload.services.first() {
            Some(service) => format!("{}/{service}", workload.namespace),
            None => workload.uid(),
        }
    }

    fn gate(&self, side: Side, kind: &'static str) -> Gate {
        let (direction, permits) = match side {
            Side::Inbound => (Direction::Inbound, &self.inbound_permits),
            Side::Outbound => (Direction::Outbound, &self.outbound_permits),
        };
        let (drain, telemetry) = (self.drain.clone(), self.telemetry.clone());
        Gate { direction, kind, permits: permits.clone(), drain, telemetry }
    }

    /// Makes it the runtime's, to be found by a successor as long as it is open.
    fn adopt(&self, placed: Placed) -> Result<Arc<tokio::net::TcpListener>, String> {
        let Placed { setting, address, listener } = placed;
        let listener = Arc::new(tokio::net::TcpListener::from_std(listener).map_err(|e| e.to_string())?);
        self.shelf.put(Kind::Tcp, &setting, &address, &listener);
        Ok(listener)
    }

    /// The accept loops of one worker. Called on its thread: connections and pools belong to its runtime.
    /// The first worker also asks after the health of endpoints.
    fn loops(&self, sockets: WorkerSockets, first: bool) -> Result<Vec<Loop>, String> {
        let source = self.source();
        let mark = (self.settings.transparent && self.settings.interception.exempt_uid.is_none())
            .then_some(crate::intercept::MARK);
        let connector = Connector::new(
            connect::Settings {
                source: source.clone(),
                limits: Limits::default(),
                mark,
                own: self.own.clone(),
                telemetry: Some(self.telemetry.clone()),
                handshakes: Some(self.telemetry.handshakes.clone()),
                grace: self.settings.drain.expired_grace.0,
            },
            self.identity.clone().map(|live| Arc::new(ClientConfigs::new(live))),
        );
        let exchange = Arc::new(Exchange {
            connector,
            directory: self.directory.clone(),
            address: self.settings.workload.as_ref().map(|w| w.address),
            telemetry: self.telemetry.clone(),
            source: source.into(),
            identity: self.identity.as_ref().map_or_else(|| "".into(), |live| live.id().as_str().into()),
            outbound_limit: self.outbound_limit.clone(),
            inbound_limit: self.inbound_limit.clone(),
            timers: Timers::default(),
            quiet: Timers::default(),
        });
        let outbound = Outbound::new(
            exchange.clone(),
            outbound::Settings {
                credentials: (self.settings.outbound.credentials.as_ref())
                    .map(|c| outbound::Credentials::new(&c.user, &c.password)),
                own: self.own.clone(),
                workload: (self.settings.workload.as_ref()).map(|w| w.address).filter(|_| self.settings.transparent),
                stand_ins: Arc::clone(&self.stand_ins),
                limits: Limits::default(),
            },
            self.drain.leave(Side::Outbound),
        );
        let inbound = Inbound::new(
            exchange.clone(),
            self.ports.clone(),
            self.identity.as_ref(),
            inbound::Settings {
                own: self.own.clone(),
                arrival: self.arrival,
                limits: Limits::default(),
                grace: self.settings.drain.expired_grace.0,
            },
            self.drain.leave(Side::Inbound),
        )
        .map_err(|e| e.to_string())?;

        let mut loops: Vec<Loop> = Vec::new();
        if first {
            let (directory, connector) = (self.directory.clone(), exchange.connector.clone());
            let end = self.drain.graceful(Side::Outbound);
            loops.push(Box::pin(async move { probe::run(directory, connector, end.cancelled_owned()).await }));
        }
        for listener in sockets.outbound {
            let (listener, outbound, transparent) =
                (self.adopt(listener)?, outbound.clone(), self.settings.transparent);
            let gate = self.gate(Side::Outbound, if transparent { "transparent" } else { "explicit" });
            loops.push(Box::pin(async move {
                gate.serve(listener, None, |accepted| {
                    let outbound = outbound.clone();
                    async move {
                        let original = transparent.then(|| listen::original_destination(&accepted.stream)).flatten();
                        match original {
                            Some(to) => outbound.transparent(accepted, Some(to)).await,
                            // What nobody redirected came by itself, and says where it wants to go.
                            None => outbound.explicit(accepted).await,
                        }
                    }
                })
                .await;
            }));
        }
        for (listener, host, port) in sockets.tcp {
            let (listener, outbound) = (self.adopt(listener)?, outbound.clone());
            let gate = self.gate(Side::Outbound, "named");
            loops.push(Box::pin(async move {
                gate.serve(listener, None, |accepted| outbound.clone().named(accepted, host.clone(), port)).await;
            }));
        }
        for (listener, dealer) in sockets.tunnel {
            let (listener, inbound) = (self.adopt(listener)?, inbound.clone());
            let gate = self.gate(Side::Inbound, "tunnel");
            loops.push(Box::pin(async move {
                gate.serve(listener, dealer, |accepted| inbound.clone().tunnel(accepted)).await;
            }));
        }
        for listener in sockets.plaintext {
            let (listener, inbound) = (self.adopt(listener)?, inbound.clone());
            let gate = self.gate(Side::Inbound, "plaintext");
            loops.push(Box::pin(async move {
                gate.serve(listener, None, |accepted| inbound.clone().plaintext(accepted)).await;
            }));
        }
        Ok(loops)
    }
}

/// A listener, and what it was bound for.
struct Placed {
    setting: Arc<str>,
    address: SocketAddr,
    listener: TcpListener,
}

/// The sockets of one worker.
#[derive(Default)]
struct WorkerSockets {
    outbound: Vec<Placed>,
    tcp: Vec<(Placed, Arc<str>, u16)>,
    tunnel: Vec<(Placed, Option<Dealer>)>,
    plaintext: Vec<Placed>,
}

impl Workers {
    /// Starts a thread for each set of sockets.
    pub(super) fn start(mut shared: Shared, sockets: Sockets) -> Result<Self, String> {
        let ports = Ports {
            outbound: sockets.outbound.first().map_or(0, |b| b.address.port()),
            plaintext: sockets.plaintext.first().map(|b| b.address.port()),
            dns: sockets.dns_addresses.first().map(SocketAddr::port),
            direct: sockets.tunnel.iter().map(|b| b.address.port()).chain([sockets.admin.0.port()]).collect(),
        };
        shared.arrival = match (ports.plaintext, shared.settings.interception.inbound_mode) {
            (Some(port), Mode::Tproxy) => inbound::Arrival::Diverted(port),
            (Some(_), Mode::Redirect) if shared.settings.transparent => inbound::Arrival::Redirected,
            _ => inbound::Arrival::Direct,
        };
        let (report, ended) = mpsc::unbounded_channel();
        let mut threads = Vec::new();
        let divided = divide(sockets, usize::from(shared.settings.workers.0)).map_err(|e| e.to_string())?;
        for (n, sockets) in divided.into_iter().enumerate() {
            let (shared, report) = (shared.clone(), report.clone());
            let thread = std::thread::Builder::new().name(format!("weft-worker-{n}")).spawn(move || {
                // Reported by its drop, so that a panic is as well.
                let mut end = Ended { report, reason: Some(format!("worker {n} panicked")) };
                let worked = work(&shared, sockets, n == 0);
                // Asked to end, one has nothing left to do before the others.
                let is_asked =
                    [Side::Inbound, Side::Outbound].iter().all(|side| shared.drain.graceful(*side).is_cancelled());
                end.reason = match worked {
                    Ok(()) if is_asked => None,
                    Ok(()) => Some(format!("worker {n} ended")),
                    Err(error) => Some(error),
                };
            });
            threads.push(thread.map_err(|e| format!("worker {n}: {e}"))?);
        }
        Ok(Self { threads, ended, ports })
    }

    /// The first worker that ended without having been asked to. Pending for ever once all have ended.
    pub(super) async fn died(&mut self) -> String {
        match self.ended.recv().await {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Waits for the threads, at most `patience`: what still runs then is a connection that does not heed the cut.
    pub(super) async fn join(self, patience: Duration) {
        let until = tokio::time::Instant::now() + patience;
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            if tokio::time::Instant::now() >= until {
                tracing::warn!("a worker did not end in time");
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Ended {
    report: mpsc::UnboundedSender<String>,
    reason: Option<String>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(reason) = self.reason.take() {
            let _ = self.report.send(reason);
        }
    }
}

fn work(shared: &Shared, sockets: WorkerSockets, first: bool) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let loops = shared.loops(sockets, first)?;
        let mut running = tokio::task::JoinSet::new();
        for one in loops {
            let turn = shared.turn.clone();
            running.spawn(async move {
                turn.begun().await;
                one.await;
            });
        }
        while let Some(ended) = running.join_next().await {
            ended.map_err(|e| e.to_string())?;
        }
        Ok(())
    })
}

fn divide(sockets: Sockets, workers: usize) -> io::Result<Vec<WorkerSockets>> {
    let mut all: Vec<WorkerSockets> = (0..workers.max(1)).map(|_| WorkerSockets::default()).collect();
    let mut deal = |bound: Bound, place: &mut dyn FnMut(&mut WorkerSockets, Placed)| {
        let (setting, address): (Arc<str>, _) = (bound.setting.as_str().into(), bound.address);
        for (worker, listeners) in all.iter_mut().zip(bound.spread(workers.max(1))?) {
            for listener in listeners {
                place(worker, Placed { setting: setting.clone(), address, listener });
            }
        }
        io::Result::Ok(())
    };
    for bound in sockets.outbound {
        deal(bound, &mut |worker, placed| worker.outbound.push(placed))?;
    }
    for (named, bound) in sockets.tcp {
        // Settings were validated: a host without a port does not come here.
        let Some((host, port)) = named.target() else { continue };
        let host: Arc<str> = host.into();
        deal(bound, &mut |worker, placed| worker.tcp.push((placed, host.clone(), port)))?;
    }
    if let Some(bound) = sockets.tunnel {
        let mut dealers = if workers > 1 { Dealer::all(workers) } else { Vec::new() };
        deal(bound, &mut |worker, placed| {
            let dealer = match worker.tunnel.first() {
                Some((_, first)) => first.as_ref().map(Dealer::beside),
                None => dealers.pop(),
            };
            worker.tunnel.push((placed, dealer));
        })?;
    }
    for bound in sockets.plaintext {
        deal(bound, &mut |worker, placed| worker.plaintext.push(placed))?;
    }
    Ok(all)
}
