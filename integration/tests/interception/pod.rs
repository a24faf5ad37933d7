//! A sidecar without any capability, under its own user, behind rules that were there before it, all as `weft inject` has it.

use crate::injected::{Injected, inject};
use crate::lab::ip;
use crate::mesh::get;
use std::path::Path;
use weft_integration::rig::{Namespace, Process, binary, program, run, wait_for};

/// Two namespaces with a cable between them: a pod at 192.0.2.1 and 2001:db8::1, and the world at 192.0.2.2 and 2001:db8::2.
pub struct Cable {
    pub pod: Namespace,
    pub world: Namespace,
}

impl Cable {
    pub fn new() -> Self {
        let (pod, world) = (Namespace::new(), Namespace::new());
        ip(&pod, &format!("link add eth0 type veth peer name eth0 netns {}", world.name()));
        for (namespace, host) in [(&pod, 1), (&world, 2)] {
            ip(namespace, &format!("address add 192.0.2.{host}/24 dev eth0"));
            ip(namespace, &format!("address add 2001:db8::{host}/64 dev eth0 nodad"));
            ip(namespace, "link set eth0 up");
        }
        for gateway in ["192.0.2.2", "2001:db8::2"] {
            ip(&pod, &format!("route add default via {gateway}"));
        }
        Self { pod, world }
    }
}

const RESOURCES: &str = "
settings: {trustDomain: weft.local, domain: cluster.local}
inbound:
  workload: shop/cart
  identity: spiffe://weft.local/ns/shop/sa/cart
  ports:
  - {port: 9000, local: '127.0.0.1:9000', protocol: PROTOCOL_HTTP1, service: shop/cart, tls: TLS_MODE_DISABLED}
services:
- name: shop/web
  hostnames: [web, web.shop, web.shop.svc.cluster.local]
  vips: [198.51.100.80, '2001:db8:80::1']
  ports:
  - {port: 80, protocol: PROTOCOL_HTTP1, frontend: {requestTimeout: 5s}, backend: {slices: ['shop/web:80/0']}}
endpoints:
- name: shop/web:80/0
  endpoints:
  - {uid: shop/web-1, address: 192.0.2.2, port: 8080, health: HEALTH_READY}
";

/// A folder that the sidecar's user may enter, and the file of resources in it.
pub fn resources(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::Builder::new().prefix("weft-test-").tempdir().unwrap();
    crate::servers::open_to_all(folder.path());
    let file = folder.path().join("mesh.yaml");
    std::fs::write(&file, text).unwrap();
    (folder, file)
}

fn server(namespace: &Namespace, folder: &Path, name: &str, port: &str) -> Process {
    let files = folder.join(name);
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("name"), name).unwrap();
    let arguments = ["-m", "http.server", port, "--bind", "::", "--directory", files.to_str().unwrap()];
    let server = Process::start(folder, name, &mut namespace.command(program("python3"), &arguments));
    wait_for("the server answers", || get(namespace, &format!("http://127.0.0.1:{port}/name")).map(drop));
    server
}

