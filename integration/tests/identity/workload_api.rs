//! Identities from an agent of the SPIFFE Workload API: two sidecars that have nothing else call each other through everything that it does.

use crate::spire::{Agent, DOMAIN, Root, bundle, id};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use weft_integration::rig::stage::text;
use weft_integration::rig::{DEADLINE, Mesh, Process, Upstream, binary, http_get, wait_for};

/// A sidecar whose identity an agent gives.
struct Sidecar {
    process: Process,
    home: PathBuf,
}

impl Sidecar {
    /// Starts it; not ready until its agent gives it an identity.
    fn start(folder: &Path, name: &str, agent: &Agent, more: &[&str], mut resources: Value) -> Self {
        let home = folder.join(name);
        std::fs::create_dir(&home).unwrap();
        let file = home.join("resources.json");
        resources["settings"] = json!({"trustDomain": DOMAIN, "domain": "cluster.local"});
        std::fs::write(&file, resources.to_string()).unwrap();
        Self::launch(home, agent, &[&["--resources", text(&file)], more].concat())
    }

    /// The same under a control plane, with a join token that says which service it may join.
    fn join(mesh: &Mesh, account: &str, agent: &Agent, more: &[&str]) -> Self {
        let home = mesh.folder().join(account);
        std::fs::create_dir(&home).unwrap();
        let (token, control, name) = (home.join("token"), mesh.grpc().to_string(), format!("{account}-1"));
        let made =
            mesh.weft(&["token", "create", "-n", "shop", "--service-account", account, "--service", account]).ok();
        std::fs::write(&token, made).unwrap();
        let who = ["--namespace", "shop", "--name", &name, "--service-account", account];
        let where_ = ["--control-plane", &control, "--join-token-file", text(&token)];
        Self::launch(home.clone(), agent, &[&who[..], &where_, more].concat())
    }

