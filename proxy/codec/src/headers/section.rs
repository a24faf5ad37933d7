//! What a header section holds: its lines as ranges of two buffers, and which names there are. Sections of messages that are done serve
//! the next ones of their worker, so that a message allocates nothing for its headers.

use super::known::{Known, Set};
use super::{Field, Span, Value};
use bytes::Bytes;
use http::HeaderName;
use std::cell::RefCell;
use std::ops::Range;

/// Sections that a worker keeps for later, and how much each may have grown.
const KEPT: usize = 32;
const KEPT_LINES: usize = 64;
const KEPT_BYTES: usize = 1024;
/// Lines that are made room for at once.
const LINES: usize = 16;

thread_local! {
    #[expect(clippy::vec_box, reason = "sections move between messages as they are: only their address does")]
    static SPARE: RefCell<Vec<Box<Section>>> = const { RefCell::new(Vec::new()) };
}

/// An empty section.
pub(super) fn borrow() -> Box<Section> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Takes a section back.
pub(super) fn give_back(mut section: Box<Section>) {
    if section.lines.capacity() > KEPT_LINES || section.written.capacity() > KEPT_BYTES {
        return;
    }
    section.read = Bytes::new();
    section.written.clear();
    section.lines.clear();
    section.names.clear();
    section.present = Set::default();
    // One that outlives the thread's own storage is freed.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT {
            spare.push(section);
        }
    });
}

/// The value lies in what was written here, not in what was read.
const WRITTEN: u8 = 1;
/// So does the spelling of the name.
const SPELT: u8 = 2;
/// The name was not spelt: it is in lower case.
const LOWER: u8 = 4;
/// What was read is `name: value` and CRLF, to the letter.
const VERBATIM: u8 = 8;
/// RFC 7541 §7.1.3: never indexed.
const SENSITIVE: u8 = 16;
/// Another name that begins with `weft-`.
const WEFT: u8 = 32;

/// One header.
#[derive(Clone, Copy)]
pub(super) struct Line {
    /// Number of a known name, or the place of another in the section's names and the number of those that are known.
    name: u16,
    marks: u8,
    spelling: Span,
    value: Span,
}

impl Line {
    pub(super) const fn is(&self, name: Known) -> bool {
        self.name == name as u16
    }

    pub(super) fn known(&self) -> Option<Known> {
        Known::numbered(self.name)
    }

    pub(super) const fn is_in(&self, set: Set) -> bool {
        if (self.name as usize) < Known::COUNT {
            set.has_number(self.name)
        } else {
            set.meets(kind(self.marks & WEFT != 0))
        }
    }

    /// The place of the whole line in what was read, if it stands there as it would be written.
    pub(super) const fn verbatim(&self) -> Option<Range<usize>> {
        if self.marks & VERBATIM == 0 {
            return None;
        }
        Some(self.spelling.at as usize..self.value.at as usize + self.value.length as usize + 2)
    }
}

const fn kind(weft: bool) -> Set {
    if weft { Set::OTHER.and(Set::OTHER_WEFT) } else { Set::OTHER }
}

/// The lines of a message, and what they lie in.
#[derive(Default)]
pub(super) struct Section {
    /// What was read.
    pub read: Bytes,
    /// What was added.
    written: Vec<u8>,
    pub lines: Vec<Line>,
    /// Names that are not known.
    names: Vec<HeaderName>,
    /// Names that may be there. Invariant: none that is there is missing.
    pub present: Set,
}

/// A name to look for.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'n> {
    Known(Known),
    Other(&'n HeaderName),
}

impl<'n> Wanted<'n> {
    pub(super) fn of(name: &'n HeaderName) -> Self {
        Known::find(name.as_str().as_bytes()).map_or(Self::Other(name), Self::Known)
    }
}

impl Section {
    pub(super) fn copied(&self) -> Box<Self> {
        let mut copy = borrow();
        copy.read.clone_from(&self.read);
        copy.written.extend_from_slice(&self.written);
        copy.lines.extend_from_slice(&self.lines);
        copy.names.extend_from_slice(&self.names);
        copy.present = self.present;
        copy
    }

    pub(super) fn matches(&self, line: &Line, wanted: Wanted<'_>) -> bool {
        match wanted {
            Wanted::Known(name) => line.is(name),
            Wanted::Other(name) => line.known().is_none() && self.name(line) == name,
        }
    }

    /// Whether the name may be there.
    pub(super) const fn may_have(&self, wanted: Wanted<'_>) -> bool {
        match wanted {
            Wanted::Known(name) => self.present.has(name),
            Wanted::Other(_) => self.present.meets(Set::OTHER),
        }
    }

    pub(super) fn name(&self, line: &Line) -> &HeaderName {
        match line.known() {
            Some(name) => name.name(),
            // A line is made with its name: there is no other place.
            None => self.names.get(usize::from(line.name) - Known::COUNT).unwrap_or(Known::Host.name()),
        }
    }

    pub(super) fn raw(&self, line: &Line) -> &[u8] {
        match line.marks & (LOWER | SPELT) {
            0 => line.spelling.of(&self.read),
            SPELT => line.spelling.of(&self.written),
            _ => self.name(line).as_str().as_bytes(),
        }
    }

