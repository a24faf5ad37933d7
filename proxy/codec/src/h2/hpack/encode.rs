//! Fields → header blocks. What recurs is indexed when it is seen for the second time, so that what is another in every call (ids, dates,
//! lengths) never drives it out; a name is indexed with its first value. Secrets are never indexed.

use super::{Name, OVERHEAD, TABLE, table};
use http::header::{self, HeaderName};
use std::hash::{BuildHasher, Hash, Hasher};

/// Entries at most: few enough to be searched in a row.
const ENTRIES: usize = 64;
/// An entry of more bytes would drive too much else out.
const LARGE: usize = TABLE / 4;
/// Fields that are remembered as seen once.
const SEEN: usize = 128;

/// How a field is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::h2) enum Nature {
    /// It may recur.
    Common,
    /// Another value in every call: only its name is indexed.
    Unique,
    /// Credentials: never indexed, here or behind us (RFC 7541 §7.1.3).
    Secret,
}

impl Nature {
    /// What the name alone tells.
    pub(in crate::h2) fn of(name: &header::HeaderName) -> Self {
        match *name {
            header::AUTHORIZATION | header::COOKIE | header::PROXY_AUTHORIZATION | header::SET_COOKIE => Self::Secret,
            _ if crate::headers::is_unique(name) => Self::Unique,
            _ => Self::Common,
        }
    }
}

/// The writing end of a connection's compression.
pub(in crate::h2) struct Encoder {
    /// Hashes of fields and of names, by place; 0 is free.
    fields: Vec<u32>,
    names: Vec<u32>,
    entries: Vec<(Name, Box<[u8]>)>,
    /// Entries that were ever inserted: the next one's place is this modulo [`ENTRIES`].
    inserted: usize,
    /// Entries that are left of them.
    live: usize,
    size: usize,
    max: usize,
    /// The lowest limit and the last one that the peer has not been told of yet.
    resized: Option<(usize, usize)>,
    seen: Vec<u16>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            fields: Vec::new(),
            names: Vec::new(),
            entries: Vec::new(),
            inserted: 0,
            live: 0,
            size: 0,
            max: TABLE,
            resized: None,
            seen: Vec::new(),
        }
    }
}

impl Encoder {
    /// The peer's table takes so many bytes (SETTINGS_HEADER_TABLE_SIZE).
    pub(in crate::h2) fn resize(&mut self, max: usize) {
        let max = max.min(TABLE);
        if max == self.max {
            return;
        }
        let lowest = self.resized.map_or(max, |(lowest, _)| lowest.min(max));
        self.resized = Some((lowest, max));
        self.max = max;
        self.evict(max);
    }

