//! Messages that two implementations could read differently. Each goes through one sidecar to an upstream without one, and through two
//! with HBONE between them; each must be refused, or reach the upstream with one meaning only. `requests`, `streams` (HTTP/2) and
//! `responses` are the tables; what runs them is here.

mod requests;
mod responses;
mod streams;

use crate::mesh::{Mesh, Sidecar};
use crate::recorder::{Event, Recorder, Script};
use crate::rig;
use crate::wire::Client;
use serde_json::json;
use std::fmt::Write as _;

/// The service without a sidecar, and the one behind one. Of the same length, as lengths are part of the cases.
const HOSTS: [&str; 2] = ["plain", "hbone"];

/// A client's sidecar that reaches one recorder directly and the other through a second sidecar.
struct Stage {
    mesh: Mesh,
    client: Sidecar,
    server: Sidecar,
    recorders: [Recorder; 2],
    problems: String,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new(scripts: impl Fn(&str) -> Script + Send + Sync + Clone + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mesh = Mesh::new(folder.path());
        let recorders = [Recorder::start(scripts.clone()), Recorder::start(scripts)];
        let (direct, behind) = (recorders[0].at, recorders[1].at);
        let served = rig::serves(&mesh, &[behind], "PROTOCOL_HTTP1");
        let server = rig::sidecar(&mesh, "server", "orders", &json!({}), served);
        let tunnelled = rig::meshed(&mesh, "orders-1", behind, server.address("tunnel"));
        let called = rig::calls(vec![
            rig::service(HOSTS[0], "PROTOCOL_HTTP1", &json!({}), &[rig::bare("bare-1", direct)]),
            rig::service(HOSTS[1], "PROTOCOL_HTTP1", &json!({}), &[tunnelled]),
        ]);
        let client = rig::sidecar(&mesh, "client", "storefront", &json!({}), called);
        Self { mesh, client, server, recorders, problems: String::new(), _folder: folder }
    }

    fn wrong(&mut self, host: &str, name: &str, what: impl std::fmt::Display) {
        let _ = writeln!(self.problems, "{host}: {name}: {what}");
    }

    /// A call of somebody else must get its own answer after each case.
    fn probe(&mut self, host: &str, name: &str, number: usize) {
        let target = format!("/{number:03}/probe");
        match Client::connect(self.client.address("outbound")).get(host, &target) {
            Ok(answer) if answer.status == 200 && answer.body == format!("seen {target}") => {}
            other => self.wrong(host, name, format_args!("another client's call got {other:?}")),
        }
    }

    /// Ends both sidecars and holds what the recorders saw against what each case may mean: `expected` says for a case whether those
    /// readings are right, and what is right.
    fn conclude(self, names: &[&str], expected: impl Fn(usize, &str, &[String], bool) -> Result<(), String>) {
        let Self { mut problems, recorders, client, server, .. } = self;
        drop((client, server));
        for (host, recorder) in HOSTS.iter().zip(recorders) {
            let events = recorder.finish();
            let number = |target: &str| target.trim_start_matches(['/', 'r', '-']).get(..3)?.parse::<usize>().ok();
            for (n, name) in names.iter().enumerate() {
                let mut readings = Vec::new();
                let mut broken = false;
                for event in &events {
                    match event {
                        Event::Request { target, reading }
                            if number(target) == Some(n)
                                && !target.ends_with("/probe")
                                && !target.ends_with("/after") =>
                        {
                            readings.push(reading.clone());
                        }
                        Event::Broken(target) => broken |= number(target) == Some(n),
                        _ => {}
                    }
                }
                if let Err(what) = expected(n, host, &readings, broken) {
                    let _ = writeln!(problems, "{host}: {name}: the upstream read {readings:?}: {what}");
                }
            }
            for event in events {
                match event {
                    Event::Problem(what) => {
                        let _ = writeln!(problems, "{host}: the upstream got {what}");
                    }
                    Event::Request { target, reading } if number(&target).is_none_or(|n| n >= names.len()) => {
                        let _ = writeln!(problems, "{host}: the upstream read what no case said: {reading}");
                    }
                    _ => {}
                }
            }
        }
        assert!(problems.is_empty(), "\n{problems}");
    }
}

/// Puts the number of the case and the host into a template.
fn fill(template: &[u8], number: usize, host: &str) -> Vec<u8> {
    let number = format!("{number:03}");
    let mut out = Vec::with_capacity(template.len());
    let mut rest = template;
    while let Some((first, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(b"{n}") {
            out.extend_from_slice(number.as_bytes());
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix(b"{h}") {
            out.extend_from_slice(host.as_bytes());
            rest = tail;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

fn filled(template: &str, number: usize) -> String {
    String::from_utf8_lossy(&fill(template.as_bytes(), number, "")).into_owned()
}
