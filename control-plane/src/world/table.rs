//! A sorted map whose copies share what they have in common.
//!
//! Entries stand in order in chunks behind `Arc`s: a copy costs one pointer for each chunk, an edit the chunk that it falls into, and what two
//! copies differ in is found without looking at the chunks that they share. That is what lets a change to one object of many thousand cost
//! what one object costs. Nothing here knows what is kept.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// Entries in a chunk; one that grows larger is split into two.
const CHUNK: usize = 128;

type Chunk<V> = Arc<Vec<(Arc<str>, V)>>;

/// The map. See the module's text.
#[derive(Clone)]
pub struct Table<V> {
    /// Invariant: none is empty, keys ascend within each and from one to the next.
    chunks: Vec<Chunk<V>>,
    len: usize,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<V> Table<V> {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&V> {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// The entry of a key, and the key as it stands here.
    #[must_use]
    pub fn get_key_value(&self, key: &str) -> Option<(&Arc<str>, &V)> {
        let chunk = &self.chunks[self.chunk_of(key)?];
        let at = chunk.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some((&chunk[at].0, &chunk[at].1))
    }

    /// Whether there is an entry of a key.
    #[must_use]
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// All entries in order of key.
    pub fn iter(&self) -> Iter<'_, V> {
        Iter { chunks: &self.chunks, chunk: 0, at: 0 }
    }

    /// All keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// All values in order of key.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// The entries whose keys begin so, in order.
    pub fn with_prefix<'t>(&'t self, prefix: &str) -> impl Iterator<Item = (&'t Arc<str>, &'t V)> + use<'t, V> {
        let chunk = self.chunk_of(prefix).unwrap_or_default();
        let at = self.chunks.get(chunk).map_or(0, |c| c.partition_point(|(k, _)| **k < *prefix));
        let prefix = prefix.to_owned();
        Iter { chunks: &self.chunks, chunk, at }.take_while(move |(key, _)| key.starts_with(&prefix))
    }

    /// The keys whose entries differ between `before` and this, each with what there was and what there is; `same` says when two are equal.
    pub fn changes<'t>(
        &'t self,
        before: &'t Self,
        same: impl Fn(&V, &V) -> bool,
    ) -> Vec<(&'t Arc<str>, Option<&'t V>, Option<&'t V>)> {
        let mut found = Vec::new();
        let (mut old, mut new) = (before.iter(), self.iter());
        loop {
            // Both at the beginning of the same chunk: nothing in it differs.
            while let (Some(a), Some(b)) = (old.chunk_ahead(), new.chunk_ahead())
                && Arc::ptr_eq(a, b)
            {
                (old.chunk, new.chunk) = (old.chunk + 1, new.chunk + 1);
            }
            let order = match (old.peek(), new.peek()) {
                (None, None) => return found,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let was = if order.is_le() { old.next() } else { None };
            let is = if order.is_ge() { new.next() } else { None };
            match (was, is) {
                (Some((_, was)), Some((_, is))) if same(was, is) => {}
                (Some((key, was)), is) => found.push((key, Some(was), is.map(|(_, v)| v))),
                (None, is) => found.extend(is.map(|(key, v)| (key, None, Some(v)))),
            }
        }
    }

    /// The chunk in which the key is, if it is anywhere.
    fn chunk_of(&self, key: &str) -> Option<usize> {
        self.chunks.partition_point(|c| c.first().is_some_and(|(k, _)| **k <= *key)).checked_sub(1)
    }
}

impl<V: Clone> Table<V> {
    /// Puts an entry; returns the one that it replaces.
    pub fn insert(&mut self, key: impl Into<Arc<str>>, value: V) -> Option<V> {
        let key = key.into();
        let Some(first) = self.chunks.first() else {
            self.chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        debug_assert!(!first.is_empty(), "no chunk is empty");
        let place = self.chunk_of(&key).unwrap_or_default();
        let last = place + 1 == self.chunks.len();
        let chunk = Arc::make_mut(&mut self.chunks[place]);
        match chunk.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(at) => return Some(std::mem::replace(&mut chunk[at].1, value)),
            Err(at) => chunk.insert(at, (key, value)),
        }
        self.len += 1;
        if chunk.len() > CHUNK {
            // What is filled in order leaves full chunks behind, not half-empty ones.
            let half = if last { CHUNK } else { CHUNK / 2 };
            let rest = chunk.split_off(half);
            chunk.shrink_to_fit();
            self.chunks.insert(place + 1, Arc::new(rest));
        }
        None
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &str) -> Option<V> {
        let place = self.chunk_of(key)?;
        let at = self.chunks[place].binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        let chunk = Arc::make_mut(&mut self.chunks[place]);
        let (_, value) = chunk.remove(at);
        self.len -= 1;
        if chunk.is_empty() {
            self.chunks.remove(place);
        } else if chunk.len() < CHUNK / 4
            && let Some(next) = self.chunks.get(place + 1)
            && next.len() < CHUNK / 2
        {
            let next = self.chunks.remove(place + 1);
            Arc::make_mut(&mut self.chunks[place]).extend(next.iter().cloned());
        }
        Some(value)
    }
}

impl<K: Into<Arc<str>>, V: Clone> FromIterator<(K, V)> for Table<V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut table = Self::default();
        for (key, value) in entries {
            table.insert(key, value);
        }
        table
    }
}

