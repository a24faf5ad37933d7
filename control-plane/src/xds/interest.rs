//! Which streams want to hear of which names, so that a change wakes those that it concerns and nobody else: the cost of a change does not
//! grow with the number of sidecars that it has nothing to do with.
//!
//! A name is what a client subscribed to: a resource's own, or an alias of it.

use super::by_type::ByType;
use super::sorted::Sorted;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::Notify;

/// A type URL and a name.
pub type Topic = (&'static str, Arc<str>);

/// A stream that waits.
#[derive(Debug, Default)]
struct Waiting {
    notify: Notify,
    /// What has changed since it looked last: no more than it is interested in.
    changed: Mutex<HashSet<Topic>>,
}

/// By type URL, then by name.
type ByName = HashMap<&'static str, HashMap<Arc<str>, Vec<Arc<Waiting>>>>;

/// All streams' interests. Cheap to share.
#[derive(Debug, Default)]
pub struct Interests {
    by_name: Mutex<ByName>,
}

impl Interests {
    /// A stream that is interested in nothing yet.
    #[must_use]
    pub fn join(self: &Arc<Self>) -> Interest {
        Interest { all: self.clone(), waiting: Arc::default(), topics: ByType::default() }
    }

    /// Wakes every stream that is interested in one of these.
    pub fn tell(&self, topics: &[Topic]) {
        let by_name = self.by_name.lock();
        for (url, name) in topics {
            for waiting in by_name.get(url).and_then(|names| names.get(name)).into_iter().flatten() {
                waiting.changed.lock().insert((url, name.clone()));
                // A stream that is told twice before it looks wakes once.
                waiting.notify.notify_one();
            }
        }
    }
}

/// One stream's interests; dropping it ends them.
#[derive(Debug)]
pub struct Interest {
    all: Arc<Interests>,
    waiting: Arc<Waiting>,
    topics: ByType<Sorted<()>>,
}

impl Interest {
    /// From now on a change of these names wakes it.
    pub fn add<'a>(&mut self, url: &'static str, names: impl Iterator<Item = &'a str>) {
        let mut by_name = self.all.by_name.lock();
        let of_type = by_name.entry(url).or_default();
        let Some(own) = self.topics.get_mut(url) else { return };
        for name in names {
            if own.get(name).is_none() {
                let name = of_type.get_key_value(name).map_or_else(|| Arc::from(name), |(known, _)| known.clone());
                own.insert(name.clone(), ());
                of_type.entry(name).or_default().push(self.waiting.clone());
            }
        }
    }

    /// It no longer cares.
    pub fn remove<'a>(&mut self, url: &'static str, names: impl Iterator<Item = &'a str>) {
        let mut by_name = self.all.by_name.lock();
        let Some(own) = self.topics.get_mut(url) else { return };
        for name in names {
            if own.remove(name).is_some() {
                forget(&mut by_name, url, name, &self.waiting);
            }
        }
    }

    /// Waits until something that it is interested in may have changed since the last time. Cancel-safe.
    pub async fn changed(&self) {
        self.waiting.notify.notified().await;
    }

    /// What of it has changed since the last call. Look at what is offered after it, not before: else what changes in between is missed.
    #[must_use]
    pub fn take(&self) -> HashSet<Topic> {
        std::mem::take(&mut self.waiting.changed.lock())
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut by_name = self.all.by_name.lock();
        for (url, names) in self.topics.iter() {
            for (name, ()) in names.iter() {
                forget(&mut by_name, url, name, &self.waiting);
            }
        }
    }
}

fn forget(by_name: &mut ByName, url: &'static str, name: &str, who: &Arc<Waiting>) {
    let Some(of_type) = by_name.get_mut(url) else { return };
    let Some(waiting) = of_type.get_mut(name) else { return };
    if let Some(at) = waiting.iter().position(|waiting| Arc::ptr_eq(waiting, who)) {
        waiting.swap_remove(at);
    }
    if waiting.is_empty() {
        of_type.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use weft_proto::type_url::{ENDPOINTS, SERVICE};

    #[test]
    fn a_change_wakes_who_is_interested_and_nobody_else() {
        let all = Arc::new(Interests::default());
        let (mut cart, mut web) = (all.join(), all.join());
        cart.add(SERVICE, ["shop/payments", "host:payments.shop"].into_iter());
        web.add(SERVICE, ["shop/cart"].into_iter());
        web.add(ENDPOINTS, ["shop/payments"].into_iter());
        all.tell(&[(SERVICE, "host:payments.shop".into()), (SERVICE, "shop/payments".into())]);
        assert!(cart.changed().now_or_never().is_some());
        assert!(cart.changed().now_or_never().is_none(), "told twice, woken once");
        assert!(web.changed().now_or_never().is_none(), "a name of another type");
        cart.remove(SERVICE, ["shop/payments"].into_iter());
        all.tell(&[(SERVICE, "shop/payments".into())]);
        assert!(cart.changed().now_or_never().is_none());
        all.tell(&[(SERVICE, "host:payments.shop".into())]);
        assert!(cart.changed().now_or_never().is_some());
    }

    #[test]
    fn nothing_is_left_of_a_stream_that_ends() {
        let all = Arc::new(Interests::default());
        let mut one = all.join();
        one.add(SERVICE, ["shop/cart", "shop/cart", "shop/web"].into_iter());
        let mut other = all.join();
        other.add(SERVICE, ["shop/cart"].into_iter());
        drop(one);
        assert_eq!(all.by_name.lock()[SERVICE].len(), 1);
        all.tell(&[(SERVICE, "shop/cart".into())]);
        assert!(other.changed().now_or_never().is_some());
        drop(other);
        assert!(all.by_name.lock()[SERVICE].is_empty());
    }
}
