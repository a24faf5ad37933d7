//! What is open when a policy changes, or a token expires: it is asked again by who called, with what, and with which token; what would not
//! be admitted any more ends within a second, and what the change does not concern goes on.

use crate::rotation::echo;
use crate::stage::{Caller, Instance, apply, text};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use weft_integration::rig::{DEADLINE, Issuer, Mesh, Run, Sidecar, program, wait_for};
use weft_integration::shop::proto::User;
use weft_integration::shop::proto::users_client::UsersClient;

/// From when a policy is programmed to when it has cut what it concerns.
const SOON: Duration = Duration::from_secs(1);
/// Between two pieces of what flows.
const PACE: Duration = Duration::from_millis(20);

/// What opens a websocket, and what answers it (RFC 6455 §1.3).
const HANDSHAKE: &str = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

/// An exchange that flows until somebody ends it.
struct Open {
    what: String,
    state: Arc<State>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    moved: AtomicU64,
    stop: AtomicBool,
    ended: Mutex<Option<(Instant, String)>>,
}

impl State {
    fn moves(&self) -> bool {
        self.moved.fetch_add(1, SeqCst);
        std::thread::sleep(PACE);
        !self.stop.load(SeqCst)
    }
}

impl Open {
    /// `flow` gives why it ended.
    fn start(what: &str, flow: impl FnOnce(&State) -> String + Send + 'static) -> Self {
        let state = Arc::<State>::default();
        let own = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let why = flow(&own);
            *own.ended.lock().unwrap() = Some((Instant::now(), why));
        });
        let open = Self { what: what.to_owned(), state, thread: Some(thread) };
        open.goes_on();
        open
    }

    fn ended(&self) -> Option<(Instant, String)> {
        self.state.ended.lock().unwrap().clone()
    }

    /// Pieces move on from now.
    #[track_caller]
    fn goes_on(&self) {
        let before = self.state.moved.load(SeqCst);
        wait_for(&format!("{} flows", self.what), || {
            if let Some((_, why)) = self.ended() {
                panic!("{} ended: {why}", self.what);
            }
            let moved = self.state.moved.load(SeqCst);
            if moved > before + 5 { Ok(()) } else { Err(format!("{} pieces", moved - before)) }
        });
    }

    /// It ended, within [`SOON`] of that moment; gives why.
    #[track_caller]
    fn was_cut(&self, since: Instant) -> String {
        let (at, why) = wait_for(&format!("{} ends", self.what), || self.ended().ok_or_else(|| "it flows".to_owned()));
        let late = at.saturating_duration_since(since);
        println!("{}: cut after {late:?}: {why}", self.what);
        assert!(late < SOON, "{}: {late:?}", self.what);
        why
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.state.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A stream of messages both ways.
fn grpc(caller: &Caller, what: &str, metadata: &'static [(&'static str, &str)]) -> Open {
    let metadata: Vec<(&'static str, String)> =
        metadata.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    grpc_with(caller, what, metadata)
}

fn grpc_with(caller: &Caller, what: &str, metadata: Vec<(&'static str, String)>) -> Open {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let channel = runtime.block_on(async { caller.tunnel("users:9000") });
    Open::start(&format!("gRPC {what}"), move |state| {
        runtime.block_on(async {
            let (send, receive) = tokio::sync::mpsc::channel(1);
            send.send(User::default()).await.unwrap();
            let mut request = tonic::Request::new(ReceiverStream::new(receive));
            for (name, value) in metadata {
                request.metadata_mut().insert(name, value.parse().unwrap());
            }
            let mut back = match UsersClient::new(channel).echo(request).await {
                Ok(answer) => answer.into_inner(),
                Err(status) => return format!("{:?} {}", status.code(), status.message()),
            };
            while state.moves() {
                match back.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(status)) => return format!("{:?} {}", status.code(), status.message()),
                    None => return "the end".to_owned(),
                }
                // Without anybody to take it the next message says why.
                let _ = send.send(User::default()).await;
            }
            "the test".to_owned()
        })
    })
}

