//! Active health checks: asks the endpoints of backends that want it, on one worker, and tells their clusters what it heard.
//!
//! When and what to ask, and what answers mean, is `weft_policy::health`'s. Probes travel as calls do, through the endpoint's sidecar where
//! there is one, and take no place in the backend's bulkhead.

use super::cluster::{Cluster, unit};
use super::connect::{Connector, Protocol};
use super::member::Member;
use crate::codec::{Frame, RequestHead, Value};
use crate::discovery::Directory;
use crate::error::{Kind, ProxyError};
use crate::random;
use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderName, HeaderValue};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use weft_policy::health::{Action, Check, Outcome, Probe, grpc_is_serving, grpc_request};

/// How long to wait when there is nothing to check.
const NOTHING: Duration = Duration::from_secs(60);
/// Of an answer to a gRPC check.
const ANSWER: usize = 16 * 1024;
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Which endpoint of which backend.
type Key = (Arc<str>, u16, Arc<str>);

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The checking of one endpoint.
struct Checked {
    probe: Probe,
    cluster: Arc<Cluster>,
    /// Which question is the last: the answer to one that was given up is not that of the next.
    asked: u64,
}

/// An endpoint, the question, and how it went.
type Answered = (Key, u64, Outcome);

/// Checks until `end`.
pub async fn run(directory: Directory, connector: Connector, end: impl Future<Output = ()>) {
    let mut end = std::pin::pin!(end);
    let mut published = directory.changes();
    let mut probes: HashMap<Key, Checked> = HashMap::new();
    let mut asked: JoinSet<Answered> = JoinSet::new();
    loop {
        let wake = turn(&directory, &connector, &mut probes, &mut asked);
        tokio::select! {
            () = &mut end => return,
            () = tokio::time::sleep_until(wake.into()) => {}
            changed = published.changed() => {
                if changed.is_err() {
                    return end.await;
                }
            }
            Some(answered) = asked.join_next(), if !asked.is_empty() => {
                if let Ok(answered) = answered {
                    observe(&mut probes, &answered);
                }
            }
        }
    }
}

fn observe(probes: &mut HashMap<Key, Checked>, (key, question, outcome): &Answered) {
    if let Some(checked) = probes.get_mut(key).filter(|checked| checked.asked == *question)
        && let Some(change) = checked.probe.observe(*outcome, now())
    {
        checked.cluster.judge(&key.2, change.to);
    }
}

/// Begins the probes that are due; when the next one is.
fn turn(
    directory: &Directory,
    connector: &Connector,
    probes: &mut HashMap<Key, Checked>,
    asked: &mut JoinSet<Answered>,
) -> Instant {
    let at = now();
    let mut wake = at + NOTHING;
    let mut known = HashMap::with_capacity(probes.len());
    let snapshot = directory.snapshot().clone();
    for (service, port, cluster) in snapshot.clusters() {
        let backend = cluster.backend();
        let Some(settings) = &backend.health_check else { continue };
        for member in cluster.members() {
            let key: Key = (service.into(), port, Arc::clone(&member.endpoint.uid));
            let random = || unit(random::draw());
            let (mut probe, mut question) = match probes.remove(&key) {
                Some(checked) => (checked.probe, checked.asked),
                None => (Probe::new(settings.clone(), at, random()), 0),
            };
            if probe.settings() != settings
                && let Some(change) = probe.update(settings.clone(), at, random())
            {
                cluster.judge(&key.2, change.to);
            }
            loop {
                match probe.next(at, random()) {
                    Action::Wait(until) => {
                        wake = wake.min(until);
                        break;
                    }
                    Action::Probe { deadline } => {
                        wake = wake.min(deadline);
                        question += 1;
                        let (key, check) = (key.clone(), settings.check.clone());
                        let (connector, member) = (connector.clone(), Arc::clone(&member));
                        asked.spawn(async move {
                            let well = tokio::time::timeout_at(deadline.into(), ask(&connector, &member, &check)).await;
                            let outcome = if matches!(well, Ok(Ok(true))) { Outcome::Well } else { Outcome::Failed };
                            (key, question, outcome)
                        });
                        break;
                    }
                    Action::GiveUp => {
                        if let Some(change) = probe.observe(Outcome::Failed, at) {
                            cluster.judge(&key.2, change.to);
                        }
                    }
                }
            }
            known.insert(key, Checked { probe, cluster: Arc::clone(cluster), asked: question });
        }
    }
    // Who is no longer checked is believed as discovery has it.
    for ((_, _, uid), Checked { cluster, .. }) in probes.drain() {
        cluster.judge(&uid, weft_policy::health::Verdict::Unknown);
    }
    *probes = known;
    wake
}

/// One question; whether the answer is a good one.
async fn ask(connector: &Connector, member: &Member, check: &Check) -> Result<bool, ProxyError> {
    let target = member.target();
    let own = member.endpoint.address.to_string();
    match check {
        Check::Tcp => connector.tcp(target).await.map(|_| true),
        Check::Http { path, host, .. } => {
            let host = if host.is_empty() { &own } else { &**host };
            let mut head = RequestHead::new(Method::GET, host, if path.is_empty() { "/" } else { path });
            head.headers.append(header::USER_AGENT, HeaderValue::from_static("weft-proxy"));
            let protocol = match member.endpoint.protocol {
                Some(protocol) if protocol.is_http2() => Protocol::Http2,
                _ => Protocol::Http1,
            };
            let mut upstream = connector.http(target, protocol).await?;
            upstream.send_head(&head, true).await?;
            let (_, mut recv) = upstream.split();
            let status = loop {
                let head = recv.head().await?;
                if !head.status.is_informational() {
                    break head.status.as_u16();
                }
            };
            // A short answer leaves its connection to the next probe.
            let mut room = ANSWER;
            while let Some(Ok(Frame::Data(data))) = recv.frame().await {
                match room.checked_sub(data.len()) {
                    Some(left) => room = left,
                    None => break,
                }
            }
            Ok(check.status_is_well(status))
        }
        Check::Grpc { service } => {
            let mut head = RequestHead::new(Method::POST, &own, "/grpc.health.v1.Health/Check");
            head.headers.append(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            head.headers.append(header::TE, HeaderValue::from_static("trailers"));
            let mut upstream = connector.http(target, Protocol::Http2).await?;
            upstream.send_head(&head, false).await?;
            let (mut send, mut recv) = upstream.split();
            send.last(Bytes::from(grpc_request(service))).await?;
            let head = recv.head().await?;
            let ok = |value: Option<Value<'_>>| value.is_some_and(|value| value.as_bytes() == b"0");
            let mut body = Vec::new();
            let mut status = ok(head.headers.get(&GRPC_STATUS));
            while let Some(frame) = recv.frame().await {
                match frame? {
                    Frame::Data(data) if body.len() + data.len() <= ANSWER => body.extend_from_slice(&data),
                    Frame::Data(_) => return Err(ProxyError::because(Kind::UpstreamProtocol, "a long health answer")),
                    Frame::Trailers(trailers) => status = ok(trailers.get(&GRPC_STATUS)),
                }
            }
            Ok(status && grpc_is_serving(&body))
        }
    }
}
