//! Connections to the application under its caller's address, behind TPROXY: whom the application sees, logs and judges is the caller.
//!
//! The socket has an address that is not this machine's (IP_TRANSPARENT) and a mark by which the answers stay here: the rules keep it for
//! the connection and routing delivers what carries it ([`crate::intercept::DIVERTED`]). The port is drawn from below those that systems
//! give by themselves (ip_local_port_range begins at 32768): the caller's own connection to the same place is between the same addresses, and
//! two connections cannot be told apart when their ports are equal too.

use crate::intercept::{DIVERTED, transparent};
use crate::random;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use tokio::net::{TcpSocket, TcpStream};

const PORTS: Range<u16> = 10_240..32_768;
/// Ports that are tried: one may be in use, or still wait for stray packets.
const TRIES: usize = 64;

/// Who called the sidecar, where the application is to see that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The caller's address.
    pub address: IpAddr,
    /// Which of the workload's addresses it called; `None`: not known, as in a tunnel.
    pub asked: Option<IpAddr>,
}

/// The place of the application to call and the address to call it under, for a caller at `caller` who asked for the address `asked`, where
/// that is known. `None`: the sidecar calls as itself.
pub(super) fn disguise(application: SocketAddr, caller: IpAddr, asked: Option<IpAddr>) -> Option<(SocketAddr, IpAddr)> {
    let (caller, asked) = (caller.to_canonical(), asked.map(|asked| asked.to_canonical()));
    // An answer to another address than its own would have to leave loopback, and the kernel does not send it.
    if application.ip().is_loopback() || caller.is_loopback() || is_link_local(caller) {
        return None;
    }
    let at = asked.map_or(application, |asked| SocketAddr::new(asked, application.port()));
    (at.is_ipv4() == caller.is_ipv4()).then_some((at, caller))
}

/// Such an address says nothing without its interface.
const fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// A connection from `from` to `to`.
///
/// # Errors
/// Those of connecting; that no port was free, or the process may not do it.
pub(super) async fn connect(to: SocketAddr, from: IpAddr) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_nodelay(true)?;
        socket.set_reuseaddr(true)?;
        crate::listen::pace::unpaced(&socket, to.ip());
        transparent(&socket, to.is_ipv4())?;
        socket2::SockRef::from(&socket).set_mark(DIVERTED)?;
        let made = match socket.bind(SocketAddr::new(from, draw())) {
            Ok(()) => socket.connect(to).await,
            Err(error) => Err(error),
        };
        match made {
            Err(error) if is_taken(&error) => last = error,
            made => return made,
        }
    }
    Err(last)
}

fn draw() -> u16 {
    let count = u64::from(PORTS.end - PORTS.start);
    PORTS.start + u16::try_from(random::draw() % count).unwrap_or_default()
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disguise(application: &str, caller: &str, asked: Option<&str>) -> Option<String> {
        let asked = asked.map(|asked| asked.parse().unwrap());
        super::disguise(application.parse().unwrap(), caller.parse().unwrap(), asked)
            .map(|(at, from)| format!("{from} to {at}"))
    }

    #[test]
    fn the_caller_is_shown_where_an_answer_finds_its_way_back() {
        let shown = |application, caller, asked| disguise(application, caller, asked).unwrap();
        assert_eq!(shown("192.0.2.1:80", "198.51.100.7", None), "198.51.100.7 to 192.0.2.1:80");
        assert_eq!(shown("192.0.2.1:80", "::ffff:198.51.100.7", None), "198.51.100.7 to 192.0.2.1:80");
        // What was asked for is what the application is asked for.
        assert_eq!(shown("192.0.2.1:80", "2001:db8::7", Some("2001:db8::1")), "2001:db8::7 to [2001:db8::1]:80");
        assert_eq!(shown("192.0.2.1:80", "198.51.100.7", Some("192.0.2.9")), "198.51.100.7 to 192.0.2.9:80");
    }

    #[test]
    fn where_it_cannot_the_sidecar_calls_as_itself() {
        for (application, caller) in [
            ("127.0.0.1:80", "198.51.100.7"),
            ("[::1]:80", "2001:db8::7"),
            ("192.0.2.1:80", "127.0.0.1"),
            ("192.0.2.1:80", "2001:db8::7"),
            ("[2001:db8::1]:80", "198.51.100.7"),
            ("[2001:db8::1]:80", "fe80::7"),
        ] {
            assert_eq!(disguise(application, caller, None), None, "{caller} to {application}");
        }
    }

    #[test]
    fn ports_are_drawn_from_below_those_that_systems_give() {
        assert!((0..10_000).all(|_| PORTS.contains(&draw())));
    }
}
