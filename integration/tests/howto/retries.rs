//! `docs/src/howto/retries.md`

use crate::page::Page;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming};
use weft_integration::rig::stage::{apply, services, text};
use weft_integration::rig::{Caller, DEADLINE, Mesh, Run, Sidecar, Upstream, program, wait_for};
use weft_integration::shop::proto::users_client::UsersClient;
use weft_integration::shop::proto::users_server::{Users, UsersServer};
use weft_integration::shop::proto::{FindRequest, ImportSummary, ListRequest, User};

/// How often each call reached an application, by what it was for.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<HashMap<String, u32>>>);

impl Seen {
    fn count(&self, what: &str) -> u32 {
        let mut seen = self.0.lock().unwrap();
        let count = seen.entry(what.to_owned()).or_default();
        *count += 1;
        *count
    }

    fn of(&self, what: &str) -> u32 {
        self.0.lock().unwrap().get(what).copied().unwrap_or_default()
    }
}

/// An application that fails in the way that its path names, and counts.
fn flaky(seen: &Seen) -> Upstream {
    let seen = seen.clone();
    Upstream::start(move |request| {
        let count = seen.count(&format!("{} {}", request.method, request.path));
        match request.path.split('/').nth(1).unwrap_or_default() {
            "slow-once" if count == 1 => std::thread::sleep(Duration::from_secs(1)),
            "ok" | "slow-once" => {}
            status => return (status.parse().unwrap(), "no".to_owned()),
        }
        (200, format!("attempt {count}"))
    })
}

/// gRPC users, of whom the first question after each is answered with the status that is its number.
struct Shy(Seen);

type Replies = Pin<Box<dyn Stream<Item = Result<User, Status>> + Send>>;

#[tonic::async_trait]
impl Users for Shy {
    type ListStream = Replies;
    type EchoStream = Replies;

    async fn find(&self, request: Request<FindRequest>) -> Result<Response<User>, Status> {
        let id = request.into_inner().id;
        let code = Code::from_i32(i32::try_from(id % 100).unwrap());
        match self.0.count(&id.to_string()) {
            1 => Err(Status::new(code, "not the first time")),
            _ => Ok(Response::new(User { id, name: String::new() })),
        }
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<Replies>, Status> {
        Err(Status::unimplemented("list"))
    }

    async fn import(&self, _: Request<Streaming<User>>) -> Result<Response<ImportSummary>, Status> {
        Err(Status::unimplemented("import"))
    }

    async fn echo(&self, _: Request<Streaming<User>>) -> Result<Response<Replies>, Status> {
        Err(Status::unimplemented("echo"))
    }
}

/// Serves `Shy` whenever the runtime runs, which is while a call is waited for.
fn shy(seen: &Seen) -> (tokio::runtime::Runtime, SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder().add_service(UsersServer::new(Shy(seen.clone())));
    runtime.spawn(server.serve_with_incoming(incoming));
    (runtime, address)
}

/// Charges take turns, so that one in two meets the instance that fails.
const TURNS: &str = "
apiVersion: weft.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: payments-turns, namespace: shop}
spec: {targetRefs: [{kind: Service, name: payments}], loadBalancer: {policy: RoundRobin}}
";

fn grpc_instance(mesh: &Mesh, address: SocketAddr) -> Sidecar {
    let sleep = program("sleep");
    mesh.run_ready(&Run {
        name: "users-1",
        services: &["users"],
        ports: &[format!("9000:{}:grpc", address.port())],
        command: &[text(&sleep), "infinity"],
        ..Run::default()
    })
}

