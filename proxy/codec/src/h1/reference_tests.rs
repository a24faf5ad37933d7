//! The scanner beside `httparse`: whatever `httparse` refuses is refused, and what both accept they read alike. Heads are drawn at random
//! and changed at random places, since it is there that two readers come apart.

use super::*;
use proptest::prelude::*;

/// A head as `httparse` reads it: the parts of the first line, and the lines.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    first: Vec<Vec<u8>>,
    lines: Vec<(Vec<u8>, Vec<u8>)>,
    length: usize,
}

fn lines(headers: &[httparse::Header<'_>]) -> Vec<(Vec<u8>, Vec<u8>)> {
    headers.iter().map(|line| (line.name.as_bytes().to_vec(), line.value.to_vec())).collect()
}

/// `None`: refused, or incomplete. A bare LF is refused before `httparse`, which is lenient there, sees it.
fn reference(wire: &[u8], is_request: bool) -> Option<Read> {
    let end = section_end(wire, &mut 0).ok()??;
    let wire = &wire[..end];
    let mut slots = [httparse::EMPTY_HEADER; MOST_LINES];
    let (first, lines, length) = if is_request {
        let mut parsed = httparse::Request::new(&mut slots);
        let httparse::Status::Complete(length) = parsed.parse(wire).ok()? else { return None };
        let first = [parsed.method?.as_bytes(), parsed.path?.as_bytes(), &[b'0' + parsed.version?]];
        (first.map(<[u8]>::to_vec).to_vec(), lines(parsed.headers), length)
    } else {
        let mut parsed = httparse::Response::new(&mut slots);
        let httparse::Status::Complete(length) = parsed.parse(wire).ok()? else { return None };
        let code = parsed.code?.to_string();
        (vec![vec![b'0' + parsed.version?], code.into_bytes()], lines(parsed.headers), length)
    };
    (length == end).then_some(Read { first, lines, length })
}

/// The same by our own scanner.
fn own(wire: &[u8], is_request: bool) -> Option<Read> {
    let mut cursor = Cursor::new(wire);
    let first = if is_request {
        let (method, target, minor) = cursor.request_line().ok()?;
        let target = target.of(wire).to_vec();
        std::str::from_utf8(&target).ok()?;
        vec![method.to_vec(), target, vec![b'0' + minor]]
    } else {
        let (minor, code, _) = cursor.status_line().ok()?;
        let code = std::str::from_utf8(code).ok()?.parse::<u16>().ok()?.to_string();
        vec![vec![b'0' + minor], code.into_bytes()]
    };
    let mut lines = Vec::new();
    while let Some(line) = cursor.line().ok()? {
        assert_eq!(line.name, line.name_at.of(wire));
        assert_eq!(line.value, line.value_at.of(wire));
        let whole = [line.name, b": ", line.value, b"\r\n"].concat();
        assert!(!line.verbatim || wire[line.name_at.range().start..].starts_with(&whole));
        lines.push((line.name.to_vec(), line.value.to_vec()));
    }
    Some(Read { first, lines, length: cursor.at() })
}

fn agree(wire: &[u8]) -> Result<(), TestCaseError> {
    for is_request in [true, false] {
        // Empty lines before a head are taken off before either looks.
        let mut head = wire;
        while let Some(rest) = head.strip_prefix(b"\r\n") {
            head = rest;
        }
        let (reference, own) = (reference(head, is_request), own(head, is_request));
        prop_assert_eq!(&own, &reference, "{:?}", String::from_utf8_lossy(head));
        // And what the whole reader takes is a head that the reference takes, to the same byte.
        let (mut buffer, limits) = (BytesMut::from(wire), Limits::default());
        let taken = if is_request {
            request(&mut buffer, &mut 0, &limits).ok().flatten().map(|(head, _)| head.headers)
        } else {
            response(&mut buffer, &mut 0, &limits, &Method::GET).ok().flatten().map(|(head, _)| head.headers)
        };
        if let Some(headers) = taken {
            let Some(reference) = reference else { return Err(TestCaseError::fail("accepted what was refused")) };
            prop_assert_eq!(head.len() - buffer.len(), reference.length);
            let kept = reference.lines.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(b"transfer-encoding"));
            let kept: Vec<_> =
                kept.filter(|(name, _)| is_request || !name.eq_ignore_ascii_case(b"content-length")).collect();
            let read = headers.iter().map(|field| (field.raw.to_vec(), field.value.as_bytes().to_vec()));
            let read: Vec<_> =
                read.filter(|(name, _)| is_request || !name.eq_ignore_ascii_case(b"content-length")).collect();
            prop_assert_eq!(read.iter().collect::<Vec<_>>(), kept);
        }
    }
    Ok(())
}

