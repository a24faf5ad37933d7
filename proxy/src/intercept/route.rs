//! The routes that TPROXY needs: packets that carry [`DIVERTED`] are delivered on this machine, whatever address they are for.
//!
//! One rule and one route for each family, in a table of our own, changed by rtnetlink (rtnetlink(7)): each message is all or nothing, and
//! no program is needed besides. A family that the kernel does not have, or that is switched off on loopback, is left out.

use super::DIVERTED;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;

/// The routing table, and the place of the rule that leads to it: before the tables that everybody has.
const TABLE: u32 = 15_006;
/// Who made them: a number that no routing daemon has (`/etc/iproute2/rt_protos`).
const PROTOCOL: u8 = 0x77;
/// Loopback is the first interface of every network namespace.
const LOOPBACK: u32 = 1;

const INET: u8 = 2;
const INET6: u8 = 10;
const FAMILIES: [(u8, &str); 2] = [(INET, "IPv4"), (INET6, "IPv6")];

// linux/netlink.h
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const ERROR: u16 = 2;
const DONE: u16 = 3;
// linux/rtnetlink.h
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const GET_RULE: u16 = 34;
const TYPE_LOCAL: u8 = 2;
const SCOPE_HOST: u8 = 254;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_TABLE: u16 = 15;
// linux/fib_rules.h
const TO_TABLE: u8 = 1;
const RULE_PRIORITY: u16 = 6;
const RULE_MARK: u16 = 10;
const RULE_TABLE: u16 = 15;
const RULE_MASK: u16 = 16;
const RULE_PROTOCOL: u16 = 21;

/// No such entry, process (as routing says it), address family, or device; what is switched off says "permission denied" or "invalid".
const ABSENT: [i32; 2] = [2, 3];
const EXISTS: i32 = 17;
const NO_FAMILY: [i32; 4] = [97, 13, 19, 22];

/// Adds them where they are not.
pub(super) fn add() -> io::Result<()> {
    let link = Link::open()?;
    for (family, _) in FAMILIES {
        let route = link.ask(route(NEW_ROUTE, REQUEST | ACK | CREATE | EXCLUSIVE, family));
        let rule = |_| link.ask(rule(NEW_RULE, REQUEST | ACK | CREATE | EXCLUSIVE, family));
        forgive(route, &[EXISTS]).and_then(|()| forgive(rule(()), &[EXISTS])).or_else(|error| {
            let missing = error.raw_os_error().is_some_and(|code| NO_FAMILY.contains(&code));
            if family == INET6 && missing { Ok(()) } else { Err(refused(&error)) }
        })?;
    }
    Ok(())
}

/// Removes them where they are.
pub(super) fn remove() -> io::Result<()> {
    let link = Link::open()?;
    for (family, _) in FAMILIES {
        let gone = |result| forgive(result, &[&ABSENT[..], &NO_FAMILY[..1]].concat());
        gone(link.ask(rule(DELETE_RULE, REQUEST | ACK, family))).map_err(|e| refused(&e))?;
        gone(link.ask(route(DELETE_ROUTE, REQUEST | ACK, family))).map_err(|e| refused(&e))?;
    }
    Ok(())
}

/// A line for each family that has them.
pub(super) fn show() -> io::Result<String> {
    let link = Link::open()?;
    let mut out = String::new();
    for (family, name) in FAMILIES {
        let mut get = Message::new(GET_RULE, REQUEST | DUMP);
        get.0.extend([family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        if link.dump(get)?.iter().any(|rule| attribute(rule, RULE_TABLE) == Some(TABLE)) {
            let _ = writeln!(out, "# {name}: packets with mark {DIVERTED:#x} are local (rule and table {TABLE})");
        }
    }
    Ok(out)
}

fn refused(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the kernel refused a route for TPROXY: {error}"))
}

fn forgive(result: io::Result<()>, codes: &[i32]) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error().is_some_and(|code| codes.contains(&code)) => Ok(()),
        result => result,
    }
}

/// `local default dev lo table TABLE` (struct rtmsg).
fn route(kind: u16, flags: u16, family: u8) -> Message {
    let mut message = Message::new(kind, flags);
    message.0.extend([family, 0, 0, 0, 0, PROTOCOL, SCOPE_HOST, TYPE_LOCAL, 0, 0, 0, 0]);
    message.with(ROUTE_TABLE, &TABLE.to_ne_bytes()).with(ROUTE_INTERFACE, &LOOPBACK.to_ne_bytes())
}

/// `fwmark DIVERTED lookup TABLE` (struct fib_rule_hdr).
fn rule(kind: u16, flags: u16, family: u8) -> Message {
    let mut message = Message::new(kind, flags);
    message.0.extend([family, 0, 0, 0, 0, 0, 0, TO_TABLE, 0, 0, 0, 0]);
    message
        .with(RULE_PRIORITY, &TABLE.to_ne_bytes())
        .with(RULE_MARK, &DIVERTED.to_ne_bytes())
        .with(RULE_MASK, &u32::MAX.to_ne_bytes())
        .with(RULE_TABLE, &TABLE.to_ne_bytes())
        .with(RULE_PROTOCOL, &[PROTOCOL])
}

/// A request: struct nlmsghdr, a header of its kind, attributes.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        Self(bytes)
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finished(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// A socket to the kernel.
struct Link(OwnedFd);

impl Link {
    fn open() -> io::Result<Self> {
        // NETLINK_ROUTE is protocol 0, the one that is taken when none is named.
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?))
    }

    /// One change, and the kernel's answer.
    fn ask(&self, message: Message) -> io::Result<()> {
        self.dump(message).map(drop)
    }

    /// The bodies of all answers; what the kernel refuses is an error.
    fn dump(&self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        sendto(&self.0, &message.finished(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let (mut bodies, mut buffer) = (Vec::new(), vec![0; 32 * 1024]);
        loop {
            let (_, length) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = &buffer[..length.min(buffer.len())];
            while let Some((kind, body, after)) = split(rest) {
                match kind {
                    DONE => return Ok(bodies),
                    ERROR => {
                        let code = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                        return if code == 0 { Ok(bodies) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => bodies.push(body.to_vec()),
                }
                rest = after;
            }
        }
    }
}

/// The first message of several: its kind, what follows its header, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let body = bytes.get(16..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The number that an attribute of a rule has.
fn attribute(rule: &[u8], wanted: u16) -> Option<u32> {
    let mut rest = rule.get(12..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]);
        if kind == wanted {
            return rest.get(4..length)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_it_says_and_its_attributes_are_found_again() {
        let bytes = rule(NEW_RULE, REQUEST, INET).finished();
        let (kind, body, rest) = split(&bytes).unwrap();
        assert_eq!((kind, rest.len(), bytes.len() % 4), (NEW_RULE, 0, 0));
        assert_eq!(attribute(body, RULE_TABLE), Some(TABLE));
        assert_eq!(attribute(body, RULE_MARK), Some(DIVERTED));
        assert_eq!(attribute(body, 99), None);
    }

    #[test]
    fn an_answer_that_is_cut_off_is_no_answer() {
        let bytes = route(NEW_ROUTE, REQUEST, INET6).finished();
        for length in 0..bytes.len() {
            assert!(split(&bytes[..length]).is_none(), "{length}");
        }
        assert_eq!(attribute(&[0; 14], RULE_TABLE), None);
    }
}
