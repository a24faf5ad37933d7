//! A sidecar without any capability, under its own user, behind rules that were there before it.

use std::path::Path;
use weft_integration::rig::{Namespace, Process, binary, program, run, wait_for};

/// Two namespaces with a cable between them: a pod at 192.0.2.1 and 2001:db8::1, and the world at 192.0.2.2 and 2001:db8::2.
struct Cable {
    pod: Namespace,
    world: Namespace,
}

impl Cable {
    fn new() -> Self {
        let (pod, world) = (Namespace::new(), Namespace::new());
        run(&mut pod.command(
            program("ip"),
            &["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", world.name()],
        ))
        .ok();
        for (namespace, host) in [(&pod, 1), (&world, 2)] {
            let ip = |arguments: &[&str]| run(&mut namespace.command(program("ip"), arguments)).ok();
            ip(&["address", "add", &format!("192.0.2.{host}/24"), "dev", "eth0"]);
            ip(&["address", "add", &format!("2001:db8::{host}/64"), "dev", "eth0", "nodad"]);
            ip(&["link", "set", "eth0", "up"]);
        }
        for gateway in ["192.0.2.2", "2001:db8::2"] {
            run(&mut pod.command(program("ip"), &["route", "add", "default", "via", gateway])).ok();
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

fn server(namespace: &Namespace, folder: &Path, name: &str, port: &str) -> Process {
    let files = folder.join(name);
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("name"), name).unwrap();
    let arguments = ["-m", "http.server", port, "--bind", "::", "--directory", files.to_str().unwrap()];
    let server = Process::start(folder, name, &mut namespace.command(program("python3"), &arguments));
    wait_for("the server answers", || get(namespace, &format!("http://127.0.0.1:{port}/name")).map(drop));
    server
}

fn get(namespace: &Namespace, url: &str) -> Result<String, String> {
    let output =
        run(&mut namespace
            .command(program("curl"), &["-sS", "-g", "--fail", "--noproxy", "*", "--max-time", "10", url]));
    if output.code == 0 { Ok(output.out) } else { Err(output.err) }
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

#[test]
fn a_sidecar_without_privileges_serves_behind_rules_that_an_init_container_installed() {
    let cable = Cable::new();
    let folder = tempfile::Builder::new().prefix("weft-test-").tempdir().unwrap();
    // The sidecar is another user.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let resources = folder.path().join("mesh.yaml");
    std::fs::write(&resources, RESOURCES).unwrap();
    let proxy = binary("weft-proxy");
    let installed = ["intercept", "install", "--exclude-outbound-ports", "8081"];
    run(&mut cable.pod.command(&proxy, &installed)).ok();

    let command = |more: &[&str]| {
        let user = ["--reuid=15000", "--regid=15000", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--"];
        let flags = ["--resources", resources.to_str().unwrap(), "--transparent", "--plaintext", "[::]:15006"];
        let listeners = ["--outbound", "127.0.0.1:15001", "--tunnel", "[::]:15008", "--admin", "[::]:15021"];
        let probes =
            ["--app-probe", "cart/live=http://127.0.0.1:9000/name", "--app-probe", "cart/dead=tcp://127.0.0.1:9"];
        let dns = ["--dns", "127.0.0.1:15053"];
        let words = [&user[..], &[proxy.to_str().unwrap()], &flags, &listeners, &dns, &probes, more].concat();
        cable.pod.command(program("setpriv"), &words)
    };
    for (more, why) in [(&[][..], "CAP_NET_ADMIN"), (&["--exempt-uid", "15001"], "the sidecar runs as user 15000")] {
        let refused = run(&mut command(more));
        assert_eq!(refused.code, 2, "{}", refused.err);
        assert!(refused.err.contains(why), "{}", refused.err);
    }
    let mut sidecar = Process::start(folder.path(), "sidecar", &mut command(&["--exempt-uid", "15000"]));
    wait_for("the sidecar is ready", || {
        sidecar.assert_running();
        get(&cable.pod, "http://127.0.0.1:15021/ready").map(drop)
    });
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
        let said = get(&cable.world, &format!("http://{address}:15021/app-probe/cart/live")).unwrap();
        assert_eq!(said, "the application says 200\n");
        for other in ["dead", "unknown"] {
            assert!(get(&cable.world, &format!("http://{address}:15021/app-probe/cart/{other}")).is_err(), "{other}");
        }
    }
    // By itself: past the sidecar.
    for address in ["192.0.2.1", "127.0.0.1", "[2001:db8::1]", "[::1]"] {
        assert_eq!(get(&cable.pod, &format!("http://{address}:9001/name")).unwrap(), "undeclared");
    }
    // The port that takes the application's calls is no way in from outside: nobody gets through a pod to somewhere else.
    for address in ["192.0.2.1", "[2001:db8::1]"] {
        let answer = get(&cable.world, &format!("http://{address}:15001/name"));
        assert!(answer.is_err(), "{address}: {answer:?}");
    }
    assert_eq!(sidecar.stop(), 0, "{}", sidecar.log());
    assert!(run(&mut cable.pod.command(&proxy, &["intercept", "show"])).code == 0, "the rules are not the sidecar's");
}
