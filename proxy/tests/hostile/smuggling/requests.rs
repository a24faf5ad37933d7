//! HTTP/1 requests. `{n}` is the number of the case, three digits that every target begins with, and `{h}` the host that is called.

use super::{HOSTS, Stage, fill, filled};
use crate::recorder::Script;
use crate::wire::{Broken, Client};

/// What must become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// One answer of the sidecar with this status, and the connection's end: nothing of it reaches the upstream.
    Refused(u16),
    /// One answer of the sidecar with this status; the connection may go on.
    Answered(u16),
    /// The upstream reads exactly these, each is answered, and the connection is in step afterwards.
    Reads(&'static [&'static str]),
    /// The body is broken: the upstream never has a whole request, the caller no success, and the connection ends.
    Cut,
}
use Expect::{Answered, Cut, Reads, Refused};

struct Case {
    /// The attack, and where the rule is.
    name: &'static str,
    bytes: Vec<u8>,
    expect: Expect,
}

/// A head with the usual Host, and what follows its request line.
fn post(name: &'static str, rest: &str, expect: Expect) -> Case {
    raw(name, &[b"POST /{n} HTTP/1.1\r\nHost: {h}\r\n", rest.as_bytes()].concat(), expect)
}

fn get(name: &'static str, rest: &str, expect: Expect) -> Case {
    raw(name, &[b"GET /{n} HTTP/1.1\r\nHost: {h}\r\n", rest.as_bytes()].concat(), expect)
}

fn raw(name: &'static str, bytes: &[u8], expect: Expect) -> Case {
    Case { name, bytes: bytes.to_vec(), expect }
}

/// A request in the body of another.
const INNER: &str = "GET /{n}/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
const ONCE: Expect = Reads(&["POST /{n} [hello]"]);
const BARE: Expect = Reads(&["GET /{n} []"]);
const SELF: Expect = Refused(400);

fn lengths() -> Vec<Case> {
    let with = |name, line: &str, expect| post(name, &format!("{line}\r\n\r\nhello"), expect);
    vec![
        with("two equal Content-Length, RFC 9112 6.3", "Content-Length: 5\r\nContent-Length: 5", SELF),
        with("two Content-Length that differ, CL.CL", "Content-Length: 5\r\nContent-Length: 0", SELF),
        with("a list as Content-Length, RFC 9110 8.6", "Content-Length: 5, 5", SELF),
        with("a list of two lengths", "Content-Length: 5, 0", SELF),
        with("a sign in Content-Length", "Content-Length: +5", SELF),
        with("a negative Content-Length", "Content-Length: -5", SELF),
        with("hexadecimal Content-Length", "Content-Length: 0x5", SELF),
        with("a fraction as Content-Length", "Content-Length: 5.0", SELF),
        with("Content-Length over 64 bits", "Content-Length: 18446744073709551621", SELF),
        with("Content-Length of forty digits", "Content-Length: 0000000000000000000018446744073709551621", SELF),
        with("a space inside Content-Length", "Content-Length: 5 0", SELF),
        with("an empty Content-Length", "Content-Length:", SELF),
        with("Content-Length in full-width digits", "Content-Length: \u{ff15}", SELF),
        with("a comma before Content-Length", "Content-Length: ,5", SELF),
        with("a quoted Content-Length", "Content-Length: \"5\"", SELF),
        with("vertical tab before Content-Length, RFC 9110 5.6.3", "Content-Length: \x0b5", SELF),
        with("tabs around Content-Length are whitespace", "Content-Length:\t5\t", ONCE),
        with("leading zeros are decimal, not octal", "Content-Length: 0005", ONCE),
        post(
            "octal or decimal: 010 is ten",
            "Content-Length: 010\r\n\r\nhelloworld",
            Reads(&["POST /{n} [helloworld]"]),
        ),
        with("a look-alike Content_Length means nothing", "Content-Length: 5\r\nContent_Length: 0", ONCE),
        with("Content-Length in odd case", "cOnTeNt-LeNgTh: 5", ONCE),
        with("Content-Length hidden by a space before the colon, RFC 9112 5.1", "Content-Length : 5", SELF),
        get(
            "GET with a body that is a request",
            &format!("Content-Length: 39\r\n\r\n{INNER}"),
            Reads(&["GET /{n} [GET /{n}/smuggled HTTP/1.1\r\nHost: x\r\n\r\n]"]),
        ),
    ]
}

