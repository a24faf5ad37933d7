//! How records lie in Secrets: spread over sixteen by a hash of their key, each a JSON document with the revision of its last write.

use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use serde::{Deserialize, Serialize};

use super::super::{Key, Record, Result, StoreError};
use super::within;

const SHARDS: usize = 16;
const NAME: &str = "weft-state-";
const LABEL: (&str, &str) = ("weft.mesh/part", "state");
/// Selects the Secrets of the state.
pub(super) const SELECTOR: &str = "weft.mesh/part=state";
const ENTRY: &str = "state.json";
/// A Secret holds a mebibyte at most, as base64 is not counted.
const MOST: usize = 1000 << 10;

/// A Secret as it was last read or written.
#[derive(Debug)]
pub(super) struct Shard {
    resource_version: String,
    /// The store's revision when it was written.
    pub revision: u64,
}

#[derive(Serialize, Deserialize)]
struct Document {
    revision: u64,
    records: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    resource: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    namespace: String,
    name: String,
    revision: u64,
    value: String,
}

/// The Secret that a key's record is in.
pub(super) fn shard_of(key: &Key) -> usize {
    let text = key.to_string();
    let hash =
        text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    ((hash ^ (hash >> 32)) as usize) % SHARDS
}

/// Which Secret it is, and what is in it.
pub(super) type Found = (usize, Shard, Vec<Arc<Record>>);

/// What a Secret holds; `None`: it is none of ours.
pub(super) fn read(secret: &Secret) -> Result<Option<Found>> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let Some(at) = name.strip_prefix(NAME).and_then(|n| n.parse::<usize>().ok()).filter(|n| *n < SHARDS) else {
        return Ok(None);
    };
    let bytes = secret.data.as_ref().and_then(|data| data.get(ENTRY)).map_or(&[][..], |bytes| &bytes.0);
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|error| StoreError::Failed(format!("the Secret {name} cannot be read: {ENTRY}: {error}")))?;
    let records = document.records.into_iter().map(|entry| {
        let key = Key::new(entry.resource, entry.namespace, entry.name);
        Arc::new(Record { key, revision: entry.revision, value: Bytes::from(entry.value) })
    });
    let resource_version = secret.metadata.resource_version.clone().unwrap_or_default();
    Ok(Some((at, Shard { resource_version, revision: document.revision }, records.collect())))
}

/// Writes a Secret, unless somebody else has since it was read.
pub(super) async fn write(
    secrets: &Api<Secret>,
    at: usize,
    before: Option<&Shard>,
    revision: u64,
    records: &[Arc<Record>],
) -> Result<Shard> {
    let entry = |record: &Arc<Record>| -> Result<Entry> {
        let text = String::from_utf8(record.value.to_vec());
        Ok(Entry {
            resource: record.key.resource.to_string(),
            namespace: record.key.namespace.to_string(),
            name: record.key.name.to_string(),
            revision: record.revision,
            value: text.map_err(|_| StoreError::Refused(format!("{} is no text", record.key)))?,
        })
    };
    let document = Document { revision, records: records.iter().map(entry).collect::<Result<_>>()? };
    let text = serde_json::to_vec(&document).map_err(|error| StoreError::Failed(error.to_string()))?;
    if text.len() > MOST {
        let why =
            format!("the Secrets of the control plane's state are full: {} of {MOST} bytes in one of them", text.len());
        return Err(StoreError::Refused(why));
    }
    let name = format!("{NAME}{at}");
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some([(LABEL.0.to_owned(), LABEL.1.to_owned())].into()),
            resource_version: before.map(|shard| shard.resource_version.clone()),
            ..ObjectMeta::default()
        },
        data: Some([(ENTRY.to_owned(), ByteString(text))].into()),
        ..Secret::default()
    };
    let params = PostParams::default();
    let written = match before {
        None => within(secrets.create(&params, &secret)).await?,
        Some(_) => within(secrets.replace(&name, &params, &secret)).await?,
    };
    Ok(Shard { resource_version: written.metadata.resource_version.unwrap_or_default(), revision })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spread_over_all_secrets() {
        let mut counts = [0; SHARDS];
        for n in 0..4096 {
            counts[shard_of(&Key::new("internal.weft.mesh/certificates", "", format!("{n:032x}")))] += 1;
        }
        assert!(counts.iter().all(|count| (128..512).contains(count)), "{counts:?}");
    }
}
