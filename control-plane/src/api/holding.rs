//! What a page is given of the request behind it: by what an answer that lasts is held (the right that it was begun with, the credentials,
//! the server; it ends with the first of them), and a way to ask the API as whoever asks the page.

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use http::{Request, Response};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Api, Caller, failure::Failure, front::Token, record};
use crate::rbac::{Attributes, Grants, User};

/// By what an answer is open.
#[derive(Clone, Debug)]
pub(super) struct Right {
    pub user: Arc<User>,
    pub asked: Attributes,
    pub changed: watch::Receiver<Arc<Grants>>,
}

/// Waits until an answer has lost its right; for ever where it needs none.
pub(super) async fn lost(right: &mut Option<Right>) -> Failure {
    if let Some(Right { user, asked, changed }) = right {
        let denied = |grants: &Arc<Grants>| grants.allows(user, asked).is_none();
        // Fails when the API is gone: then the answer ends by itself.
        if changed.wait_for(denied).await.is_ok() {
            return Failure::denied(asked, &user.name);
        }
    }
    std::future::pending().await
}

/// It travels with a request to the pages that need it.
#[derive(Clone)]
pub struct Holding {
    pub(super) api: Api,
    /// `None`: the control plane's own, which needs none.
    pub(super) right: Option<Right>,
    pub(super) stopping: CancellationToken,
    /// What the request proved itself with, where it was a token.
    pub(super) token: Option<Token>,
    pub(super) request: Arc<record::Request>,
}

impl Holding {
    /// Waits for the end, and says what it is: `forbidden`, `expired` or `stopping`.
    pub async fn ended(&mut self) -> &'static str {
        let left = self.right.as_ref().and_then(|right| right.user.until);
        let left = left.map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
        let expired = async {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = lost(&mut self.right) => "forbidden",
            () = expired => "expired",
            () = self.stopping.cancelled() => "stopping",
        }
    }

    /// Asks the API, as whoever asks: nothing is allowed that would not be over the network.
    pub async fn ask(&self, mut request: Request<Body>) -> Response<Body> {
        request.extensions_mut().insert(match &self.right {
            Some(right) => Caller::Known(right.user.clone()),
            None => Caller::Control,
        });
        if let Some(Token(token)) = &self.token
            && let Ok(mut value) = http::HeaderValue::try_from(format!("Bearer {token}"))
        {
            value.set_sensitive(true);
            request.headers_mut().insert(http::header::AUTHORIZATION, value);
        }
        request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("localhost"));
        // Boxed: a page is answered within a request of the same kind.
        Box::pin(self.api.handle(request)).await
    }

    /// Writes into the record what was asked and came of it.
    pub fn note(&self, record: &record::Record, detail: &Value) {
        record.note(&self.request, detail);
    }
}
