//! A cluster, control planes in it, and pods that are no more than objects and a sidecar.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use weft_integration::rig::stage::text;
use weft_integration::rig::{Mesh, Output, Process, binary, http_get, kubectls, run, wait_for};

/// A cluster, with namespaces of the test's own: they go with the value.
pub struct Cluster {
    kubeconfig: PathBuf,
    /// The embedded API that stands for one.
    embedded: Option<Mesh>,
    folder: tempfile::TempDir,
    /// Tells this test's names from those of others.
    tag: String,
}

impl Cluster {
    /// The cluster named in the environment, or one of the test's own; with the namespaces of a control plane and of a shop.
    #[track_caller]
    pub fn open() -> Self {
        let named = std::env::var_os("WEFT_TEST_CLUSTER").filter(|path| !path.is_empty());
        let embedded = named.is_none().then(|| Mesh::start_with(&["--as-cluster"]));
        let kubeconfig = match (&embedded, named) {
            (Some(mesh), _) => mesh.kubeconfig(),
            (None, named) => named.map(PathBuf::from).unwrap_or_default(),
        };
        static NTH: AtomicU32 = AtomicU32::new(0);
        let tag = format!("{:x}-{}", std::process::id(), NTH.fetch_add(1, Relaxed));
        let folder = tempfile::Builder::new().prefix("weft-cluster-").tempdir().unwrap();
        let cluster = Self { kubeconfig, embedded, folder, tag };
        if cluster.is_real() {
            let installed = cluster.object("lease", "weft-system", "weft-control");
            assert!(
                installed.is_err(),
                "a mesh is installed in this cluster: the tests would tell its pods to trust others"
            );
        }
        for namespace in [cluster.system(), cluster.shop()] {
            cluster.kubectl(&["create", "namespace", &namespace]).ok();
        }
        for definition in installed(&["--crds"]) {
            cluster.apply(&definition.to_string());
        }
        cluster.wait_served(&["trafficpolicies.weft.mesh", "workloads.weft.mesh", "meshsettings.weft.mesh"]);
        cluster
    }

