//! Names and datagrams: hosts outside that share a port have addresses of their own in a pod, by DNS over UDP and TCP and either family;
//! all other UDP passes as if there were no mesh.

use crate::lab::{Lab, Machine, ip};
use crate::mesh::{Mesh, Mode};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;
use weft_integration::rig::{program, run, wait_for};

/// Names of the world, each with an address there of either family, and all with the same port.
const HOSTS: [(&str, &str, &str); 2] =
    [("one.example.com", "203.0.113.31", "2001:db8:2::31"), ("two.example.com", "203.0.113.32", "2001:db8:2::32")];
const PORT: u16 = 7000;

fn resources() -> String {
    let mut out = String::from(
        "settings: {trustDomain: weft.local, domain: cluster.local}\n\
         inbound: {workload: shop/caller, identity: 'spiffe://weft.local/ns/shop/sa/caller', ports: []}\nservices:\n",
    );
    for (i, (host, ..)) in HOSTS.iter().enumerate() {
        out += &format!(
            "- name: shop/outside-{i}\n  hostnames: [{host}]\n  ports:\n  - {{port: {PORT}, protocol: PROTOCOL_TCP, \
             backend: {{external: {{host: {host}, port: {PORT}}}}}}}\n"
        );
    }
    out
}

/// A DNS server of the world: it knows A and AAAA of [`HOSTS`], and that there is nothing else (RFC 1035 §4).
fn name_server(world: &Machine) {
    let socket = world.space.within(|| UdpSocket::bind(("::", 53)).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = answer(&buffer[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
}

fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*question.get(at)?);
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(question.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let kind = u16::from_be_bytes([*question.get(at + 1)?, *question.get(at + 2)?]);
    let name = labels.join(".");
    let address = HOSTS.iter().find(|(host, ..)| *host == name).map(|(_, v4, v6)| (*v4, *v6));
    let data = match (kind, address) {
        (1, Some((v4, _))) => v4.parse::<std::net::Ipv4Addr>().ok().map(|ip| ip.octets().to_vec()),
        (28, Some((_, v6))) => v6.parse::<std::net::Ipv6Addr>().ok().map(|ip| ip.octets().to_vec()),
        _ => None,
    };
    let code = if address.is_some() { 0 } else { 3 };
    let mut out = question.get(..2)?.to_vec();
    out.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(data.is_some()), 0, 0, 0, 0]);
    out.extend(question.get(12..at + 5)?);
    if let Some(data) = data {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 30]);
        out.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        out.extend(data);
    }
    Some(out)
}

/// What `dig` prints of a question.
fn dig(machine: &Machine, resolver: &str, transport: &str, kind: &str, name: &str) -> Result<String, String> {
    let words = [&format!("@{resolver}"), transport, "+short", "+time=2", "+tries=3", kind, name];
    let output = run(&mut machine.space.command(program("dig"), &words));
    if output.code == 0 && !output.out.trim().is_empty() { Ok(output.out.trim().to_owned()) } else { Err(output.out) }
}

#[test]
fn hosts_outside_that_share_a_port_are_told_apart_by_an_address_of_each_in_either_family() {
    for mode in [Mode::Redirect, Mode::Tproxy] {
        let lab = Lab::new();
        for (_, v4, v6) in HOSTS {
            ip(&lab.world.space, &format!("address add {v4}/24 dev eth0"));
            ip(&lab.world.space, &format!("address add {v6}/64 dev eth0 nodad"));
        }
        name_server(&lab.world);
        // Says at which of its addresses it was called.
        crate::servers::serve(&lab.world, PORT, |mut stream: TcpStream| {
            let local = stream.local_addr().ok()?.ip().to_canonical();
            stream.write_all(local.to_string().as_bytes()).ok()
        });
        let mesh = Mesh::new(mode);
        let file = mesh.folder.path().join("settings.yaml");
        std::fs::write(&file, format!("dns: {{upstream: ['{}']}}\n", SocketAddr::from((lab.world.v4, 53)))).unwrap();
        let _sidecar = mesh.join_with(&lab.caller, "caller", &resources(), &["--config", file.to_str().unwrap()]);

        for (host, v4, v6) in HOSTS {
            let mut given = Vec::new();
            for kind in ["A", "AAAA"] {
                // Whichever resolver the pod has, over UDP and TCP and either family: the sidecar answers, always the same.
                let mut answers = Vec::new();
                for resolver in ["203.0.113.10", "2001:db8:2::10", "192.0.2.99"] {
                    for transport in ["+notcp", "+tcp"] {
                        answers.push(wait_for("an answer", || dig(&lab.caller, resolver, transport, kind, host)));
                    }
                }
                answers.dedup();
                assert_eq!(answers.len(), 1, "{host} {kind}: {answers:?}");
                given.push(answers.remove(0).parse::<IpAddr>().unwrap());
            }
            for address in given {
                assert!(address.to_string().starts_with(if address.is_ipv4() { "240.240." } else { "2001:2:0:f0f0:" }));
                let said = wait_for("the host answers", || {
                    lab.caller
                        .space
                        .within(|| {
                            let mut stream =
                                TcpStream::connect_timeout(&(address, PORT).into(), Duration::from_secs(5))?;
                            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                            let mut said = String::new();
                            stream.read_to_string(&mut said).map(|_| said)
                        })
                        .map_err(|e| e.to_string())
                });
                assert!([v4, v6].contains(&&*said), "{host} by {address}: {said}");
            }
        }
        // A name that nobody registered is what the resolvers say.
        assert!(dig(&lab.caller, "203.0.113.10", "+notcp", "A", "three.example.com").is_err());
    }
}

/// Answers each datagram with the address that it came from, and what was in it.
fn echo(machine: &Machine, port: u16) {
    let socket = machine.space.within(|| UdpSocket::bind(("::", port)).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 9000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let answer = [from.ip().to_canonical().to_string().as_bytes(), b" ", &buffer[..length]].concat();
            let _ = socket.send_to(&answer, from);
        }
    });
}

#[test]
fn datagrams_pass_untouched_in_both_directions_and_families() {
    for mode in [Mode::Redirect, Mode::Tproxy] {
        let lab = Lab::new();
        let mesh = Mesh::new(mode);
        let _sidecar = mesh.join(&lab.caller, "caller", &resources());
        // 8080 and 15001 are ports that matter for TCP.
        for port in [7000, 8080, 15_001] {
            echo(&lab.world, port);
            echo(&lab.caller, port);
            for v4 in [true, false] {
                for (from, to) in [(&lab.caller, &lab.world), (&lab.visitor, &lab.caller), (&lab.caller, &lab.caller)] {
                    let said = from.space.within(|| {
                        let any: IpAddr = if v4 { [0, 0, 0, 0].into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
                        let socket = UdpSocket::bind((any, 0)).unwrap();
                        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                        // Answers come from where the question went, or a connected socket does not take them.
                        socket.connect((to.ip(v4), port)).unwrap();
                        socket.send(&[b'x'; 1200]).unwrap();
                        let mut buffer = [0; 9000];
                        let length = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{mode:?} {port} {v4}: {e}"));
                        String::from_utf8_lossy(&buffer[..length]).into_owned()
                    });
                    assert_eq!(said, format!("{} {}", from.ip(v4), "x".repeat(1200)), "{mode:?} {port}");
                }
            }
        }
    }
}
