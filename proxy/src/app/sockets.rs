//! Every socket of the process, bound before anything runs: what fails here fails at the start, with the name of the setting.

use crate::config::{Settings, TcpOutbound};
use crate::intercept::Mode;
use crate::listen::{self, Binding};
use crate::takeover::Inherited;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A listener of the data path.
#[derive(Debug)]
pub struct Bound {
    /// The setting that it is for, by which a successor knows it.
    pub setting: String,
    /// The address, with the port that was given.
    pub address: SocketAddr,
    /// One a worker; of a predecessor, as many as it had.
    pub listeners: Vec<TcpListener>,
}

impl Bound {
    /// The listeners of each worker: at least one, and all have somebody who accepts.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn spread(self, workers: usize) -> io::Result<Vec<Vec<TcpListener>>> {
        let mut all: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
        // A predecessor had fewer workers: some share a queue.
        for (n, worker) in all.iter_mut().enumerate().skip(self.listeners.len()) {
            worker.push(self.listeners[n % self.listeners.len()].try_clone()?);
        }
        for (n, listener) in self.listeners.into_iter().enumerate() {
            all[n % workers].push(listener);
        }
        Ok(all)
    }
}

/// All of them.
#[derive(Debug)]
pub struct Sockets {
    /// The application's calls; more than one where IPv4 and IPv6 are redirected.
    pub outbound: Vec<Bound>,
    /// Named TCP outbounds.
    pub tcp: Vec<(TcpOutbound, Bound)>,
    /// Peers; `None` without an identity to answer with.
    pub tunnel: Option<Bound>,
    /// Redirected plaintext.
    pub plaintext: Vec<Bound>,
    /// Readiness and metrics.
    pub admin: (SocketAddr, TcpListener),
    /// The private socket.
    pub socket: Option<(PathBuf, UnixListener)>,
    /// DNS, for either family.
    pub dns: Vec<(SocketAddr, UdpSocket, TcpListener)>,
    /// Where DNS listens.
    pub dns_addresses: Vec<SocketAddr>,
}

impl Sockets {
    /// Binds everything that the settings ask for and a predecessor has not.
    ///
    /// # Errors
    /// The setting, the address and the system's reason.
    pub fn bind(settings: &Settings, tunnel: bool, inherited: &mut Inherited) -> Result<Self, String> {
        let inherited = RefCell::new(inherited);
        let workers = usize::from(settings.workers.0);
        let listen = |setting: &str, field: &str, address: SocketAddr, how: Binding| {
            let found = inherited.borrow_mut().tcp(setting, address);
            let bound = found.map_or_else(|| listen::bind(address, how), Ok);
            bound
                .map(|(address, listeners)| Bound { setting: setting.to_owned(), address, listeners })
                .map_err(|e| cannot(field, address, &e))
        };
        let bind = |field: &str, address: SocketAddr, how: Binding| listen(field, field, address, how);
        let one = Binding { workers, ..Binding::one() };
        let both = |field: &str, address: SocketAddr, how: Binding| -> Result<Vec<Bound>, String> {
            let first = bind(field, address, how)?;
            let twin = twin(first.address).filter(|_| settings.transparent);
            let second =
                twin.and_then(|twin| besides(field, twin, bind(field, twin, Binding { only_v6: true, ..how })));
            Ok([first].into_iter().chain(second).collect())
        };
        let outbound = both("outbound.listen", settings.outbound.listen, one)?;
        let mut tcp = Vec::new();
        for (i, named) in settings.outbound.tcp.iter().enumerate() {
            let field = format!("outbound.tcp[{i}].listen");
            let setting = format!("outbound.tcp {}", named.host);
            tcp.push((named.clone(), listen(&setting, &field, named.listen, one)?));
        }
        let tunnel = tunnel.then(|| bind("inbound.tunnel", settings.inbound.tunnel, one)).transpose()?;
        let transparent = settings.interception.inbound_mode == Mode::Tproxy;
        let plaintext = match settings.inbound.plaintext {
            Some(address) => both("inbound.plaintext", address, Binding { transparent, ..one })?,
            None => Vec::new(),
        };
        let mut admin = listen("admin.listen", "admin.listen", settings.admin.listen, Binding::one())?;
        let admin = (admin.address, admin.listeners.pop().ok_or("admin.listen: no socket")?);
        let socket = match settings.socket() {
            Some(path) => {
                let found = inherited.borrow_mut().unix();
                let listener = found.map_or_else(|| unix(&path), Ok);
                let listener = listener.map_err(|e| format!("admin.socket: cannot bind {}: {e}", path.display()))?;
                Some((path, listener))
            }
            None => None,
        };
        let dns: Vec<_> = match settings.dns.listen {
            Some(address) => {
                let dns = |address| match inherited.borrow_mut().dns(address) {
                    Some(found) => Ok(found),
                    None => dns(address),
                };
                let first = dns(address).map_err(|e| cannot("dns.listen", address, &e))?;
                let twin = twin(first.0).filter(|_| settings.transparent);
                let second = twin.and_then(|twin| {
                    besides("dns.listen", twin, dns(twin).map_err(|e| cannot("dns.listen", twin, &e)))
                });
                [first].into_iter().chain(second).collect()
            }
            None => Vec::new(),
        };
        let dns_addresses = dns.iter().map(|(address, ..)| *address).collect();
        Ok(Self { outbound, tcp, tunnel, plaintext, admin, socket, dns, dns_addresses })
    }

