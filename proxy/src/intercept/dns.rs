//! DNS for the application: names of the mesh are answered from the directory, registered hosts outside by addresses that stand in for
//! them, everything else goes to the upstream resolvers.
//!
//! UDP and TCP, one question a message (RFC 9619). Runs on the control thread. Everything is bounded: questions in flight, TCP
//! connections, message sizes, and the time an answer may take. No cache: upstream resolvers have one, the directory is one.

use super::StandIns;
use crate::discovery::{Alias, Directory, Resolution};
use crate::takeover::Turn;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// How long an answer from the directory may be kept: it is as fresh as the mesh, so not long.
const TTL: u32 = 5;
/// How long the control plane may take to say whether it knows a name.
const ASK: Duration = Duration::from_secs(1);
/// How long one upstream resolver may take; each is tried twice at most.
const UPSTREAM: Duration = Duration::from_secs(2);
/// How long a TCP client may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// Questions being answered at once; one more gets SERVFAIL.
const IN_FLIGHT: usize = 512;
/// TCP connections open at once; one more is closed.
const CONNECTIONS: usize = 64;
/// What a UDP answer may measure when the client did not say (RFC 1035 §4.2.1).
const PLAIN_UDP: usize = 512;

/// What the answers are made of.
#[derive(Debug)]
pub struct Resolver {
    directory: Directory,
    upstream: Vec<SocketAddr>,
    stand_ins: Arc<StandIns>,
    permits: Arc<Semaphore>,
}

/// What the mesh has to say about a question.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Addresses of the family asked for; may be empty (NODATA).
    Addresses(Vec<IpAddr>),
    /// The name is of the mesh's own domain and does not exist.
    NoSuchName,
    /// The name is of the mesh's own domain and nobody could say.
    Unanswered,
    /// Not a name of the mesh.
    Elsewhere,
}

impl Resolver {
    /// A resolver; `upstream` are tried in order. Hosts outside that are registered get their addresses from `stand_ins`.
    #[must_use]
    pub fn new(directory: Directory, upstream: Vec<SocketAddr>, stand_ins: Arc<StandIns>) -> Arc<Self> {
        Arc::new(Self { directory, upstream, stand_ins, permits: Arc::new(Semaphore::new(IN_FLIGHT)) })
    }

