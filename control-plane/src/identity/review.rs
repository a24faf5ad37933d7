//! Service-account tokens as proof of who a workload is: an API server says what they are worth (`TokenReview`,
//! `authentication.k8s.io/v1`). Which server that is, is the caller's: a Kubernetes cluster's, or this control plane's own.
//!
//! Tokens are never looked into before the server has vouched for them, and are neither logged nor kept.

use super::token::{Claims, is_label};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use serde::Deserialize;
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;

/// The audience that tokens must be meant for: one that was taken from an API server's client proves nothing here.
pub const AUDIENCE: &str = "weft.mesh";
/// Annotation of a service account: the services, separated by commas, that its workloads may register as endpoints of.
pub const SERVICES: &str = "weft.mesh/services";
/// What the names of service accounts begin with among users.
const ACCOUNT: &str = "system:serviceaccount:";
/// Longer texts are no tokens.
const MAX_TOKEN: usize = 16 << 10;
/// How long the server may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Reviews under way at once: anybody may ask for one.
const AT_ONCE: usize = 64;

/// Whom a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Namespace of the identity.
    pub namespace: String,
    /// Service account of the identity.
    pub name: String,
    /// When the token was made; the epoch where it does not say.
    pub issued_at: SystemTime,
    /// The pod that it is bound to, or the account's uid: what a record may name it by.
    pub bearer: String,
}

/// Why a token is not taken. The texts never hold one.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The server does not vouch for it, or not for this use.
    #[error("the service-account token is not accepted: {0}")]
    NotGood(String),
    /// Nobody could be asked.
    #[error("the API server that reviews service-account tokens does not answer: {0}")]
    Away(String),
}

/// Asks an API server.
pub struct Reviewer {
    client: kube::Client,
    asking: Semaphore,
}

impl Reviewer {
    /// Asks the server of `client`, which must be allowed to create `tokenreviews`.
    #[must_use]
    pub fn new(client: kube::Client) -> Self {
        Self { client, asking: Semaphore::new(AT_ONCE) }
    }

    /// Whom the token speaks for.
    ///
    /// # Errors
    /// When the server does not say so.
    pub async fn review(&self, token: &str) -> Result<Account, Refusal> {
        if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Refusal::NotGood(format!("it must have 1 to {MAX_TOKEN} printable characters")));
        }
        let _turn = self.asking.try_acquire().map_err(|_| Refusal::Away("too many reviews under way".to_owned()))?;
        let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let asked = tokio::time::timeout(DEADLINE, async { api.create(&PostParams::default(), &review).await }).await;
        let asked = asked.map_err(|_| Refusal::Away(format!("nothing in {DEADLINE:?}")))?;
        let answer = asked.map_err(|error| match error {
            kube::Error::Api(status) => Refusal::Away(status.message),
            other => Refusal::Away(other.to_string()),
        })?;
        account(&answer.status.unwrap_or_default(), issued_at(token))
    }
}

/// What an answer says.
fn account(status: &TokenReviewStatus, issued_at: SystemTime) -> Result<Account, Refusal> {
    let refuse = |text: String| Err(Refusal::NotGood(text));
    if let Some(error) = status.error.as_deref().filter(|e| !e.is_empty()) {
        return refuse(error.to_owned());
    }
    if status.authenticated != Some(true) {
        return refuse("it has expired, was revoked, or is of another cluster".to_owned());
    }
    // A server that knows nothing of audiences leaves them out: then it has vouched for its own.
    if !status.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
        return refuse(format!("it is not meant for the audience {AUDIENCE:?}"));
    }
    let user = status.user.clone().unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let Some((namespace, account)) = name.strip_prefix(ACCOUNT).and_then(|rest| rest.split_once(':')) else {
        return refuse(format!("{name:?} is no service account"));
    };
    if !is_label(namespace) || !is_label(account) {
        return refuse(format!("{name:?} cannot be a name in a SPIFFE id"));
    }
    let extra = |key: &str| user.extra.as_ref()?.get(&format!("authentication.kubernetes.io/{key}"))?.first().cloned();
    Ok(Account {
        namespace: namespace.to_owned(),
        name: account.to_owned(),
        issued_at,
        bearer: extra("pod-name").map(|pod| format!("pod {pod}")).or(user.uid).unwrap_or_default(),
    })
}