/// An answer of HTTP/1.1 that does not end, or where `upgrade` what was switched to.
fn http1(caller: &Caller, what: &str, target: &str, field: &str, upgrade: Option<&str>) -> Open {
    let (outbound, credentials) = caller.proxy();
    let switch = upgrade.map(|to| format!("Connection: upgrade\r\nUpgrade: {to}\r\n{HANDSHAKE}")).unwrap_or_default();
    let expected = if upgrade.is_some() { "HTTP/1.1 101" } else { "HTTP/1.1 200" };
    let request = format!(
        "GET http://feed{target} HTTP/1.1\r\nHost: feed\r\nProxy-Authorization: Basic {credentials}\r\n{switch}{field}\r\n\r\n"
    );
    Open::start(&format!("HTTP/1.1 {what}"), move |state| {
        let mut stream = TcpStream::connect(outbound).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut all = String::new();
        let mut piece = [0; 1024];
        while state.moves() {
            match stream.read(&mut piece) {
                Ok(0) => return format!("closed after {:?}", &all[..all.len().min(200)]),
                Ok(count) => all.push_str(&String::from_utf8_lossy(&piece[..count])),
                Err(error) => return error.to_string(),
            }
            assert!(all.starts_with(expected), "{all}");
            assert!(!all.ends_with("0\r\n\r\n"), "a call that is cut must not look complete");
        }
        "the test".to_owned()
    })
}

/// Bytes there and back.
fn tcp(caller: &Caller, what: &str) -> Open {
    let mut stream = caller.connect("echo:7000");
    Open::start(&format!("TCP {what}"), move |state| {
        while state.moves() {
            let mut back = [0];
            if let Err(error) = stream.write_all(b".").and_then(|()| stream.read_exact(&mut back)) {
                return error.to_string();
            }
        }
        "the test".to_owned()
    })
}

/// The service `feed`, whose answers never end.
fn feed(mesh: &Mesh) -> Sidecar {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") {
                    if stream.read_exact(&mut byte).is_err() {
                        return;
                    }
                    head.push(byte[0]);
                }
                let asked = String::from_utf8_lossy(&head).to_ascii_lowercase();
                let switched =
                    |to| format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {to}\r\n");
                let (head, piece): (_, &[u8]) = if asked.contains("upgrade: echo") {
                    (switched("echo") + "\r\n", b".")
                } else if asked.contains("upgrade: websocket") {
                    // A text message of one letter, unmasked (RFC 6455 §5.2).
                    (switched("websocket") + ACCEPT + "\r\n", b"\x81\x01.")
                } else {
                    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), b"1\r\n.\r\n")
                };
                let mut sent = stream.write_all(head.as_bytes());
                while sent.is_ok() {
                    std::thread::sleep(PACE);
                    sent = stream.write_all(piece);
                }
            });
        }
    });
    let (sleep, ports) = (program("sleep"), [format!("80:{port}:http")]);
    let command = [text(&sleep), "infinity"];
    mesh.run_ready(&Run { name: "feed-1", services: &["feed"], ports: &ports, command: &command, ..Run::default() })
}

/// Applies a policy; gives when every sidecar that needs it had it.
#[track_caller]
fn programmed(mesh: &Mesh, yaml: &str) -> Instant {
    apply(mesh, yaml);
    Instant::now()
}

fn deny(name: &str, targets: &[&str], rule: &str) -> String {
    let targets: Vec<String> = targets.iter().map(|name| format!("{{kind: Service, name: {name}}}")).collect();
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: \
         {{targetRefs: [{}], action: Deny, rules: [{rule}]}}\n",
        targets.join(", ")
    )
}

