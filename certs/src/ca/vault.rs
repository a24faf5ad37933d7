//! How keys of an authority are kept: files that their owner alone may read, and, where there is a passphrase, PKCS#8 encrypted with it
//! (PBES2: scrypt and AES-256-CBC, RFC 8018 and RFC 7914), which `openssl pkey` reads as well. Which keys there are is their authorities'
//! business.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use pkcs8::pkcs5::pbes2;
use pkcs8::pkcs5::scrypt;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use rustls_pki_types::PrivateKeyDer;

use crate::error::Error;
use crate::key::KeyPair;
use crate::{files, pem};

const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
/// 16 MiB and five times over: what OWASP recommends of the settings that OpenSSL reads without being told to.
const SCRYPT: (u8, u32, u32) = (14, 8, 5);
/// A passphrase is a line, not a document.
const MAX_PASSPHRASE: usize = 1024;

/// With what the keys of an authority are encrypted. Prints nothing of it.
#[derive(Clone, Default)]
pub struct Vault(Option<Arc<str>>);

impl Vault {
    /// Keys are encrypted with a passphrase.
    pub fn locked(passphrase: &str) -> Result<Self, Error> {
        let bad = |reason: &str| Err(Error::configuration("passphrase", reason));
        match passphrase.len() {
            0 => bad("is empty"),
            1..=MAX_PASSPHRASE => Ok(Self(Some(passphrase.into()))),
            _ => bad("is longer than 1024 bytes"),
        }
    }

    /// The same with the first line of a file that its owner alone may read.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let text = files::read_private(path)?;
        let line = text.lines().next().unwrap_or_default();
        Self::locked(line)
            .map_err(|e| Error::configuration(path.display().to_string(), format!("holds no passphrase: {e}")))
    }

    /// The text of a file that holds a key, with the key in the clear. `None`: there is no such file. A key that is in the clear although
    /// there is a passphrase is encrypted where it is.
    pub(super) fn read(&self, path: &Path) -> Result<Option<String>, Error> {
        let Some(text) = files::read_private_if_exists(path)? else { return Ok(None) };
        let open = self.open(&path.display().to_string(), &text)?;
        if matches!(open, Cow::Borrowed(_)) && self.0.is_some() {
            let key = KeyPair::from_pem(&path.display().to_string(), &text)?;
            let rest = certificates(&path.display().to_string(), &text)?;
            files::write_private(path, (self.seal(&key)? + &rest).as_bytes())?;
        }
        Ok(Some(open.into_owned()))
    }

    /// A text with its key in the clear; `what` names it in errors.
    pub fn open<'t>(&self, what: &str, text: &'t str) -> Result<Cow<'t, str>, Error> {
        let bad = |reason: &str| Error::configuration(what, reason);
        let Some(sealed) = encrypted(text) else { return Ok(Cow::Borrowed(text)) };
        let Some(passphrase) = &self.0 else {
            return Err(bad("holds an encrypted private key: give its passphrase with --ca-key-passphrase-file"));
        };
        let sealed = sealed.map_err(|()| bad("holds an encrypted private key that is not valid PEM"))?;
        let info = EncryptedPrivateKeyInfoRef::try_from(&*sealed)
            .map_err(|_| bad("holds an encrypted private key that is not PKCS#8"))?;
        // A wrong key gives nonsense, which is seldom padded rightly, and never a key.
        let key = info.decrypt(passphrase.as_bytes()).ok();
        let key = key.filter(|key| PrivateKeyInfoRef::try_from(key.as_bytes()).is_ok());
        let key = key.ok_or_else(|| {
            bad("cannot be decrypted: the passphrase is wrong, or it is encrypted in a way that is not known here")
        })?;
        let rest = certificates(what, text)?;
        Ok(Cow::Owned(pem::encode("PRIVATE KEY", key.as_bytes()) + &rest))
    }

    /// A key as it is kept, in PEM.
    pub(super) fn seal(&self, key: &KeyPair) -> Result<String, Error> {
        let Some(passphrase) = &self.0 else { return Ok(key.to_pem()) };
        let PrivateKeyDer::Pkcs8(der) = key.private_der() else {
            return Err(Error::configuration(
                "private key",
                "is not PKCS#8, so it cannot be encrypted: convert it with `openssl pkcs8 -topk8 -nocrypt`",
            ));
        };
        let failed = |e: &dyn fmt::Display| Error::Crypto(format!("cannot encrypt a key: {e}"));
        let (salt, iv) = (random::<16>()?, random::<16>()?);
        let (log_n, r, p) = SCRYPT;
        let params = scrypt::Params::new(log_n, r, p).map_err(|e| failed(&e))?;
        let params = pbes2::Parameters::generate_scrypt_aes256cbc(params, &salt, iv).map_err(|e| failed(&e))?;
        let info = PrivateKeyInfoRef::try_from(der.secret_pkcs8_der()).map_err(|e| failed(&e))?;
        let sealed = info.encrypt_with_params(params, passphrase.as_bytes()).map_err(|e| failed(&e))?;
        Ok(pem::encode(ENCRYPTED, sealed.as_bytes()))
    }
}

