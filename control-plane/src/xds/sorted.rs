//! A map by name in one piece of memory: each stream has several, of some dozens of names, for as long as it lasts.

use std::sync::Arc;

/// The map. Inserting costs the entries behind the place.
#[derive(Debug)]
pub(super) struct Sorted<V>(Vec<(Arc<str>, V)>);

impl<V> Default for Sorted<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> Sorted<V> {
    fn place(&self, name: &str) -> Result<usize, usize> {
        // Names mostly come in order.
        match self.0.last() {
            Some((last, _)) if **last < *name => Err(self.0.len()),
            _ => self.0.binary_search_by(|(known, _)| (**known).cmp(name)),
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn get(&self, name: &str) -> Option<&V> {
        self.place(name).ok().map(|at| &self.0[at].1)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut V> {
        self.place(name).ok().map(|at| &mut self.0[at].1)
    }

    pub fn insert(&mut self, name: Arc<str>, value: V) {
        match self.place(&name) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.insert_at(at, name, value),
        }
    }

    /// The value of a name, the default if there is none.
    pub fn entry(&mut self, name: Arc<str>) -> &mut V
    where
        V: Default,
    {
        let at = self.place(&name).unwrap_or_else(|at| {
            self.insert_at(at, name, V::default());
            at
        });
        &mut self.0[at].1
    }

    fn insert_at(&mut self, at: usize, name: Arc<str>, value: V) {
        if self.0.len() == self.0.capacity() {
            // Not room for twice as many, most of which would stay empty.
            self.0.reserve_exact(4.max(self.0.len() / 4));
        }
        self.0.insert(at, (name, value));
    }

    pub fn remove(&mut self, name: &str) -> Option<V> {
        self.place(name).ok().map(|at| self.0.remove(at).1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_holds_what_an_ordinary_map_holds_in_the_same_order(steps in prop::collection::vec((any::<bool>(), 0..20_u8), 0..80)) {
            let (mut sorted, mut map) = (Sorted::default(), BTreeMap::new());
            for (i, (insert, name)) in steps.into_iter().enumerate() {
                let name = format!("n{name}");
                if insert {
                    sorted.insert(name.as_str().into(), i);
                    map.insert(name, i);
                } else if i % 3 == 0 {
                    prop_assert_eq!(sorted.entry(name.as_str().into()), map.entry(name).or_default());
                } else {
                    prop_assert_eq!(sorted.remove(&name), map.remove(&name));
                }
                prop_assert!(sorted.iter().map(|(n, v)| (&**n, *v)).eq(map.iter().map(|(n, v)| (n.as_str(), *v))));
                prop_assert!(map.iter().all(|(n, v)| sorted.get(n) == Some(v)) && sorted.len() == map.len());
            }
        }
    }
}
