//! Which certificates are out: one record for each, from its issue to its expiry, so that those of an identity can be revoked. And which
//! identities are barred from renewing what they have. Kept under resources that the API does not serve; who may revoke is decided above.

use crate::store::{Expect, Key, Record, Scope, Store, StoreError, Write};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use weft_certs::Fingerprint;
use weft_certs::ca::Issued;

use super::token::{hex, unix};

/// Where certificates are kept: not a resource of the API.
const CERTIFICATES: &str = "internal.weft.mesh/certificates";
/// Where barred identities are kept.
const BARRED: &str = "internal.weft.mesh/barredidentities";

/// A certificate that is out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// SPIFFE id.
    pub identity: String,
    /// Fingerprint of the key that signed it.
    pub issuer: Fingerprint,
    /// Seconds since the Unix epoch.
    pub not_before: u64,
    /// Seconds since the Unix epoch.
    pub not_after: u64,
    /// Since when and why it is worth nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revoked>,
}

/// Since when and why a certificate is worth nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Seconds since the Unix epoch.
    pub at: u64,
    /// As RFC 5280 writes it.
    pub reason: String,
}

/// An identity that must not renew what it was given before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barred {
    /// SPIFFE id.
    pub identity: String,
    /// Seconds since the Unix epoch: what was issued before is barred.
    pub at: u64,
}

/// A record as it was read, to be written again.
pub(super) type Read<T> = (Arc<Record>, T);

/// The certificates that are out.
#[derive(Clone)]
pub struct Ledger(Arc<dyn Store>);

impl Ledger {
    /// Kept in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    /// Writes a certificate down, before anybody gets it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn record(&self, issued: &Issued) -> Result<(), StoreError> {
        let entry = Entry {
            identity: issued.id.to_string(),
            issuer: issued.issuer,
            not_before: unix(issued.not_before),
            not_after: unix(issued.not_after),
            revoked: None,
        };
        let key = Key::new(CERTIFICATES, "", hex(&issued.serial));
        self.0.transact(vec![Write { key, expect: Expect::Absent, value: Some(encode(&entry)?) }]).await.map(drop)
    }

    /// Every certificate, by serial number.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn certificates(&self) -> Result<Vec<Read<Entry>>, StoreError> {
        self.read(CERTIFICATES).await
    }

    /// Every barred identity.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn barred(&self) -> Result<Vec<Read<Barred>>, StoreError> {
        self.read(BARRED).await
    }

    async fn read<T: for<'de> Deserialize<'de>>(&self, resource: &str) -> Result<Vec<Read<T>>, StoreError> {
        let page = self.0.list(&Scope { resource: resource.into(), namespace: None }, None, 0, None).await?;
        let read = |record: Arc<Record>| serde_json::from_slice(&record.value).ok().map(|value| (record, value));
        Ok(page.items.into_iter().filter_map(read).collect())
    }

    /// All of these or none.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        self.0.transact(writes).await.map(drop)
    }
}

/// A record with another value; `None`: it goes.
pub(super) fn change<T: Serialize>(record: &Record, value: Option<&T>) -> Result<Write, StoreError> {
    let value = value.map(encode).transpose()?;
    Ok(Write { key: record.key.clone(), expect: Expect::Revision(record.revision), value })
}

/// A new record of a barred identity.
pub(super) fn bar(barred: &Barred) -> Result<Write, StoreError> {
    // Of the id's text only what any store takes as a name.
    let key = Key::new(BARRED, "", Fingerprint::of(barred.identity.as_bytes()).to_string());
    Ok(Write { key, expect: Expect::Absent, value: Some(encode(barred)?) })
}

fn encode<T: Serialize>(value: &T) -> Result<bytes::Bytes, StoreError> {
    serde_json::to_vec(value).map(Into::into).map_err(|e| StoreError::Failed(e.to_string()))
}