/// Names and values that matter to framing, and any others.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "Host",
            "host",
            "HOST",
            "Content-Length",
            "content-length",
            "Transfer-Encoding",
            "Connection",
            "TE",
            "Upgrade",
            "X-Request-Id",
            "traceparent",
            "weft-source",
            "Weft-Other",
            "Cookie",
            "b3",
            "Expect",
            "Keep-Alive",
        ])
        .prop_map(str::to_owned),
        "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}",
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::sample::select(vec![
            "a",
            "chunked",
            "4",
            "close",
            "trailers",
            "keep-alive, upgrade",
            "100-continue",
            "",
            " \t"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(
            prop_oneof![9 => 0x20..0x7f_u8, 1 => prop::sample::select(vec![b'\t', 0x80, 0xff, b' '])],
            0..40
        ),
    ]
}

fn head() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        "(GET|POST|OPTIONS|CONNECT|M-SEARCH|x) (/|/a\\?b=%20|\\*|a:80|http://a/b|/ü) HTTP/1\\.[01]",
        "HTTP/1\\.[01] [0-9]{3}( [ -~]{0,12})?",
    ];
    let line = (name(), "(: |:|:  |:\\t)", value(), "( |\\t)?");
    let lines = prop::collection::vec(line, 0..8);
    (first, lines, any::<bool>()).prop_map(|(first, lines, host)| {
        let mut wire = first.into_bytes();
        wire.extend_from_slice(b"\r\n");
        if host {
            wire.extend_from_slice(b"Host: a\r\n");
        }
        for (name, colon, value, trail) in lines {
            wire.extend_from_slice(name.as_bytes());
            wire.extend_from_slice(colon.as_bytes());
            wire.extend_from_slice(&value);
            wire.extend_from_slice(trail.as_bytes());
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"\r\n");
        wire
    })
}

/// Bytes that delimit, and any others.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![prop::sample::select(b"\r\n \t:\0\x7f\x0b,;\"/(".to_vec()), any::<u8>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn heads_are_read_as_the_reference_reads_them(wire in head(), rest in "[ -~]{0,8}") {
        agree(&[&wire[..], rest.as_bytes()].concat())?;
    }

    #[test]
    fn changed_heads_are_read_as_the_reference_reads_them_or_refused_by_both(
        wire in head(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3, byte()), 1..4),
    ) {
        let mut wire = wire;
        for (at, how, byte) in changes {
            let at = at.index(wire.len());
            match how {
                0 => wire[at] = byte,
                1 => wire.insert(at, byte),
                _ => drop(wire.remove(at)),
            }
        }
        agree(&wire)?;
    }

    #[test]
    fn a_head_in_pieces_is_read_like_a_whole_one(wire in head(), cuts in prop::collection::vec(1usize..40, 0..40)) {
        let limits = Limits::default();
        let whole = request(&mut BytesMut::from(&wire[..]), &mut 0, &limits);
        let (mut buffer, mut scanned, mut fed) = (BytesMut::new(), 0, 0);
        let mut cuts = cuts.into_iter().chain(std::iter::repeat(usize::MAX));
        let pieces = loop {
            match request(&mut buffer, &mut scanned, &limits) {
                Ok(None) if fed < wire.len() => {
                    let end = fed + cuts.next().unwrap_or(1).min(wire.len() - fed);
                    buffer.extend_from_slice(&wire[fed..end]);
                    fed = end;
                }
                done => break done,
            }
        };
        prop_assert_eq!(format!("{:?}", pieces), format!("{:?}", whole));
    }
}
