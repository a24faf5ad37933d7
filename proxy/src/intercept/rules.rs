//! Putting rules and routes in force and taking them back, one process at a time.
//!
//! Two parts of the kernel are changed, nftables and (for TPROXY) routing, and a process may die between the two. Routes alone do nothing:
//! they act on a mark that only the rules set. So they come first and go last, and whatever a killed process left the next one mends.

use super::nft::{self, Inbound, Mode, Plan};
use super::route;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::time::{Duration, Instant};

/// How long another process that changes the rules is waited for.
const OTHERS: Duration = Duration::from_secs(10);
/// The name of the lock, an abstract Unix address: those belong to the network namespace, as the rules do.
const LOCK: &[u8] = b"weft/intercept";

/// Puts the plan in force in the network namespace of the calling process, whatever was there before of Weft's. Blocks for the few
/// milliseconds that takes.
///
/// # Errors
/// What `nft` or the kernel refuses; that another process has been changing the rules for over ten seconds.
pub fn install(plan: &Plan) -> io::Result<()> {
    let lock = lock()?;
    let script = nft::script(plan);
    if matches!(plan.inbound, Some(Inbound { mode: Mode::Tproxy, .. })) {
        route::add()?;
        return nft::run(&script, lock);
    }
    nft::run(&script, lock.try_clone()?)?;
    route::remove()
}

/// Takes rules and routes back; it is no error that there are none.
///
/// # Errors
/// As for [`install`].
pub fn remove() -> io::Result<()> {
    let lock = lock()?;
    nft::run(nft::REMOVE, lock.try_clone()?)?;
    route::remove()
}

/// What is in force: the rules as `nft` prints them, and the routes as comments after them. `None`: there are no rules of ours.
///
/// # Errors
/// What `nft` or the kernel refuses.
pub fn show() -> io::Result<Option<String>> {
    let Some(rules) = nft::show()? else { return Ok(None) };
    Ok(Some(rules + &route::show()?))
}

/// Held by this process, and by the `nft` that it starts: what a killed process left running ends before the next one begins.
fn lock() -> io::Result<OwnedFd> {
    let address = UnixAddress::from_abstract_name(LOCK)?;
    let end = Instant::now() + OTHERS;
    loop {
        match UnixDatagram::bind_addr(&address) {
            Ok(socket) => return Ok(socket.into()),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "another process has been changing the interception rules for ten seconds",
                ));
            }
            Err(e) => return Err(e),
        }
    }
}