    /// A kubeconfig of a control plane: a service account with the rights that `weft install` gives it, and no others.
    #[track_caller]
    fn control_kubeconfig(&self) -> PathBuf {
        let (system, name) = (self.system(), format!("weft-control-{}", self.tag));
        let subject = json!({"kind": "ServiceAccount", "name": "weft-control", "namespace": system});
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "weft-control", "namespace": system}});
        self.apply(&account.to_string());
        for mut role in installed(&["--no-crds"]) {
            let kind = role["kind"].as_str().unwrap().to_owned();
            if !matches!(kind.as_str(), "Role" | "ClusterRole") || role["metadata"]["name"] != "weft-control" {
                continue;
            }
            let metadata =
                if kind == "Role" { json!({"name": name, "namespace": system}) } else { json!({ "name": name }) };
            role["metadata"] = metadata.clone();
            let binding = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"), "metadata": metadata,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}, "subjects": [subject],
            });
            self.apply(&role.to_string());
            self.apply(&binding.to_string());
        }
        let token = self.kubectl(&["create", "token", "weft-control", "-n", &system]).ok();
        let config = self.kubectl(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]).ok();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["users"][0]["user"] = json!({"token": token.trim()});
        let path = self.folder.path().join("control.kubeconfig");
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// The control planes' namespace.
    pub fn system(&self) -> String {
        format!("weft-system-{}", self.tag)
    }

    /// The namespace of what is meshed.
    pub fn shop(&self) -> String {
        format!("shop-{}", self.tag)
    }

    /// Whether it is not of the test's own.
    pub fn is_real(&self) -> bool {
        self.embedded.is_none()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(kubectls().pop().expect("a kubectl"));
        command.args(["--kubeconfig", text(&self.kubeconfig)]).args(arguments);
        command
    }

    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments))
    }

    /// Applies objects; `SHOP` in them is the shop's namespace, `TAG` what tells this test's names.
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        static NTH: AtomicU32 = AtomicU32::new(0);
        let file = self.folder.path().join(format!("{}.yaml", NTH.fetch_add(1, Relaxed)));
        std::fs::write(&file, yaml.replace("SHOP", &self.shop()).replace("TAG", &self.tag)).unwrap();
        self.kubectl(&["apply", "--server-side", "-f", text(&file)]).ok();
    }

    /// Defines kinds that the cluster does not have, and waits until they are served.
    #[track_caller]
    pub fn define(&self, definitions: &[Value]) {
        for definition in definitions {
            let name = definition["metadata"]["name"].as_str().unwrap();
            if self.object("customresourcedefinition", "", name).is_err() {
                self.apply(&definition.to_string());
            }
            self.wait_served(&[name]);
        }
    }

    /// A file of the test's.
    #[track_caller]
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Whether a kind is defined.
    pub fn is_defined(&self, name: &str) -> bool {
        self.object("customresourcedefinition", "", name).is_ok()
    }

    #[track_caller]
    fn wait_served(&self, resources: &[&str]) {
        for resource in resources {
            wait_for("the kind is served", || {
                let listed = self.kubectl(&["get", resource, "-A", "-o", "name"]);
                if listed.code == 0 { Ok(()) } else { Err(listed.err) }
            });
        }
    }

    /// An object of the shop's namespace, or of the whole cluster, as JSON.
    #[track_caller]
    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Result<Value, String> {
        let place = if namespace.is_empty() { vec![] } else { vec!["-n", namespace] };
        let got = self.kubectl(&[&["get", kind, name, "-o", "json"], &place[..]].concat());
        if got.code == 0 { serde_json::from_str(&got.out).map_err(|e| e.to_string()) } else { Err(got.err) }
    }

    /// A pod that listens nowhere by itself: an object with an address of its own on loopback.
    #[track_caller]
    pub fn pod(&self, name: &str, what: &Pod<'_>) -> String {
        let address = address();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": self.shop(), "labels": {"app": what.app},
                "annotations": if what.meshed { json!({"weft.mesh/injected": "{}"}) } else { json!({}) },
                "finalizers": what.finalizers,
            },
            "spec": {
                "serviceAccountName": what.account, "automountServiceAccountToken": false, "nodeName": what.node.replace("TAG", &self.tag),
                "restartPolicy": "Always",
                "initContainers": if what.meshed {
                    json!([{"name": "weft-proxy", "image": "example.com/weft-proxy", "restartPolicy": "Always"}])
                } else {
                    json!([])
                },
                "containers": [{"name": "app", "image": "example.com/app", "ports": what.ports}],
            },
        });
        self.apply(&pod.to_string());
        self.status(
            name,
            &json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}]}),
        );
        address
    }

    /// What a kubelet would say of a pod.
    #[track_caller]
    pub fn status(&self, name: &str, status: &Value) {
        let patch = json!({ "status": status }).to_string();
        self.kubectl(&["patch", "pod", name, "-n", &self.shop(), "--subresource=status", "--type=merge", "-p", &patch])
            .ok();
    }

    /// A token of a service account of the shop, for the mesh.
    #[track_caller]
    pub fn token(&self, account: &str) -> String {
        let made = self.kubectl(&["create", "token", account, "-n", &self.shop(), "--audience", "weft.mesh"]);
        made.ok().trim().to_owned()
    }

    /// The sidecar of a pod, as injection would start it.
    #[track_caller]
    pub fn sidecar(&self, control: &Control, name: &str, account: &str, address: &str) -> Sidecar {
        let home = self.folder.path().join(format!("{name}-{}", NTH_SIDECAR.fetch_add(1, Relaxed)));
        std::fs::create_dir_all(&home).unwrap();
        let roots = wait_for("the roots are in the namespace", || {
            let map = self.object("configmap", &self.shop(), "weft-roots")?;
            map["data"]["roots.pem"].as_str().map(str::to_owned).ok_or_else(|| map.to_string())
        });
        std::fs::write(home.join("roots.pem"), roots).unwrap();
        std::fs::write(home.join("token"), self.token(account)).unwrap();
        let mut command = Command::new(binary("weft-proxy"));
        command.args(["--control-plane", &control.grpc.to_string(), "--namespace", &self.shop()]);
        command.args(["--service-account", account, "--name", name, "--address", address]);
        command.args(["--state-dir", text(&home.join("state")), "--roots-file", text(&home.join("roots.pem"))]);
        command.args(["--service-account-token-file", text(&home.join("token"))]);
        command.args(["--outbound", "127.0.0.1:0", "--tunnel", &format!("{address}:15008"), "--admin", "127.0.0.1:0"]);
        Sidecar { process: Process::start(&home, "sidecar", &mut command), home }
    }
}

