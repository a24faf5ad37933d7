//! How a connection is asked to end.

use tokio_util::sync::CancellationToken;

/// Tells the connections of a listener to end. The two are cancelled together, unless nobody would miss an idle
/// connection for a while.
#[derive(Clone, Debug, Default)]
pub struct Leave {
    /// With the calls under way, which say so: `Connection: close`, GOAWAY. No call meets a closed connection.
    pub after_calls: CancellationToken,
    /// HTTP/1 between two calls: closed, although the next call may be on its way (RFC 9112 §9.5).
    pub idle: CancellationToken,
}

impl From<CancellationToken> for Leave {
    /// Both at once.
    fn from(token: CancellationToken) -> Self {
        Self { after_calls: token.clone(), idle: token }
    }
}
