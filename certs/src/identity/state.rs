//! An identity on disk. As state of a sidecar: one file, replaced atomically, so that key, chain and bundles always belong together;
//! bound to its SPIFFE id, so that a directory handed to another workload is noticed. As plain files for those who bring their own:
//! `cert.pem`, `key.pem`, `roots.pem`, and `crls.pem` where something is revoked.

use std::path::Path;

use super::{Identity, Svid};
use crate::bundle::{TrustBundles, split_sections};
use crate::error::Error;
use crate::spiffe::SpiffeId;
use crate::{files, pem};

/// Name of the state file in its directory.
pub const STATE_FILE: &str = "identity.pem";
const ID_MARK: &str = "# spiffe-id: ";
/// Name of the file of revocation lists, which need not be there.
pub const LISTS_FILE: &str = "crls.pem";

impl Identity {
    /// Saves all of it (0600, atomically) in a directory, which is made (0700) when it is missing.
    pub fn save(&self, directory: &Path) -> Result<(), Error> {
        files::owner_dir(directory)?;
        let text = format!(
            "{ID_MARK}{}\n{}{}{}",
            self.svid.id(),
            self.svid.key_pem(),
            self.svid.chain_pem(),
            self.bundles.to_pem()
        );
        files::write_private(&directory.join(STATE_FILE), text.as_bytes())
    }

    /// Loads what [`Self::save`] wrote; `None` when there is nothing. Refuses the state of another id. An expired certificate is
    /// returned as well: its holder decides what it is still good for.
    pub fn load(directory: &Path, expected: &SpiffeId) -> Result<Option<Self>, Error> {
        match Self::load_any(directory)? {
            Some(identity) if identity.svid.id() != expected => Err(Error::configuration(
                directory.join(STATE_FILE).display().to_string(),
                format!("belongs to {}, but this workload is {expected}", identity.svid.id()),
            )),
            other => Ok(other),
        }
    }

    /// The same, whoever it belongs to.
    pub fn load_any(directory: &Path) -> Result<Option<Self>, Error> {
        let path = directory.join(STATE_FILE);
        let Some(text) = files::read_if_exists(&path)? else { return Ok(None) };
        let bad = |e: Error| Error::configuration(path.display().to_string(), format!("cannot be used: {e}"));
        parse(&text).map(Some).map_err(bad)
    }

    /// Reads `cert.pem` (leaf first), `key.pem` and `roots.pem` of a directory. Roots without a domain mark are those of the
    /// certificate's own trust domain. `crls.pem`, if there is one, holds revocation lists, and certificates of issuers that are neither
    /// roots nor in `cert.pem`.
    pub fn from_files(directory: &Path) -> Result<Self, Error> {
        let read = |name: &str| files::read(&directory.join(name));
        let bad = |e: Error| Error::configuration(directory.display().to_string(), format!("cannot be used: {e}"));
        let svid = Svid::from_pem(&read("cert.pem")?, &read("key.pem")?).map_err(bad)?;
        let mut bundles = TrustBundles::from_pem(&read("roots.pem")?, svid.id().trust_domain()).map_err(bad)?;
        if let Some(text) = files::read_if_exists(&directory.join(LISTS_FILE))? {
            let lists = pem::revocation_lists(LISTS_FILE, &text).map_err(bad)?;
            let others =
                if text.contains(pem::CERTIFICATE) { pem::certificates(LISTS_FILE, &text) } else { Ok(vec![]) };
            let candidates = [others.map_err(bad)?, svid.chain().to_vec()].concat();
            if let Some(error) = bundles.revoke(lists, &candidates).pop() {
                return Err(bad(error));
            }
        }
        Ok(Self::new(svid, bundles))
    }

