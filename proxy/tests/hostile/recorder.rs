//! The strictest upstream there is: it notes every request that has exactly one reading, and every byte that has none.

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

/// What came in on a connection, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A whole request: its target, and `METHOD target [body]` with trailers as `+name: value`.
    Request { target: String, reading: String },
    /// The connection ended within a request that was well-formed so far; its target.
    Broken(String),
    /// Bytes that are no request, or one that others may read differently.
    Problem(String),
}

/// What a recorder answers to a target that begins with `/r-`.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// Written at once.
    pub first: Bytes,
    /// Written when [`Recorder::release`] is called.
    pub later: Bytes,
    /// Closes then.
    pub close: bool,
}

type Scripts = Arc<dyn Fn(&str) -> Script + Send + Sync>;

/// A recorder that listens.
pub struct Recorder {
    pub at: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    events: Mutex<Vec<Event>>,
    open: Mutex<Vec<JoinHandle<()>>>,
    /// Targets whose later half may be written, and those where it has been.
    released: Mutex<(Vec<String>, Vec<String>)>,
    turned: Condvar,
    /// The next connection is the recorder's own, and the last.
    stop: AtomicBool,
}

impl Recorder {
    /// Listens on a free port of loopback. Every connection ends with its sidecar.
    pub fn start(scripts: impl Fn(&str) -> Script + Send + Sync + 'static) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        // What a thousand large answers wait for is their readers, and not copies into the kernel.
        socket.set_send_buffer_size(64 * 1024).unwrap();
        // A thousand at once are no failure of anybody's.
        socket.listen(4096).unwrap();
        let listener = TcpListener::from(socket);
        let at = listener.local_addr().unwrap();
        let (shared, scripts) = (Arc::new(Shared::default()), Arc::new(scripts) as Scripts);
        let all = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if all.stop.load(SeqCst) {
                    return;
                }
                let (shared, scripts) = (Arc::clone(&all), Arc::clone(&scripts));
                let serving = std::thread::spawn(move || shared.serve(stream, &scripts));
                all.open.lock().push(serving);
            }
        });
        Self { at, shared, accepting }
    }

    /// Has the later half of a script written, and returns when it has been.
    pub fn release(&self, target: &str) {
        let mut released = self.shared.released.lock();
        released.0.push(target.to_owned());
        self.shared.turned.notify_all();
        while !released.1.iter().any(|done| done == target) {
            let waited = self.shared.turned.wait_for(&mut released, Duration::from_secs(10));
            assert!(!waited.timed_out(), "{target}: nobody waits to write its later half");
        }
    }

    /// Everything that came in, once no sidecar holds a connection any more.
    pub fn finish(self) -> Vec<Event> {
        self.shared.stop.store(true, SeqCst);
        TcpStream::connect(self.at).unwrap();
        self.accepting.join().unwrap();
        let open = std::mem::take(&mut *self.shared.open.lock());
        open.into_iter().for_each(|serving| serving.join().unwrap());
        std::mem::take(&mut *self.shared.events.lock())
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream, scripts: &Scripts) {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let (mut read, mut buffer) = (Vec::new(), [0; 16 * 1024]);
        loop {
            match request(&read) {
                Ok(Some((event, length))) => {
                    read.drain(..length);
                    let Event::Request { target, reading } = event.clone() else { unreachable!("requests only") };
                    self.events.lock().push(event);
                    if !self.answer(&mut stream, &target, &reading, scripts) {
                        break;
                    }
                    continue;
                }
                Ok(None) => {}
                Err(why) => {
                    let bytes = String::from_utf8_lossy(&read).escape_debug().to_string();
                    self.events.lock().push(Event::Problem(format!("{why}: {bytes}")));
                    break;
                }
            }
            match stream.read(&mut buffer) {
                Ok(count @ 1..) => read.extend_from_slice(&buffer[..count]),
                _ => {
                    if !read.is_empty() {
                        let text = String::from_utf8_lossy(&read);
                        let whole = text.contains("\r\n\r\n");
                        let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
                        let event =
                            if whole { Event::Broken(target) } else { Event::Problem(format!("half a head: {text}")) };
                        self.events.lock().push(event);
                    }
                    break;
                }
            }
        }
    }

    /// Answers; whether the connection goes on.
    fn answer(&self, stream: &mut TcpStream, target: &str, reading: &str, scripts: &Scripts) -> bool {
        if !target.starts_with("/r-") {
            let body = format!("seen {target}");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let body = if reading.starts_with("HEAD ") { "" } else { &body };
            return stream.write_all(format!("{head}{body}").as_bytes()).is_ok();
        }
        let script = scripts(target);
        let mut written = stream.write_all(&script.first).is_ok();
        if !script.later.is_empty() {
            let mut released = self.released.lock();
            while !released.0.iter().any(|asked| asked == target) {
                if self.turned.wait_for(&mut released, Duration::from_secs(60)).timed_out() {
                    return false;
                }
            }
            written &= stream.write_all(&script.later).is_ok();
            released.1.push(target.to_owned());
            self.turned.notify_all();
        }
        written && !script.close
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A field line, without room for a second opinion.
fn field(line: &str) -> Result<(String, &str), String> {
    let (name, value) = line.split_once(':').ok_or(format!("no field line: {line:?}"))?;
    if !is_token(name) || value.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
        return Err(format!("a field with forbidden characters: {line:?}"));
    }
    Ok((name.to_ascii_lowercase(), value.trim_matches([' ', '\t'])))
}