/// How many calls the sidecar counted of a direction and a destination.
fn calls(pod: &Namespace, direction: &str, destination: &str) -> f64 {
    let text = get(pod, "http://127.0.0.1:15021/metrics").unwrap();
    let (direction, destination) = (format!("direction=\"{direction}\""), format!("destination=\"{destination}\""));
    text.lines()
        .filter(|line| {
            line.starts_with("weft_requests_total{") && line.contains(&direction) && line.contains(&destination)
        })
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// What `weft inject` makes of the cart: it serves 9000 and is probed there, and calls to port 8081 are none of the mesh's business.
fn cart(mode: &str) -> Injected {
    let annotations =
        format!("config.weft.mesh/interception-mode: {mode}, config.weft.mesh/exclude-outbound-ports: '8081'");
    let container = "ports: [{name: http, containerPort: 9000}], livenessProbe: {httpGet: {path: /name, port: http}}, \
                     readinessProbe: {tcpSocket: {port: 9}}";
    inject("cart", &annotations, container)
}

fn starts(cable: &Cable, injected: &Injected, folder: &Path, file: &Path, more: &[&str]) -> Process {
    let more = [&["--resources", file.to_str().unwrap()], more].concat();
    let mut command = injected.sidecar(&cable.pod, "cart", "192.0.2.1", &more);
    let mut sidecar = Process::start(folder, "sidecar", &mut command);
    wait_for("the sidecar is ready", || {
        sidecar.assert_running();
        get(&cable.pod, "http://127.0.0.1:15021/ready").map(drop)
    });
    sidecar
}

#[test]
fn a_sidecar_without_privileges_serves_behind_rules_that_an_init_container_installed() {
    serves(&cart("REDIRECT"));
}

#[test]
fn a_sidecar_behind_tproxy_serves_with_one_capability() {
    serves(&cart("TPROXY"));
}

fn serves(injected: &Injected) {
    let cable = Cable::new();
    let (folder, file) = resources(RESOURCES);
    run(&mut injected.install(&cable.pod)).ok();
    let mut sidecar = starts(&cable, injected, folder.path(), &file, &[]);
    let _web = server(&cable.world, folder.path(), "web", "8080");
    let _plain = server(&cable.world, folder.path(), "plain", "8081");
    let _cart = server(&cable.pod, folder.path(), "cart", "9000");
    let _other = server(&cable.pod, folder.path(), "undeclared", "9001");

    // Out: to the service by either address, and to a server that the mesh does not know by either.
    for address in ["198.51.100.80", "[2001:db8:80::1]"] {
        assert_eq!(get(&cable.pod, &format!("http://{address}/name")).unwrap(), "web");
    }
    assert_eq!(calls(&cable.pod, "outbound", "shop/web"), 2.0);
    for address in ["192.0.2.2", "[2001:db8::2]"] {
        assert_eq!(get(&cable.pod, &format!("http://{address}:8080/name")).unwrap(), "web");
        assert_eq!(get(&cable.pod, &format!("http://{address}:8081/name")).unwrap(), "plain");
    }
    // Names: whichever resolver is asked, the sidecar answers.
    for resolver in ["192.0.2.53", "2001:db8::53", "127.0.0.1"] {
        for transport in ["+notcp", "+tcp"] {
            let question =
                [&format!("@{resolver}"), transport, "+short", "+time=2", "+tries=3", "web.shop.svc.cluster.local"];
            let answer = run(&mut cable.pod.command(program("dig"), &question)).ok();
            assert_eq!(answer.trim(), "198.51.100.80", "{resolver} {transport}");
        }
    }
    // In: captured, whether or not the port was declared; the sidecar's own ports are reached directly.
    for address in ["192.0.2.1", "[2001:db8::1]"] {
        assert_eq!(get(&cable.world, &format!("http://{address}:9000/name")).unwrap(), "cart");
        get(&cable.world, &format!("http://{address}:15021/live")).unwrap();
    }
    assert_eq!(calls(&cable.pod, "inbound", "shop/cart"), 2.0);
    // Kubelet's probes: what the application says, and not what the sidecar accepts for it.
    for address in ["192.0.2.1", "[2001:db8::1]"] {
        let probe = |name: &str| get(&cable.world, &format!("http://{address}:15021/app-probe/app/{name}"));
        assert_eq!(probe("livenessProbe").unwrap(), "the application says 200\n");
        for other in ["readinessProbe", "unknown"] {
            assert!(probe(other).is_err(), "{other}");
        }
    }
    // By itself: past the sidecar.
    for address in ["192.0.2.1", "127.0.0.1", "[2001:db8::1]", "[::1]"] {
        assert_eq!(get(&cable.pod, &format!("http://{address}:9001/name")).unwrap(), "undeclared");
    }
    // The ports that take what the rules bring are no way in from outside: nobody gets through a pod to somewhere else.
    for (address, port) in
        [("192.0.2.1", 15001), ("[2001:db8::1]", 15001), ("192.0.2.1", 15006), ("[2001:db8::1]", 15006)]
    {
        let answer = get(&cable.world, &format!("http://{address}:{port}/name"));
        assert!(answer.is_err(), "{address}:{port}: {answer:?}");
    }
    assert_eq!(sidecar.stop(), 0, "{}", sidecar.log());
    // Without a sidecar nobody comes past it either.
    for address in ["192.0.2.1", "[2001:db8::1]"] {
        let answer = get(&cable.world, &format!("http://{address}:9000/name"));
        assert!(answer.as_ref().is_err_and(|why| why.contains("refused") || why.contains("connect")), "{answer:?}");
    }
    let shown = run(&mut cable.pod.command(binary("weft-proxy"), &["intercept", "show"]));
    assert_eq!(shown.code, 0, "the rules are not the sidecar's");
}

#[test]
fn a_sidecar_that_may_not_do_what_its_rules_take_says_so_at_its_start() {
    let cable = Cable::new();
    let (_folder, file) = resources(RESOURCES);
    let injected = cart("REDIRECT");
    let resources = ["--resources", file.to_str().unwrap()];
    // As injected it has no capability: it cannot mark, and it cannot have addresses of others.
    let tproxy = [&resources[..], &["--inbound-mode", "tproxy"]].concat();
    let injected_words = |more: &[&str]| {
        let command = injected.sidecar(&cable.pod, "cart", "192.0.2.1", more);
        let words = command.get_args().map(|word| word.to_str().unwrap().to_owned()).collect::<Vec<_>>();
        (command.get_program().to_owned(), words)
    };
    for (more, from, to, why) in [
        (&tproxy[..], "", "", "interception.inboundMode: tproxy takes sockets with addresses of others"),
        (&resources[..], "--exempt-uid=15000", "--exempt-uid=15001", "the sidecar runs as user 15000"),
        (&resources[..], "--exempt-uid=15000", "--log=info", "CAP_NET_ADMIN"),
    ] {
        let (program, mut words) = injected_words(more);
        words.retain(|word| word != to);
        let words = words.into_iter().map(|word| if word == from { to.to_owned() } else { word });
        let refused = run(std::process::Command::new(program).args(words));
        assert_eq!(refused.code, 2, "{}", refused.err);
        assert!(refused.err.contains(why), "{}", refused.err);
    }
}
