//! Where the caller and the upstream speak differently, and the codecs do not make it one: a websocket between two versions of HTTP, and
//! gRPC-Web before a backend that speaks gRPC. What differs is made anew for each attempt, since endpoints may differ.

use super::web;
use super::websocket::Handshake;
use crate::codec::{Grpc, RequestHead, Version, Web};
use crate::error::ProxyError;
use weft_policy::config::Protocol;

/// One attempt at an upstream that speaks otherwise.
pub(super) struct Crossing {
    /// What is sent in place of the caller's head.
    pub head: RequestHead,
    pub kind: Kind,
}

/// What differs.
pub(super) enum Kind {
    Websocket(Handshake),
    Web {
        /// The form of the request's body.
        sent: Web,
        /// The form that the answer is wanted in.
        wanted: Web,
    },
}

impl Kind {
    /// Whether the request's body has to be decoded on its way.
    pub const fn decodes(&self) -> bool {
        matches!(self, Self::Web { sent: Web::Text, .. })
    }
}

impl Crossing {
    /// `spoken` is what the backend is declared to speak, `native` whether the attempt travels as HTTP/2. `None`: nothing differs.
    ///
    /// # Errors
    /// [`BadRequest`](crate::error::Kind::BadRequest) when a handshake breaks its rules.
    pub fn of(
        head: &RequestHead,
        grpc: Option<Grpc>,
        spoken: Protocol,
        native: bool,
    ) -> Result<Option<Box<Self>>, ProxyError> {
        if head.is_websocket() {
            if !native && head.version != Version::Http2 {
                let passes = Handshake::between(head);
                return Ok(passes.map(|it| Box::new(Self { head: head.clone(), kind: Kind::Websocket(it) })));
            }
            let mut head = head.clone();
            let handshake = Handshake::begin(&mut head, native)?;
            return Ok(Some(Box::new(Self { head, kind: Kind::Websocket(handshake) })));
        }
        match (grpc, spoken) {
            (Some(Grpc::Web(sent)), Protocol::Grpc | Protocol::Http2) if native => {
                let (mut head, wanted) = (head.clone(), web::wanted(head, sent));
                web::request(&mut head);
                Ok(Some(Box::new(Self { head, kind: Kind::Web { sent, wanted } })))
            }
            _ => Ok(None),
        }
    }
}