#[test]
fn a_policy_cuts_the_open_streams_that_it_denies_within_a_second_and_no_others() {
    let mesh = Mesh::start();
    let users = Instance::start(&mesh, "users", "users-1", &["users"]);
    let (feed, _echo) = (feed(&mesh), echo(&mesh));
    let (clerk, thief) = (Caller::start(&mesh, "shop", "clerk"), Caller::start(&mesh, "shop", "thief"));
    let trial = [
        grpc(&clerk, "on trial", &[("x-plan", "trial")]),
        http1(&clerk, "on trial", "/items", "X-Plan: trial", None),
        http1(&clerk, "upgraded, on trial", "/items", "X-Plan: trial", Some("echo")),
    ];
    let paying = [
        grpc(&clerk, "paying", &[("x-plan", "gold")]),
        http1(&clerk, "paying", "/items", "X-Plan: gold", None),
        http1(&clerk, "upgraded, paying", "/items", "X-Plan: gold", Some("echo")),
    ];
    let (private, stolen) = (http1(&clerk, "by path", "/private/1", "X-Plan: gold", None), tcp(&thief, "of the thief"));
    let (thieves, chat) = (grpc(&thief, "of the thief", &[("x-plan", "gold")]), tcp(&clerk, "of the clerk"));

    // Nobody does this: all go on.
    programmed(&mesh, &deny("nobody", &["users", "feed", "echo"], "{from: [{serviceAccounts: [nobody]}]}"));
    let all = || trial.iter().chain(&paying).chain([&private, &stolen, &thieves, &chat]);
    all().for_each(Open::goes_on);

    let at = programmed(
        &mesh,
        &deny(
            "plans",
            &["users", "feed"],
            "{name: no-trials, when: [{key: 'request.headers[x-plan]', values: [trial]}]}",
        ),
    );
    let why = trial.each_ref().map(|open| open.was_cut(at));
    assert!(why[0].starts_with("PermissionDenied") && why[0].contains("shop/plans"), "{}", why[0]);
    paying.iter().chain([&private, &stolen, &thieves, &chat]).for_each(Open::goes_on);

    let at = programmed(&mesh, &deny("paths", &["feed"], "{to: [{methods: [GET], paths: ['/private/*']}]}"));
    private.was_cut(at);
    paying.iter().chain([&stolen, &thieves, &chat]).for_each(Open::goes_on);

    let at = programmed(&mesh, &deny("thieves", &["users", "echo"], "{from: [{serviceAccounts: [thief]}]}"));
    stolen.was_cut(at);
    thieves.was_cut(at);
    paying.iter().chain([&chat]).for_each(Open::goes_on);

    for (sidecar, calls) in [(&feed, 3), (&users.sidecar, 1)] {
        wait_for("what was cut is logged and counted as denied", || {
            let cut: Vec<_> = sidecar.access().into_iter().filter(|line| line["reason"] == "denied").collect();
            let told = cut
                .iter()
                .filter(|line| line["detail"].as_str().is_some_and(|d| d.contains("AuthorizationPolicy shop/")));
            let counted = sidecar.metric("weft_authz_total", &["decision=\"deny\""]);
            if told.count() >= calls && counted >= 1.0 { Ok(()) } else { Err(format!("{counted}: {cut:?}")) }
        });
    }
}

#[test]
fn a_stream_is_cut_when_a_token_is_demanded_that_it_did_not_bring_or_when_the_key_of_its_token_goes() {
    let mesh = Mesh::start();
    let _users = Instance::start(&mesh, "users", "users-1", &["users"]);
    let clerk = Caller::start(&mesh, "shop", "clerk");
    let issuer = Issuer::new(mesh.folder(), "https://id.example.com");
    let login = |jwks: &str| {
        format!(
            "apiVersion: weft.mesh/v1alpha1\nkind: RequestAuthentication\nmetadata: {{name: login, namespace: shop}}\nspec: \
             {{targetRefs: [{{kind: Service, name: users}}], rules: [{{issuer: '{}', audiences: [users], clockSkew: 0s, jwks: '{jwks}'}}]}}\n",
            issuer.name
        )
    };
    let before = grpc(&clerk, "without a token", &[("x-plan", "gold")]);
    let at = programmed(&mesh, &login(&issuer.jwks()));
    assert!(before.was_cut(at).starts_with("Unauthenticated"));

    let token = format!("Bearer {}", issuer.token("ann", "users", DEADLINE * 10));
    let long = grpc_with(&clerk, "by a token", vec![("authorization", token)]);
    programmed(&mesh, &deny("nobody", &["users"], "{from: [{serviceAccounts: [nobody]}]}"));
    long.goes_on();
    // The key that vouched for it goes.
    let other = mesh.folder().join("other");
    std::fs::create_dir(&other).unwrap();
    let at = programmed(&mesh, &login(&Issuer::new(&other, "https://id.example.com").jwks()));
    assert!(long.was_cut(at).starts_with("Unauthenticated"));
}

