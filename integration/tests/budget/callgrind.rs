//! valgrind's callgrind around a sidecar: told from outside to write what it counted, and what it wrote read back.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use weft_integration::rig::{program, run};

/// Instructions by function, each function's own.
pub type Costs = BTreeMap<String, u64>;

/// A sidecar with these settings under callgrind, which writes beside them.
pub fn command(settings: &Path) -> Command {
    let mut command = Command::new(program("valgrind"));
    let out = settings.with_file_name("callgrind.out");
    // Threads apart: what discovery and the access log's thread do meanwhile depends on the clock.
    command.args(["--tool=callgrind", "--separate-threads=yes", "--dump-line=no", "-q"]);
    command.arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(crate::sidecar()).arg("--config").arg(settings);
    command
}

/// Tells running sidecars to write what they have counted since the last time, and to count anew.
pub fn dump(processes: [u32; 2]) {
    let vgdb = program("vgdb");
    let ask = |pid: u32| {
        run(Command::new(&vgdb).args([&format!("--pid={pid}"), "--wait=20", "--max-invoke-ms=100", "dump"])).ok()
    };
    std::thread::scope(|scope| {
        for pid in processes {
            scope.spawn(move || ask(pid));
        }
    });
}

/// The data worker's part of the dump of that number (from 1): the thread that did most.
pub fn read_worker(folder: &Path, number: u32) -> Costs {
    let name = format!("callgrind.out.{number}-");
    let files =
        std::fs::read_dir(folder).unwrap().flatten().filter(|f| f.file_name().to_string_lossy().starts_with(&name));
    let threads = files.map(|file| costs(&std::fs::read_to_string(file.path()).unwrap()));
    threads.max_by_key(|costs| costs.values().sum::<u64>()).expect("valgrind wrote what it counted")
}

/// Own costs by function of one file in callgrind's format (version 1, one event, without lines). A name stands once as `(7) name`,
/// later as `(7)`. The line after `calls=` is the callee's cost.
fn costs(text: &str) -> Costs {
    let (mut names, mut costs) = (BTreeMap::new(), Costs::new());
    let (mut function, mut callee) = (String::new(), false);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            let (id, name) = name.split_once(' ').unwrap_or((name, ""));
            let known = names.entry(id.to_owned()).or_insert_with(|| plain(name));
            if line.starts_with("fn=") {
                function.clone_from(known);
            }
        } else if line.starts_with("calls=") {
            callee = true;
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            let cost = line.split_ascii_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok());
            if !std::mem::take(&mut callee) {
                *costs.entry(function.clone()).or_default() += cost.unwrap_or_default();
            }
        }
    }
    costs
}

/// A function's name without what changes from build to build: hashes of functions and crates, marks of recursion.
fn plain(name: &str) -> String {
    let name = name.split('\'').next().unwrap_or(name);
    let name = name.rsplit_once("::h").filter(|(_, hash)| hash.len() == 16).map_or(name, |(name, _)| name);
    let (mut out, mut rest) = (String::new(), name);
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        match after.split_once(']') {
            Some((hash, after)) if hash.len() > 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => rest = after,
            _ => {
                out.push('[');
                rest = after;
            }
        }
    }
    out + rest
}

#[test]
fn own_costs_are_told_from_those_of_callees() {
    let text = "version: 1\nevents: Ir\n\nfn=(1) weft_proxy::a::h0123456789abcdef\n0 10\ncfn=(2) tokio[0123456789abcdef]::b\ncalls=1 0\n\
                0 300\n0 5\n\nfn=(2)\n0 300\n\nfn=(1)\n+0 1\ntotals: 316\n";
    assert_eq!(costs(text), Costs::from([("weft_proxy::a".to_owned(), 16), ("tokio::b".to_owned(), 300)]));
    assert_eq!(plain("<[u8] as x[0]::f>::g'2"), "<[u8] as x[0]::f>::g");
}
