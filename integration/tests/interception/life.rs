//! The life of a pod's application: it binds before, after or never, calls itself, is called at the sidecar's own ports, and serves ten
//! thousand short connections of which nothing stays.

use crate::clients::{Protocol, Seen, Talk};
use crate::lab::{Lab, Machine, sysctl};
use crate::mesh::{CART_VIPS, Mesh, Mode, Sidecar, caller_resources, cart_resources, get, id};
use crate::servers::{self, HALF_CLOSE, HTTP1};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use weft_integration::rig::{Namespace, program, run, wait_for};

/// What nobody should wait longer for where there is nobody to answer.
const PROMPT: Duration = Duration::from_secs(3);

fn modes(test: impl Fn(Mode) + Sync) {
    std::thread::scope(|scope| {
        let both = [Mode::Redirect, Mode::Tproxy].map(|mode| {
            scope.spawn({
                let test = &test;
                move || test(mode)
            })
        });
        for one in both {
            one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// What a call ends with, and within [`PROMPT`].
#[track_caller]
fn promptly(lab: &Lab, from: &Machine, to: SocketAddr, protocol: Protocol) -> Result<Seen, String> {
    let began = Instant::now();
    let marker = format!("{:x<600}", "weft-life-");
    let host = if to.ip() == lab.cart.ip(true) { "cart" } else { "cart4" };
    let said = Talk { space: &from.space, to, host, marker: &marker, bulk: 0 }.talk(protocol);
    assert!(began.elapsed() < PROMPT, "{protocol:?} to {to} took {:?}: {said:?}", began.elapsed());
    said
}

#[test]
fn an_application_may_bind_before_its_callers_come_after_them_or_never() {
    modes(|mode| {
        let lab = Lab::new();
        let mesh = Mesh::new(mode);
        let _cart = mesh.join(&lab.cart, "cart", &cart_resources(&lab));
        let _caller = mesh.join(&lab.caller, "caller", &caller_resources(&lab));
        let vip = |port| SocketAddr::new(CART_VIPS[0].parse().unwrap(), port);
        let direct = |port| SocketAddr::new(lab.cart.ip(true), port);
        let places = |port| [(&lab.caller, vip(port)), (&lab.visitor, direct(port))];
        // Not yet: HTTP hears why, and other protocols are closed. Twice, as the first might find something that is not there yet.
        for _ in 0..2 {
            for (from, to) in places(HTTP1) {
                let why = promptly(&lab, from, to, Protocol::Http1).unwrap_err();
                assert!(
                    why.starts_with("status 502") && why.contains("weft-error: connect-failed"),
                    "{mode:?} {to}: {why}"
                );
            }
            for protocol in [Protocol::HalfClose, Protocol::Smtp] {
                for (from, to) in places(protocol.port()) {
                    promptly(&lab, from, to, protocol).unwrap_err();
                }
            }
        }
        // After: whoever comes then is served.
        let _servers = servers::Servers::start(&lab.cart);
        for protocol in [Protocol::Http1, Protocol::HalfClose, Protocol::Smtp] {
            for (from, to) in places(protocol.port()) {
                wait_for("the application is reached", || promptly(&lab, from, to, protocol));
            }
        }
    });
}

/// What the cart's sidecar knows, and that it is reached at the services' addresses itself.
fn cart_that_knows_itself(lab: &Lab) -> String {
    let (_, services) =
        caller_resources(lab).split_once("\nservices:").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    format!("{}services:{services}", cart_resources(lab))
}

#[test]
fn a_pod_that_calls_its_own_service_reaches_itself_and_no_way_leads_in_circles() {
    modes(|mode| {
        let lab = Lab::new();
        let mesh = Mesh::new(mode);
        let _servers = servers::Servers::start(&lab.cart);
        let cart = mesh.join(&lab.cart, "cart", &cart_that_knows_itself(&lab));
        // By the service's address: as a peer with its own identity.
        for (index, v4) in [(0, true), (1, false)] {
            let to = SocketAddr::new(CART_VIPS[index].parse().unwrap(), HTTP1);
            let seen = wait_for("the pod reaches itself", || promptly(&lab, &lab.cart, to, Protocol::Http1));
            assert!([lab.cart.ip(true), lab.cart.ip(v4)].contains(&seen.peer), "{mode:?}: {seen:?}");
        }
        let lines = wait_for("two calls are logged", || {
            let lines = cart.inbound();
            if lines.len() == 2 { Ok(lines) } else { Err(format!("{lines:?}")) }
        });
        assert!(lines.iter().all(|line| line["sourceIdentity"] == id("cart").as_str()), "{lines:?}");
        // The sidecar's own ports, from inside and outside: an end, and soon. The tunnel speaks TLS, and 15021 says 404.
        for port in [15_001, 15_006, 15_008, 15_021, 15_053] {
            for v4 in [true, false] {
                for from in [&lab.cart, &lab.visitor] {
                    let to = SocketAddr::new(lab.cart.ip(v4), port);
                    let said = promptly(&lab, from, to, Protocol::Http1);
                    assert!(said.is_err(), "{mode:?} {to}: {said:?}");
                }
            }
        }
        wait_for("nothing goes on", || match open(&lab.cart.space) {
            open if open <= 2.0 => Ok(()),
            open => Err(format!("{open} connections are open in the sidecar")),
        });
    });
}

#[test]
fn authorization_by_address_goes_by_the_callers_own() {
    modes(|mode| {
        let lab = Lab::new();
        let mesh = Mesh::new(mode);
        let _servers = servers::Servers::start(&lab.cart);
        // Port 8080 is for the visitor, and by mTLS for the caller; the pod beside the cart is nobody's friend.
        let admits = |machine: &Machine| {
            let source = format!("{{ipBlocks: ['{}/32', '{}/128']}}", machine.v4, machine.v6);
            format!("[{{name: shop/friends, action: ACTION_ALLOW, rules: [{{from: [{source}]}}]}}]")
        };
        let [visitor, caller] = [&lab.visitor, &lab.caller].map(admits);
        let resources = cart_resources(&lab)
            .replace("{port: 8080, ", &format!("{{port: 8080, authorization: {visitor}, "))
            .replace("{port: 18080, ", &format!("{{port: 18080, authorization: {caller}, "));
        let cart = mesh.join(&lab.cart, "cart", &resources);
        let _caller = mesh.join(&lab.caller, "caller", &caller_resources(&lab));
        for (index, v4) in [(0, true), (1, false)] {
            let direct = SocketAddr::new(lab.cart.ip(v4), HTTP1);
            let vip = SocketAddr::new(CART_VIPS[index].parse().unwrap(), HTTP1);
            promptly(&lab, &lab.visitor, direct, Protocol::Http1).unwrap();
            promptly(&lab, &lab.caller, vip, Protocol::Http1).unwrap();
            // Who calls is known before anything is said: the connection ends there.
            for from in [&lab.legacy, &lab.caller] {
                promptly(&lab, from, direct, Protocol::Http1).unwrap_err();
                let refused = format!("reason=\"denied\" peer={}", if v4 { "[::ffff:" } else { "[" });
                let refused = format!("{refused}{}]:", from.ip(v4));
                wait_for("the refusal is logged", || {
                    let log = cart.process.log();
                    if log.contains(&refused) { Ok(()) } else { Err(format!("{mode:?}: no {refused:?} in\n{log}")) }
                });
            }
        }
    });
}

/// Connections that the sidecar says are open, but for those between sidecars, which stay for the next call.
fn open(space: &Namespace) -> f64 {
    let text = get(space, "http://127.0.0.1:15021/metrics").unwrap();
    let gauges = text.lines().filter(|line| line.starts_with("weft_connections{") && !line.contains("tunnel"));
    gauges.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// What a pod holds that connections could leave behind.
#[derive(Debug)]
struct Held {
    /// Entries of connection tracking.
    tracked: u64,
    /// Sockets of TCP, without those that wait for stray packets: the kernel keeps these for a minute.
    sockets: usize,
    /// Descriptors of the sidecar.
    descriptors: usize,
    /// Its memory, in KiB.
    memory: u64,
}

fn held(machine: &Machine, sidecar: &Sidecar) -> Held {
    let read = |path: &str| run(&mut machine.space.command(program("cat"), &[path])).ok();
    let waiting = |line: &&str| line.split_ascii_whitespace().nth(3) != Some("06");
    let sockets = |path: &str| read(path).lines().skip(1).filter(waiting).count();
    // `nsenter` and `setpriv` became the sidecar: one program after the other, the same process.
    let process = format!("/proc/{}", sidecar.process.pid());
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    Held {
        tracked: read("/proc/sys/net/netfilter/nf_conntrack_count").trim().parse().unwrap(),
        sockets: sockets("/proc/net/tcp") + sockets("/proc/net/tcp6"),
        descriptors: std::fs::read_dir(format!("{process}/fd")).unwrap().count(),
        memory: memory.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

/// So many conversations of a few bytes, each on a connection of its own, eight at a time. How many went wrong.
fn short_connections(space: &Namespace, to: SocketAddr, count: usize) -> usize {
    let one = move || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"short")?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.ends_with("short"))
    };
    let part = move || (0..count / 8).filter(|_| !one().is_ok_and(|well| well)).count();
    let parts: Vec<_> = (0..8).map(|_| space.spawn(part)).collect();
    parts.into_iter().map(|part| part.join().unwrap()).sum()
}

#[test]
fn ten_thousand_short_connections_leave_nothing_behind() {
    modes(|mode| {
        let lab = Lab::new();
        let mesh = Mesh::new(mode);
        let _servers = servers::Servers::start(&lab.cart);
        let cart = mesh.join(&lab.cart, "cart", &cart_resources(&lab));
        let caller = mesh.join(&lab.caller, "caller", &caller_resources(&lab));
        for machine in [&lab.cart, &lab.caller] {
            for state in ["time_wait", "close", "fin_wait", "last_ack", "close_wait"] {
                sysctl(&machine.space, &format!("net.netfilter.nf_conntrack_tcp_timeout_{state}=1"));
            }
        }
        let vip = SocketAddr::new(CART_VIPS[0].parse().unwrap(), HALF_CLOSE);
        let direct = SocketAddr::new(lab.cart.ip(true), HALF_CLOSE);
        let ways = [(&lab.caller.space, vip), (&lab.visitor.space, direct)];
        // What is made once and kept: tunnels between the sidecars, buffers.
        for (space, to) in ways {
            assert_eq!(short_connections(space, to, 800), 0, "{mode:?} {to}");
        }
        let pods = [(&lab.cart, &cart), (&lab.caller, &caller)];
        let settled = || pods.map(|(machine, sidecar)| quiet(machine, sidecar));
        let before = settled();
        for (space, to) in ways {
            assert_eq!(short_connections(space, to, 5_000), 0, "{mode:?} {to}");
        }
        for ((machine, sidecar), before) in pods.into_iter().zip(&before) {
            let after = wait_for("everything is given back", || {
                let now = held(machine, sidecar);
                let back = now.tracked <= before.tracked + 4
                    && now.sockets <= before.sockets + 4
                    && now.descriptors <= before.descriptors + 4
                    && now.memory <= before.memory + 4096;
                if back { Ok(now) } else { Err(format!("{mode:?}: {now:?}, and before {before:?}")) }
            });
            println!("{}: before {before:?}, after {after:?}", mode.name());
        }
    });
}

/// What is held once nothing of it becomes less any more.
fn quiet(machine: &Machine, sidecar: &Sidecar) -> Held {
    let mut last = held(machine, sidecar);
    wait_for("the pod is quiet", || {
        std::thread::sleep(Duration::from_millis(500));
        let now = held(machine, sidecar);
        let less = now.tracked < last.tracked || now.sockets < last.sockets || now.descriptors < last.descriptors;
        let few = now.tracked < 50;
        last = now;
        if less || !few { Err(format!("{last:?}")) } else { Ok(()) }
    });
    last
}
