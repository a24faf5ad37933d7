//! `weft-load soak`: a seeded mix of good and bad manners over several protocols, for finding what leaks. What should succeed is
//! checked; what is abandoned on purpose is only counted.

mod http1;
mod http2;
mod tcp;

use crate::clock::{self, SECOND};
use crate::failure::Failure;
use crate::flags::{Call, Protocol, Soak};
use crate::measure::{Tally, add, per_second, rounded};
use crate::plan::Plan;
use crate::socket::Target;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Answers that are abandoned in the middle are this long.
const LARGE: u64 = 8 << 20;
/// Bodies that are sent, small to large.
const BODIES: [u64; 3] = [100, 20_000, 300_000];
const PAUSE: Duration = Duration::from_millis(5);

/// What a worker may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Http1(http1::Action),
    Http2(http2::Action),
    Grpc(http2::GrpcAction),
    Tcp(tcp::Action),
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Http1(action) => action.name(),
            Self::Http2(action) => action.name(),
            Self::Grpc(action) => action.name(),
            Self::Tcp(action) => action.name(),
        }
    }
}

/// Calls of one protocol, prepared.
struct Calls {
    /// Small GET.
    get: Rc<Plan>,
    /// POSTs of several sizes.
    posts: Vec<Rc<Plan>>,
    /// A download that is read to the end.
    download: Rc<Plan>,
    /// One that is not.
    large: Rc<Plan>,
}

impl Calls {
    fn new(target: Option<SocketAddr>, protocol: Protocol, flags: &Soak) -> Result<Option<Self>, String> {
        let Some(target) = target else { return Ok(None) };
        let call = |path: Option<&str>, body: Option<u64>| {
            let call = Call {
                protocol,
                target,
                authority: flags.authority.clone(),
                path: path.map(str::to_owned),
                body,
                header: Vec::new(),
                expect_status: 200,
                expect_length: None,
                timeout: flags.timeout,
                sources: 0,
            };
            Plan::new(&call, None)
        };
        let posts: Result<Vec<_>, String> = BODIES.into_iter().map(|size| call(None, Some(size))).collect();
        Ok(Some(Self {
            get: call(None, None)?,
            posts: posts?,
            download: call(Some("/bytes/2000000"), None)?,
            large: call(Some(&format!("/bytes/{LARGE}")), None)?,
        }))
    }

    fn post(&self, random: &mut StdRng) -> &Rc<Plan> {
        &self.posts[random.random_range(0..self.posts.len())]
    }
}

/// What all workers share.
struct Run {
    flags: Soak,
    http1: Option<Calls>,
    http2: Option<Calls>,
    grpc: Option<Calls>,
    tcp: Option<Target>,
    menu: Vec<Action>,
    tally: Rc<Tally>,
    bytes: Cell<u64>,
    actions: RefCell<BTreeMap<&'static str, u64>>,
    failed: RefCell<BTreeMap<&'static str, u64>>,
    end: u64,
}

impl Run {
    /// A connection was opened.
    fn opened(&self) {
        add(&self.tally.opened, 1);
    }

    /// Body bytes came.
    fn took(&self, bytes: u64) {
        add(&self.bytes, bytes);
    }
}

/// What one worker keeps between actions.
struct Worker {
    run: Rc<Run>,
    random: StdRng,
    http1: Option<crate::http1::Connection>,
    http2: Option<crate::http2::Link>,
    grpc: Option<crate::http2::Link>,
    tcp: Option<tokio::net::TcpStream>,
}

