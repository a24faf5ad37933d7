//! The programs of a pod that serves: redis and PostgreSQL as Debian has them, and for each other protocol a server that answers as the
//! protocol says and tells the client who the server thinks it is and where it was called: `peer=IP local=IP`.

use crate::lab::Machine;
use bytes::Bytes;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use tokio_rustls::rustls;
use weft_integration::rig::{Process, program, run, wait_for};

pub const HTTP1: u16 = 8080;
pub const HTTP2: u16 = 8081;
pub const GRPC: u16 = 8082;
pub const TLS: u16 = 8443;
pub const REDIS: u16 = 6379;
pub const POSTGRES: u16 = 5432;
pub const MYSQL: u16 = 3306;
pub const SMTP: u16 = 25;
pub const HALF_CLOSE: u16 = 9001;
pub const BULK: u16 = 9002;

/// The certificate that the TLS server shows, and its key.
pub struct Papers {
    pub certificate: rustls::pki_types::CertificateDer<'static>,
    key: rustls::pki_types::PrivateKeyDer<'static>,
}

/// The name in that certificate.
pub const NAME: &str = "tls.example.com";

/// Made once for the process.
pub fn papers() -> &'static Papers {
    use rustls::pki_types::pem::PemObject as _;
    static PAPERS: OnceLock<Papers> = OnceLock::new();
    PAPERS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let [key, certificate] = ["key", "pem"].map(|suffix| folder.path().join(suffix).to_str().unwrap().to_owned());
        let words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
        let name = format!("subjectAltName=DNS:{NAME}");
        let more = ["-subj", "/O=shop", "-addext", &name, "-addext", "basicConstraints=critical,CA:FALSE"];
        run(Command::new(program("openssl")).args(words).args(more).args(["-keyout", &key, "-out", &certificate])).ok();
        Papers {
            certificate: rustls::pki_types::CertificateDer::from_pem_file(certificate).unwrap(),
            key: rustls::pki_types::PrivateKeyDer::from_pem_file(key).unwrap(),
        }
    })
}

/// What runs in a pod.
pub struct Servers {
    _redis: Process,
    _postgres: Process,
    _folder: tempfile::TempDir,
}

impl Servers {
    /// Starts them all and waits until they listen.
    #[track_caller]
    pub fn start(machine: &Machine) -> Self {
        let folder = tempfile::Builder::new().prefix("weft-servers-").tempdir().unwrap();
        open_to_all(folder.path());
        let redis = redis(machine, folder.path());
        let postgres = postgres(machine, folder.path());
        serve(machine, HTTP1, http1);
        serve(machine, HTTP2, |stream| block(http2(stream, false)));
        serve(machine, GRPC, |stream| block(http2(stream, true)));
        let tls = tls_config();
        serve(machine, TLS, move |stream| block(tls_lines(stream, tls.clone())));
        serve(machine, MYSQL, mysql);
        serve(machine, SMTP, smtp);
        serve(machine, HALF_CLOSE, half_close);
        serve(machine, BULK, bulk);
        for port in [REDIS, POSTGRES] {
            wait_for("the server listens", || {
                machine.space.within(|| TcpStream::connect(("127.0.0.1", port)).map(drop)).map_err(|e| e.to_string())
            });
        }
        Self { _redis: redis, _postgres: postgres, _folder: folder }
    }
}

pub fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

fn redis(machine: &Machine, folder: &Path) -> Process {
    let port = REDIS.to_string();
    let words = ["--port", &port, "--bind", "*", "-::*", "--save", "", "--protected-mode", "no", "--dir"];
    let words = [&words[..], &[folder.to_str().unwrap()]].concat();
    Process::start(folder, "redis", &mut machine.space.command(program("redis-server"), &words))
}

const AS_POSTGRES: [&str; 5] = ["--reuid=postgres", "--regid=postgres", "--clear-groups", "--", ""];

fn as_postgres<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&AS_POSTGRES[..4], words].concat()
}

