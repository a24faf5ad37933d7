//! HTTP/2 requests that would be something else in HTTP/1 (RFC 9113 sections 8.1 to 8.5, 10.3), in frames written by hand: to the explicit
//! listener with prior knowledge, and natively to the sidecar in front of the upstream.

use super::{HOSTS, Stage, filled};
use crate::frames::{self, CONTINUATION, DATA, END_HEADERS, END_STREAM, End, Framed, HEADERS, Outcome};
use crate::recorder::Script;
use crate::rig;
use crate::wire::{Link, SOON};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// Malformed (RFC 9113 section 8.1.1): a stream or connection error, or an answer of 4xx; the upstream has no whole request.
    Malformed,
    /// The upstream reads exactly this, and it is answered.
    Reads(&'static str),
    /// One or the other: what the field means is not this layer's to say, as long as it means one thing.
    Either(&'static str),
}
use Expect::{Either, Malformed, Reads};

type Field = (Vec<u8>, Vec<u8>);

struct Case {
    name: &'static str,
    fields: Vec<Field>,
    data: Option<&'static [u8]>,
    trailers: Vec<Field>,
    expect: Expect,
}

fn owned(fields: &[(&[u8], &[u8])]) -> Vec<Field> {
    fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

/// A GET of the case's target with one more field.
fn with(name: &'static str, field: &[u8], value: &[u8], expect: Expect) -> Case {
    let mut fields = usual(b"GET");
    fields.push((field.to_vec(), value.to_vec()));
    Case { name, fields, data: None, trailers: Vec::new(), expect }
}

/// A POST with one more field, `hello`, and trailers.
fn body(
    name: &'static str,
    field: (&[u8], &[u8]),
    data: &'static [u8],
    trailers: &[(&[u8], &[u8])],
    expect: Expect,
) -> Case {
    let mut fields = usual(b"POST");
    if !field.0.is_empty() {
        fields.push((field.0.to_vec(), field.1.to_vec()));
    }
    Case { name, fields, data: Some(data), trailers: owned(trailers), expect }
}

/// Exactly these fields.
fn only(name: &'static str, fields: &[(&[u8], &[u8])], expect: Expect) -> Case {
    Case { name, fields: owned(fields), data: None, trailers: Vec::new(), expect }
}

fn usual(method: &[u8]) -> Vec<Field> {
    owned(&[(b":method", method), (b":scheme", b"http"), (b":authority", b"{h}"), (b":path", b"/{n}")])
}

const BARE: Expect = Reads("GET /{n} []");
const ONCE: Expect = Reads("POST /{n} [hello]");

fn fields() -> Vec<Case> {
    vec![
        with("CR LF in a value, H2.H1 header injection", b"x", b"a\r\nTransfer-Encoding: chunked", Malformed),
        with(
            "CR LF CR LF in a value, H2 request splitting",
            b"x",
            b"a\r\n\r\nGET /{n}/smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
            Malformed,
        ),
        with("CR in a value, RFC 9113 8.2.1", b"x", b"a\rb", Malformed),
        with("LF in a value", b"x", b"a\nb", Malformed),
        with("NUL in a value", b"x", b"a\0b", Malformed),
        with("whitespace around a value, RFC 9113 8.2.1", b"x", b" a ", Either("GET /{n} []")),
        with("CR LF in a name", b"x: a\r\ny", b"b", Malformed),
        with("a colon in a name", b"transfer-encoding: chunked\r\nx", b"a", Malformed),
        with("a colon alone in a name", b"x:y", b"a", Malformed),
        with("a space in a name", b"x y", b"a", Malformed),
        with("a space after a name", b"content-length ", b"5", Malformed),
        with("an upper-case name, RFC 9113 8.2", b"X-Upper", b"a", Malformed),
        with("an upper-case framing field", b"Content-Length", b"5", Malformed),
        with("an empty name", b"", b"a", Malformed),
        with("obs-text in a name", b"x\xe9", b"a", Malformed),
        with("DEL in a name", b"x\x7f", b"a", Malformed),
        with("transfer-encoding, H2.TE, RFC 9113 8.2.2", b"transfer-encoding", b"chunked", Malformed),
        with("connection", b"connection", b"close", Malformed),
        with("connection that nominates", b"connection", b"authorization", Malformed),
        with("keep-alive", b"keep-alive", b"5", Malformed),
        with("proxy-connection", b"proxy-connection", b"keep-alive", Malformed),
        with("upgrade", b"upgrade", b"h2c", Malformed),
        with("te that is not trailers", b"te", b"gzip", Malformed),
        with("te: trailers", b"te", b"trailers", BARE),
        with("host that agrees", b"host", b"{h}", BARE),
        with("host that differs from :authority, RFC 9113 8.3.1", b"host", b"other", Malformed),
        with("weft-source is not the caller's", b"weft-source", b"shop/admin", BARE),
        with("expect is answered on the way", b"expect", b"100-continue", BARE),
    ]
}

fn pseudo() -> Vec<Case> {
    let m: (&[u8], &[u8]) = (b":method", b"GET");
    let s: (&[u8], &[u8]) = (b":scheme", b"http");
    let a: (&[u8], &[u8]) = (b":authority", b"{h}");
    let p: (&[u8], &[u8]) = (b":path", b"/{n}");
    let x: (&[u8], &[u8]) = (b":method", b"CONNECT");
    let w: (&[u8], &[u8]) = (b":protocol", b"websocket");
    let path = |name, path: &'static [u8], expect| only(name, &[m, s, a, (b":path", path)], expect);
    let method = |name, method: &'static [u8], expect| only(name, &[(b":method", method), s, a, p], expect);
    let authority = |name, text: &'static [u8]| only(name, &[m, s, (b":authority", text), p], Malformed);
    vec![
        path("a space in :path", b"/{n} HTTP/1.1", Malformed),
        path("a request in :path", b"/{n} HTTP/1.1\r\nHost: x\r\n\r\nGET /{n}/smuggled", Malformed),
        path("a tab in :path", b"/{n}\tx", Malformed),
        path("NUL in :path", b"/{n}\0", Malformed),
        path("an empty :path, RFC 9113 8.3.1", b"", Malformed),
        path("a :path that does not begin with a slash", b"{n}", Malformed),
        path("an absolute :path", b"http://other/{n}", Malformed),
        path("a fragment in :path", b"/{n}#x", Either("GET /{n} []")),
        path("an asterisk without OPTIONS", b"*", Malformed),
        method("a space in :method", b"GET /{n}/smuggled HTTP/1.1", Malformed),
        method("CR LF in :method", b"GET\r\nX", Malformed),
        method("an empty :method", b"", Malformed),
        method("an unusual :method is its own", b"G!T", Reads("G!T /{n} []")),
        authority("user information in :authority, RFC 9113 8.3.1", b"a@{h}"),
        authority("a space in :authority", b"{h} x"),
        authority("CR LF in :authority", b"{h}\r\nX: a"),
        authority("a path in :authority", b"{h}/x"),
        only("a :scheme with a path", &[m, (b":scheme", b"http://other/x"), a, p], Malformed),
        only("a :scheme with CR LF", &[m, (b":scheme", b"http\r\nx"), a, p], Malformed),
        only("a pseudo-header after a field, RFC 9113 8.3", &[m, s, a, (b"x", b"a"), p], Malformed),
        only(":path twice", &[m, s, a, p, (b":path", b"/{n}/smuggled")], Malformed),
        only(":method twice", &[m, (b":method", b"POST"), s, a, p], Malformed),
        only(":authority twice", &[m, s, a, (b":authority", b"other"), p], Malformed),
        only(":scheme twice", &[m, s, (b":scheme", b"https"), a, p], Malformed),
        only("no :method", &[s, a, p], Malformed),
        only("no :path", &[m, s, a], Malformed),
        only("no :scheme", &[m, a, p], Malformed),
        only("neither :authority nor host", &[m, s, p], Malformed),
        only(":status in a request", &[m, s, a, p, (b":status", b"200")], Malformed),
        only("an unknown pseudo-header", &[m, s, a, p, (b":x", b"a")], Malformed),
        only(":protocol without CONNECT, RFC 8441", &[m, s, a, p, (b":protocol", b"websocket")], Malformed),
        only("extended CONNECT with a length, RFC 9110 9.3.6", &[x, s, a, p, w, (b"content-length", b"5")], Malformed),
        only("extended CONNECT with Upgrade, RFC 9113 8.2.2", &[x, s, a, p, w, (b"upgrade", b"websocket")], Malformed),
        only("extended CONNECT without :path, RFC 8441 4", &[x, s, a, w], Malformed),
        only("CR LF in :protocol", &[x, s, a, p, (b":protocol", b"websocket\r\nx: a")], Malformed),
        only("a list in :protocol", &[x, s, a, p, (b":protocol", b"websocket, h2c")], Malformed),
        only("CONNECT with :path, RFC 9113 8.5", &[(b":method", b"CONNECT"), s, a, p], Malformed),
        only("two hosts in place of :authority", &[m, s, p, (b"host", b"{h}"), (b"host", b"other")], Malformed),
        only("host in place of :authority", &[m, s, p, (b"host", b"{h}")], BARE),
    ]
}

fn bodies() -> Vec<Case> {
    let none: (&[u8], &[u8]) = (b"", b"");
    let length = |name, value: &'static [u8], expect| body(name, (b"content-length", value), b"hello", &[], expect);
    vec![
        length("content-length that is right", b"5", ONCE),
        length("content-length over the body, RFC 9113 8.1.1", b"50", Malformed),
        length("content-length under the body, H2.CL", b"3", Malformed),
        length("content-length 0 with a body, H2.CL", b"0", Malformed),
        length("a sign in content-length", b"+5", Malformed),
        length("a list as content-length", b"5, 5", Malformed),
        length("content-length in hexadecimal", b"0x5", Malformed),
        length("content-length over 64 bits", b"18446744073709551621", Malformed),
        length("leading zeros in content-length", b"0005", Either("POST /{n} [hello]")),
        with("content-length without a body", b"content-length", b"5", Malformed),
        Case {
            fields: [usual(b"POST"), owned(&[(b"content-length", b"5"), (b"content-length", b"0")])].concat(),
            ..body("two content-length that differ", none, b"hello", &[], Malformed)
        },
        body(
            "a request in the body",
            none,
            b"0\r\n\r\nGET /x/smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
            &[],
            Reads("POST /{n} [0\r\n\r\nGET /x/smuggled HTTP/1.1\r\nHost: x\r\n\r\n]"),
        ),
        body("trailers go on", none, b"hello", &[(b"x-sum", b"1")], Reads("POST /{n} [hello] +x-sum: 1")),
        body(
            "framing fields as trailers, RFC 9110 6.5.1",
            none,
            b"hello",
            &[(b"content-length", b"9"), (b"host", b"x")],
            Either("POST /{n} [hello]"),
        ),
        body(
            "transfer-encoding as a trailer",
            none,
            b"hello",
            &[(b"transfer-encoding", b"chunked")],
            Either("POST /{n} [hello]"),
        ),
        body("a pseudo-header in trailers, RFC 9113 8.1", none, b"hello", &[(b":path", b"/smuggled")], Malformed),
        body(
            "CR LF in a trailer",
            none,
            b"hello",
            &[(b"x", b"a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")],
            Malformed,
        ),
        body("an upper-case trailer", none, b"hello", &[(b"X-Sum", b"1")], Malformed),
    ]
}

/// The frames of a case on stream 1; its head in one frame, or all but its last byte in one and that in a CONTINUATION, where what was wrong
/// with the first part must not be forgotten.
fn written(case: &Case, number: usize, host: &str, whole: bool) -> Vec<u8> {
    let fill = |fields: &[Field]| {
        let all = fields.iter().map(|(n, v)| (super::fill(n, number, host), super::fill(v, number, host)));
        frames::block(&all.collect::<Vec<_>>())
    };
    let head = fill(&case.fields);
    let end = if case.data.is_none() { END_STREAM } else { 0 };
    let mut out = if whole {
        frames::frame(HEADERS, END_HEADERS | end, 1, &head)
    } else {
        let (first, rest) = head.split_at(head.len() - 1);
        [frames::frame(HEADERS, end, 1, first), frames::frame(CONTINUATION, END_HEADERS, 1, rest)].concat()
    };
    if let Some(data) = case.data {
        let last = if case.trailers.is_empty() { END_STREAM } else { 0 };
        out.extend(frames::frame(DATA, last, 1, data));
    }
    if !case.trailers.is_empty() {
        out.extend(frames::frame(HEADERS, END_HEADERS | END_STREAM, 1, &fill(&case.trailers)));
    }
    out
}

fn is_refusal(outcome: &Outcome) -> bool {
    match outcome.end {
        End::Reset(_) | End::GoAway(_) | End::Closed => outcome.status.is_none_or(|status| status >= 400),
        End::Whole => outcome.status.is_some_and(|status| (400..500).contains(&status)),
        End::Silence => false,
    }
}

fn run(link: Link, case: &Case, number: usize, host: &str, whole: bool) -> Result<(), String> {
    let mut connection = Framed::client(link, &[(frames::HEADER_TABLE_SIZE, 0)]);
    connection.send(&written(case, number, host, whole));
    let outcome = connection.outcome(1, SOON);
    let answered = outcome.says(&format!("seen /{number:03}"));
    let right = match case.expect {
        Malformed => is_refusal(&outcome),
        Reads(_) => answered,
        Either(_) => answered || is_refusal(&outcome),
    };
    let body = String::from_utf8_lossy(&outcome.body).into_owned();
    if right { Ok(()) } else { Err(format!("{:?} {:?} {body}", outcome.status, outcome.end)) }
}

#[test]
fn an_http2_request_has_one_meaning_or_none() {
    let cases: Vec<Case> = [fields(), pseudo(), bodies()].into_iter().flatten().collect();
    let mut stage = Stage::new(|_: &str| Script::default());
    let outbound = stage.client.address("outbound");
    let (tunnel, native) = (stage.server.address("tunnel"), rig::server_name(stage.recorders[1].at));
    for (number, case) in cases.iter().enumerate() {
        for whole in [true, false] {
            let how = format!("{}{}", case.name, if whole { "" } else { ", in two frames" });
            for host in HOSTS {
                if let Err(what) = run(Link::connect(outbound), case, number, host, whole) {
                    stage.wrong(host, &how, what);
                }
            }
            let link = rig::join(&stage.mesh, tunnel, &[weft_certs::tls::ALPN_NATIVE], Some(&native));
            if let Err(what) = run(link, case, number, HOSTS[1], whole) {
                stage.wrong("native", &how, what);
            }
            HOSTS.iter().for_each(|host| stage.probe(host, &how, number));
        }
    }
    println!("{} requests in HTTP/2, each in one frame and in two, by 3 ways", cases.len());
    let names: Vec<_> = cases.iter().map(|case| case.name).collect();
    stage.conclude(&names, |number, host, readings, _| {
        // In one frame and in two; through HBONE and natively to the same upstream.
        let ways = if host == HOSTS[0] { 2 } else { 4 };
        let right = match cases[number].expect {
            Malformed => readings.is_empty(),
            Reads(reading) => readings.len() == ways && readings.iter().all(|r| *r == filled(reading, number)),
            Either(reading) => readings.len() <= ways && readings.iter().all(|r| *r == filled(reading, number)),
        };
        if right { Ok(()) } else { Err(format!("where it should be {:?}", cases[number].expect)) }
    });
}
