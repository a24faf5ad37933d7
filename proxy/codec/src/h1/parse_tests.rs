//! Heads that must be read one way only: the smuggling corpus as a table, and what must survive untouched.

use super::*;
use proptest::prelude::*;

fn read(wire: &[u8]) -> Result<(RequestHead, RequestFraming), Refusal> {
    let limits = Limits::default();
    let mut buffer = BytesMut::from(wire);
    request(&mut buffer, &mut 0, &limits)?.ok_or(Refusal::Malformed("incomplete"))
}

fn read_response(wire: &[u8], method: &Method) -> Result<(ResponseHead, ResponseFraming), Refusal> {
    let limits = Limits::default();
    let mut buffer = BytesMut::from(wire);
    response(&mut buffer, &mut 0, &limits, method)?.ok_or(Refusal::Malformed("incomplete"))
}

/// Requests that some implementation somewhere reads differently from another.
const SMUGGLED: &[(&str, &[u8])] = &[
    ("length and coding", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("coding and length", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n"),
    ("two lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n"),
    ("two equal lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n"),
    ("a list of lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\n"),
    ("a signed length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\n"),
    ("a negative length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -4\r\n\r\n"),
    ("a hexadecimal length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\n"),
    ("a length with a space", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4 2\r\n\r\n"),
    ("an empty length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n"),
    ("a length beyond 64 bits", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n"),
    ("two codings", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("a list of codings", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    ("chunked twice", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
    ("chunked, then identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n"),
    ("an unknown coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"),
    ("a quoted coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n"),
    ("a coding with a vertical tab", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n"),
    ("a coding with a parameter", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n"),
    ("a coding in 1.0", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("a space before the colon", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n"),
    ("a tab before the colon", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 4\r\n\r\n"),
    ("a folded line", b"POST / HTTP/1.1\r\nHost: a\r\nX: 1\r\n Transfer-Encoding: chunked\r\n\r\n"),
    ("a folded coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n"),
    ("a space before the first name", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    ("a bare LF after the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    ("a bare LF in the headers", b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n"),
    ("a bare LF at the end", b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    ("a bare CR in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n"),
    ("a bare CR before a name", b"GET / HTTP/1.1\r\nHost: a\r\n\rX: 1\r\n\r\n"),
    ("CR CR LF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
    ("a NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\x002\r\n\r\n"),
    ("a NUL in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: 1\r\n\r\n"),
    ("a NUL in the target", b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("no name", b"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n"),
    ("no colon", b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
    ("a name with a bracket", b"GET / HTTP/1.1\r\nHost: a\r\n[X]: 1\r\n\r\n"),
    ("a name that is not ASCII", b"GET / HTTP/1.1\r\nHost: a\r\nX\xe9: 1\r\n\r\n"),
    ("no Host", b"GET / HTTP/1.1\r\n\r\n"),
    ("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("two equal Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"),
    ("a Host with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("a Host with user information", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    ("a list of Hosts", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    ("a Host with a bad port", b"GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n"),
    ("a Host with an open bracket", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    ("user information in the URL", b"GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a URL without a host", b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("another scheme", b"GET file://a/x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a fragment", b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a relative target", b"GET x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("an asterisk for GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("CONNECT without a port", b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("CONNECT with a path", b"CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("CONNECT with a body", b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"),
    ("two spaces after the method", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a space in the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a tab in the request line", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("no version", b"GET /\r\nHost: a\r\n\r\n"),
    ("HTTP/2 in letters", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    ("another version", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    ("a lower-case version", b"GET / http/1.1\r\nHost: a\r\n\r\n"),
    ("a method with a bracket", b"G[T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a space before the method", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a TLS ClientHello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
];

#[test]
fn nothing_that_two_readers_could_read_differently_is_accepted() {
    for (what, wire) in SMUGGLED {
        match read(wire) {
            Err(refusal) => assert_eq!(refusal.request().kind.status(), StatusCode::BAD_REQUEST, "{what}: {refusal:?}"),
            Ok((head, framing)) => panic!("{what} was accepted: {head:?} {framing:?}"),
        }
    }
}

#[test]
fn responses_that_two_readers_could_read_differently_are_refused() {
    for wire in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: 1\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: 1\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
    ] {
        assert!(read_response(wire, &Method::GET).is_err(), "{}", String::from_utf8_lossy(wire));
    }
}

#[test]
fn each_form_of_target_is_understood() {
    for (line, form, authority, path) in [
        ("GET /a?b=c HTTP/1.1", Form::Origin, "h:80", "/a?b=c"),
        ("GET http://catalog:8080/a?b HTTP/1.1", Form::Absolute, "catalog:8080", "/a?b"),
        ("GET HTTP://catalog HTTP/1.1", Form::Absolute, "catalog", "/"),
        ("GET http://catalog?x=/y HTTP/1.1", Form::Absolute, "catalog", "/?x=/y"),
        ("GET http://[2001:db8::1]:8080/ HTTP/1.1", Form::Absolute, "[2001:db8::1]:8080", "/"),
        ("CONNECT catalog:443 HTTP/1.1", Form::Authority, "catalog:443", ""),
        ("OPTIONS * HTTP/1.1", Form::Asterisk, "h:80", "*"),
    ] {
        let (head, _) = read(format!("{line}\r\nHost: h:80\r\n\r\n").as_bytes()).expect(line);
        assert_eq!(head.form, form, "{line}");
        assert_eq!(head.authority.as_deref(), Some(authority), "{line}");
        assert_eq!(head.path, path, "{line}");
    }
}

#[test]
fn case_order_and_reason_survive() {
    let wire = b"GET / HTTP/1.1\r\nHOST: a\r\nX-CuStOm: 1\r\naccept: b\r\nX-Empty:\r\nx-custom:  2 \r\n\r\n";
    let (head, framing) = read(wire).expect("valid");
    let lines: Vec<_> = head
        .headers
        .iter()
        .map(|f| format!("{}={}", String::from_utf8_lossy(f.raw), f.value.to_str().expect("text")))
        .collect();
    assert_eq!(lines, ["HOST=a", "X-CuStOm=1", "accept=b", "X-Empty=", "x-custom=2"]);
    assert!(framing.keep_alive && matches!(framing.body, Decoder::Done));
    let (head, _) = read_response(b"HTTP/1.1 418 I'm  a Teapot\r\n\r\n", &Method::GET).expect("valid");
    assert_eq!(head.reason.as_deref(), Some(&b"I'm  a Teapot"[..]));
}

#[test]
fn persistence_follows_the_version_and_connection() {
    for (version, connection, expected) in [
        ("HTTP/1.1", "", true),
        ("HTTP/1.1", "Connection: x, Close\r\n", false),
        ("HTTP/1.0", "", false),
        ("HTTP/1.0", "Connection: Keep-Alive\r\n", true),
    ] {
        let (_, framing) = read(format!("GET / {version}\r\nHost: a\r\n{connection}\r\n").as_bytes()).expect("valid");
        assert_eq!(framing.keep_alive, expected, "{version} {connection}");
    }
}

#[test]
fn an_upgrade_is_seen_only_where_it_is_asked_for_and_never_to_h2c() {
    let upgrade = |lines: &str| read(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").as_bytes()).expect("valid").0;
    let head = upgrade("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n");
    assert_eq!((head.upgrade, head.protocol.as_deref()), (true, Some("websocket")));
    assert!(!upgrade("Upgrade: websocket\r\n").upgrade);
    assert!(!upgrade("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n").upgrade);
    // Among others, or on a line of its own, the upstream could choose it.
    assert!(!upgrade("Connection: Upgrade\r\nUpgrade: websocket, H2C\r\n").upgrade);
    assert!(!upgrade("Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n").upgrade);
}

#[test]
fn the_body_of_a_response_depends_on_what_was_asked() {
    let body = |wire: &[u8], method: &Method| read_response(wire, method).expect("valid").1.body;
    let with_length = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert!(matches!(body(with_length, &Method::GET), Decoder::Length(5)));
    assert!(matches!(body(with_length, &Method::HEAD), Decoder::Done));
    assert!(matches!(body(with_length, &Method::CONNECT), Decoder::Done));
    assert!(matches!(body(b"HTTP/1.1 200 OK\r\n\r\n", &Method::GET), Decoder::UntilClose));
    assert!(matches!(body(b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", &Method::GET), Decoder::Done));
    assert!(matches!(body(b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", &Method::GET), Decoder::Done));
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n";
    assert!(matches!(body(chunked, &Method::GET), Decoder::Chunked(_)));
}

#[test]
fn limits_are_431_and_not_400() {
    let many: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
    assert_eq!(read(format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n").as_bytes()).err(), Some(Refusal::TooLarge));
    let very_many: String = (0..1000).map(|n| format!("x-{n}: 1\r\n")).collect();
    assert_eq!(read(format!("GET / HTTP/1.1\r\nHost: a\r\n{very_many}\r\n").as_bytes()).err(), Some(Refusal::TooLarge));
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(70_000));
    assert_eq!(read(long.as_bytes()).err(), Some(Refusal::TooLarge), "before the end is seen");
}

proptest! {
    #[test]
    fn no_input_panics(wire in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&wire);
        let _ = read_response(&wire, &Method::GET);
    }

    #[test]
    fn no_mutation_of_a_request_panics(at in 0usize..80, byte in any::<u8>()) {
        let mut wire = b"POST http://catalog:80/a?b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX: 1\r\n\r\n".to_vec();
        let at = at % wire.len();
        wire[at] = byte;
        let _ = read(&wire);
    }

    #[test]
    fn case_and_order_survive_a_round_trip(
        names in prop::collection::vec("[A-Za-z][A-Za-z0-9-]{0,12}", 0..12),
        values in prop::collection::vec("[!-~]([ -~]{0,20}[!-~])?", 12),
        cuts in prop::collection::vec(1usize..30, 0..40),
    ) {
        let lines: Vec<(String, String)> = names.into_iter().map(|n| format!("X-{n}")).zip(values).collect();
        let text: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let wire = format!("PUT /a HTTP/1.1\r\nhOsT: catalog\r\n{text}\r\n");
        let limits = Limits::default();
        let (mut buffer, mut scanned, mut fed) = (BytesMut::new(), 0, 0);
        let mut cuts = cuts.into_iter().chain(std::iter::repeat(usize::MAX));
        let (request, _) = loop {
            match request(&mut buffer, &mut scanned, &limits).expect("valid") {
                Some(parsed) => break parsed,
                None => {
                    let end = fed + cuts.next().unwrap_or(1).min(wire.len() - fed);
                    buffer.extend_from_slice(&wire.as_bytes()[fed..end]);
                    fed = end;
                }
            }
        };
        let mut out = Vec::new();
        super::super::encode::request(&mut out, &request, true).expect("writable");
        let expected = format!("PUT /a HTTP/1.1\r\nhOsT: catalog\r\n{text}content-length: 0\r\n\r\n");
        prop_assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