static NTH_SIDECAR: AtomicU32 = AtomicU32::new(0);

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_real() && !std::thread::panicking() {
            for namespace in [self.system(), self.shop()] {
                let _ = self.kubectl(&["delete", "namespace", &namespace, "--wait=false"]);
            }
            let named = ["weft-control", "weft-test", "node"].map(|name| format!("{name}-{}", self.tag));
            for (kind, name) in [
                ("clusterrole", 0),
                ("clusterrolebinding", 0),
                ("clusterrole", 1),
                ("clusterrolebinding", 1),
                ("node", 2),
            ] {
                let _ = self.kubectl(&["delete", kind, &named[name], "--ignore-not-found"]);
            }
        }
    }
}

/// An address of 127.0.0.0/8 that nobody else has.
fn address() -> String {
    static NTH: AtomicU32 = AtomicU32::new(1);
    let (process, nth) = (std::process::id(), NTH.fetch_add(1, Relaxed));
    format!("127.{}.{}.{}", 16 + (process >> 8 & 0x7f), process & 0xff, nth % 250 + 1)
}

/// What a test says of a pod.
#[derive(Clone)]
pub struct Pod<'a> {
    pub app: &'a str,
    pub account: &'a str,
    pub node: &'a str,
    pub meshed: bool,
    pub ports: Value,
    pub finalizers: Value,
}

impl Default for Pod<'_> {
    fn default() -> Self {
        Self { app: "cart", account: "cart", node: "", meshed: true, ports: json!([]), finalizers: json!([]) }
    }
}

/// A control plane.
pub struct Control {
    pub process: Process,
    pub grpc: SocketAddr,
    kubeconfig: PathBuf,
}

impl Control {
    /// One that reads the cluster; it need not lead when this returns.
    #[track_caller]
    pub fn start(cluster: &Cluster, name: &str, flags: &[&str]) -> Self {
        let data = cluster.folder.path().join(name);
        std::fs::create_dir_all(&data).unwrap();
        let mut command = Command::new(binary("weft"));
        let kubeconfig = cluster.folder.path().join("control.kubeconfig");
        let kubeconfig = if kubeconfig.exists() { kubeconfig } else { cluster.control_kubeconfig() };
        command.arg("up").arg(format!("--kubernetes={}", kubeconfig.display()));
        command.args(["--namespace", &cluster.system(), "--replica-name", name, "--data-dir", text(&data)]);
        command.args(["--grpc", "127.0.0.1:0", "--api", "127.0.0.1:0"]).args(flags);
        let mut process = Process::start(cluster.folder.path(), name, &mut command);
        let endpoints: Value = wait_for("weft up --kubernetes serves", || {
            process.assert_running();
            let text =
                std::fs::read_to_string(data.join("endpoints.json")).map_err(|e| format!("{e}\n{}", process.log()))?;
            serde_json::from_str(&text).map_err(|e| e.to_string())
        });
        let grpc = endpoints["grpc"].as_str().unwrap().parse().unwrap();
        Self { process, grpc, kubeconfig: data.join("kubeconfig") }
    }

    /// Its API, asked with a token that a service account of the shop has of the cluster.
    #[track_caller]
    pub fn as_account(&self, cluster: &Cluster, account: &str) -> Asked {
        let token = cluster.kubectl(&["create", "token", account, "-n", &cluster.shop()]).ok();
        self.with_token(cluster, token.trim())
    }

