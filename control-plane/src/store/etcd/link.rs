//! The connection to etcd: one member at a time, the next one when it fails; every call with a deadline, signed in where etcd asks for it.
//!
//! A read is tried again on another member; one that was slow is made through the log. A write is sent once: one that was not answered may
//! have been made.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::super::{Result, StoreError};
use super::{
    Settings,
    names::Names,
    operation,
    wire::{
        AuthenticateRequest, CompactionRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
        PutRequest, RangeRequest, RangeResponse, TxnRequest, TxnResponse, auth_client::AuthClient, kv_client::KvClient,
        lease_client::LeaseClient, request_op, response_op, watch_client::WatchClient,
    },
};

/// One member may take this long to be connected to.
const CONNECT: Duration = Duration::from_secs(2);
/// One answer may take this long. Members say themselves after some seconds that they found no majority.
const ANSWER: Duration = Duration::from_secs(4);
/// A read with all its retries.
const READ: Duration = Duration::from_secs(10);
/// An answer that took longer is not believed to be the newest state. A member that hears nothing of its leader asks it again every 500 ms
/// under the same number, and takes an old answer for one to the new question: after a pause of a process such a read can be stale
/// (etcd-io/etcd#20418, mended in 3.6.9).
const PROMPT: Duration = Duration::from_millis(400);
/// Between attempts, grown and spread.
const BACKOFF: Duration = Duration::from_millis(50);
/// Etcd allows one ping in five seconds.
const PING: Duration = Duration::from_secs(10);
/// A page of [`super::load`] at the largest documents that etcd takes by default.
const LARGEST: usize = 256 << 20;

/// A connection and what signs its calls.
#[derive(Clone)]
pub struct Connection {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    /// Which of the link's connections it is.
    pub number: u64,
}

impl Connection {
    /// A request as this connection sends it.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    /// The same, which is cut when the member loses the majority.
    pub fn lasting<T>(&self, message: T) -> Request<T> {
        let mut request = self.request(message);
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        request
    }

    pub fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone()).max_decoding_message_size(LARGEST)
    }

    pub fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(LARGEST)
    }
}

/// The way to etcd, shared by everything of one store.
pub struct Link {
    members: Vec<Endpoint>,
    /// Written by reads that must pass through the log.
    fence: Bytes,
    user: Option<(String, String)>,
    /// The member to try next.
    next: AtomicUsize,
    current: Mutex<Option<Connection>>,
    /// Held while a connection is made, so that one is made for all who wait.
    connecting: tokio::sync::Mutex<()>,
    /// Number of the newest connection; moves also when one is given up.
    moved: watch::Sender<u64>,
}

impl Link {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// When an address or the TLS settings make no sense.
    pub fn new(settings: &Settings) -> Result<Self> {
        let scheme = if settings.tls.is_some() { "https" } else { "http" };
        let member = |address: &String| {
            let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
                .connect_timeout(CONNECT)
                .http2_keep_alive_interval(PING)
                .keep_alive_timeout(Duration::from_secs(5))
                .keep_alive_while_idle(true)
                .tcp_nodelay(true);
            match &settings.tls {
                Some(tls) => endpoint.tls_config(tls.clone()),
                None => Ok(endpoint),
            }
        };
        let members = settings.members.iter().map(member).collect::<std::result::Result<Vec<_>, _>>();
        let members = members.map_err(|error| StoreError::Failed(chain(&error)))?;
        if members.is_empty() {
            return Err(StoreError::Failed("no member of etcd is named".to_owned()));
        }
        Ok(Self {
            // Replicas that start together do not all begin with the same member.
            next: AtomicUsize::new(rand::random_range(0..members.len())),
            members,
            fence: Names::under(&settings.prefix).fence(),
            user: settings.user.clone(),
            current: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            moved: watch::Sender::new(0),
        })
    }

