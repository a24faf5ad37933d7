//! Private keys (ECDSA P-256) and the request that goes with one. A key is made where it is used and never crosses the network; what
//! travels is the request (PKCS#10), of which the authority uses the public key alone.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::error::Error;
use crate::pem;

/// A private key with its public half. Prints as its algorithm only.
pub struct KeyPair {
    pair: rcgen::KeyPair,
    // The same key in the encoding in which it came; rcgen remembers the bytes but not which encoding they are.
    der: PrivateKeyDer<'static>,
}

impl KeyPair {
    /// A new ECDSA P-256 key.
    pub fn generate() -> Result<Self, Error> {
        let pair = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let der = PrivatePkcs8KeyDer::from(pair.serialized_der().to_vec()).into();
        Ok(Self { pair, der })
    }

    /// Reads PKCS#8, SEC1 or PKCS#1 PEM; certificates in the same text are passed over. `what` names the text in errors.
    pub fn from_pem(what: &str, text: &str) -> Result<Self, Error> {
        let der = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|e| Error::configuration(what, format!("holds no private key: {e}")))?;
        Self::from_der(what, &der)
    }

    /// Reads a key in any of the three encodings.
    pub fn from_der(what: &str, der: &PrivateKeyDer<'_>) -> Result<Self, Error> {
        let pair = rcgen::KeyPair::try_from(der)
            .map_err(|e| Error::configuration(what, format!("holds a private key that cannot be used: {e}")))?;
        Ok(Self { pair, der: der.clone_key() })
    }

    /// PEM, in the encoding in which the key came; PKCS#8 for one made here. A secret: write it with
    /// [`crate::files::write_private`] only.
    pub fn to_pem(&self) -> String {
        let label = match self.der {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        pem::encode(label, self.der.secret_der())
    }

    /// DER, for rustls. A secret.
    pub fn private_der(&self) -> PrivateKeyDer<'static> {
        self.der.clone_key()
    }

    /// The public key as `SubjectPublicKeyInfo`, DER.
    pub fn public_der(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// A certificate signing request in DER, signed by this key (proof of possession). It asks for nothing: who the certificate is for
    /// follows from how the asker proves itself.
    pub fn csr(&self) -> Result<Vec<u8>, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&self.pair)?.der().to_vec())
    }

    pub(crate) fn into_inner(self) -> rcgen::KeyPair {
        self.pair
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({:?})", self.pair.algorithm())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_pem() {
        let key = KeyPair::generate().unwrap();
        let back = KeyPair::from_pem("key.pem", &key.to_pem()).unwrap();
        assert_eq!(back.public_der(), key.public_der());
    }

    #[test]
    fn a_text_without_key_names_its_file() {
        let text = KeyPair::from_pem("key.pem", "nothing").unwrap_err().to_string();
        assert!(text.starts_with("key.pem holds no private key"), "{text}");
    }

    #[test]
    fn debugging_a_key_shows_nothing_of_it() {
        let key = KeyPair::generate().unwrap();
        assert!(format!("{key:?}").len() < 80);
    }
}
