//! The header section as both protocols carry it: an ordered list that remembers the case in which HTTP/1 spelt each name.
//!
//! What was read stays where it was read: a line is two ranges of the one buffer that its section came in, and what is added on the way
//! goes into one more. What a header *means* to framing (length, transfer coding, connection) is decided in `h1::parse` and
//! `h1::encode`; what it means to routing is not decided here.

mod known;
mod section;
mod text;
mod value;

pub use known::{Known, Set};
pub use text::ByteStr;
pub(super) use value::Span;
pub use value::{Field, Value};

use section::{Line, Section, Wanted};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use std::fmt;

/// What becomes of a line that [`Headers::write`] asks about.
pub(super) enum Put<'v> {
    /// Written as it is.
    Kept,
    /// Left out.
    Dropped,
    /// Written with this value.
    With(&'v [u8]),
}

/// An ordered header section.
#[derive(Default)]
pub struct Headers(Option<Box<Section>>);

/// What concerns one connection only, whatever it says.
const HOP_BY_HOP: Set =
    Set::of(&[Known::Connection, Known::TransferEncoding, Known::KeepAlive, Known::ProxyConnection]);

impl Headers {
    /// No headers.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// No headers, with room for `capacity`.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        let mut headers = Self::new();
        headers.section_mut().lines.reserve(capacity);
        headers
    }

    fn section_mut(&mut self) -> &mut Section {
        self.0.get_or_insert_with(section::borrow)
    }

    fn lines(&self) -> &[Line] {
        self.0.as_deref().map_or(&[], |section| &section.lines)
    }

    /// How many entries there are; a name that appears twice counts twice.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines().is_empty()
    }

    /// Whether any name of `set` may be there: a name that was removed may still be answered for.
    pub fn may_have(&self, set: Set) -> bool {
        self.0.as_deref().is_some_and(|section| section.present.meets(set))
    }

    /// The first value of a known name.
    pub fn known(&self, name: Known) -> Option<Value<'_>> {
        let section = self.0.as_deref().filter(|section| section.present.has(name))?;
        section.lines.iter().find(|line| line.is(name)).map(|line| section.value(line))
    }

    /// The value of a known name that occurs once.
    pub fn only_known(&self, name: Known) -> Option<Value<'_>> {
        self.sole(Wanted::Known(name))
    }

    /// The value of a name that occurs once.
    pub fn only(&self, name: &HeaderName) -> Option<Value<'_>> {
        self.sole(Wanted::of(name))
    }

    fn sole(&self, wanted: Wanted<'_>) -> Option<Value<'_>> {
        let section = self.0.as_deref().filter(|section| section.may_have(wanted))?;
        let mut found = section.lines.iter().filter(|line| section.matches(line, wanted));
        found.next().filter(|_| found.next().is_none()).map(|line| section.value(line))
    }

    /// The first value of `name`.
    #[must_use]
    pub fn get(&self, name: &HeaderName) -> Option<Value<'_>> {
        let wanted = Wanted::of(name);
        let section = self.0.as_deref().filter(|section| section.may_have(wanted))?;
        section.lines.iter().find(|line| section.matches(line, wanted)).map(|line| section.value(line))
    }

    /// The first value of a name that is not known at compile time (any case).
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Value<'_>> {
        let section = self.0.as_deref()?;
        let named = |line: &&Line| section.name(line).as_str().eq_ignore_ascii_case(name);
        section.lines.iter().find(named).map(|line| section.value(line))
    }

    /// Every value of `name`, in order.
    pub fn get_all<'h>(&'h self, name: &'h HeaderName) -> impl Iterator<Item = Value<'h>> + 'h {
        let wanted = Wanted::of(name);
        let section = self.0.as_deref().filter(|section| section.may_have(wanted));
        section.into_iter().flat_map(move |section| {
            section.lines.iter().filter(move |line| section.matches(line, wanted)).map(|line| section.value(line))
        })
    }

    /// The first value of `name` as text; `None` when it is missing or not ASCII.
    #[must_use]
    pub fn text(&self, name: &HeaderName) -> Option<&str> {
        self.get(name).and_then(|value| value.to_str().ok())
    }

    /// Is `name` there?
    #[must_use]
    pub fn contains(&self, name: &HeaderName) -> bool {
        self.get(name).is_some()
    }

    /// Adds an entry at the end.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.section_mut().append(Wanted::of(&name), None, value.as_bytes(), value.is_sensitive());
    }

    /// Adds an entry at the end in the case in which a peer (or a user) spelt its name. `raw` is ignored unless it spells `name`.
    pub fn append_raw(&mut self, name: HeaderName, raw: Bytes, value: HeaderValue) {
        let lower = name.as_str().as_bytes();
        let spelt = *raw != *lower && raw.eq_ignore_ascii_case(lower);
        self.section_mut().append(Wanted::of(&name), spelt.then_some(&raw[..]), value.as_bytes(), value.is_sensitive());
    }

    /// Adds a line that lies in the buffer which [`Headers::read_from`] is told in the end. `None` for `known`: another name, whose
    /// letters are `name`; false: it is no name.
    #[inline]
    pub(super) fn append_read(
        &mut self,
        known: Option<Known>,
        name: &[u8],
        at: Span,
        value: Span,
        verbatim: bool,
    ) -> bool {
        self.section_mut().append_read(known, name, at, value, verbatim)
    }

    /// Where the lines of [`Headers::append_read`] lie.
    pub(super) fn read_from(&mut self, buffer: Bytes) {
        if let Some(section) = &mut self.0 {
            section.read = buffer;
        }
    }

    /// [`Headers::set`] with a text of the proxy's own. A text that is no header value sets nothing.
    pub fn set_text(&mut self, name: &HeaderName, text: &str) {
        if is_field_text(text.as_bytes()) {
            self.section_mut().set(Wanted::of(name), text.as_bytes(), false);
        }
    }

    /// [`Headers::set_text`] for a known name.
    pub fn set_known(&mut self, name: Known, text: &[u8]) {
        if is_field_text(text) {
            self.section_mut().set(Wanted::Known(name), text, false);
        }
    }

    /// Replaces every value of `name` by one, which stands where the first stood and keeps its spelling; at the end when there was none.
    pub fn set(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.section_mut().set(Wanted::of(name), value.as_bytes(), value.is_sensitive());
    }

    /// Removes every value of `name`; whether there was one.
    pub fn remove(&mut self, name: &HeaderName) -> bool {
        let Some(section) = &mut self.0 else { return false };
        let (wanted, before) = (Wanted::of(name), section.lines.len());
        if section.may_have(wanted) {
            section.keep(|section, line| !section.matches(line, wanted));
        }
        section.lines.len() < before
    }

    /// Removes every name of a set.
    pub fn remove_all(&mut self, names: Set) {
        if let Some(section) = &mut self.0
            && section.present.meets(names)
        {
            section.lines.retain(|line| !line.is_in(names));
            section.present = section.present.without(names);
        }
    }

    /// Keeps the entries for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName, Value<'_>) -> bool) {
        if let Some(section) = &mut self.0 {
            section.keep(|section, line| keep(section.name(line), section.value(line)));
        }
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> + '_ {
        self.0.as_deref().into_iter().flat_map(|section| section.lines.iter().map(|line| section.field(line)))
    }

    /// Writes the entries as lines of HTTP/1. What becomes of those whose names are in `special` is asked; runs of lines that stand as
    /// they were read are copied as one.
    pub(super) fn write<'v>(&self, out: &mut Vec<u8>, special: Set, mut ask: impl FnMut(Known, &Field<'_>) -> Put<'v>) {
        let Some(section) = self.0.as_deref() else { return };
        let mut run = 0..0;
        for line in &section.lines {
            let put = match line.known().filter(|_| line.is_in(special)) {
                Some(name) => ask(name, &section.field(line)),
                None => Put::Kept,
            };
            match put {
                Put::Dropped => {}
                Put::Kept => match line.verbatim() {
                    Some(whole) if whole.start == run.end => run.end = whole.end,
                    Some(whole) => section.copy(out, std::mem::replace(&mut run, whole)),
                    None => {
                        section.copy(out, std::mem::replace(&mut run, 0..0));
                        write_line(out, section.raw(line), section.value(line).as_bytes());
                    }
                },
                Put::With(value) => {
                    section.copy(out, std::mem::replace(&mut run, 0..0));
                    write_line(out, section.raw(line), value);
                }
            }
        }
        section.copy(out, run);
    }

    /// Removes what concerns one connection only (RFC 9110 §7.6.1): `Connection` and what it names, `Keep-Alive`,
    /// `Proxy-Connection`, `Transfer-Encoding`, and `TE` except for `trailers`. `Upgrade` stays, because its place and spelling
    /// belong to the caller: encoders write it only for an upgrade that both sides agreed on.
    ///
    /// A name listed in `Connection` that routing or framing depends on (`Host`, `Content-Length`, `Authorization`, …) stays: a
    /// caller must not be able to make a proxy drop it.
    pub fn strip_hop_by_hop(&mut self) {
        let Some(section) = &mut self.0 else { return };
        if section.present.has(Known::Connection) {
            let nominated = section.nominated();
            if !nominated.is_empty() {
                section.keep(|section, line| !nominated.contains(section.name(line)));
            }
        }
        if section.present.has(Known::Te) {
            section.keep(|section, line| !line.is(Known::Te) || is_trailers(section.value(line)));
        }
        self.remove_all(HOP_BY_HOP);
    }
}

