//! Backups: everything in a store at one revision as lines of JSON, and the way back.
//!
//! The first line says what follows, the last one what all lines before it hash to; between them is one object a line. Join tokens are left
//! out: one that was used up or ended since would be good again. Keys of the authorities are no objects and not here.

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Expect, Key, Record, Store, StoreError, Write};
use crate::identity::token;

/// Of the file's form: changes when a file of before could be misread.
const VERSION: u32 = 1;
/// What a file begins to say.
const KIND: &str = "WeftBackup";
/// Objects of internal bookkeeping; the API does not serve them.
const INTERNAL: &str = "internal.weft.mesh/";
/// Writes of one transaction where the store does not take all at once: fewer than etcd's own limit of 128.
const WRITES: usize = 100;
/// And bytes of their documents: less than etcd's 1.5 MiB.
const BYTES: usize = 1 << 20;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    kind: String,
    version: u32,
    /// The store's revision that the objects are of.
    pub revision: u64,
    /// How many there are.
    pub objects: usize,
    /// The trust domain of the mesh.
    pub trust_domain: String,
    /// Seconds since the Unix epoch.
    pub at: u64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    resource: Arc<str>,
    namespace: Arc<str>,
    name: Arc<str>,
    object: Value,
}

#[derive(Serialize, Deserialize)]
struct Footer {
    sha256: String,
}

/// What a file holds.
#[derive(Clone, Debug)]
pub struct Backup {
    /// What it says of itself.
    pub header: Header,
    objects: Vec<(Key, Bytes)>,
}

/// Why a file is no backup, or a store was not restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Cut, changed, or something else.
    #[error("this is no whole backup: {0}")]
    Damaged(String),
    /// Of a newer version of Weft.
    #[error(
        "this backup has form {0}, and this version of Weft knows {VERSION}: restore it with the version that made it"
    )]
    Newer(u32),
    /// There are objects already.
    #[error("the store has {0} objects already")]
    NotEmpty(usize),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a restore did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Objects written.
    pub written: usize,
    /// Objects that were as they are in the backup.
    pub kept: usize,
    /// Objects removed, because the backup has none of their name.
    pub removed: usize,
}

/// Everything in a store now, as a file's text.
///
/// # Errors
/// When the store fails, or holds what is no JSON.
pub async fn take(store: &dyn Store, trust_domain: &str, at: u64) -> Result<String, Error> {
    let all = store.everything().await?;
    let records: Vec<&Arc<Record>> = all.items.iter().filter(|r| *r.key.resource != *token::RESOURCE).collect();
    let header = Header {
        kind: KIND.to_owned(),
        version: VERSION,
        revision: all.revision,
        objects: records.len(),
        trust_domain: trust_domain.to_owned(),
        at,
    };
    let mut text = line(&header)?;
    for record in records {
        let Key { resource, namespace, name } = record.key.clone();
        let object = serde_json::from_slice(&record.value)
            .map_err(|error| StoreError::Failed(format!("{} is no JSON: {error}", record.key)))?;
        text.push_str(&line(&Line { resource, namespace, name, object })?);
    }
    let footer = Footer { sha256: sha256(text.as_bytes()) };
    text.push_str(&line(&footer)?);
    Ok(text)
}

fn line(value: &impl Serialize) -> Result<String, StoreError> {
    let text = serde_json::to_string(value).map_err(|e| StoreError::Failed(e.to_string()))?;
    Ok(text + "\n")
}

/// SHA-256, hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    token::hex(digest(&SHA256, bytes).as_ref())
}

