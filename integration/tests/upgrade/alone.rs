//! One sidecar without a control plane: programs that cannot take its place, a second process that is told to, the end
//! of what is left.

use crate::app;
use crate::traffic::{Door, Traffic, echo, websocket};
use crate::{install, lives};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use weft_integration::rig::{Process, binary, run, wait_for};

/// A place for sidecars of one set of settings.
struct Place {
    runtime: Runtime,
    folder: TempDir,
    installed: PathBuf,
    settings: PathBuf,
}

impl Place {
    fn new(take_over: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let port = runtime.block_on(app::start()).port();
        let folder = tempfile::Builder::new().prefix("weft-test-").tempdir().unwrap();
        let installed = folder.path().join("weft-proxy");
        install(&binary("weft-proxy"), &installed);
        let resources = folder.path().join("mesh.yaml");
        let text = format!(
            "settings: {{trustDomain: weft.local, domain: cluster.local}}
inbound:
  workload: shop/echo
  identity: spiffe://weft.local/ns/shop/sa/echo
  ports:
  - {{port: {port}, local: '127.0.0.1:{port}', protocol: PROTOCOL_HTTP1, service: shop/echo, tls: TLS_MODE_DISABLED}}
services:
- name: shop/echo
  hostnames: [echo]
  ports:
  - {{port: 80, protocol: PROTOCOL_HTTP1, backend: {{slices: ['shop/echo:80/0']}}}}
endpoints:
- name: shop/echo:80/0
  endpoints:
  - {{uid: shop/echo-1, address: 127.0.0.1, port: {port}, health: HEALTH_READY}}
"
        );
        std::fs::write(&resources, text).unwrap();
        let settings = folder.path().join("settings.yaml");
        let any = "'127.0.0.1:0'";
        let text = format!(
            "resources: {}\nstateDir: {}\noutbound: {{listen: {any}, tcp: [{{listen: {any}, host: 'echo:80'}}]}}\ninbound: {{tunnel: {any}, plaintext: {any}}}\nadmin: {{listen: {any}}}\ndns: {{listen: {any}}}\ntakeOver: {{{take_over}}}\n",
            resources.display(),
            folder.path().join("state").display()
        );
        std::fs::write(&settings, text).unwrap();
        Self { runtime, folder, installed, settings }
    }

    fn start(&self, name: &str, more: &[&str]) -> Process {
        let mut command = Command::new(&self.installed);
        command.arg("--config").arg(&self.settings).args(more);
        Process::start(self.folder.path(), name, &mut command)
    }

