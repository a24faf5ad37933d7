//! The keys and certificates of the control plane's authorities, in the Secret `weft-ca` of its namespace: files of the data directory, which in
//! a pod does not last, under names such as `identity.root.pem`. Whoever leads reads them first, and writes what became of them.

use super::{Error, within};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use weft_certs::files;

/// The name of the Secret.
pub const SECRET: &str = "weft-ca";
/// Directories of the data directory whose files are kept.
const DIRECTORIES: [&str; 2] = ["identity", "api"];
/// Larger files are none of ours.
const MOST: u64 = 256 << 10;

/// The Secret and the directory.
#[derive(Clone)]
pub struct Papers {
    secrets: Api<Secret>,
    directory: PathBuf,
}

impl Papers {
    /// Kept in a namespace, for the control plane whose data directory this is.
    #[must_use]
    pub fn new(client: &kube::Client, namespace: &str, directory: &Path) -> Self {
        Self { secrets: Api::namespaced(client.clone(), namespace), directory: directory.to_owned() }
    }

    /// Puts the files of the Secret into the directory; false: there is no Secret yet.
    ///
    /// # Errors
    /// When the Secret cannot be read, or a file not written.
    pub async fn load(&self) -> Result<bool, Error> {
        let Some(secret) = within(self.secrets.get_opt(SECRET)).await? else { return Ok(false) };
        let data = secret.data.unwrap_or_default();
        for directory in DIRECTORIES {
            let at = self.directory.join(directory);
            files::private_dir(&at).map_err(|error| Error::File(error.to_string()))?;
            let prefix = format!("{directory}.");
            let own = data.iter().filter_map(|(name, bytes)| Some((name.strip_prefix(&prefix)?, bytes)));
            for (name, bytes) in own.filter(|(name, _)| is_name(name)) {
                files::write_private(&at.join(name), &bytes.0).map_err(|error| Error::File(error.to_string()))?;
            }
        }
        // What the last one who led has done away with is not to come back.
        let stale = self.read().map_err(|error| Error::File(error.to_string()))?.into_keys();
        for name in stale.filter(|name| !data.is_empty() && !data.contains_key(name)) {
            if let Some((directory, name)) = name.split_once('.') {
                let gone = std::fs::remove_file(self.directory.join(directory).join(name));
                gone.map_err(|error| Error::File(error.to_string()))?;
            }
        }
        Ok(!data.is_empty())
    }

    /// Puts the files of the directory into the Secret, where they differ.
    ///
    /// # Errors
    /// When a file cannot be read, or the Secret not written: then somebody else may have done so.
    pub async fn save(&self) -> Result<(), Error> {
        let data = self.read().map_err(|error| Error::File(error.to_string()))?;
        let there = within(self.secrets.get_opt(SECRET)).await?;
        if there.as_ref().is_some_and(|secret| secret.data.as_ref() == Some(&data)) {
            return Ok(());
        }
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                resource_version: there.as_ref().and_then(|secret| secret.metadata.resource_version.clone()),
                labels: there.as_ref().and_then(|secret| secret.metadata.labels.clone()),
                annotations: there.as_ref().and_then(|secret| secret.metadata.annotations.clone()),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..Secret::default()
        };
        let params = PostParams::default();
        match there {
            None => within(self.secrets.create(&params, &secret)).await?,
            Some(_) => within(self.secrets.replace(SECRET, &params, &secret)).await?,
        };
        tracing::info!(secret = SECRET, "the keys of the mesh's authorities are kept");
        Ok(())
    }

    fn read(&self) -> std::io::Result<BTreeMap<String, ByteString>> {
        let mut data = BTreeMap::new();
        for directory in DIRECTORIES {
            let entries = match std::fs::read_dir(self.directory.join(directory)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let (name, about) = (entry.file_name(), entry.metadata()?);
                let Some(name) = name.to_str().filter(|name| is_name(name)) else { continue };
                if about.is_file() && about.len() <= MOST {
                    data.insert(format!("{directory}.{name}"), ByteString(std::fs::read(entry.path())?));
                }
            }
        }
        Ok(data)
    }
}

/// Whether it is the name of a file that is kept, rather than of one that is being written or climbs.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && !name.starts_with('.') && name.len() <= 128 && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_climb_or_hide_are_none() {
        for good in ["root.pem", "issuer-2.key.pem", "a_b"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".tmp-1", "..", "a/b", "a b", "é"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
