//! Servers that fail: one listener for each pair of the table, which ends with the test process.

use super::fault::Fault::{self, *};
use crate::frames::{self, DATA, END_HEADERS, END_STREAM, Framed, GOAWAY, HEADERS, Next, RST_STREAM};
use crate::mesh::Mesh;
use crate::rig;
use parking_lot::Mutex;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use weft_certs::LiveIdentity;
use weft_certs::tls::{ALPN_HBONE, ClientAuth};

/// What was executed: requests that a server had in full.
#[derive(Default)]
pub struct Ledger {
    executed: Mutex<HashMap<String, usize>>,
    current: Mutex<String>,
    healthy: AtomicUsize,
    connections: AtomicUsize,
}

impl Ledger {
    /// How often the call with this id was.
    pub fn executed(&self, id: &str) -> usize {
        self.executed.lock().get(id).copied().unwrap_or_default()
    }

    /// How often the one was that was executed most.
    pub fn most(&self) -> usize {
        self.executed.lock().values().copied().max().unwrap_or_default()
    }

    /// Calls that the healthy endpoint answered.
    pub fn healthy(&self) -> usize {
        self.healthy.load(SeqCst)
    }

    /// The calls of a pair come one after the other: what a server cannot tell by itself is this one.
    pub fn begin(&self, id: &str) {
        id.clone_into(&mut self.current.lock());
    }

    fn note_current(&self) {
        let id = self.current.lock().clone();
        self.note(&id);
    }

    fn note(&self, target: &str) {
        *self.executed.lock().entry(target.trim_start_matches('/').to_owned()).or_default() += 1;
    }
}

/// A server and how it is reached.
pub struct Server {
    pub at: SocketAddr,
    /// It stands for a sidecar, which must be this one.
    identity: Option<String>,
    /// Keeps the port of one that does not listen from anybody else.
    _held: Option<Socket>,
}

impl Server {
    pub fn faulty(mesh: &Mesh, fault: Fault, ledger: &Arc<Ledger>) -> Self {
        let identity = fault.is_tunnel().then(|| mesh.id("orders").to_string());
        if matches!(fault, Refuses | TunnelRefuses) {
            // Bound and not listening: connections are refused, and nobody else is given the port.
            let held = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            held.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
            let at = held.local_addr().unwrap().as_socket().unwrap();
            return Self { at, identity, _held: Some(held) };
        }
        let tls = fault.is_tunnel().then(|| {
            let account = if fault == TunnelImpostor { "payments" } else { "orders" };
            let live = LiveIdentity::new(mesh.identity(account));
            weft_certs::tls::server_config(&live, ClientAuth::Required, &[ALPN_HBONE]).unwrap()
        });
        Self {
            at: listen(ledger, move |stream, ledger, nth| fault.act(stream, ledger, nth, tls.as_ref())),
            identity,
            _held: None,
        }
    }

    /// One that answers everything, in the protocol of the service; beside it is no sidecar.
    pub fn healthy(fault: Fault, ledger: &Arc<Ledger>) -> Self {
        let at = listen(ledger, move |stream, ledger, _| {
            if fault.is_h2() {
                serve_h2(stream, |io, stream| {
                    ledger.note_current();
                    ledger.healthy.fetch_add(1, SeqCst);
                    io.send(&answer_h2(stream))
                });
            } else {
                serve_h1(stream, |io, target| {
                    ledger.note(target);
                    ledger.healthy.fetch_add(1, SeqCst);
                    io.write_all(GOOD).is_ok()
                });
            }
        });
        Self { at, identity: None, _held: None }
    }

    /// How callers reach it: directly, or through the sidecar at `tunnel`.
    pub fn endpoint(&self, mesh: &Mesh, uid: &str, tunnel: Option<SocketAddr>) -> Value {
        if let Some(tunnel) = tunnel {
            return rig::meshed(mesh, uid, self.at, tunnel);
        }
        let mut endpoint = rig::bare(uid, self.at);
        if let Some(identity) = &self.identity {
            endpoint["tunnel"] = self.at.to_string().into();
            endpoint["identity"] = identity.as_str().into();
        }
        endpoint
    }
}

