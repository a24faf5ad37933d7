//! Join tokens: secrets with which workloads outside Kubernetes prove who they may be.
//!
//! A token carries claims (namespace, service account, services, uses, expiry) that only the control plane knows; its text holds an id, a
//! secret and what pins this control plane (SPKI hash of the root, trust domain). Stored are the claims and the SHA-256 of the secret, under
//! a resource that the API does not serve. Uses are counted by compare-and-set, so that one use is never spent twice.

use super::SYSTEM_NAMESPACE;
use crate::store::{Expect, Key, Scope, Store, StoreError, Write};
use aws_lc_rs::{constant_time, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Where tokens are kept: not a resource of the API.
pub(crate) const RESOURCE: &str = "internal.weft.mesh/jointokens";
/// What every token's text begins with.
pub const PREFIX: &str = "weft-join.";
/// Longer texts are no tokens.
const MAX_TEXT: usize = 4096;
/// How often a use is tried against concurrent ones.
const TRIES: usize = 64;

/// What a token allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claims {
    /// Namespace of the identity.
    pub namespace: String,
    /// Service account of the identity.
    pub service_account: String,
    /// Services that its workloads may register as endpoints of; `*` means any of the namespace.
    pub services: Vec<String>,
    /// Certificates it may be exchanged for; `None`: any number.
    pub uses: Option<u32>,
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
}

impl Claims {
    /// Whether workloads of this token may register as endpoints of the service.
    #[must_use]
    pub fn allows(&self, service: &str) -> bool {
        self.services.iter().any(|s| s == "*" || s == service)
    }
}

/// A token as listed: everything but the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Public part of the token.
    pub id: String,
    /// What it allows.
    #[serde(flatten)]
    pub claims: Claims,
    /// How often it was exchanged.
    pub used: u32,
    /// Seconds since the Unix epoch.
    pub created_at: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    #[serde(flatten)]
    token: Token,
    /// SHA-256 of the secret, hexadecimal.
    hash: String,
}

/// The JSON inside a token's text.
#[derive(Serialize, Deserialize)]
struct Text {
    v: u32,
    id: String,
    secret: String,
    spki: String,
    td: String,
}

