//! A sidecar in a process of its own whose allocator counts: this test's executable, started again. It answers its parent over a Unix
//! socket: how much its workers have allocated, and who did.

use crate::counter;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

/// Tells the child what it is.
const SETTINGS: &str = "WEFT_BUDGET_SETTINGS";

/// The command that starts it; it listens at `ask` beside the settings.
pub fn command(settings: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child::a_sidecar_that_counts", "--nocapture"]).env(SETTINGS, settings);
    command
}

/// What a parent asks.
pub struct Parent(BufReader<UnixStream>);

impl Parent {
    pub fn connect(settings_folder: &Path) -> Self {
        Self(BufReader::new(UnixStream::connect(settings_folder.join("ask")).unwrap()))
    }

    fn ask(&mut self, what: &str) -> serde_json::Value {
        self.0.get_mut().write_all(format!("{what}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// Allocations of the workers so far.
    pub fn counted(&mut self) -> u64 {
        serde_json::from_value(self.ask("count")).unwrap()
    }

    /// Keep who allocates from now on.
    pub fn trace(&mut self) {
        self.ask("trace");
    }

    /// Who allocated since then.
    pub fn traces(&mut self) -> Vec<(String, usize)> {
        serde_json::from_value(self.ask("traces")).unwrap()
    }
}

fn answer(stream: UnixStream) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.by_ref().take(64).read_line(&mut line).is_ok_and(|n| n > 0) {
        let answer = match line.trim() {
            "count" => serde_json::json!(counter::counted()),
            "trace" => serde_json::json!(counter::trace(true)),
            _ => {
                counter::trace(false);
                serde_json::json!(counter::traces())
            }
        };
        if stream.get_mut().write_all(format!("{answer}\n").as_bytes()).is_err() {
            return;
        }
        line.clear();
    }
}

/// Does nothing in the test itself.
#[test]
fn a_sidecar_that_counts() {
    let Some(settings) = std::env::var_os(SETTINGS) else { return };
    let settings = Path::new(&settings);
    let listener = UnixListener::bind(settings.with_file_name("ask")).unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    weft_proxy::app::run(weft_proxy::config::Settings::read(settings).unwrap()).unwrap();
}
