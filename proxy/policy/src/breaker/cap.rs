//! How many endpoints of a backend may be ejected at once.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the ejected endpoints of a backend: at most max(1, ⌊n/2⌋) of n, and a lone endpoint only where there is a
/// fallback.
#[derive(Debug)]
pub struct Ejections {
    most: AtomicUsize,
    /// Invariant: one for each breaker of the backend that is open or half-open; at most `most` once every breaker was
    /// looked at since it last shrank.
    ejected: AtomicUsize,
}

impl Ejections {
    /// For a backend of `members` endpoints without a fallback.
    pub fn new(members: usize) -> Self {
        Ejections { most: AtomicUsize::new(most(members, false)), ejected: AtomicUsize::new(0) }
    }

    /// The endpoints changed, or whether there is a fallback did. Breakers that are over the new cap close when next
    /// looked at.
    pub fn resize(&self, members: usize, fallback: bool) {
        self.most.store(most(members, fallback), Ordering::Relaxed);
    }

    /// How many are ejected (open or half-open) now.
    pub fn ejected(&self) -> usize {
        self.ejected.load(Ordering::Relaxed)
    }

    /// Takes a place among the ejected, if one is free.
    pub(super) fn eject(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        self.change(|ejected| (ejected < most).then_some(ejected + 1))
    }

    /// Gives a place back.
    pub(super) fn release(&self) {
        self.change(|ejected| ejected.checked_sub(1));
    }

    /// Gives a place back if more are taken than there are.
    pub(super) fn release_excess(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        self.change(|ejected| if ejected > most { ejected.checked_sub(1) } else { None })
    }

    fn change(&self, next: impl FnMut(usize) -> Option<usize>) -> bool {
        self.ejected.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

fn most(members: usize, fallback: bool) -> usize {
    match members {
        0 | 1 => usize::from(fallback),
        members => (members / 2).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_may_be_out_and_a_lone_endpoint_only_with_a_fallback() {
        let sizes = [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)];
        assert!(sizes.iter().all(|(members, out)| most(*members, false) == *out));
        assert_eq!(most(1, true), 1);
    }

    #[test]
    fn places_are_not_taken_beyond_the_cap_and_excess_is_given_back() {
        let cap = Ejections::new(4);
        assert!(cap.eject() && cap.eject() && !cap.eject());
        cap.resize(2, false);
        assert!(cap.release_excess() && !cap.release_excess());
        cap.release();
        cap.release();
        assert_eq!(cap.ejected(), 0);
    }
}
