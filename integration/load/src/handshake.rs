//! `weft-load handshake`: full mutual TLS 1.3 handshakes as a client, and a little after each.

use crate::clock::{self, Watch};
use crate::failure::Failure;
use crate::flags::{After, Handshake};
use crate::http2::{self, Link, Windows};
use crate::measure::{Spread, Tally, add};
use crate::socket::Target;
use crate::{tcp, tls};
use bytes::Bytes;
use h2::Reason;
use http::{Method, Request, Uri};
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What was negotiated last.
#[derive(Clone, Default)]
struct Seen {
    alpn: Option<String>,
    suite: Option<String>,
    group: Option<String>,
    identity: Option<String>,
}

struct Run {
    flags: Handshake,
    target: Target,
    connector: TlsConnector,
    name: ServerName<'static>,
    left: Cell<u64>,
    end: u64,
    tally: Tally,
    handshake: Spread,
    seen: RefCell<Seen>,
}

/// Runs it and prints what came of it; whether anything succeeded.
///
/// # Errors
///
/// A line for people about the files or the name.
pub async fn run(flags: Handshake) -> Result<bool, String> {
    let mut alpn = flags.alpn.clone();
    if alpn.is_empty() && matches!(flags.after, After::Connect | After::ConnectBytes | After::ConnectRequest) {
        alpn.push("h2".to_owned());
    }
    let config = tls::client(&flags.cert, &flags.key, &flags.roots, &alpn, flags.classic)?;
    let name = ServerName::try_from(flags.sni.clone()).map_err(|e| format!("--sni: {e}"))?;
    let began = clock::now();
    let run = Rc::new(Run {
        target: Target::new(flags.target, 0),
        connector: config.into(),
        name,
        left: Cell::new(flags.connections_in_all),
        end: began + clock::span(flags.duration),
        tally: Tally::default(),
        handshake: Spread::default(),
        seen: RefCell::default(),
        flags,
    });
    let mut workers = JoinSet::new();
    for _ in 0..run.flags.concurrency {
        workers.spawn_local(work(run.clone()));
    }
    while workers.join_next().await.is_some() {}
    let nanos = clock::now() - began;
    let seen = run.seen.borrow().clone();
    let mut result = run.tally.json("handshake", nanos);
    result.insert("handshakeUs".into(), run.handshake.json());
    result.insert("alpn".into(), seen.alpn.into());
    result.insert("suite".into(), seen.suite.into());
    result.insert("group".into(), seen.group.into());
    result.insert("identity".into(), seen.identity.into());
    crate::emit(&Value::Object(result));
    eprintln!("{}", run.tally.line("handshake", nanos));
    Ok(run.tally.total.get() > 0)
}

async fn work(run: Rc<Run>) {
    let mut watch = Watch::new(run.flags.timeout);
    loop {
        let started = clock::now();
        let left = run.left.get();
        if left == 0 || started >= run.end {
            return;
        }
        run.left.set(left - 1);
        match watch.within(started, once(&run, started)).await {
            Ok(()) => run.tally.right(true, clock::now() - started, 0),
            Err(failure) => {
                run.tally.wrong(failure);
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        }
    }
}

async fn once(run: &Run, started: u64) -> Result<(), Failure> {
    let stream = run.target.connect().await?;
    add(&run.tally.opened, 1);
    let mut stream = run.connector.connect(run.name.clone(), stream).await.map_err(|_| Failure::Tls)?;
    run.handshake.record(clock::now() - started);
    run.check(&stream)?;
    let after = run.after();
    if after.connect {
        return connect(run, stream, &after).await;
    }
    stream.write_all(&after.out).await.map_err(refused)?;
    let mut back = Vec::with_capacity(1024);
    while back.len() < after.back.len() {
        if stream.read_buf(&mut back).await.map_err(refused)? == 0 {
            return Err(Failure::Closed);
        }
    }
    after.check(&back)?;
    // The server's own goodbye shows that it had accepted this side's certificate.
    stream.shutdown().await.map_err(refused)?;
    loop {
        back.clear();
        match stream.read_buf(&mut back).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // A bare FIN, without the goodbye of TLS: not a refusal.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(refused(error)),
        }
    }
}

