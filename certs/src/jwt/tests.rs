//! Every algorithm verifies, and everything else is refused with its reason.

use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
    RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::sync::LazyLock;
use std::time::UNIX_EPOCH;

const NOW: u64 = 1_800_000_000;

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

struct Signers {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

static SIGNERS: LazyLock<Signers> = LazyLock::new(|| Signers {
    rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
    p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
    p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
    ed: Ed25519KeyPair::generate().unwrap(),
});

impl Signers {
    fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |encoding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(encoding, &random, message, &mut signature).unwrap();
            signature
        };
        match alg {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => self.p256.sign(&random, message).unwrap().as_ref().to_vec(),
            "ES384" => self.p384.sign(&random, message).unwrap().as_ref().to_vec(),
            _ => self.ed.sign(message).as_ref().to_vec(),
        }
    }

    fn jwk(&self, name: &str) -> Value {
        let point = |bytes: &[u8]| {
            let (x, y) = bytes[1..].split_at((bytes.len() - 1) / 2);
            (b64(x), b64(y))
        };
        match name {
            "rsa" => {
                let key = self.rsa.public_key();
                let (n, e) = (key.modulus(), key.exponent());
                json!({"kty": "RSA", "kid": "rsa", "n": b64(n.big_endian_without_leading_zero()), "e": b64(e.big_endian_without_leading_zero())})
            }
            "p256" => {
                let (x, y) = point(self.p256.public_key().as_ref());
                json!({"kty": "EC", "kid": "p256", "crv": "P-256", "x": x, "y": y})
            }
            "p384" => {
                let (x, y) = point(self.p384.public_key().as_ref());
                json!({"kty": "EC", "kid": "p384", "crv": "P-384", "x": x, "y": y})
            }
            _ => json!({"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": b64(self.ed.public_key())}),
        }
    }

    fn jwks(&self, names: &[&str]) -> String {
        json!({"keys": names.iter().map(|name| self.jwk(name)).collect::<Vec<_>>()}).to_string()
    }
}

fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims =
        json!({"iss": "https://id.test", "sub": "ann", "aud": ["orders", "cart"], "exp": NOW + 300, "iat": NOW - 10});
    change(&mut claims);
    claims
}

fn same(_: &mut Value) {}

fn token_of(header: &Value, claims: &str, alg: &str) -> String {
    let message = format!("{}.{}", b64(header.to_string()), b64(claims));
    let signature = SIGNERS.sign(alg, message.as_bytes());
    format!("{message}.{}", b64(signature))
}

fn token(alg: &str, kid: &str, claims: &Value) -> String {
    token_of(&json!({"alg": alg, "kid": kid, "typ": "JWT"}), &claims.to_string(), alg)
}

fn issuer(jwks: &str) -> Issuer {
    Issuer {
        issuer: "https://id.test".into(),
        audiences: vec!["orders".into()],
        keys: Keys::parse(jwks).unwrap(),
        skew: SKEW,
    }
}

