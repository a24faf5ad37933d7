//! Taking a workload's traffic without its knowledge: nftables rules, the destination a connection had before them, and DNS.
//!
//! What is done with a connection once it is here is the business of `listen`. Only Linux is meant.

pub mod command;
pub mod dns;
pub mod nft;
mod route;
pub mod rules;
mod stand_in;

pub use nft::Mode;
pub use stand_in::StandIns;

use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// The mark (SO_MARK, "weft" in ASCII) that the sidecar's own sockets carry, so that rules leave them alone.
pub const MARK: u32 = 0x7765_6674;

/// The mark ("wefd") of packets that are delivered on this machine whatever address they are for: what TPROXY took, and both ways between
/// the sidecar and an application that it calls under the address of its caller.
pub const DIVERTED: u32 = 0x7765_6664;

static MARKING: AtomicBool = AtomicBool::new(false);

/// From now on [`exempt`] marks sockets. Called once, at the start of a process whose rules go by mark.
///
/// # Errors
/// Without CAP_NET_ADMIN in the network namespace: found out now rather than at each call.
pub fn mark_sockets() -> io::Result<()> {
    std::net::UdpSocket::bind(("127.0.0.1", 0)).and_then(|socket| SockRef::from(&socket).set_mark(MARK))?;
    MARKING.store(true, Ordering::Relaxed);
    Ok(())
}

/// Marks a socket as the sidecar's own, before it connects; does nothing in a process that intercepts nothing.
///
/// # Errors
/// Without CAP_NET_ADMIN in the network namespace.
pub fn exempt(socket: &impl AsFd) -> io::Result<()> {
    if MARKING.load(Ordering::Relaxed) { SockRef::from(socket).set_mark(MARK) } else { Ok(()) }
}

/// Makes a socket one that may have an address of others: a listener for what TPROXY brings, or a connection under its caller's address.
///
/// # Errors
/// Without CAP_NET_ADMIN and CAP_NET_RAW in the network namespace.
pub fn transparent(socket: &impl AsFd, ipv4: bool) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if ipv4 { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
}

/// Whether this process may do what TPROXY asks of the sidecar.
///
/// # Errors
/// Without CAP_NET_ADMIN (or CAP_NET_RAW, from Linux 5.17 on) in the network namespace: found out at the start rather than at each call.
pub fn may_divert() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0))?;
    transparent(&socket, true)?;
    SockRef::from(&socket).set_mark(DIVERTED)
}

/// Where a connection that TPROXY took was going: its own address. `None`: it was made to the listener's port itself.
///
/// # Errors
/// When the socket cannot be asked at all.
pub fn diverted_destination(stream: &impl AsFd, listener: u16) -> io::Result<Option<SocketAddr>> {
    let local = SockRef::from(stream).local_addr()?.as_socket().map(canonical);
    Ok(local.filter(|local| local.port() != listener))
}

/// Where a redirected connection was going; `None` when it was made to this listener itself.
///
/// # Errors
/// When the socket cannot be asked at all.
pub fn original_destination(stream: &impl AsFd) -> io::Result<Option<SocketAddr>> {
    let socket = SockRef::from(stream);
    let local = socket.local_addr()?.as_socket().map(canonical);
    let asked = match local {
        Some(SocketAddr::V6(_)) => socket.original_dst_v6(),
        _ => socket.original_dst_v4(),
    };
    let original = match asked {
        Ok(address) => address.as_socket().map(canonical),
        // ENOENT: connection tracking has no entry; ENOPROTOOPT, EOPNOTSUPP: it is not even loaded.
        Err(e) if matches!(e.raw_os_error(), Some(2 | 92 | 95)) => None,
        Err(e) => return Err(e),
    };
    Ok(original.filter(|o| Some(*o) != local))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_made_to_the_listener_itself_has_no_original_destination() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert_eq!(super::original_destination(&server).unwrap(), None);
    }
}