    /// A connection, made where there is none; every member is tried once.
    ///
    /// # Errors
    /// When no member answers. Nothing was sent.
    pub async fn connection(&self) -> std::result::Result<Connection, Status> {
        let current = || self.current.lock().clone();
        if let Some(connection) = current() {
            return Ok(connection);
        }
        let _one = self.connecting.lock().await;
        if let Some(connection) = current() {
            return Ok(connection);
        }
        let mut last = Status::unavailable("no member");
        for _ in 0..self.members.len() {
            let member = &self.members[self.next.load(Ordering::Relaxed) % self.members.len()];
            match timeout(CONNECT * 2, self.connect(member)).await {
                Ok(Ok(connection)) => {
                    *self.current.lock() = Some(connection.clone());
                    return Ok(connection);
                }
                Ok(Err(status)) => last = status,
                Err(_) => last = Status::unavailable(format!("{}: no answer in time", member.uri())),
            }
            self.next.fetch_add(1, Ordering::Relaxed);
        }
        Err(last)
    }

    async fn connect(&self, member: &Endpoint) -> std::result::Result<Connection, Status> {
        let channel = member.connect().await;
        let channel = channel.map_err(|e| Status::unavailable(format!("{}: {}", member.uri(), chain(&e))))?;
        let token = match &self.user {
            None => None,
            Some((name, password)) => {
                let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
                let answer = AuthClient::new(channel.clone()).authenticate(request).await?;
                let token = answer.into_inner().token.parse();
                Some(token.map_err(|_| Status::internal("etcd gave a token that is no text"))?)
            }
        };
        let mut number = 0;
        self.moved.send_modify(|n| {
            *n += 1;
            number = *n;
        });
        Ok(Connection { channel, token, number })
    }

    /// This connection is no good: whoever comes next gets one to another member.
    pub fn give_up(&self, number: u64) {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|c| c.number == number) {
            *current = None;
            self.next.fetch_add(1, Ordering::Relaxed);
            drop(current);
            self.moved.send_modify(|n| *n += 1);
        }
    }

    /// The connection that there is has not answered in time.
    pub fn give_up_current(&self) {
        let current = self.current.lock().as_ref().map(|connection| connection.number);
        if let Some(number) = current {
            self.give_up(number);
        }
    }

    /// Ends when this connection was given up.
    pub async fn given_up(&self, number: u64) {
        // The sender is this very value.
        let _ = self.moved.subscribe().wait_for(|n| *n > number).await;
    }

    /// A range, tried again until it is answered or too late. What it shows is what was there at some moment of this call, or at the revision
    /// that was asked for.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        let end = Instant::now() + READ;
        let mut backoff = BACKOFF;
        loop {
            let asked = async {
                let connection = self.connection().await?;
                let begun = Instant::now();
                let answer = self.once(&connection, connection.kv().range(connection.request(request.clone()))).await?;
                if request.revision > 0 || begun.elapsed() < PROMPT {
                    return Ok(answer);
                }
                tracing::debug!("a slow answer of etcd is asked for again, through its log");
                self.range_through_log(&request).await
            };
            let status = match timeout_at(end, asked).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("etcd did not answer in time"),
            };
            if !is_trouble(&status) || Instant::now() + backoff >= end {
                return Err(failed(&status));
            }
            tokio::time::sleep(backoff.mul_f64(rand::random_range(0.5..1.5))).await;
            backoff = (backoff * 2).min(Duration::from_secs(1));
        }
    }

    /// A range as part of a transaction that writes: the members agree on its place among all writes.
    async fn range_through_log(&self, request: &RangeRequest) -> std::result::Result<RangeResponse, Status> {
        let fence = PutRequest { key: self.fence.clone(), ..PutRequest::default() };
        let success = vec![
            operation(request_op::Request::RequestRange(request.clone())),
            operation(request_op::Request::RequestPut(fence)),
        ];
        let answer = self.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
        match answer.responses.into_iter().next().and_then(|first| first.response) {
            Some(response_op::Response::ResponseRange(range)) => Ok(RangeResponse { header: answer.header, ..range }),
            _ => Err(Status::internal("etcd answered a range with something else")),
        }
    }

    /// Forgets history up to this revision of etcd.
    pub async fn compact(&self, revision: i64) -> std::result::Result<(), Status> {
        let connection = self.connection().await?;
        let request = CompactionRequest { revision, physical: false };
        self.once(&connection, connection.kv().compact(connection.request(request))).await.map(drop)
    }

    /// A transaction, sent once; again only where etcd said that it was not made.
    pub async fn txn(&self, request: TxnRequest) -> std::result::Result<TxnResponse, Status> {
        let mut again = true;
        loop {
            let connection = self.connection().await?;
            match self.once(&connection, connection.kv().txn(connection.request(request.clone()))).await {
                // The token is of before a restart of etcd, or too old: asked for again with the next connection.
                Err(status) if is_about_token(&status) && std::mem::take(&mut again) => {}
                done => return done,
            }
        }
    }

    /// A lease of so many seconds; its id.
    pub async fn grant(&self, ttl: Duration) -> std::result::Result<i64, Status> {
        let connection = self.connection().await?;
        let request = LeaseGrantRequest { ttl: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX), id: 0 };
        let answer = self.once(&connection, connection.lease().lease_grant(connection.request(request))).await?;
        Ok(answer.id)
    }

    /// Renews a lease: how many seconds it has from now; 0: it is gone.
    pub async fn renew(&self, id: i64) -> std::result::Result<u64, Status> {
        let connection = self.connection().await?;
        let mut client = connection.lease();
        let asked = async {
            let request = connection.request(tokio_stream::once(LeaseKeepAliveRequest { id }));
            let answer = client.lease_keep_alive(request).await?.into_inner().message().await?;
            Ok(Response::new(answer.map_or(0, |answer| u64::try_from(answer.ttl).unwrap_or_default())))
        };
        self.once(&connection, asked).await
    }

    /// Ends a lease, and what hangs on it.
    pub async fn revoke(&self, id: i64) -> std::result::Result<(), Status> {
        let connection = self.connection().await?;
        let request = connection.request(LeaseRevokeRequest { id });
        self.once(&connection, connection.lease().lease_revoke(request)).await.map(drop)
    }

    /// One call; a connection that is in trouble is given up.
    async fn once<T>(
        &self,
        connection: &Connection,
        call: impl Future<Output = std::result::Result<Response<T>, Status>>,
    ) -> std::result::Result<T, Status> {
        let answer = match timeout(ANSWER, call).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("etcd did not answer in time")),
        };
        if let Err(status) = &answer
            && is_trouble(status)
        {
            tracing::debug!(%status, "the connection to etcd is given up");
            self.give_up(connection.number);
        }
        answer
    }
}

