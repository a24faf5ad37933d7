//! In a Kubernetes cluster, whose objects are not this API's: the cluster says whose a token is, its roles say who may see what of the mesh, and
//! requests for objects are carried to its API server with the credentials that they came with, and no others.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header, request::Parts};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::failure::{Failure, Result};
use crate::rbac::{AUTHENTICATED, User};

/// How long the API server may take to say whose a token is.
const REVIEW: Duration = Duration::from_secs(5);
/// For so long what it said is believed.
const BELIEVED: Duration = Duration::from_secs(10);
/// Tokens that are remembered.
const MOST: usize = 4096;
/// Longer texts are no tokens.
const LONGEST: usize = 16 << 10;

/// A bearer token. It is never shown.
#[derive(Clone)]
pub(super) struct Token(pub Arc<str>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Whose a token is, and until when that is believed.
type Known = (Instant, Arc<User>);

/// See the module's text.
pub struct Front {
    /// The control plane's own credentials.
    reviewer: kube::Client,
    /// None at all.
    objects: kube::Client,
    /// By the digest of their tokens.
    known: Mutex<HashMap<[u8; 32], Known>>,
}

impl Front {
    /// Before an API server: asked whose tokens are as `reviewer`, and reached by `objects`, which brings no credentials of its own.
    #[must_use]
    pub fn new(reviewer: kube::Client, objects: kube::Client) -> Self {
        Self { reviewer, objects, known: Mutex::default() }
    }

    /// Whose a token is; `None`: nobody's.
    pub(super) async fn user(&self, token: &str) -> Result<Option<Arc<User>>> {
        if token.len() > LONGEST {
            return Ok(None);
        }
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let now = Instant::now();
        if let Some((until, user)) = self.known.lock().get(&key)
            && now < *until
        {
            return Ok(Some(user.clone()));
        }
        let spec = TokenReviewSpec { audiences: None, token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.reviewer.clone());
        let asked = async { api.create(&PostParams::default(), &review).await };
        let answered = tokio::time::timeout(REVIEW, asked).await;
        let answered = answered.map_err(|_| Failure::timeout("the cluster's API server did not answer"))?;
        let answered = answered.map_err(|error| {
            tracing::warn!(%error, "the cluster's API server does not say whose a token is");
            Failure::unavailable("the cluster's API server does not say whose the token is")
        })?;
        let status = answered.status.unwrap_or_default();
        let Some(info) = status.user.filter(|_| status.authenticated == Some(true)) else { return Ok(None) };
        let mut groups = info.groups.unwrap_or_default();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        let user = Arc::new(User {
            name: info.username.unwrap_or_default(),
            groups,
            uid: info.uid.unwrap_or_default(),
            extra: info.extra.unwrap_or_default(),
            until: None,
        });
        let mut known = self.known.lock();
        if known.len() >= MOST {
            known.retain(|_, (until, _)| now < *until);
        }
        if known.len() < MOST {
            known.insert(key, (now + BELIEVED, user.clone()));
        }
        Ok(Some(user))
    }

    /// Has the API server answer a request for objects.
    pub(super) async fn forward(&self, parts: &Parts, body: Bytes, token: &str) -> Result<Response<Body>> {
        let mut request = Request::new(kube::client::Body::from(body.to_vec()));
        *request.method_mut() = parts.method.clone();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(|_| Failure::no_such_path())?;
        for name in [header::ACCEPT, header::CONTENT_TYPE, header::USER_AGENT] {
            if let Some(value) = parts.headers.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        for (name, value) in parts.headers.iter().filter(|(name, _)| name.as_str().starts_with("impersonate-")) {
            request.headers_mut().append(name.clone(), value.clone());
        }
        let mut credentials = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| Failure::unauthorized())?;
        credentials.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, credentials);
        let answered = self.objects.send(request).await.map_err(|error| {
            tracing::warn!(%error, "the cluster's API server does not answer");
            Failure::unavailable("the cluster's API server does not answer")
        })?;
        let (mut head, body) = answered.into_parts();
        for hop in [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
            head.headers.remove(hop);
        }
        Ok(Response::from_parts(head, Body::new(body)))
    }
}