    fn launch(home: PathBuf, agent: &Agent, more: &[&str]) -> Self {
        let (state, access) = (home.join("state"), home.join("access.log"));
        let mut command = Command::new(binary("weft-proxy"));
        command.args(["--state-dir", text(&state), "--access-log", text(&access)]);
        command.args(["--workload-api", &agent.endpoint()]).args(more);
        for listener in ["--outbound", "--tunnel", "--admin"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        Self { process: Process::start(&home, "sidecar", &mut command), home }
    }

    #[track_caller]
    fn address(&self, listener: &str) -> SocketAddr {
        wait_for("the sidecar says where it listens", || {
            let ready = std::fs::read(self.home.join("state/ready.json")).map_err(|e| e.to_string())?;
            let ready: Value = serde_json::from_slice(&ready).map_err(|e| e.to_string())?;
            ready[listener].as_str().and_then(|at| at.parse().ok()).ok_or_else(|| ready.to_string())
        })
    }

    fn is_ready(&self) -> bool {
        http_get(&self.address("admin").to_string(), "/ready").is_ok_and(|(status, _)| status == 200)
    }

    #[track_caller]
    fn ready(&self) {
        wait_for("the sidecar is ready", || if self.is_ready() { Ok(()) } else { Err(self.process.log()) });
    }

    fn metric(&self, name: &str, label: &str) -> f64 {
        let (_, scrape) = http_get(&self.address("admin").to_string(), "/metrics").unwrap();
        let lines = scrape.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until it has taken so many other certificates in all.
    #[track_caller]
    fn has_renewed(&self, times: f64) {
        wait_for(&format!("{} has taken {times} other certificates", self.home.display()), || {
            let now = self.metric("weft_certificate_renewals_total", "ok");
            if now >= times { Ok(()) } else { Err(format!("{now}: {}", self.process.log())) }
        });
    }

    /// The access log says who called and who answered.
    #[track_caller]
    fn logs_call(&self, from: &str, to: &str) {
        wait_for("the access log names both sides", || {
            let log = std::fs::read_to_string(self.home.join("access.log")).unwrap_or_default();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let named = lines.any(|line| line["sourceIdentity"] == *from && line["destinationIdentity"] == *to);
            if named { Ok(()) } else { Err(log) }
        });
    }
}

/// A call to `server` by way of a sidecar.
fn call(outbound: SocketAddr) -> String {
    let mut answer = Vec::new();
    let made = TcpStream::connect(outbound).and_then(|mut stream| {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(b"GET http://server/ HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")?;
        stream.read_to_end(&mut answer)
    });
    match made {
        Ok(_) => String::from_utf8_lossy(&answer).into_owned(),
        Err(error) => error.to_string(),
    }
}

/// Calls one after another until it is stopped.
struct Load {
    good: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Load {
    fn start(outbound: SocketAddr) -> Self {
        let (good, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counted, stopped) = (Arc::clone(&good), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut failed = Vec::new();
            while !stopped.load(SeqCst) {
                match call(outbound) {
                    answer if answer.starts_with("HTTP/1.1 200") => drop(counted.fetch_add(1, SeqCst)),
                    answer => failed.push(answer),
                }
            }
            failed
        });
        Self { good, stop, thread }
    }

    #[track_caller]
    fn goes_on(&self) {
        let before = self.good.load(SeqCst);
        wait_for("calls go on", || {
            let more = self.good.load(SeqCst) - before;
            if more >= 50 { Ok(()) } else { Err(format!("{more} calls")) }
        });
    }

    /// How many went well; none may have failed.
    #[track_caller]
    fn stop(self) -> u64 {
        self.stop.store(true, SeqCst);
        let failed = self.thread.join().unwrap();
        assert!(failed.is_empty(), "{} calls failed: {:?}", failed.len(), &failed[..failed.len().min(3)]);
        self.good.load(SeqCst)
    }
}

fn server(application: &Upstream) -> Value {
    let at = format!("127.0.0.1:{}", application.port);
    json!({"inbound": {"workload": "shop/server-1", "identity": id("shop", "server"), "ports": [{
        "port": application.port, "authorities": [at], "serverNames": ["80.server.shop.svc.cluster.local"], "local": at,
        "protocol": "PROTOCOL_HTTP1", "tls": "TLS_MODE_STRICT", "service": "shop/server"}]}})
}

fn caller(application: &Upstream, tunnel: SocketAddr) -> Value {
    json!({
        "services": [{"name": "shop/server", "hostnames": ["server"], "ports": [{"port": 80, "protocol": "PROTOCOL_HTTP1",
            "frontend": {"requestTimeout": "20s"}, "backend": {"slices": ["shop/server:80/0"]}}]}],
        "endpoints": [{"name": "shop/server:80/0", "endpoints": [{"uid": "shop/server-1", "address": "127.0.0.1",
            "port": application.port, "tunnel": tunnel.to_string(), "health": "HEALTH_READY", "identity": id("shop", "server"),
            "serverName": "80.server.shop.svc.cluster.local"}]}],
    })
}

#[test]
fn identities_of_an_agent_carry_calls_through_rotations_other_roots_and_its_absence_and_end_where_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Root::new(folder.path(), "first"), Root::new(folder.path(), "second"));
    let [one, both, two] = [&[&first][..], &[&first, &second], &[&second]].map(|roots| bundle(folder.path(), roots));
    let application = Upstream::start(|_| (200, "well".to_owned()));
    let (mut of_server, mut of_caller) = (Agent::start(folder.path(), "server"), Agent::start(folder.path(), "caller"));
    let (serves, calls, other) = (id("shop", "server"), id("shop", "caller"), id("shop", "other"));
    of_server.gives(&[&first.leaf(&serves)], &one);
    let server = Sidecar::start(folder.path(), "server", &of_server, &[], server(&application));
    server.ready();
    // Nobody has registered the caller: it waits, and says for what.
    let resources = caller(&application, server.address("tunnel"));
    let mut caller = Sidecar::start(folder.path(), "caller", &of_caller, &["--svid-hint", "caller"], resources);
    caller.process.wait_for_log("make a registration entry");
    assert!(caller.process.log().contains("PERMISSION_DENIED") && !caller.is_ready());
    // Of two identities the one that was asked for.
    of_caller.gives(&[&first.leaf(&other), &first.leaf(&calls)], &one);
    caller.ready();
    let outbound = caller.address("outbound");
    assert!(call(outbound).ends_with("well"), "{}", caller.process.log());
    server.logs_call(&calls, &serves);

