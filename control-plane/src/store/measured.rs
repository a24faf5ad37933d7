//! A store whose answers are timed and whose failures are counted. It changes nothing of what it is asked or says; how long a watch waits for
//! something to happen is no measure of the store, and is left out.

use super::{Event, Key, Lead, Page, Record, Result, Scope, Store, Watch, Write};
use crate::metrics::Metrics;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Instant;

/// Another store, measured.
pub struct Measured {
    inner: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

impl Measured {
    /// What is asked of `inner` from now on.
    pub fn new(inner: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }

    fn timed<'a, T: 'a>(
        &'a self,
        operation: &'static str,
        asked: BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            let began = Instant::now();
            let answered = asked.await;
            self.metrics.stored(operation, began.elapsed(), answered.as_ref().err());
            answered
        })
    }
}

impl Store for Measured {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Record>>>> {
        self.timed("get", self.inner.get(key))
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        after: Option<&'a Key>,
        limit: usize,
        at: Option<u64>,
    ) -> BoxFuture<'a, Result<Page>> {
        self.timed("list", self.inner.list(scope, after, limit, at))
    }

    fn everything(&self) -> BoxFuture<'_, Result<Page>> {
        self.timed("everything", self.inner.everything())
    }

    fn watch<'a>(&'a self, scope: &'a Scope, after: u64) -> BoxFuture<'a, Result<Box<dyn Watch>>> {
        self.timed("watch", self.inner.watch(scope, after))
    }

    fn transact(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<Arc<Event>>>> {
        self.timed("transact", self.inner.transact(writes))
    }

    fn revision(&self) -> BoxFuture<'_, Result<u64>> {
        self.timed("revision", self.inner.revision())
    }

    fn lead(&self) -> tokio::sync::watch::Receiver<Lead> {
        self.inner.lead()
    }

    fn resign(&self) -> BoxFuture<'_, ()> {
        self.inner.resign()
    }
}
