//! Copies of calls for mirrors (Gateway API, `HTTPRequestMirrorFilter`): sent beside the call and never in its way.
//!
//! A copy's body is fed from what the call reads, through a bounded queue: a mirror that does not keep up loses the copy, never the call.
//! Its answer is read and forgotten. Copies belong to the worker's connector and end with it.

use super::cross::Crossing;
use super::{Exchange, headers, now, web};
use crate::codec::{Frame, Headers, RequestHead};
use crate::endpoint::connect;
use crate::endpoint::{Cluster, Pick};
use crate::error::{Kind, ProxyError};
use crate::random;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use weft_policy::breaker::Outcome;
use weft_policy::config::Protocol;
use weft_policy::deadline::Deadline;

/// Frames that may wait for a mirror…
const FRAMES: usize = 64;
/// …and how much of a body is copied at most.
const BYTES: usize = 16 << 20;
/// How long a copy may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// The body's way to one mirror.
pub(super) struct Copy {
    pieces: mpsc::Sender<Piece>,
    room: usize,
}

enum Piece {
    Data(Bytes),
    Trailers(Headers),
    End,
}

/// What one copy is made of.
pub(super) struct Sending<'e> {
    pub exchange: &'e Exchange,
    pub cluster: &'e Arc<Cluster>,
    /// As the call's own backend gets it.
    pub head: &'e RequestHead,
    /// What the port is declared to speak.
    pub protocol: Protocol,
    /// Whether a body follows.
    pub body: bool,
    /// When the call itself must be over.
    pub until: Deadline,
    pub route: Arc<str>,
}

impl Copy {
    /// The mirror gets a frame that the call has just read. `false`: it has had its last.
    pub fn frame(&mut self, frame: &Frame) -> bool {
        let piece = match frame {
            Frame::Data(data) => match self.room.checked_sub(data.len()) {
                Some(room) => {
                    self.room = room;
                    Piece::Data(data.clone())
                }
                None => return false,
            },
            Frame::Trailers(trailers) => Piece::Trailers(trailers.clone()),
        };
        self.pieces.try_send(piece).is_ok()
    }

    /// The body has come to its end. A copy that is dropped without is broken off.
    pub fn end(self) {
        let _ = self.pieces.try_send(Piece::End);
    }
}

impl Sending<'_> {
    /// Begins a copy; gives the way for its body where there is one.
    pub fn begin(self) -> Option<Copy> {
        let (pieces, body) = mpsc::channel(if self.body { FRAMES } else { 1 });
        let copy = Sent {
            connector: self.exchange.connector.clone(),
            cluster: Arc::clone(self.cluster),
            head: self.head.clone(),
            protocol: self.protocol,
            source: Arc::clone(&self.exchange.source),
            until: self.until.tighten(now(), Some(PATIENCE)),
        };
        let (telemetry, route, destination) =
            (Arc::clone(&self.exchange.telemetry), self.route, Arc::clone(&self.cluster.name().service));
        let body = self.body.then_some(body);
        self.exchange.connector.spawn(async move {
            let outcome = match copy.send(body).await {
                Ok(()) => "answered",
                Err(error) => error.label(),
            };
            telemetry.mirrored.with(&[&destination, &route, outcome]).increment();
        });
        self.body.then_some(Copy { pieces, room: BYTES })
    }
}

struct Sent {
    connector: connect::Connector,
    cluster: Arc<Cluster>,
    head: RequestHead,
    protocol: Protocol,
    source: Arc<str>,
    until: Deadline,
}

impl Sent {
    async fn send(mut self, body: Option<mpsc::Receiver<Piece>>) -> Result<(), ProxyError> {
        let until = self.until.at().unwrap_or_else(now);
        match tokio::time::timeout_at(until.into(), self.exchange(body)).await {
            Ok(result) => result,
            Err(_) => Err(ProxyError::new(Kind::RequestTimeout)),
        }
    }

    async fn exchange(&mut self, body: Option<mpsc::Receiver<Piece>>) -> Result<(), ProxyError> {
        let mut pick = self.cluster.pick(now(), &mut random::draw, &[])?;
        let result = self.carry(&mut pick, body).await;
        if let Err(error) = &result
            && error.blames_endpoint()
        {
            pick.unanswered(now());
            pick.report(Outcome::Failure, now(), random::draw());
        }
        result
    }

    async fn carry(&mut self, pick: &mut Pick, body: Option<mpsc::Receiver<Piece>>) -> Result<(), ProxyError> {
        let protocol = Exchange::wire_protocol(self.protocol, pick.endpoint(), &self.head);
        let native = protocol == connect::Protocol::Http2;
        let spoken = pick.endpoint().protocol.unwrap_or(self.protocol);
        let mut text = None;
        if let Some(crossing) = Crossing::of(&self.head, self.head.grpc(), spoken, native)? {
            text = crossing.kind.decodes().then(web::Request::default);
            self.head = crossing.head;
        }
        let mut upstream = match self.connector.ready(pick.target(), protocol) {
            Some(upstream) => upstream,
            None => {
                pick.connecting()?;
                let made = self.connector.http(pick.target(), protocol).await?;
                pick.connected();
                made
            }
        };
        pick.sending(now());
        headers::address(&mut self.head, pick.is_mtls(), native, &self.source, self.until, now());
        upstream.send_head(&self.head, body.is_none()).await?;
        let (mut send, mut recv) = upstream.split();
        let up = async {
            let Some(mut body) = body else { return Ok(()) };
            loop {
                match body.recv().await {
                    Some(Piece::Data(data)) => {
                        let data = match &mut text {
                            Some(text) => text.data(&data)?,
                            None => data,
                        };
                        if !data.is_empty() {
                            send.data(data).await?;
                        }
                    }
                    Some(Piece::Trailers(trailers)) => return send.trailers(trailers).await.map_err(ProxyError::from),
                    Some(Piece::End) => return send.finish().await.map_err(ProxyError::from),
                    None => return Err(ProxyError::because(Kind::ClientBody, "the copy of the body broke off")),
                }
            }
        };
        let down = async {
            let status = loop {
                let head = recv.head().await?;
                if !head.status.is_informational() {
                    break head.status.as_u16();
                }
            };
            pick.answered(now());
            while let Some(frame) = recv.frame().await {
                frame?;
            }
            pick.report(Outcome::of_status(status), now(), random::draw());
            Ok(())
        };
        tokio::try_join!(up, down).map(|_| ())
    }
}
