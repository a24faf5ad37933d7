//! Floods: each is bounded or ends the connection, and what is held stays small.

use super::wire::*;
use crate::ResponseHead;
use crate::h2::engine::Engine;
use crate::h2::fault::{By, Fault};
use crate::h2::frame::{Code, flag, kind, setting};
use bytes::Bytes;
use http::{Method, StatusCode};
use std::task::Poll;

/// Feeds `bytes` until the connection ends, at most `most` times; what is written meanwhile is taken, as a peer that reads would.
fn flood(engine: &mut Engine, most: usize, mut bytes: impl FnMut(u32) -> Vec<u8>) -> Option<usize> {
    for n in 0..most {
        feed(engine, &bytes(n as u32));
        while let Some(event) = engine.events.pop_front() {
            if let crate::h2::engine::Event::Call(key, ..) = event {
                engine.release(key, true);
                engine.release(key, false);
            }
        }
        if engine.ended.is_some() {
            assert_eq!(engine.ended, Some(Fault::GoAway(Code::ENHANCE_YOUR_CALM, By::Us)));
            return Some(n);
        }
        sent(engine);
    }
    None
}

#[test]
fn rapid_resets_end_the_connection() {
    let mut engine = server(&limits(), &[]);
    let ended =
        flood(&mut engine, 10_000, |n| [get(2 * n + 1), frame(kind::RST_STREAM, 0, 2 * n + 1, &[0; 4])].concat());
    assert!(ended.is_some_and(|n| n <= 2_000), "{ended:?}");
}

#[test]
fn malformed_requests_without_end_end_the_connection() {
    let mut engine = server(&limits(), &[]);
    assert!(flood(&mut engine, 20_000, |n| headers(2 * n + 1, true, &[(":method", "GET")])).is_some());
}

#[test]
fn a_header_block_without_end_ends_the_connection() {
    for piece in [&b""[..], &[0; 16_000]] {
        let mut engine = server(&limits(), &[]);
        feed(&mut engine, &frame(kind::HEADERS, 0, 1, &[]));
        let ended = flood(&mut engine, 1000, |_| frame(kind::CONTINUATION, 0, 1, piece));
        assert!(ended.is_some_and(|n| n <= 64), "{ended:?}");
    }
}

#[test]
fn pings_and_settings_are_answered_as_fast_as_the_answers_are_taken() {
    for one in [frame(kind::PING, 0, 0, &[0; 8]), settings(&[(setting::ENABLE_PUSH, 0)])] {
        let mut engine = server(&limits(), &[]);
        assert_eq!(flood(&mut engine, 5_000, |_| one.clone()), None, "the peer reads them");
        feed(&mut engine, &one.repeat(10_000));
        assert_eq!(engine.ended, Some(Fault::GoAway(Code::ENHANCE_YOUR_CALM, By::Us)));
        assert!(engine.out.waiting() < 10_000, "{}", engine.out.waiting());
    }
}

#[test]
fn frames_to_no_purpose_end_the_connection() {
    let noise: [(&str, Vec<u8>); 5] = [
        ("empty DATA", data(1, false, b"")),
        ("padding only", frame(kind::DATA, flag::PADDED, 1, &[3, 0, 0, 0])),
        ("WINDOW_UPDATE", frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        ("PRIORITY", frame(kind::PRIORITY, 0, 77, &[0; 5])),
        ("an unknown type", frame(0xfa, 0, 0, b"")),
    ];
    for (what, one) in noise {
        let mut engine = server(&limits(), &[]);
        feed(&mut engine, &post(1, &[]));
        engine.events.clear();
        assert!(flood(&mut engine, 100_000, |_| one.clone()).is_some(), "{what}");
    }
}

#[test]
fn credit_for_what_is_sent_is_no_flood() {
    let mut engine = server(&limits(), &[(setting::INITIAL_WINDOW_SIZE, 1 << 20)]);
    feed(&mut engine, &get(1));
    let key = accept(&mut engine);
    let credit = [
        frame(kind::WINDOW_UPDATE, 0, 1, &10u32.to_be_bytes()),
        frame(kind::WINDOW_UPDATE, 0, 0, &10u32.to_be_bytes()),
    ];
    for _ in 0..100_000 {
        assert_eq!(engine.poll_room(key, &cx(), 10), Poll::Ready(Ok(10)));
        engine.data(key, Bytes::from_static(&[0; 10]), false);
        feed(&mut engine, &credit.concat());
        sent(&mut engine);
    }
    assert_eq!(engine.ended, None);
}

#[test]
fn a_bomb_of_references_is_refused_without_being_unpacked() {
    let mut engine = server(&limits(), &[]);
    let block = bomb(15_000);
    feed(&mut engine, &frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &block));
    assert!(matches!(engine.events.pop_front(), Some(crate::h2::engine::Event::Rejected(_))));
    assert_eq!(engine.ended, None);
}

#[test]
fn a_peer_that_opens_no_window_makes_nobody_hold_its_answers() {
    let mut engine = server(&limits(), &[(setting::INITIAL_WINDOW_SIZE, 0)]);
    feed(&mut engine, &(0..10).flat_map(|n| get(2 * n + 1)).collect::<Vec<_>>());
    for _ in 0..10 {
        let key = accept(&mut engine);
        engine.respond(key, &ResponseHead::new(StatusCode::OK), false, &Method::GET).expect("sent");
        assert!(engine.poll_room(key, &cx(), 1 << 20).is_pending());
    }
    assert!(engine.out.waiting() < 10 * 16);
    // The reader goes on meanwhile.
    feed(&mut engine, &frame(kind::PING, 0, 0, &[1; 8]));
    assert!(sent(&mut engine).iter().any(|frame| frame.kind == kind::PING));
}