/// Runs it and prints what came of it; whether anything succeeded.
///
/// # Errors
///
/// A line for people when there is no target or a call cannot be made up.
pub async fn run(flags: Soak) -> Result<bool, String> {
    let mut menu = Vec::new();
    menu.extend(flags.http1.iter().flat_map(|_| http1::Action::ALL.map(Action::Http1)));
    menu.extend(flags.http2.iter().flat_map(|_| http2::Action::ALL.map(Action::Http2)));
    menu.extend(flags.grpc.or(flags.http2).iter().flat_map(|_| http2::GrpcAction::ALL.map(Action::Grpc)));
    menu.extend(flags.tcp.iter().flat_map(|_| tcp::Action::ALL.map(Action::Tcp)));
    if menu.is_empty() {
        return Err("no target: give --http1, --http2, --grpc or --tcp".to_owned());
    }
    let began = clock::now();
    let run = Rc::new(Run {
        http1: Calls::new(flags.http1, Protocol::Http1, &flags)?,
        http2: Calls::new(flags.http2, Protocol::Http2, &flags)?,
        grpc: Calls::new(flags.grpc.or(flags.http2), Protocol::Grpc, &flags)?,
        tcp: flags.tcp.map(|address| Target::new(address, 0)),
        menu,
        tally: Rc::default(),
        bytes: Cell::new(0),
        actions: RefCell::default(),
        failed: RefCell::default(),
        end: began + clock::span(flags.duration),
        flags,
    });
    let mut workers = JoinSet::new();
    for index in 0..run.flags.workers {
        let random = StdRng::seed_from_u64(run.flags.seed.wrapping_mul(1_000_003).wrapping_add(index.into()));
        let worker = Worker { run: run.clone(), random, http1: None, http2: None, grpc: None, tcp: None };
        workers.spawn_local(worker.work());
    }
    while workers.join_next().await.is_some() {}
    let nanos = clock::now() - began;
    let counts = |map: &RefCell<BTreeMap<&'static str, u64>>| -> Map<String, Value> {
        map.borrow().iter().map(|(name, count)| ((*name).to_owned(), (*count).into())).collect()
    };
    let requests: u64 = run.actions.borrow().values().sum();
    crate::emit(&json!({
        "mode": "soak", "seed": run.flags.seed, "workers": run.flags.workers, "seconds": rounded(nanos as f64 / SECOND as f64, 3),
        "requests": requests, "perSecond": per_second(requests, nanos), "actions": counts(&run.actions),
        "errors": run.tally.failures.json(), "failed": counts(&run.failed), "bytes": run.bytes.get(),
        "opened": run.tally.opened.get(), "cpuSeconds": rounded(clock::cpu_seconds(), 6),
    }));
    let failures = run.tally.failures.total();
    eprintln!("soak: {requests} actions, {failures} failed, {} connections opened", run.tally.opened.get());
    Ok(requests > 0)
}

impl Worker {
    async fn work(mut self) {
        let run = self.run.clone();
        let gap = if run.flags.rate > 0.0 {
            Duration::from_secs_f64(f64::from(run.flags.workers) / run.flags.rate)
        } else {
            Duration::ZERO
        };
        while clock::now() < run.end {
            let action = run.menu[self.random.random_range(0..run.menu.len())];
            let result = tokio::time::timeout(run.flags.timeout, self.act(action)).await;
            match result.unwrap_or(Err(Failure::Timeout)) {
                Ok(()) => *run.actions.borrow_mut().entry(action.name()).or_default() += 1,
                Err(failure) => {
                    run.tally.wrong(failure);
                    *run.failed.borrow_mut().entry(action.name()).or_default() += 1;
                    (self.http1, self.http2, self.grpc, self.tcp) = (None, None, None, None);
                    tokio::time::sleep(PAUSE).await;
                }
            }
            if !gap.is_zero() {
                tokio::time::sleep(gap.mul_f64(self.random.random_range(0.5..1.5))).await;
            }
        }
    }

    async fn act(&mut self, action: Action) -> Result<(), Failure> {
        let Self { run, random, .. } = self;
        let run = run.clone();
        match action {
            Action::Http1(action) => {
                let Some(calls) = &run.http1 else { return Ok(()) };
                http1::act(action, &run, calls, random, &mut self.http1).await
            }
            Action::Http2(action) => {
                let Some(calls) = &run.http2 else { return Ok(()) };
                http2::act(action, &run, calls, random, &mut self.http2).await
            }
            Action::Grpc(action) => {
                let Some(calls) = &run.grpc else { return Ok(()) };
                http2::grpc(action, &run, calls, random, &mut self.grpc).await
            }
            Action::Tcp(action) => {
                let Some(target) = &run.tcp else { return Ok(()) };
                tcp::act(action, &run, target, random, &mut self.tcp).await
            }
        }
    }
}
