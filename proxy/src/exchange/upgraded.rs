//! What is left of a call once its connection carries something else than HTTP: bytes both ways.

use super::stream::Flow;
use super::tcp::copy;
use crate::codec::{Io, Reply, RequestBody, ResponseHead, Upstream};
use crate::endpoint::Pick;
use crate::error::ProxyError;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

/// An upgraded connection without a byte either way for this long ends.
const UPGRADED_IDLE: Duration = Duration::from_secs(3600);

/// A response that ends HTTP on its connection: 101, or 2xx to CONNECT.
pub(super) struct Upgraded {
    pub head: ResponseHead,
    pub upstream: Upstream,
    pub pick: Pick,
}

impl Upgraded {
    /// Tells the caller and carries bytes until both sides are done, or `revoked` says why they may no longer.
    pub async fn join<'c>(
        mut self,
        mut reply: Reply<'c>,
        body: RequestBody<'c>,
        flow: &Flow,
        mut revoked: Pin<&mut impl Future<Output = ProxyError>>,
    ) -> Result<(), ProxyError> {
        // What goes on is a connection, not a call.
        self.pick.release_call();
        reply.send_head(self.head, false).await?;
        let mut upstream: Io = self.upstream.into_io()?;
        let mut caller = reply.into_io(body).await?;
        let moved = |sent: u64, received: u64| {
            flow.sent(usize::try_from(sent).unwrap_or(usize::MAX));
            flow.received(usize::try_from(received).unwrap_or(usize::MAX));
        };
        let copied = {
            let mut copied = pin!(copy(&mut caller, &mut upstream, Some(UPGRADED_IDLE), moved));
            poll_fn(|cx| match revoked.as_mut().poll(cx) {
                Poll::Ready(error) => Poll::Ready(Err(error)),
                Poll::Pending => copied.as_mut().poll(cx),
            })
            .await
        };
        if copied.is_err() {
            // The other side must learn that this is no orderly end.
            caller.abort();
            upstream.abort();
        }
        copied
    }
}