/// Reads a file's text and checks that it is whole.
///
/// # Errors
/// When it is not, or of a newer form.
pub fn read(text: &str) -> Result<Backup, Error> {
    let damaged = |why: &str| Error::Damaged(why.to_owned());
    let first = text.lines().next().unwrap_or_default();
    let value: Value = serde_json::from_str(first).map_err(|_| damaged("the first line is no JSON"))?;
    if value["kind"] != KIND {
        return Err(damaged("the first line does not say that it is one"));
    }
    match value["version"].as_u64().and_then(|v| u32::try_from(v).ok()) {
        Some(VERSION) => {}
        Some(newer) if newer > VERSION => return Err(Error::Newer(newer)),
        _ => return Err(damaged("it has no version")),
    }
    let header: Header = serde_json::from_value(value).map_err(|e| Error::Damaged(format!("first line: {e}")))?;
    let body = text.strip_suffix('\n').ok_or_else(|| damaged("it is cut"))?;
    let (objects, last) = body.rsplit_once('\n').ok_or_else(|| damaged("it is cut"))?;
    let hashed = objects.len() + 1;
    let footer: Footer = serde_json::from_str(last).map_err(|_| damaged("the last line is no checksum: it is cut"))?;
    if sha256(text.as_bytes().get(..hashed).unwrap_or_default()) != footer.sha256 {
        return Err(damaged("it is not what its checksum says: it was changed"));
    }
    let mut read = Vec::new();
    for (number, text) in objects.lines().enumerate().skip(1) {
        let line: Line = serde_json::from_str(text).map_err(|e| Error::Damaged(format!("line {}: {e}", number + 1)))?;
        read.push((Key::new(line.resource, line.namespace, line.name), Bytes::from(line.object.to_string())));
    }
    if read.len() != header.objects {
        return Err(damaged("it has another number of objects than it says"));
    }
    Ok(Backup { header, objects: read })
}

/// Makes a store what the backup is. Where nothing but what every control plane writes at its first start is there, or `replace` says so:
/// then objects that the backup does not have are removed. What is known of certificates that are out is never removed or set back.
///
/// A store that does not take everything in one transaction gets it in several: after a failure, restore again with `replace`.
///
/// # Errors
/// When there are objects, and `replace` does not say so; or the store fails.
pub async fn restore(store: &dyn Store, backup: &Backup, replace: bool) -> Result<Restored, Error> {
    let there = store.everything().await?;
    let foreign = there.items.iter().filter(|r| !is_of_every_start(&r.key)).count();
    if foreign > 0 && !replace {
        return Err(Error::NotEmpty(foreign));
    }
    let mut found: HashMap<&Key, &Arc<Record>> = there.items.iter().map(|r| (&r.key, r)).collect();
    let (mut writes, mut done) = (Vec::new(), Restored::default());
    for (key, value) in &backup.objects {
        let expect = match found.remove(key) {
            Some(record) if is_internal(key) || same(&record.value, value) => {
                done.kept += 1;
                continue;
            }
            Some(record) => Expect::Revision(record.revision),
            None => Expect::Absent,
        };
        done.written += 1;
        writes.push(Write { key: key.clone(), expect, value: Some(value.clone()) });
    }
    for (key, record) in found {
        if !is_internal(key) {
            done.removed += 1;
            writes.push(Write { key: key.clone(), expect: Expect::Revision(record.revision), value: None });
        }
    }
    // The same file makes the same writes.
    writes.sort_by(|a, b| a.key.cmp(&b.key));
    match store.transact(writes.clone()).await {
        Err(StoreError::Refused(_)) => {
            for part in parts(writes) {
                store.transact(part).await?;
            }
        }
        other => drop(other?),
    }
    Ok(done)
}

/// What any store takes at once.
fn parts(writes: Vec<Write>) -> Vec<Vec<Write>> {
    let mut parts: Vec<Vec<Write>> = Vec::new();
    let mut bytes = 0;
    for write in writes {
        let size = write.value.as_ref().map_or(0, Bytes::len);
        match parts.last_mut() {
            Some(part) if part.len() < WRITES && bytes + size <= BYTES => part.push(write),
            _ => {
                bytes = 0;
                parts.push(vec![write]);
            }
        }
        bytes += size;
    }
    parts
}

fn is_internal(key: &Key) -> bool {
    key.resource.starts_with(INTERNAL)
}

/// The namespace `default`, and certificates of the control plane's own.
fn is_of_every_start(key: &Key) -> bool {
    is_internal(key) || (&*key.resource == "/namespaces" && &*key.name == "default")
}