    /// Must precede the first field of every block.
    pub(in crate::h2) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((lowest, last)) = self.resized.take() {
            // RFC 7541 §4.2: the smallest maximum that occurred MUST be signaled, then the final one.
            if lowest < last {
                integer(out, 0x20, 5, lowest);
            }
            integer(out, 0x20, 5, last);
        }
    }

    /// Appends a pseudo-header.
    pub(in crate::h2) fn pseudo(&mut self, out: &mut Vec<u8>, name: &Name, value: &[u8]) {
        match table::field_index(name, value) {
            0 => self.field(out, Key::Pseudo(name), value, Nature::Common),
            whole => integer(out, 0x80, 7, whole),
        }
    }

    /// Appends a header.
    pub(in crate::h2) fn header(&mut self, out: &mut Vec<u8>, name: &HeaderName, value: &[u8], nature: Nature) {
        self.field(out, Key::Header(name), value, nature);
    }

    fn field(&mut self, out: &mut Vec<u8>, name: Key<'_>, value: &[u8], nature: Nature) {
        let known = name.known();
        if nature == Nature::Secret {
            return literal(out, 0x10, 4, known, name, value);
        }
        let (by_name, by_field) = name.hashes(value);
        if nature == Nature::Common
            && let Some(at) = self.find(&self.fields, by_field, |entry| name.is(&entry.0) && *entry.1 == *value)
        {
            return integer(out, 0x80, 7, self.index(at));
        }
        let named = match known {
            0 => self.find(&self.names, by_name, |entry| name.is(&entry.0)).map_or(0, |at| self.index(at)),
            known => known,
        };
        let size = name.as_str().len() + value.len() + OVERHEAD;
        let recurs = named == 0 || (nature == Nature::Common && self.was_seen(by_field));
        if !recurs || size > LARGE.min(self.max) {
            return literal(out, 0, 4, named, name, value);
        }
        literal(out, 0x40, 6, named, name, value);
        self.insert(name.owned(), value, (by_name, by_field), size);
    }

    fn find(&self, hashes: &[u32], hash: u32, same: impl Fn(&(Name, Box<[u8]>)) -> bool) -> Option<usize> {
        let at = hashes.iter().position(|other| *other == hash)?;
        // Two fields with one hash: the second is sent as a literal.
        self.entries.get(at).filter(|entry| same(entry)).map(|_| at)
    }

    /// The index of the entry at place `at`.
    fn index(&self, at: usize) -> usize {
        let newest = self.inserted.wrapping_sub(1);
        table::STATIC + 1 + (newest.wrapping_sub(at) % ENTRIES)
    }

    /// Was the field seen before? It was from now on.
    fn was_seen(&mut self, hash: u32) -> bool {
        if self.seen.is_empty() {
            self.seen.resize(SEEN, 0);
        }
        let mark = (hash >> 16) as u16 | 1;
        match self.seen.get_mut(hash as usize % SEEN) {
            Some(seen) => std::mem::replace(seen, mark) == mark,
            None => false,
        }
    }

    fn insert(&mut self, name: Name, value: &[u8], (by_name, by_field): (u32, u32), size: usize) {
        self.evict(self.max.saturating_sub(size));
        if self.live == ENTRIES {
            self.evict_one();
        }
        let at = self.inserted % ENTRIES;
        let entry = (name, Box::from(value));
        if at < self.entries.len() {
            self.fields[at] = by_field;
            self.names[at] = by_name;
            self.entries[at] = entry;
        } else {
            self.fields.push(by_field);
            self.names.push(by_name);
            self.entries.push(entry);
        }
        self.inserted = self.inserted.wrapping_add(1);
        self.live += 1;
        self.size += size;
    }

    fn evict(&mut self, most: usize) {
        while self.size > most && self.live > 0 {
            self.evict_one();
        }
    }

    /// Forgets the oldest entry. The peer may keep it for longer: we only never refer to it again.
    fn evict_one(&mut self) {
        let at = self.inserted.wrapping_sub(self.live) % ENTRIES;
        let (name, value) = &mut self.entries[at];
        self.size -= name.as_str().len() + value.len() + OVERHEAD;
        (*name, *value) = (Name::Bad, Box::default());
        self.fields[at] = 0;
        self.names[at] = 0;
        self.live -= 1;
    }
}

/// A name to be looked up.
#[derive(Clone, Copy)]
enum Key<'n> {
    Pseudo(&'n Name),
    Header(&'n HeaderName),
}

impl Key<'_> {
    /// Its index in the static table, or 0.
    fn known(self) -> usize {
        match self {
            Self::Pseudo(name) => table::pseudo_index(name),
            Self::Header(name) => table::header_index(name),
        }
    }

    fn is(self, other: &Name) -> bool {
        match (self, other) {
            (Self::Header(name), Name::Header(other)) => name == other,
            (Self::Pseudo(name), other) => name == other,
            (Self::Header(_), _) => false,
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Pseudo(name) => name.as_str(),
            Self::Header(name) => name.as_str(),
        }
    }

    fn owned(self) -> Name {
        match self {
            Self::Pseudo(name) => name.clone(),
            Self::Header(name) => Name::Header(name.clone()),
        }
    }

    /// Of the name, and of name and value. Never 0.
    fn hashes(self, value: &[u8]) -> (u32, u32) {
        let mut hasher = foldhash::fast::FixedState::default().build_hasher();
        match self {
            Self::Header(name) => name.hash(&mut hasher),
            Self::Pseudo(name) => std::mem::discriminant(name).hash(&mut hasher),
        }
        let by_name = hasher.finish() as u32 | 1;
        hasher.write(value);
        (by_name, hasher.finish() as u32 | 1)
    }
}

fn literal(out: &mut Vec<u8>, pattern: u8, prefix: u32, index: usize, name: Key<'_>, value: &[u8]) {
    integer(out, pattern, prefix, index);
    if index == 0 {
        string(out, name.as_str().as_bytes());
    }
    string(out, value);
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// RFC 7541 §5.1.
fn integer(out: &mut Vec<u8>, pattern: u8, prefix: u32, value: usize) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        return out.push(pattern | value as u8);
    }
    out.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
