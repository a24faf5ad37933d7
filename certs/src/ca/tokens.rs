//! The key that signs the tokens of service accounts: JSON Web Tokens by ES256 (RFC 7515, RFC 7518 §3.4). What a token says, and who may have
//! one, is the API's business; they are verified by [`crate::jwt`].

use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};

use super::Vault;
use crate::error::Error;
use crate::files;
use crate::fingerprint::Fingerprint;
use crate::key::KeyPair;

/// Bytes of a coordinate of P-256.
const COORDINATE: usize = 32;

/// A signing key with the name that it has in tokens.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    name: String,
    jwks: String,
}

impl TokenKey {
    /// Reads the key from a file (0600), and makes it when there is none; encrypted as the keys of the authorities are.
    ///
    /// # Errors
    /// When it cannot be read, written or decrypted, or is no key of ECDSA P-256.
    pub fn open(path: &Path, vault: &Vault) -> Result<Self, Error> {
        let what = path.display().to_string();
        let key = match vault.read(path)? {
            Some(text) => KeyPair::from_pem(&what, &text)?,
            None => {
                let key = KeyPair::generate()?;
                files::write_private(path, vault.seal(&key)?.as_bytes())?;
                key
            }
        };
        Self::new(&what, &key)
    }

    fn new(what: &str, key: &KeyPair) -> Result<Self, Error> {
        let bad = |reason: &str| Error::configuration(what, format!("holds a private key that {reason}"));
        let PrivateKeyDer::Pkcs8(der) = key.private_der() else {
            return Err(bad("is not PKCS#8"));
        };
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der())
            .map_err(|_| bad("is not of ECDSA P-256"))?;
        // The point ends SubjectPublicKeyInfo, uncompressed (RFC 5480 §2.2).
        let public = key.public_der();
        let point = public.split_at_checked(public.len().saturating_sub(2 * COORDINATE)).map(|(_, point)| point);
        let (x, y) = point.and_then(|p| p.split_at_checked(COORDINATE)).ok_or_else(|| bad("has no point"))?;
        let name = Fingerprint::of(&public).to_string();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": name, "x": encode(x), "y": encode(y) });
        Ok(Self { pair, name, jwks: json!({ "keys": [jwk] }).to_string() })
    }

    /// The public key, as a set (RFC 7517 §5).
    #[must_use]
    pub fn jwks(&self) -> &str {
        &self.jwks
    }

    /// A token with these claims.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub fn sign(&self, claims: &Value) -> Result<String, Error> {
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": self.name });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&header), encode(claims));
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message.as_bytes())
            .map_err(|_| Error::Crypto("cannot sign a token".into()))?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenKey({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwt::{Issuer, Keys, Reason, Verifier};
    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    fn verifier(key: &TokenKey) -> Verifier {
        let keys = Keys::parse(key.jwks()).unwrap();
        Verifier::new(vec![Issuer { issuer: "weft".into(), audiences: Vec::new(), keys, skew: Duration::ZERO }])
    }

    #[test]
    fn what_it_signs_is_verified_after_a_restart_and_by_no_other_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.pem");
        let vault = Vault::locked("four words make one").unwrap();
        let key = TokenKey::open(&path, &vault).unwrap();
        let now = SystemTime::now();
        let expiry = now.duration_since(UNIX_EPOCH).unwrap().as_secs() + 60;
        let token = key.sign(&json!({ "iss": "weft", "sub": "cart", "exp": expiry })).unwrap();
        let again = TokenKey::open(&path, &vault).unwrap();
        let verified = verifier(&again).verify(&token, |_| true, now).unwrap();
        assert_eq!(verified.principal(), Some("weft/cart"));
        let other = TokenKey::open(&dir.path().join("other.pem"), &Vault::default()).unwrap();
        assert_eq!(verifier(&other).verify(&token, |_| true, now).unwrap_err(), Reason::KeyUnknown);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(std::fs::read_to_string(&path).unwrap().contains("ENCRYPTED PRIVATE KEY"));
        assert!(TokenKey::open(&path, &Vault::default()).is_err());
        // One that was in the clear is encrypted, and is the same.
        let open = dir.path().join("other.pem");
        assert!(!std::fs::read_to_string(&open).unwrap().contains("ENCRYPTED"));
        assert_eq!(TokenKey::open(&open, &vault).unwrap().name, other.name);
        assert!(std::fs::read_to_string(&open).unwrap().contains("ENCRYPTED PRIVATE KEY"));
    }
}
