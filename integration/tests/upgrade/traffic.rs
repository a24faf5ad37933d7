//! Callers: calls at a steady rate, half of them on connections of their own and half on kept ones, and websockets that
//! echo. A call that fails is a failure; a kept connection is given up only where an answer says `Connection: close`.

use crate::app::{self, KEY};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weft_integration::rig::wait_for;

/// Kept connections that the calls take in turn.
const KEPT: usize = 32;
/// Calls under way at once: where a busy machine stands still for a moment, what has piled up is not the sidecar's to
/// carry.
const UNDER_WAY: usize = 400;
/// One call, or one echo.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often each websocket says something.
const ECHO: Duration = Duration::from_millis(200);

/// Where calls go, and how.
#[derive(Clone)]
pub struct Door {
    /// A listener of a sidecar.
    pub address: String,
    /// What a request begins its target with: `http://echo` for an explicit proxy.
    pub base: String,
    /// More header fields, each with its line's end.
    pub fields: String,
}

impl Door {
    async fn connect(&self) -> Result<TcpStream, String> {
        let stream = TcpStream::connect(&self.address).await.map_err(|e| format!("connect: {e}"))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(stream)
    }

    fn request(&self, fields: &str) -> String {
        format!("GET {}/x HTTP/1.1\r\nHost: echo\r\n{}{fields}\r\n", self.base, self.fields)
    }
}

/// What was seen.
#[derive(Default)]
struct Seen {
    calls: AtomicU64,
    failures: Mutex<Vec<String>>,
    echoes: Mutex<Vec<Arc<AtomicU64>>>,
    over: AtomicBool,
}

impl Seen {
    fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }

    fn note(&self, what: &str, outcome: Result<(), String>) {
        self.calls.fetch_add(1, SeqCst);
        if let Err(error) = outcome {
            self.failures.lock().unwrap().push(format!("{what}: {error}"));
        }
    }
}

/// Traffic through one door.
pub struct Traffic {
    seen: Arc<Seen>,
    websockets: Vec<JoinHandle<()>>,
    caller: JoinHandle<()>,
    began: Instant,
}

/// One exchange; whether the connection may be kept.
async fn exchange(stream: &mut TcpStream, request: &str) -> Result<bool, String> {
    let call = async {
        stream.write_all(request.as_bytes()).await.map_err(|e| format!("write: {e}"))?;
        let head = app::head(stream).await.ok_or("the connection ended before the answer")?;
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(head);
        }
        let mut body = [0; 2];
        stream.read_exact(&mut body).await.map_err(|e| format!("body: {e}"))?;
        Ok(!head.to_ascii_lowercase().contains("connection: close"))
    };
    timeout(PATIENCE, call).await.map_err(|_| format!("not within {PATIENCE:?}"))?
}

async fn on_its_own(door: &Door) -> Result<(), String> {
    exchange(&mut door.connect().await?, &door.request("Connection: close\r\n")).await.map(drop)
}

async fn on_a_kept_one(door: &Door, kept: &tokio::sync::Mutex<Option<TcpStream>>) -> Result<(), String> {
    let mut kept = kept.lock().await;
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => door.connect().await?,
    };
    if exchange(&mut stream, &door.request("")).await? {
        *kept = Some(stream);
    }
    Ok(())
}

/// Opens a websocket.
pub async fn websocket(door: &Door) -> Result<TcpStream, String> {
    let mut stream = door.connect().await?;
    let fields = format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
    );
    stream.write_all(door.request(&fields).as_bytes()).await.map_err(|e| e.to_string())?;
    let head = timeout(PATIENCE, app::head(&mut stream)).await.map_err(|_| "no answer".to_owned())?;
    let head = head.ok_or("the connection ended before the handshake")?;
    if head.starts_with("HTTP/1.1 101 ") { Ok(stream) } else { Err(head) }
}

/// Says something and hears it back.
pub async fn echo(stream: &mut TcpStream, word: u64) -> Result<(), String> {
    let exchange = async {
        stream.write_all(&word.to_be_bytes()).await.map_err(|e| format!("write: {e}"))?;
        let heard = stream.read_u64().await.map_err(|e| format!("read: {e}"))?;
        if heard == word { Ok(()) } else { Err(format!("{heard} came back for {word}")) }
    };
    timeout(PATIENCE, exchange).await.map_err(|_| format!("no echo within {PATIENCE:?}"))?
}

