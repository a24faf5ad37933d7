//! Bytes that nobody meant: whatever arrives, an engine neither panics nor holds more than its bounds.

use super::wire::*;
use crate::h2::engine::{Engine, Event, Key};
use crate::h2::frame::{PREFACE, kind};
use crate::{Headers, RequestHead, ResponseHead};
use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use proptest::prelude::*;
use std::task::Poll;

/// Does with an engine what calls do.
fn serve(engine: &mut Engine, keys: &mut Vec<Key>) {
    while let Some(event) = engine.events.pop_front() {
        if let Event::Call(key, ..) = event {
            let _ = engine.respond(key, &ResponseHead::new(StatusCode::OK), false, &Method::GET);
            keys.push(key);
        }
    }
    for at in (0..keys.len()).rev() {
        let key = keys[at];
        while let Some(data) = engine.stream(key).and_then(|stream| stream.pop()) {
            engine.consumed(key, data.len());
        }
        if let Poll::Ready(Ok(count)) = engine.poll_room(key, &cx(), 100) {
            engine.data(key, Bytes::from(vec![0; count]), count > 50);
        }
        if engine.stream(key).is_none_or(|stream| stream.is_closed()) {
            engine.release(key, true);
            engine.release(key, false);
            keys.swap_remove(at);
        }
    }
}

fn chew(engine: &mut Engine, bytes: &[u8], chunk: usize) {
    let (mut input, mut keys) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(chunk.max(1)) {
        input.extend_from_slice(piece);
        engine.receive(&mut input);
        serve(engine, &mut keys);
        assert!(engine.out.waiting() < 1 << 20 && engine.events.is_empty());
        raw(engine);
        if engine.ended.is_some() {
            break;
        }
        assert!(input.len() < 17_000);
    }
    for key in keys {
        engine.release(key, true);
        engine.release(key, false);
    }
    assert!(engine.recv_window + i64::from(engine.owed) <= 200_000);
}

/// A conversation as a client of ours has it.
fn conversation() -> Vec<u8> {
    let mut engine = client(&limits(), &[]);
    let mut bytes = [PREFACE, &settings(&[(3, 100)])].concat();
    for n in 0..6 {
        let mut head = RequestHead::new(Method::POST, "catalog.shop", "/orders");
        for (name, value) in [("x-a", "1"), ("user-agent", "weft"), ("cookie", "a=b")] {
            head.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let key = engine.request(&head, n % 3 == 0).expect("sent");
        if n % 3 > 0 {
            engine.data(key, Bytes::from(vec![n as u8; 700]), false);
            let mut trailers = Headers::new();
            trailers.append(HeaderName::from_static("x-sum"), HeaderValue::from_static("7"));
            engine.trailers(key, &trailers).expect("sent");
        }
        bytes.extend(raw(&mut engine));
    }
    bytes.extend(frame(kind::PING, 0, 0, &[0; 8]));
    bytes.extend(frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]));
    bytes.extend(frame(kind::RST_STREAM, 0, 1, &[0; 4]));
    bytes
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    (0u8..12, any::<u8>(), 0u32..12, proptest::collection::vec(any::<u8>(), 0..60))
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_conversation_with_broken_bytes_does_no_harm(
        breaks in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..40), 0..2),
        chunk in 1usize..3000,
    ) {
        let mut bytes = conversation();
        for (at, byte) in breaks {
            let at = PREFACE.len() + at.index(bytes.len() - PREFACE.len());
            bytes[at] ^= byte;
        }
        for (at, count) in cuts {
            let at = at.index(bytes.len());
            bytes.drain(at..(at + count).min(bytes.len()));
        }
        let mut engine = Engine::new(
            crate::h2::engine::Role::Server,
            crate::h2::engine::Local::new(&limits()),
        );
        chew(&mut engine, &bytes, chunk);
    }

    #[test]
    fn any_frames_do_no_harm_to_either_end(
        frames in proptest::collection::vec(any_frame(), 0..60),
        chunk in 1usize..200,
    ) {
        let bytes = frames.concat();
        chew(&mut server(&limits(), &[]), &bytes, chunk);
        let mut engine = client(&limits(), &[]);
        for _ in 0..3 {
            engine.request(&RequestHead::new(Method::GET, "catalog", "/"), false).expect("sent");
        }
        chew(&mut engine, &bytes, chunk);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..2000), chunk in 1usize..200) {
        chew(&mut server(&limits(), &[]), &bytes, chunk);
        chew(&mut client(&limits(), &[]), &bytes, chunk);
    }
}

#[test]
fn the_conversation_is_understood_when_nothing_is_broken() {
    let mut engine = Engine::new(crate::h2::engine::Role::Server, crate::h2::engine::Local::new(&limits()));
    feed(&mut engine, &conversation());
    assert_eq!((engine.ended, engine.events.len()), (None, 6));
}
