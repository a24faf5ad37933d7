//! `weft-load serve`: the upstream of the benchmarks. Listeners, what they counted, and the page that shows it.

mod http1;
mod http2;
mod tcp;

use crate::clock;
use crate::failure::Failure;
use crate::flags::Serve;
use crate::measure::{add, rounded};
use crate::{socket, tls};
use rustls::ServerConfig;
use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Body of an answer to GET when the path asks for no other length.
const BODY: u64 = 1024;
/// Pause when the system has no descriptor for another connection.
const NO_DESCRIPTOR: Duration = Duration::from_millis(10);
const HANDSHAKE: Duration = Duration::from_secs(10);
const STATUS_CALL: Duration = Duration::from_secs(5);

/// What one protocol counted.
#[derive(Default)]
struct Count {
    requests: Cell<u64>,
    connections: Cell<u64>,
    open: Cell<u64>,
    bytes: Cell<u64>,
}

impl Count {
    fn json(&self) -> Value {
        json!({"requests": self.requests.get(), "connections": self.connections.get(), "open": self.open.get(), "bytes": self.bytes.get()})
    }
}

/// Counts of all protocols.
#[derive(Default)]
struct Counts {
    http1: Count,
    http2: Count,
    grpc: Count,
    tcp: Count,
    tls: Count,
}

impl Counts {
    fn json(&self) -> Value {
        json!({"http1": self.http1.json(), "http2": self.http2.json(), "grpc": self.grpc.json(), "tcp": self.tcp.json(),
               "tls": self.tls.json(), "cpuSeconds": rounded(clock::cpu_seconds(), 6)})
    }
}

/// What a listener's connections speak.
#[derive(Clone)]
enum Speaks {
    Http1,
    Http2,
    Tcp,
    Echo,
    Tls(TlsAcceptor),
    Status,
}

impl Speaks {
    fn count<'a>(&self, counts: &'a Counts) -> Option<&'a Count> {
        match self {
            Self::Http1 => Some(&counts.http1),
            Self::Http2 => Some(&counts.http2),
            Self::Tcp | Self::Echo => Some(&counts.tcp),
            Self::Tls(_) => Some(&counts.tls),
            Self::Status => None,
        }
    }
}

/// Serves until told to end; prints the addresses once it listens.
///
/// # Errors
///
/// A line for people when it cannot listen or read its certificates.
pub async fn run(flags: Serve) -> Result<bool, String> {
    let counts = Rc::new(Counts::default());
    let mut listeners = JoinSet::new();
    let mut bound = Map::new();
    let mut plan = vec![
        ("http1", flags.http1, Speaks::Http1),
        ("http2", flags.http2, Speaks::Http2),
        ("tcp", flags.tcp, Speaks::Tcp),
        ("echo", flags.echo, Speaks::Echo),
        ("status", flags.status, Speaks::Status),
    ];
    if let (Some(address), Some(cert), Some(key), Some(roots)) = (flags.tls, &flags.cert, &flags.key, &flags.roots) {
        let config: Arc<ServerConfig> = tls::server(cert, key, roots)?;
        plan.push(("tls", Some(address), Speaks::Tls(config.into())));
    }
    for (name, address, speaks) in plan {
        let Some(address) = address else { continue };
        let (listener, at) = listen(address).map_err(|e| format!("cannot listen on {address}: {e}"))?;
        bound.insert(name.to_owned(), at.to_string().into());
        listeners.spawn_local(accept(listener, speaks, counts.clone()));
    }
    if listeners.is_empty() {
        return Err("nothing to serve: give --http1, --http2, --tcp, --echo, --tls or --status".to_owned());
    }
    crate::emit(&Value::Object(bound));
    wait_for_the_end(&flags).await.map_err(|e| format!("cannot wait for signals: {e}"))?;
    listeners.shutdown().await;
    eprintln!(
        "serve: answered {} HTTP/1.1, {} HTTP/2, {} gRPC, {} TCP, {} TLS in {:.2} s of CPU",
        counts.http1.requests.get(),
        counts.http2.requests.get(),
        counts.grpc.requests.get(),
        counts.tcp.requests.get(),
        counts.tls.requests.get(),
        clock::cpu_seconds()
    );
    Ok(true)
}

async fn wait_for_the_end(flags: &Serve) -> io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        () = tokio::time::sleep(flags.lifetime) => {}
        () = crate::stdin_closes(), if flags.until_stdin_closes => {}
    }
    Ok(())
}

fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = socket::listen(address)?;
    let at = listener.local_addr()?;
    Ok((listener, at))
}

/// Owns the connections of one listener; they end with it.
async fn accept(listener: TcpListener, speaks: Speaks, counts: Rc<Counts>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn_local(connection(stream, speaks.clone(), counts.clone()));
                }
                Err(_) => tokio::time::sleep(NO_DESCRIPTOR).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// Counts a connection while it is open.
struct Open<'a>(&'a Count);

impl<'a> Open<'a> {
    fn new(count: &'a Count) -> Self {
        add(&count.connections, 1);
        add(&count.open, 1);
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

async fn connection(stream: TcpStream, speaks: Speaks, counts: Rc<Counts>) {
    let _open = speaks.count(&counts).map(Open::new);
    if stream.set_nodelay(true).is_err() {
        return;
    }
    // How a connection ended is the client's affair: it checks every answer.
    let _ended: Result<(), Failure> = match speaks {
        Speaks::Http1 => http1::connection(stream, &counts.http1).await,
        Speaks::Http2 => http2::connection(stream, counts.clone()).await,
        Speaks::Tcp => tcp::exchanges(stream, &counts.tcp).await,
        Speaks::Echo => tcp::echo(stream, &counts.tcp).await,
        Speaks::Tls(acceptor) => secure(stream, acceptor, counts.clone()).await,
        Speaks::Status => status(stream, &counts).await.map_err(Failure::from),
    };
}

async fn secure(stream: TcpStream, acceptor: TlsAcceptor, counts: Rc<Counts>) -> Result<(), Failure> {
    let accepted = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
    let stream = accepted.map_err(|_| Failure::Timeout)?.map_err(|_| Failure::Tls)?;
    add(&counts.tls.requests, 1);
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => http2::connection(stream, counts).await,
        Some(b"http/1.1") => http1::connection(stream, &counts.http1).await,
        _ => tcp::any_exchanges(stream, &counts.tls).await,
    }
}

/// One answer, whatever was asked.
async fn status(mut stream: TcpStream, counts: &Counts) -> io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    let asked = async {
        while !head.windows(4).any(|w| w == b"\r\n\r\n") {
            if head.len() > 16 * 1024 || stream.read_buf(&mut head).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let body = counts.json().to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}\n",
            body.len() + 1
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    tokio::time::timeout(STATUS_CALL, asked).await.unwrap_or(Ok(()))
}

/// What a path asks for.
#[derive(Clone, Copy)]
struct Asked {
    status: u16,
    length: u64,
}

/// `/bytes/N`, `/status/CODE`, or anything.
fn asked(path: &str) -> Asked {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let plain = Asked { status: 200, length: BODY };
    if let Some(length) = path.strip_prefix("/bytes/").and_then(|n| n.parse().ok()) {
        Asked { length, ..plain }
    } else if let Some(status) = path.strip_prefix("/status/").and_then(|c| c.parse().ok()) {
        if (200..600).contains(&status) { Asked { status, ..plain } } else { plain }
    } else {
        plain
    }
}
