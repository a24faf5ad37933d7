//! Connections that only stand there: half a preface, half a handshake, a head that never ends, and ten thousand of nothing at all.

use super::Stage;
use crate::frames::PREFACE;
use crate::wire::{Link, timed_out};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long a sidecar waits for a head, a preface or a handshake, and a little.
const PATIENCE: Duration = Duration::from_secs(13);
/// How long for anything at all of a peer that has begun HTTP/2: two intervals between PINGs, the answer to one, and a little.
const LONGEST: Duration = Duration::from_secs(43);
const IDLE: usize = 10_000;
/// Bytes for each connection that says nothing.
const EACH: usize = 5 * 1024 + 128;

/// Writes a piece now and then, and waits until the sidecar has had enough.
fn trickle(link: &Link, mut pieces: impl Iterator<Item = u8>, every: Duration, until: Duration) -> Result<(), String> {
    let began = Instant::now();
    let mut tcp = link.tcp();
    link.patience(every);
    while began.elapsed() < until {
        if pieces.next().is_some_and(|byte| tcp.write_all(&[byte]).is_err()) {
            return Ok(());
        }
        match tcp.read(&mut [0; 1024]) {
            Ok(0) => return Ok(()),
            Err(error) if !timed_out(&error) => return Ok(()),
            _ => {}
        }
    }
    Err(format!("still open after {:?}", began.elapsed()))
}

#[test]
fn what_begins_and_does_not_go_on_is_ended() {
    let stage = Stage::new();
    let (outbound, tunnel) = (stage.sidecar.address("outbound"), stage.sidecar.address("tunnel"));
    // A record that promises 512 bytes of a ClientHello.
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[0; 20]].concat();
    let head = format!("GET / HTTP/1.1\r\nHost: orders\r\nX: {}", "a".repeat(100));
    let slow = Duration::from_millis(400);
    let cases: [(&str, _, &[u8], _); 6] = [
        ("half a preface", outbound, &PREFACE[..20], PATIENCE),
        ("a preface without SETTINGS", outbound, PREFACE, LONGEST),
        ("a head a byte at a time", outbound, head.as_bytes(), PATIENCE),
        ("half a ClientHello", tunnel, &hello, PATIENCE),
        ("a connection to the tunnel that says nothing", tunnel, b"", PATIENCE),
        ("a word that could become HTTP", outbound, b"GE", PATIENCE),
    ];
    let (mut problems, bounds) = stage.endure("slow loris", || {
        std::thread::scope(|scope| {
            let all = cases.map(|(name, to, bytes, until)| {
                // The preface at once: what is missing is what follows it.
                let (at_once, rest) = bytes.split_at(if until == LONGEST { bytes.len() } else { 0 });
                let slowly = move || {
                    let link = Link::connect(to);
                    link.tcp().write_all(at_once).unwrap();
                    trickle(&link, rest.iter().copied(), slow, until)
                };
                (name, scope.spawn(slowly))
            });
            let ended = all.map(|(name, one)| (name, one.join().unwrap()));
            ended.into_iter().filter_map(|(name, ended)| Some(format!("{name}: {}", ended.err()?))).collect::<Vec<_>>()
        })
    });
    problems.extend(bounds.err());
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_end_with_their_clients() {
    // The sidecar inherits it.
    let limit = getrlimit(Resource::Nofile);
    assert!(
        limit.maximum.is_none_or(|most| most > IDLE as u64 + 1000),
        "{limit:?} descriptors are too few for this test"
    );
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let stage = Stage::new();
    let to = stage.sidecar.address("outbound");
    let (idle, bounds) = stage.endure_within(IDLE * EACH, "10,000 idle connections", || {
        let mut open: Vec<_> = (0..IDLE).map(|_| TcpStream::connect(to).unwrap()).collect();
        let last = open.last_mut().unwrap();
        last.set_read_timeout(Some(PATIENCE)).unwrap();
        // The last one was accepted: so were those before it.
        last.write_all(b"GET /last HTTP/1.1\r\nHost: orders\r\n\r\n").unwrap();
        assert!(last.read(&mut [0; 1024]).is_ok_and(|count| count > 0));
        open
    });
    assert_eq!(bounds, Ok(()));
    drop(idle);
    crate::mesh::eventually("their end", || {
        let sockets = std::fs::read_dir(format!("/proc/{}/fd", stage.sidecar.pid)).unwrap().count();
        (sockets < 200).then_some(())
    });
}
