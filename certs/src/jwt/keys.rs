//! Sets of public keys (RFC 7517, RFC 7518 §6, RFC 8037): which algorithms a key stands for, and which key a token means.

use aws_lc_rs::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::Reason;

/// Bytes of a set.
const LONGEST: usize = 1 << 20;
/// Keys of a set.
const MOST: usize = 256;

/// The keys of an issuer.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    keys: Vec<Key>,
}

/// Why a set of keys is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// It is no JSON object with `keys`.
    #[error("is no JSON Web Key Set (RFC 7517): {0}")]
    NotASet(String),
    /// It is too long, or has too many keys.
    #[error("is larger than 1 MiB or has more than 256 keys")]
    TooLarge,
    /// A key is one that signs.
    #[error("keys[{0}] is a private key or a shared secret: publish only what verifies")]
    Private(usize),
    /// A key lacks a member, or has one that cannot be.
    #[error("keys[{index}]: {what}")]
    Malformed {
        /// Place of the key.
        index: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// It has keys, but none that could verify a token here.
    #[error("has no key for RS*, PS*, ES256, ES384 or EdDSA")]
    NoneUsable,
}

/// A public key.
#[derive(Clone, Debug)]
struct Key {
    id: Option<Box<str>>,
    /// The only one that it may be used with.
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Clone, Debug)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed point (SEC 1 §2.3.3).
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// How a token may be signed (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

/// Members of all kinds of keys; unknown ones are ignored (RFC 7517 §4).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<serde::de::IgnoredAny>,
    k: Option<serde::de::IgnoredAny>,
}

impl Algorithm {
    /// The algorithm of a header's `alg`.
    pub(super) fn parse(alg: &str) -> Result<Self, Reason> {
        Ok(match alg {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            // RFC 9864 §2.2 names the curve.
            "EdDSA" | "Ed25519" => Self::EdDsa,
            // RFC 7515 §3.1 has names case-sensitive; nobody shall find out who does not.
            none if none.eq_ignore_ascii_case("none") => return Err(Reason::Unsigned),
            hs if hs.len() >= 2 && hs.as_bytes()[..2].eq_ignore_ascii_case(b"HS") => return Err(Reason::Symmetric),
            _ => return Err(Reason::AlgorithmUnknown),
        })
    }
}

impl Keys {
    /// Reads a set. Keys of other types, for encryption, or with algorithms that are not verified here are left out (RFC 7517 §5).
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn parse(text: &str) -> Result<Self, KeyFault> {
        if text.len() > LONGEST {
            return Err(KeyFault::TooLarge);
        }
        let set: Set = serde_json::from_str(text).map_err(|error| KeyFault::NotASet(error.to_string()))?;
        if set.keys.len() > MOST {
            return Err(KeyFault::TooLarge);
        }
        let mut keys = Vec::with_capacity(set.keys.len());
        for (index, jwk) in set.keys.iter().enumerate() {
            if jwk.d.is_some() || jwk.k.is_some() {
                return Err(KeyFault::Private(index));
            }
            keys.extend(key(jwk).map_err(|what| KeyFault::Malformed { index, what })?);
        }
        if keys.is_empty() {
            return Err(KeyFault::NoneUsable);
        }
        Ok(Self { keys })
    }

    /// Whether none are known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Verifies what a token's header says was signed by one of the keys.
    pub(super) fn verify(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signed: &[u8],
    ) -> Result<(), Reason> {
        if self.keys.is_empty() {
            return Err(Reason::KeysUnknown);
        }
        self.meant(id)?.verify(algorithm, message, signed)
    }

    /// The key that a token means: the only one of its name, or the only one there is.
    fn meant(&self, id: Option<&str>) -> Result<&Key, Reason> {
        let Some(id) = id else {
            return match self.keys.as_slice() {
                [only] => Ok(only),
                _ => Err(Reason::KeyMissing),
            };
        };
        let mut named = self.keys.iter().filter(|key| key.id.as_deref() == Some(id));
        match (named.next(), named.next(), self.keys.as_slice()) {
            (Some(key), None, _) => Ok(key),
            // A set of one key that has no name.
            (None, _, [only]) if only.id.is_none() => Ok(only),
            _ => Err(Reason::KeyUnknown),
        }
    }
}