/// Why a token is not taken or not made. The texts never hold a secret.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Not a token's text at all.
    #[error("this is no join token (they begin with \"{PREFIX}\")")]
    Malformed,
    /// Unknown, revoked, or the wrong secret: not told apart, so that ids cannot be guessed.
    #[error("the join token is not known here, or it was revoked: make a new one with `weft token create`")]
    Unknown,
    /// Past its expiry.
    #[error("join token {0} has expired: make a new one with `weft token create`")]
    Expired(String),
    /// Used as often as it may be.
    #[error("join token {0} was used up: make a new one with `weft token create`")]
    UsedUp(String),
    /// Claims that no token may have.
    #[error("{0}")]
    Invalid(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All tokens of this control plane.
#[derive(Clone)]
pub struct Tokens {
    store: Arc<dyn Store>,
    spki: Spki,
    trust_domain: String,
}

/// The SPKI hash (SHA-256, hexadecimal) of the root that signs at the time of asking.
type Spki = Arc<dyn Fn() -> String + Send + Sync>;

impl Tokens {
    /// Tokens in `store`; each pins the root that `spki` says when it is made.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, spki: Spki, trust_domain: String) -> Self {
        Self { store, spki, trust_domain }
    }

    /// Makes a token; the text is shown this once.
    ///
    /// # Errors
    /// When the claims make no sense or the store fails.
    pub async fn create(&self, claims: Claims, now: SystemTime) -> Result<(Token, String), Refusal> {
        check(&claims, now)?;
        // An id is an argument of commands: it must not begin with a dash.
        let (id, secret) = (hex(&random::<10>()), URL_SAFE_NO_PAD.encode(random::<32>()));
        let token = Token { id: id.clone(), claims, used: 0, created_at: unix(now) };
        let stored = Stored { token: token.clone(), hash: hash(&secret) };
        let write = Write { key: key(&id), expect: Expect::Absent, value: Some(encode(&stored)?) };
        self.store.transact(vec![write]).await?;
        let text = Text { v: 1, id, secret, spki: (self.spki)(), td: self.trust_domain.clone() };
        let json = serde_json::to_vec(&text).map_err(|e| Refusal::Invalid(e.to_string()))?;
        Ok((token, format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))))
    }

    /// All tokens, oldest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self) -> Result<Vec<Token>, Refusal> {
        let scope = Scope { resource: RESOURCE.into(), namespace: None };
        let page = self.store.list(&scope, None, 0, None).await?;
        let read = page.items.iter().filter_map(|r| serde_json::from_slice::<Stored>(&r.value).ok());
        let mut all: Vec<Token> = read.map(|s| s.token).collect();
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(all)
    }

    /// Ends a token; false when there was none. Certificates already issued stay valid to their end.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn revoke(&self, id: &str) -> Result<bool, Refusal> {
        for _ in 0..TRIES {
            let Some(record) = self.store.get(&key(id)).await? else { return Ok(false) };
            let write = Write { key: key(id), expect: Expect::Revision(record.revision), value: None };
            match self.store.transact(vec![write]).await {
                Ok(_) => return Ok(true),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Refusal::Invalid(format!("token {id} is being written by others all the time")))
    }

    /// Removes tokens that expired more than a day ago.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn sweep(&self, now: SystemTime) -> Result<(), Refusal> {
        for token in self.list().await? {
            if token.claims.expires_at.saturating_add(24 * 3600) < unix(now) {
                self.revoke(&token.id).await?;
            }
        }
        Ok(())
    }

    /// The public id in a token's text, whether or not it is good.
    #[must_use]
    pub fn id(text: &str) -> Option<String> {
        parse(text).ok().map(|text| text.id.chars().filter(|c| !c.is_control()).collect())
    }

    /// Spends one use of a token.
    ///
    /// # Errors
    /// When the token is not valid (any more) or the store fails.
    pub async fn redeem(&self, text: &str, now: SystemTime) -> Result<Claims, Refusal> {
        let text = parse(text)?;
        for _ in 0..TRIES {
            let (revision, mut stored) = self.verified(&text, now).await?;
            if stored.token.claims.uses.is_some_and(|uses| stored.token.used >= uses) {
                return Err(Refusal::UsedUp(text.id));
            }
            stored.token.used = stored.token.used.saturating_add(1);
            let write = Write { key: key(&text.id), expect: Expect::Revision(revision), value: Some(encode(&stored)?) };
            match self.store.transact(vec![write]).await {
                Ok(_) => return Ok(stored.token.claims),
                // Somebody else spent a use meanwhile: look again.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Refusal::Invalid(format!("join token {} is being used by too many at once", text.id)))
    }

    /// The claims of a token, without spending a use: for the registration that follows a certificate.
    ///
    /// # Errors
    /// As for [`Self::redeem`], except that a token that was used up still has its claims.
    pub async fn claims(&self, text: &str, now: SystemTime) -> Result<Claims, Refusal> {
        Ok(self.verified(&parse(text)?, now).await?.1.token.claims)
    }

    async fn verified(&self, text: &Text, now: SystemTime) -> Result<(u64, Stored), Refusal> {
        let record = self.store.get(&key(&text.id)).await?.ok_or(Refusal::Unknown)?;
        let stored: Stored = serde_json::from_slice(&record.value).map_err(|_| Refusal::Unknown)?;
        let offered = hash(&text.secret);
        constant_time::verify_slices_are_equal(offered.as_bytes(), stored.hash.as_bytes())
            .map_err(|_| Refusal::Unknown)?;
        if unix(now) >= stored.token.claims.expires_at {
            return Err(Refusal::Expired(text.id.clone()));
        }
        Ok((record.revision, stored))
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.trust_domain)
    }
}

/// Seconds since the Unix epoch.
#[must_use]
pub fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

fn key(id: &str) -> Key {
    Key::new(RESOURCE, "", id)
}

fn encode(stored: &Stored) -> Result<bytes::Bytes, Refusal> {
    serde_json::to_vec(stored).map(Into::into).map_err(|e| Refusal::Invalid(e.to_string()))
}

fn hash(secret: &str) -> String {
    let digest = digest::digest(&digest::SHA256, secret.as_bytes());
    hex(digest.as_ref())
}

