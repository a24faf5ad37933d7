//! A peer made by hand: frames as bytes, and what an engine answers.

use crate::Limits;
use crate::h2::engine::{Engine, Event, Key, Local, Role};
use crate::h2::frame::{self, Code, HEAD, Head, be32, flag, kind};
use crate::h2::hpack::{Decoder, Encoder, Name};
use bytes::BytesMut;
use http::header::HeaderName;
use std::task::{Context, Waker};

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&Head::bytes(payload.len(), kind, flags, stream), payload].concat()
}

pub(super) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::settings(&mut out, values);
    out
}

/// A header block without compression.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "short");
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

pub(super) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "catalog"), (":path", "/")];

pub(super) fn headers(stream: u32, end: bool, fields: &[(&str, &str)]) -> Vec<u8> {
    let flags = flag::END_HEADERS | if end { flag::END_STREAM } else { 0 };
    frame(kind::HEADERS, flags, stream, &block(fields))
}

pub(super) fn get(stream: u32) -> Vec<u8> {
    headers(stream, true, &GET)
}

pub(super) fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    headers(stream, false, &[&GET[..], more].concat())
}

pub(super) fn data(stream: u32, end: bool, data: &[u8]) -> Vec<u8> {
    frame(kind::DATA, if end { flag::END_STREAM } else { 0 }, stream, data)
}

pub(super) fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// A frame that an engine sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// Everything that waits in an engine.
pub(super) fn sent(engine: &mut Engine) -> Vec<Sent> {
    let bytes = engine.out.take();
    engine.flushed();
    let mut bytes = bytes.strip_prefix(frame::PREFACE).unwrap_or(&bytes);
    let mut frames = Vec::new();
    while let Some(head) = Head::read(bytes) {
        let payload = bytes[HEAD..HEAD + head.len].to_vec();
        bytes = &bytes[HEAD + head.len..];
        frames.push(Sent { kind: head.kind, flags: head.flags, stream: head.stream, payload });
    }
    assert!(bytes.is_empty(), "whole frames");
    frames
}

/// Bytes as the other end would send them.
pub(super) fn raw(engine: &mut Engine) -> Vec<u8> {
    let bytes = engine.out.take();
    engine.flushed();
    bytes
}

pub(super) fn feed(engine: &mut Engine, bytes: &[u8]) {
    let mut input = BytesMut::from(bytes);
    engine.receive(&mut input);
}

/// The codes of the streams that were reset, and the code of the GOAWAY.
pub(super) fn endings(frames: &[Sent]) -> (Vec<(u32, Code)>, Option<Code>) {
    let resets = frames.iter().filter(|frame| frame.kind == kind::RST_STREAM);
    let resets = resets.map(|frame| (frame.stream, Code(be32(&frame.payload)))).collect();
    let goaway = frames.iter().find(|frame| frame.kind == kind::GOAWAY);
    (resets, goaway.map(|frame| Code(be32(&frame.payload[4..]))))
}

pub(super) fn limits() -> Limits {
    Limits { stream_window: 100_000, connection_window: 200_000, max_streams: 10, ..Limits::default() }
}

/// A server that has taken the preface and SETTINGS, and has nothing left to say.
pub(super) fn server(limits: &Limits, peer: &[(u16, u32)]) -> Engine {
    let mut engine = Engine::new(Role::Server, Local::new(limits));
    feed(&mut engine, &[frame::PREFACE, &settings(peer)].concat());
    assert_eq!(engine.ended, None);
    sent(&mut engine);
    engine
}

/// A client that has taken SETTINGS.
pub(super) fn client(limits: &Limits, peer: &[(u16, u32)]) -> Engine {
    let mut engine = Engine::new(Role::Client, Local::new(limits));
    feed(&mut engine, &settings(peer));
    assert_eq!(engine.ended, None);
    sent(&mut engine);
    engine
}

/// The call that has just arrived.
pub(super) fn accept(engine: &mut Engine) -> Key {
    match engine.events.pop_front() {
        Some(Event::Call(key, ..)) => key,
        other => panic!("{other:?}"),
    }
}

/// Decodes a header block.
pub(super) fn fields(decoder: &mut Decoder, block: &[u8]) -> Vec<(Name, Vec<u8>)> {
    let mut fields = Vec::new();
    decoder.decode(block, usize::MAX, |name, value| fields.push((name, value.to_vec()))).expect("a block");
    fields
}

/// A block that puts one large entry into the table, and refers to it again and again.
pub(super) fn bomb(times: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::default();
    let name = HeaderName::from_static("x-bomb");
    for (pseudo, value) in
        [(Name::Method, "GET"), (Name::Scheme, "http"), (Name::Authority, "catalog"), (Name::Path, "/")]
    {
        encoder.pseudo(&mut out, &pseudo, value.as_bytes());
    }
    encoder.header(&mut out, &name, &[b'x'; 900], crate::h2::hpack::Nature::Common);
    out.extend(std::iter::repeat_n(0xbe, times));
    out
}
