//! An application that the test plays itself: it counts what reaches it, and answers as the test says. HTTP/1.1 with keep-alive.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::stage::text;
use super::{Mesh, Run, Sidecar, program};

type Respond = dyn Fn(&Request) -> (u16, String) + Send + Sync;

/// What reached it, but for the body.
#[derive(Debug)]
pub struct Request {
    /// `GET`
    pub method: String,
    /// As it stands in the request line.
    pub path: String,
    fields: Vec<(String, String)>,
}

impl Request {
    /// A header field's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        field.map(|(_, value)| value.as_str())
    }
}

/// A server on loopback; it ends with the value.
pub struct Upstream {
    /// Where it listens.
    pub port: u16,
    at: SocketAddr,
    seen: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Answers every request with what `respond` says: status and body.
    pub fn start(respond: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", respond)
    }

    /// The same at an address of loopback.
    pub fn start_at(address: &str, respond: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let at = listener.local_addr().unwrap();
        let (seen, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, over) = (Arc::clone(&seen), Arc::clone(&stop));
        let respond: Arc<Respond> = Arc::new(respond);
        let thread = std::thread::spawn(move || {
            let mut connections = Vec::new();
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(stream), count, respond) = (stream, Arc::clone(&count), Arc::clone(&respond)) else { continue };
                let over = Arc::clone(&over);
                connections.push(std::thread::spawn(move || serve(stream, &count, &over, &*respond)));
            }
            for connection in connections {
                let _ = connection.join();
            }
        });
        Self { port: at.port(), at, seen, stop, thread: Some(thread) }
    }

    /// Requests that reached it.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// An instance `name` of `service`, port 80, whose application it is.
    #[track_caller]
    pub fn instance(&self, mesh: &Mesh, service: &str, name: &str) -> Sidecar {
        let sleep = program("sleep");
        mesh.run_ready(&Run {
            name,
            services: &[service],
            ports: &[format!("80:{}:http", self.port)],
            command: &[text(&sleep), "infinity"],
            ..Run::default()
        })
    }
}

fn serve(stream: TcpStream, seen: &AtomicU64, over: &AtomicBool, respond: &Respond) {
    // Looks up now and then, so that it ends with the test.
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader, over) {
        seen.fetch_add(1, Ordering::SeqCst);
        let (status, body) = respond(&request);
        // At once: a second write would wait until the first is acknowledged.
        let answer = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Reads one request; `None` at the end of the connection or of the test.
fn read(reader: &mut BufReader<TcpStream>, over: &AtomicBool) -> Option<Request> {
    let line = next_line(reader, over)?;
    let mut words = line.split(' ').map(str::to_owned);
    let mut request = Request { method: words.next()?, path: words.next()?, fields: Vec::new() };
    loop {
        let field = next_line(reader, over)?;
        if field.is_empty() {
            break;
        }
        let (name, value) = field.split_once(':')?;
        request.fields.push((name.to_owned(), value.trim().to_owned()));
    }
    let length = request.header("content-length").map_or(Some(0), |value| value.parse().ok())?;
    reader.read_exact(&mut vec![0; length]).ok()?;
    Some(request)
}

fn next_line(reader: &mut BufReader<TcpStream>, over: &AtomicBool) -> Option<String> {
    let mut line = String::new();
    loop {
        match reader.read_line(&mut line) {
            Ok(0) => return None,
            Ok(_) if line.ends_with('\n') => return Some(line.trim_end().to_owned()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                if over.load(Ordering::SeqCst) {
                    return None;
                }
            }
            Err(_) => return None,
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop.
        let _ = TcpStream::connect(self.at);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
