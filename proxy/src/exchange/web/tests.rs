//! The translation as bytes: whatever the pieces, the same messages.

use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;

fn headers(fields: &[(&'static str, &str)]) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn message(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0], &length[..], payload].concat()
}

fn decoded(pieces: &[&[u8]]) -> Result<Vec<u8>, ProxyError> {
    let (mut request, mut out) = (Request::default(), Vec::new());
    for piece in pieces {
        out.extend_from_slice(&request.data(piece)?);
    }
    request.end().map(|()| out)
}

/// Cuts `whole` where `cuts` say, which may leave pieces empty.
fn cut<'w>(whole: &'w [u8], cuts: &[usize]) -> Vec<&'w [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (whole.len() + 1)).collect();
    at.extend([0, whole.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &whole[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn text_is_decoded_alike_however_it_was_padded_and_cut(
        texts in vec(vec(any::<u8>(), 0..20), 0..8),
        cuts in vec(any::<usize>(), 0..20),
    ) {
        let text: String = texts.iter().map(|bytes| STANDARD.encode(bytes)).collect();
        prop_assert_eq!(decoded(&cut(text.as_bytes(), &cuts)).unwrap(), texts.concat());
    }

    #[test]
    fn no_text_panics_and_what_is_refused_in_one_piece_is_refused_in_many(
        text in "[A-D/=*]{0,24}",
        cuts in vec(any::<usize>(), 0..20),
    ) {
        let (one, many) = (decoded(&[text.as_bytes()]), decoded(&cut(text.as_bytes(), &cuts)));
        prop_assert_eq!(one.ok(), many.ok());
    }

    #[test]
    fn an_answer_is_the_same_bytes_however_it_was_cut(
        payloads in vec(vec(any::<u8>(), 0..40), 0..6),
        cuts in vec(any::<usize>(), 0..20),
    ) {
        let body = payloads.iter().map(|payload| message(payload)).collect::<Vec<_>>().concat();
        let trailers = headers(&[("grpc-status", "0"), ("x-sum", "1")]);
        let expected = [&body[..], b"\x80\0\0\0\x1a", b"grpc-status: 0\r\nx-sum: 1\r\n"].concat();
        for form in [Web::Binary, Web::Text] {
            let mut answer = Answer::new(form);
            let (mut sent, mut fed) = (Vec::new(), 0);
            for piece in cut(&body, &cuts) {
                sent.extend_from_slice(&answer.data(Bytes::copy_from_slice(piece)));
                fed += piece.len();
                if form == Web::Text && answer.is_between() {
                    prop_assert_eq!(decoded(&[&sent]).unwrap(), &body[..fed], "a message is held back");
                }
            }
            prop_assert!(answer.is_between());
            sent.extend_from_slice(&answer.trailers(&trailers));
            let sent = if form == Web::Text { decoded(&[&sent]).unwrap() } else { sent };
            prop_assert_eq!(&sent, &expected);
        }
    }
}

#[test]
fn what_is_not_base64_is_refused_and_so_is_half_a_group() {
    for text in
        ["A", "AA", "AAA", "AAAA=", "=AAA", "A=AA", "AA=A", "A===", "====", "AAA*", "AA A", "AAA\n", "AB==", "AAE-"]
    {
        let error = decoded(&[text.as_bytes()]).expect_err(text);
        assert_eq!(error.kind, Kind::BadRequest, "{text}");
    }
    assert_eq!(decoded(&[b"AA==", b"AA", b"E=", b"AAEC"]).unwrap(), [0, 0, 1, 0, 1, 2]);
}

#[test]
fn trailers_are_lines_in_lower_case_without_what_concerns_a_connection() {
    let mut trailers = headers(&[("grpc-status", "5"), ("connection", "close")]);
    trailers.append_raw(GRPC_MESSAGE, Bytes::from_static(b"Grpc-Message"), HeaderValue::from_static("not found: %25"));
    let frame = frame::trailers(&trailers);
    let lines = b"grpc-status: 5\r\ngrpc-message: not found: %25\r\n";
    assert_eq!(frame[..5], [0x80, 0, 0, 0, u8::try_from(lines.len()).unwrap()]);
    assert_eq!(&frame[5..], lines);
}

#[test]
fn a_body_stands_between_messages_only_where_one_has_ended() {
    let mut boundary = Boundary::default();
    assert!(boundary.is_between());
    for (piece, between) in [
        (&b"\0\0"[..], false),
        (b"\0\0\x03ab", false),
        (b"c", true),
        (b"\0\0\0\0\0", true),
        (b"\0\0\0\0\x01x\0\0\0\0", false),
        (b"\0", true),
    ] {
        assert_eq!(boundary.pass(piece), between, "{piece:?}");
    }
    assert!(!boundary.pass(b"\0\xff\xff\xff\xff1"), "a length is believed, and nothing is kept by it");
}

fn asked(media: &str, accept: Option<&str>) -> RequestHead {
    let mut head = RequestHead::new(Method::POST, "orders", "/shop.Orders/Get");
    head.headers = headers(&[("content-type", media), ("content-length", "8")]);
    if let Some(accept) = accept {
        head.headers.append(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
    }
    head
}

#[test]
fn the_answer_is_in_the_form_that_is_accepted_else_in_the_one_that_was_sent() {
    for (accept, sent, form) in [
        (None, Web::Text, Web::Text),
        (None, Web::Binary, Web::Binary),
        (Some("*/*"), Web::Text, Web::Text),
        (Some("application/grpc-web-text"), Web::Binary, Web::Text),
        (Some("application/json, application/grpc-web+proto"), Web::Text, Web::Binary),
        (Some("application/grpc-web-text+proto;q=1"), Web::Binary, Web::Text),
    ] {
        assert_eq!(wanted(&asked("x", accept), sent), form, "{accept:?}");
    }
}

#[test]
fn heads_change_what_differs_and_nothing_else() {
    for (media, grpc) in [
        ("application/grpc-web", "application/grpc"),
        ("application/grpc-web+proto", "application/grpc+proto"),
        ("application/grpc-web-text+json; charset=utf-8", "application/grpc+json"),
    ] {
        let mut head = asked(media, None);
        head.headers.append(HeaderName::from_static("x-grpc-web"), HeaderValue::from_static("1"));
        request(&mut head);
        assert!(head.is_grpc(), "{media}");
        assert_eq!(head.headers.text(&header::CONTENT_TYPE), Some(grpc));
        assert_eq!(head.headers.text(&header::TE), Some("trailers"));
        assert!(!head.headers.contains(&header::CONTENT_LENGTH) && head.headers.find("x-grpc-web").is_some());
    }
    for (media, form, web) in [
        ("application/grpc", Web::Binary, "application/grpc-web+proto"),
        ("application/grpc+json", Web::Text, "application/grpc-web-text+json"),
    ] {
        let mut head = ResponseHead::new(StatusCode::OK);
        head.headers = headers(&[("content-type", media), ("content-length", "5"), ("trailer", "grpc-status")]);
        assert!(Answer::begin(form, &mut head).is_some());
        assert_eq!((head.headers.text(&header::CONTENT_TYPE), head.headers.len()), (Some(web), 1));
    }
    let mut head = ResponseHead::new(StatusCode::BAD_GATEWAY);
    head.headers = headers(&[("content-type", "text/html"), ("content-length", "5")]);
    assert!(Answer::begin(Web::Text, &mut head).is_none());
    assert_eq!(head.headers.len(), 2, "what is no gRPC goes on as it is");
}

#[test]
fn a_status_that_came_with_the_head_moves_into_the_body() {
    let mut head = ResponseHead::new(StatusCode::OK);
    head.headers =
        headers(&[("content-type", "application/grpc"), ("grpc-status", "5"), ("grpc-message", "no"), ("x-a", "1")]);
    let mut answer = Answer::begin(Web::Binary, &mut head).unwrap();
    let frame = answer.trailers_only(&mut head);
    assert_eq!(&frame[..], b"\x80\0\0\0\x22grpc-status: 5\r\ngrpc-message: no\r\n");
    assert!(head.headers.known(Known::GrpcStatus).is_none() && head.headers.find("x-a").is_some());
}

#[test]
fn content_types_are_told_apart() {
    use crate::codec::Grpc;
    for (media, kind) in [
        ("application/grpc", Some(Grpc::Native)),
        ("application/grpc;x", Some(Grpc::Native)),
        ("application/grpc-web", Some(Grpc::Web(Web::Binary))),
        ("application/grpc-web+thrift", Some(Grpc::Web(Web::Binary))),
        ("application/grpc-web-text", Some(Grpc::Web(Web::Text))),
        ("application/grpc-web-text-base64+proto", Some(Grpc::Web(Web::Text))),
        ("application/grpc-website", None),
        ("application/grpc-web-texts", None),
        ("application/grpcs", None),
        ("text/plain", None),
    ] {
        assert_eq!(asked(media, None).grpc(), kind, "{media}");
    }
    let mut get = asked("application/grpc-web", None);
    get.method = Method::GET;
    assert_eq!(get.grpc(), None);
}