    pub(super) fn value(&self, line: &Line) -> Value<'_> {
        let buffer = if line.marks & WRITTEN == 0 { &self.read[..] } else { &self.written[..] };
        Value { bytes: line.value.of(buffer), sensitive: line.marks & SENSITIVE != 0 }
    }

    pub(super) fn field(&self, line: &Line) -> Field<'_> {
        Field { name: self.name(line), raw: self.raw(line), value: self.value(line) }
    }

    /// Copies a part of what was read.
    pub(super) fn copy(&self, out: &mut Vec<u8>, range: Range<usize>) {
        if let Some(bytes) = self.read.get(range) {
            out.extend_from_slice(bytes);
        }
    }

    #[inline]
    fn number(&mut self, known: Option<Known>, other: impl FnOnce() -> Option<HeaderName>) -> Option<(u16, u8)> {
        if let Some(name) = known {
            self.present.insert(name);
            return Some((name as u16, 0));
        }
        let name = other()?;
        let weft = name.as_str().starts_with("weft-");
        let number = u16::try_from(Known::COUNT + self.names.len()).ok()?;
        self.names.push(name);
        self.present = self.present.and(kind(weft));
        Some((number, if weft { WEFT } else { 0 }))
    }

    #[inline]
    fn push(&mut self, line: Line) {
        if self.lines.capacity() == 0 {
            self.lines.reserve(LINES);
        }
        self.lines.push(line);
    }

    fn write(&mut self, bytes: &[u8]) -> Option<Span> {
        let at = self.written.len();
        self.written.extend_from_slice(bytes);
        Span::between(at, self.written.len())
    }

    /// Adds a line. It is left out beyond 65,000 other names or 4 GiB: no peer may send nearly as much.
    pub(super) fn append(&mut self, name: Wanted<'_>, spelt: Option<&[u8]>, value: &[u8], sensitive: bool) {
        let numbered = match name {
            Wanted::Known(name) => self.number(Some(name), || None),
            Wanted::Other(name) => self.number(None, || Some(name.clone())),
        };
        let Some((number, mut marks)) = numbered else { return };
        let spelling = match spelt {
            Some(spelt) => self.write(spelt),
            None => Some(Span::default()),
        };
        let (Some(spelling), Some(value)) = (spelling, self.write(value)) else { return };
        marks |= WRITTEN | if spelt.is_some() { SPELT } else { LOWER } | if sensitive { SENSITIVE } else { 0 };
        self.push(Line { name: number, marks, spelling, value });
    }

    /// Adds a line that was read; false: its name is none.
    #[inline]
    pub(super) fn append_read(
        &mut self,
        known: Option<Known>,
        name: &[u8],
        at: Span,
        value: Span,
        verbatim: bool,
    ) -> bool {
        let Some((name, mut marks)) = self.number(known, || HeaderName::from_bytes(name).ok()) else { return false };
        marks |= if verbatim { VERBATIM } else { 0 };
        self.push(Line { name, marks, spelling: at, value });
        true
    }

    /// Replaces every value of the name by one, in the place of the first.
    pub(super) fn set(&mut self, wanted: Wanted<'_>, value: &[u8], sensitive: bool) {
        let first =
            if self.may_have(wanted) { self.lines.iter().position(|line| self.matches(line, wanted)) } else { None };
        let Some(first) = first else { return self.append(wanted, None, value, sensitive) };
        let Some(value) = self.write(value) else { return };
        let mut index = 0;
        self.keep(|section, line| {
            index += 1;
            index - 1 <= first || !section.matches(line, wanted)
        });
        if let Some(line) = self.lines.get_mut(first) {
            line.value = value;
            line.marks = line.marks & !(VERBATIM | SENSITIVE) | WRITTEN | if sensitive { SENSITIVE } else { 0 };
        }
    }

    /// Keeps the lines for which `keep` says so.
    pub(super) fn keep(&mut self, mut keep: impl FnMut(&Self, &Line) -> bool) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.retain(|line| keep(self, line));
        self.lines = lines;
    }

    /// Names that `Connection` lists and that may be dropped for it, beyond those that are dropped in any case.
    pub(super) fn nominated(&self) -> Vec<HeaderName> {
        /// End-to-end fields that `Connection` cannot nominate away.
        const END_TO_END: Set = Set::of(&[
            Known::Host,
            Known::ContentLength,
            Known::ContentType,
            Known::Authorization,
            Known::Cookie,
            Known::Forwarded,
            Known::CacheControl,
            Known::Te,
            Known::Upgrade,
        ]);
        let mut names = Vec::new();
        for line in self.lines.iter().filter(|line| line.is(Known::Connection)) {
            for text in self.value(line).as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                // What goes in any case needs no list: hardly a message names anything else.
                if ["close", "keep-alive"].iter().any(|known| text.eq_ignore_ascii_case(known.as_bytes())) {
                    continue;
                }
                if !Known::find(text).is_some_and(|name| END_TO_END.has(name))
                    && let Ok(name) = HeaderName::from_bytes(text)
                    && !name.as_str().starts_with("weft-")
                {
                    names.push(name);
                }
            }
        }
        names
    }
}
