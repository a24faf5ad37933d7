//! The rules of RFC 9113, one by one, with frames made by hand.

use super::wire::*;
use crate::h2::engine::{Event, Leaving};
use crate::h2::fault::{By, Fault};
use crate::h2::frame::{Code, FULL, MAX_31, MAX_PAYLOAD, PREFACE, be32, flag, kind, setting};
use crate::h2::hpack::{Decoder, Name};
use crate::{Kind, Sent as Reached};
use crate::{RequestHead, ResponseHead};
use bytes::Bytes;
use http::{Method, StatusCode};
use std::task::Poll;

#[test]
fn what_breaks_the_protocol_ends_the_connection_with_its_code() {
    let ping = |n| frame(kind::PING, 0, 0, &[0; 9][..n]);
    let cases: Vec<(&str, Vec<u8>, Code)> = vec![
        ("DATA on stream 0", data(0, false, b"x"), Code::PROTOCOL_ERROR),
        ("DATA on an idle stream", data(1, false, b"x"), Code::PROTOCOL_ERROR),
        ("HEADERS on stream 0", get(0), Code::PROTOCOL_ERROR),
        ("HEADERS on an even stream", get(2), Code::PROTOCOL_ERROR),
        ("RST_STREAM on an idle stream", frame(kind::RST_STREAM, 0, 1, &[0; 4]), Code::PROTOCOL_ERROR),
        ("WINDOW_UPDATE on an idle stream", frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), Code::PROTOCOL_ERROR),
        ("WINDOW_UPDATE of nothing", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]), Code::PROTOCOL_ERROR),
        ("WINDOW_UPDATE too large", frame(kind::WINDOW_UPDATE, 0, 0, &MAX_31.to_be_bytes()), Code::FLOW_CONTROL_ERROR),
        ("PING too short", ping(7), Code::FRAME_SIZE_ERROR),
        ("PING too long", ping(9), Code::FRAME_SIZE_ERROR),
        ("PING on a stream", frame(kind::PING, 0, 1, &[0; 8]), Code::PROTOCOL_ERROR),
        ("SETTINGS on a stream", frame(kind::SETTINGS, 0, 1, &[]), Code::PROTOCOL_ERROR),
        ("SETTINGS of a broken size", frame(kind::SETTINGS, 0, 0, &[0; 5]), Code::FRAME_SIZE_ERROR),
        (
            "an acknowledgement that says something",
            frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]),
            Code::FRAME_SIZE_ERROR,
        ),
        ("a window too large", settings(&[(setting::INITIAL_WINDOW_SIZE, MAX_31 + 1)]), Code::FLOW_CONTROL_ERROR),
        ("frames too small", settings(&[(setting::MAX_FRAME_SIZE, 16_383)]), Code::PROTOCOL_ERROR),
        ("a push that is neither", settings(&[(setting::ENABLE_PUSH, 2)]), Code::PROTOCOL_ERROR),
        ("PUSH_PROMISE", frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0; 4]), Code::PROTOCOL_ERROR),
        ("CONTINUATION without HEADERS", frame(kind::CONTINUATION, 0, 1, &[]), Code::PROTOCOL_ERROR),
        ("PRIORITY on stream 0", frame(kind::PRIORITY, 0, 0, &[0; 5]), Code::PROTOCOL_ERROR),
        ("GOAWAY too short", frame(kind::GOAWAY, 0, 0, &[0; 7]), Code::FRAME_SIZE_ERROR),
        ("a frame too large", frame(99, 0, 0, &[0; MAX_PAYLOAD + 1]), Code::FRAME_SIZE_ERROR),
        ("a block that is none", frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x80]), Code::COMPRESSION_ERROR),
        (
            "more padding than payload",
            frame(kind::HEADERS, flag::END_HEADERS | flag::PADDED, 1, &[9]),
            Code::PROTOCOL_ERROR,
        ),
        (
            "no room for the priority",
            frame(kind::HEADERS, flag::END_HEADERS | flag::PRIORITY, 1, &[9]),
            Code::FRAME_SIZE_ERROR,
        ),
        (
            "another frame within a header block",
            [frame(kind::HEADERS, 0, 1, &[]), frame(kind::PING, 0, 0, &[0; 8])].concat(),
            Code::PROTOCOL_ERROR,
        ),
        (
            "another stream's CONTINUATION",
            [frame(kind::HEADERS, 0, 1, &[]), frame(kind::CONTINUATION, 0, 3, &[])].concat(),
            Code::PROTOCOL_ERROR,
        ),
        (
            "DATA beyond the connection's window",
            [
                post(1, &[]),
                post(3, &[]),
                data(1, false, &[0; 16_000]).repeat(6),
                data(3, false, &[0; 16_000]).repeat(7),
            ]
            .concat(),
            Code::FLOW_CONTROL_ERROR,
        ),
    ];
    for (what, bytes, code) in cases {
        let mut engine = server(&limits(), &[]);
        feed(&mut engine, &bytes);
        assert_eq!(endings(&sent(&mut engine)).1, Some(code), "{what}");
        assert_eq!(engine.ended, Some(Fault::GoAway(code, By::Us)), "{what}");
    }
}

