//! Join tokens: `weft-join.<base64url of a JSON object>`. A token is a secret and is read from a file or the environment, never from
//! the command line; what it allows is the control plane's to say, not ours.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use std::fmt;
use weft_certs::{Fingerprint, TrustDomain};

const PREFIX: &str = "weft-join.";

/// A token with what a sidecar may read of it: whom to trust until there is a certificate.
#[derive(Clone)]
pub struct JoinToken {
    text: String,
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// The root CA's public key.
    pub root: Fingerprint,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, root {})", self.trust_domain, self.root)
    }
}

#[derive(Deserialize)]
struct Body {
    v: u32,
    spki: String,
    td: String,
}

impl JoinToken {
    /// Reads a token.
    ///
    /// # Errors
    /// What is wrong with it, without repeating the secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX).ok_or_else(|| format!("a join token begins with {PREFIX:?}"))?;
        if encoded.len() > 4096 {
            return Err("the join token is too long".to_owned());
        }
        let json = URL_SAFE_NO_PAD
            .decode(encoded.trim_end_matches('='))
            .map_err(|_| "the join token is damaged: not base64url".to_owned())?;
        let body: Body = serde_json::from_slice(&json)
            .map_err(|_| "the join token is damaged: not the JSON of a token".to_owned())?;
        if body.v != 1 {
            return Err(format!(
                "the join token has version {}, this sidecar reads version 1; update one of the two",
                body.v
            ));
        }
        Ok(Self {
            trust_domain: body.td.parse().map_err(|e| format!("the join token's trust domain: {e}"))?,
            root: body.spki.parse().map_err(|e| format!("the join token's CA fingerprint: {e}"))?,
            text: text.to_owned(),
        })
    }

    /// The whole text, to prove who asks. A secret.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(json: &str) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }

    #[test]
    fn a_token_tells_whom_to_trust_and_does_not_show_its_secret() {
        let spki = "ab".repeat(32);
        let text = token(&format!(r#"{{"v":1,"id":"a1","secret":"hush","spki":"{spki}","td":"weft.local"}}"#));
        let read = JoinToken::parse(&format!(" {text}\n")).unwrap();
        assert_eq!(read.trust_domain.as_str(), "weft.local");
        assert_eq!(read.root.to_string(), spki);
        assert_eq!(read.secret(), text);
        assert!(!format!("{read:?}").contains(&text));
    }

    #[test]
    fn what_is_no_token_is_refused_in_words() {
        for (text, word) in [
            (String::new(), "begins with"),
            ("weft-join.!!".to_owned(), "base64url"),
            (token("{}"), "JSON"),
            (token(&format!(r#"{{"v":2,"spki":"{}","td":"weft.local"}}"#, "ab".repeat(32))), "version 2"),
            (token(r#"{"v":1,"spki":"ab","td":"weft.local"}"#), "fingerprint"),
            (token(&format!(r#"{{"v":1,"spki":"{}","td":"WEFT"}}"#, "ab".repeat(32))), "trust domain"),
        ] {
            let error = JoinToken::parse(&text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