impl<V: PartialEq> PartialEq for Table<V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<V: fmt::Debug> fmt::Debug for Table<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<V> Index<&str> for Table<V> {
    type Output = V;

    #[expect(clippy::panic, reason = "an index that does not exist is a fault of the program, as with every map")]
    fn index(&self, key: &str) -> &V {
        self.get(key).unwrap_or_else(|| panic!("there is no entry {key:?}"))
    }
}

impl<'t, V> IntoIterator for &'t Table<V> {
    type Item = (&'t Arc<str>, &'t V);
    type IntoIter = Iter<'t, V>;

    fn into_iter(self) -> Iter<'t, V> {
        self.iter()
    }
}

/// Entries in order.
#[derive(Debug)]
pub struct Iter<'t, V> {
    chunks: &'t [Chunk<V>],
    chunk: usize,
    at: usize,
}

impl<V> Clone for Iter<'_, V> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<'t, V> Iter<'t, V> {
    /// The chunk that is about to begin.
    fn chunk_ahead(&self) -> Option<&'t Chunk<V>> {
        if self.at == 0 { self.chunks.get(self.chunk) } else { None }
    }

    fn peek(&self) -> Option<&'t (Arc<str>, V)> {
        self.chunks.get(self.chunk)?.get(self.at)
    }
}

impl<'t, V> Iterator for Iter<'t, V> {
    type Item = (&'t Arc<str>, &'t V);

    fn next(&mut self) -> Option<Self::Item> {
        let chunk = self.chunks.get(self.chunk)?;
        if let Some((key, value)) = chunk.get(self.at) {
            self.at += 1;
            if self.at == chunk.len() {
                (self.chunk, self.at) = (self.chunk + 1, 0);
            }
            return Some((key, value));
        }
        // Begun behind the end of a chunk: the next one goes on.
        (self.chunk, self.at) = (self.chunk + 1, 0);
        self.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng};
    use std::collections::BTreeMap;

    fn plain<'t>((key, value): (&'t Arc<str>, &'t u32)) -> (&'t str, &'t u32) {
        (key, value)
    }

    fn borrowed<'t>((key, value): (&'t String, &'t u32)) -> (&'t str, &'t u32) {
        (key, value)
    }

    /// A table and an ordinary map after the same random edits.
    fn edited(table: &mut Table<u32>, map: &mut BTreeMap<String, u32>, random: &mut StdRng, edits: usize) {
        for _ in 0..edits {
            let key = format!("shop-{}/item-{}", random.random_range(0..4), random.random_range(0..400));
            if random.random_bool(0.3) {
                assert_eq!(table.remove(&key), map.remove(&key));
            } else {
                let value = random.random_range(0..3);
                assert_eq!(table.insert(key.clone(), value), map.insert(key, value));
            }
        }
    }

    #[test]
    fn it_holds_what_an_ordinary_map_holds_in_the_same_order() {
        let mut random = StdRng::seed_from_u64(1);
        let (mut table, mut map) = (Table::default(), BTreeMap::new());
        for _ in 0..60 {
            edited(&mut table, &mut map, &mut random, 50);
            assert!(table.iter().map(plain).eq(map.iter().map(borrowed)));
            assert_eq!(table.len(), map.len());
            for prefix in ["shop-1/", "shop-3/item-39", "", "shop-9", "a"] {
                let in_map = map.range(prefix.to_owned()..).take_while(|(k, _)| k.starts_with(prefix));
                assert!(table.with_prefix(prefix).map(plain).eq(in_map.map(borrowed)), "{prefix:?}");
            }
            let key = format!("shop-2/item-{}", random.random_range(0..400));
            assert_eq!(table.get(&key), map.get(&key));
        }
    }

    #[test]
    fn two_copies_tell_exactly_what_they_differ_in() {
        let mut random = StdRng::seed_from_u64(2);
        let (mut table, mut map) = (Table::default(), BTreeMap::new());
        for _ in 0..60 {
            let (before, map_before) = (table.clone(), map.clone());
            let edits = random.random_range(0..20);
            edited(&mut table, &mut map, &mut random, edits);
            let keys: std::collections::BTreeSet<_> = map.keys().chain(map_before.keys()).collect();
            let differ = keys.into_iter().filter(|k| map.get(*k) != map_before.get(*k));
            let differ: Vec<_> = differ.map(|k| (k.as_str(), map_before.get(k), map.get(k))).collect();
            let found = table.changes(&before, |a, b| a == b);
            assert_eq!(found.into_iter().map(|(key, was, is)| (&**key, was, is)).collect::<Vec<_>>(), differ);
        }
    }

    #[test]
    fn a_copy_shares_all_but_what_was_edited() {
        let mut table: Table<u32> = (0..10_000).map(|i| (format!("{i:05}"), i)).collect();
        let before = table.clone();
        table.insert("05000", 0);
        let shared = table.chunks.iter().filter(|c| before.chunks.iter().any(|b| Arc::ptr_eq(b, c))).count();
        assert_eq!(shared, table.chunks.len() - 1);
        assert_eq!(before.get("05000"), Some(&5000));
        assert!(table.chunks.len() <= 10_000 / CHUNK + 1, "what is filled in order is dense");
    }
}