fn codings() -> Vec<Case> {
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    let with = |name, line: &str, expect| post(name, &format!("{line}\r\n\r\n{chunks}"), expect);
    let tail = format!("0\r\n\r\n{INNER}");
    vec![
        post("CL.TE, RFC 9112 6.1", &format!("Content-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n{tail}"), SELF),
        post("TE.CL, RFC 9112 6.1", &format!("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{tail}"), SELF),
        post(
            "TE.0: chunked with Content-Length 0",
            &format!("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n{tail}"),
            SELF,
        ),
        with("a space before the colon of Transfer-Encoding", "Transfer-Encoding : chunked", SELF),
        with("a tab before the colon of Transfer-Encoding", "Transfer-Encoding\t: chunked", SELF),
        with("a tab before chunked is whitespace", "Transfer-Encoding:\tchunked", ONCE),
        with("xchunked", "Transfer-Encoding: xchunked", SELF),
        with("chunked, identity", "Transfer-Encoding: chunked, identity", SELF),
        with("identity, chunked", "Transfer-Encoding: identity, chunked", SELF),
        with("identity", "Transfer-Encoding: identity", SELF),
        with("gzip, chunked", "Transfer-Encoding: gzip, chunked", SELF),
        with("chunked twice in a list, RFC 9112 6.1", "Transfer-Encoding: chunked, chunked", SELF),
        with("TE.TE: two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", SELF),
        with("TE.TE: the second hides the first", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x", SELF),
        with("TE.TE: the first hides the second", "Transfer-Encoding: x\r\nTransfer-Encoding: chunked", SELF),
        with("a quoted coding", "Transfer-Encoding: \"chunked\"", SELF),
        with("a coding with a parameter", "Transfer-Encoding: chunked;q=1", SELF),
        with("an empty Transfer-Encoding", "Transfer-Encoding:", SELF),
        with("a vertical tab before chunked", "Transfer-Encoding: \x0bchunked", SELF),
        with("a form feed after chunked", "Transfer-Encoding: chunked\x0c", SELF),
        with("NUL within chunked", "Transfer-Encoding: chun\0ked", SELF),
        with("a folded Transfer-Encoding, RFC 9112 5.2", "Transfer-Encoding:\r\n chunked", SELF),
        with("Transfer-Encoding on a folded line of another field", "X: a\r\n Transfer-Encoding: chunked", SELF),
        with("chunked in odd case is chunked", "transfer-ENCODING: cHuNkEd", ONCE),
        post(
            "a look-alike Transfer_Encoding means nothing",
            "Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
            ONCE,
        ),
        raw(
            "Transfer-Encoding in HTTP/1.0, RFC 9112 6.1",
            b"POST /{n} HTTP/1.0\r\nHost: {h}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            SELF,
        ),
        post(
            "Connection cannot nominate Content-Length away",
            "Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello",
            ONCE,
        ),
        with(
            "Connection cannot nominate Transfer-Encoding away",
            "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
            ONCE,
        ),
    ]
}

fn chunks() -> Vec<Case> {
    let with = |name, chunks: &str, expect| post(name, &format!("Transfer-Encoding: chunked\r\n\r\n{chunks}"), expect);
    vec![
        with("a negative chunk size", "-5\r\nhello\r\n0\r\n\r\n", Cut),
        with("a sign before a chunk size", "+5\r\nhello\r\n0\r\n\r\n", Cut),
        with("0x before a chunk size", "0x5\r\nhello\r\n0\r\n\r\n", Cut),
        with("a chunk size of seventeen digits", "10000000000000005\r\nhello\r\n0\r\n\r\n", Cut),
        with("an underscore in a chunk size", "0_5\r\nhello\r\n0\r\n\r\n", Cut),
        with("a space before a chunk size", " 5\r\nhello\r\n0\r\n\r\n", Cut),
        with("a space after a chunk size", "5 \r\nhello\r\n0\r\n\r\n", Cut),
        with("an empty chunk size", "\r\nhello\r\n0\r\n\r\n", Cut),
        with("a bare CR in a chunk extension", "5;a\rb\r\nhello\r\n0\r\n\r\n", Cut),
        with("a bare LF ends a chunk extension, TERM.EXT", "5;a\nhello\r\n0\r\n\r\n", Cut),
        with("NUL in a chunk extension", "5;a\0\r\nhello\r\n0\r\n\r\n", Cut),
        with("a line break in a quoted extension ends the line", "5;a=\"\r\nhello\r\n0\r\n\r\n", ONCE),
        with("an extension is not passed on", "5;a=\"b\"\r\nhello\r\n0;c\r\n\r\n", ONCE),
        with("leading zeros of a chunk size", "0000000000000000005\r\nhello\r\n0\r\n\r\n", ONCE),
        with("an extension longer than a line", &format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(4096)), Cut),
        with("data longer than its chunk", "4\r\nhello\r\n0\r\n\r\n", Cut),
        with("no CRLF after chunk data", "5\r\nhello0\r\n\r\n", Cut),
        with("LF alone after chunk data, SPILL", "5\r\nhello\n0\r\n\r\n", Cut),
        with("LF alone after a chunk size, RFC 9112 7.1", "5\nhello\r\n0\r\n\r\n", Cut),
        with("two bytes of anything after chunk data", "5\r\nhelloXX0\r\n\r\n", Cut),
        with("garbage where the trailers are", "5\r\nhello\r\n0\r\nGARBAGE\r\n\r\n", Cut),
        with("a folded trailer", "5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n", Cut),
        with("LF alone after the last chunk", "5\r\nhello\r\n0\r\n\n", Cut),
        with(
            "framing fields as trailers, RFC 9110 6.5.1",
            "5\r\nhello\r\n0\r\nContent-Length: 43\r\nTransfer-Encoding: x\r\nHost: y\r\nX-Sum: 1\r\n\r\n",
            Reads(&["POST /{n} [hello] +x-sum: 1"]),
        ),
        with(
            "what follows the last chunk is the next request",
            &format!("0\r\n\r\n{}", INNER.replace("Host: x", "Host: {h}")),
            Reads(&["POST /{n} []", "GET /{n}/smuggled []"]),
        ),
        with(
            "trailing garbage after the last chunk",
            "5\r\nhello\r\n0\r\n\r\n\x01\x02\x03\r\n\r\n",
            Reads(&["POST /{n} [hello]"]),
        ),
    ]
}