/// Whether another connection may help.
fn is_trouble(status: &Status) -> bool {
    use Code::{Aborted, Cancelled, DeadlineExceeded, Internal, Unauthenticated, Unavailable, Unknown};
    matches!(status.code(), Unavailable | DeadlineExceeded | Cancelled | Unknown | Internal | Unauthenticated | Aborted)
        || is_about_token(status)
}

fn is_about_token(status: &Status) -> bool {
    status.code() == Code::Unauthenticated || status.message().contains("revision of auth store is old")
}

/// Whether the revision that was asked for has been compacted.
pub fn is_compacted(error: &StoreError) -> bool {
    matches!(error, StoreError::Failed(text) if text.contains("has been compacted"))
}

/// What a status means to whoever uses the store.
pub fn failed(status: &Status) -> StoreError {
    let text = status.message();
    if text.contains("too many operations in txn request") {
        let most = "more writes than etcd takes at once: start it with a larger --max-txn-ops (Weft takes up to 1023)";
        return StoreError::Refused(most.to_owned());
    }
    if text.contains("request is too large") || text.contains("received message larger than max") {
        let most = "larger than what etcd takes at once (1.5 MiB): start it with a larger --max-request-bytes";
        return StoreError::Refused(most.to_owned());
    }
    let why = if is_trouble(status) { "cannot be reached: " } else { "" };
    let text = if text.is_empty() { status.code().description() } else { text };
    StoreError::Failed(format!("etcd {why}{text}"))
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source()).map(|e| format!(": {e}"));
    std::iter::once(error.to_string()).chain(causes).collect()
}

/// One key.
pub fn one(key: Bytes) -> RangeRequest {
    RangeRequest { key, ..RangeRequest::default() }
}
