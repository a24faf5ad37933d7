//! A call is over at its deadline, whatever its policy is and whatever servers do: its caller has an answer, and no attempt of it goes on.
//! Policies and behaviours are drawn; the seed is in the report.

use crate::mesh;
use crate::sidecar::client::Client;
use crate::sidecar::eventually;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(4);
/// How long servers hold what they do not end themselves: far more than deadline and slack.
const HELD: Duration = Duration::from_secs(18);
const POLICIES: usize = 16;
const CALLS: usize = 320;
const TOGETHER: usize = 40;

/// One attempt as a server saw it.
#[derive(Debug, Clone)]
struct Seen {
    call: usize,
    began: Instant,
    /// It was answered to its end, or its connection was closed.
    ended: Option<Instant>,
}

type Ledger = Arc<Mutex<Vec<Seen>>>;

const BEHAVIOURS: [&str; 7] = ["prompt", "late", "silent", "stalls", "drips", "fails", "resets"];

/// A server whose requests say how it should behave: `/p<policy>/<behaviour>/<call>`.
async fn server(ledger: Ledger) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let ledger = Arc::clone(&ledger);
            open.spawn(async move {
                let mut stream = BufReader::new(stream);
                while serve(&mut stream, &ledger).await.is_some() {}
            });
        }
    });
    (at, task)
}

/// One request; `None`: the connection is over.
async fn serve(stream: &mut BufReader<TcpStream>, ledger: &Ledger) -> Option<()> {
    let (first, headers) = crate::sidecar::client::head(stream).await?;
    let _ = crate::sidecar::client::body(stream, &headers).await?;
    let mut path = first.split(' ').nth(1)?.split('/').skip(2);
    let (behaviour, call) = (path.next()?, path.next()?.parse().ok()?);
    let index = {
        let mut seen = ledger.lock();
        seen.push(Seen { call, began: Instant::now(), ended: None });
        seen.len() - 1
    };
    let goes_on = tokio::select! {
        goes_on = behave(behaviour, call) => Some(goes_on),
        // Nobody sends a second request before the first is answered.
        _ = gone(stream) => None,
    };
    let goes_on = match goes_on {
        Some(Some(answer)) => stream.write_all(answer).await.is_ok(),
        Some(None) => hold(stream, behaviour).await,
        None => false,
    };
    ledger.lock()[index].ended = Some(Instant::now());
    goes_on.then_some(())
}

