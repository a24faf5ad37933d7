//! No pacing on the loopback interface.
//!
//! Where the system's congestion control is BBR, the kernel spreads what a socket sends over time and sets a timer for each segment. On a
//! network that keeps queues short; between two processes of one host there is no queue, and the timers cost as much as everything else
//! together. Sockets of the loopback interface therefore take Reno, which every kernel has and everybody may use. All others keep what
//! the system says.

use socket2::SockRef;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::OnceLock;

/// Where the kernel says what new sockets use.
const SYSTEM: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Before a socket connects to `address` or listens at it (what it accepts inherits from it).
pub(crate) fn unpaced(socket: &impl AsFd, address: IpAddr) {
    static PACED: OnceLock<bool> = OnceLock::new();
    if address.to_canonical().is_loopback()
        && *PACED.get_or_init(|| std::fs::read_to_string(SYSTEM).is_ok_and(|name| is_paced(&name)))
    {
        // A connection that is paced is slower, not wrong.
        let _ = SockRef::from(socket).set_tcp_congestion(b"reno");
    }
}

/// Does the algorithm of that name pace by itself?
fn is_paced(name: &str) -> bool {
    name.starts_with("bbr")
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};

    #[test]
    fn only_bbr_paces() {
        for (name, paced) in [("bbr\n", true), ("bbr2", true), ("cubic\n", false), ("reno", false), ("", false)] {
            assert_eq!(is_paced(name), paced, "{name:?}");
        }
    }

    #[test]
    fn a_socket_of_the_loopback_interface_is_not_paced_and_others_are_left_alone() {
        let name = |address: &str| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let before = socket.tcp_congestion().unwrap();
            unpaced(&socket, address.parse().unwrap());
            (before, socket.tcp_congestion().unwrap())
        };
        let (_, after) = name("127.0.0.1");
        assert!(!after.starts_with(b"bbr"));
        let (before, after) = name("192.0.2.1");
        assert_eq!(before, after);
    }
}