    let load = Load::start(outbound);
    of_server.gives(&[&first.leaf(&serves)], &one);
    server.has_renewed(1.0);
    of_caller.gives(&[&first.leaf(&other), &first.leaf(&calls)], &one);
    caller.has_renewed(1.0);
    load.goes_on();
    // A stream that ends is opened anew, and what was missed meanwhile is taken.
    of_server.drops();
    of_server.gives(&[&first.leaf(&serves)], &one);
    server.has_renewed(2.0);
    load.goes_on();
    // Another root: trusted by all, then used, then alone.
    of_server.gives(&[&first.leaf(&serves)], &both);
    of_caller.gives(&[&first.leaf(&calls)], &both);
    server.has_renewed(3.0);
    caller.has_renewed(2.0);
    of_server.gives(&[&second.leaf(&serves)], &both);
    let current = second.leaf(&calls);
    of_caller.gives(&[&current], &both);
    server.has_renewed(4.0);
    caller.has_renewed(3.0);
    load.goes_on();
    let last = second.leaf(&serves);
    of_server.gives(&[&last], &two);
    of_caller.gives(&[&current], &two);
    server.has_renewed(5.0);
    load.goes_on();
    // Agents that are away.
    of_caller.goes();
    caller.process.wait_for_log("the last identity stays in use");
    load.goes_on();
    println!("{} calls, none failed", load.stop());

    // What the agent revokes is refused, on connections that are open too, until it takes that back.
    of_server.revokes(Some(&second.list(&[&current])));
    let is = |kind: &'static str| {
        move || match call(outbound) {
            answer if answer.contains(&format!("weft-error: {kind}")) => Ok(answer),
            answer => Err(answer),
        }
    };
    let answer = wait_for("who is revoked is refused", is("certificate-revoked"));
    println!("{answer}");
    of_server.revokes(None);
    wait_for("and is not when the list is gone", || match call(outbound) {
        answer if answer.ends_with("well") => Ok(()),
        answer => Err(answer),
    });
    // And again, and then by a bundle that does not vouch for the caller's root any more.
    of_server.revokes(Some(&second.list(&[&current])));
    wait_for("who is revoked again is refused", is("certificate-revoked"));
    of_server.gives(&[&last], &one);
    let answer = wait_for("whom no root vouches for is refused", is("tls-failed"));
    assert!(answer.contains("does not know the issuer") || answer.contains("its log says why"), "{answer}");
    assert!(server.metric("weft_tls_handshakes_total", "untrusted_chain") >= 1.0);
}

#[test]
fn sidecars_of_a_mesh_have_the_identities_of_their_agents_and_the_authority_issues_none() {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::new(folder.path(), "company");
    let ([chain, key], trusted) = (root.intermediate(), root.pem());
    let flags =
        ["--trust-domain", DOMAIN, "--ca-chain", text(&chain), "--ca-key", text(&key), "--ca-roots", text(&trusted)];
    let mesh = Mesh::start_with(&flags);
    let application = Upstream::start(|_| (200, "well".to_owned()));
    let port = application.port;
    mesh.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop}}\n---\napiVersion: v1\nkind: Service\n\
         metadata: {{name: server, namespace: shop}}\nspec: {{ports: [{{name: http, port: 80, targetPort: {port}, appProtocol: http}}]}}\n"
    ))
    .ok();
    let (mut of_server, mut of_caller) = (Agent::start(folder.path(), "server"), Agent::start(folder.path(), "caller"));
    let (serves, calls) = (id("shop", "server"), id("shop", "caller"));
    // Not that of the workload, and then the right one beside another.
    of_server.gives(&[&root.leaf(&calls)], &trusted);
    let ports = format!("{port}:http");
    let mut server = Sidecar::join(&mesh, "server", &of_server, &["--service", "server", "--port", &ports]);
    server.process.wait_for_log("is not the identity of shop/server");
    of_server.gives(&[&root.leaf(&calls), &root.leaf(&serves)], &trusted);
    of_caller.gives(&[&root.leaf(&calls)], &trusted);
    let caller = Sidecar::join(&mesh, "caller", &of_caller, &[]);
    server.ready();
    caller.ready();
    let outbound = caller.address("outbound");
    let well = |what: &str| {
        wait_for(what, || match call(outbound) {
            answer if answer.ends_with("well") => Ok(()),
            answer => Err(format!("{answer} {}", caller.process.log())),
        });
    };
    well("calls go through");
    server.logs_call(&calls, &serves);

    let load = Load::start(outbound);
    of_server.gives(&[&root.leaf(&serves)], &trusted);
    server.has_renewed(1.0);
    load.goes_on();
    println!("{} calls, none failed", load.stop());
    // The control plane sees them, and has made none of their certificates.
    let shown = mesh.weft(&["identity", "show", "-o", "json"]).ok();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let sidecars = shown["sidecars"].as_object().unwrap();
    assert!(sidecars.contains_key("shop/server-1") && sidecars.contains_key("shop/caller-1"), "{shown:#}");
    let audit = mesh.weft(&["identity", "audit"]).ok();
    println!("{audit}");
    assert!(!audit.contains(&serves) && !audit.contains(&calls), "{audit}");
}
