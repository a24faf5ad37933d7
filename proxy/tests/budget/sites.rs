//! Where allocations come from: backtraces reduced to the frames that say something, and counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Parts of the paths of sources that are never the answer: the standard library and the counter itself.
const BENEATH: [&str; 3] = ["/rustc/", "/rustlib/", "tests/budget/counter.rs"];
/// Parts of the paths of sources that are not Weft's.
const FOREIGN: [&str; 3] = ["/rustc/", "/rustlib/", "/registry/src/"];
/// Frames of Weft that are shown.
const DEPTH: usize = 4;
/// Changes below this come and go by themselves: a buffer that is filled once in a hundred calls.
const NOISE: f64 = 0.3;

/// Who allocates: calls of the allocator for each request, and a stack with lines as an example.
pub type Sites = BTreeMap<String, (f64, String)>;

/// Counts the sites of the allocations of `calls` calls. A site is known by its functions: lines move with every edit.
pub fn of(traces: &[(String, usize)], calls: usize) -> Sites {
    let mut sites: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for (trace, bytes) in traces {
        let frames = site(trace);
        let key = frames.iter().map(Frame::name).collect::<Vec<_>>().join(" < ");
        let lines = || frames.iter().map(Frame::line).collect::<Vec<_>>().join("\n             < ");
        sites.entry(key).or_insert_with(|| (0, format!("{bytes} B {}", lines()))).0 += 1;
    }
    let each = |count: usize| (count as f64 / calls as f64 * 100.0).round() / 100.0;
    sites.into_iter().map(|(key, (count, lines))| (key, (each(count), lines))).collect()
}

/// Whose number is another one than was recorded, most first.
pub fn changes(now: &Sites, recorded: &BTreeMap<String, f64>) -> String {
    let mut changes: Vec<(f64, String)> = Vec::new();
    for (key, (each, lines)) in now {
        changes.push((each - recorded.get(key).copied().unwrap_or_default(), lines.clone()));
    }
    for (key, each) in recorded.iter().filter(|(key, _)| !now.contains_key(*key)) {
        changes.push((-each, format!("gone: {key}")));
    }
    changes.retain(|(change, _)| change.abs() > NOISE);
    changes.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut out = String::new();
    for (change, lines) in changes {
        let _ = writeln!(out, "      {change:>+6.2} {lines}");
    }
    out
}

/// One frame: its function, and `crate-or-room/src/file.rs:line`.
struct Frame {
    name: String,
    at: String,
}

impl Frame {
    fn is_of(&self, places: &[&str]) -> bool {
        self.at.is_empty() || places.iter().any(|place| self.at.contains(place))
    }

    /// Its file without the path of the registry, and line, without the column.
    fn place(&self) -> &str {
        let line = self.at.rsplit_once(':').map_or(self.at.as_str(), |(line, _)| line);
        let path =
            line.rsplit_once("/registry/src/").map_or(line, |(_, path)| path.split_once('/').map_or(path, |p| p.1));
        path.rsplit_once("/proxy/").map_or(path, |(_, path)| path).trim_start_matches("./")
    }

    /// Its function without generics and hash.
    fn function(&self) -> String {
        let name =
            self.name.rsplit_once("::h").filter(|(_, hash)| hash.len() == 16).map_or(self.name.as_str(), |n| n.0);
        let name = if name.starts_with('<') { name } else { name.split('<').next().unwrap_or(name) };
        name.chars().take(80).collect()
    }

    /// What stays when lines move and dependencies are updated.
    fn name(&self) -> String {
        let file = self.place().rsplit_once(':').map_or(self.place(), |(file, _)| file);
        let file = match file.split_once('/') {
            Some((room, rest)) if self.is_of(&["/registry/src/"]) => {
                format!("{}/{rest}", room.rsplit_once('-').map_or(room, |(name, _)| name))
            }
            _ => file.to_owned(),
        };
        format!("{file} {}", self.function())
    }

    fn line(&self) -> String {
        format!("{} {}", self.place(), self.function())
    }
}

/// Frames of a backtrace, innermost first.
fn frames(trace: &str) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    for line in trace.lines().map(str::trim) {
        if let Some(at) = line.strip_prefix("at ") {
            if let Some(last) = frames.last_mut() {
                at.clone_into(&mut last.at);
            }
        } else if let Some((_, name)) = line.split_once(": ").filter(|(number, _)| number.parse::<u32>().is_ok()) {
            frames.push(Frame { name: name.to_owned(), at: String::new() });
        }
    }
    frames
}

/// The innermost frame that is not beneath notice, and the frames of Weft that lead there.
fn site(trace: &str) -> Vec<Frame> {
    let mut above = frames(trace).into_iter().skip_while(|frame| frame.is_of(&BENEATH));
    let first = above.next();
    first.into_iter().chain(above.filter(|frame| !frame.is_of(&FOREIGN)).take(DEPTH)).collect()
}

#[test]
fn a_site_is_known_by_functions_and_shown_with_lines() {
    let trace = "   0: alloc\n             at ./tests/budget/counter.rs:62:9\n   1: <alloc::Global>::grow\n   2: reserve<u8>\n             \
                 at /home/build/.cargo/registry/src/index/bytes-1.12.1/src/bytes_mut.rs:678:23\n   3: poll_fill\n             \
                 at ./codec/src/io.rs:170:24\n   4: poll\n             at /rustc/5980/library/core/src/future.rs:1:1\n";
    let sites = of(&[(trace.to_owned(), 10), (trace.replace("170", "171"), 10)], 2);
    let (key, (each, lines)) = sites.first_key_value().unwrap();
    assert_eq!(key, "bytes/src/bytes_mut.rs reserve < codec/src/io.rs poll_fill");
    assert_eq!((sites.len(), *each), (1, 1.0));
    assert!(lines.starts_with("10 B bytes-1.12.1/src/bytes_mut.rs:678 reserve"), "{lines}");
    let recorded = BTreeMap::from([(key.clone(), 0.0), ("src/other.rs f".to_owned(), 2.0)]);
    let changes = changes(&sites, &recorded);
    assert!(changes.contains("+1.00 10 B") && changes.contains("-2.00 gone: src/other.rs f"), "{changes}");
}
