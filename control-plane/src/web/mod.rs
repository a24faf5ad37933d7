//! The dashboard's files, embedded in the binary, as the resource API's server and `weft dashboard` hand them out: under `/dashboard/`, to
//! whoever asks, since they hold no secrets. What they show comes from [`crate::fleet::web`] and the API, behind its door.
//!
//! A browser gets rules along with each of them: nothing is loaded from elsewhere, no page of others frames it, no script runs that is no
//! file of these.

mod files;

use bytes::Bytes;
use files::{Embedded, Files};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use std::sync::LazyLock;

/// Where the pages are.
pub const ROOT: &str = "/dashboard/";

/// As the build found them.
static EMBEDDED: &[Embedded] = include!(concat!(env!("OUT_DIR"), "/dashboard.rs"));
static FILES: LazyLock<Files> = LazyLock::new(|| Files::of(EMBEDDED));

/// The rules of every answer. Style attributes that scripts set through the object model are not what `style-src` is about (CSP 3 §8.2).
const RULES: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; \
         manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
];

/// Answers what concerns the dashboard: its files, and `/` for a browser, which is led there. `None`: the request is about something else.
#[must_use]
pub fn answer(method: &Method, path: &str, headers: &HeaderMap) -> Option<Response<Bytes>> {
    respond(&FILES, method, path, headers)
}

fn respond(files: &Files, method: &Method, path: &str, headers: &HeaderMap) -> Option<Response<Bytes>> {
    let reads = method == Method::GET || method == Method::HEAD;
    if path == "/" && reads && accepts(headers, header::ACCEPT, "text/html") || path == "/dashboard" {
        return Some(led(StatusCode::SEE_OTHER));
    }
    let name = path.strip_prefix(ROOT)?;
    if !reads {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "a file is only read\n");
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(refused);
    }
    let mut response = match files.find(name, accepts(headers, header::ACCEPT, "text/html")) {
        Some(file) => file.response(headers),
        None if files.is_empty() => text(StatusCode::NOT_FOUND, ABSENT),
        None => text(StatusCode::NOT_FOUND, "the dashboard has no such file\n"),
    };
    if method == Method::HEAD {
        *response.body_mut() = Bytes::new();
    }
    Some(ruled(response))
}

const ABSENT: &str = "This weft was built without its dashboard. Build that first (npm ci && npm run build in control-plane/dashboard), \
                      then weft again.\nUntil then: weft top, weft stat, weft check.\n";

