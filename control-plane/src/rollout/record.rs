//! What is kept of each rollout: what was in force before, and how far the change has got. One record for an object, beside the objects, under
//! a resource that the API does not serve.

use super::kind_named;
use super::object::Id;
use crate::store::{Expect, Key, Record as Stored, Write};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where records are kept: not a resource of the API.
pub const RESOURCE: &str = "internal.weft.mesh/rollouts";

/// How far a change has got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Progress {
    /// In force nowhere yet.
    Waiting,
    /// In force for a sample.
    Trying {
        /// Workload uids.
        sample: Vec<String>,
        /// How many sidecars it is about.
        of: usize,
        /// Seconds since the Unix epoch.
        began: u64,
    },
    /// In force nowhere.
    RolledBack {
        /// Why.
        message: String,
    },
    /// In force for all.
    Promoted {
        /// What was seen.
        message: String,
    },
}

/// What is kept of an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// `metadata.uid` of the object: another one of the same name has another record.
    pub uid: String,
    /// `metadata.generation` of the edition that is rolled out.
    pub generation: i64,
    /// How far it has got.
    #[serde(flatten)]
    pub progress: Progress,
    /// What is in force until all get the change; `None`: nothing, it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<Value>,
}

/// Where the record of an object is.
#[must_use]
pub fn key(id: &Id) -> Key {
    let (namespace, name) = id.key.split_once('/').unwrap_or(("", &id.key));
    Key::new(RESOURCE, namespace, format!("{}.{name}", id.kind.name()))
}

/// Which object a record is of.
#[must_use]
pub fn id(key: &Key) -> Option<Id> {
    let (kind, name) = key.name.split_once('.')?;
    Some(Id { kind: kind_named(kind)?, key: format!("{}/{name}", key.namespace) })
}

/// The record that is stored; `None` where it cannot be read.
#[must_use]
pub fn read(stored: &Stored) -> Option<(Id, Record)> {
    Some((id(&stored.key)?, serde_json::from_slice(&stored.value).ok()?))
}

/// Puts a record in the place of one that had this revision, or of none; `None`: takes it away.
///
/// # Errors
/// When it cannot be written down.
pub fn write(id: &Id, revision: Option<u64>, record: Option<&Record>) -> Result<Write, serde_json::Error> {
    let value = record.map(serde_json::to_vec).transpose()?.map(Into::into);
    Ok(Write { key: key(id), expect: revision.map_or(Expect::Absent, Expect::Revision), value })
}
