//! HTTP/2 connections that cost more than they give, at the explicit listener and at the tunnel listener with a valid certificate: the memory
//! that they gain is bounded, they end or are held back, and calls of others succeed all the while. `attacks` says what is sent, `floods` sends it.

mod attacks;
mod floods;
mod idle;

use crate::mesh::{Mesh, Sidecar};
use crate::recorder::{Recorder, Script};
use crate::rig;
use crate::wire::{Client, Link};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// What one connection may make a sidecar keep.
const GROWTH: usize = 32 << 20;
/// How long a call of another client may take.
const PROMPT: Duration = Duration::from_secs(2);

/// Where an attack comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// The explicit listener, by prior knowledge.
    Explicit,
    /// The tunnel listener, as HBONE.
    Hbone,
    /// The tunnel listener, natively.
    Native,
}

/// A sidecar on both sides of itself: callers come in at its explicit listener and peers at its tunnel, and both lead to one application.
struct Stage {
    mesh: Mesh,
    sidecar: Sidecar,
    /// What attackers call; the other client calls a service of its own, since a service that an attacker may call is his to fill.
    application: SocketAddr,
    _recorders: [Recorder; 2],
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mesh = Mesh::new(folder.path());
        let head = &b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n"[..];
        let large = bytes::Bytes::from([head, &[b'x'; 1 << 20]].concat());
        let recorders = [
            Recorder::start(move |_: &str| Script { first: large.clone(), ..Script::default() }),
            Recorder::start(|_: &str| Script::default()),
        ];
        let application = recorders[0].at;
        let mut resources = rig::serves(&mesh, &[application], "PROTOCOL_HTTP1");
        let called = rig::calls(vec![
            rig::service("orders", "PROTOCOL_HTTP1", &json!({}), &[rig::bare("bare-1", application)]),
            rig::service("quiet", "PROTOCOL_HTTP1", &json!({}), &[rig::bare("bare-2", recorders[1].at)]),
        ]);
        for part in ["services", "endpoints"] {
            resources[part] = called[part].clone();
        }
        let sidecar = rig::sidecar(&mesh, "sidecar", "orders", &json!({"accessLog": {"path": "off"}}), resources);
        Self { mesh, sidecar, application, _recorders: recorders, _folder: folder }
    }

    /// A connection of an attacker, on which HTTP/2 may begin.
    fn enter(&self, door: Door) -> Link {
        let tunnel = || self.sidecar.address("tunnel");
        match door {
            Door::Explicit => Link::connect(self.sidecar.address("outbound")),
            Door::Hbone => rig::join(&self.mesh, tunnel(), &[weft_certs::tls::ALPN_HBONE], None),
            Door::Native => {
                let name = rig::server_name(self.application);
                rig::join(&self.mesh, tunnel(), &[weft_certs::tls::ALPN_NATIVE], Some(&name))
            }
        }
    }

    /// Resident memory of the sidecar, in bytes.
    fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.sidecar.pid)).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }

    /// Processor time of the sidecar so far, in hundredths of a second.
    fn worked(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.sidecar.pid)).unwrap();
        let after = stat.rsplit_once(')').unwrap().1;
        after.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    /// Runs an attack while another client calls without a pause, and holds memory and that client's calls against their bounds:
    /// `Err` says which was passed.
    fn endure<T: Send>(&self, name: &str, attack: impl FnOnce() -> T + Send) -> (T, Result<(), String>) {
        self.endure_within(GROWTH, name, attack)
    }

    /// The same with a bound on memory of its own, in bytes.
    fn endure_within<T: Send>(
        &self,
        growth: usize,
        name: &str,
        attack: impl FnOnce() -> T + Send,
    ) -> (T, Result<(), String>) {
        let mut bystander = Client::connect(self.sidecar.address("outbound"));
        // What the first call takes for good is no part of the growth.
        assert!(bystander.get("quiet", "/before").is_ok_and(|answer| answer.status == 200), "{name}: before");
        let (before, worked) = (self.memory(), self.worked());
        let done = AtomicBool::new(false);
        let (result, calls, slowest, most, wrong) = std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let (mut calls, mut slowest, mut most, mut wrong) = (0, Duration::ZERO, 0, None);
                while !done.load(SeqCst) || calls == 0 {
                    let began = Instant::now();
                    let answer = bystander.get("quiet", &format!("/{calls}"));
                    slowest = slowest.max(began.elapsed());
                    if !answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                        wrong = Some(format!("{name}: another client got {answer:?}"));
                        break;
                    }
                    calls += 1;
                    most = most.max(self.memory());
                }
                (calls, slowest, most, wrong)
            });
            let result = attack();
            let most_now = self.memory();
            done.store(true, SeqCst);
            let (calls, slowest, most, wrong) = watching.join().unwrap();
            (result, calls, slowest, most.max(most_now), wrong)
        });
        let grown = most.saturating_sub(before);
        let worked = self.worked() - worked;
        println!(
            "{name}: +{} KiB, {worked}0 ms of work; {calls} calls of another client, the slowest {slowest:?}",
            grown / 1024
        );
        let bounds = match () {
            () if grown > growth => Err(format!("{name}: {} KiB more", grown / 1024)),
            () if slowest >= PROMPT => Err(format!("{name}: a call of another client took {slowest:?}")),
            () => wrong.map_or(Ok(()), Err),
        };
        (result, bounds)
    }
}