    /// Serves both sockets during the turn of this process; what was asked then is answered.
    pub async fn serve(self: Arc<Self>, udp: Arc<UdpSocket>, tcp: Arc<TcpListener>, turn: Turn) {
        turn.begun().await;
        tokio::join!(self.clone().serve_udp(udp, &turn), self.serve_tcp(tcp, &turn));
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>, turn: &Turn) {
        let mut tasks = JoinSet::new();
        let mut buffer = vec![0; 4096];
        loop {
            let (length, from) = tokio::select! {
                received = socket.recv_from(&mut buffer) => match received {
                    Ok(received) => received,
                    // ICMP errors of earlier answers surface here; the socket is fine.
                    Err(error) => {
                        tracing::debug!(%error, "dns: receive");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                },
                Some(_) = tasks.join_next() => continue,
                () = turn.over() => break,
            };
            let question = buffer[..length].to_vec();
            let Ok(permit) = self.permits.clone().try_acquire_owned() else {
                if let Some(answer) = refusal(&question, ResponseCode::ServFail) {
                    let _ = socket.try_send_to(&answer, from);
                }
                continue;
            };
            let (resolver, socket) = (self.clone(), socket.clone());
            tasks.spawn(async move {
                let _permit = permit;
                if let Some(answer) = resolver.answer(&question, Transport::Udp).await
                    && let Err(error) = socket.send_to(&answer, from).await
                {
                    tracing::debug!(%error, %from, "dns: send");
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn serve_tcp(self: Arc<Self>, listener: Arc<TcpListener>, turn: &Turn) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if tasks.len() < CONNECTIONS => {
                        tasks.spawn(self.clone().converse(stream));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(%error, "dns: accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = tasks.join_next() => {}
                () = turn.over() => break,
            }
        }
        drop(listener);
        while tasks.join_next().await.is_some() {}
    }

    async fn converse(self: Arc<Self>, mut stream: TcpStream) {
        while let Ok(Ok(question)) = timeout(IDLE, read_framed(&mut stream)).await {
            let answer = match self.permits.clone().try_acquire_owned() {
                Ok(_permit) => self.answer(&question, Transport::Tcp).await,
                Err(_) => refusal(&question, ResponseCode::ServFail),
            };
            let Some(answer) = answer else { return };
            if !matches!(timeout(IDLE, write_framed(&mut stream, &answer)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// The answer to one message; `None` for what deserves none.
    async fn answer(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let Ok(message) = Message::from_vec(question) else {
            return refusal(question, ResponseCode::FormErr);
        };
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        if message.metadata.op_code != OpCode::Query {
            return refusal(question, ResponseCode::NotImp);
        }
        let [query] = message.queries.as_slice() else {
            return refusal(question, ResponseCode::FormErr);
        };
        let (code, addresses) = match self.verdict(query).await {
            Verdict::Addresses(addresses) => (ResponseCode::NoError, addresses),
            Verdict::NoSuchName => (ResponseCode::NXDomain, Vec::new()),
            Verdict::Unanswered => (ResponseCode::ServFail, Vec::new()),
            Verdict::Elsewhere => {
                return match self.forward(question, &message, transport).await {
                    Some(answer) => Some(answer),
                    None => refusal(question, ResponseCode::ServFail),
                };
            }
        };
        let most = match transport {
            Transport::Udp => message.edns.as_ref().map_or(PLAIN_UDP, |e| usize::from(e.max_payload()).max(PLAIN_UDP)),
            Transport::Tcp => usize::from(u16::MAX),
        };
        write_answer(&message, query, code, &addresses, most)
    }

    async fn verdict(&self, query: &Query) -> Verdict {
        if query.query_class != DNSClass::IN {
            return Verdict::Elsewhere;
        }
        let name = query.name.to_ascii().to_ascii_lowercase();
        let name = name.trim_end_matches('.');
        if name.is_empty() || name.ends_with(".in-addr.arpa") || name.ends_with(".ip6.arpa") {
            return Verdict::Elsewhere;
        }
        let deadline = (Instant::now() + ASK).into_std();
        let resolution = self.directory.resolve(Alias::Host(name.to_owned()), deadline).await;
        let own = {
            let snapshot = self.directory.snapshot();
            let domain = snapshot.settings.domain.to_ascii_lowercase();
            !domain.is_empty() && name.strip_suffix(&domain).is_some_and(|rest| rest.ends_with(".svc."))
        };
        let of_family = |addresses: &[IpAddr]| {
            let v4 = addresses.iter().filter(|ip| ip.is_ipv4()).copied();
            let v6 = addresses.iter().filter(|ip| ip.is_ipv6()).copied();
            Verdict::Addresses(match query.query_type {
                RecordType::A => v4.collect(),
                RecordType::AAAA => v6.collect(),
                RecordType::ANY => v4.chain(v6).collect(),
                _ => Vec::new(),
            })
        };
        match resolution {
            Resolution::Found(service) if !service.vips.is_empty() => of_family(&service.vips),
            Resolution::Found(service) if service.ports.iter().any(|port| port.backend.external.is_some()) => {
                self.stand_ins.addresses(name).map_or(Verdict::Elsewhere, |addresses| of_family(&addresses))
            }
            Resolution::Absent if own => Verdict::NoSuchName,
            Resolution::Unanswered if own => Verdict::Unanswered,
            _ => Verdict::Elsewhere,
        }
    }

    async fn forward(&self, question: &[u8], message: &Message, transport: Transport) -> Option<Vec<u8>> {
        for round in 0..2 {
            for upstream in &self.upstream {
                let attempt = async {
                    match transport {
                        Transport::Udp => ask_udp(*upstream, question, message).await,
                        Transport::Tcp => ask_tcp(*upstream, question).await,
                    }
                };
                match timeout(UPSTREAM, attempt).await {
                    Ok(Ok(answer)) => return Some(answer),
                    Ok(Err(error)) => tracing::debug!(%upstream, round, %error, "dns: upstream"),
                    Err(_) => tracing::debug!(%upstream, round, "dns: upstream is silent"),
                }
            }
        }
        None
    }
}

#[derive(Clone, Copy, Debug)]
enum Transport {
    Udp,
    Tcp,
}

fn write_answer(
    message: &Message,
    query: &Query,
    code: ResponseCode,
    addresses: &[IpAddr],
    most: usize,
) -> Option<Vec<u8>> {
    let mut answer = Message::response(message.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = message.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.authoritative = true;
    answer.metadata.response_code = code;
    answer.add_query(query.clone());
    for ip in addresses {
        let data = match ip {
            IpAddr::V4(ip) => RData::A((*ip).into()),
            IpAddr::V6(ip) => RData::AAAA((*ip).into()),
        };
        answer.add_answer(Record::from_rdata(query.name.clone(), TTL, data));
    }
    let bytes = answer.to_vec().ok()?;
    if bytes.len() <= most {
        return Some(bytes);
    }
    answer.answers.clear();
    answer.metadata.truncation = true;
    answer.to_vec().ok()
}

/// An answer without records; needs no more of the question than its id.
fn refusal(question: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let id = u16::from_be_bytes([*question.first()?, *question.get(1)?]);
    // The bit that says "answer" (RFC 1035 §4.1.1): answering an answer would make a loop.
    if question.get(2)? & 0x80 != 0 {
        return None;
    }
    let mut answer = Message::error_msg(id, OpCode::Query, code);
    if let Ok(message) = Message::from_vec(question) {
        answer.metadata.recursion_desired = message.metadata.recursion_desired;
        answer.add_queries(message.queries.into_iter().take(1));
    }
    answer.to_vec().ok()
}

async fn ask_udp(upstream: SocketAddr, question: &[u8], message: &Message) -> io::Result<Vec<u8>> {
    let any: IpAddr = if upstream.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A fresh port and a fresh id for each question: what an off-path forger would have to guess.
    let socket = UdpSocket::bind((any, 0)).await?;
    super::exempt(&socket)?;
    socket.connect(upstream).await?;
    let id: u16 = rand::random();
    let mut bytes = question.to_vec();
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    socket.send(&bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = &buffer[..length];
        let matches = answer.get(..2) == Some(&id.to_be_bytes())
            && Message::from_vec(answer).is_ok_and(|a| {
                a.metadata.message_type == MessageType::Response && a.queries.first() == message.queries.first()
            });
        if matches {
            let mut answer = answer.to_vec();
            answer[..2].copy_from_slice(&message.metadata.id.to_be_bytes());
            return Ok(answer);
        }
    }
}

async fn ask_tcp(upstream: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = if upstream.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    super::exempt(&socket)?;
    let mut stream = socket.connect(upstream).await?;
    write_framed(&mut stream, question).await?;
    read_framed(&mut stream).await
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    // At most 64 KiB by the format itself (RFC 1035 §4.2.2).
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// The resolvers that `/etc/resolv.conf` names, but none of `own` (a sidecar must not ask itself).
#[must_use]
pub fn system_upstream(text: &str, own: &[SocketAddr]) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .filter(|upstream| !own.contains(upstream))
        .take(3)
        .collect()
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
