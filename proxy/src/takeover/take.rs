//! The successor's half: asks the process that serves, takes its sockets, and later its place.

use super::message::{self, Given, MOST_SOCKETS, Messages, Offer, Taken, encode};
use super::{Inherited, PATH, PROTOCOL, descriptors};
use crate::drain::{Drain, Session, Side};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream as Blocking;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Each step of asking: it is one system call for the other side.
const ASK: Duration = Duration::from_secs(10);
/// How long the predecessor may take to stop accepting.
const HAND_OVER: Duration = Duration::from_secs(5);
/// Longest head of an answer.
const HEAD: usize = 8 * 1024;

/// A process that serves until this one is ready.
#[derive(Debug)]
pub struct Predecessor {
    pid: u32,
    version: String,
    /// Names, and the addresses that the application was given for them.
    pub stand_ins: Vec<(String, Ipv4Addr)>,
    stream: Blocking,
}

/// What is known of a predecessor: shown to operators.
pub type Known = Arc<Mutex<Option<Value>>>;

/// Asks the process behind a private socket for what it has; `None`: there is no such process.
///
/// # Errors
/// When there is one that hands nothing over; the text says why.
pub fn ask(socket: &Path) -> Result<Option<(Predecessor, Inherited)>, String> {
    let failed = |what: &str| format!("cannot take over from the process at {}: {what}", socket.display());
    let mut stream = match Blocking::connect(socket) {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(e) => return Err(failed(&e.to_string())),
    };
    let asked = (|| {
        stream.set_read_timeout(Some(ASK))?;
        stream.set_write_timeout(Some(ASK))?;
        let request = format!(
            "POST {PATH} HTTP/1.1\r\nhost: weft-proxy\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        head(&mut stream)
    })();
    let head = asked.map_err(|e| failed(&e.to_string()))?;
    if !head.starts_with("HTTP/1.1 101 ") {
        let mut body = String::new();
        let _ = stream.take(HEAD as u64).read_to_string(&mut body);
        let status = head.lines().next().unwrap_or_default();
        return Err(failed(&format!("it answers {status:?}: {}", body.trim_end())));
    }
    let (offer, received) = offered(&mut stream).map_err(|e| failed(&e.to_string()))?;
    let inherited = Inherited::new(&offer, received);
    let version = offer.version.chars().take(64).collect();
    Ok(Some((Predecessor { pid: offer.pid, version, stand_ins: offer.stand_ins, stream }, inherited)))
}

/// The head of the answer, and not a byte more: what follows comes with descriptors.
fn head(stream: &mut Blocking) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head.len() > HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn offered(stream: &mut Blocking) -> io::Result<(Offer, Vec<std::os::fd::OwnedFd>)> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut body = vec![0; message::length(head)?];
    stream.read_exact(&mut body)?;
    let offer: Offer = message::decode(&body)?;
    if offer.sockets.len() > MOST_SOCKETS {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it offers more sockets than anybody has"));
    }
    let received = descriptors::receive(stream, offer.sockets.len())?;
    Ok((offer, received))
}

impl Predecessor {
    /// Goes on within a runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn converse(self) -> io::Result<Conversation> {
        self.stream.set_nonblocking(true)?;
        let messages = Messages::new(UnixStream::from_std(self.stream)?);
        Ok(Conversation { pid: self.pid, version: self.version, messages })
    }
}

/// The conversation with a predecessor.
#[derive(Debug)]
pub struct Conversation {
    pid: u32,
    version: String,
    messages: Messages<UnixStream>,
}

impl Conversation {
    /// Takes the predecessor's place as soon as this process is ready.
    ///
    /// # Errors
    /// When the predecessor goes on instead; the text says why.
    pub async fn take(&mut self, ready: impl Future<Output = ()>) -> Result<(), String> {
        let refused = |reason: &str| Err(format!("the predecessor goes on: {reason}"));
        tokio::select! {
            () = ready => {}
            said = self.messages.next::<Given>() => match said {
                Ok(Some(Given::Refused { reason })) => return refused(&reason),
                Ok(Some(_)) => return refused("it speaks out of turn"),
                Ok(None) | Err(_) => {
                    // The sockets are here, and nobody else has them.
                    tracing::warn!(pid = self.pid, "the predecessor ended before it was relieved");
                    return Ok(());
                }
            },
        }
        let taking = async {
            self.messages.io.write_all(&encode(&Taken::Ready)?).await?;
            self.messages.next::<Given>().await
        };
        match timeout(HAND_OVER, taking).await {
            Ok(Ok(Some(Given::Taken))) => {
                tracing::info!(pid = self.pid, version = self.version, "took over");
                Ok(())
            }
            Ok(Ok(Some(Given::Refused { reason }))) => refused(&reason),
            Ok(Ok(Some(Given::Open { .. }))) => refused("it speaks out of turn"),
            Ok(Ok(None) | Err(_)) => {
                tracing::warn!(pid = self.pid, "the predecessor ended while it was relieved");
                Ok(())
            }
            // It may yet find what was said: two must not serve at once without knowing of each other.
            Err(_) => refused(&format!("it did not answer within {HAND_OVER:?}")),
        }
    }

    /// Follows a relieved predecessor to its end: what is open there counts as this process's own, and when this process leaves the other
    /// leaves too, `within` that time.
    pub async fn follow(mut self, drain: Drain, within: Duration, known: Known) {
        let mut held: [Option<Session>; 2] = [Some(drain.session(Side::Inbound)), Some(drain.session(Side::Outbound))];
        let leaving = drain.leave(Side::Inbound).idle;
        let mut told = false;
        loop {
            tokio::select! {
                said = self.messages.next::<Given>() => match said {
                    Ok(Some(Given::Open { inbound, outbound })) => {
                        let open = [(Side::Inbound, inbound), (Side::Outbound, outbound)];
                        for (held, (side, open)) in held.iter_mut().zip(open) {
                            match open {
                                0 => *held = None,
                                _ if held.is_none() => *held = Some(drain.session(side)),
                                _ => {}
                            }
                        }
                        *known.lock() = Some(json!({
                            "pid": self.pid,
                            "version": self.version,
                            "connections": { "inbound": inbound, "outbound": outbound },
                        }));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                },
                () = leaving.cancelled(), if !told => {
                    told = true;
                    let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                    let Ok(message) = encode(&Taken::Leave { within_ms }) else { break };
                    if self.messages.io.write_all(&message).await.is_err() {
                        break;
                    }
                }
            }
        }
        *known.lock() = None;
        tracing::info!(pid = self.pid, "the predecessor has ended");
    }
}
