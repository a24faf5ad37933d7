//! How many endpoints of a backend may be ejected at once.

/// Counts the ejected endpoints of a backend: at most max(1, ⌊n/2⌋) of n, and a lone endpoint only where there is a fallback.
#[derive(Debug, Default)]
pub struct Ejections {}

impl Ejections {
    /// For a backend of `members` endpoints.
    pub fn new(members: usize) -> Self {
        let _ = members;
        unimplemented!()
    }

    /// The endpoints changed, or whether there is a fallback did. Breakers that are over the new cap close when next looked at.
    pub fn resize(&self, members: usize, fallback: bool) {
        unimplemented!("{members} {fallback}")
    }

    /// How many are ejected (open or half-open) now.
    pub fn ejected(&self) -> usize {
        unimplemented!()
    }
}
