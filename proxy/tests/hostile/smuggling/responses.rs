//! Responses that two implementations could read differently, from an upstream that means it: none may answer a request that it was not sent for.

use super::{HOSTS, Stage};
use crate::recorder::Script;
use crate::wire::{Broken, Client};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// The sidecar answers 502 in place of it.
    Refused,
    /// The caller reads this status and body.
    Reads(u16, &'static str),
    /// Begun, and visibly not whole.
    Cut,
}
use Expect::{Cut, Reads, Refused};

struct Case {
    name: &'static str,
    method: &'static str,
    first: Vec<u8>,
    /// Written after the caller has its answer, before its next request.
    later: &'static str,
    close: bool,
    expect: Expect,
}

fn case(name: &'static str, first: &str, expect: Expect) -> Case {
    Case { name, method: "GET", first: first.as_bytes().to_vec(), later: "", close: false, expect }
}

/// A response that nobody asked for.
const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL";

fn cases() -> Vec<Case> {
    let ok = |head: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
    let lengths = |name, head: &str, expect| case(name, &ok(head, "hello"), expect);
    let chunked = |name, body: &str, expect| case(name, &ok("Transfer-Encoding: chunked", body), expect);
    let good = ok("Content-Length: 5", "hello");
    vec![
        case("an ordinary response", &good, Reads(200, "hello")),
        lengths("CL and TE, RFC 9112 6.3", "Content-Length: 5\r\nTransfer-Encoding: chunked", Refused),
        lengths("two Content-Length that differ", "Content-Length: 5\r\nContent-Length: 0", Refused),
        lengths("two equal Content-Length", "Content-Length: 5\r\nContent-Length: 5", Refused),
        lengths("a sign in Content-Length", "Content-Length: +5", Refused),
        lengths("a list as Content-Length", "Content-Length: 5, 5", Refused),
        lengths("Content-Length over 64 bits", "Content-Length: 18446744073709551621", Refused),
        lengths("leading zeros are decimal", "Content-Length: 005", Reads(200, "hello")),
        lengths("xchunked", "Transfer-Encoding: xchunked", Refused),
        lengths("chunked, identity", "Transfer-Encoding: chunked, identity", Refused),
        lengths("two Transfer-Encoding lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Refused),
        lengths("a space before the colon, RFC 9112 5.1", "Content-Length : 5", Refused),
        lengths("a folded field, RFC 9112 5.2", "X: a\r\n b\r\nContent-Length: 5", Refused),
        lengths("NUL in a value", "X: a\0b\r\nContent-Length: 5", Refused),
        lengths("a bare CR in a value, response splitting", "X: a\rContent-Length: 0\r\nContent-Length: 5", Refused),
        lengths("a bare LF in a value, response splitting", "X: a\nContent-Length: 0\r\nContent-Length: 5", Refused),
        lengths("a name with a space", "X Y: a\r\nContent-Length: 5", Refused),
        lengths("65 KiB of fields", &format!("X: {}\r\nContent-Length: 5", "a".repeat(65 << 10)), Refused),
        chunked("an ordinary chunked response", "5\r\nhello\r\n0\r\n\r\n", Reads(200, "hello")),
        chunked("a chunk size of seventeen digits", "10000000000000005\r\nhello\r\n0\r\n\r\n", Cut),
        chunked("a negative chunk size", "-5\r\nhello\r\n0\r\n\r\n", Cut),
        chunked("LF alone after a chunk size", "5\nhello\r\n0\r\n\r\n", Cut),
        chunked("data longer than its chunk", "4\r\nhello\r\n0\r\n\r\n", Cut),
        chunked("garbage where the trailers are", "5\r\nhello\r\n0\r\nGARBAGE\r\n\r\n", Cut),
        chunked("framing fields as trailers", "5\r\nhello\r\n0\r\nContent-Length: 4\r\n\r\n", Reads(200, "hello")),
        case("a version that is none", "HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
        case("an HTTP/2 version", "HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
        case("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
        case("a status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
        case("a status below 100", "HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nhello", Refused),
        case(
            "no space after the status, RFC 9112 4",
            "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello",
            Reads(200, "hello"),
        ),
        case("a bare CR in the reason", "HTTP/1.1 200 O\rK\r\nContent-Length: 5\r\n\r\nhello", Refused),
        case(
            "chunked in HTTP/1.0, RFC 9112 6.1",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Refused,
        ),
        Case { close: true, ..case("HTTP/1.0 without a length", "HTTP/1.0 200 OK\r\n\r\nhello", Reads(200, "hello")) },
        case(
            "101 unasked, RFC 9110 15.2.2",
            &format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n{EVIL}"),
            Refused,
        ),
        case(
            "a few 1xx before the response",
            &format!("{}{good}", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(3)),
            Reads(200, "hello"),
        ),
        case(
            "ten thousand 1xx",
            &format!("{}{good}", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(10_000)),
            Reads(200, "hello"),
        ),
        case(
            "a 1xx with a length",
            &format!("HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\n{good}"),
            Reads(200, "hello"),
        ),
        case(
            "204 with a body, RFC 9110 15.3.5",
            &format!("HTTP/1.1 204 No Content\r\nContent-Length: 38\r\n\r\n{EVIL}"),
            Reads(204, ""),
        ),
        case(
            "204 with chunks",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Reads(204, ""),
        ),
        case(
            "304 with a body, RFC 9110 15.4.5",
            &format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 38\r\n\r\n{EVIL}"),
            Reads(304, ""),
        ),
        Case {
            method: "HEAD",
            ..case("a body after HEAD, RFC 9110 9.3.2", &ok("Content-Length: 38", EVIL), Reads(200, ""))
        },
        case("a second response at once, response queue poisoning", &format!("{good}{EVIL}"), Reads(200, "hello")),
        Case { later: EVIL, ..case("a second response later", &good, Reads(200, "hello")) },
        Case { later: "\r\n", ..case("an empty line later", &good, Reads(200, "hello")) },
        Case { later: "X", ..case("one byte later", &good, Reads(200, "hello")) },
        Case {
            later: EVIL,
            ..case(
                "a second response after chunks",
                &ok("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
                Reads(200, "hello"),
            )
        },
        Case {
            later: EVIL,
            method: "HEAD",
            ..case("a body after HEAD, later", &ok("Content-Length: 38", ""), Reads(200, ""))
        },
        case("a longer body than its length", &ok("Content-Length: 5", "hello there"), Reads(200, "hello")),
        Case { close: true, ..case("a shorter body than its length", &ok("Content-Length: 50", "hello"), Cut) },
        Case {
            close: true,
            ..case("chunks without a last one", &ok("Transfer-Encoding: chunked", "5\r\nhello\r\n"), Cut)
        },
        Case { close: true, ..case("a head that does not end", "HTTP/1.1 200 OK\r\nContent-Le", Refused) },
        case("HTTP/0.9", "<html>hello</html>\r\n\r\n", Refused),
        case(
            "weft-* fields are not the application's",
            &ok("weft-unsent: true\r\nweft-error: denied\r\nContent-Length: 5", "hello"),
            Reads(200, "hello"),
        ),
    ]
}

fn run(stage: &Stage, case: &Case, number: usize, host: &str, recorder: usize) -> Result<(), String> {
    let mut client = Client::connect(stage.client.address("outbound"));
    let target = format!("/r-{number:03}");
    let next = format!("/{number:03}/after");
    client.send(format!("{} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n", case.method).as_bytes());
    let answer = client.answer(case.method == "HEAD");
    if !case.later.is_empty() {
        stage.recorders[recorder].release(&target);
    }
    match (case.expect, answer) {
        (Reads(status, body), Ok(answer)) if answer.status == status && answer.body == body => {
            if answer.head.to_ascii_lowercase().contains("weft-") {
                return Err(answer.head);
            }
        }
        (Refused, Ok(answer)) if answer.status == 502 && answer.header("weft-error").is_some() => {}
        (Cut, Err(Broken::Cut(_) | Broken::Closed)) => return Ok(()),
        // Broken before its head was passed on.
        (Cut, Ok(answer)) if answer.status == 502 => {}
        (_, other) => return Err(format!("{other:?}")),
    }
    match client.get(host, &next) {
        Ok(answer) if answer.body == format!("seen {next}") => Ok(()),
        other => Err(format!("the next request got {other:?}")),
    }
}

#[test]
fn a_response_answers_its_own_request_and_nothing_else() {
    let cases = cases();
    let scripts: Vec<Script> = cases
        .iter()
        .map(|case| Script { first: case.first.clone().into(), later: case.later.into(), close: case.close })
        .collect();
    let mut stage = Stage::new(move |target: &str| {
        let number = target.trim_start_matches("/r-").parse::<usize>().unwrap();
        scripts[number].clone()
    });
    for (recorder, host) in HOSTS.iter().enumerate() {
        for (number, case) in cases.iter().enumerate() {
            if let Err(what) = run(&stage, case, number, host, recorder) {
                stage.wrong(host, case.name, what);
            }
            stage.probe(host, case.name, number);
        }
    }
    println!("{} responses, each by {} ways", cases.len(), HOSTS.len());
    let names: Vec<_> = cases.iter().map(|case| case.name).collect();
    // A response that is refused may have been asked for again.
    stage.conclude(&names, |_, _, readings, _| {
        if (1..=3).contains(&readings.len()) { Ok(()) } else { Err("instead of one to three times".into()) }
    });
}
