//! The stage of these tests: sidecars whose application is the test itself, and listeners that nobody may reach.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};
use weft_integration::rig::{DEADLINE, Mesh, Run, Sidecar, program};

/// Trust domain of every mesh here: the default.
pub const DOMAIN: &str = "weft.local";
/// Port of a [`StandIn`]'s service.
pub const PORT: u16 = 8080;

/// UTF-8 of a path.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// A listener of the test on loopback.
pub struct Listener(TcpListener);

impl Listener {
    /// On any free port.
    pub fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Nobody connected so far: connections are accepted in the order in which they were made, and the first is our own.
    #[track_caller]
    pub fn assert_untouched(&self) {
        let own = TcpStream::connect(self.0.local_addr().unwrap()).unwrap();
        let first = self.accept().peer_addr().unwrap();
        assert_eq!(first, own.local_addr().unwrap(), "somebody reached port {}, which nobody may reach", self.port());
    }

    /// The next connection, within [`DEADLINE`].
    #[track_caller]
    pub fn accept(&self) -> TcpStream {
        self.0.set_nonblocking(true).unwrap();
        let end = Instant::now() + DEADLINE;
        loop {
            match self.0.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    stream.set_read_timeout(Some(DEADLINE)).unwrap();
                    return stream;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("nobody connected to port {}: {error}", self.port()),
            }
        }
    }

    /// Answers a request if there is one.
    pub fn answer_if_asked(&self, body: &str) {
        self.0.set_nonblocking(true).unwrap();
        match self.0.accept() {
            Ok((stream, _)) => drop(respond(stream, body)),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }

    /// Answers one HTTP/1.1 request with `body`; gives its head.
    #[track_caller]
    pub fn answer(&self, body: &str) -> String {
        respond(self.accept(), body)
    }
}

fn respond(mut stream: TcpStream, body: &str) -> String {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = read_head(&mut stream);
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).unwrap();
    head
}

/// Reads up to the empty line that ends an HTTP/1.1 head, or to the end of the connection.
pub fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 1 << 16 {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// A workload of one service with a sidecar; its application is a [`Listener`] of the test.
pub struct StandIn {
    pub application: Listener,
    pub sidecar: Sidecar,
    pub outbound: SocketAddr,
    pub tunnel: SocketAddr,
    pub admin: SocketAddr,
    ready: Value,
}

impl StandIn {
    /// Starts the sidecar of the service `name`, port [`PORT`], which speaks `protocol`; waits until it is ready.
    #[track_caller]
    pub fn start(mesh: &Mesh, name: &str, protocol: &str) -> Self {
        let application = Listener::bind();
        let ports = [format!("{PORT}:{}:{protocol}", application.port())];
        let shell = program("sh");
        let mut sidecar = mesh.run_ready(&Run {
            name,
            services: &[name],
            ports: &ports,
            command: &[text(&shell), "-c", "echo the program runs; exec sleep infinity"],
            ..Run::default()
        });
        sidecar.process.wait_for_log("the program runs");
        let ready = sidecar.ready_file().expect("a ready sidecar has a ready file");
        let at = |key: &str| ready[key].as_str().and_then(|a| a.parse().ok()).expect("ready.json names its listeners");
        let (outbound, tunnel, admin) = (at("outbound"), at("tunnel"), at("admin"));
        Self { application, sidecar, outbound, tunnel, admin, ready }
    }

    /// What the sidecar wrote into its own log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.sidecar.state.join("sidecar.log")).unwrap_or_default()
    }

    /// Connections and tunnels that it refused before there was a call.
    pub fn refused(&self) -> f64 {
        self.sidecar.metric("weft_refused_total", &["direction=\"inbound\""])
    }

    /// Every port that is the sidecar's own.
    pub fn own_ports(&self) -> Vec<u16> {
        assert!(self.ready["socket"].is_string(), "{}", self.ready);
        vec![self.outbound.port(), self.tunnel.port(), self.admin.port()]
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- sidecar of {} ---\n{}", self.ready, self.log());
            self.sidecar.access().iter().for_each(|line| eprintln!("{line}"));
        }
    }
}
