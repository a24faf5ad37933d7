//! The embedded store.

use crate::suite::{self, Stores, promises};
use std::sync::Arc;
use weft_control::store::{Embedded, Options, Store};

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl Stores for Files {
    async fn open(&self, options: Options) -> Arc<dyn Store> {
        Arc::new(Embedded::open(&self.0.path().join("weft.redb"), options).unwrap())
    }
}

promises!(Files::new());

#[tokio::test]
async fn revisions_of_a_new_store_count_from_one() {
    let files = Files::new();
    let store = files.open(Options::default()).await;
    assert_eq!(store.revision().await.unwrap(), 0);
    assert_eq!(suite::write(&store, suite::put("a", weft_control::store::Expect::Absent, "1")).await, 1);
    assert_eq!(store.revision().await.unwrap(), 1);
}