fn ruled(mut response: Response<Bytes>) -> Response<Bytes> {
    for (name, value) in RULES {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn led(code: StatusCode) -> Response<Bytes> {
    let mut response = text(code, "");
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(ROOT));
    // What `/` is depends on who asks.
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    ruled(response)
}

fn text(code: StatusCode, text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    ruled(response)
}

/// Whether a list of what is accepted (RFC 9110 §12.4.2) names a token, and not with the weight 0.
fn accepts(headers: &HeaderMap, field: HeaderName, token: &str) -> bool {
    let lists = headers.get_all(field).iter().filter_map(|value| value.to_str().ok().map(|text| text.split(',')));
    lists.flatten().any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(token));
        let weight = |part: &str| part.strip_prefix("q=")?.parse::<f64>().ok();
        named && parts.find_map(weight) != Some(0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    static PAGE: &[Embedded] = &[
        Embedded { name: "index.html", content: b"<!doctype html>", gzip: None },
        Embedded { name: "assets/index-B3a1.js", content: b"let a = 1;", gzip: Some(b"\x1f\x8bsmall") },
        Embedded { name: "favicon.svg", content: b"<svg/>", gzip: None },
    ];

    fn get(path: &str, fields: &[(&'static str, &str)]) -> Option<Response<Bytes>> {
        asked(&Method::GET, path, fields)
    }

    fn asked(method: &Method, path: &str, fields: &[(&'static str, &str)]) -> Option<Response<Bytes>> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        respond(&Files::of(PAGE), method, path, &headers)
    }

    fn field<'r>(response: &'r Response<Bytes>, name: &str) -> &'r str {
        response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn a_file_whose_name_holds_its_hash_stays_with_the_browser_and_the_page_is_asked_for_again() {
        let page = get("/dashboard/", &[]).unwrap();
        assert_eq!((page.status(), &page.body()[..]), (StatusCode::OK, &b"<!doctype html>"[..]));
        assert_eq!(field(&page, "content-type"), "text/html; charset=utf-8");
        assert_eq!(field(&page, "cache-control"), "no-cache");
        let script = get("/dashboard/assets/index-B3a1.js", &[]).unwrap();
        assert_eq!(field(&script, "content-type"), "text/javascript; charset=utf-8");
        assert_eq!(field(&script, "cache-control"), "public, max-age=31536000, immutable");
        let tag = field(&page, "etag").to_owned();
        assert!(tag.len() > 20 && tag.starts_with('"') && tag.ends_with('"'), "{tag}");
        for known in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
            let unchanged = get("/dashboard/", &[("if-none-match", &known)]).unwrap();
            assert_eq!((unchanged.status(), unchanged.body().len()), (StatusCode::NOT_MODIFIED, 0), "{known}");
            assert_eq!(field(&unchanged, "etag"), tag);
        }
        assert_eq!(get("/dashboard/", &[("if-none-match", "\"x\"")]).unwrap().status(), StatusCode::OK);
    }

    #[test]
    fn who_reads_gzip_gets_the_smaller_edition_under_a_tag_of_its_own() {
        let path = "/dashboard/assets/index-B3a1.js";
        let small = get(path, &[("accept-encoding", "br, gzip")]).unwrap();
        assert_eq!((field(&small, "content-encoding"), &small.body()[..]), ("gzip", &b"\x1f\x8bsmall"[..]));
        assert_eq!(field(&small, "vary"), "accept-encoding");
        let plain = get(path, &[("accept-encoding", "gzip;q=0, br")]).unwrap();
        assert_eq!((field(&plain, "content-encoding"), &plain.body()[..]), ("", &b"let a = 1;"[..]));
        assert_ne!(field(&small, "etag"), field(&plain, "etag"));
    }

    #[test]
    fn a_page_of_the_application_is_its_document_and_a_file_that_is_missing_is_not() {
        let html = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
        for path in ["/dashboard/topology", "/dashboard/services/shop/payments.v2", "/dashboard/policies/"] {
            assert_eq!(&get(path, &[html]).unwrap().body()[..], b"<!doctype html>", "{path}");
        }
        assert_eq!(get("/dashboard/topology", &[]).unwrap().status(), StatusCode::OK);
        for path in
            ["/dashboard/assets/old-1.js", "/dashboard/x.js", "/dashboard/../api", "/dashboard/assets/../../x.js"]
        {
            assert_eq!(get(path, &[]).unwrap().status(), StatusCode::NOT_FOUND, "{path}");
        }
        assert_eq!(get("/dashboard/assets/old-1.js", &[html]).unwrap().status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn a_browser_is_led_from_the_root_and_a_client_of_the_api_is_not() {
        let led = get("/", &[("accept", "text/html")]).unwrap();
        assert_eq!((led.status(), field(&led, "location")), (StatusCode::SEE_OTHER, "/dashboard/"));
        assert!(get("/", &[("accept", "application/json, */*")]).is_none());
        assert_eq!(get("/dashboard", &[]).unwrap().status(), StatusCode::SEE_OTHER);
        for path in ["/api", "/weft/v1/stat", "/dashboards", "/apis"] {
            assert!(get(path, &[("accept", "text/html")]).is_none(), "{path}");
        }
    }

    #[test]
    fn every_answer_brings_the_rules_and_only_reading_is_answered() {
        let rules = |response: &Response<Bytes>| {
            assert!(field(response, "content-security-policy").starts_with("default-src 'none'; script-src 'self';"));
            assert!(!field(response, "content-security-policy").contains("unsafe"));
            assert_eq!(field(response, "x-content-type-options"), "nosniff");
            assert_eq!(field(response, "referrer-policy"), "no-referrer");
        };
        for path in ["/dashboard/", "/dashboard/nothing.js", "/dashboard", "/dashboard/favicon.svg"] {
            rules(&get(path, &[]).unwrap());
        }
        let head = asked(&Method::HEAD, "/dashboard/", &[]).unwrap();
        assert_eq!((head.status(), head.body().len()), (StatusCode::OK, 0));
        let refused = asked(&Method::POST, "/dashboard/", &[]).unwrap();
        assert_eq!((refused.status(), field(&refused, "allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD"));
        rules(&refused);
    }

    #[test]
    fn without_files_a_line_says_what_to_do() {
        let absent = respond(&Files::of(&[]), &Method::GET, "/dashboard/", &HeaderMap::new()).unwrap();
        assert_eq!(absent.status(), StatusCode::NOT_FOUND);
        assert!(std::str::from_utf8(absent.body()).unwrap().contains("npm run build"));
    }
}