/// Fields that say where a message ends or where it goes: at most once, and never in trailers.
const FRAMING: [&str; 4] = ["content-length", "transfer-encoding", "host", "trailer"];

/// The request that `read` begins with, and its length; `None` while it is not whole.
fn request(read: &[u8]) -> Result<Option<(Event, usize)>, String> {
    let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") else {
        return if read.contains(&0) || read.len() > 128 * 1024 { Err("no head".into()) } else { Ok(None) };
    };
    // Obs-text is allowed in values, and is no UTF-8.
    let head: String = read[..end].iter().map(|byte| char::from(*byte)).collect();
    let mut lines = head.split("\r\n");
    let start: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = start[..] else { return Err(format!("the request line {start:?}")) };
    if !is_token(method) || !target.starts_with(['/', '*']) || target.bytes().any(|b| b <= 0x20 || b == 0x7f) {
        return Err(format!("the request line {start:?}"));
    }
    let fields = lines.map(field).collect::<Result<Vec<_>, _>>()?;
    let all = |name: &str| fields.iter().filter(|(n, _)| n == name).map(|(_, value)| *value).collect::<Vec<_>>();
    if FRAMING.iter().any(|name| all(name).len() > 1) || all("host").len() != 1 || all("host")[0].is_empty() {
        return Err("framing or routing that is said twice".into());
    }
    // What a sidecar answers or ends itself, and what an upstream may take for a change of protocol.
    if ["expect", "http2-settings", "proxy-connection", "proxy-authorization", "keep-alive"]
        .iter()
        .any(|n| !all(n).is_empty())
        || fields.iter().any(|(name, _)| name.starts_with("weft-"))
        || all("upgrade").iter().any(|value| value.to_ascii_lowercase().contains("h2c"))
    {
        return Err("what concerns another connection".into());
    }
    let at = end + 4;
    let (body, trailers, length) = match (all("content-length").first(), all("transfer-encoding").first()) {
        (Some(_), Some(_)) => return Err("both Content-Length and Transfer-Encoding".into()),
        (None, Some(&"chunked")) => match chunks(&read[at..])? {
            Some((body, trailers, length)) => (body, trailers, at + length),
            None => return Ok(None),
        },
        (None, Some(_)) => return Err("a Transfer-Encoding that is not chunked".into()),
        (None, None) => (Vec::new(), String::new(), at),
        (Some(length), None) => {
            let plain = length.bytes().all(|b| b.is_ascii_digit()) && (*length == "0" || !length.starts_with('0'));
            let count: usize = length.parse().ok().filter(|_| plain).ok_or(format!("Content-Length {length:?}"))?;
            match read.get(at..at + count) {
                Some(body) => (body.to_vec(), String::new(), at + count),
                None => return Ok(None),
            }
        }
    };
    let reading = format!("{method} {target} [{}]{trailers}", String::from_utf8_lossy(&body));
    Ok(Some((Event::Request { target: target.to_owned(), reading }, length)))
}

/// A chunked body with its trailers, and its length on the wire.
fn chunks(read: &[u8]) -> Result<Option<(Vec<u8>, String, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    let line =
        |at: usize| read[at..].windows(2).position(|w| w == b"\r\n").map(|end| (&read[at..at + end], at + end + 2));
    loop {
        let Some((size, next)) = line(at) else { return Ok(None) };
        let text = std::str::from_utf8(size).ok().filter(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_hexdigit()));
        let size = text.and_then(|text| usize::from_str_radix(text, 16).ok()).ok_or(format!("chunk size {size:?}"))?;
        at = next;
        if size == 0 {
            break;
        }
        let Some(data) = read.get(at..at + size + 2) else { return Ok(None) };
        if !data.ends_with(b"\r\n") {
            return Err("a chunk longer than its size".into());
        }
        body.extend_from_slice(&data[..size]);
        at += size + 2;
    }
    let mut trailers = String::new();
    loop {
        let Some((text, next)) = line(at) else { return Ok(None) };
        at = next;
        if text.is_empty() {
            return Ok(Some((body, trailers, at)));
        }
        let text = String::from_utf8_lossy(text).into_owned();
        let (name, value) = field(&text)?;
        if FRAMING.contains(&name.as_str()) {
            return Err(format!("the trailer {name}"));
        }
        trailers.push_str(&format!(" +{name}: {value}"));
    }
}
