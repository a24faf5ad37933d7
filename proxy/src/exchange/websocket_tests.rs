//! The handshake as heads: what each side is told, and what is not believed.

use super::*;
use http::header::HeaderName;
use http::{Method, StatusCode};

fn request(version: Version, fields: &[(HeaderName, &str)]) -> RequestHead {
    let mut head = RequestHead::new(Method::GET, "orders", "/chat");
    (head.upgrade, head.protocol, head.version) = (true, Some("websocket".into()), version);
    for (name, value) in fields {
        head.headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
    }
    head
}

fn answer(status: u16, fields: &[(HeaderName, &str)]) -> ResponseHead {
    let mut head = ResponseHead::new(StatusCode::from_u16(status).unwrap());
    for (name, value) in fields {
        head.headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
    }
    head
}

const VERSION: (HeaderName, &str) = (header::SEC_WEBSOCKET_VERSION, "13");
/// The example of RFC 6455 §1.3.
const SAMPLE: (HeaderName, &str) = (header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
const PROOF: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[test]
fn a_caller_of_http1_gets_the_proof_that_its_key_asks_for() {
    let mut head = request(Version::Http11, &[VERSION, SAMPLE, (header::CONTENT_LENGTH, "0")]);
    let handshake = Handshake::begin(&mut head, true).unwrap();
    assert!(!head.headers.contains(&header::SEC_WEBSOCKET_KEY) && !head.headers.contains(&header::CONTENT_LENGTH));
    let mut response = answer(200, &[(header::SEC_WEBSOCKET_PROTOCOL, "chat"), (header::SEC_WEBSOCKET_ACCEPT, "x")]);
    assert!(handshake.finish(&mut response).unwrap());
    assert_eq!(response.status, StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers.text(&header::SEC_WEBSOCKET_ACCEPT), Some(PROOF));
    assert_eq!(response.headers.text(&header::UPGRADE), Some("websocket"));
    assert_eq!(response.headers.text(&header::SEC_WEBSOCKET_PROTOCOL), Some("chat"));
    let mut response = answer(403, &[]);
    assert!(!handshake.finish(&mut response).unwrap());
    assert_eq!(response.status, StatusCode::FORBIDDEN);
}

#[test]
fn a_handshake_of_http1_without_its_parts_is_refused() {
    let key = |text| (header::SEC_WEBSOCKET_KEY, text);
    for fields in [
        &[VERSION][..],
        &[SAMPLE],
        &[VERSION, VERSION, SAMPLE],
        &[VERSION, SAMPLE, SAMPLE],
        &[VERSION, key("")],
        &[VERSION, key("dGhlIHNhbXBsZSBub25jZQ")],
        &[VERSION, key("dGhlIHNhbXBsZSBub25jZQAA")],
        &[VERSION, key("dGhlIHNhbXBsZSBub25j*Q==")],
    ] {
        let error = Handshake::begin(&mut request(Version::Http11, fields), true).err().expect("refused");
        assert_eq!(error.kind, Kind::BadRequest, "{fields:?}");
    }
}

#[test]
fn an_upstream_of_http1_has_to_prove_that_it_understood() {
    // A key that the caller sent in spite of HTTP/2 is not the one that is asked about.
    let mut head = request(Version::Http2, &[VERSION, SAMPLE]);
    let handshake = Handshake::begin(&mut head, false).unwrap();
    let key = head.headers.only(&header::SEC_WEBSOCKET_KEY).unwrap().to_str().unwrap().to_owned();
    assert!(is_key(key.as_bytes()) && key != SAMPLE.1, "{key}");
    assert_eq!(head.headers.text(&header::UPGRADE), Some("websocket"));
    let proof = accept(key.as_bytes()).unwrap();
    let accept = (header::SEC_WEBSOCKET_ACCEPT, proof.to_str().unwrap());
    let (upgrade, connection) = ((header::UPGRADE, "WebSocket"), (header::CONNECTION, "keep-alive, Upgrade"));
    let mut good = answer(101, &[upgrade.clone(), connection.clone(), accept.clone()]);
    assert!(handshake.finish(&mut good).unwrap());
    assert_eq!(good.status, StatusCode::OK);
    assert!(!good.headers.contains(&header::UPGRADE) && !good.headers.contains(&header::SEC_WEBSOCKET_ACCEPT));
    for (status, fields) in [
        (200, &[][..]),
        (204, &[upgrade.clone(), connection.clone(), accept.clone()]),
        (101, &[]),
        (101, &[upgrade.clone(), connection.clone()]),
        (101, &[upgrade.clone(), accept.clone()]),
        (101, &[connection.clone(), accept.clone()]),
        (101, &[(header::UPGRADE, "h2c"), connection.clone(), accept.clone()]),
        (101, &[upgrade.clone(), connection.clone(), (header::SEC_WEBSOCKET_ACCEPT, PROOF)]),
        (101, &[upgrade.clone(), connection.clone(), accept.clone(), accept.clone()]),
    ] {
        let error = handshake.finish(&mut answer(status, fields)).expect_err("not believed");
        assert_eq!((error.kind, error.sent), (Kind::UpstreamProtocol, Sent::Sent), "{status} {fields:?}");
    }
    assert!(!handshake.finish(&mut answer(426, &[])).unwrap(), "a refusal is the caller's to read");
}

#[test]
fn between_two_sides_of_http1_nothing_is_changed_and_the_proof_is_held_to() {
    let head = request(Version::Http11, &[VERSION, SAMPLE]);
    let handshake = Handshake::between(&head).unwrap();
    let parts =
        [(header::UPGRADE, "websocket"), (header::CONNECTION, "Upgrade"), (header::SEC_WEBSOCKET_ACCEPT, PROOF)];
    let mut good = answer(101, &parts);
    assert!(handshake.finish(&mut good).unwrap());
    assert_eq!((good.status, good.headers.len()), (StatusCode::SWITCHING_PROTOCOLS, 3));
    for missing in 0..parts.len() {
        let some: Vec<_> =
            parts.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, part)| part.clone()).collect();
        let error = handshake.finish(&mut answer(101, &some)).expect_err("not believed");
        assert_eq!((error.kind, error.sent), (Kind::UpstreamProtocol, Sent::Sent), "{some:?}");
    }
    let wrong = [parts[0].clone(), parts[1].clone(), (header::SEC_WEBSOCKET_ACCEPT, "s3pPLMBiTxaQ9kYGzzhZRbK+xOO=")];
    handshake.finish(&mut answer(101, &wrong)).expect_err("another key's proof");
    for status in [200, 403, 426] {
        assert!(!handshake.finish(&mut answer(status, &[])).unwrap(), "{status} is the caller's to read");
    }
    for fields in [&[VERSION][..], &[VERSION, SAMPLE, SAMPLE], &[VERSION, (header::SEC_WEBSOCKET_KEY, "short")]] {
        assert!(Handshake::between(&request(Version::Http11, fields)).is_none(), "the server's to refuse: {fields:?}");
    }
}

#[test]
fn between_two_sides_of_http2_nothing_is_proven() {
    let mut head = request(Version::Http2, &[SAMPLE]);
    let handshake = Handshake::begin(&mut head, true).unwrap();
    assert!(head.headers.is_empty());
    let mut response = answer(200, &[(header::CONTENT_LENGTH, "5"), (header::SEC_WEBSOCKET_ACCEPT, "x")]);
    assert!(handshake.finish(&mut response).unwrap());
    assert!(response.status == StatusCode::OK && response.headers.is_empty());
    assert!(!handshake.finish(&mut answer(500, &[])).unwrap());
}
