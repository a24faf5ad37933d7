//! A caller whose application is the test itself: plain HTTP/1.1 through its sidecar's explicit listener, and tunnels by CONNECT.

use super::stage::text;
use super::{DEADLINE, Mesh, Run, Sidecar, program, wait_for};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::{Channel, Endpoint, Uri};

/// What a call got.
#[derive(Debug)]
pub struct Answer {
    /// Status; 0 when the connection ended without one.
    pub status: u16,
    /// Status line and header fields.
    pub head: String,
    /// What follows, as it came.
    pub body: String,
}

impl Answer {
    /// A header field's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// A workload that serves nothing: its application is the test.
pub struct Caller {
    /// The sidecar.
    pub sidecar: Sidecar,
    namespace: String,
}

impl Caller {
    /// Starts the sidecar of the workload `name`, whose service account has that name too.
    #[track_caller]
    pub fn start(mesh: &Mesh, namespace: &str, name: &str) -> Self {
        Self::start_with(mesh, namespace, name, &[])
    }

    /// The same with more flags of `weft run`.
    #[track_caller]
    pub fn start_with(mesh: &Mesh, namespace: &str, name: &str, flags: &[&str]) -> Self {
        let sleep = program("sleep");
        let mut all = vec!["--service-account", name];
        all.extend(flags);
        let command = [text(&sleep), "infinity"];
        let sidecar = mesh.run_ready(&Run { name, namespace, flags: &all, command: &command, ..Run::default() });
        Self::of(sidecar, namespace)
    }

    /// A workload that runs already.
    #[must_use]
    pub fn of(sidecar: Sidecar, namespace: &str) -> Self {
        Self { sidecar, namespace: namespace.to_owned() }
    }

    /// The identity it calls under.
    pub fn identity(&self, name: &str) -> String {
        format!("spiffe://weft.local/ns/{}/sa/{name}", self.namespace)
    }

    /// Where the sidecar takes calls, and the credentials for it.
    pub fn proxy(&self) -> (String, String) {
        let ready = self.sidecar.ready_file().expect("a ready sidecar has a ready file");
        let outbound = ready["outbound"].as_str().expect("ready.json names outbound").to_owned();
        let settings = std::fs::read(self.sidecar.state.join("settings.json")).unwrap();
        let settings: Value = serde_json::from_slice(&settings).unwrap();
        let part = |name: &str| settings["outbound"]["credentials"][name].as_str().expect("weft run sets credentials");
        (outbound, STANDARD.encode(format!("{}:{}", part("user"), part("password"))))
    }

    /// One call of a connection of its own; `url` with scheme and host.
    #[track_caller]
    pub fn call(&self, method: &str, url: &str, headers: &[&str]) -> Answer {
        let (outbound, credentials) = self.proxy();
        let host = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).expect("an http:// URL");
        let mut request = format!(
            "{method} {url} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic {credentials}\r\nConnection: close\r\nContent-Length: 0\r\n"
        );
        for header in headers {
            write!(request, "{header}\r\n").unwrap();
        }
        request.push_str("\r\n");
        let mut stream = TcpStream::connect(&outbound).unwrap_or_else(|e| panic!("{outbound}: {e}"));
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        // A reset after the answer leaves what was read.
        let _ = stream.read_to_end(&mut bytes);
        let all = String::from_utf8_lossy(&bytes);
        let (head, body) = all.split_once("\r\n\r\n").unwrap_or((&all, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_default();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// A connection to `authority` by CONNECT through the sidecar; what is read from it waits [`DEADLINE`] at most.
    #[track_caller]
    pub fn connect(&self, authority: &str) -> TcpStream {
        let (outbound, credentials) = self.proxy();
        let mut stream = TcpStream::connect(&outbound).unwrap_or_else(|e| panic!("{outbound}: {e}"));
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline can be set");
        stream.write_all(connect(authority, &credentials).as_bytes()).expect("the sidecar reads");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the sidecar answers");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 200"), "{authority}: {}", String::from_utf8_lossy(&head));
        stream
    }

    /// A channel to `authority` by CONNECT through the sidecar, for gRPC.
    pub fn tunnel(&self, authority: &'static str) -> Channel {
        let proxy = self.proxy();
        let connect = tower::service_fn(move |_: Uri| {
            let (outbound, credentials) = proxy.clone();
            async move {
                let mut stream = tokio::net::TcpStream::connect(outbound).await?;
                let ask = connect(authority, &credentials);
                stream.write_all(ask.as_bytes()).await?;
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                if head.starts_with(b"HTTP/1.1 200") {
                    Ok(TokioIo::new(stream))
                } else {
                    Err(std::io::Error::other(String::from_utf8_lossy(&head).into_owned()))
                }
            }
        });
        Endpoint::from_static("http://mesh").connect_with_connector_lazy(connect)
    }

    /// A GET.
    #[track_caller]
    pub fn get(&self, url: &str) -> Answer {
        self.call("GET", url, &[])
    }

    /// Calls until an answer is right; for what is on its way.
    #[track_caller]
    pub fn until(&self, what: &str, url: &str, right: impl Fn(&Answer) -> bool) -> Answer {
        wait_for(what, || {
            let answer = self.get(url);
            if right(&answer) { Ok(answer) } else { Err(format!("{answer:?}")) }
        })
    }
}

fn connect(authority: &str, credentials: &str) -> String {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: Basic {credentials}\r\n\r\n")
}