impl Clone for Headers {
    fn clone(&self) -> Self {
        Self(self.0.as_deref().map(Section::copied))
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        if let Some(section) = self.0.take() {
            section::give_back(section);
        }
    }
}

/// Appends a line of HTTP/1.
pub(super) fn write_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Without leaving early: so that the compiler looks at many bytes at a time.
fn is_field_text(text: &[u8]) -> bool {
    text.iter().fold(true, |fine, byte| fine & (*byte >= b' ') & (*byte != 0x7f))
}

fn is_trailers(value: Value<'_>) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"trailers")
}

/// Names whose values are others in every call. HPACK then sends them as literals (RFC 7541 §6.2.3) instead of driving what recurs out of
/// its table.
const UNIQUE: Set = Set::of(&[Known::RequestId, Known::Traceparent, Known::WeftDeadlineMs, Known::GrpcTimeout]);

/// Is the value another in every call?
pub(super) fn is_unique(name: &HeaderName) -> bool {
    Known::find(name.as_str().as_bytes()).is_some_and(|name| UNIQUE.has(name))
}

/// Is it one of the headers that mean one connection only, whatever `Connection` says?
#[must_use]
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    Known::find(name.as_str().as_bytes()).is_some_and(|name| name == Known::Upgrade || HOP_BY_HOP.has(name))
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|field| (String::from_utf8_lossy(field.raw), field.value))).finish()
    }
}

#[cfg(test)]
#[path = "headers/tests.rs"]
mod tests;
