//! The stage: two nodes with an instance of every service each, a third place with the control plane and the users, and
//! what can go wrong with it. A node is a network namespace with a bridge to which its programs' own namespaces are
//! attached, and a cable to the others.

use crate::users::inside;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use weft_integration::rig::stage::{apply, text};
use weft_integration::rig::{Mesh, Namespace, Run, Sidecar, binary, program, run, wait_for};

/// Every service, what its program is told besides where to listen, and whether it speaks gRPC.
const SERVICES: [(&str, bool); 6] = [
    ("users", true),
    ("payments", false),
    ("inventory", false),
    ("catalog", false),
    ("orders", false),
    ("storefront", false),
];
/// Where the programs listen, each in a namespace of its own.
const PORT: u16 = 8080;
/// The bridge of the third place, its address, and that of the name server there.
const BRIDGE: &str = "weft0";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// What the name server says of every name.
const ANSWER: [u8; 4] = [192, 0, 2, 77];
/// The instance whose clock is set.
const CLOCK: &str = "payments-1";

pub struct Stage {
    pub user: Sidecar,
    pods: Vec<(String, Sidecar)>,
    nodes: [Namespace; 2],
    clock: PathBuf,
    mesh: Mesh,
}

/// What an operator says of the shop: how long a try may take, the closer to the users the longer; orders and charges
/// carry keys, so they may be sent again; three failures in a row leave an instance out.
fn policy() -> String {
    let mut yaml = String::from("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
    for (name, grpc) in SERVICES {
        let (port, protocol) = if grpc { (9000, "grpc") } else { (80, "http") };
        let (request, backend) = match name {
            "storefront" => ("4500ms", "2s"),
            "orders" => ("1800ms", "900ms"),
            _ => ("800ms", "300ms"),
        };
        write!(
            yaml,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{ports: [{{name: {protocol}, port: {port}, targetPort: {protocol}, appProtocol: {protocol}}}]}}\n\
             ---\napiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec:\n  targetRefs: [{{group: \"\", kind: Service, name: {name}}}]\n  \
             retry: {{attempts: 2, methods: [POST], grpcCodes: [4]}}\n  \
             timeouts: {{request: {request}, backendRequest: {backend}, connect: 500ms}}\n  \
             circuitBreaker: {{consecutiveFailures: 3, baseOpen: 1s, maxOpen: 4s}}\n"
        )
        .unwrap();
    }
    yaml
}

impl Stage {
    pub fn start() -> Self {
        let mesh = Mesh::start_in_namespace();
        apply(&mesh, &policy());
        let clock = mesh.folder().join("clock");
        std::fs::write(&clock, "+0\n").unwrap();
        let mut pods = Vec::new();
        for instance in 1..=2 {
            for (service, grpc) in SERVICES {
                let name = format!("{service}-{instance}");
                let sidecar = pod(&mesh, &name, service, grpc, (name == CLOCK).then_some(&clock));
                pods.push((name, sidecar));
            }
        }
        let user = user(&mesh);
        for (_, sidecar) in &mut pods {
            sidecar.wait_ready();
        }
        let nodes = [Namespace::new(), Namespace::new()];
        let stage = Self { user, pods, nodes, clock, mesh };
        for (n, node) in stage.nodes.iter().enumerate() {
            stage.connect(node, n + 1);
        }
        stage.serve_names();
        stage
    }

    /// The node's bridge, its cable, and its programs on it.
    fn connect(&self, node: &Namespace, number: usize) {
        let ip = |arguments: &[&str]| run(&mut node.command(program("ip"), arguments)).ok();
        let uplink = format!("node{number}");
        ip(&["link", "add", "br0", "type", "bridge"]);
        ip(&["link", "set", "br0", "up"]);
        self.ip(&["link", "add", &uplink, "type", "veth", "peer", "name", "uplink", "netns", node.name()]);
        ip(&["link", "set", "uplink", "master", "br0", "up"]);
        self.ip(&["link", "set", &uplink, "master", BRIDGE, "up"]);
        for (_, sidecar) in self.pods.iter().filter(|(name, _)| name.ends_with(&format!("-{number}"))) {
            let link = link(sidecar);
            self.ip(&["link", "set", &link, "netns", node.name()]);
            ip(&["link", "set", &link, "master", "br0", "up"]);
        }
    }

    /// `ip` in the third place.
    fn ip(&self, arguments: &[&str]) {
        run(&mut self.place().command(program("ip"), arguments)).ok();
    }

    fn place(&self) -> &Namespace {
        self.mesh.namespace().expect("it is in a namespace")
    }

    /// A name server in the third place, which knows one address. It ends with the test's process.
    fn serve_names(&self) {
        drop(inside(&format!("/run/netns/{}", self.place().name()), || {
            let socket = UdpSocket::bind((GATEWAY, 53)).unwrap();
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question) {
                let _ = socket.send_to(&answer(&question[..length]), from);
            }
        }));
    }

    /// The address of the storefront, for its callers.
    pub fn storefront(&self) -> IpAddr {
        let service = self.mesh.object("service", "shop", "storefront");
        service["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse().ok()).unwrap_or_else(|| panic!("{service:#}"))
    }

    /// What the users' resolver says of a name.
    pub fn asks(&self, name: &str) -> String {
        let network = format!("--net=/proc/{}/ns/net", self.user.sidecar_pid().unwrap());
        let mut dig = Command::new(program("nsenter"));
        dig.arg(network).arg("--").arg(program("dig"));
        let output = run(dig.args([&format!("@{GATEWAY}"), "+short", "+time=5", "+tries=1", name]));
        // Comments say why there is no answer.
        output.out.lines().filter(|line| !line.starts_with(';')).collect()
    }

    pub fn cut_control_plane(&self) {
        nft(
            &mut self.place().command(program("nft"), &["-f", "-"]),
            &drop_rule(&format!("ip daddr {GATEWAY} meta l4proto tcp drop")),
        );
    }

    pub fn cut_dns(&self) {
        nft(
            &mut self.place().command(program("nft"), &["-f", "-"]),
            &drop_rule(&format!("ip daddr {GATEWAY} meta l4proto {{ tcp, udp }} th dport 53 drop")),
        );
    }

    /// Takes back what the third place drops.
    pub fn mend(&self) {
        run(&mut self.place().command(program("nft"), &["delete", "table", "inet", "chaos"])).ok();
    }

    fn nft_in(sidecar: &Sidecar, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("nsenter"));
        command.arg(format!("--net=/proc/{}/ns/net", sidecar.sidecar_pid().unwrap())).arg("--").arg(program("nft"));
        command.args(arguments);
        command
    }

    /// Every program loses one packet of twenty that come to it from others.
    pub fn lose_packets(&self) {
        for sidecar in self.pods.iter().map(|(_, sidecar)| sidecar).chain([&self.user]) {
            nft(
                &mut Self::nft_in(sidecar, &["-f", "-"]),
                &drop_rule("iifname \"eth0\" numgen random mod 100 < 5 drop"),
            );
        }
    }

    pub fn find_packets(&self) {
        for sidecar in self.pods.iter().map(|(_, sidecar)| sidecar).chain([&self.user]) {
            run(&mut Self::nft_in(sidecar, &["delete", "table", "inet", "chaos"])).ok();
        }
    }

    /// The second node alone, without users, control plane and the other.
    pub fn cut_node(&self) {
        self.ip(&["link", "set", "node2", "down"]);
    }

    pub fn join_node(&self) {
        self.ip(&["link", "set", "node2", "up"]);
    }

    /// Sets the clock of one sidecar and its program; it is looked at once a second.
    pub fn set_clock(&self, step: &str) {
        let beside = self.clock.with_extension("new");
        std::fs::write(&beside, format!("{step}\n")).unwrap();
        std::fs::rename(&beside, &self.clock).unwrap();
    }

    /// How much longer the sidecar whose clock is set takes its certificate for valid, in seconds.
    fn certificate_lasts(&self) -> Result<i64, String> {
        let said: serde_json::Value =
            serde_json::from_str(&self.clocked().admin("/certificate")?).map_err(|e| e.to_string())?;
        said["expiresInSeconds"].as_i64().ok_or_else(|| said.to_string())
    }

    fn clocked(&self) -> &Sidecar {
        self.pods.iter().find(|(name, _)| name == CLOCK).map(|(_, sidecar)| sidecar).expect("it is one of them")
    }

    /// Sets the clock, and waits until the sidecar lives by it.
    pub fn step_clock(&self, seconds: i64) {
        let before = self.certificate_lasts().unwrap();
        self.set_clock(&format!("{seconds:+}"));
        let expected = (before - seconds).max(0);
        wait_for("the sidecar's clock is another", || match self.certificate_lasts()? {
            lasts if (lasts - expected).abs() < 60 => Ok(()),
            lasts => Err(format!("its certificate lasts {lasts} s, {before} s before")),
        });
    }

    /// Charges that the users make themselves, who have not spoken with `payments` yet; how many were well, and how
    /// many handshakes the sidecar whose clock is set refused meanwhile.
    pub fn charge(&self, count: usize) -> (usize, f64) {
        let service = self.mesh.object("service", "shop", "payments");
        let url = format!("http://{}/charges", service["spec"]["clusterIP"].as_str().unwrap());
        let network = format!("--net=/proc/{}/ns/net", self.user.sidecar_pid().unwrap());
        let refused = || {
            let failed = self.clocked().metric("weft_tls_handshakes_total", &["direction=\"inbound\""]);
            failed - self.clocked().metric("weft_tls_handshakes_total", &["direction=\"inbound\"", "result=\"ok\""])
        };
        let before = refused();
        let well = (0..count).filter(|_| {
            let mut curl = Command::new(program("nsenter"));
            curl.args([&network, "--"]).arg(program("curl")).args([
                "-sS",
                "--fail",
                "--noproxy",
                "*",
                "--max-time",
                "5",
            ]);
            run(curl.args(["-H", "idempotency-key: chaos", "-d", "", &url])).code == 0
        });
        (well.count(), refused() - before)
    }

    /// Whether calls reach either storefront.
    pub fn both_nodes_serve(&self) -> Result<(), String> {
        let all = self.pods.iter().filter(|(name, _)| name.starts_with("storefront"));
        let served =
            || all.clone().map(|(_, sidecar)| sidecar.metric("weft_requests_total", &["direction=\"inbound\""]));
        let before: Vec<f64> = served().collect();
        std::thread::sleep(std::time::Duration::from_millis(500));
        let more = served().zip(&before).filter(|(now, before)| now > *before).count();
        if more == 2 { Ok(()) } else { Err(format!("{more} of 2")) }
    }

    /// No call between sidecars went in plaintext.
    pub fn assert_mutual(&self) {
        for (name, sidecar) in &self.pods {
            let plain = sidecar.metric("weft_requests_total", &["direction=\"inbound\"", "tls=\"none\""]);
            let mutual = sidecar.metric("weft_requests_total", &["direction=\"inbound\"", "tls=\"mutual\""]);
            assert!(plain == 0.0 && mutual > 0.0, "{name}: {plain} in plaintext, {mutual} by mTLS");
        }
    }

    /// All at once: one after the other each would wait for the last.
    pub fn stop(&mut self) {
        let all = || self.pods.iter().map(|(_, sidecar)| sidecar).chain([&self.user]);
        all().for_each(|sidecar| sidecar.process.signal(rustix::process::Signal::TERM));
        for (_, sidecar) in &mut self.pods {
            sidecar.process.wait();
        }
        self.user.process.wait();
    }
}

fn drop_rule(rule: &str) -> String {
    format!("table inet chaos {{\n chain in {{\n  type filter hook prerouting priority -400\n  {rule}\n }}\n}}\n")
}

fn nft(command: &mut Command, rules: &str) {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{rules}");
}

/// An instance of a service.
fn pod(mesh: &Mesh, name: &str, service: &str, grpc: bool, clock: Option<&PathBuf>) -> Sidecar {
    let shop = binary("weft-shop");
    let listen = format!("127.0.0.1:{PORT}");
    let port = if grpc { format!("9000:{PORT}:grpc") } else { format!("80:{PORT}:http") };
    let library = format!("LD_PRELOAD=/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
    let file = format!("FAKETIME_TIMESTAMP_FILE={}", clock.map(|path| text(path).to_owned()).unwrap_or_default());
    let settings = ["FAKETIME_CACHE_DURATION=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"];
    let faked = [&["env", &library, &file][..], &settings].concat();
    mesh.run(&Run {
        name,
        services: &[service],
        ports: &[port],
        flags: &["--isolation", "netns", "--service-account", service, "--death", "kill", "--drain-deadline", "1s"],
        before: if clock.is_some() { &faked } else { &[] },
        command: &[text(&shop), service, "--listen", &listen],
        ..Run::default()
    })
}

/// Where the users are. Its sidecar asks the name server of the third place for names outside the mesh.
fn user(mesh: &Mesh) -> Sidecar {
    let resolv = mesh.folder().join("resolv.conf");
    std::fs::write(&resolv, format!("nameserver {GATEWAY}\n")).unwrap();
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let sleep = program("sleep");
    mesh.run_ready(&Run {
        name: "user",
        flags: &["--isolation", "netns", "--service-account", "user", "--drain-deadline", "1s"],
        before: &["unshare", "--mount", "--", "sh", "-c", script, text(&resolv)],
        command: &[text(&sleep), "infinity"],
        ..Run::default()
    })
}

/// The end of a program's cable that is not in its own namespace, which is named by its address.
fn link(sidecar: &Sidecar) -> String {
    let ready = wait_for("its address", || sidecar.ready_file().ok_or_else(|| "no ready file".to_owned()));
    let tunnel: SocketAddr = ready["tunnel"].as_str().unwrap().parse().unwrap();
    let IpAddr::V4(address) = tunnel.ip() else { panic!("{tunnel}") };
    let [_, _, high, low] = address.octets();
    format!("weftv{}", u16::from_be_bytes([high, low]))
}

/// The question with one address as its answer (RFC 1035 §4.1); no address of IPv6.
fn answer(question: &[u8]) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap_or_default() + 5;
    let is_ipv4 = question[end - 4..end - 2] == [0, 1];
    let mut answer = question[..end].to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[6..12].copy_from_slice(&[0, u8::from(is_ipv4), 0, 0, 0, 0]);
    if is_ipv4 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(ANSWER);
    }
    answer
}
