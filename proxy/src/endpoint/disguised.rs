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
/// The others, once so many have been tried in vain: each may be in use, or still wait for stray packets of a connection that was.
const LATE: (usize, Range<u16>) = (48, 32_768..61_000);
const TRIES: usize = 64;

/// Who called the sidecar, where the application is to see that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The caller's address.
    pub address: IpAddr,
    /// Which of the workload's addresses it called.
    pub asked: IpAddr,
    /// The caller meant that address, and no sidecar chose it.
    pub exactly: bool,
}

/// The place of the application to call and the address to call it under. `None`: the sidecar calls as itself.
pub(super) fn disguise(application: SocketAddr, origin: &Origin) -> Option<(SocketAddr, IpAddr)> {
    let (caller, asked) = (origin.address.to_canonical(), origin.asked.to_canonical());
    // An answer to another address than its own would have to leave loopback, and the kernel does not send it.
    if application.ip().is_loopback() || caller.is_loopback() || is_link_local(caller) {
        return None;
    }
    let same_family = application.is_ipv4() == caller.is_ipv4();
    let at = if origin.exactly || !same_family { SocketAddr::new(asked, application.port()) } else { application };
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
    for n in 0..TRIES {
        let ports = if n < LATE.0 { PORTS } else { LATE.1 };
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_nodelay(true)?;
        socket.set_reuseaddr(true)?;
        crate::listen::pace::unpaced(&socket, to.ip());
        transparent(&socket, to.is_ipv4())?;
        socket2::SockRef::from(&socket).set_mark(DIVERTED)?;
        let made = match socket.bind(SocketAddr::new(from, draw(&ports))) {
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

fn draw(ports: &Range<u16>) -> u16 {
    let count = u64::from(ports.end - ports.start);
    ports.start + u16::try_from(random::draw() % count).unwrap_or_default()
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disguise(application: &str, caller: &str, asked: &str, exactly: bool) -> Option<String> {
        let [address, asked] = [caller, asked].map(|ip| ip.parse().unwrap());
        super::disguise(application.parse().unwrap(), &Origin { address, asked, exactly })
            .map(|(at, from)| format!("{from} to {at}"))
    }

    #[test]
    fn the_caller_is_shown_where_an_answer_finds_its_way_back() {
        for (application, caller, asked, exactly, expected) in [
            ("192.0.2.1:80", "198.51.100.7", "192.0.2.1", true, "198.51.100.7 to 192.0.2.1:80"),
            ("192.0.2.1:80", "::ffff:198.51.100.7", "::ffff:192.0.2.1", true, "198.51.100.7 to 192.0.2.1:80"),
            // What was asked for is what the application is asked for.
            ("192.0.2.1:80", "2001:db8::7", "2001:db8::1", true, "2001:db8::7 to [2001:db8::1]:80"),
            ("192.0.2.1:80", "198.51.100.7", "192.0.2.9", true, "198.51.100.7 to 192.0.2.9:80"),
            // Through a tunnel its end was asked for, and says only what addresses the workload has.
            ("192.0.2.1:80", "198.51.100.7", "192.0.2.9", false, "198.51.100.7 to 192.0.2.1:80"),
            ("192.0.2.1:80", "2001:db8::7", "2001:db8::1", false, "2001:db8::7 to [2001:db8::1]:80"),
        ] {
            assert_eq!(disguise(application, caller, asked, exactly).as_deref(), Some(expected));
        }
    }

    #[test]
    fn where_it_cannot_the_sidecar_calls_as_itself() {
        for (application, caller, asked) in [
            ("127.0.0.1:80", "198.51.100.7", "192.0.2.1"),
            ("[::1]:80", "2001:db8::7", "2001:db8::1"),
            ("192.0.2.1:80", "127.0.0.1", "127.0.0.1"),
            ("[2001:db8::1]:80", "fe80::7", "fe80::1"),
        ] {
            assert_eq!(disguise(application, caller, asked, true), None, "{caller} to {application}");
        }
    }

    #[test]
    fn ports_are_drawn_from_below_those_that_systems_give() {
        assert!((0..10_000).all(|_| PORTS.contains(&draw(&PORTS))));
    }
}
