//! How objects, revisions and documents are written in etcd. Pure.
//!
//! Everything is under one prefix: `objects/GROUP/PLURAL/NAMESPACE/NAME`, `clock`, which every transaction writes, `leader`,
//! `replicas/NAME`, which end with their replica, and `fence`, which has no content and is written by reads that must have a place among the writes. A document follows a line with its place in the
//! transaction that wrote it: etcd numbers transactions, the store numbers writes.

use bytes::Bytes;

use super::super::{Key, Result, StoreError};

/// Writes of one transaction that a revision can tell apart.
pub const MOST_WRITES: usize = (1 << PLACE) - 1;
/// Bits of a revision that say which write of a transaction it is.
const PLACE: u32 = 10;

/// The revision of a write: etcd's revision of the transaction, and the place in it.
pub fn revision(transaction: u64, place: usize) -> u64 {
    (transaction << PLACE) | u64::try_from(place.min(MOST_WRITES)).unwrap_or_default()
}

/// The revision of the store once a transaction is through; 0: nothing was written yet.
pub fn end(transaction: u64) -> u64 {
    if transaction == 0 { 0 } else { (transaction << PLACE) | ((1 << PLACE) - 1) }
}

/// Etcd's revision of the transaction that made this revision.
pub fn transaction(revision: u64) -> u64 {
    revision >> PLACE
}

/// A number of etcd, which are never negative.
pub fn number(signed: i64) -> u64 {
    u64::try_from(signed).unwrap_or_default()
}

/// The same for etcd.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The keys of one store.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// Under a prefix, which ends with a slash whatever was said.
    pub fn under(prefix: &str) -> Self {
        Self { prefix: format!("/{}/", prefix.trim_matches('/')).replace("//", "/") }
    }

    /// Everything: first key, and the first one after it.
    pub fn all(&self) -> (Bytes, Bytes) {
        range(&self.prefix)
    }

    /// Every object, likewise.
    pub fn objects(&self) -> (Bytes, Bytes) {
        range(&format!("{}objects/", self.prefix))
    }

    /// Written by every transaction: its revision is that of the newest.
    pub fn clock(&self) -> Bytes {
        format!("{}clock", self.prefix).into()
    }

    /// Held by the replica that does what only one may do.
    pub fn leader(&self) -> Bytes {
        format!("{}leader", self.prefix).into()
    }

    /// Those that serve: first key, and the first one after them.
    pub fn replicas(&self) -> (Bytes, Bytes) {
        range(&format!("{}replicas/", self.prefix))
    }

    /// Where one of them is.
    pub fn replica(&self, name: &str) -> Bytes {
        let mut path = format!("{}replicas/", self.prefix);
        escape(name, &mut path);
        path.into()
    }

    /// Written by reads that pass through the log.
    pub fn fence(&self) -> Bytes {
        format!("{}fence", self.prefix).into()
    }

    /// Where an object is.
    pub fn object(&self, key: &Key) -> Bytes {
        let mut path = format!("{}objects/", self.prefix);
        let (group, plural) = key.resource.split_once('/').unwrap_or((&key.resource, ""));
        for (i, part) in [group, plural, &key.namespace, &key.name].into_iter().enumerate() {
            if i > 0 {
                path.push('/');
            }
            escape(part, &mut path);
        }
        path.into()
    }

    /// What is there; `None`: no object.
    pub fn key(&self, bytes: &[u8]) -> Option<Key> {
        let path = std::str::from_utf8(bytes).ok()?.strip_prefix(self.prefix.as_str())?.strip_prefix("objects/")?;
        let mut parts = path.split('/').map(unescape);
        let (group, plural, namespace, name) = (parts.next()??, parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then(|| Key::new(format!("{group}/{plural}"), namespace, name))
    }
}

fn range(prefix: &str) -> (Bytes, Bytes) {
    // Prefixes end with a slash: what follows all that begins so, begins with the next character.
    let end = format!("{}0", prefix.strip_suffix('/').unwrap_or(prefix));
    (Bytes::from(prefix.to_owned()), end.into())
}

/// Only what separates or cannot be seen is escaped: names of the API stay as they are.
fn escape(part: &str, out: &mut String) {
    for c in part.chars() {
        match c {
            '%' | '/' | '\0'..=' ' | '\x7f' => out.push_str(&format!("%{:02X}", u32::from(c))),
            c => out.push(c),
        }
    }
}

fn unescape(part: &str) -> Option<String> {
    let mut pieces = part.split('%');
    let mut text = pieces.next()?.to_owned();
    for piece in pieces {
        let (code, rest) = piece.split_at_checked(2)?;
        text.push(char::from(u8::from_str_radix(code, 16).ok()?));
        text.push_str(rest);
    }
    Some(text)
}

/// A document as it is kept.
pub fn encode(place: usize, document: &[u8]) -> Bytes {
    [place.to_string().as_bytes(), b"\n", document].concat().into()
}

/// Place and document.
pub fn decode(value: &Bytes) -> Result<(usize, Bytes)> {
    let place = value.iter().take(8).position(|b| *b == b'\n').and_then(|line| {
        let place = std::str::from_utf8(value.get(..line)?).ok()?.parse().ok()?;
        Some((place, value.slice(line + 1..)))
    });
    place.ok_or_else(|| StoreError::Failed("a document in etcd is not one that this version wrote".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_the_api_can_be_read_in_etcd() {
        let names = Names::under("weft");
        let key = Key::new("gateway.networking.k8s.io/httproutes", "shop", "cart");
        assert_eq!(names.object(&key), "/weft/objects/gateway.networking.k8s.io/httproutes/shop/cart");
        assert_eq!(names.object(&Key::new("/namespaces", "", "shop")), "/weft/objects//namespaces//shop");
        assert_eq!(names.clock(), "/weft/clock");
        assert_eq!(names.key(b"/weft/clock"), None);
        assert_eq!(names.key(b"/weft/objects/a/b/c"), None);
        assert_eq!(names.key(b"/weft/objects/a/b/c/d/e"), None);
        assert_eq!(Names::under("/a/b/").clock(), "/a/b/clock");
        assert_eq!(Names::under("").clock(), "/clock");
    }

    #[test]
    fn writes_of_a_transaction_are_numbered_before_its_end_and_after_the_one_before() {
        assert_eq!(end(0), 0);
        let last = revision(7, MOST_WRITES - 1);
        assert!(end(6) < revision(7, 0) && revision(7, 0) < revision(7, 1) && last < end(7));
        assert_eq!((transaction(last), transaction(end(7))), (7, 7));
    }

    #[test]
    fn a_document_comes_back_with_its_place() {
        let value = encode(12, b"{\n}");
        assert_eq!(value, "12\n{\n}");
        assert_eq!(decode(&value).unwrap(), (12, Bytes::from_static(b"{\n}")));
        for bad in ["", "12", "x\n{}", "123456789\n{}"] {
            assert!(decode(&Bytes::from(bad)).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn every_key_comes_back_and_is_in_the_range_of_objects(
            group in "[a-z./% \u{e4}]{0,8}", plural in "[a-z]{1,8}", namespace in "\\PC{0,8}", name in "\\PC{0,8}",
        ) {
            let group = group.replace('/', "");
            let names = Names::under("/weft/");
            let key = Key::new(format!("{group}/{plural}"), namespace, name);
            let at = names.object(&key);
            prop_assert_eq!(names.key(&at), Some(key));
            let (first, after) = names.objects();
            prop_assert!(first <= at && at < after);
            prop_assert!(!(names.clock() >= first && names.clock() < after));
        }
    }
}
