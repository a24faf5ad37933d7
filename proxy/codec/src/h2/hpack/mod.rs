//! Header compression (RFC 7541), straight from and into the types of the codec: no header map in between.
//!
//! Tables belong to one connection and hold copies of their own, so that an entry never keeps a read buffer alive; they are allocated
//! with their first entry. Which fields a message may have is said in `section`.

mod decode;
mod encode;
mod huffman;
mod table;

pub(super) use decode::Decoder;
pub(super) use encode::{Encoder, Nature};

use http::header::HeaderName;

/// Size of a dynamic table, ours and at most the peer's (RFC 7541 §4.2; the default of RFC 9113 §6.5.2).
const TABLE: usize = 4096;
/// What an entry costs beside its name and value (RFC 7541 §4.1).
pub(super) const OVERHEAD: usize = 32;

/// The name of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Authority,
    Method,
    Path,
    Scheme,
    Status,
    /// RFC 8441 §4.
    Protocol,
    Header(HeaderName),
    /// Upper case, an unknown pseudo-header, or no name at all: whatever carries it is malformed.
    Bad,
}

impl Name {
    /// The name that `bytes` spell.
    fn read(bytes: &[u8]) -> Self {
        if bytes.first() == Some(&b':') {
            return match bytes {
                b":authority" => Self::Authority,
                b":method" => Self::Method,
                b":path" => Self::Path,
                b":scheme" => Self::Scheme,
                b":status" => Self::Status,
                b":protocol" => Self::Protocol,
                _ => Self::Bad,
            };
        }
        HeaderName::from_lowercase(bytes).map_or(Self::Bad, Self::Header)
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Authority => ":authority",
            Self::Method => ":method",
            Self::Path => ":path",
            Self::Scheme => ":scheme",
            Self::Status => ":status",
            Self::Protocol => ":protocol",
            Self::Header(name) => name.as_str(),
            Self::Bad => "",
        }
    }
}

#[cfg(test)]
mod tests;