    /// Every address that is the sidecar's own, which is never a destination.
    #[must_use]
    pub fn own(&self) -> Vec<SocketAddr> {
        let data =
            self.outbound.iter().chain(&self.tunnel).chain(&self.plaintext).chain(self.tcp.iter().map(|(_, b)| b));
        let mut own: Vec<SocketAddr> = data.map(|bound| bound.address).collect();
        own.push(self.admin.0);
        own.extend(&self.dns_addresses);
        own
    }

    /// What `ready.json` says: whoever waits for it knows where to go.
    #[must_use]
    pub fn announcement(&self) -> Value {
        let tcp: Vec<_> =
            self.tcp.iter().map(|(named, bound)| json!({ "listen": bound.address, "host": named.host })).collect();
        json!({
            "pid": std::process::id(),
            "outbound": self.outbound.first().map(|b| b.address),
            "tunnel": self.tunnel.as_ref().map(|b| b.address),
            "plaintext": self.plaintext.first().map(|b| b.address),
            "admin": self.admin.0,
            "dns": self.dns_addresses.first(),
            "socket": self.socket.as_ref().map(|(path, _)| path),
            "tcp": tcp,
        })
    }
}

/// Writes `ready.json`, atomically.
///
/// # Errors
/// The file system's.
pub fn announce(announcement: &Value, path: &Path) -> Result<(), String> {
    // Not synced: it is about this process, and no truth after a crash of the machine.
    let beside = path.with_extension("json.new");
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(format!("{announcement:#}\n").as_bytes())?;
        std::fs::rename(&beside, path)
    })();
    written.map_err(|e| format!("{}: {e}", path.display()))
}

fn cannot(field: &str, address: SocketAddr, error: &io::Error) -> String {
    format!("{field}: cannot bind {address}: {error}")
}

/// The listener of the other family; without IPv6 there is nothing to bring to it.
fn besides<T>(field: &str, address: SocketAddr, bound: Result<T, String>) -> Option<T> {
    bound.inspect_err(|why| tracing::info!(field, %address, "no listener for IPv6: {why}")).ok()
}

/// The same place in IPv6: redirected connections arrive at the loopback (or any) address of their own family.
fn twin(address: SocketAddr) -> Option<SocketAddr> {
    match address.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Some((Ipv6Addr::LOCALHOST, address.port()).into()),
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Some((Ipv6Addr::UNSPECIFIED, address.port()).into()),
        _ => None,
    }
}

fn unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // The mode of its first moment: nobody else may connect in between. Nothing else runs yet.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn dns(address: SocketAddr) -> io::Result<(SocketAddr, UdpSocket, TcpListener)> {
    // One port for both: with port 0 the one that UDP got may be taken for TCP, so another is tried.
    let mut last = io::Error::other("no port is free for both UDP and TCP");
    for _ in 0..16 {
        let udp = UdpSocket::bind(address)?;
        let bound = udp.local_addr()?;
        match listen::bind(bound, Binding::one()) {
            Ok((_, mut listeners)) => {
                udp.set_nonblocking(true)?;
                let tcp = listeners.pop().ok_or_else(|| io::Error::other("no socket"))?;
                return Ok((bound, udp, tcp));
            }
            Err(error) => last = error,
        }
        if address.port() != 0 {
            break;
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn ephemeral(dir: &Path) -> Settings {
        let mut settings = Settings { state_dir: Some(dir.to_owned()), ..Settings::default() };
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        (settings.outbound.listen, settings.inbound.tunnel, settings.admin.listen) = (any, any, any);
        settings.dns.listen = Some(any);
        settings
    }

    #[test]
    fn ready_json_names_the_ports_that_were_given_and_the_socket_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let sockets = Sockets::bind(&ephemeral(dir.path()), true, &mut Inherited::default()).unwrap();
        let ready = dir.path().join("ready.json");
        announce(&sockets.announcement(), &ready).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&std::fs::read(ready).unwrap()).unwrap();
        assert_eq!(read["outbound"], sockets.outbound[0].address.to_string());
        assert_ne!(sockets.outbound[0].address.port(), 0);
        assert_eq!(read["pid"], std::process::id());
        let mode = std::fs::metadata(dir.path().join("admin.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(sockets.own().len(), 4);
    }

    #[test]
    fn every_worker_has_a_listener_and_every_listener_a_worker() {
        for (listeners, workers) in [(1, 1), (1, 4), (4, 1), (3, 2), (2, 5)] {
            let bound = Bound {
                setting: String::new(),
                address: "127.0.0.1:0".parse().unwrap(),
                listeners: (0..listeners).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect(),
            };
            let ports: Vec<u16> = bound.listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
            let spread = bound.spread(workers).unwrap();
            assert_eq!(spread.len(), workers);
            assert!(spread.iter().all(|worker| !worker.is_empty()));
            assert_eq!(spread.iter().map(Vec::len).sum::<usize>(), listeners.max(workers));
            let heard: Vec<u16> = spread.iter().flatten().map(|l| l.local_addr().unwrap().port()).collect();
            assert!(ports.iter().all(|port| heard.contains(port)), "{listeners} {workers}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_an_error_that_names_the_setting() {
        let dir = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut settings = ephemeral(dir.path());
        settings.admin.listen = taken.local_addr().unwrap();
        let error = Sockets::bind(&settings, true, &mut Inherited::default()).unwrap_err();
        assert!(error.starts_with("admin.listen: cannot bind"), "{error}");
    }
}