/// An empty database, made once for the process and copied.
fn database() -> &'static Path {
    static MADE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, data) = MADE.get_or_init(|| {
        let folder = tempfile::Builder::new().prefix("weft-initdb-").tempdir().unwrap();
        open_to_all(folder.path());
        run(Command::new("chown").arg("postgres").arg(folder.path())).ok();
        let data = folder.path().join("data");
        let initdb = program("initdb");
        let words = [initdb.to_str().unwrap(), "-D", data.to_str().unwrap(), "-U", "postgres", "--auth", "trust"];
        let more = ["--no-sync", "-E", "UTF8", "--locale", "C"];
        run(Command::new(program("setpriv")).args(as_postgres(&words)).args(more)).ok();
        std::fs::write(data.join("pg_hba.conf"), "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n").unwrap();
        (folder, data)
    });
    data
}

fn postgres(machine: &Machine, folder: &Path) -> Process {
    let data = folder.join("data");
    run(Command::new("cp").arg("-a").arg(database()).arg(&data)).ok();
    let server = program("postgres");
    let port = POSTGRES.to_string();
    let words = [server.to_str().unwrap(), "-D", data.to_str().unwrap(), "-p", &port, "-c", "listen_addresses=*"];
    let more = ["-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=20"];
    let words = as_postgres(&[&words[..], &more].concat());
    Process::start(folder, "postgres", &mut machine.space.command(program("setpriv"), &words))
}

/// Runs `serve` on a thread for each connection, of either family.
pub fn serve(machine: &Machine, port: u16, serve: impl Fn(TcpStream) -> Option<()> + Send + Sync + 'static) {
    let listener = machine.space.within(|| TcpListener::bind(("::", port)).unwrap());
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), serve) = (stream, Arc::clone(&serve)) else { continue };
            // Who breaks off is nobody's fault here: the client says what went wrong.
            std::thread::spawn(move || serve(stream));
        }
    });
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// `peer=IP local=IP`.
fn seen(stream: &TcpStream) -> Option<String> {
    let ip = |address: std::io::Result<std::net::SocketAddr>| Some(address.ok()?.ip().to_canonical());
    let (peer, local): (IpAddr, IpAddr) = (ip(stream.peer_addr())?, ip(stream.local_addr())?);
    Some(format!("peer={peer} local={local}"))
}

fn http1(stream: TcpStream) -> Option<()> {
    let seen = seen(&stream)?;
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let (mut length, mut last) = (0, false);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            last |= line == "connection: close";
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let mut answer = format!("{seen}\n").into_bytes();
        answer.extend(body);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
        writer.write_all(&[head.as_bytes(), &answer].concat()).ok()?;
        if last {
            return Some(());
        }
    }
}

/// Prior knowledge; each request is answered with what came. `grpc`: as a unary call, with its status in trailers.
async fn http2(stream: TcpStream, grpc: bool) -> Option<()> {
    let seen = seen(&stream)?;
    stream.set_nonblocking(true).ok()?;
    let stream = tokio::net::TcpStream::from_std(stream).ok()?;
    let mut connection = h2::server::handshake(stream).await.ok()?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted.ok()?;
        let seen = seen.clone();
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut whole = Vec::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk.ok()?;
                let _ = body.flow_control().release_capacity(chunk.len());
                whole.extend(&chunk);
            }
            let said = format!("{seen}\n");
            let answer = if grpc {
                let message = whole.get(5..)?;
                let length = u32::try_from(said.len() + message.len()).ok()?;
                [&[0], &length.to_be_bytes()[..], said.as_bytes(), message].concat()
            } else {
                [said.as_bytes(), &whole].concat()
            };
            let kind = if grpc { "application/grpc" } else { "text/plain" };
            let head = http::Response::builder().header("content-type", kind).body(()).ok()?;
            let mut send = respond.send_response(head, false).ok()?;
            send.send_data(Bytes::from(answer), !grpc).ok()?;
            if grpc {
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                send.send_trailers(trailers).ok()?;
            }
            Some(())
        });
    }
    Some(())
}

fn tls_config() -> Arc<rustls::ServerConfig> {
    let papers = papers();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![papers.certificate.clone()], papers.key.clone_key())
        .unwrap();
    Arc::new(config)
}