#[test]
fn what_is_not_http2_ends_at_the_first_byte_that_differs() {
    use crate::h2::engine::{Engine, Local, Role};
    let fresh = || Engine::new(Role::Server, Local::new(&limits()));
    let mut engine = fresh();
    feed(&mut engine, b"GET");
    assert_eq!(endings(&sent(&mut engine)).1, Some(Code::PROTOCOL_ERROR));
    let mut engine = fresh();
    let mut input = bytes::BytesMut::from(&PREFACE[..10]);
    engine.receive(&mut input);
    assert_eq!((engine.ended, input.len()), (None, 10), "so far it is");
    let mut engine = fresh();
    feed(&mut engine, &[PREFACE, &get(1)[..]].concat());
    assert_eq!(endings(&sent(&mut engine)).1, Some(Code::PROTOCOL_ERROR), "SETTINGS come first");
}

#[test]
fn a_malformed_request_is_answered_reset_and_told_and_others_go_on() {
    let without = |name: &str| GET.into_iter().filter(|field| field.0 != name).collect::<Vec<_>>();
    let with = |name: &'static str, value: &'static str| [&GET[..], &[(name, value)]].concat();
    let but = |name: &'static str, value: &'static str| [&without(name)[..], &[(name, value)]].concat();
    let cases = [
        without(":method"),
        without(":scheme"),
        without(":path"),
        without(":authority"),
        but(":path", ""),
        but(":path", "a"),
        but(":path", "/a b"),
        but(":path", "/a#b"),
        but(":authority", "user@catalog"),
        but(":method", "G T"),
        with(":method", "GET"),
        with(":status", "200"),
        with(":unknown", "1"),
        with(":protocol", "websocket"),
        with("Upper", "case"),
        with("", "nameless"),
        with("a value", "x"),
        with("x", "line\nfeed"),
        with("connection", "close"),
        with("keep-alive", "5"),
        with("proxy-connection", "close"),
        with("transfer-encoding", "chunked"),
        with("upgrade", "h2c"),
        with("te", "gzip"),
        with("host", "payments"),
        with("content-length", "1"),
        with("content-length", "+1"),
        [&GET[..], &[("content-length", "0"), ("content-length", "0")]].concat(),
        [&[("accept", "a")], &GET[..]].concat(),
        vec![(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")],
        vec![(":method", "CONNECT"), (":scheme", "http"), (":authority", "a:1")],
        vec![(":method", "CONNECT"), ("host", "a:1")],
    ];
    for case in cases {
        let mut engine = server(&limits(), &[]);
        feed(&mut engine, &headers(1, true, &case));
        match engine.events.pop_front() {
            Some(Event::Rejected(error)) => assert_eq!(error.kind, Kind::BadRequest, "{case:?}"),
            other => panic!("{case:?}: {other:?}"),
        }
        let frames = sent(&mut engine);
        assert_eq!(frames[0].payload, [0x8c], "400");
        assert_eq!(endings(&frames), (vec![(1, Code::PROTOCOL_ERROR)], None), "{case:?}");
        feed(&mut engine, &get(3));
        accept(&mut engine);
    }
}

#[test]
fn a_request_arrives_with_what_was_meant() {
    let mut engine = server(&limits(), &[]);
    let more = [("cookie", "a=1"), ("te", "trailers"), ("host", "Catalog"), ("cookie", "b=2"), ("cookie", "c=3")];
    let block = block(&[&GET[..], &more].concat());
    // Padded, with a priority, and in three frames.
    let payload = [&[3, 0, 0, 0, 0, 9][..], &block[..40], &[0; 3]].concat();
    let flags = flag::END_STREAM | flag::PADDED | flag::PRIORITY;
    feed(&mut engine, &frame(kind::HEADERS, flags, 1, &payload));
    feed(&mut engine, &frame(kind::CONTINUATION, 0, 1, &block[40..60]));
    assert!(engine.events.is_empty());
    feed(&mut engine, &frame(kind::CONTINUATION, flag::END_HEADERS, 1, &block[60..]));
    let Some(Event::Call(_, head, length)) = engine.events.pop_front() else { panic!("a call") };
    assert_eq!((head.method, head.path, head.authority), (Method::GET, "/".into(), Some("catalog".into())));
    let shown: Vec<_> = head.headers.iter().map(|f| (f.name.as_str(), f.value.to_str().unwrap())).collect();
    assert_eq!(shown, [("cookie", "a=1; b=2; c=3"), ("te", "trailers")]);
    assert_eq!(length, Some(0));
}

#[test]
fn extended_connect_asks_for_its_protocol() {
    let mut engine = server(&limits(), &[]);
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "catalog"),
        (":path", "/chat"),
    ];
    feed(&mut engine, &headers(1, false, &fields));
    let Some(Event::Call(_, head, _)) = engine.events.pop_front() else { panic!("a call") };
    assert!(head.is_websocket() && head.method == Method::GET, "what it is does not depend on the version");
    assert_eq!((head.upgrade, head.protocol, head.path), (true, Some("websocket".into()), "/chat".into()));
    feed(&mut engine, &headers(3, false, &[&fields[..], &[("content-length", "5")]].concat()));
    assert!(matches!(engine.events.pop_front(), Some(Event::Rejected(_))), "no length is one of what follows");
    let mut client = client(&limits(), &[]);
    let mut head = RequestHead::new(Method::CONNECT, "catalog", "/chat");
    (head.protocol, head.upgrade) = (Some("websocket".into()), true);
    assert_eq!(client.request(&head, false).unwrap_err().kind, Kind::Unsupported);
    feed(&mut client, &settings(&[(setting::ENABLE_CONNECT_PROTOCOL, 1)]));
    sent(&mut client);
    client.request(&head, false).expect("accepted");
    let block = fields_of(&mut client);
    assert!(
        block.contains(&(Name::Protocol, b"websocket".to_vec())) && block.contains(&(Name::Path, b"/chat".to_vec()))
    );
    let mut client = self::client(&limits(), &[]);
    feed(&mut client, &settings(&[(setting::ENABLE_CONNECT_PROTOCOL, 1)]));
    sent(&mut client);
    (head.method, head.protocol) = (Method::GET, Some("WebSocket".into()));
    client.request(&head, false).expect("accepted");
    assert_eq!(fields_of(&mut client), block, "an upgrade of HTTP/1.1 as well");
}

