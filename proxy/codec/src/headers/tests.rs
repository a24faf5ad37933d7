//! What a header section remembers, forgets and hands on.

use super::*;
use http::header;

fn sample() -> Headers {
    let mut headers = Headers::new();
    headers.append_raw(header::HOST, Bytes::from_static(b"HOST"), HeaderValue::from_static("catalog"));
    headers.append_raw(header::ACCEPT, Bytes::from_static(b"accept"), HeaderValue::from_static("a"));
    headers.append_raw(header::ACCEPT, Bytes::from_static(b"Accept"), HeaderValue::from_static("b"));
    headers
}

fn shown(headers: &Headers) -> Vec<String> {
    headers.iter().map(|f| format!("{}={}", String::from_utf8_lossy(f.raw), f.value.to_str().expect("text"))).collect()
}

#[test]
fn case_and_order_survive() {
    assert_eq!(shown(&sample()), ["HOST=catalog", "accept=a", "Accept=b"]);
    assert_eq!(sample().get_all(&header::ACCEPT).count(), 2);
    assert_eq!(sample().find("aCCept").expect("there"), "a");
}

#[test]
fn set_replaces_in_place_and_removes_the_rest() {
    let mut headers = sample();
    headers.set(&header::ACCEPT, &HeaderValue::from_static("c"));
    headers.set(&header::SERVER, &HeaderValue::from_static("s"));
    assert_eq!(shown(&headers), ["HOST=catalog", "accept=c", "server=s"]);
    assert!(headers.remove(&header::ACCEPT) && !headers.remove(&header::ACCEPT));
    assert_eq!(shown(&headers), ["HOST=catalog", "server=s"]);
}

#[test]
fn a_spelling_that_is_another_name_is_not_believed() {
    let mut headers = Headers::new();
    headers.append_raw(header::ACCEPT, Bytes::from_static(b"Evil: 1\r\nX"), HeaderValue::from_static("a"));
    assert_eq!(shown(&headers), ["accept=a"]);
}

#[test]
fn what_concerns_one_connection_is_stripped_and_what_routing_needs_is_not() {
    let mut headers = sample();
    for (name, value) in [
        ("connection", "close, x-trace, host, Authorization"),
        ("x-trace", "1"),
        ("authorization", "Bearer t"),
        ("te", "gzip"),
        ("keep-alive", "5"),
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.strip_hop_by_hop();
    assert_eq!(shown(&headers), ["HOST=catalog", "accept=a", "Accept=b", "authorization=Bearer t"]);
}

#[test]
fn what_must_not_be_indexed_stays_so() {
    let mut secret = HeaderValue::from_static("s");
    secret.set_sensitive(true);
    let mut headers = Headers::default();
    headers.append(header::COOKIE, secret);
    headers.append(header::ACCEPT, HeaderValue::from_static("a"));
    let sensitive = |name: &HeaderName| headers.get(name).expect("there").is_sensitive();
    assert!(sensitive(&header::COOKIE) && !sensitive(&header::ACCEPT));
    assert!(is_unique(&HeaderName::from_static("x-request-id")) && !is_unique(&header::ACCEPT));
}
