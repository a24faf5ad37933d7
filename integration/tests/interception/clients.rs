//! One conversation in each protocol: says a marker, gets it back, and learns whom the server saw and at which of its addresses.

use crate::servers::{self, BULK, GRPC, HALF_CLOSE, HTTP1, HTTP2, MYSQL, NAME, POSTGRES, REDIS, SMTP, TLS, papers};
use bytes::Bytes;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls;
use weft_integration::rig::{Namespace, program, run};

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    Grpc,
    Tls,
    Redis,
    Postgres,
    Mysql,
    Smtp,
    HalfClose,
    Bulk,
}

impl Protocol {
    /// Bulk comes last: what trails behind it meets no other.
    pub const ALL: [Self; 10] = [
        Self::Http1,
        Self::Http2,
        Self::Grpc,
        Self::Tls,
        Self::Redis,
        Self::Postgres,
        Self::Mysql,
        Self::Smtp,
        Self::HalfClose,
        Self::Bulk,
    ];

    pub const fn port(self) -> u16 {
        match self {
            Self::Http1 => HTTP1,
            Self::Http2 => HTTP2,
            Self::Grpc => GRPC,
            Self::Tls => TLS,
            Self::Redis => REDIS,
            Self::Postgres => POSTGRES,
            Self::Mysql => MYSQL,
            Self::Smtp => SMTP,
            Self::HalfClose => HALF_CLOSE,
            Self::Bulk => BULK,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "h2",
            Self::Grpc => "gRPC",
            Self::Tls => "TLS passthrough",
            Self::Redis => "redis",
            Self::Postgres => "PostgreSQL",
            Self::Mysql => "MySQL greeting",
            Self::Smtp => "SMTP greeting",
            Self::HalfClose => "half-close",
            Self::Bulk => "bulk",
        }
    }

    /// What the port is declared to be: half of the opaque ones are found out, or known by their number.
    pub const fn declared(self) -> &'static str {
        match self {
            Self::Http1 => "PROTOCOL_HTTP1",
            Self::Http2 => "PROTOCOL_HTTP2",
            Self::Grpc => "PROTOCOL_GRPC",
            Self::Postgres | Self::Bulk => "PROTOCOL_TCP",
            Self::Tls | Self::Redis | Self::Mysql | Self::Smtp | Self::HalfClose => "PROTOCOL_DETECT",
        }
    }
}

/// Whom a server saw, and where it was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub peer: IpAddr,
    pub local: IpAddr,
}

/// One conversation.
pub struct Talk<'t> {
    /// Where the client runs.
    pub space: &'t Namespace,
    /// Where it connects to.
    pub to: SocketAddr,
    /// Whom an HTTP client names.
    pub host: &'t str,
    /// What it says.
    pub marker: &'t str,
    /// Bytes each way, of bulk.
    pub bulk: u64,
}

const PATIENCE: Duration = Duration::from_secs(15);
const BULK_PATIENCE: Duration = Duration::from_secs(60);