fn random<const N: usize>() -> [u8; N] {
    use rand::Rng as _;
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn parse(text: &str) -> Result<Text, Refusal> {
    let text = text.trim();
    let inner = text.strip_prefix(PREFIX).filter(|t| t.len() <= MAX_TEXT).ok_or(Refusal::Malformed)?;
    let json = URL_SAFE_NO_PAD.decode(inner).map_err(|_| Refusal::Malformed)?;
    let text: Text = serde_json::from_slice(&json).map_err(|_| Refusal::Malformed)?;
    if text.v != 1 || text.id.is_empty() || text.id.len() > 64 {
        return Err(Refusal::Malformed);
    }
    Ok(text)
}

/// A DNS label (RFC 1123).
pub(super) fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn check(claims: &Claims, now: SystemTime) -> Result<(), Refusal> {
    let invalid = |text: String| Err(Refusal::Invalid(text));
    if !is_label(&claims.namespace) {
        return invalid(format!("namespace: {:?} is not a DNS label", claims.namespace));
    }
    if claims.namespace == SYSTEM_NAMESPACE {
        return invalid(format!("namespace: {SYSTEM_NAMESPACE} is the control plane's own; nobody joins it"));
    }
    if !is_label(&claims.service_account) {
        return invalid(format!("serviceAccount: {:?} is not a DNS label", claims.service_account));
    }
    if claims.services.len() > 64 {
        return invalid("services: more than 64".to_owned());
    }
    if let Some(bad) = claims.services.iter().find(|s| *s != "*" && !is_label(s)) {
        return invalid(format!("services: {bad:?} is neither a DNS label nor \"*\""));
    }
    if claims.uses == Some(0) {
        return invalid("uses: must be at least 1".to_owned());
    }
    if claims.expires_at <= unix(now) {
        return invalid("the token would have expired already".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Embedded, Options};

    fn claims() -> Claims {
        Claims {
            namespace: "shop".into(),
            service_account: "cart".into(),
            services: vec!["cart".into()],
            uses: Some(2),
            expires_at: unix(SystemTime::now()) + 60,
        }
    }

    async fn tokens(directory: &tempfile::TempDir) -> Tokens {
        let store = Embedded::open(&directory.path().join("weft.redb"), Options::default()).unwrap();
        Tokens::new(Arc::new(store), Arc::new(|| "ab".repeat(32)), "weft.local".into())
    }

    #[tokio::test]
    async fn a_token_is_good_for_its_uses_and_no_more_however_many_try_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = tokens(&directory).await;
        let now = SystemTime::now();
        let (token, text) = tokens.create(claims(), now).await.unwrap();
        let tries = futures_util::future::join_all((0..8).map(|_| tokens.redeem(&text, now))).await;
        assert_eq!(tries.iter().filter(|t| t.is_ok()).count(), 2);
        assert!(tries.iter().flat_map(|t| t.as_ref().err()).all(|e| matches!(e, Refusal::UsedUp(_))));
        assert_eq!(tokens.list().await.unwrap()[0].used, 2);
        assert_eq!(tokens.claims(&text, now).await.unwrap().service_account, "cart");
        assert!(tokens.revoke(&token.id).await.unwrap());
        assert!(!tokens.revoke(&token.id).await.unwrap());
        assert!(matches!(tokens.claims(&text, now).await, Err(Refusal::Unknown)));
    }

    #[tokio::test]
    async fn a_wrong_secret_an_expired_token_and_nonsense_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = tokens(&directory).await;
        let now = SystemTime::now();
        let (_, text) = tokens.create(claims(), now).await.unwrap();
        let mut inner: Text = parse(&text).unwrap();
        inner.secret = URL_SAFE_NO_PAD.encode(random::<32>());
        let forged = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(serde_json::to_vec(&inner).unwrap()));
        assert!(matches!(tokens.redeem(&forged, now).await, Err(Refusal::Unknown)));
        let later = now + Duration::from_secs(61);
        assert!(matches!(tokens.redeem(&text, later).await, Err(Refusal::Expired(_))));
        for nonsense in ["", "weft-join.", "weft-join.e30", "kubernetes", "weft-join.%%%"] {
            assert!(matches!(tokens.redeem(nonsense, now).await, Err(Refusal::Malformed)), "{nonsense}");
        }
    }

    #[tokio::test]
    async fn the_secret_is_nowhere_in_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = tokens(&directory).await;
        let (_, text) = tokens.create(claims(), SystemTime::now()).await.unwrap();
        let secret = parse(&text).unwrap().secret;
        let raw = std::fs::read(directory.path().join("weft.redb")).unwrap();
        assert!(!raw.windows(secret.len()).any(|w| w == secret.as_bytes()));
    }

    #[tokio::test]
    async fn nobody_gets_a_token_for_the_control_planes_own_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = tokens(&directory).await;
        let bad = Claims { namespace: SYSTEM_NAMESPACE.into(), ..claims() };
        assert!(tokens.create(bad, SystemTime::now()).await.is_err());
        let bad = Claims { service_account: "a/../b".into(), ..claims() };
        assert!(tokens.create(bad, SystemTime::now()).await.is_err());
    }
}