    /// Writes what [`Self::from_files`] reads: the key 0600, and last the certificate, which a watcher waits for.
    pub fn write_files(&self, directory: &Path) -> Result<(), Error> {
        files::owner_dir(directory)?;
        files::write_public(&directory.join("roots.pem"), self.bundles.to_pem().as_bytes())?;
        let lists = self.bundles.revocations_to_pem();
        if !lists.is_empty() || directory.join(LISTS_FILE).exists() {
            files::write_public(&directory.join(LISTS_FILE), lists.as_bytes())?;
        }
        files::write_private(&directory.join("key.pem"), self.svid.key_pem().as_bytes())?;
        files::write_public(&directory.join("cert.pem"), self.svid.chain_pem().as_bytes())
    }
}

fn parse(text: &str) -> Result<Identity, Error> {
    let (own, _) = split_sections(text)?;
    let svid = Svid::from_pem(own, own)?;
    let bound = own.lines().find_map(|line| line.strip_prefix(ID_MARK)).unwrap_or_default();
    if bound != svid.id().as_str() {
        return Err(Error::configuration(
            "the file",
            format!("is bound to {bound:?}, but its certificate is for {}", svid.id()),
        ));
    }
    let bundles = match text.get(own.len()..) {
        Some(rest) if !rest.is_empty() => TrustBundles::from_pem(rest, svid.id().trust_domain())?,
        _ => TrustBundles::new(),
    };
    Ok(Identity::new(svid, bundles))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::MeshCa;
    use crate::spiffe::TrustDomain;
    use std::os::unix::fs::MetadataExt;
    use std::time::SystemTime;

    fn identity(account: &str) -> Identity {
        let domain: TrustDomain = "weft.test".parse().unwrap();
        let ca = MeshCa::ephemeral(&domain, SystemTime::now()).unwrap();
        let id = SpiffeId::workload(&domain, "shop", account).unwrap();
        let mut bundles = TrustBundles::from(ca.bundle());
        bundles.insert(MeshCa::ephemeral(&"peer.test".parse().unwrap(), SystemTime::now()).unwrap().bundle());
        Identity::new(ca.issue(&id, None, SystemTime::now()).unwrap(), bundles)
    }

    #[test]
    fn a_saved_identity_comes_back_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let saved = identity("cart");
        assert!(Identity::load(&state, saved.svid.id()).unwrap().is_none());
        saved.save(&state).unwrap();
        let back = Identity::load(&state, saved.svid.id()).unwrap().unwrap();
        assert_eq!(back.svid.chain(), saved.svid.chain());
        assert_eq!(back.svid.key_pem(), saved.svid.key_pem());
        assert_eq!(back.bundles, saved.bundles);
        assert_eq!(std::fs::metadata(state.join(STATE_FILE)).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_state_of_another_workload_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        identity("cart").save(dir.path()).unwrap();
        let other = identity("payments");
        let error = Identity::load(dir.path(), other.svid.id()).unwrap_err().to_string();
        assert!(
            error.ends_with("belongs to spiffe://weft.test/ns/shop/sa/cart, but this workload is spiffe://weft.test/ns/shop/sa/payments"),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let saved = identity("cart");
        saved.save(dir.path()).unwrap();
        let path = dir.path().join(STATE_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        for damaged in [&text[..text.len() / 3], "", &text.replace("sa/cart", "sa/other")] {
            std::fs::write(&path, damaged).unwrap();
            let error = Identity::load(dir.path(), saved.svid.id()).unwrap_err().to_string();
            assert!(error.contains(STATE_FILE), "{error}");
        }
    }

    #[test]
    fn plain_files_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let saved = identity("cart");
        saved.write_files(dir.path()).unwrap();
        let back = Identity::from_files(dir.path()).unwrap();
        assert_eq!(back.svid.chain(), saved.svid.chain());
        assert_eq!(back.bundles, saved.bundles);
        assert_eq!(std::fs::metadata(dir.path().join("key.pem")).unwrap().mode() & 0o777, 0o600);
        std::fs::remove_file(dir.path().join("roots.pem")).unwrap();
        assert!(Identity::from_files(dir.path()).unwrap_err().to_string().contains("roots.pem"));
    }
}
