//! strace around a sidecar, and its log read back: which syscalls a sidecar's workers entered between two moments.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use weft_integration::rig::program;

/// Syscalls by name.
pub type Calls = BTreeMap<String, u64>;

/// A sidecar with these settings under strace, which logs beside them.
pub fn command(settings: &Path) -> Command {
    let mut command = Command::new(program("strace"));
    command.args(["-f", "-qq", "-ttt", "-s", "0", "-e", "signal=none", "-o"]).arg(settings.with_file_name("strace"));
    command.arg(crate::sidecar()).arg("--config").arg(settings);
    command
}

/// Microseconds of the clock that strace writes.
pub fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros()
}

/// What one line says: thread, time, name of the syscall that began. `None` for ends, signals and exits.
fn entry(line: &str) -> Option<(u32, u128, &str)> {
    let mut words = line.split_ascii_whitespace();
    let thread = words.next()?.parse().ok()?;
    let (seconds, micros) = words.next()?.split_once('.')?;
    let at = seconds.parse::<u128>().ok()? * 1_000_000 + micros.parse::<u128>().ok()?;
    let (name, _) = words.next()?.split_once('(')?;
    Some((thread, at, name))
}

/// The syscalls that `threads` began in `[from, to)`.
pub fn between(log: &str, threads: &[u32], from: u128, to: u128) -> Calls {
    let mut calls = Calls::new();
    for (thread, at, name) in log.lines().filter_map(entry) {
        if threads.contains(&thread) && (from..to).contains(&at) {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls
}

#[test]
fn a_log_of_strace_is_read_by_thread_and_time() {
    let log = "7 1.000001 read(5, \"\"..., 10) = 3\n8 1.000002 futex(0x1, FUTEX_WAIT <unfinished ...>\n7 1.000003 <... futex resumed>) = 0\n\
               7 1.000004 read(5, \"\"..., 10) = 3\n7 1.000005 +++ exited with 0 +++\n";
    assert_eq!(between(log, &[7], 1_000_000, 2_000_000), Calls::from([("read".to_owned(), 2)]));
    assert_eq!(between(log, &[7], 1_000_000, 1_000_004), Calls::from([("read".to_owned(), 1)]));
}
