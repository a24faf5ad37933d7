//! An issuer of JSON Web Tokens that the test plays itself, with a key that openssl made: RS256 (RFC 7518 §3.3).

use super::stage::text;
use super::{program, run};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Somebody who signs tokens.
pub struct Issuer {
    /// Its name: the claim `iss`.
    pub name: String,
    folder: PathBuf,
    modulus: String,
}

impl Issuer {
    /// With a new key, which is kept in `folder`.
    #[track_caller]
    pub fn new(folder: &Path, name: &str) -> Self {
        let key = folder.join("issuer.key");
        let openssl = program("openssl");
        let generate = ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", text(&key)];
        run(Command::new(&openssl).args(generate)).ok();
        let shown = run(Command::new(&openssl).args(["rsa", "-in", text(&key), "-noout", "-modulus"])).ok();
        let hex = shown.trim().strip_prefix("Modulus=").expect("openssl prints the modulus");
        let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
        let modulus: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
        Self { name: name.to_owned(), folder: folder.to_owned(), modulus: URL_SAFE_NO_PAD.encode(modulus) }
    }

    /// Its public key (RFC 7517).
    #[must_use]
    pub fn jwks(&self) -> String {
        json!({"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "1", "n": self.modulus, "e": "AQAB"}]})
            .to_string()
    }

    /// A token of `subject` for an audience, good for that long from now.
    #[must_use]
    #[track_caller]
    pub fn token(&self, subject: &str, audience: &str, good: Duration) -> String {
        let until = (SystemTime::now() + good).duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        self.sign(&json!({"iss": self.name, "sub": subject, "aud": audience, "exp": until}))
    }

    fn sign(&self, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "RS256", "kid": "1"})), part(claims));
        let [key, input, output] = ["issuer.key", "token.input", "token.signature"].map(|name| self.folder.join(name));
        std::fs::write(&input, &signed).expect("the folder can be written");
        let sign = ["dgst", "-sha256", "-sign", text(&key), "-out", text(&output), text(&input)];
        run(Command::new(program("openssl")).args(sign)).ok();
        let signature = std::fs::read(&output).expect("openssl signs");
        for scrap in [input, output] {
            std::fs::remove_file(scrap).expect("what was written can be removed");
        }
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