fn fields_of(engine: &mut crate::h2::engine::Engine) -> Vec<(Name, Vec<u8>)> {
    let frames = sent(engine);
    fields(&mut Decoder::default(), &frames[0].payload)
}

#[test]
fn a_head_of_http1_becomes_one_of_http2() {
    let mut engine = client(&limits(), &[]);
    let mut head = RequestHead::new(Method::GET, "catalog", "/a<b?c");
    for (name, value) in
        [("host", "old"), ("connection", "x"), ("te", "trailers, gzip"), ("x-a", "1"), ("content-length", "7")]
    {
        head.headers.append(http::HeaderName::from_static(name), http::HeaderValue::from_static(value));
    }
    engine.request(&head, true).expect("writable");
    let expected = [
        (Name::Method, "GET"),
        (Name::Scheme, "http"),
        (Name::Authority, "catalog"),
        (Name::Path, "/a%3Cb?c"),
        (Name::Header(http::HeaderName::from_static("x-a")), "1"),
    ];
    assert_eq!(fields_of(&mut engine), expected.map(|(name, value)| (name, value.as_bytes().to_vec())));
    head.upgrade = true;
    assert_eq!(engine.request(&head, true).unwrap_err().kind, Kind::Unsupported);
    assert!(sent(&mut engine).is_empty(), "nothing of it is left");
}

