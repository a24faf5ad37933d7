//! Tokens of service accounts: made for whoever may (`TokenRequest`), and believed while the account is the same that they were made for.
//!
//! A token is a JWT by the control plane's own key, with the claims of Kubernetes' bound tokens. One for the API names the issuer as its audience;
//! one for anybody else is no good here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use weft_certs::ca::TokenKey;
use weft_certs::jwt::{Issuer, KeyFault, Keys, LONGEST, Verifier};

use super::{
    failure::{Failure, Result},
    object,
};
use crate::kinds::{
    self,
    check::{Cause, Reason},
};
use crate::rbac::{SERVICE_ACCOUNT, User};
use crate::store::{Key, Store};

/// How long a token is good when nobody says, in seconds.
const LIFE: u64 = 3600;
/// The shortest and longest life that can be asked for, in seconds.
const LIVES: std::ops::RangeInclusive<u64> = 600..=48 * 3600;
/// Audiences of one token.
const MOST_AUDIENCES: usize = 32;
/// Differences of clocks among replicas.
const SKEW: Duration = Duration::from_secs(10);
/// By what a token is named in `extra`, as Kubernetes does.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// The authority over tokens.
#[derive(Debug)]
pub struct Accounts {
    key: TokenKey,
    issuer: String,
    verifier: Verifier,
}

/// Whom a token that was verified is of, and for which of the audiences that were asked about.
#[derive(Debug)]
pub(super) struct Known {
    pub user: User,
    pub audiences: Vec<String>,
}

impl Accounts {
    /// Signs with a key, as an issuer, which is the audience of the API too.
    ///
    /// # Errors
    /// When the key cannot be read back.
    pub fn new(key: TokenKey, issuer: String) -> std::result::Result<Self, KeyFault> {
        let keys = Keys::parse(key.jwks())?;
        let rule = Issuer { issuer: issuer.as_str().into(), audiences: Vec::new(), keys, skew: SKEW };
        Ok(Self { key, issuer, verifier: Verifier::new(vec![rule]) })
    }

    /// Answers a `TokenRequest` for an account: its `spec` and `status`.
    pub(super) async fn request(
        &self,
        store: &dyn Store,
        (namespace, name): (&str, &str),
        request: &Value,
        now: SystemTime,
    ) -> Result<(Value, Value)> {
        let Some(kind) = kinds::find("", "v1", "serviceaccounts") else { return Err(Failure::no_such_path()) };
        let refuse = |field: &str, message: String| {
            Failure::invalid(kind, name, &[Cause { reason: Reason::Invalid, field: field.into(), message }])
        };
        let spec = &request["spec"];
        let seconds = match &spec["expirationSeconds"] {
            Value::Null => LIFE,
            asked => asked.as_u64().filter(|asked| LIVES.contains(asked)).ok_or_else(|| {
                let why = format!("Invalid value: {asked}: must be from 10 minutes to 48 hours ({LIVES:?} seconds)");
                refuse("spec.expirationSeconds", why)
            })?,
        };
        if !spec["boundObjectRef"].is_null() {
            let why = "Invalid value: there are no objects here that a token could be bound to".to_owned();
            return Err(refuse("spec.boundObjectRef", why));
        }
        let mut audiences = texts(&spec["audiences"]).unwrap_or_default();
        if !spec["audiences"].is_null() && texts(&spec["audiences"]).is_none() || audiences.len() > MOST_AUDIENCES {
            let why = format!("Invalid value: must be a list of at most {MOST_AUDIENCES} names");
            return Err(refuse("spec.audiences", why));
        }
        if audiences.is_empty() {
            audiences.push(self.issuer.clone());
        }
        let found = store.get(&Key::new(kind.resource(), namespace, name)).await?;
        let found = found.ok_or_else(|| Failure::not_found(kind, name))?;
        let account: Value = serde_json::from_slice(&found.value).unwrap_or_default();
        let issued = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = json!({
            "iss": self.issuer, "sub": format!("{SERVICE_ACCOUNT}{namespace}:{name}"), "aud": audiences,
            "iat": issued, "nbf": issued, "exp": issued + seconds, "jti": object::uuid(rand::random()),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": { "name": name, "uid": account["metadata"]["uid"] },
            },
        });
        let token = self.key.sign(&claims).map_err(|error| {
            tracing::error!(%error, "cannot sign a token of a service account");
            Failure::internal("the token cannot be signed; see the log of the control plane")
        })?;
        if token.len() > LONGEST {
            return Err(refuse("spec.audiences", "Invalid value: the names are too long together".to_owned()));
        }
        let expiry = time::OffsetDateTime::from(UNIX_EPOCH + Duration::from_secs(issued + seconds));
        let spec = json!({ "audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": null });
        Ok((spec, json!({ "token": token, "expirationTimestamp": object::timestamp(expiry) })))
    }

    /// Whom a token is of, if it is good for one of the audiences (none: for the API); else why it is not.
    pub(super) async fn authenticate(
        &self,
        store: &dyn Store,
        token: &str,
        audiences: &[String],
        now: SystemTime,
    ) -> Result<std::result::Result<Known, String>> {
        let verified = match self.verifier.verify(token, |_| true, now) {
            Ok(verified) => verified,
            Err(reason) => return Ok(Err(format!("invalid bearer token: {reason}"))),
        };
        let claim = |path: &[&str]| {
            let path: Vec<Box<str>> = path.iter().map(|part| (*part).into()).collect();
            verified.claim(&path).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let namespace = claim(&["kubernetes.io", "namespace"]);
        let (name, uid) =
            (claim(&["kubernetes.io", "serviceaccount", "name"]), claim(&["kubernetes.io", "serviceaccount", "uid"]));
        let user = format!("{SERVICE_ACCOUNT}{namespace}:{name}");
        if claim(&["sub"]) != user || uid.is_empty() {
            return Ok(Err("invalid bearer token: it is of no service account".to_owned()));
        }
        let own = [self.issuer.clone()];
        let asked = if audiences.is_empty() { &own[..] } else { audiences };
        let meant = verified.claim(&["aud".into()]).and_then(texts).unwrap_or_default();
        let admitted: Vec<String> = asked.iter().filter(|one| meant.contains(one)).cloned().collect();
        if admitted.is_empty() {
            return Ok(Err(format!("token audiences {meant:?} is invalid for the target audiences {asked:?}")));
        }
        let account = store.get(&Key::new("/serviceaccounts", namespace.as_str(), name.as_str())).await?;
        let account: Value =
            account.map(|record| serde_json::from_slice(&record.value).unwrap_or_default()).unwrap_or_default();
        if account["metadata"]["uid"] != uid || !account["metadata"]["deletionTimestamp"].is_null() {
            return Ok(Err("service account token has been invalidated".to_owned()));
        }
        let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        let mut user = User::new(user, groups);
        user.uid = uid;
        user.until = Some(verified.until());
        user.extra.insert(CREDENTIAL.to_owned(), vec![format!("JTI={}", claim(&["jti"]))]);
        Ok(Ok(Known { user, audiences: admitted }))
    }
}

/// A list of texts; one text is a list of one.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}