impl Talk<'_> {
    /// Talks; what went wrong, in the client's words.
    pub fn talk(&self, protocol: Protocol) -> Result<Seen, String> {
        match protocol {
            Protocol::Redis => return self.redis(),
            Protocol::Postgres => return self.postgres(),
            _ => {}
        }
        let said = self.space.within(|| match protocol {
            Protocol::Http1 => self.http1(),
            Protocol::Http2 => block(self.http2(false)),
            Protocol::Grpc => block(self.http2(true)),
            Protocol::Tls => block(self.tls()),
            Protocol::Mysql => self.mysql().map_err(words),
            Protocol::Smtp => self.smtp().map_err(words),
            Protocol::HalfClose => self.half_close().map_err(words),
            Protocol::Bulk => self.bulk().map_err(words),
            Protocol::Redis | Protocol::Postgres => unreachable!("programs speak these"),
        })?;
        self.seen(&said)
    }

    /// Takes `peer=IP local=IP` out of an answer that must have the marker.
    fn seen(&self, said: &str) -> Result<Seen, String> {
        if !said.contains(self.marker) {
            return Err(format!("the marker did not come back: {:?}", said.chars().take(200).collect::<String>()));
        }
        let ip = |name: &str| {
            let rest = said.split_once(name)?.1;
            rest.split([' ', '\n', '\r']).next()?.parse().ok()
        };
        match (ip("peer="), ip("local="), said.contains("fault=")) {
            (Some(peer), Some(local), false) => Ok(Seen { peer, local }),
            _ => Err(format!("an answer that says too little, or a fault: {:.200}", said)),
        }
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    fn http1(&self) -> Result<String, String> {
        let mut stream = self.connect().map_err(words)?;
        let (host, marker) = (self.host, self.marker);
        let length = marker.len();
        write!(
            stream,
            "POST /cell HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{marker}"
        )
        .map_err(words)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(words)?;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        if status == "200" { Ok(answer) } else { Err(format!("status {status}: {answer:?}")) }
    }

    async fn http2(&self, grpc: bool) -> Result<String, String> {
        let said = async {
            let stream = tokio::net::TcpStream::connect(self.to).await.map_err(words)?;
            let (mut client, connection) = h2::client::handshake(stream).await.map_err(words)?;
            tokio::spawn(connection);
            let kind = if grpc { "application/grpc" } else { "text/plain" };
            let request = http::Request::post(format!("http://{}/shop.Cells/Say", self.host))
                .header("content-type", kind)
                .header("te", "trailers")
                .body(())
                .unwrap();
            let marker = self.marker.as_bytes();
            let length = u32::try_from(marker.len()).unwrap().to_be_bytes();
            let body = if grpc { [&[0], &length[..], marker].concat() } else { marker.to_vec() };
            let (response, mut send) = client.send_request(request, false).map_err(words)?;
            send.send_data(Bytes::from(body), true).map_err(words)?;
            let response = response.await.map_err(words)?;
            let status = response.status();
            let early = response.headers().get("grpc-status").cloned();
            let mut body = response.into_body();
            let mut whole = Vec::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk.map_err(words)?;
                let _ = body.flow_control().release_capacity(chunk.len());
                whole.extend(&chunk);
            }
            let trailers = body.trailers().await.map_err(words)?;
            let end = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status")).cloned().or(early);
            let end = end.map(|value| value.to_str().unwrap_or_default().to_owned());
            match (status.as_u16(), end.as_deref(), grpc) {
                (200, Some("0"), true) | (200, None, false) => Ok(String::from_utf8_lossy(&whole).into_owned()),
                (status, end, _) => Err(format!("status {status}, grpc-status {end:?}")),
            }
        };
        tokio::time::timeout(PATIENCE, said).await.map_err(|_| "no answer in time".to_owned())?
    }

    async fn tls(&self) -> Result<String, String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let said = async {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(papers().certificate.clone()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let stream = tokio::net::TcpStream::connect(self.to).await.map_err(words)?;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let mut stream = connector.connect(NAME.try_into().unwrap(), stream).await.map_err(words)?;
            stream.write_all(format!("{}\n", self.marker).as_bytes()).await.map_err(words)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.map_err(words)?;
            Ok(answer)
        };
        tokio::time::timeout(PATIENCE, said).await.map_err(|_| "no answer in time".to_owned())?
    }

    fn mysql(&self) -> std::io::Result<String> {
        let mut stream = self.connect()?;
        let greeting = servers::read_mysql_packet(&mut stream)?;
        if greeting.first() != Some(&10) {
            return Err(std::io::Error::other("no greeting of MySQL's"));
        }
        let login = [&[0x0d, 0xa6, 3, 0, 0, 0, 0, 1, 45][..], &[0; 23], self.marker.as_bytes(), &[0, 0]].concat();
        stream.write_all(&servers::mysql_packet(1, &login))?;
        let answer = servers::read_mysql_packet(&mut stream)?;
        if answer.first() != Some(&0) {
            return Err(std::io::Error::other("the server does not say OK"));
        }
        Ok(String::from_utf8_lossy(&answer[7..]).into_owned())
    }

    fn smtp(&self) -> std::io::Result<String> {
        let mut stream = self.connect()?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = || {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            std::io::Result::Ok(line)
        };
        let greeting = line()?;
        if !greeting.starts_with("220 ") {
            return Err(std::io::Error::other(format!("no greeting of SMTP's: {greeting:?}")));
        }
        write!(stream, "EHLO {}\r\n", self.marker)?;
        let answer = line()? + &line()?;
        stream.write_all(b"QUIT\r\n")?;
        if line()?.starts_with("221 ") { Ok(answer) } else { Err(std::io::Error::other("no farewell")) }
    }

    fn half_close(&self) -> std::io::Result<String> {
        let mut stream = self.connect()?;
        stream.write_all(self.marker.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn bulk(&self) -> std::io::Result<String> {
        let mut stream = self.connect()?;
        stream.set_read_timeout(Some(BULK_PATIENCE))?;
        stream.write_all(format!("{} {}\n", self.marker, self.bulk).as_bytes())?;
        servers::send(&mut stream, self.bulk)?;
        let mut reader = BufReader::new(stream);
        let mut said = String::new();
        reader.read_line(&mut said)?;
        match servers::receive(&mut reader, self.bulk) {
            None => Ok(said),
            Some(fault) => Err(std::io::Error::other(format!("{fault} on the way back"))),
        }
    }

    fn redis(&self) -> Result<Seen, String> {
        let (host, port) = (self.to.ip().to_string(), self.to.port().to_string());
        let ask = |words: &[&str]| {
            let words = [&["-h", &host, "-p", &port, "--no-raw"], words].concat();
            let output = run(&mut self.space.command(program("redis-cli"), &words));
            // It ends with 0 although it was refused.
            if output.code == 0 && output.err.is_empty() { Ok(output.out) } else { Err(output.out + &output.err) }
        };
        let echoed = ask(&["ECHO", self.marker])?;
        if !echoed.contains(self.marker) {
            return Err(format!("the marker did not come back: {echoed}"));
        }
        let info = ask(&["CLIENT", "INFO"])?;
        let ip = |name: &str| {
            let text = info.split(' ').find_map(|word| word.trim_matches('"').strip_prefix(name))?;
            let address: SocketAddr = text.parse().or_else(|_| bracketed(text).parse()).ok()?;
            Some(address.ip().to_canonical())
        };
        match (ip("addr="), ip("laddr=")) {
            (Some(peer), Some(local)) => Ok(Seen { peer, local }),
            _ => Err(format!("no addresses in {info}")),
        }
    }

    fn postgres(&self) -> Result<Seen, String> {
        let (host, port) = (self.to.ip().to_string(), self.to.port().to_string());
        let sql = format!("select host(inet_client_addr()), host(inet_server_addr()), '{}'", self.marker);
        let words = ["-h", &host, "-p", &port, "-U", "postgres", "-Atc", &sql];
        let mut psql = self.space.command(program("psql"), &words);
        let output = run(psql.env("PGSSLMODE", "disable").env("PGCONNECT_TIMEOUT", "15"));
        if output.code != 0 {
            return Err(output.err);
        }
        let row: Vec<&str> = output.out.trim().split('|').collect();
        match row[..] {
            [peer, local, marker] if marker == self.marker => {
                let ip = |text: &str| text.parse().map(|ip: IpAddr| ip.to_canonical()).map_err(|_| output.out.clone());
                Ok(Seen { peer: ip(peer)?, local: ip(local)? })
            }
            _ => Err(format!("another row: {}", output.out)),
        }
    }
}

/// Redis writes IPv6 addresses without brackets.
fn bracketed(text: &str) -> String {
    text.rsplit_once(':').map_or_else(String::new, |(ip, port)| format!("[{}]:{port}", ip.trim_matches(['[', ']'])))
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}
