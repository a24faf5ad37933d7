//! Runs the real binary: an upstream that ends with its test, and modes whose result is read from stdout.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]
#![allow(dead_code, reason = "each program of tests uses its own part")]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// The binary under test.
pub fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_weft-load"))
}

/// `weft-load serve`, killed when dropped.
pub struct Upstream {
    child: Child,
    addresses: Value,
}

impl Upstream {
    /// On all protocols but TLS, with free ports.
    pub fn start() -> Self {
        let any = "127.0.0.1:0";
        Self::with(&["--http1", any, "--http2", any, "--tcp", any, "--echo", any, "--status", any])
    }

    /// With these flags.
    pub fn with(flags: &[&str]) -> Self {
        let mut child = binary()
            .args(["serve", "--lifetime", "2m", "--until-stdin-closes"])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self { child, addresses: serde_json::from_str(&line).unwrap() }
    }

    /// Where a protocol is served.
    pub fn at(&self, protocol: &str) -> String {
        self.addresses[protocol].as_str().unwrap_or_else(|| panic!("{protocol} is not served")).to_owned()
    }

    /// The page of counts.
    pub fn status(&self) -> Value {
        let mut stream = TcpStream::connect(self.at("status")).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: status\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// One count.
    pub fn count(&self, protocol: &str, what: &str) -> u64 {
        self.status()[protocol][what].as_u64().unwrap()
    }

    /// Ends it as its owner would, and says how.
    pub fn end(mut self) -> Option<i32> {
        drop(self.child.stdin.take());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Runs one mode to its end: exit code and result.
pub fn run(arguments: &[&str]) -> (i32, Value) {
    let output = binary().args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let result = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), result)
}

/// As [`run`], for a run in which everything succeeds.
pub fn succeeds(arguments: &[&str]) -> Value {
    let (code, result) = run(arguments);
    assert_eq!(code, 0, "{arguments:?}: {result}");
    assert_eq!(result["errors"]["total"].as_u64().unwrap_or(0), 0, "{arguments:?}: {result}");
    result
}

/// A field that is a number.
pub fn number(result: &Value, field: &str) -> f64 {
    result.pointer(field).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number {field} in {result}"))
}