fn same(one: &[u8], other: &[u8]) -> bool {
    let read = |bytes| serde_json::from_slice::<Value>(bytes).ok();
    one == other || read(one).is_some_and(|value| Some(value) == read(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Embedded, Options};

    fn store(dir: &tempfile::TempDir) -> Embedded {
        Embedded::open(&dir.path().join("weft.redb"), Options::default()).unwrap()
    }

    fn object(resource: &str, name: &str, value: &str) -> Write {
        let value = Some(Bytes::from(format!(r#"{{"metadata":{{"name":"{name}"}},"spec":"{value}"}}"#)));
        Write { key: Key::new(resource, "shop", name), expect: Expect::Absent, value }
    }

    async fn written(store: &Embedded) -> String {
        let writes = vec![
            object("/namespaces", "default", "1"),
            object("/services", "cart", "1"),
            object("/services", "catalog", "zwei \u{1f6d2}\\n"),
            object("internal.weft.mesh/certificates", "0a", "1"),
            object(token::RESOURCE, "t1", "secret"),
        ];
        store.transact(writes).await.unwrap();
        take(store, "weft.local", 7).await.unwrap()
    }

    async fn names(store: &Embedded) -> Vec<String> {
        let all = store.everything().await.unwrap();
        all.items.iter().map(|r| format!("{} {}", r.key, String::from_utf8_lossy(&r.value))).collect()
    }

    #[tokio::test]
    async fn a_backup_makes_an_empty_store_what_the_other_was_without_its_tokens() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = store(&dir);
        let text = written(&source).await;
        assert!(!text.contains("secret") && text.lines().count() == 6);
        let backup = read(&text).unwrap();
        assert_eq!((backup.header.objects, backup.header.revision, backup.header.at), (4, 5, 7));
        let empty = store(&other);
        let done = restore(&empty, &backup, false).await.unwrap();
        assert_eq!(done, Restored { written: 4, kept: 0, removed: 0 });
        let expected: Vec<String> = names(&source).await.into_iter().filter(|n| !n.contains("jointokens")).collect();
        assert_eq!(names(&empty).await, expected);
        let again = take(&empty, "weft.local", 7).await.unwrap();
        let objects = |text: &str| text.lines().skip(1).take(4).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(objects(&again), objects(&text));
    }

    #[tokio::test]
    async fn a_store_with_objects_is_replaced_only_where_that_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        let backup = read(&written(&store).await).unwrap();
        let cart = store.get(&Key::new("/services", "shop", "cart")).await.unwrap().unwrap();
        let certificate = Key::new("internal.weft.mesh/certificates", "shop", "0a");
        let known = store.get(&certificate).await.unwrap().unwrap();
        let changed = |record: &Record| Write {
            key: record.key.clone(),
            expect: Expect::Revision(record.revision),
            value: Some(Bytes::from_static(b"{\"changed\":true}")),
        };
        let later = object("internal.weft.mesh/certificates", "0b", "later");
        store.transact(vec![changed(&cart), changed(&known), object("/services", "new", "1"), later]).await.unwrap();
        assert!(matches!(restore(&store, &backup, false).await, Err(Error::NotEmpty(3))));
        let done = restore(&store, &backup, true).await.unwrap();
        assert_eq!(done, Restored { written: 1, kept: 3, removed: 1 });
        let cart = store.get(&cart.key).await.unwrap().unwrap();
        assert!(cart.value.starts_with(b"{\"metadata\""));
        assert!(store.get(&Key::new("/services", "shop", "new")).await.unwrap().is_none());
        // A certificate that is out stays known, and one that was revoked since stays revoked; tokens stay what they are.
        assert_eq!(store.get(&certificate).await.unwrap().unwrap().value, "{\"changed\":true}");
        let all = names(&store).await;
        assert!(all.iter().any(|n| n.contains("0b")) && all.iter().any(|n| n.contains("secret")), "{all:?}");
    }

    #[tokio::test]
    async fn a_file_that_was_cut_or_changed_anywhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let text = written(&store(&dir)).await;
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            assert!(matches!(read(&text[..end]), Err(Error::Damaged(_))), "cut at {end}");
        }
        for at in (0..text.len()).filter(|at| text.is_char_boundary(*at) && text.is_char_boundary(at + 1)) {
            let other = if &text[at..=at] == "7" { "8" } else { "7" };
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(read(&changed).is_err(), "changed at {at}: {changed}");
        }
        let first = text.find('\n').unwrap() + 1;
        let newer = text.replacen("\"version\":1", "\"version\":2", 1);
        assert!(matches!(read(&newer), Err(Error::Newer(2))) && first > 0);
    }

    #[test]
    fn parts_are_as_small_as_etcd_wants_them() {
        let write = |i: usize, size: usize| Write {
            key: Key::new("/services", "shop", i.to_string()),
            expect: Expect::Absent,
            value: Some(vec![b'x'; size].into()),
        };
        let many = parts((0..250).map(|i| write(i, 10)).collect());
        assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
        let large = parts((0..5).map(|i| write(i, 400_000)).collect());
        assert_eq!(large.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
        assert!(parts(Vec::new()).is_empty());
    }
}
