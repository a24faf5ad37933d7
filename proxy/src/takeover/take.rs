//! The successor's half: asks the process that serves, takes its sockets, and later its place.

use super::message::{self, Earlier, Given, MOST_SOCKETS, Offer, Taken, encode};
use super::{Conversation, Inherited, PATH, PROTOCOL, descriptors};
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Blocking;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
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
    earlier: Earlier,
    /// Those that it has relieved itself, and the conversations with them.
    pub followed: Vec<(Earlier, OwnedFd)>,
    /// Names, and the addresses that the application was given for them.
    pub stand_ins: Vec<(String, Ipv4Addr)>,
    stream: Blocking,
}

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
    let mut inherited = Inherited::new(&offer, received);
    let followed = inherited.earlier(&offer.earlier);
    let earlier = Earlier { pid: offer.pid, version: offer.version, open: None };
    Ok(Some((Predecessor { earlier, followed, stand_ins: offer.stand_ins, stream }, inherited)))
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

fn offered(stream: &mut Blocking) -> io::Result<(Offer, Vec<OwnedFd>)> {
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
        Conversation::new(self.earlier, self.stream)
    }
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
                    tracing::warn!(pid = self.earlier.pid, "the predecessor ended before it was relieved");
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
                tracing::info!(pid = self.earlier.pid, version = self.earlier.version, "took over");
                Ok(())
            }
            Ok(Ok(Some(Given::Refused { reason }))) => refused(&reason),
            Ok(Ok(Some(Given::Open { .. }))) => refused("it speaks out of turn"),
            Ok(Ok(None) | Err(_)) => {
                tracing::warn!(pid = self.earlier.pid, "the predecessor ended while it was relieved");
                Ok(())
            }
            // It may yet find what was said: two must not serve at once without knowing of each other.
            Err(_) => refused(&format!("it did not answer within {HAND_OVER:?}")),
        }
    }
}
