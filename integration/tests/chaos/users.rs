//! Users: a program in a network namespace of the mesh that knows nothing of it, and calls the storefront at a steady
//! rate. Seven of ten look at the page, three check out; each call is on a connection of its own and made once.

use crate::report::Calls;
use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_integration::rig::{Sidecar, wait_for};

/// Calls a second.
const RATE: u32 = 30;
/// What a person waits.
const PATIENCE: Duration = Duration::from_secs(5);

struct Call {
    at: Duration,
    took: Duration,
    outcome: Result<(), String>,
}

#[derive(Default)]
struct Seen {
    calls: Mutex<Vec<Call>>,
    /// When those began that have not ended.
    under_way: Mutex<BTreeSet<Duration>>,
    over: AtomicBool,
}

pub struct Users {
    began: Instant,
    seen: Arc<Seen>,
    thread: JoinHandle<()>,
}

/// Runs `work` on a thread in the network namespace of a process or of that name.
pub fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let namespace = File::open(namespace).unwrap();
    std::thread::spawn(move || {
        let network = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), network).unwrap();
        work()
    })
}

impl Users {
    /// Beside the sidecar `user`.
    pub fn start(user: &Sidecar, storefront: IpAddr) -> Self {
        let (began, seen) = (Instant::now(), Arc::<Seen>::default());
        let shared = Arc::clone(&seen);
        let thread = inside(&format!("/proc/{}/ns/net", user.sidecar_pid().unwrap()), move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(live(began, shared, storefront));
        });
        Self { began, seen, thread }
    }

    /// Since the beginning.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Calls that began in that time; waits until all of them have ended.
    pub fn between(&self, from: Duration, to: Duration) -> Calls {
        while self.seen.under_way.lock().unwrap().first().is_some_and(|at| *at < to) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let calls = self.seen.calls.lock().unwrap();
        let within = || calls.iter().filter(|call| (from..to).contains(&call.at));
        let failed = within().filter(|call| call.outcome.is_err()).count();
        Calls::of(within().map(|call| call.took).collect(), failed)
    }

    /// When the last call began that failed or took longer than `slow`.
    pub fn last_trouble(&self, slow: Duration) -> Option<Duration> {
        let waits = self.seen.under_way.lock().unwrap().iter().rfind(|at| self.now() > **at + slow).copied();
        let calls = self.seen.calls.lock().unwrap();
        let ended = calls.iter().filter(|call| call.outcome.is_err() || call.took > slow).map(|call| call.at).max();
        ended.max(waits)
    }

    /// The last failures, for a message.
    pub fn failures(&self) -> Vec<String> {
        let calls = self.seen.calls.lock().unwrap();
        let failed = calls.iter().rev().filter_map(|call| Some((call.at, call.outcome.as_ref().err()?)));
        failed.take(5).map(|(at, error)| format!("{at:?}: {error}")).collect()
    }

    /// Waits until a hundred calls in a row were well.
    pub fn wait_until_well(&self) {
        wait_for("the shop works", || {
            let calls = self.seen.calls.lock().unwrap();
            let well = calls.iter().rev().take_while(|call| call.outcome.is_ok()).count();
            if well >= 100 {
                Ok(())
            } else {
                Err(format!("{well} in a row are well, last {:?}", calls.last().map(|c| &c.outcome)))
            }
        });
    }

    pub fn stop(self) {
        self.seen.over.store(true, SeqCst);
        self.thread.join().unwrap();
    }
}

async fn live(began: Instant, seen: Arc<Seen>, storefront: IpAddr) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut under_way = tokio::task::JoinSet::new();
    for n in 0_u64.. {
        ticks.tick().await;
        if seen.over.load(SeqCst) {
            return;
        }
        let seen = Arc::clone(&seen);
        under_way.spawn(async move {
            let at = began.elapsed();
            seen.under_way.lock().unwrap().insert(at);
            let outcome = tokio::time::timeout(PATIENCE, call(storefront, n)).await;
            let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
            seen.calls.lock().unwrap().push(Call { at, took: began.elapsed() - at, outcome });
            seen.under_way.lock().unwrap().remove(&at);
        });
        while under_way.try_join_next().is_some() {}
    }
}

async fn call(storefront: IpAddr, n: u64) -> Result<(), String> {
    let mut stream = TcpStream::connect((storefront, 80)).await.map_err(|e| format!("connect: {e}"))?;
    let line = if n % 10 < 7 { "GET / " } else { "POST /checkout " };
    let request = format!("{line}HTTP/1.1\r\nHost: storefront\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|e| format!("write: {e}"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map_err(|e| format!("read: {e}"))?;
    if answer.starts_with(b"HTTP/1.1 200 ") { Ok(()) } else { Err(String::from_utf8_lossy(&answer).into_owned()) }
}