#[test]
fn too_large_a_head_is_answered_with_431_and_the_tables_stay_in_step() {
    let mut engine = server(&crate::Limits { max_head_bytes: 4096, ..limits() }, &[]);
    feed(&mut engine, &frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &bomb(20)));
    match engine.events.pop_front() {
        Some(Event::Rejected(error)) => assert_eq!(error.kind, Kind::HeadersTooLarge),
        other => panic!("{other:?}"),
    }
    assert_eq!(fields_of(&mut engine), [(Name::Status, b"431".to_vec())]);
    let again = [&block(&GET)[..], &[0xbe]].concat();
    feed(&mut engine, &frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 3, &again));
    let Some(Event::Call(_, head, _)) = engine.events.pop_front() else { panic!("a call") };
    assert_eq!(head.headers.find("x-bomb").expect("from the table").as_bytes().len(), 900);
}

#[test]
fn a_body_must_be_as_long_as_it_says() {
    for (frames, fits) in [
        (vec![data(1, false, b"abc"), data(1, true, b"de")], true),
        (vec![data(1, false, b"abcde"), data(1, true, b"")], true),
        (vec![data(1, false, b"abcde"), headers(1, true, &[("x-sum", "7")])], true),
        (vec![data(1, false, b"abc"), data(1, true, b"def")], false),
        (vec![data(1, true, b"abc")], false),
        (vec![data(1, false, b"abc"), headers(1, true, &[("x-sum", "7")])], false),
    ] {
        let mut engine = server(&limits(), &[]);
        feed(&mut engine, &[post(1, &[("content-length", "5")]), frames.concat()].concat());
        let resets = if fits { vec![] } else { vec![(1, Code::PROTOCOL_ERROR)] };
        assert_eq!(endings(&sent(&mut engine)), (resets, None));
    }
}

#[test]
fn the_answers_of_a_client_s_peer_follow_the_rules() {
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("an answer", headers(1, true, &[(":status", "200")]), true),
        (
            "informational ones first",
            [headers(1, false, &[(":status", "103")]), headers(1, true, &[(":status", "200")])].concat(),
            true,
        ),
        ("a length without a body", headers(1, true, &[(":status", "200"), ("content-length", "5")]), false),
        ("the length that it would have", headers(1, true, &[(":status", "304"), ("content-length", "5")]), true),
        ("no status", headers(1, true, &[("x", "1")]), false),
        ("a status that is none", headers(1, true, &[(":status", "20")]), false),
        ("switching protocols", headers(1, false, &[(":status", "101")]), false),
        ("an end with an informational head", headers(1, true, &[(":status", "100")]), false),
        ("data before the head", data(1, false, b"x"), false),
        ("a request's pseudo-header", headers(1, true, &[(":status", "200"), (":path", "/")]), false),
        ("informational heads without end", headers(1, false, &[(":status", "103")]).repeat(17), false),
        (
            "a head after the body began",
            [headers(1, false, &[(":status", "200")]), headers(1, false, &[(":status", "200")])].concat(),
            false,
        ),
        (
            "a pseudo-header in trailers",
            [headers(1, false, &[(":status", "200")]), headers(1, true, &[(":status", "200")])].concat(),
            false,
        ),
    ];
    for (what, bytes, fits) in cases {
        let mut engine = client(&limits(), &[]);
        let key = engine.request(&RequestHead::new(Method::GET, "catalog", "/"), true).expect("sent");
        feed(&mut engine, &bytes);
        let fault = engine.stream(key).expect("held").fault;
        assert_eq!(fault, if fits { None } else { Some(Fault::Reset(Code::PROTOCOL_ERROR, By::Us)) }, "{what}");
        assert_eq!(engine.ended, None, "{what}");
    }
}

