//! What two processes say to each other, and how it is framed: four bytes of length, most significant first, and as
//! many of JSON.
//!
//! The version of all of it is in the `Upgrade` token ([`super::PROTOCOL`]): a change that an older process would
//! misread needs another.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::Ipv4Addr;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Nothing longer is written or read. The largest message is an offer: some thousand sockets, and at most 65,536 names
/// that addresses stand in for.
pub const MOST: usize = 16 << 20;
/// Sockets of one offer, at most.
pub const MOST_SOCKETS: usize = 4096;

/// What a passed descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A listening TCP socket.
    Tcp,
    /// A bound UDP socket.
    Udp,
    /// A listening Unix socket.
    Unix,
    /// The lock of the state directory.
    Lock,
    /// The conversation with a process that was relieved earlier.
    Earlier,
}

/// One descriptor: they follow the offer in the same order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Passed {
    /// What it is.
    pub kind: Kind,
    /// The setting that it was bound for, `outbound.listen`.
    pub setting: String,
    /// `ip:port`, or a path.
    pub address: String,
}

/// The predecessor's first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// Its process id, as it sees itself.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// What follows.
    pub sockets: Vec<Passed>,
    /// Names, and the addresses that the application was given for them.
    pub stand_ins: Vec<(String, Ipv4Addr)>,
    /// Whose the conversations are, in the same order.
    #[serde(default)]
    pub earlier: Vec<Earlier>,
}

/// A process that was relieved and still has something open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Earlier {
    /// Its process id, as it sees itself.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Connections from peers and from the application, as far as it has said.
    pub open: Option<(usize, usize)>,
}

/// What the predecessor says after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Given {
    /// The successor's turn has begun.
    Taken,
    /// It has not, and will not.
    Refused {
        /// Why.
        reason: String,
    },
    /// How many connections are open here.
    Open {
        /// Towards the application.
        inbound: usize,
        /// From the application.
        outbound: usize,
    },
}

/// What the successor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Taken {
    /// It can serve.
    Ready,
    /// It leaves itself: what is open has this long.
    Leave {
        /// Milliseconds.
        within_ms: u64,
    },
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// A message as it travels.
///
/// # Errors
/// When it is too long.
pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message).map_err(io::Error::other)?;
    let length = frame.len() - 4;
    let head = u32::try_from(length).ok().filter(|_| length <= MOST).ok_or_else(|| too_long(length))?;
    frame[..4].copy_from_slice(&head.to_be_bytes());
    Ok(frame)
}

fn too_long(length: usize) -> io::Error {
    invalid(format!("a message of {length} bytes; at most {MOST} are exchanged"))
}

/// How much follows a head.
///
/// # Errors
/// When it is more than [`MOST`].
pub fn length(head: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(head) as usize;
    if length > MOST { Err(too_long(length)) } else { Ok(length) }
}

/// The message of a frame's body.
///
/// # Errors
/// When it is none of that type.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    serde_json::from_slice(body).map_err(|e| invalid(format!("not a message of {}: {e}", super::PROTOCOL)))
}

/// Takes the first message off what was read so far; `None`: it is not all there.
///
/// # Errors
/// What is too long, or no message of that type.
pub fn next<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some((head, rest)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
    let length = length(*head)?;
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let message = decode(body)?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

/// Reads messages; what was read of one is kept while nobody waits for it.
#[derive(Debug)]
pub struct Messages<R> {
    /// Where from.
    pub io: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Messages<R> {
    /// Reads from `io`.
    pub const fn new(io: R) -> Self {
        Self { io, buffer: Vec::new() }
    }

    /// The next one; `None` when the other side has closed. Cancel-safe.
    ///
    /// # Errors
    /// Those of reading, and what is no message of that type.
    pub async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(message) = next(&mut self.buffer)? {
                return Ok(Some(message));
            }
            // Room for several, so that none is left in two halves: another process may go on reading.
            self.buffer.reserve(4096);
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(invalid("closed within a message")) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer() -> Offer {
        let passed =
            |kind, setting: &str, address: &str| Passed { kind, setting: setting.into(), address: address.into() };
        Offer {
            pid: 4711,
            version: "0.1.0".into(),
            sockets: vec![
                passed(Kind::Tcp, "outbound.listen", "127.0.0.1:15001"),
                passed(Kind::Unix, "admin.socket", "/var/lib/weft/admin.sock"),
            ],
            stand_ins: vec![("db.example.com".into(), Ipv4Addr::new(240, 240, 1, 2))],
            earlier: vec![Earlier { pid: 42, version: "0.0.9".into(), open: Some((1, 0)) }],
        }
    }

    #[test]
    fn what_is_written_is_read_back_however_it_is_cut() {
        let mut wire = encode(&offer()).unwrap();
        wire.extend(encode(&Given::Open { inbound: 3, outbound: 0 }).unwrap());
        for piece in [1, 3, 7, 4096] {
            let (mut buffer, mut offers, mut said) = (Vec::new(), Vec::new(), Vec::new());
            for bytes in wire.chunks(piece) {
                buffer.extend_from_slice(bytes);
                if offers.is_empty() {
                    offers.extend(next::<Offer>(&mut buffer).unwrap());
                }
                if !offers.is_empty() {
                    said.extend(next::<Given>(&mut buffer).unwrap());
                }
            }
            assert_eq!((&offers[..], &said[..]), (&[offer()][..], &[Given::Open { inbound: 3, outbound: 0 }][..]));
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn what_is_too_long_is_refused_by_its_head_alone() {
        let long = u32::try_from(MOST + 1).unwrap().to_be_bytes();
        assert!(next::<Given>(&mut long.to_vec()).unwrap_err().to_string().contains("at most"));
        assert!(encode(&"x".repeat(MOST)).is_err());
        assert_eq!(length(u32::try_from(MOST).unwrap().to_be_bytes()).unwrap(), MOST);
    }

    #[test]
    fn another_message_than_the_one_that_is_expected_is_an_error() {
        let wire = encode(&Taken::Leave { within_ms: 5 }).unwrap();
        assert_eq!(next::<Taken>(&mut wire.clone()).unwrap(), Some(Taken::Leave { within_ms: 5 }));
        assert!(next::<Given>(&mut wire.clone()).unwrap_err().to_string().contains("weft-take-over/1"));
    }

    #[tokio::test]
    async fn the_end_is_told_from_a_message_that_breaks_off() {
        let wire = encode(&Given::Taken).unwrap();
        let mut whole = Messages::new(&wire[..]);
        assert_eq!(whole.next::<Given>().await.unwrap(), Some(Given::Taken));
        assert_eq!(whole.next::<Given>().await.unwrap(), None);
        assert!(Messages::new(&wire[..5]).next::<Given>().await.is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_are_read_beyond_their_message_and_none_break_the_reader(mut bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let before = bytes.len();
            match next::<Given>(&mut bytes) {
                Ok(Some(_)) => prop_assert!(bytes.len() < before),
                _ => prop_assert_eq!(bytes.len(), before),
            }
        }
    }
}