/// What is said after a handshake, and how the answer begins.
struct Said {
    connect: bool,
    out: Bytes,
    back: &'static [u8],
}

impl Said {
    fn check(&self, back: &[u8]) -> Result<(), Failure> {
        if back.starts_with(self.back) { Ok(()) } else { Err(Failure::Malformed) }
    }
}

/// In TLS 1.3 a client's certificate is refused after the client has finished.
fn refused(error: std::io::Error) -> Failure {
    if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) { Failure::Tls } else { error.into() }
}

impl Run {
    fn after(&self) -> Said {
        let connect = matches!(self.flags.after, After::Connect | After::ConnectBytes | After::ConnectRequest);
        let (out, back): (Bytes, &[u8]) = match self.flags.after {
            After::Close => (Bytes::new(), b""),
            After::Connect => (Bytes::from_static(b"?"), b"?"),
            After::Bytes | After::ConnectBytes => (Bytes::copy_from_slice(&tcp::header(0, 0)), &[tcp::DONE]),
            After::Request | After::ConnectRequest => {
                let host = &self.flags.host;
                (format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").into(), b"HTTP/1.1 200")
            }
        };
        Said { connect, out, back }
    }

    /// Notes what was negotiated and checks what was asked to be.
    fn check(&self, stream: &TlsStream<TcpStream>) -> Result<(), Failure> {
        let session = stream.get_ref().1;
        let identity = session.peer_certificates().and_then(|chain| tls::identity(chain.first()?));
        let right = self.flags.expect_identity.is_none() || self.flags.expect_identity == identity;
        let alpn = session.alpn_protocol();
        let mut seen = self.seen.borrow_mut();
        if seen.suite.is_none() {
            seen.alpn = alpn.map(|name| String::from_utf8_lossy(name).into_owned());
            seen.suite = session.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
            seen.group = session.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
        }
        seen.identity = identity;
        if !right {
            Err(Failure::Identity)
        } else if alpn.is_none() && !self.flags.alpn.is_empty() {
            Err(Failure::Alpn)
        } else {
            Ok(())
        }
    }
}

/// CONNECT, what is said on the stream, and the answer from it.
async fn connect(run: &Run, stream: TlsStream<TcpStream>, said: &Said) -> Result<(), Failure> {
    let uri = Uri::builder().authority(run.flags.authority.as_str()).build().map_err(|_| Failure::Malformed)?;
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = uri;
    let link = Link::over(stream, Windows::default()).await?;
    let mut sender = link.sender();
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
    let (response, mut tunnel) = sender.send_request(request, false)?;
    let (head, mut body) = response.await?.into_parts();
    if head.status != 200 {
        return Err(Failure::Status);
    }
    if http2::room(&mut tunnel, said.out.len()).await? < said.out.len() {
        return Err(Failure::Length);
    }
    tunnel.send_data(said.out.clone(), false)?;
    let mut back = Vec::with_capacity(1024);
    while back.len() < said.back.len() {
        let data = body.data().await.ok_or(Failure::Closed)??;
        body.flow_control().release_capacity(data.len())?;
        back.extend_from_slice(&data);
    }
    said.check(&back)?;
    // Fails when the peer has ended the stream already, as it may after the whole answer.
    let _ended_already = tunnel.send_data(Bytes::new(), true);
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => body.flow_control().release_capacity(data.len())?,
            // RFC 9113 § 8.1: nothing is wrong, the rest of the request is not wanted.
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => break,
            Err(error) => return Err(error.into()),
        }
    }
    drop((sender, tunnel, body));
    link.close().await;
    Ok(())
}