#[test]
fn what_may_be_repeated_is_and_what_may_not_is_not() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["catalog", "payments"], 80, "http");
    services(&mesh, "shop", &["users"], 9000, "grpc");
    let [catalog, payments, bank, users] = [(); 4].map(|()| Seen::default());
    let (shop, well, closed) = (flaky(&catalog), flaky(&payments), {
        let seen = bank.clone();
        Upstream::start(move |request| {
            seen.count(&request.method);
            (503, "closed".to_owned())
        })
    });
    let (runtime, address) = shy(&users);
    let _instances = [
        shop.instance(&mesh, "catalog", "catalog-1"),
        well.instance(&mesh, "payments", "payments-1"),
        closed.instance(&mesh, "payments", "payments-2"),
        grpc_instance(&mesh, address),
    ];
    let caller = Caller::start(&mesh, "shop", "caller");
    let call = |method: &str, path: &str| caller.call(method, &format!("http://catalog{path}"), &[]).status;
    let find = |id: u64| {
        let mut client = UsersClient::new(runtime.block_on(async { caller.tunnel("users:9000") }));
        let find = async { tokio::time::timeout(DEADLINE, client.find(FindRequest { id })).await.expect("it ends") };
        runtime.block_on(find).map_or_else(|status| status.code(), |_| Code::Ok)
    };
    caller.until("catalog answers", "http://catalog/ok/0", |a| a.status == 200);
    wait_for("users answer", || if find(200) == Code::Ok { Ok(()) } else { Err(String::new()) });

    // Without any policy.
    assert_eq!((call("GET", "/503/1"), catalog.of("GET /503/1")), (503, 3));
    assert_eq!((call("POST", "/503/1"), catalog.of("POST /503/1")), (503, 1));
    assert_eq!((call("GET", "/500/1"), catalog.of("GET /500/1")), (500, 1));
    assert_eq!((find(114), users.of("114")), (Code::Unavailable, 1));

    apply(&mesh, TURNS);
    let mut page = Page::open("retries", &mesh);
    page.file();
    page.file();
    page.file();
    page.run();

    // The route: its codes, its attempts, its methods, its timeouts.
    // Each call on a path of its own; again where the budget had no room for it.
    let mut number = 0;
    let mut attempts = |method: &str, status: u16, expected: u32| {
        wait_for("a call is repeated as often as it may be", || {
            number += 1;
            let path = format!("/{status}/route-{number}");
            assert_eq!(call(method, &path), status);
            let seen = catalog.of(&format!("{method} {path}"));
            assert!(seen <= expected, "{method} {path}: {seen}");
            if seen == expected { Ok(()) } else { Err(format!("{seen} of {expected}")) }
        });
    };
    attempts("GET", 503, 4);
    attempts("GET", 500, 4);
    attempts("POST", 503, 1);
    attempts("POST", 500, 1);
    // The defaults hold for the other rule.
    attempts("PUT", 503, 3);
    attempts("PUT", 500, 1);
    let mut number = 0;
    wait_for("a slow attempt is given up for another", || {
        number += 1;
        let answer = caller.get(&format!("http://catalog/slow-once/{number}"));
        if (answer.status, answer.body.as_str()) == (200, "attempt 2") { Ok(()) } else { Err(format!("{answer:?}")) }
    });

    // The policy: one of two instances fails every call, and no charge fails.
    wait_for("charges meet the instance that fails", || {
        let answer = caller.call("POST", "http://payments/ok/charge", &[]);
        assert_eq!(answer.status, 200, "{answer:?}");
        if bank.of("POST") > 0 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    // gRPC: by the codes that are listed, and no others.
    assert_eq!((find(214), users.of("214")), (Code::Ok, 2));
    assert_eq!((find(208), users.of("208")), (Code::Ok, 2));
    assert_eq!((find(213), users.of("213")), (Code::Internal, 1));

    // The budget: every call asks for three more.
    let (before, start) = (shop.seen(), Instant::now());
    for number in 0..40 {
        assert_eq!(call("GET", &format!("/500/storm-{number}")), 500);
    }
    let sent = u32::try_from(shop.seen() - before).unwrap();
    let most = 1.2 * 40.0 + 10.0 * (start.elapsed().as_secs_f64() + 1.0).ceil();
    let denied = caller.sidecar.metric("weft_retries_denied_total", &["reason=\"budget\""]);
    println!("40 calls, {sent} attempts, at most {most}; {denied} retries denied");
    assert!(f64::from(sent) <= most && sent > 40, "{sent}, at most {most}");
    assert!(denied > 0.0, "{}", caller.sidecar.metrics());
    // What is left of its connections would hold up the end of the sidecars.
    drop(runtime);
}
