//! Takes secrets out of what is gathered: values of Secrets, keys, tokens, and what headers that carry credentials are set to.
//!
//! Weft's pages hold none but what users wrote; this is what keeps those out. A text that is none of them is left as it is. Pure.

use serde_json::Value;

/// What stands for what was removed.
const REMOVED: &str = "(removed)";
/// Fields whose values are secrets or keys wherever they stand, in lower case.
const FIELDS: [&str; 11] = [
    "jwks",
    "password",
    "passphrase",
    "token",
    "secret",
    "clientsecret",
    "privatekey",
    "tokenhash",
    "accesskey",
    "apikey",
    "stringdata",
];
/// Headers and parameters that carry credentials, in lower case.
const HEADERS: [&str; 7] =
    ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key", "x-auth-token"];
/// Under what a header's value stands, beside its `name`.
const VALUES: [&str; 3] = ["value", "exact", "regex"];
/// kubectl keeps a whole object here, a Secret's values included.
const COPY: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Removes, and counts what was.
#[derive(Debug, Default)]
pub struct Redactor {
    removed: usize,
}

impl Redactor {
    /// How much was removed.
    pub fn removed(&self) -> usize {
        self.removed
    }

    /// Takes secrets out of a document.
    pub fn value(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(clean) = self.text(text) {
                    *text = clean;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(fields) => {
                let is_secret = fields.get("kind").and_then(Value::as_str) == Some("Secret");
                let carries = |name: &str| HEADERS.contains(&name.to_ascii_lowercase().as_str());
                let header = fields.get("name").and_then(Value::as_str).is_some_and(carries);
                for (name, field) in fields.iter_mut() {
                    let whole = FIELDS.contains(&name.to_ascii_lowercase().as_str())
                        || name == COPY
                        || header && VALUES.contains(&name.as_str())
                        || is_secret && name == "data";
                    if whole { self.all(field) } else { self.value(field) }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Removes every text of a document; names of fields stay.
    fn all(&mut self, value: &mut Value) {
        match value {
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => {
                self.removed += 1;
                *text = REMOVED.to_owned();
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.all(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.all(field)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// A text without private keys and tokens; `None`: it has none.
    pub fn text(&mut self, text: &str) -> Option<String> {
        let keys = without_keys(text);
        let tokens = without_tokens(keys.as_deref().unwrap_or(text));
        let clean = tokens.or(keys)?;
        self.removed += 1;
        Some(clean)
    }
}

/// Without PEM blocks (RFC 7468) whose label ends in PRIVATE KEY.
fn without_keys(text: &str) -> Option<String> {
    const BEGIN: &str = "-----BEGIN ";
    const KEY: &str = "PRIVATE KEY-----";
    let (mut clean, mut rest, mut found) = (String::new(), text, false);
    while let Some(start) = rest.find(BEGIN) {
        let (before, block) = rest.split_at(start);
        clean.push_str(before);
        let label_end = block[BEGIN.len()..].find("-----").map(|at| at + BEGIN.len() + 5);
        match label_end {
            Some(end) if block[..end].ends_with(KEY) => {
                found = true;
                clean.push_str(REMOVED);
                // One that does not end is a secret to its end.
                let after = block[end..].find(KEY).map_or(block.len(), |at| end + at + KEY.len());
                rest = &block[after..];
            }
            _ => {
                clean.push_str(BEGIN);
                rest = &block[BEGIN.len()..];
            }
        }
    }
    clean.push_str(rest);
    found.then_some(clean)
}

/// Without compact JWTs (RFC 7519 section 3): three parts, of which the first two are JSON objects in base64url.
fn without_tokens(text: &str) -> Option<String> {
    let of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_token = |word: &str| {
        let parts: Vec<&str> = word.trim_end_matches('.').split('.').collect();
        parts.len() == 3 && parts[..2].iter().all(|part| part.starts_with("eyJ"))
    };
    let (mut clean, mut rest, mut found) = (String::new(), text, false);
    while let Some(start) = rest.find("eyJ") {
        let (before, word) = rest.split_at(start);
        clean.push_str(before);
        let end = word.find(|c| !of_token(c)).unwrap_or(word.len());
        let (word, after) = word.split_at(end);
        if is_token(word) {
            found = true;
            clean.push_str(REMOVED);
        } else {
            clean.push_str(word);
        }
        rest = after;
    }
    clean.push_str(rest);
    found.then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn clean(mut value: Value) -> (Value, usize) {
        let mut redactor = Redactor::default();
        redactor.value(&mut value);
        (value, redactor.removed())
    }

    #[test]
    fn a_secret_keeps_its_names_and_loses_its_values() {
        let annotations = json!({ COPY: "{\"data\":{\"password\":\"aHVudGVyMg==\"}}", "owner": "ana" });
        let secret = json!({ "kind": "Secret", "metadata": { "name": "db", "annotations": annotations },
            "type": "Opaque", "data": { "user": "YW5h", "password": "aHVudGVyMg==" }, "stringData": { "a": "b" } });
        let (seen, removed) = clean(json!({ "items": [secret] }));
        let item = &seen["items"][0];
        assert_eq!(item["data"], json!({ "user": REMOVED, "password": REMOVED }));
        assert_eq!(item["metadata"]["annotations"], json!({ COPY: REMOVED, "owner": "ana" }));
        assert_eq!((&item["metadata"]["name"], &item["stringData"]["a"], removed), (&json!("db"), &json!(REMOVED), 4));
        // What is no Secret keeps its data.
        assert_eq!(
            clean(json!({ "kind": "ConfigMap", "data": { "a": "b" } })),
            (json!({ "kind": "ConfigMap", "data": { "a": "b" } }), 0)
        );
    }

    #[test]
    fn keys_of_issuers_and_credentials_in_headers_go() {
        let (seen, removed) = clean(json!({
            "rules": [{ "issuer": "https://issuer.example", "jwks": "{\"keys\":[{\"kty\":\"oct\",\"k\":\"c2VjcmV0\"}]}" }],
            "set": [{ "name": "Authorization", "value": "Basic YTpi" }, { "name": "x-team", "value": "shop" }],
            "matches": [{ "name": "cookie", "exact": "session=7" }],
            "authorization": [{ "name": "shop/readers", "action": "ACTION_ALLOW" }], "hash": [{ "cookie": "user" }],
        }));
        assert_eq!(seen["rules"][0], json!({ "issuer": "https://issuer.example", "jwks": REMOVED }));
        assert_eq!(
            seen["set"],
            json!([{ "name": "Authorization", "value": REMOVED }, { "name": "x-team", "value": "shop" }])
        );
        assert_eq!((&seen["matches"][0]["exact"], removed), (&json!(REMOVED), 3));
        // What policies are called and what balancing goes by is no secret.
        assert_eq!(seen["authorization"][0]["name"], "shop/readers");
        assert_eq!(seen["hash"][0]["cookie"], "user");
    }

    #[test]
    fn private_keys_and_tokens_go_from_any_text_and_certificates_stay() {
        let mut redactor = Redactor::default();
        let key = "a\n-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\nb";
        assert_eq!(redactor.text(key).as_deref(), Some("a\n(removed)\nb"));
        assert_eq!(redactor.text("x -----BEGIN PRIVATE KEY-----\nMHcC").as_deref(), Some("x (removed)"));
        let token = "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln, then";
        assert_eq!(redactor.text(token).as_deref(), Some("Bearer (removed), then"));
        for well in ["-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "eyJ.eyJ", "key eyJhbGciOiJ9"] {
            assert_eq!(redactor.text(well), None, "{well}");
        }
        assert_eq!(redactor.removed(), 3);
    }
}