async fn tls_lines(stream: TcpStream, config: Arc<rustls::ServerConfig>) -> Option<()> {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
    let seen = seen(&stream)?;
    stream.set_nonblocking(true).ok()?;
    let stream = tokio::net::TcpStream::from_std(stream).ok()?;
    let stream = tokio_rustls::TlsAcceptor::from(config).accept(stream).await.ok()?;
    let mut stream = tokio::io::BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    stream.write_all(format!("{seen} {line}").as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

/// A packet of MySQL's protocol: three bytes of length, a number, the payload.
pub fn mysql_packet(number: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&length[..3], &[number], payload].concat()
}

pub fn read_mysql_packet(stream: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut payload = vec![0; usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16];
    stream.read_exact(&mut payload)?;
    Ok(payload)
}

/// The server speaks first (protocol::HandshakeV10), the client logs in, and hears OK with an information text.
fn mysql(mut stream: TcpStream) -> Option<()> {
    let seen = seen(&stream)?;
    let mut greeting = b"\x0a11.8.3-MariaDB\0".to_vec();
    greeting.extend([7, 0, 0, 0]);
    greeting.extend(b"saltsalt\0");
    greeting.extend([0xff, 0xf7, 0x2d, 2, 0, 0xff, 0x81, 21]);
    greeting.extend([0; 10]);
    greeting.extend(b"saltsaltsalt\0mysql_native_password\0");
    stream.write_all(&mysql_packet(0, &greeting)).ok()?;
    let login = read_mysql_packet(&mut stream).ok()?;
    // Capabilities, size, character set and filler come before the user's name.
    let user = login.get(32..)?.split(|b| *b == 0).next()?;
    let mut ok = vec![0, 0, 0, 2, 0, 0, 0];
    ok.extend(format!("{seen} ").bytes());
    ok.extend(user);
    stream.write_all(&mysql_packet(2, &ok)).ok()
}

/// The server speaks first (RFC 5321 §4.3.1).
fn smtp(mut stream: TcpStream) -> Option<()> {
    let seen = seen(&stream)?;
    stream.write_all(b"220 mail.example.com ESMTP\r\n").ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().split_once(' ') {
            Some(("EHLO", name)) => stream.write_all(format!("250-{seen}\r\n250 {name}\r\n").as_bytes()).ok()?,
            _ => return stream.write_all(b"221 mail.example.com\r\n").ok(),
        }
    }
}

/// Answers once the client has ended its half.
fn half_close(mut stream: TcpStream) -> Option<()> {
    let mut whole = Vec::new();
    stream.read_to_end(&mut whole).ok()?;
    let mut answer = format!("{} ", seen(&stream)?).into_bytes();
    answer.extend(whole);
    stream.write_all(&answer).ok()
}

const CHUNK: usize = 256 * 1024;

/// A piece of a bulk transfer, but for its number: what is lost, doubled or turned around shows.
fn pattern() -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    PATTERN.get_or_init(|| {
        (0..CHUNK as u64 / 8).flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
    })
}

/// Takes as many bytes as the first line says, checks each, and sends as many back.
fn bulk(stream: TcpStream) -> Option<()> {
    let seen = seen(&stream)?;
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let (marker, length) = line.trim_end().split_once(' ')?;
    let length: u64 = length.parse().ok()?;
    let fault = receive(&mut reader, length);
    let mut said = String::new();
    let _ = write!(said, "{seen} {}{marker}", fault.map(|fault| format!("fault={fault} ")).unwrap_or_default());
    writer.write_all(format!("{said}\n").as_bytes()).ok()?;
    send(&mut writer, length).ok()
}

/// Sends so many bytes, in whole pieces.
pub fn send(writer: &mut impl Write, length: u64) -> std::io::Result<()> {
    let mut chunk = pattern().to_vec();
    for n in 0..length / CHUNK as u64 {
        chunk[..8].copy_from_slice(&n.to_le_bytes());
        writer.write_all(&chunk)?;
    }
    Ok(())
}

/// Reads them; what is wrong with them.
pub fn receive(reader: &mut impl Read, length: u64) -> Option<String> {
    let mut chunk = vec![0; CHUNK];
    for n in 0..length / CHUNK as u64 {
        if let Err(error) = reader.read_exact(&mut chunk) {
            return Some(format!("chunk-{n}:{error}"));
        }
        if chunk[..8] != n.to_le_bytes() || chunk[8..] != pattern()[8..] {
            return Some(format!("chunk-{n}-differs"));
        }
    }
    None
}