fn fields() -> Vec<Case> {
    vec![
        get("a folded field, RFC 9112 5.2", "X: a\r\n b\r\n\r\n", SELF),
        get("a bare CR in a value, RFC 9112 2.2", "X: a\rb\r\n\r\n", SELF),
        get("a bare CR that hides a field", "X: a\rContent-Length: 5\r\n\r\n", SELF),
        get("a bare LF ends a field", "X: a\nY: b\r\n\r\n", SELF),
        get("a bare LF before the end of the head", "X: a\r\n\n", SELF),
        get("NUL in a value, RFC 9110 5.5", "X: a\0b\r\n\r\n", SELF),
        get("a control character in a value", "X: a\x01b\r\n\r\n", SELF),
        get("DEL in a value", "X: a\x7fb\r\n\r\n", SELF),
        get("a space before the colon, RFC 9112 5.1", "X : a\r\n\r\n", SELF),
        get("an empty name", ": a\r\n\r\n", SELF),
        get("a name with a space", "X Y: a\r\n\r\n", SELF),
        get("a name with a separator", "X(Y): a\r\n\r\n", SELF),
        get("a line without a colon", "X\r\n\r\n", SELF),
        raw("whitespace before the first field, RFC 9112 2.2", b"GET /{n} HTTP/1.1\r\n Host: {h}\r\n\r\n", SELF),
        raw("obs-text in a value is passed as it is", b"GET /{n} HTTP/1.1\r\nHost: {h}\r\nX: \xe9\r\n\r\n", BARE),
        raw("obs-text in a name", b"GET /{n} HTTP/1.1\r\nHost: {h}\r\nX\xe9: a\r\n\r\n", SELF),
        raw("two Host fields, RFC 9112 3.2", b"GET /{n} HTTP/1.1\r\nHost: {h}\r\nHost: {h}\r\n\r\n", SELF),
        raw("no Host", b"GET /{n} HTTP/1.1\r\n\r\n", SELF),
        raw("an empty Host names nobody", b"GET /{n} HTTP/1.1\r\nHost:\r\n\r\n", Answered(400)),
        raw("Host with user information", b"GET /{n} HTTP/1.1\r\nHost: a@{h}\r\n\r\n", SELF),
        raw("Host with a path", b"GET /{n} HTTP/1.1\r\nHost: {h}/x\r\n\r\n", SELF),
        raw("Host with a space", b"GET /{n} HTTP/1.1\r\nHost: {h} x\r\n\r\n", SELF),
        raw("Host with two ports", b"GET /{n} HTTP/1.1\r\nHost: {h}:80:81\r\n\r\n", SELF),
        raw("Host with a list", b"GET /{n} HTTP/1.1\r\nHost: {h},x\r\n\r\n", Answered(400)),
        raw(
            "absolute form wins over Host, RFC 9112 3.2.2",
            b"GET http://{h}/{n} HTTP/1.1\r\nHost: other\r\n\r\n",
            BARE,
        ),
        raw("user information in absolute form", b"GET http://other@{h}/{n} HTTP/1.1\r\nHost: {h}\r\n\r\n", SELF),
        raw("a fragment in the target", b"GET /{n}#x HTTP/1.1\r\nHost: {h}\r\n\r\n", SELF),
        get(
            "early Upgrade to h2c, RFC 9110 7.8",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
            BARE,
        ),
        get("h2c among other protocols", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n", BARE),
        get(
            "h2c on an Upgrade line of its own",
            "Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n\r\n",
            BARE,
        ),
        get("h2c in odd case", "Connection: upgrade\r\nUpgrade: H2C\r\n\r\n", BARE),
        post(
            "Expect: 100-continue with the body at once",
            "Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
            ONCE,
        ),
        post("Expect without a body", "Expect: 100-continue\r\nContent-Length: 0\r\n\r\n", Reads(&["POST /{n} []"])),
        post("Expect of what nobody knows", "Expect: y 100-continue\r\nContent-Length: 5\r\n\r\nhello", ONCE),
        get("Expect on a GET without a body, 0.CL", "Expect: 100-continue\r\n\r\n", BARE),
        get("weft-* fields are not the caller's", "weft-source: shop/admin\r\nWeft-Deadline-Ms: 9999\r\n\r\n", BARE),
    ]
}

fn lines() -> Vec<Case> {
    let line = |name, line: &str, expect| raw(name, format!("{line}\r\nHost: {{h}}\r\n\r\n").as_bytes(), expect);
    vec![
        line("two spaces in the request line, RFC 9112 3", "GET  /{n} HTTP/1.1", SELF),
        line("two spaces before the version", "GET /{n}  HTTP/1.1", SELF),
        line("a tab in the request line", "GET\t/{n} HTTP/1.1", SELF),
        line("a space within the target", "GET /{n} /x HTTP/1.1", SELF),
        line("a space after the version", "GET /{n} HTTP/1.1 ", SELF),
        line("no version", "GET /{n}", SELF),
        raw("HTTP/0.9", b"GET /{n}\r\n\r\n", SELF),
        line("HTTP/2.0 in an HTTP/1 head", "GET /{n} HTTP/2.0", SELF),
        line("HTTP/1.2", "GET /{n} HTTP/1.2", SELF),
        line("HTTP/1.10", "GET /{n} HTTP/1.10", SELF),
        line("http in lower case", "GET /{n} http/1.1", SELF),
        line("a method with a separator", "GE/T /{n} HTTP/1.1", SELF),
        line("a method with a colon", "GET: /{n} HTTP/1.1", SELF),
        line("an unusual method is its own", "G!#$%&'*+-.^_`|~T /{n} HTTP/1.1", Reads(&["G!#$%&'*+-.^_`|~T /{n} []"])),
        line("get is not GET", "get /{n} HTTP/1.1", Reads(&["get /{n} []"])),
        raw("obs-text in the method", b"G\xe9T /{n} HTTP/1.1\r\nHost: {h}\r\n\r\n", SELF),
        raw("NUL in the target", b"GET /{n}\0 HTTP/1.1\r\nHost: {h}\r\n\r\n", SELF),
        line("a relative target", "GET {n} HTTP/1.1", SELF),
        line("an asterisk outside OPTIONS", "GET * HTTP/1.1", SELF),
        line("a target of 70 KiB", &format!("GET /{{n}}{} HTTP/1.1", "a".repeat(70 << 10)), Refused(431)),
        get("a value of 70 KiB", &format!("X: {}\r\n\r\n", "a".repeat(70 << 10)), Refused(431)),
        get("101 fields", &format!("{}\r\n", "X: a\r\n".repeat(101)), Refused(431)),
        get("1000 fields", &format!("{}\r\n", "X: a\r\n".repeat(1000)), Refused(431)),
        raw("empty lines before a request, RFC 9112 2.2", b"\r\n\r\nGET /{n} HTTP/1.1\r\nHost: {h}\r\n\r\n", BARE),
        raw("a bare LF before a request", b"\nGET /{n} HTTP/1.1\r\nHost: {h}\r\n\r\n", SELF),
        raw("the HTTP/2 preface within HTTP/1, RFC 9113 3.4", b"GET /{n} HTTP/1.1\r\nHost: {h}\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BARE),
        raw("a request behind a refused one", b"GET /{n} HTTP/1.1\r\nHost: {h}\r\nX : a\r\n\r\nGET /{n}/smuggled HTTP/1.1\r\nHost: {h}\r\n\r\n", SELF),
        raw("a request behind one with two framings", b"POST /{n} HTTP/1.1\r\nHost: {h}\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /{n}/smuggled HTTP/1.1\r\nHost: {h}\r\n\r\n", SELF),
        raw("CONNECT with a length, RFC 9110 9.3.6", b"CONNECT {h}:80 HTTP/1.1\r\nHost: {h}:80\r\nContent-Length: 5\r\n\r\nhello", SELF),
        raw("CONNECT with chunks", b"CONNECT {h}:80 HTTP/1.1\r\nHost: {h}:80\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", SELF),
        raw("CONNECT without a port", b"CONNECT {h} HTTP/1.1\r\nHost: {h}\r\n\r\n", SELF),
        raw("two requests in one write", b"GET /{n} HTTP/1.1\r\nHost: {h}\r\n\r\nGET /{n}/two HTTP/1.1\r\nHost: {h}\r\n\r\n", Reads(&["GET /{n} []", "GET /{n}/two []"])),
        raw("a pipelined request after Connection: close is not read", b"GET /{n} HTTP/1.1\r\nHost: {h}\r\nConnection: close\r\n\r\nGET /{n}/two HTTP/1.1\r\nHost: {h}\r\n\r\n", BARE),
    ]
}

fn run(stage: &mut Stage, case: &Case, number: usize, host: &str) -> Result<(), String> {
    let mut client = Client::connect(stage.client.address("outbound"));
    client.send(&fill(&case.bytes, number, host));
    match case.expect {
        Refused(status) => {
            let answer = client.answer(false).map_err(|broken| format!("{broken:?} for an answer"))?;
            if answer.status != status || !answer.closes() {
                return Err(answer.head);
            }
            client.ended()
        }
        Answered(status) => {
            let answer = client.answer(false).map_err(|broken| format!("{broken:?} for an answer"))?;
            if answer.status == status { Ok(()) } else { Err(answer.head) }
        }
        Reads(readings) => {
            let mut closes = false;
            for reading in readings {
                let target = filled(reading.split(' ').nth(1).unwrap_or_default(), number);
                let answer = client.answer(false).map_err(|broken| format!("{broken:?} for {reading}"))?;
                if answer.status != 200 || answer.body != format!("seen {target}") {
                    return Err(format!("for {reading}: {answer:?}"));
                }
                closes = answer.closes();
            }
            let after = format!("/{number:03}/after");
            match client.get(host, &after) {
                Ok(answer) if !closes && answer.body == format!("seen {after}") => Ok(()),
                // What stood behind the request was refused.
                Ok(answer) if answer.status == 400 => client.ended(),
                Err(Broken::Closed) if closes => Ok(()),
                other => Err(format!("afterwards {other:?}")),
            }
        }
        Cut => {
            match client.answer(false) {
                Ok(answer) if answer.status < 400 => return Err(answer.head),
                Ok(_) | Err(Broken::Closed | Broken::Cut(_)) => {}
                Err(other) => return Err(format!("{other:?}")),
            }
            client.ended()
        }
    }
}

#[test]
fn a_request_has_one_meaning_or_none() {
    let cases: Vec<Case> = [lengths(), codings(), chunks(), fields(), lines()].into_iter().flatten().collect();
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut stage = Stage::new(|_: &str| Script::default());
    for host in HOSTS {
        for (number, case) in cases.iter().enumerate() {
            if let Err(what) = run(&mut stage, case, number, host) {
                stage.wrong(host, case.name, what);
            }
            stage.probe(host, case.name, number);
        }
    }
    println!("{} requests, each by {} ways", cases.len(), HOSTS.len());
    let names: Vec<_> = cases.iter().map(|case| case.name).collect();
    stage.conclude(&names, |number, _, readings, broken| {
        let expected: Vec<String> = match cases[number].expect {
            Reads(readings) => readings.iter().map(|reading| filled(reading, number)).collect(),
            Refused(_) | Answered(_) | Cut => Vec::new(),
        };
        if broken && cases[number].expect != Cut {
            return Err("and half a request".into());
        }
        if *readings == expected { Ok(()) } else { Err(format!("and not {expected:?}")) }
    });
}
