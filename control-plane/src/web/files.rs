//! A table of embedded files, and each as a response: content type, tag, how long it may be kept, compressed or not. Names are looked up
//! whole, so that none leads out of the table.

use super::accepts;
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use std::collections::HashMap;

/// The document of the application; each of its pages is this one, whatever its path.
const DOCUMENT: &str = "index.html";
/// Names here hold a hash of the content: another content has another name.
const HASHED: &str = "assets/";

/// One file as the build embeds it.
#[derive(Debug)]
pub(super) struct Embedded {
    /// Path in the directory of the build.
    pub name: &'static str,
    /// As it is.
    pub content: &'static [u8],
    /// Compressed, where that is smaller.
    pub gzip: Option<&'static [u8]>,
}

/// One file as it is handed out.
#[derive(Debug)]
pub(super) struct File {
    embedded: &'static Embedded,
    /// Entity tags (RFC 9110 §8.8.3) of the content and of its compressed edition, which is another representation.
    tags: [HeaderValue; 2],
}

/// All of them, by name.
#[derive(Debug)]
pub(super) struct Files(HashMap<&'static str, File>);

impl Files {
    pub fn of(embedded: &'static [Embedded]) -> Self {
        Self(embedded.iter().map(|file| (file.name, File::of(file))).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The file of a name; the document where it is no file's, but may be a page's: because a browser goes there, or by its looks.
    pub fn find(&self, name: &str, goes_there: bool) -> Option<&File> {
        let may_be_page = || {
            let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let climbs = name.split('/').any(|part| part == "..");
            !name.starts_with(HASHED) && !climbs && (goes_there || !last.contains('.'))
        };
        self.0.get(name).or_else(|| may_be_page().then(|| self.0.get(DOCUMENT)).flatten())
    }
}

impl File {
    fn of(embedded: &'static Embedded) -> Self {
        let hash: String =
            digest(&SHA256, embedded.content).as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let tag = |suffix: &str| {
            HeaderValue::try_from(format!("\"{hash}{suffix}\"")).unwrap_or(HeaderValue::from_static("\"\""))
        };
        Self { embedded, tags: [tag(""), tag("-gzip")] }
    }

    /// The file, or that the asker has it already.
    pub fn response(&self, asked: &HeaderMap) -> Response<Bytes> {
        let gzip = self.embedded.gzip.filter(|_| accepts(asked, header::ACCEPT_ENCODING, "gzip"));
        let tag = &self.tags[usize::from(gzip.is_some())];
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(header::ETAG, tag.clone());
        let keep = match self.embedded.name.starts_with(HASHED) {
            true => "public, max-age=31536000, immutable",
            false => "no-cache",
        };
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
        if self.embedded.gzip.is_some() {
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        if is_known(asked, tag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(self.embedded.name)));
        if gzip.is_some() {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        *response.body_mut() = Bytes::from_static(gzip.unwrap_or(self.embedded.content));
        response
    }
}

/// Whether `If-None-Match` names a tag; tags are compared weakly there (RFC 9110 §13.1.2).
fn is_known(asked: &HeaderMap, tag: &HeaderValue) -> bool {
    let lists = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    lists
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known).as_bytes() == tag.as_bytes())
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "webp" => "image/webp",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
