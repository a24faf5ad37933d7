//! The objects of a store in order of key. An object knows its key, so that nothing else is kept of it here.

use super::{Key, Record};
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

/// A record that stands where its key does.
#[derive(Debug)]
struct Placed(Arc<Record>);

impl Borrow<Key> for Placed {
    fn borrow(&self) -> &Key {
        &self.0.key
    }
}

impl PartialEq for Placed {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Placed {}

impl PartialOrd for Placed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Placed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Objects(BTreeSet<Placed>);

impl Objects {
    pub fn get(&self, key: &Key) -> Option<&Arc<Record>> {
        self.0.get(key).map(|placed| &placed.0)
    }

    /// Puts an object in the place of the one of its key.
    pub fn insert(&mut self, record: Arc<Record>) {
        self.0.replace(Placed(record));
    }

    pub fn remove(&mut self, key: &Key) {
        self.0.remove(key);
    }

    pub fn values(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.0.iter().map(|placed| &placed.0)
    }

    /// Those from a key on, or after it.
    pub fn from(&self, first: Bound<&Key>) -> impl Iterator<Item = &Arc<Record>> {
        self.0.range::<Key, _>((first, Bound::Unbounded)).map(|placed| &placed.0)
    }
}

/// The same key, sharing its parts with another where they are equal: most objects of a kind are of few namespaces.
pub(super) fn alike(key: Key, other: &Key) -> Key {
    let share = |own: Arc<str>, other: &Arc<str>| if own == *other { other.clone() } else { own };
    Key {
        resource: share(key.resource, &other.resource),
        namespace: share(key.namespace, &other.namespace),
        name: share(key.name, &other.name),
    }
}