#[test]
fn a_stream_ends_when_the_token_that_admitted_it_expires_and_one_that_needs_no_token_goes_on() {
    let mesh = Mesh::start();
    let users = Instance::start(&mesh, "users", "users-1", &["users"]);
    let feed = feed(&mesh);
    let clerk = Caller::start(&mesh, "shop", "clerk");
    let issuer = Issuer::new(mesh.folder(), "https://id.example.com");
    let login = |service: &str, optional: bool| {
        format!(
            "apiVersion: weft.mesh/v1alpha1\nkind: RequestAuthentication\nmetadata: {{name: {service}, namespace: shop}}\nspec: \
             {{targetRefs: [{{kind: Service, name: {service}}}], optional: {optional}, \
             rules: [{{issuer: '{}', audiences: [users], clockSkew: 0s, jwks: '{}'}}]}}\n",
            issuer.name,
            issuer.jwks()
        )
    };
    apply(&mesh, &login("users", false));
    apply(&mesh, &login("feed", true));
    apply(
        &mesh,
        "apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: feed, namespace: shop}\nspec: \
         {targetRefs: [{kind: Service, name: feed}], rules: [{to: [{paths: ['/items']}]}, \
         {from: [{requestPrincipals: ['https://id.example.com/*']}], to: [{paths: ['/private/*']}]}]}\n",
    );
    let bearer = |good: Duration| format!("Bearer {}", issuer.token("ann", "users", good));
    let (long, begin) = (bearer(DEADLINE * 10), SystemTime::now());
    // What a token says is whole seconds.
    let until = UNIX_EPOCH
        + Duration::from_secs((begin + Duration::from_secs(5)).duration_since(UNIX_EPOCH).unwrap().as_secs());
    let expires = Instant::now() + until.duration_since(begin).unwrap();
    let short = bearer(until.duration_since(SystemTime::now()).unwrap() + Duration::from_millis(1));
    let grpc = |what: &str, token: &str| grpc_with(&clerk, what, vec![("authorization", token.to_owned())]);
    let socket = |what: &str, target: &str, token: &str| {
        http1(&clerk, what, target, &format!("Authorization: {token}"), Some("websocket"))
    };
    let brief = [
        grpc("by a short token", &short),
        socket("websocket by a short token", "/private/1", &short),
        http1(&clerk, "by a short token", "/private/1", &format!("Authorization: {short}"), None),
    ];
    let others = [
        grpc("by a long token", &long),
        socket("websocket by a long token", "/private/1", &long),
        socket("websocket that needs none, with a short token", "/items", &short),
    ];
    assert!(Instant::now() < expires, "the machine was too slow to open them in time");
    let why = brief.each_ref().map(|open| open.was_cut(expires));
    assert!(why[0].starts_with("Unauthenticated") && why[0].contains("token_expired"), "{}", why[0]);
    for open in &brief {
        let (at, _) = open.ended().unwrap();
        assert!(at + PACE > expires, "{} was cut {:?} before its token had expired", open.what, expires - at);
    }
    others.iter().for_each(Open::goes_on);
    for (sidecar, calls) in [(&users.sidecar, 1), (&feed, 2)] {
        wait_for("the log says which token it was, and so does the metric", || {
            let expired = |line: &serde_json::Value| {
                line["detail"]
                    .as_str()
                    .is_some_and(|d| d.contains("RequestAuthentication shop/") && d.contains("token_expired"))
            };
            let said = sidecar.access().iter().filter(|line| expired(line)).count();
            let counted = sidecar.metric("weft_authz_total", &["decision=\"token_expired\""]);
            if said == calls && counted >= 1.0 { Ok(()) } else { Err(format!("{counted}: {:?}", sidecar.access())) }
        });
    }
    // The same at a new call: a token that has expired is none to come with.
    let late = socket_status(&clerk, &format!("Authorization: {short}"));
    assert!(late.starts_with("HTTP/1.1 401"), "{late}");
}

/// What a call to the feed with an old token gets.
fn socket_status(caller: &Caller, field: &str) -> String {
    let (outbound, credentials) = caller.proxy();
    let mut stream = TcpStream::connect(outbound).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(
        stream,
        "GET http://feed/items HTTP/1.1\r\nHost: feed\r\nProxy-Authorization: Basic {credentials}\r\n{field}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
