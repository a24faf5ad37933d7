//! Every listening socket of a process, to be copied for a successor; and what a successor got, until each finds its
//! place.

use super::message::{Earlier, Kind, Offer, Passed};
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Weak};

/// The setting of both sockets of DNS.
pub const DNS: &str = "dns.listen";

/// A socket, for as long as somebody serves it, and what it is passed as.
type Put = (Passed, Weak<dyn AsFd + Send + Sync>);

/// The sockets in use. It does not keep them open: one that is closed is not there any more.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<Vec<Put>>>);

impl Shelf {
    /// Puts one on it.
    pub fn put<S: AsFd + Send + Sync + 'static>(
        &self,
        kind: Kind,
        setting: &str,
        address: &impl ToString,
        socket: &Arc<S>,
    ) {
        let passed = Passed { kind, setting: setting.to_owned(), address: address.to_string() };
        let socket: Weak<S> = Arc::downgrade(socket);
        self.0.lock().push((passed, socket));
    }

    /// A copy of each.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn copies(&self) -> io::Result<(Vec<Passed>, Vec<OwnedFd>)> {
        let all = self.0.lock();
        let open = all.iter().filter_map(|(passed, socket)| Some((passed.clone(), socket.upgrade()?)));
        let copies = open.map(|(passed, socket)| Ok((passed, socket.as_fd().try_clone_to_owned()?)));
        copies.collect()
    }
}

/// What a predecessor passed and nobody has taken yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(Passed, OwnedFd)>);

impl Inherited {
    /// What an offer lists, and the descriptors that followed it.
    #[must_use]
    pub fn new(offer: &Offer, descriptors: Vec<OwnedFd>) -> Self {
        Self(offer.sockets.iter().cloned().zip(descriptors).collect())
    }

    /// All listeners at an address; with port 0, at whichever port the predecessor had for that setting.
    pub fn tcp(&mut self, setting: &str, wanted: SocketAddr) -> Option<(SocketAddr, Vec<TcpListener>)> {
        let at = self.find(Kind::Tcp, setting, wanted)?;
        let listeners = self.take(|passed| passed.kind == Kind::Tcp && passed.address == at.to_string());
        Some((at, listeners.into_iter().map(TcpListener::from).collect()))
    }

    /// The sockets of DNS at an address, likewise: one port for both.
    pub fn dns(&mut self, wanted: SocketAddr) -> Option<(SocketAddr, UdpSocket, TcpListener)> {
        let at = self.find(Kind::Udp, DNS, wanted)?;
        let (_, mut tcp) = self.tcp(DNS, at)?;
        let udp = self.take(|passed| passed.kind == Kind::Udp && passed.address == at.to_string()).pop()?;
        Some((at, udp.into(), tcp.pop()?))
    }

    /// The private socket: the one that was asked at, whatever its path is called there.
    pub fn unix(&mut self) -> Option<UnixListener> {
        Some(self.take(|passed| passed.kind == Kind::Unix).pop()?.into())
    }

    /// The lock of a state directory, if `path` is the file that the predecessor has locked.
    pub fn lock(&mut self, path: &Path) -> Option<File> {
        let file = File::from(self.take(|passed| passed.kind == Kind::Lock).pop()?);
        let (theirs, ours) = (file.metadata().ok()?, std::fs::metadata(path).ok()?);
        ((theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino())).then_some(file)
    }

    /// Conversations with processes that the predecessor had relieved.
    pub fn earlier(&mut self, offer: &[Earlier]) -> Vec<(Earlier, OwnedFd)> {
        offer.iter().cloned().zip(self.take(|passed| passed.kind == Kind::Earlier)).collect()
    }

    /// What nobody wanted: their settings are gone.
    #[must_use]
    pub fn rest(&self) -> Vec<&Passed> {
        self.0.iter().map(|(passed, _)| passed).collect()
    }

    fn find(&self, kind: Kind, setting: &str, wanted: SocketAddr) -> Option<SocketAddr> {
        self.0.iter().filter(|(passed, _)| passed.kind == kind).find_map(|(passed, _)| {
            let at: SocketAddr = passed.address.parse().ok()?;
            let same_setting = passed.setting == setting && wanted.port() == 0 && at.ip() == wanted.ip();
            (at == wanted || same_setting).then_some(at)
        })
    }

    fn take(&mut self, is_wanted: impl Fn(&Passed) -> bool) -> Vec<OwnedFd> {
        self.0.extract_if(.., |(passed, _)| is_wanted(passed)).map(|(_, descriptor)| descriptor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inherited(shelf: &Shelf) -> Inherited {
        let (sockets, descriptors) = shelf.copies().unwrap();
        Inherited::new(
            &Offer { pid: 1, version: String::new(), sockets, stand_ins: Vec::new(), earlier: Vec::new() },
            descriptors,
        )
    }

    #[test]
    fn sockets_find_their_place_by_address_or_by_setting_where_any_port_will_do() {
        let shelf = Shelf::default();
        let bind = || Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let (outbound, tunnel, gone) = (bind(), bind(), bind());
        let [first, second] = [&outbound, &tunnel].map(|socket| socket.local_addr().unwrap());
        shelf.put(Kind::Tcp, "outbound.listen", &first, &outbound);
        shelf.put(Kind::Tcp, "outbound.listen", &first, &outbound);
        shelf.put(Kind::Tcp, "inbound.tunnel", &second, &tunnel);
        shelf.put(Kind::Tcp, "admin.listen", &"127.0.0.1:1", &gone);
        drop(gone);
        let mut inherited = inherited(&shelf);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        assert!(inherited.tcp("admin.listen", any).is_none(), "what is closed is not passed");
        assert!(inherited.tcp("inbound.tunnel", "127.0.0.2:0".parse().unwrap()).is_none());
        let (at, listeners) = inherited.tcp("outbound.listen", any).unwrap();
        assert_eq!((at, listeners.len()), (first, 2));
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == first));
        assert_eq!(inherited.rest().len(), 1);
        assert_eq!(inherited.tcp("another setting", second).unwrap().0, second);
        assert!(inherited.rest().is_empty());
    }

    #[test]
    fn a_connection_that_waits_outlives_the_process_that_it_came_to() {
        let shelf = Shelf::default();
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let at = listener.local_addr().unwrap();
        shelf.put(Kind::Tcp, "outbound.listen", &at, &listener);
        let waits = std::net::TcpStream::connect(at).unwrap();
        let (_, taken) = inherited(&shelf).tcp("outbound.listen", at).unwrap();
        drop(listener);
        assert_eq!(taken[0].accept().unwrap().1, waits.local_addr().unwrap());
        assert!(shelf.copies().unwrap().0.is_empty());
    }
}