/// What is said in the end; `None`: see [`hold`].
async fn behave(behaviour: &str, call: usize) -> Option<&'static [u8]> {
    match behaviour {
        "prompt" => Some(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        "late" => {
            tokio::time::sleep(Duration::from_millis(u64::try_from(call % 7).unwrap() * 60)).await;
            Some(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        }
        "fails" => Some(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno"),
        _ => None,
    }
}

/// Does not end by itself what it began, until its peer goes or for [`HELD`].
async fn hold(stream: &mut BufReader<TcpStream>, behaviour: &str) -> bool {
    let head: &[u8] = match behaviour {
        "stalls" => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal",
        "drips" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "resets" => return false,
        _ => b"",
    };
    if stream.write_all(head).await.is_err() {
        return false;
    }
    let mut drops = tokio::time::interval(Duration::from_millis(20));
    let held = async {
        loop {
            tokio::select! {
                () = gone(stream) => return,
                _ = drops.tick() => {}
            }
            if behaviour == "drips" && stream.write_all(b"1\r\n.\r\n").await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(HELD, held).await;
    false
}

async fn gone(stream: &mut BufReader<TcpStream>) {
    let mut one = [0];
    let _ = stream.read(&mut one).await;
}

fn millis(of: u32) -> Value {
    format!("{:.3}s", f64::from(of) / 1000.0).into()
}

/// A rule for `/p<n>` and what it gives a call.
fn policy(random: &mut StdRng, n: usize) -> (Value, Value, Duration) {
    let deadline = random.random_range(80..700);
    let mut rule = json!({
        "matches": [{"pathPrefix": format!("/p{n}")}],
        "backends": [{"service": if random.random_bool(0.3) { "shop/narrow" } else { "shop/wide" }, "port": 80, "weight": 1}],
        "requestTimeout": millis(deadline),
    });
    if random.random_bool(0.5) {
        rule["backendRequestTimeout"] = millis(random.random_range(30..deadline));
    }
    if random.random_bool(0.7) {
        rule["retry"] = json!({
            "attempts": random.random_range(0..5), "codes": [503], "methods": ["POST"], "backoff": millis(random.random_range(5..400)),
        });
    }
    let fault = if random.random_bool(0.3) {
        json!({"matches": [{"pathPrefix": format!("/p{n}")}], "delay": {"fixed": millis(random.random_range(10..1500))}})
    } else {
        Value::Null
    };
    (rule, fault, Duration::from_millis(deadline.into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_outlives_the_deadline_of_its_call_under_any_policy() {
    let seed: u64 = rand::random();
    let random = &mut StdRng::seed_from_u64(seed);
    let ledger = Ledger::default();
    let servers =
        [server(Arc::clone(&ledger)).await, server(Arc::clone(&ledger)).await, server(Arc::clone(&ledger)).await];
    let at = [servers[0].0, servers[1].0, servers[2].0];
    let policies: Vec<_> = (0..POLICIES).map(|n| policy(random, n)).collect();
    let rules: Value = policies.iter().map(|(rule, ..)| rule.clone()).collect();
    let faults: Value = policies.iter().map(|(_, fault, _)| fault.clone()).filter(|fault| !fault.is_null()).collect();
    let frontend = json!({
        "routes": [{"name": "shop/r", "kind": "ROUTE_KIND_HTTP", "rules": rules}], "faults": faults,
        "hedge": {"percentile": 50, "minDelay": "0.03s"}, "retryBudget": {"percent": 100, "minPerSecond": 1000},
    });
    // No breaker takes servers out: each call is to meet what it asks for. Few places: calls wait for one, too.
    let breaker = json!({"disabled": true});
    let wide = json!({"breaker": breaker});
    let narrow = json!({"breaker": breaker, "limits": {"connections": 2, "requests": 4, "pending": 100}});
    let sidecar = mesh(frontend, &[("wide", &at, wide), ("narrow", &at, narrow)]);
    let proxy = sidecar.at("outbound");
    let drawn: Vec<_> = (0..CALLS)
        .map(|call| {
            (call, random.random_range(0..POLICIES), random.random_range(0..BEHAVIOURS.len()), random.random_bool(0.3))
        })
        .collect();
    let mut over: Vec<Option<(Instant, Instant)>> = vec![None; CALLS];
    for batch in drawn.chunks(TOGETHER) {
        let mut calls = JoinSet::new();
        for &(call, policy, behaviour, posts) in batch {
            let behaviour = BEHAVIOURS[behaviour];
            calls.spawn(async move {
                let mut client = Client::tunnel(proxy, "front:80").await;
                let began = Instant::now();
                let method = if posts { "POST" } else { "GET" };
                let request = format!(
                    "{method} /p{policy}/{behaviour}/{call} HTTP/1.1\r\nHost: front\r\nContent-Length: 1\r\n\r\n."
                );
                // A response that is cut off ends the connection.
                let answer = client.exchange(request.as_bytes()).await;
                (call, began, Instant::now(), answer.map(|answer| answer.status))
            });
        }
        for (call, began, ended, status) in calls.join_all().await {
            let (_, policy, behaviour, _) = drawn[call];
            let (behaviour, deadline) = (BEHAVIOURS[behaviour], policies[policy].2);
            let took = ended - began;
            assert!(
                took < deadline + SLACK,
                "seed {seed}: call {call}, {behaviour}: {took:?} for a deadline of {deadline:?}: {status:?}"
            );
            if !["prompt", "late"].contains(&behaviour) {
                assert_ne!(status, Some(200), "seed {seed}: {behaviour}");
            }
            over[call] = Some((began, began + deadline + SLACK));
        }
    }
    // What is still open now is closed within the slack, or was not given up.
    let open = || ledger.lock().iter().filter(|attempt| attempt.ended.is_none()).cloned().collect::<Vec<_>>();
    eventually("the end of every attempt", || open().is_empty().then_some(()));
    let seen = ledger.lock().clone();
    assert!(seen.len() > CALLS / 2, "seed {seed}: {} attempts", seen.len());
    for attempt in seen {
        let (began, over) = over[attempt.call].unwrap();
        let (_, policy, behaviour, _) = drawn[attempt.call];
        let what = format!("seed {seed}: call {}, {}, {:?}", attempt.call, BEHAVIOURS[behaviour], policies[policy]);
        assert!(
            attempt.began >= began && attempt.began < over,
            "{what}: an attempt began {:?} after it",
            attempt.began - began
        );
        let ended = attempt.ended.unwrap();
        assert!(ended < over, "{what}: an attempt ended {:?} after it", ended - began);
    }
}