#[test]
fn windows_bound_what_is_sent_and_may_become_negative() {
    let mut engine = server(&limits(), &[(setting::INITIAL_WINDOW_SIZE, 1000)]);
    feed(&mut engine, &[get(1), get(3)].concat());
    let (first, second) = (accept(&mut engine), accept(&mut engine));
    assert_eq!(engine.poll_room(first, &cx(), 5000), Poll::Ready(Ok(1000)));
    engine.data(first, Bytes::from(vec![0; 1000]), false);
    assert!(engine.poll_room(first, &cx(), 1).is_pending());
    feed(&mut engine, &settings(&[(setting::INITIAL_WINDOW_SIZE, 100)]));
    assert_eq!(engine.stream(first).unwrap().send_window, -900);
    assert_eq!(engine.poll_room(second, &cx(), 5000), Poll::Ready(Ok(100)));
    feed(&mut engine, &frame(kind::WINDOW_UPDATE, 0, 1, &900u32.to_be_bytes()));
    assert!(engine.poll_room(first, &cx(), 1).is_pending());
    feed(&mut engine, &frame(kind::WINDOW_UPDATE, 0, 1, &7u32.to_be_bytes()));
    assert_eq!(engine.poll_room(first, &cx(), 5000), Poll::Ready(Ok(7)));
    // The connection's window is for all.
    feed(&mut engine, &settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 20)]));
    let mut left = 65_535 - 1000;
    while let Poll::Ready(Ok(count)) = engine.poll_room(second, &cx(), 1 << 20) {
        engine.data(second, Bytes::from(vec![0; count]), false);
        left -= count;
        let frames = sent(&mut engine);
        assert!(frames.iter().all(|frame| frame.payload.len() <= FULL));
    }
    assert_eq!(left, 0);
    assert!(engine.poll_room(first, &cx(), 1).is_pending(), "it waits as well");
    feed(&mut engine, &frame(kind::WINDOW_UPDATE, 0, 0, &5u32.to_be_bytes()));
    assert_eq!(engine.poll_room(first, &cx(), 100), Poll::Ready(Ok(5)));
    // More than 2^31-1 on a stream ends the stream.
    feed(&mut engine, &frame(kind::WINDOW_UPDATE, 0, 3, &MAX_31.to_be_bytes()));
    assert_eq!(endings(&sent(&mut engine)), (vec![(3, Code::FLOW_CONTROL_ERROR)], None));
}

#[test]
fn credit_returns_in_halves_of_a_window_once_data_is_consumed() {
    let mut engine = server(&limits(), &[]);
    feed(&mut engine, &[post(1, &[]), data(1, false, &[7; 16_000]).repeat(6)].concat());
    let key = accept(&mut engine);
    assert!(sent(&mut engine).is_empty(), "nothing is consumed yet");
    let mut updates = Vec::new();
    while let Some(data) = engine.stream(key).unwrap().pop() {
        engine.consumed(key, data.len());
        let frames = sent(&mut engine);
        updates.extend(frames.iter().map(|frame| (frame.stream, be32(&frame.payload))));
    }
    assert_eq!(updates, [(1, 64_000)]);
    // Nobody reads any more: the connection's credit returns at once, the stream's does not.
    feed(&mut engine, &data(1, false, &[7; 16_000]).repeat(3));
    engine.release(key, true);
    feed(&mut engine, &data(1, false, &[7; 1_000]));
    let frames = sent(&mut engine);
    assert_eq!(frames.iter().map(|frame| frame.stream).collect::<Vec<_>>(), [0]);
    feed(&mut engine, &data(1, false, &[7; 16_000]).repeat(2));
    assert_eq!(endings(&sent(&mut engine)), (vec![(1, Code::FLOW_CONTROL_ERROR)], None));
    assert_eq!(engine.recv_window + i64::from(engine.owed), 200_000, "all of it returned");
}

#[test]
fn streams_take_turns() {
    let mut engine = server(&limits(), &[(setting::INITIAL_WINDOW_SIZE, MAX_31)]);
    feed(&mut engine, &frame(kind::WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes()));
    feed(&mut engine, &(0..10).flat_map(|n| get(2 * n + 1)).collect::<Vec<_>>());
    let keys: Vec<_> = (0..10).map(|_| accept(&mut engine)).collect();
    let mut moved = [0; 10];
    for _ in 0..20 {
        for (at, key) in keys.iter().enumerate() {
            while let Poll::Ready(Ok(count)) = engine.poll_room(*key, &cx(), 1 << 20) {
                engine.data(*key, Bytes::from(vec![0; count]), false);
                moved[at] += count;
            }
        }
        assert!(engine.out.waiting() < 1 << 20, "bounded");
        sent(&mut engine);
    }
    let (least, most) = (*moved.iter().min().unwrap(), *moved.iter().max().unwrap());
    assert!(least >= 20 * FULL && most <= 5 * least, "{moved:?}");
}