/// The certificates beside a key; there need not be any.
fn certificates(what: &str, text: &str) -> Result<String, Error> {
    match text.contains("-----BEGIN CERTIFICATE-----") {
        true => Ok(pem::encode_certificates(&pem::certificates(what, text)?)),
        false => Ok(String::new()),
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Vault(locked)" } else { "Vault(open)" })
    }
}

/// The encrypted key of a text, DER.
fn encrypted(text: &str) -> Option<Result<Vec<u8>, ()>> {
    use base64::Engine as _;
    let (begin, end) = (format!("-----BEGIN {ENCRYPTED}-----"), format!("-----END {ENCRYPTED}-----"));
    let (_, rest) = text.split_once(&begin)?;
    let Some((body, _)) = rest.split_once(&end) else { return Some(Err(())) };
    let digits: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    Some(base64::engine::general_purpose::STANDARD.decode(digits).map_err(|_| ()))
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Crypto("no randomness".into()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ApiCa, MeshCa};
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    fn open(directory: &Path, vault: &Vault) -> Result<MeshCa, Error> {
        MeshCa::open_locked(directory, vault, &"weft.test".parse().unwrap(), SystemTime::now())
    }

    fn clear(directory: &Path) -> Vec<String> {
        let files = std::fs::read_dir(directory).unwrap().flatten().map(|file| file.path());
        let is_clear = |path: &std::path::PathBuf| std::fs::read_to_string(path).unwrap().contains("BEGIN PRIVATE KEY");
        files.filter(is_clear).map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn keys_that_were_in_the_clear_are_encrypted_and_stay_so_through_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), &Vault::default()).unwrap().bundle();
        assert_eq!(clear(dir.path()).len(), 2);
        let vault = Vault::locked("correct horse").unwrap();
        let ca = open(dir.path(), &vault).unwrap();
        assert_eq!((ca.bundle(), clear(dir.path())), (first, Vec::new()));
        let rotation = ca.rotate(SystemTime::now()).unwrap();
        ca.advance(rotation, SystemTime::now()).unwrap();
        assert_eq!(clear(dir.path()), Vec::<String>::new(), "new root, new intermediate and the one that was replaced");
        let again = open(dir.path(), &vault).unwrap();
        assert_eq!((again.bundle(), again.rotation()), (ca.bundle(), ca.rotation()));
        let api = dir.path().join("api");
        ApiCa::open_locked(&api, &vault, SystemTime::now()).unwrap();
        assert_eq!(clear(&api), Vec::<String>::new());
    }

    #[test]
    fn a_wrong_passphrase_and_none_are_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), &Vault::locked("correct horse").unwrap()).unwrap();
        let wrong = open(dir.path(), &Vault::locked("battery staple").unwrap()).unwrap_err().to_string();
        assert!(wrong.contains("root.pem cannot be decrypted: the passphrase is wrong"), "{wrong}");
        let none = open(dir.path(), &Vault::default()).unwrap_err().to_string();
        assert!(none.contains("root.pem holds an encrypted private key: give its passphrase"), "{none}");
        assert!(Vault::locked("").is_err());
        assert!(!format!("{:?}", Vault::locked("correct horse").unwrap()).contains("horse"));
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_way_to_mend_it() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), &Vault::default()).unwrap();
        for mode in [0o640, 0o604, 0o660] {
            std::fs::set_permissions(dir.path().join("issuing.pem"), std::fs::Permissions::from_mode(mode)).unwrap();
            let error = open(dir.path(), &Vault::default()).unwrap_err().to_string();
            assert!(error.contains("issuing.pem") && error.contains(&format!("{mode:o}")), "{error}");
            assert!(error.contains("chmod 600 "), "{error}");
        }
        std::fs::set_permissions(dir.path().join("issuing.pem"), std::fs::Permissions::from_mode(0o400)).unwrap();
        open(dir.path(), &Vault::default()).unwrap();
        let passphrase = dir.path().join("passphrase");
        std::fs::write(&passphrase, "correct horse\n").unwrap();
        std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Vault::from_file(&passphrase).unwrap_err().to_string().contains("chmod 600 "));
        std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).unwrap();
        Vault::from_file(&passphrase).unwrap();
    }
}