fn all() -> Verifier {
    Verifier::new(vec![issuer(&SIGNERS.jwks(&["rsa", "p256", "p384", "ed"]))])
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn verdict(verifier: &Verifier, token: &str) -> Result<String, Reason> {
    verifier.verify(token, |_| true, at(NOW)).map(|v| v.principal().unwrap_or_default().to_owned())
}

#[test]
fn every_algorithm_verifies_with_its_key() {
    let verifier = all();
    for (alg, kid) in [
        ("RS256", "rsa"),
        ("RS384", "rsa"),
        ("RS512", "rsa"),
        ("PS256", "rsa"),
        ("PS384", "rsa"),
        ("PS512", "rsa"),
        ("ES256", "p256"),
        ("ES384", "p384"),
        ("EdDSA", "ed"),
        ("Ed25519", "ed"),
    ] {
        let good = token(alg, kid, &claims(same));
        for _ in 0..2 {
            assert_eq!(verdict(&verifier, &good).as_deref(), Ok("https://id.test/ann"), "{alg}");
        }
        let (message, signature) = good.rsplit_once('.').unwrap();
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        bytes[7] ^= 1;
        assert_eq!(verdict(&verifier, &format!("{message}.{}", b64(bytes))), Err(Reason::Signature), "{alg}");
        assert_eq!(verdict(&verifier, &format!("{message}.")), Err(Reason::Signature), "{alg}");
    }
}

#[test]
fn each_forgery_is_refused_with_its_reason() {
    let verifier = all();
    let body = claims(same);
    let unsigned = |alg: &str| format!("{}.{}.", b64(json!({"alg": alg}).to_string()), b64(body.to_string()));
    for none in ["none", "None", "NONE", "nOnE"] {
        assert_eq!(verdict(&verifier, &unsigned(none)), Err(Reason::Unsigned), "{none}");
    }
    // Key confusion: the public key as the secret of an HMAC.
    let secret = SIGNERS.rsa.public_key().as_ref().to_vec();
    let message = format!("{}.{}", b64(r#"{"alg":"HS256","kid":"rsa"}"#), b64(body.to_string()));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
    let confused = format!("{message}.{}", b64(aws_lc_rs::hmac::sign(&key, message.as_bytes())));
    assert_eq!(verdict(&verifier, &confused), Err(Reason::Symmetric));
    assert_eq!(verdict(&verifier, &unsigned("ES256K")), Err(Reason::AlgorithmUnknown));
    assert_eq!(verdict(&verifier, &token("ES256", "rsa", &body)), Err(Reason::AlgorithmMismatch));
    assert_eq!(verdict(&verifier, &token("RS256", "p256", &body)), Err(Reason::AlgorithmMismatch));
    assert_eq!(verdict(&verifier, &token("ES256", "other", &body)), Err(Reason::KeyUnknown));
    let nameless = token_of(&json!({"alg": "RS256"}), &body.to_string(), "RS256");
    assert_eq!(verdict(&verifier, &nameless), Err(Reason::KeyMissing));
    let critical = token_of(&json!({"alg": "RS256", "kid": "rsa", "crit": ["b64"]}), &body.to_string(), "RS256");
    assert_eq!(verdict(&verifier, &critical), Err(Reason::Extension));
    // A key that the token brings along is not looked at.
    let own = json!({"alg": "ES256", "kid": "mine", "jwk": SIGNERS.jwk("p256")});
    assert_eq!(verdict(&verifier, &token_of(&own, &body.to_string(), "ES256")), Err(Reason::KeyUnknown));
    // Signed for other claims.
    let good = token("ES256", "p256", &body);
    let parts: Vec<&str> = good.split('.').collect();
    let swapped = format!("{}.{}.{}", parts[0], b64(claims(|c| c["sub"] = "root".into()).to_string()), parts[2]);
    assert_eq!(verdict(&verifier, &swapped), Err(Reason::Signature));
}

#[test]
fn claims_that_do_not_hold_are_refused_with_their_reason() {
    let verifier = all();
    type Change = fn(&mut Value);
    let cases: [(Change, Reason); 18] = [
        (|c| c["exp"] = (NOW - 61).into(), Reason::Expired),
        (|c| c["exp"] = (NOW - 60).into(), Reason::Expired),
        (|c| c["exp"] = Value::Null, Reason::Malformed),
        (|c| drop(c.as_object_mut().unwrap().remove("exp")), Reason::ExpiryMissing),
        (|c| c["exp"] = "1800000300".into(), Reason::Malformed),
        (|c| c["exp"] = 1e300.into(), Reason::Malformed),
        (|c| c["exp"] = (-1).into(), Reason::Malformed),
        (|c| c["nbf"] = (NOW + 61).into(), Reason::NotYetValid),
        (|c| c["iat"] = (NOW + 61).into(), Reason::IssuedInFuture),
        (|c| c["iss"] = "https://evil.test".into(), Reason::Issuer),
        (|c| c["iss"] = "https://id.test/".into(), Reason::Issuer),
        (|c| c["iss"] = json!(["https://id.test"]), Reason::Issuer),
        (|c| drop(c.as_object_mut().unwrap().remove("iss")), Reason::Issuer),
        (|c| c["aud"] = "payments".into(), Reason::Audience),
        (|c| c["aud"] = json!(["payments", 7]), Reason::Audience),
        (|c| c["aud"] = json!([]), Reason::Audience),
        (|c| drop(c.as_object_mut().unwrap().remove("aud")), Reason::Audience),
        (|c| c["deep"] = (0..17).fold(json!(1), |inner, _| json!([inner])), Reason::Malformed),
    ];
    for (change, reason) in cases {
        let body = claims(change);
        assert_eq!(verdict(&verifier, &token("ES256", "p256", &body)), Err(reason), "{body}");
    }
    let fine: [Change; 7] = [
        same,
        |c| c["exp"] = (NOW - 59).into(),
        |c| c["exp"] = json!(1_800_000_300.5),
        |c| c["nbf"] = (NOW + 60).into(),
        |c| c["iat"] = (NOW + 60).into(),
        |c| c["aud"] = "orders".into(),
        |c| c["deep"] = (0..15).fold(json!(1), |inner, _| json!([inner])),
    ];
    for change in fine {
        let body = claims(change);
        assert_eq!(verdict(&verifier, &token("ES256", "p256", &body)).as_deref(), Ok("https://id.test/ann"), "{body}");
    }
}

#[test]
fn what_is_no_token_is_malformed_and_what_is_too_long_is_not_read() {
    let verifier = all();
    let good = token("ES256", "p256", &claims(same));
    let parts: Vec<&str> = good.split('.').collect();
    let twice = r#"{"iss":"https://id.test","sub":"ann","sub":"root","aud":"orders","exp":1800000300}"#;
    for bad in [
        String::new(),
        "a".into(),
        "a.b".into(),
        "..".into(),
        format!("{good}.{}", parts[2]),
        format!("{good}="),
        format!(" {good}"),
        format!("{}.{}.{}", b64("[]"), parts[1], parts[2]),
        format!("{}.{}.{}", b64(r#"{"alg":7}"#), parts[1], parts[2]),
        format!("{}.{}.{}", b64(r#"{"alg":"ES256","alg":"none"}"#), parts[1], parts[2]),
        format!("{}.{}.{}", parts[0], b64("7"), parts[2]),
        format!("{}.{}.{}", parts[0], b64([0xff, 0xfe]), parts[2]),
        token_of(&json!({"alg": "ES256", "kid": "p256"}), twice, "ES256"),
    ] {
        assert_eq!(verdict(&verifier, &bad), Err(Reason::Malformed), "{bad}");
    }
    let long = token("ES256", "p256", &claims(|c| c["x"] = "x".repeat(LONGEST).into()));
    assert_eq!(verdict(&verifier, &long), Err(Reason::TooLong));
}

#[test]
fn a_set_of_one_key_needs_no_name_and_a_key_may_insist_on_its_algorithm() {
    let mut only = SIGNERS.jwk("rsa");
    only["alg"] = "RS256".into();
    let with = |key: &Value| Verifier::new(vec![issuer(&json!({"keys": [key]}).to_string())]);
    let nameless = token_of(&json!({"alg": "RS256"}), &claims(same).to_string(), "RS256");
    assert!(verdict(&with(&only), &nameless).is_ok());
    assert_eq!(verdict(&with(&only), &token("RS256", "next", &claims(same))), Err(Reason::KeyUnknown));
    assert_eq!(verdict(&with(&only), &token("PS256", "rsa", &claims(same))), Err(Reason::AlgorithmMismatch));
    drop(only.as_object_mut().unwrap().remove("kid"));
    assert!(verdict(&with(&only), &token("RS256", "next", &claims(same))).is_ok());
}

#[test]
fn rules_of_one_issuer_are_tried_and_those_of_other_places_are_not() {
    let strict = issuer(&SIGNERS.jwks(&["p256"]));
    let mut other = issuer(&SIGNERS.jwks(&["p256"]));
    other.audiences = vec!["cart".into()];
    let unknown =
        Issuer { issuer: "https://new.test".into(), audiences: Vec::new(), keys: Keys::default(), skew: SKEW };
    let verifier = Verifier::new(vec![strict, other, unknown]);
    let cart = token("ES256", "p256", &claims(|c| c["aud"] = "cart".into()));
    let rule = |applies: fn(usize) -> bool| verifier.verify(&cart, applies, at(NOW)).map(|v| v.rule());
    assert_eq!(rule(|_| true), Ok(1));
    assert_eq!(rule(|rule| rule == 0), Err(Reason::Audience), "what another rule verified is not taken over");
    assert_eq!(rule(|rule| rule == 2), Err(Reason::Issuer));
    let new = token("ES256", "p256", &claims(|c| c["iss"] = "https://new.test".into()));
    assert_eq!(verdict(&verifier, &new), Err(Reason::KeysUnknown));
}

#[test]
fn what_was_verified_is_not_remembered_beyond_its_expiry() {
    let verifier = all();
    let good = token("EdDSA", "ed", &claims(same));
    assert!(verifier.verify(&good, |_| true, at(NOW)).is_ok());
    assert!(verifier.verify(&good, |_| true, at(NOW + 359)).is_ok());
    assert_eq!(verifier.verify(&good, |_| true, at(NOW + 360)).unwrap_err(), Reason::Expired);
    for i in 0..3000 {
        let many = token("EdDSA", "ed", &claims(|c| c["sub"] = i.to_string().into()));
        assert!(verifier.verify(&many, |_| true, at(NOW)).is_ok());
    }
    assert!(verifier.cache.len() <= 1024);
}

#[test]
fn sets_of_keys_are_refused_with_their_fault() {
    let with = |change: fn(&mut Value)| {
        let mut key = SIGNERS.jwk("p256");
        change(&mut key);
        Keys::parse(&json!({"keys": [SIGNERS.jwk("ed"), key]}).to_string()).map(|keys| keys.len())
    };
    assert_eq!(with(same), Ok(2));
    for unused in [
        (|k: &mut Value| k["use"] = "enc".into()) as fn(&mut Value),
        |k| k["key_ops"] = json!(["sign"]),
        |k| k["alg"] = "ES512".into(),
        |k| k["alg"] = "ES384".into(),
        |k| k["crv"] = "secp256k1".into(),
        |k| k["kty"] = "oct".into(),
    ] {
        assert_eq!(with(unused), Ok(1));
    }
    assert_eq!(with(|k| k["d"] = "AAAA".into()), Err(KeyFault::Private(1)));
    assert_eq!(with(|k| k["k"] = "AAAA".into()), Err(KeyFault::Private(1)));
    assert!(matches!(with(|k| k["x"] = "AAAA".into()), Err(KeyFault::Malformed { index: 1, .. })));
    assert!(matches!(with(|k| k["y"] = "=".into()), Err(KeyFault::Malformed { index: 1, .. })));
    assert_eq!(Keys::parse(r#"{"keys":[]}"#).unwrap_err(), KeyFault::NoneUsable);
    assert_eq!(Keys::parse(&" ".repeat((1 << 20) + 1)).unwrap_err(), KeyFault::TooLarge);
    assert!(matches!(Keys::parse("{}"), Err(KeyFault::NotASet(_))));
    let short = json!({"keys": [{"kty": "RSA", "n": b64([0xff; 128]), "e": "AQAB"}]}).to_string();
    assert!(matches!(Keys::parse(&short), Err(KeyFault::Malformed { index: 0, .. })));
}

#[test]
fn names_of_reasons_are_what_they_print_and_nothing_of_a_token_is_printed() {
    let verifier = all();
    let good = token("EdDSA", "ed", &claims(|c| c["secret"] = "do-not-print".into()));
    let shown = format!("{:?}", verifier.verify(&good, |_| true, at(NOW)).unwrap());
    assert!(!shown.contains("do-not-print") && !shown.contains("ann"), "{shown}");
    for reason in [Reason::Missing, Reason::Ambiguous, Reason::Expired, Reason::Symmetric, Reason::KeyUnknown] {
        assert_eq!(reason.to_string(), reason.name());
    }
}
