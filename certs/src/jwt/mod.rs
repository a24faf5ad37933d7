//! JSON Web Tokens (RFC 7519) of other people's issuers: JWS in compact form (RFC 7515), signed by a key of a published set (RFC 7517).
//!
//! What a token says is believed after its signature: the algorithm is one that the key itself stands for (RFC 8725 §3.1), `none` and shared
//! secrets are refused whatever keys there are, an expiry is required. Every refusal has its own [`Reason`]; no part of a token is ever in
//! an error. Where a token stands in a request, and what a request without one means, is the sidecar's business; time is an argument.

mod cache;
mod keys;
#[cfg(test)]
mod tests;
mod token;

pub use keys::{KeyFault, Keys};
pub use token::Verified;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cache::Cache;
use token::Parsed;

/// Bytes of a token that are looked at.
pub const LONGEST: usize = 8 * 1024;
/// Clock skew that is allowed for unless a rule says otherwise.
pub const SKEW: Duration = Duration::from_secs(60);

/// Why a token is refused. The names are an interface: metrics and logs carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.name())]
pub enum Reason {
    /// The request has none, and one is required.
    Missing,
    /// The request has several, at the places where one is looked for.
    Ambiguous,
    /// Longer than [`LONGEST`].
    TooLong,
    /// Not three parts of base64url, of which two are JSON objects; or nested too deep, or with a member twice.
    Malformed,
    /// `alg` is `none`: unsigned.
    Unsigned,
    /// `alg` is one of a shared secret (HS256…): with a public key for a secret anybody could sign.
    Symmetric,
    /// `alg` is one that is not verified here.
    AlgorithmUnknown,
    /// `alg` is not one of the key.
    AlgorithmMismatch,
    /// It demands that extensions be understood (`crit`); none are.
    Extension,
    /// No rule knows its issuer, at the place where it stands.
    Issuer,
    /// No key of the issuer is known yet.
    KeysUnknown,
    /// It names no key, and the issuer has several.
    KeyMissing,
    /// It names a key that the issuer does not have.
    KeyUnknown,
    /// The signature is not one of the key over these bytes.
    Signature,
    /// It has no expiry.
    ExpiryMissing,
    /// It has expired.
    Expired,
    /// It is not valid yet (`nbf`).
    NotYetValid,
    /// It was issued in the future (`iat`).
    IssuedInFuture,
    /// It is meant for none of the audiences.
    Audience,
}

impl Reason {
    /// Its stable name: `token_expired`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Missing => "token_missing",
            Reason::Ambiguous => "token_ambiguous",
            Reason::TooLong => "token_too_long",
            Reason::Malformed => "token_malformed",
            Reason::Unsigned => "token_unsigned",
            Reason::Symmetric => "token_symmetric",
            Reason::AlgorithmUnknown => "token_algorithm_unknown",
            Reason::AlgorithmMismatch => "token_algorithm_mismatch",
            Reason::Extension => "token_extension",
            Reason::Issuer => "token_issuer",
            Reason::KeysUnknown => "token_keys_unknown",
            Reason::KeyMissing => "token_key_missing",
            Reason::KeyUnknown => "token_key_unknown",
            Reason::Signature => "token_signature",
            Reason::ExpiryMissing => "token_expiry_missing",
            Reason::Expired => "token_expired",
            Reason::NotYetValid => "token_not_yet_valid",
            Reason::IssuedInFuture => "token_issued_in_future",
            Reason::Audience => "token_audience",
        }
    }
}

/// What one rule expects of a token.
#[derive(Debug)]
pub struct Issuer {
    /// Value of `iss`, compared exactly.
    pub issuer: Box<str>,
    /// One of them must be in `aud`; none: any audience.
    pub audiences: Vec<Box<str>>,
    /// The keys that may sign; none: not known yet.
    pub keys: Keys,
    /// Difference of clocks that is allowed for.
    pub skew: Duration,
}

/// The rules of one place, and the tokens that were verified lately.
#[derive(Debug)]
pub struct Verifier {
    issuers: Vec<Issuer>,
    cache: Cache,
}

impl Verifier {
    /// A verifier of these rules.
    #[must_use]
    pub fn new(issuers: Vec<Issuer>) -> Self {
        Self { issuers, cache: Cache::default() }
    }

    /// Verifies a token by those rules, by index, that `applies` admits. What was verified is remembered until it expires.
    ///
    /// # Errors
    /// Why it is refused: the reason of the last rule of its issuer.
    pub fn verify(
        &self,
        token: &str,
        applies: impl Fn(usize) -> bool,
        now: SystemTime,
    ) -> Result<Arc<Verified>, Reason> {
        if token.len() > LONGEST {
            return Err(Reason::TooLong);
        }
        let digest = crate::Fingerprint::of(token.as_bytes());
        if let Some(known) = self.cache.find(&digest, now)
            && applies(known.rule())
        {
            return Ok(known);
        }
        let parsed = Parsed::parse(token)?;
        let mut refused = Reason::Issuer;
        for (rule, expected) in self.issuers.iter().enumerate() {
            if !applies(rule) || parsed.issuer() != Some(&expected.issuer) {
                continue;
            }
            match parsed.verify(rule, expected, now) {
                Ok(verified) => {
                    let verified = Arc::new(verified);
                    self.cache.keep(digest, Arc::clone(&verified), now);
                    return Ok(verified);
                }
                Err(reason) => refused = reason,
            }
        }
        Err(refused)
    }
}
