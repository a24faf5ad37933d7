//! Last-known-good on disk: what discovery held, so that a sidecar that starts while its control plane is away serves at once.
//!
//! The file is bound to the identity it was received under, carries a checksum, is written beside its place and renamed, and is read
//! back through the same validation as anything else. Losing it costs a fetch, never correctness.

use super::Alias;
use super::state::{Delta, TYPES};
use prost::Message;
use std::io;
use std::path::{Path, PathBuf};
use weft_proto::core::Node;
use weft_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_proto::version_of;

/// First bytes of the file; the digit is its version.
const MAGIC: &[u8] = b"weft-last-known-good 1\n";
/// Nothing larger is read: a sidecar knows what its workload calls, not a mesh.
const MOST: u64 = 256 << 20;

/// The file of one sidecar.
#[derive(Clone, Debug)]
pub struct Keep {
    path: PathBuf,
    identity: String,
}

impl Keep {
    /// The file in a state directory, for what is received as `identity` (workload uid and SPIFFE id).
    #[must_use]
    pub fn new(state_dir: &Path, identity: String) -> Self {
        Self { path: state_dir.join("last-known-good"), identity }
    }

    /// Writes everything, mode 0600, atomically.
    ///
    /// # Errors
    /// The file system's.
    pub fn store(&self, deltas: &[Delta], aliases: &[Alias]) -> io::Result<()> {
        let head = DeltaDiscoveryRequest {
            node: Some(Node { id: self.identity.clone(), ..Node::default() }),
            resource_names_subscribe: aliases.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let mut body = head.encode_length_delimited_to_vec();
        for delta in deltas {
            let response = DeltaDiscoveryResponse {
                type_url: delta.type_url.clone(),
                resources: delta.resources.clone(),
                ..Default::default()
            };
            body.extend(response.encode_length_delimited_to_vec());
        }
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(version_of(&body).as_bytes());
        file.push(b'\n');
        file.extend(body);
        weft_certs::files::write_private(&self.path, &file).map_err(io::Error::other)
    }

    /// Reads it back; `None` when there is none, or none of this identity.
    ///
    /// # Errors
    /// When it cannot be read or is damaged; the text says so.
    pub fn load(&self) -> io::Result<Option<(Vec<Delta>, Vec<Alias>)>> {
        let file = match std::fs::metadata(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
            Ok(meta) if meta.len() > MOST => return Err(damaged("it is too large")),
            Ok(_) => std::fs::read(&self.path)?,
        };
        let rest = file.strip_prefix(MAGIC).ok_or_else(|| damaged("it has another format"))?;
        let (sum, body) = rest.split_at_checked(33).ok_or_else(|| damaged("it is cut short"))?;
        if sum.strip_suffix(b"\n") != Some(version_of(body).as_bytes()) {
            return Err(damaged("its checksum is wrong"));
        }
        let mut input = body;
        let bad = |e: prost::DecodeError| damaged(&e.to_string());
        let head = DeltaDiscoveryRequest::decode_length_delimited(&mut input).map_err(bad)?;
        if head.node.is_none_or(|node| node.id != self.identity) {
            tracing::info!(path = %self.path.display(), "last-known-good belongs to another identity and is ignored");
            return Ok(None);
        }
        let mut deltas = Vec::new();
        while !input.is_empty() && deltas.len() < TYPES.len() {
            let response = DeltaDiscoveryResponse::decode_length_delimited(&mut input).map_err(bad)?;
            deltas.push(Delta {
                type_url: response.type_url,
                resources: response.resources,
                removed: response.removed_resources,
            });
        }
        let aliases = head.resource_names_subscribe.iter().filter_map(|a| Alias::parse(a)).collect();
        Ok(Some((deltas, aliases)))
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("last-known-good is damaged and ignored: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::{Resource as _, discovery::Resource, type_url, v1};

    fn delta() -> Delta {
        let service = v1::Service { name: "shop/catalog".into(), ..Default::default() };
        Delta {
            type_url: type_url::SERVICE.into(),
            resources: vec![Resource {
                name: "shop/catalog".into(),
                version: "1".into(),
                aliases: vec!["host:catalog".into()],
                resource: Some(service.to_any()),
                ttl: None,
            }],
            removed: Vec::new(),
        }
    }

    #[test]
    fn what_is_stored_is_loaded_and_another_identity_gets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::new(dir.path(), "shop/cart-1".into());
        assert!(keep.load().unwrap().is_none());
        keep.store(&[delta()], &[Alias::Host("catalog".into())]).unwrap();
        let (deltas, aliases) = keep.load().unwrap().unwrap();
        assert_eq!(deltas[0].resources, delta().resources);
        assert_eq!(aliases, [Alias::Host("catalog".into())]);
        assert!(Keep::new(dir.path(), "shop/orders-1".into()).load().unwrap().is_none());
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&keep.path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_refused_and_not_half_read() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::new(dir.path(), "shop/cart-1".into());
        keep.store(&[delta()], &[]).unwrap();
        let mut bytes = std::fs::read(&keep.path).unwrap();
        for cut in [0, 5, MAGIC.len() + 10, bytes.len() - 1] {
            std::fs::write(&keep.path, &bytes[..cut]).unwrap();
            assert!(keep.load().is_err(), "{cut}");
        }
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&keep.path, &bytes).unwrap();
        assert!(keep.load().unwrap_err().to_string().contains("checksum"));
    }
}