/// The claim `iat` of a token that the server has vouched for (RFC 7519 §4.1.6).
fn issued_at(token: &str) -> SystemTime {
    #[derive(Deserialize)]
    struct Body {
        iat: u64,
    }
    let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let body = payload.and_then(|json| serde_json::from_slice::<Body>(&json).ok());
    let since = body.map_or(Duration::ZERO, |body| Duration::from_secs(body.iat));
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What workloads of a service account may register as, where its object says so.
pub fn claims(account: &ServiceAccount) -> Option<Claims> {
    let services = account.metadata.annotations.as_ref()?.get(SERVICES)?;
    Some(Claims {
        namespace: account.metadata.namespace.clone()?,
        service_account: account.metadata.name.clone()?,
        services: services.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect(),
        uses: None,
        expires_at: u64::MAX,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const THEN: SystemTime = SystemTime::UNIX_EPOCH;

    fn said(change: impl FnOnce(&mut Value)) -> Result<Account, String> {
        let mut status = json!({"authenticated": true, "audiences": ["weft.mesh"], "user": {
            "username": "system:serviceaccount:shop:cart", "uid": "1234",
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "extra": {"authentication.kubernetes.io/pod-name": ["cart-7"]}}});
        change(&mut status);
        account(&serde_json::from_value(status).unwrap(), THEN).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn a_token_that_the_server_vouches_for_speaks_for_its_account() {
        let cart =
            Account { namespace: "shop".into(), name: "cart".into(), issued_at: THEN, bearer: "pod cart-7".into() };
        assert_eq!(said(|_| ()), Ok(cart));
        assert_eq!(said(|s| s["user"]["extra"] = Value::Null).unwrap().bearer, "1234");
    }

    #[test]
    fn whatever_else_it_says_is_a_refusal() {
        let refused = |change: fn(&mut Value)| said(change).unwrap_err();
        assert!(refused(|s| s["authenticated"] = json!(false)).contains("expired"));
        assert!(refused(|s| s["authenticated"] = Value::Null).contains("expired"));
        assert!(refused(|s| s["error"] = json!("token is too old")).contains("too old"));
        for audiences in [Value::Null, json!([]), json!(["https://kubernetes.default.svc"])] {
            let text = said(|s| s["audiences"] = audiences).unwrap_err();
            assert!(text.contains("not meant for the audience \"weft.mesh\""), "{text}");
        }
        for user in ["ana", "system:serviceaccount:shop", "", "system:node:one", "system:serviceaccount::"] {
            assert!(said(|s| s["user"]["username"] = json!(user)).is_err(), "{user}");
        }
        assert!(refused(|s| s["user"]["username"] = json!("system:serviceaccount:shop:a.b")).contains("SPIFFE"));
        assert!(refused(|s| s["user"] = Value::Null).contains("no service account"));
    }

    #[test]
    fn the_time_of_a_token_is_read_and_without_one_it_is_older_than_everything() {
        let token = |payload: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload));
        assert_eq!(issued_at(&token(r#"{"iat": 1700000000}"#)), THEN + Duration::from_secs(1_700_000_000));
        for token in [token("{}"), token("x"), token(r#"{"iat": 18446744073709551615}"#), "opaque".into(), "..".into()]
        {
            assert_eq!(issued_at(&token), THEN, "{token}");
        }
    }

    #[test]
    fn an_account_may_say_which_services_its_workloads_may_join() {
        let account = |annotations: Value| {
            let account = json!({"metadata": {"name": "cart", "namespace": "shop", "annotations": annotations}});
            claims(&serde_json::from_value(account).unwrap())
        };
        assert!(account(Value::Null).is_none());
        assert_eq!(account(json!({"weft.mesh/services": "cart, cart-v2 ,"})).unwrap().services, ["cart", "cart-v2"]);
        assert!(account(json!({"weft.mesh/services": "*"})).unwrap().allows("anything"));
        assert!(!account(json!({"weft.mesh/services": ""})).unwrap().allows("cart"));
    }
}