    /// Starts one and waits until it, and no other, serves.
    fn serving(&self, name: &str, more: &[&str]) -> Process {
        let mut process = self.start(name, more);
        let pid = u64::from(process.pid());
        wait_for("it serves", || {
            process.assert_running();
            match self.serves() {
                Some(now) if now == pid && self.ask("GET /ready")?.starts_with("HTTP/1.1 200") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        process
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("state/admin.sock")
    }

    fn ask(&self, line: &str) -> Result<String, String> {
        let mut stream = UnixStream::connect(self.socket()).map_err(|e| e.to_string())?;
        write!(stream, "{line} HTTP/1.1\r\n\r\n").map_err(|e| e.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
        Ok(answer)
    }

    fn process(&self) -> Option<Value> {
        serde_json::from_str(self.ask("GET /process").ok()?.split_once("\r\n\r\n")?.1).ok()
    }

    /// The process that serves.
    fn serves(&self) -> Option<u64> {
        self.process()?["pid"].as_u64()
    }

    fn wait_for_another_than(&self, pid: u64) -> u64 {
        wait_for("another process serves", || match self.serves() {
            Some(now) if now != pid => Ok(now),
            other => Err(format!("{other:?}")),
        })
    }

    fn ready(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder.path().join("state/ready.json")).unwrap()).unwrap()
    }

    /// Through the explicit proxy, or by the port that nftables would redirect to.
    fn door(&self, listener: &str) -> Door {
        let address = self.ready()[listener].as_str().unwrap().to_owned();
        let base = if listener == "outbound" { "http://echo" } else { "" };
        Door { address, base: base.to_owned(), fields: String::new() }
    }

    fn script(&self, text: &str) {
        let script = self.folder.path().join("script");
        std::fs::write(&script, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        install(&script, &self.installed);
    }
}

fn ended(what: &str, pid: u64) {
    wait_for(what, || if lives(pid) { Err(format!("{pid} lives")) } else { Ok(()) });
}

#[test]
fn a_program_that_cannot_take_over_leaves_the_one_that_runs_in_service() {
    let place = Place::new("patience: 1s");
    let mut first = place.serving("first", &[]);
    let pid = u64::from(first.pid());
    let traffic = Traffic::start(&place.runtime, &place.door("outbound"), 200, 5);
    for (script, says) in [
        ("exit 1", "the new process ended (exit status: 1) before it took over"),
        ("exec sleep 1000", "the new process does not become ready: it is killed"),
    ] {
        place.script(script);
        first.signal(Signal::USR2);
        first.wait_for_log(says);
        traffic.go_on_well(100);
        assert_eq!(place.serves(), Some(pid));
    }
    // It gets all sockets, and then its settings are no good.
    install(&binary("weft-proxy"), &place.installed);
    let settings = std::fs::read_to_string(&place.settings).unwrap();
    std::fs::write(
        &place.settings,
        settings.replace("admin: {listen: '127.0.0.1:0'}", "admin: {listen: '192.0.2.1:1'}"),
    )
    .unwrap();
    first.signal(Signal::USR2);
    first.wait_for_log("admin.listen: cannot bind 192.0.2.1:1");
    first.wait_for_log("the new process ended before it was ready; this process goes on");
    std::fs::write(&place.settings, &settings).unwrap();
    std::fs::remove_file(&place.installed).unwrap();
    first.signal(Signal::USR2);
    first.wait_for_log("cannot be started");
    traffic.go_on_well(100);
    assert_eq!(place.serves(), Some(pid));

    install(&binary("weft-proxy"), &place.installed);
    first.signal(Signal::USR2);
    let second = place.wait_for_another_than(pid);
    traffic.go_on_well(100);
    assert_eq!(place.process().unwrap()["relieved"][0]["pid"], pid);
    traffic.stop(&place.runtime);
    // Whoever watches the first sees it until the second ends, and passes its signals on.
    assert!(lives(pid));
    assert_eq!(first.stop(), 0, "{}", first.log());
    ended("the second got the signal", second);
    assert!(!place.socket().exists());
}

#[test]
fn a_second_process_that_is_told_to_takes_over_with_any_number_of_workers() {
    let place = Place::new("");
    let mut process = place.serving("first", &["--take-over"]);
    let before = place.ready();
    let out = Traffic::start(&place.runtime, &place.door("outbound"), 200, 5);
    let into = Traffic::start(&place.runtime, &place.door("plaintext"), 200, 5);
    let refused = run(Command::new(&place.installed).arg("--config").arg(&place.settings));
    assert!(refused.code == 1 && refused.err.contains("--take-over"), "{}", refused.err);

    let mut older = Vec::new();
    for (n, workers) in ["3", "2", "4"].into_iter().enumerate() {
        let next = place.serving(&format!("workers-{n}"), &["--take-over", "--workers", workers]);
        out.go_on_well(200);
        into.go_on_well(200);
        let now = place.ready();
        for listener in ["outbound", "plaintext", "admin", "dns", "tcp"] {
            assert_eq!(now[listener], before[listener], "{listener}");
        }
        older.push(std::mem::replace(&mut process, next));
    }
    for traffic in [out, into] {
        println!("{} calls, {} echoes, none failed", traffic.calls(), traffic.echoed());
        traffic.stop(&place.runtime);
    }
    for mut process in older {
        assert_eq!(process.wait(), 0, "nothing is left for it to do: {}", process.log());
    }
    assert_eq!(process.stop(), 0, "{}", process.log());
}

#[test]
fn what_outlives_the_deadline_is_cut_and_not_before() {
    let place = Place::new("deadline: 3s");
    let mut first = place.serving("first", &[]);
    let door = place.door("outbound");
    let mut open = place.runtime.block_on(websocket(&door)).unwrap();
    let _second = place.serving("second", &["--take-over"]);
    let began = Instant::now();
    place.runtime.block_on(async {
        let mut word = 0;
        while echo(&mut open, word).await.is_ok() {
            word += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let lasted = began.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(20)).contains(&lasted), "{lasted:?}");
    assert_eq!(first.wait(), 0, "{}", first.log());
    assert!(first.log().contains("cut at the drain deadline"), "{}", first.log());
}

#[test]
fn when_the_successor_leaves_the_older_process_leaves_too() {
    let place = Place::new("");
    let mut first = place.serving("first", &["--drain-deadline", "1s"]);
    let door = place.door("outbound");
    let mut open = place.runtime.block_on(websocket(&door)).unwrap();
    let mut second = place.serving("second", &["--take-over", "--drain-deadline", "1s"]);
    place.runtime.block_on(echo(&mut open, 1)).unwrap();
    assert_eq!(place.process().unwrap()["relieved"][0]["pid"], first.pid());
    assert_eq!(second.stop(), 0, "{}", second.log());
    assert_eq!(first.wait(), 0, "{}", first.log());
    assert!(place.runtime.block_on(echo(&mut open, 2)).is_err());
}

#[test]
fn a_process_whose_parent_stays_for_it_ends_in_order_when_that_is_killed() {
    let place = Place::new("");
    let mut first = place.serving("first", &[]);
    let pid = u64::from(first.pid());
    first.signal(Signal::USR2);
    let second = place.wait_for_another_than(pid);
    first.wait_for_log("this process passes signals on and ends with it");
    first.signal(Signal::KILL);
    first.wait();
    ended("it ends too", second);
    assert!(first.log().contains("drained") && !place.socket().exists(), "{}", first.log());
}

#[test]
fn another_version_of_the_conversation_is_refused_on_either_side() {
    let place = Place::new("");
    let first = place.serving("first", &[]);
    let upgrade = |token: &str| place.ask(&format!("POST /take-over HTTP/1.1\r\nupgrade: {token}\r\nx: y")).unwrap();
    let refused = upgrade("weft-take-over/99");
    assert!(refused.starts_with("HTTP/1.1 426") && refused.contains("weft-take-over/1"), "{refused}");
    assert_eq!(place.serves(), Some(u64::from(first.pid())));
    drop(first);

    // A process that knows nothing of it, as one of an older version.
    let socket = place.socket();
    let listener = UnixListener::bind(&socket).unwrap();
    let older = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).unwrap();
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\nno such page\n").unwrap();
    });
    let refused = run(Command::new(&place.installed).arg("--config").arg(&place.settings).arg("--take-over"));
    older.join().unwrap();
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("404 Not Found") && refused.err.contains("no such page"), "{}", refused.err);
    assert!(Path::new(&socket).exists(), "it is not this one's to remove");
}