    /// Its API, asked with a token.
    #[track_caller]
    pub fn with_token(&self, cluster: &Cluster, token: &str) -> Asked {
        let own: Value = serde_json::from_str(&std::fs::read_to_string(&self.kubeconfig).unwrap()).unwrap();
        let published = cluster.object("configmap", &cluster.system(), "weft-api").unwrap();
        let file = |name: &str, content: &str| {
            static NTH: AtomicU32 = AtomicU32::new(0);
            let path = cluster.folder.path().join(format!("{name}-{}", NTH.fetch_add(1, Relaxed)));
            std::fs::write(&path, content).unwrap();
            path
        };
        let ca = file("api.pem", published["data"]["ca.pem"].as_str().unwrap());
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "weft",
            "clusters": [{"name": "weft", "cluster": {"server": own["clusters"][0]["cluster"]["server"], "certificate-authority": ca}}],
            "users": [{"name": "weft", "user": {"token": token}}],
            "contexts": [{"name": "weft", "context": {"cluster": "weft", "user": "weft"}}],
        });
        Asked { kubeconfig: file("kubeconfig", &config.to_string()) }
    }

    /// `weft` against the control plane's own API.
    #[track_caller]
    pub fn weft(&self, arguments: &[&str]) -> Output {
        run(Command::new(binary("weft")).args(["--kubeconfig", text(&self.kubeconfig)]).args(arguments))
    }

    /// The endpoints of a service, when they are right.
    #[track_caller]
    pub fn endpoints(&self, namespace: &str, right: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        wait_for("the endpoints are right", || {
            let said = self.weft(&["endpoints", "-n", namespace, "-o", "json"]);
            let document: Value = serde_json::from_str(&said.out).map_err(|e| format!("{e}: {}", said.err))?;
            let items = document["items"].as_array().cloned().unwrap_or_default();
            if right(&items) { Ok(items) } else { Err(document.to_string()) }
        })
    }
}

/// A control plane's API under credentials of one's own.
pub struct Asked {
    kubeconfig: PathBuf,
}

impl Asked {
    #[track_caller]
    pub fn weft(&self, arguments: &[&str]) -> Output {
        run(Command::new(binary("weft")).args(["--kubeconfig", text(&self.kubeconfig)]).args(arguments))
    }
}

/// A sidecar of a pod.
pub struct Sidecar {
    pub process: Process,
    home: PathBuf,
}

impl Sidecar {
    /// Waits until it is ready.
    #[track_caller]
    pub fn ready(mut self) -> Self {
        wait_for("the sidecar is ready", || {
            self.process.assert_running();
            match http_get(&self.listener("admin")?, "/ready")? {
                (200, _) => Ok(()),
                other => Err(format!("{other:?} {}", self.process.log())),
            }
        });
        self
    }

    fn listener(&self, name: &str) -> Result<String, String> {
        let ready = std::fs::read(self.home.join("state/ready.json")).map_err(|e| e.to_string())?;
        let ready: Value = serde_json::from_slice(&ready).map_err(|e| e.to_string())?;
        Ok(ready[name].as_str().unwrap_or_default().to_owned())
    }

    /// A call by host through its outbound listener.
    pub fn call(&self, host: &str, path: &str) -> Result<(u16, String), String> {
        let mut command = Command::new(weft_integration::rig::program("curl"));
        command.args([
            "-sS",
            "--noproxy",
            "*",
            "--max-time",
            "10",
            "-w",
            "\n%{http_code}",
            "-H",
            &format!("Host: {host}"),
        ]);
        let answer = run(command.arg(format!("http://{}{path}", self.listener("outbound")?)));
        let (body, code) = answer.out.rsplit_once('\n').ok_or(answer.err.clone())?;
        Ok((code.parse().map_err(|_| answer.err.clone())?, body.to_owned()))
    }

    /// Its state directory.
    pub fn state(&self) -> &Path {
        &self.home
    }
}

/// What `weft install` prints.
pub fn installed(flags: &[&str]) -> Vec<Value> {
    let text = run(Command::new(binary("weft")).arg("install").args(flags)).ok();
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// A kind of the Gateway API whose objects are taken as they are, in a version.
pub fn gateway_kind(kind: &str, plural: &str, version: &str, channel: &str) -> Value {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.gateway.networking.k8s.io"),
            "annotations": {
                "api-approved.kubernetes.io": "unapproved, of a test",
                "gateway.networking.k8s.io/channel": channel, "gateway.networking.k8s.io/bundle-version": "v1.4.0",
            },
        },
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
            "versions": [{
                "name": version, "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": open, "status": open}}},
            }],
        },
    })
}