fn key(jwk: &Jwk) -> Result<Option<Key>, &'static str> {
    let verifies = jwk.r#use.as_deref().is_none_or(|u| u == "sig")
        && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    let Ok(algorithm) = jwk.alg.as_deref().map(Algorithm::parse).transpose() else { return Ok(None) };
    if !verifies {
        return Ok(None);
    }
    let bytes = |member: &Option<String>, what| {
        let text = member.as_deref().ok_or(what)?;
        URL_SAFE_NO_PAD.decode(text).map_err(|_| "a member is not base64url without padding")
    };
    let coordinate = |member: &Option<String>, length: usize, what| {
        let bytes = bytes(member, what)?;
        if bytes.len() == length { Ok(bytes) } else { Err("a coordinate has not the length of its curve") }
    };
    let point = |length| -> Result<Vec<u8>, &'static str> {
        let mut point = vec![4];
        point.extend(coordinate(&jwk.x, length, "x is missing")?);
        point.extend(coordinate(&jwk.y, length, "y is missing")?);
        Ok(point)
    };
    let material = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => {
            let n = bytes(&jwk.n, "n is missing")?;
            let n = n.strip_prefix(&[0]).map(<[u8]>::to_vec).unwrap_or(n);
            let e = bytes(&jwk.e, "e is missing")?;
            if !(256..=1024).contains(&n.len()) || !(1..=8).contains(&e.len()) {
                return Err("an RSA key has 2048 to 8192 bits");
            }
            Material::Rsa { n, e }
        }
        ("EC", Some("P-256")) => Material::P256(point(32)?),
        ("EC", Some("P-384")) => Material::P384(point(48)?),
        ("OKP", Some("Ed25519")) => Material::Ed25519(coordinate(&jwk.x, 32, "x is missing")?),
        _ => return Ok(None),
    };
    let key = Key { id: jwk.kid.as_deref().map(Into::into), algorithm, material };
    Ok(algorithm.is_none_or(|algorithm| key.scheme(algorithm).is_some()).then_some(key))
}

enum Scheme<'k> {
    Rsa(&'static RsaParameters, RsaPublicKeyComponents<&'k [u8]>),
    Other(&'static dyn VerificationAlgorithm, &'k [u8]),
}

impl Key {
    /// How the key verifies that algorithm; `None`: the key is not one of it.
    fn scheme(&self, algorithm: Algorithm) -> Option<Scheme<'_>> {
        use Algorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        Some(match (&self.material, algorithm) {
            (Material::Rsa { n, e }, algorithm) => {
                let parameters = match algorithm {
                    Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    Es256 | Es384 | EdDsa => return None,
                };
                Scheme::Rsa(parameters, RsaPublicKeyComponents { n, e })
            }
            (Material::P256(point), Es256) => Scheme::Other(&signature::ECDSA_P256_SHA256_FIXED, point),
            (Material::P384(point), Es384) => Scheme::Other(&signature::ECDSA_P384_SHA384_FIXED, point),
            (Material::Ed25519(key), EdDsa) => Scheme::Other(&signature::ED25519, key),
            _ => return None,
        })
    }

    fn verify(&self, algorithm: Algorithm, message: &[u8], signed: &[u8]) -> Result<(), Reason> {
        if self.algorithm.is_some_and(|own| own != algorithm) {
            return Err(Reason::AlgorithmMismatch);
        }
        let verified = match self.scheme(algorithm).ok_or(Reason::AlgorithmMismatch)? {
            Scheme::Rsa(parameters, key) => key.verify(parameters, message, signed),
            Scheme::Other(scheme, key) => UnparsedPublicKey::new(scheme, key).verify(message, signed),
        };
        verified.map_err(|_| Reason::Signature)
    }
}
