//! The rig of the end-to-end tests: real control planes, sidecars and programs in directories of their own, on ephemeral ports,
//! started and stopped by process id. Nothing here decides whether a test passes; it only makes waiting and cleaning up hard to forget.

mod api;
mod caller;
pub mod etcd;
mod jwt;
mod load;
mod mesh;
mod namespace;
mod process;
mod python;
pub mod stage;
mod upstream;

pub use api::Papers as ApiPapers;
pub use caller::{Answer, Caller};
pub use jwt::Issuer;
pub use load::{Load, assert_all_well};
pub use mesh::{Mesh, Run, Sidecar};
pub use namespace::Namespace;
pub use process::{Output, Process, run};
pub use python::{kubectls, python_env};
pub use upstream::{Request, Upstream};

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long any one condition may take on a busy machine with two cores.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Ports that the system gives nobody for itself (its ephemeral range begins at 32768).
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A free TCP port on loopback. It is given back before it is used, so it is one that no connection and no port 0 of another is given,
/// and this process asks for each once.
#[must_use]
pub fn free_port() -> u16 {
    free(|address| TcpListener::bind(address).is_ok())
}

/// A free UDP port on loopback, as [`free_port`].
#[must_use]
pub fn free_udp_port() -> u16 {
    free(|address| UdpSocket::bind(address).is_ok())
}

fn free(is_free: impl Fn(SocketAddr) -> bool) -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(PORTS.end - PORTS.start);
    // Processes that run together have neighbouring ids: each begins far from the others.
    let first = std::process::id().wrapping_mul(7919);
    let nth = |_| first.wrapping_add(ASKED.fetch_add(1, Relaxed)) % count;
    let port = |offset| PORTS.start + u16::try_from(offset).expect("an offset within the range");
    (0..count)
        .map(nth)
        .map(port)
        .find(|port| is_free(([127, 0, 0, 1], *port).into()))
        .expect("loopback has a free port")
}

/// Polls `check` until it gives a value; panics with `what` and the last complaint after [`DEADLINE`].
pub fn wait_for<T>(what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        match check() {
            Ok(value) => return value,
            Err(complaint) if Instant::now() > end => panic!("{what}: not within {DEADLINE:?}: {complaint}"),
            Err(_) => std::thread::sleep(Duration::from_millis(25)),
        }
    }
}

/// Whether something accepts connections there.
pub fn accepts(address: SocketAddr) -> Result<(), String> {
    std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1))
        .map(drop)
        .map_err(|e| format!("{address}: {e}"))
}

/// A program of this workspace, from the target folder that this test was built in.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.parent().and_then(Path::parent).expect("tests live in target/<profile>/deps");
    let path = profile.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --bins` (make test does)", path.display());
    path
}

/// A program of the machine, also from where daemons live; its absence is a failure, not a reason to skip.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin", "/usr/local/bin"].map(PathBuf::from));
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|v| v.path().join("bin")));
    }
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: run `integration/setup` (make test does)"))
}

/// The target folder, where `integration/setup` puts its Python environments.
fn target() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let own = test.ancestors().nth(3).expect("tests live in target/<profile>/deps").to_path_buf();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    if own.join("tools").exists() { own } else { workspace }
}

/// A GET of `path` at `address`: status and body.
///
/// # Errors
/// When nobody answers within five seconds, or not with HTTP.
pub fn http_get(address: &str, path: &str) -> Result<(u16, String), String> {
    let address: SocketAddr = address.parse().map_err(|e| format!("{address}: {e}"))?;
    let stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5))
        .map_err(|e| format!("{address}: {e}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|e| e.to_string())?;
    exchange(stream, &address.to_string(), path)
}

/// One HTTP/1.0-style exchange: the answer ends where the connection does.
fn exchange(mut stream: impl std::io::Read + std::io::Write, host: &str, path: &str) -> Result<(u16, String), String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP answer: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| format!("no status: {head:?}"))?;
    Ok((status, body.to_owned()))
}
