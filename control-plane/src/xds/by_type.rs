//! One value for each type of resource, in one piece of memory: each stream has several such, for as long as it lasts.

use weft_proto::type_url;

/// The types that are served, in the order in which they are sent: what is referred to goes before what refers to it.
pub(super) const TYPES: [&str; 5] =
    [type_url::MESH_SETTINGS, type_url::TRUST_BUNDLE, type_url::INBOUND, type_url::ENDPOINTS, type_url::SERVICE];

/// The values. There is none for a type that is not served.
#[derive(Debug, Default)]
pub(super) struct ByType<T>([T; TYPES.len()]);

impl<T> ByType<T> {
    pub fn get(&self, url: &str) -> Option<&T> {
        self.0.get(TYPES.iter().position(|known| *known == url)?)
    }

    pub fn get_mut(&mut self, url: &str) -> Option<&mut T> {
        self.0.get_mut(TYPES.iter().position(|known| *known == url)?)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &T)> {
        TYPES.into_iter().zip(&self.0)
    }
}