#[test]
fn more_streams_than_allowed_are_refused_and_room_comes_back() {
    let mut engine = server(&limits(), &[]);
    feed(&mut engine, &(0..11).flat_map(|n| get(2 * n + 1)).collect::<Vec<_>>());
    assert_eq!(endings(&sent(&mut engine)), (vec![(21, Code::REFUSED_STREAM)], None));
    let key = accept(&mut engine);
    engine.respond(key, &ResponseHead::new(StatusCode::OK), true, &Method::GET).expect("sent");
    feed(&mut engine, &get(23));
    assert_eq!(endings(&sent(&mut engine)), (vec![], None));
}

#[test]
fn a_server_leaves_in_two_steps_and_takes_nothing_after_the_last_stream() {
    let mut engine = server(&limits(), &[]);
    feed(&mut engine, &get(1));
    engine.leave();
    let frames = sent(&mut engine);
    assert_eq!((frames[0].kind, be32(&frames[0].payload)), (kind::GOAWAY, MAX_31));
    feed(&mut engine, &get(3));
    feed(&mut engine, &frame(kind::PING, flag::ACK, 0, &frames[1].payload));
    let frames = sent(&mut engine);
    assert_eq!((frames[0].kind, be32(&frames[0].payload)), (kind::GOAWAY, 3));
    assert_eq!(engine.leaving, Leaving::Told(3));
    feed(&mut engine, &get(5));
    for _ in 0..2 {
        let key = accept(&mut engine);
        assert!(!engine.is_done());
        engine.respond(key, &ResponseHead::new(StatusCode::OK), true, &Method::GET).expect("sent");
        engine.release(key, true);
        engine.release(key, false);
    }
    assert!(engine.is_done() && engine.events.is_empty());
}

#[test]
fn streams_above_the_last_one_of_a_goaway_were_not_sent() {
    let mut engine = client(&limits(), &[]);
    let head = RequestHead::new(Method::POST, "catalog", "/");
    let keys: Vec<_> = (0..3).map(|_| engine.request(&head, true).expect("sent")).collect();
    feed(&mut engine, &frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0]));
    let fault = |engine: &mut crate::h2::engine::Engine, at: usize| engine.stream(keys[at]).unwrap().fault;
    assert_eq!((fault(&mut engine, 0), fault(&mut engine, 1)), (None, None));
    let error = fault(&mut engine, 2).expect("refused").of_upstream(false);
    assert_eq!((error.kind, error.sent), (Kind::Refused, Reached::NotSent));
    assert!(engine.may_open().is_err() && engine.is_closing());
    feed(&mut engine, &headers(1, true, &[(":status", "200")]));
    assert!(engine.stream(keys[0]).unwrap().head.is_some());
}

#[test]
fn what_was_on_its_way_to_a_stream_that_was_reset_is_dropped_and_its_credit_returns() {
    let mut engine = client(&limits(), &[]);
    let key = engine.request(&RequestHead::new(Method::GET, "catalog", "/"), true).expect("sent");
    engine.release(key, true);
    engine.release(key, false);
    assert_eq!(endings(&sent(&mut engine)).0, [(1, Code::CANCEL)]);
    assert!(engine.is_empty());
    feed(&mut engine, &headers(1, false, &[(":status", "200")]));
    feed(&mut engine, &data(1, false, &[0; 16_000]).repeat(7));
    feed(&mut engine, &frame(kind::RST_STREAM, 0, 1, &[0; 4]));
    assert_eq!(engine.ended, None);
    assert_eq!(engine.recv_window + i64::from(engine.owed), 200_000);
}

#[test]
fn short_pieces_are_held_in_proportion_to_their_length() {
    let mut engine = server(&limits(), &[]);
    feed(&mut engine, &post(1, &[]));
    for n in 0..20_000u32 {
        feed(&mut engine, &data(1, false, &[n as u8]));
    }
    let key = accept(&mut engine);
    let (mut pieces, mut bytes) = (0, Vec::new());
    while let Some(data) = engine.stream(key).unwrap().pop() {
        pieces += 1;
        bytes.extend_from_slice(&data);
    }
    assert!(pieces < 10, "{pieces}");
    assert!(bytes.len() == 20_000 && bytes.iter().enumerate().all(|(n, byte)| *byte == n as u8), "in order");
}