const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
/// How long a server that stalls holds its connection: longer than any call.
const HELD: Duration = Duration::from_secs(10);
/// Between two bytes of one that trickles.
const DRIP: Duration = Duration::from_millis(100);

/// Serves connections, each with its number, on threads that end with the test process.
fn listen(ledger: &Arc<Ledger>, serve: impl Fn(TcpStream, &Ledger, usize) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (at, ledger, serve) = (listener.local_addr().unwrap(), Arc::clone(ledger), Arc::new(serve));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (ledger, serve) = (Arc::clone(&ledger), Arc::clone(&serve));
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(HELD)).unwrap();
            std::thread::spawn(move || serve(stream, &ledger, ledger.connections.fetch_add(1, SeqCst)));
        }
    });
    at
}

fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Reads a request with its body; its target.
fn request(io: &mut impl Read) -> Option<String> {
    let (mut read, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        if let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            let length = crate::wire::header(&head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
            if read.len() >= end + 4 + length {
                return head.split(' ').nth(1).map(str::to_owned);
            }
        }
        match io.read(&mut buffer) {
            Ok(count @ 1..) => read.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
}

fn serve_h1(mut stream: TcpStream, mut answer: impl FnMut(&mut TcpStream, &str) -> bool) {
    while let Some(target) = request(&mut stream) {
        if !answer(&mut stream, &target) {
            return;
        }
    }
}

/// Answers each stream whose request is whole. Its target is compressed, and not needed: see [`Ledger::begin`].
fn serve_h2<S: Read + Write>(stream: S, mut answer: impl FnMut(&mut Framed<S>, u32) -> bool) {
    let Some(mut io) = Framed::server(stream) else { return };
    loop {
        let Next::Frame(frame) = io.next() else { return };
        if frame.ends_stream() && !answer(&mut io, frame.stream) {
            return;
        }
    }
}

fn answer_h2(stream: u32) -> Vec<u8> {
    let head = frames::frame(HEADERS, END_HEADERS, stream, &[0x88]);
    [head, frames::frame(DATA, END_STREAM, stream, b"hello")].concat()
}

fn go_away(last: u32) -> Vec<u8> {
    frames::frame(GOAWAY, 0, 0, &[last.to_be_bytes(), 0u32.to_be_bytes()].concat())
}

impl Fault {
    fn act(self, mut stream: TcpStream, ledger: &Ledger, nth: usize, tls: Option<&Arc<rustls::ServerConfig>>) {
        match self {
            Silent | TunnelNoHello => {
                if self == Silent
                    && let Some(target) = request(&mut stream)
                {
                    ledger.note(&target);
                }
                hold(&mut stream);
            }
            ResetsAtOnce => reset(&stream),
            ClosesUnread => {}
            TunnelResets => {
                let _ = stream.read(&mut [0; 64]);
                reset(&stream);
            }
            _ if self.is_h2() => self.act_h2(stream, ledger, nth),
            _ if self.is_tunnel() => {
                let session = rustls::ServerConnection::new(Arc::clone(tls.unwrap())).unwrap();
                self.act_tunnel(rustls::StreamOwned::new(session, stream));
            }
            RefusesEarly => {
                let mut some = [0; 4096];
                let _ = stream.read(&mut some);
                let _ = stream.write_all(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
            }
            _ => serve_h1(stream, |io, target| {
                ledger.note(target);
                self.answer(io)
            }),
        }
    }

    /// Answers a request that was read; whether the connection goes on.
    fn answer(self, io: &mut TcpStream) -> bool {
        let ok = |head: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").into_bytes();
        let (bytes, goes_on) = match self {
            ClosesUnanswered => (Vec::new(), false),
            ResetsUnanswered => (Vec::new(), false),
            ResetsInHead => (b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(), false),
            ResetsInLength => (ok("Content-Length: 50", "hello"), false),
            ResetsInChunks => (ok("Transfer-Encoding: chunked", "5\r\nhello\r\n"), false),
            StallsInBody => (ok("Content-Length: 50", "hello"), true),
            LengthTooShort => (ok("Content-Length: 5", "hello and more"), true),
            LengthTooLong => (ok("Content-Length: 50", "hello"), false),
            LargeHead => (ok(&format!("X: {}\r\nContent-Length: 5", "a".repeat(1 << 20)), "hello"), true),
            Garbage => (b"\x00\x01 this is no HTTP\r\n\r\n".to_vec(), true),
            LateContinue => (["HTTP/1.1 100 Continue\r\n\r\n".repeat(2).as_bytes(), GOOD].concat(), true),
            AnswersThenResets => (GOOD.to_vec(), false),
            Unavailable => (b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno".to_vec(), true),
            TricklesHead => return drip(io, GOOD, GOOD.len() - 5),
            TricklesBody => {
                let long = ok("Content-Length: 50", &"x".repeat(50));
                return io.write_all(&long[..long.len() - 50]).is_ok() && drip(io, &long[long.len() - 50..], 50);
            }
            _ => (GOOD.to_vec(), true),
        };
        let written = io.write_all(&bytes).is_ok();
        if matches!(self, ResetsUnanswered | ResetsInHead | ResetsInLength | ResetsInChunks | AnswersThenResets) {
            reset(io);
        }
        if self == StallsInBody {
            hold(io);
        }
        written && goes_on
    }

    fn act_h2(self, mut stream: TcpStream, ledger: &Ledger, nth: usize) {
        if self == H2NoSettings {
            return hold(&mut stream);
        }
        serve_h2(stream, |io, stream| {
            let first = nth == 0 && stream == 1;
            match self {
                // Only the first call is refused, and certainly not executed.
                H2GoAwayBelow if first => {
                    io.send(&go_away(0));
                    return false;
                }
                H2Refuses if first => {
                    let code = frames::REFUSED_STREAM.to_be_bytes();
                    return io.send(&frames::frame(RST_STREAM, 0, stream, &code));
                }
                _ => ledger.note_current(),
            }
            match self {
                H2GoAwayAbove => {
                    io.send(&go_away(stream));
                    io.send(&answer_h2(stream));
                    false
                }
                H2Resets => io.send(&frames::frame(RST_STREAM, 0, stream, &2u32.to_be_bytes())),
                H2ResetsInBody => {
                    io.send(&answer_h2(stream)[..9 + 1]);
                    io.send(&frames::frame(DATA, 0, stream, b"hello"));
                    io.send(&frames::frame(RST_STREAM, 0, stream, &2u32.to_be_bytes()))
                }
                H2Closes => false,
                _ => io.send(&answer_h2(stream)),
            }
        });
    }

    fn act_tunnel<S: Read + Write>(self, mut stream: S) {
        if self == TunnelNoSettings {
            // The handshake is made by reading.
            return hold(&mut stream);
        }
        let Some(mut io) = Framed::server(stream) else { return };
        loop {
            let frame = match io.next() {
                Next::Frame(frame) if frame.kind == HEADERS => frame,
                Next::Frame(_) => continue,
                Next::Ended | Next::Silence => return,
            };
            match self {
                TunnelSays503 => {
                    let status = frames::literal(b":status", b"503");
                    io.send(&frames::frame(HEADERS, END_HEADERS | END_STREAM, frame.stream, &status));
                }
                TunnelSilent => {
                    io.send(&frames::frame(HEADERS, END_HEADERS, frame.stream, &[0x88]));
                }
                TunnelGoAway => {
                    io.send(&go_away(0));
                    return;
                }
                _ => {}
            }
        }
    }
}

/// Reads until the peer is gone.
fn hold(io: &mut impl Read) {
    while let Ok(1..) = io.read(&mut [0; 4096]) {}
}

/// Sends the first `count` bytes slowly, and the rest; whether the peer took them.
fn drip(io: &mut TcpStream, bytes: &[u8], count: usize) -> bool {
    for byte in &bytes[..count] {
        std::thread::sleep(DRIP);
        if io.write_all(&[*byte]).is_err() {
            return false;
        }
    }
    io.write_all(&bytes[count..]).is_ok()
}
