//! The embedded store under crashes: another process writes and watches, is killed in the middle of it, and again; or its disk is full.

use crate::load::{self, Record};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use weft_control::store::{Embedded, Options, Store};

const KEYS: u32 = 12;
const CLIENTS: u64 = 4;
const WATCHERS: usize = 2;

/// Not a test by itself: what the others start as a process of its own.
#[test]
#[ignore = "is started by the tests beside it"]
fn child() {
    let Some(folder) = std::env::var_os("WEFT_TEST_STORE") else { return };
    let numbers: Vec<u64> =
        std::env::var("WEFT_TEST_NUMBERS").unwrap().split(' ').map(|number| number.parse().unwrap()).collect();
    load::number_from(numbers[0]);
    load::length(numbers[1]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let path = Path::new(&folder).join("weft.redb");
        let store: Arc<dyn Store> = Arc::new(Embedded::open(&path, Options::default()).unwrap());
        // One line is one write: what arrives is whole.
        let record: Arc<dyn Record> = Arc::new(|line: String| {
            let _ = std::io::stderr().lock().write_all(format!("# {line}\n").as_bytes());
        });
        let stop = Arc::new(AtomicBool::new(false));
        for seed in 0..CLIENTS {
            tokio::spawn(load::client(store.clone(), record.clone(), numbers[0] + seed, KEYS, stop.clone()));
        }
        for watcher in 0..WATCHERS {
            tokio::spawn(load::watcher(store.clone(), record.clone(), watcher, numbers[2 + watcher], stop.clone()));
        }
        // Killed long before, unless the test itself was.
        tokio::time::sleep(Duration::from_secs(120)).await;
    });
}

/// The process, and its lines.
struct Writer {
    child: Child,
    lines: Receiver<String>,
}

impl Writer {
    /// `before`: words that its command line begins with.
    fn start(folder: &Path, before: &[&str], numbers: &[u64]) -> Self {
        let exe = std::env::current_exe().unwrap();
        let words = [before, &[exe.to_str().unwrap(), "--exact", "crash::child", "--ignored", "--nocapture"]].concat();
        let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .env("WEFT_TEST_STORE", folder)
            .env("WEFT_TEST_NUMBERS", numbers.join(" "))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = channel();
        let mut output = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut line = String::new();
            // A last line without its end was cut by the kill.
            while output.read_line(&mut line).is_ok_and(|read| read > 0) && line.ends_with('\n') {
                match line.trim_end().strip_prefix("# ") {
                    Some(said) => drop(send.send(said.to_owned())),
                    None => eprint!("child: {line}"),
                }
                line.clear();
            }
        });
        Self { child, lines }
    }

    /// Reads lines until a time, or until one of them is what is waited for.
    fn read(&self, into: &mut Vec<String>, end: Instant, mut enough: impl FnMut(&str) -> bool) -> bool {
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let Ok(line) = self.lines.recv_timeout(left) else { return false };
            into.push(line);
            if enough(&into[into.len() - 1]) {
                return true;
            }
        }
        false
    }

    /// SIGKILL; what it said until then.
    fn kill(mut self, into: &mut Vec<String>) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        into.extend(self.lines.iter());
    }
}

/// The last revision that each watcher saw.
fn resume(lines: &[String]) -> [u64; WATCHERS] {
    let mut last = [0; WATCHERS];
    for line in lines.iter().filter(|line| line.starts_with("saw ")) {
        let words: Vec<&str> = line.split(' ').collect();
        last[words[1].parse::<usize>().unwrap()] = words[2].parse().unwrap();
    }
    last
}

/// What is there when nobody writes any more.
fn finish(folder: &Path, mut lines: Vec<String>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    load::number_from(1 << 40);
    let (send, rest) = channel();
    let send = std::sync::Mutex::new(send);
    let record: Arc<dyn Record> = Arc::new(move |line: String| send.lock().unwrap().send(line).unwrap());
    runtime.block_on(async {
        let store: Arc<dyn Store> = Arc::new(Embedded::open(&folder.join("weft.redb"), Options::default()).unwrap());
        let stop = Arc::new(AtomicBool::new(true));
        load::read_all(&store, &record, KEYS).await;
        for (watcher, from) in resume(&lines).into_iter().enumerate() {
            load::watcher(store.clone(), record.clone(), watcher, from, stop.clone()).await;
        }
    });
    drop(record);
    lines.extend(rest.iter());
    let history = load::history(&lines, WATCHERS);
    load::judge(&history);
    let last = history.made.iter().map(|made| made.revision).max();
    assert!(history.watches.iter().all(|w| w.last().map(|seen| seen.revision) >= last), "a watch came to the end");
}

#[test]
fn nothing_that_was_acknowledged_or_seen_is_lost_when_the_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut lines = Vec::new();
    let end = Instant::now() + load::seconds(8);
    let mut rounds = 0;
    while Instant::now() < end {
        rounds += 1;
        let [one, other] = resume(&lines);
        let writer = Writer::start(folder.path(), &[], &[rounds << 24, 0, one, other]);
        let begun = writer.read(&mut lines, Instant::now() + Duration::from_secs(30), |line| line.starts_with("made "));
        assert!(begun, "the process writes: {:?}", lines.last());
        let moment = Duration::from_millis(rand::random_range(1..400));
        writer.read(&mut lines, Instant::now() + moment, |_| false);
        writer.kill(&mut lines);
    }
    println!("killed {rounds} times");
    assert!(rounds > 2);
    finish(folder.path(), lines);
}

#[test]
fn a_full_disk_fails_writes_and_nothing_else_and_is_over_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let mut lines = Vec::new();
    // The largest file of the process, in blocks of 512 bytes; what is beyond fails as on a full disk does, for the signal is ignored.
    let limited = ["sh", "-c", "trap '' XFSZ; ulimit -S -f 8192; exec \"$0\" \"$@\""];
    let writer = Writer::start(folder.path(), &limited, &[1 << 24, 16_384, 0, 0]);
    let patience = || Instant::now() + Duration::from_secs(60);
    assert!(writer.read(&mut lines, patience(), |line| line.starts_with("made ")), "it writes");
    // Full: nobody is answered any more, but reads are.
    let mut unanswered = 0;
    let full = writer.read(&mut lines, patience(), |line| {
        unanswered = if line.starts_with("made ") { 0 } else { unanswered + usize::from(line.starts_with("write ")) };
        unanswered > 40
    });
    assert!(
        full,
        "the disk is never full: {} bytes",
        std::fs::metadata(folder.path().join("weft.redb")).unwrap().len()
    );
    assert!(writer.read(&mut lines, patience(), |line| line.starts_with("found ")), "reads are answered");
    let pid = writer.child.id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status().unwrap();
    assert!(raised.success());
    let again = writer.read(&mut lines, patience(), |line| line.starts_with("made "));
    assert!(again, "it writes again once there is room");
    writer.read(&mut lines, Instant::now() + Duration::from_millis(300), |_| false);
    writer.kill(&mut lines);
    finish(folder.path(), lines);
}