impl Traffic {
    /// `rate` calls a second and `websockets` of them, all open when this returns.
    pub fn start(runtime: &Runtime, door: &Door, rate: u32, websockets: usize) -> Self {
        let seen = Arc::<Seen>::default();
        let open: Vec<TcpStream> = runtime.block_on(async {
            let mut open = Vec::new();
            for n in 0..websockets {
                open.push(websocket(door).await.unwrap_or_else(|e| panic!("websocket {n}: {e}")));
            }
            open
        });
        let websockets = open.into_iter().enumerate().map(|(n, stream)| {
            let (seen, count) = (Arc::clone(&seen), Arc::<AtomicU64>::default());
            seen.echoes.lock().unwrap().push(Arc::clone(&count));
            runtime.spawn(async move { talk(&seen, n, stream, &count).await })
        });
        let websockets = websockets.collect();
        let caller = runtime.spawn(call(Arc::clone(&seen), door.clone(), rate));
        Self { seen, websockets, caller, began: Instant::now() }
    }

    /// Waits for `more` calls and for every websocket to speak twice, all without a failure.
    #[track_caller]
    pub fn go_on_well(&self, more: u64) {
        let from = self.calls();
        let echoes = self.echoes();
        wait_for("traffic goes on", || {
            self.assert_well();
            let (calls, now) = (self.calls(), self.echoes());
            let silent = now.iter().zip(&echoes).filter(|(now, before)| **now < **before + 2).count();
            if calls >= from + more && silent == 0 { Ok(()) } else { Err(format!("{calls} calls, {silent} silent")) }
        });
    }

    /// Nothing has failed so far.
    #[track_caller]
    pub fn assert_well(&self) {
        let failures = self.seen.failures();
        let first = &failures[..failures.len().min(5)];
        assert!(failures.is_empty(), "{} of {} failed, first {first:?}", failures.len(), self.calls());
    }

    /// Calls made.
    pub fn calls(&self) -> u64 {
        self.seen.calls.load(SeqCst)
    }

    fn echoes(&self) -> Vec<u64> {
        self.seen.echoes.lock().unwrap().iter().map(|count| count.load(SeqCst)).collect()
    }

    /// Echoes heard by all websockets together.
    pub fn echoed(&self) -> u64 {
        self.echoes().iter().sum()
    }

    /// Calls a second, since the beginning.
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let calls = self.calls() as f64;
        calls / self.began.elapsed().as_secs_f64()
    }

    /// Ends it, websockets by closing them; nothing failed.
    #[track_caller]
    pub fn stop(self, runtime: &Runtime) {
        self.seen.over.store(true, SeqCst);
        runtime.block_on(async {
            self.caller.await.unwrap();
            for websocket in self.websockets {
                websocket.await.unwrap();
            }
        });
        let failures = self.seen.failures();
        assert!(failures.is_empty(), "{failures:?}");
    }
}

async fn talk(seen: &Seen, n: usize, mut stream: TcpStream, count: &AtomicU64) {
    let mut ticks = tokio::time::interval(ECHO);
    while !seen.over.load(SeqCst) {
        ticks.tick().await;
        let word = count.load(SeqCst);
        if let Err(error) = echo(&mut stream, word).await {
            seen.failures.lock().unwrap().push(format!("websocket {n} after {word} echoes: {error}"));
            return;
        }
        count.fetch_add(1, SeqCst);
    }
}

async fn call(seen: Arc<Seen>, door: Door, rate: u32) {
    let kept: Vec<_> = (0..KEPT).map(|_| Arc::new(tokio::sync::Mutex::new(None))).collect();
    let door = Arc::new(door);
    // Calls begin when it is their time, whether or not earlier ones have been answered.
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut under_way = tokio::task::JoinSet::new();
    for n in 0_usize.. {
        ticks.tick().await;
        if seen.over.load(SeqCst) {
            break;
        }
        let (seen, door, kept) = (Arc::clone(&seen), Arc::clone(&door), Arc::clone(&kept[n / 2 % KEPT]));
        under_way.spawn(async move {
            if n % 2 == 0 {
                seen.note("a new connection", on_its_own(&door).await);
            } else {
                seen.note("a kept connection", on_a_kept_one(&door, &kept).await);
            }
        });
        while under_way.try_join_next().is_some()
            || (under_way.len() >= UNDER_WAY && under_way.join_next().await.is_some())
        {}
    }
    while under_way.join_next().await.is_some() {}
}
