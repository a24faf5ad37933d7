//! TCP sockets: connecting, sending what is asked for, and throwing away what comes, cheaply.

use crate::failure::Failure;
use rustix::net::{RecvFlags, recv};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use tokio::io::{AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Filler of bodies and bulk.
pub static FILL: [u8; 256 * 1024] = [b'x'; 256 * 1024];
/// How much is thrown away with one system call.
const GULP: usize = 1 << 20;
const BACKLOG: u32 = 4096;

/// Where connections go, and from which of this machine's addresses.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    sources: u8,
    next: Rc<Cell<u8>>,
}

impl Target {
    /// `sources` addresses from 127.0.0.2 up take turns; with 0 the kernel chooses.
    pub fn new(address: SocketAddr, sources: u8) -> Self {
        Self { address, sources, next: Rc::default() }
    }

    /// Connects, without Nagle's delay.
    ///
    /// # Errors
    ///
    /// [`Failure::Connect`] for whatever reason.
    pub async fn connect(&self) -> Result<TcpStream, Failure> {
        self.try_connect().await.map_err(|_| Failure::Connect)
    }

    async fn try_connect(&self) -> io::Result<TcpStream> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if self.sources > 0 && self.address.is_ipv4() {
            let turn = self.next.get();
            self.next.set((turn + 1) % self.sources);
            socket.bind((IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + turn)), 0).into())?;
        }
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Listens; port 0 is allowed.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

thread_local! {
    /// Never written: the kernel throws the bytes away when it is asked to truncate them.
    static NOTHING: RefCell<Vec<u8>> = RefCell::new(vec![0; GULP]);
}

/// Takes up to `most` bytes from the socket without copying them; 0 at the end.
fn take(stream: &TcpStream, most: u64) -> io::Result<u64> {
    NOTHING.with_borrow_mut(|nothing| {
        let most = usize::try_from(most).unwrap_or(GULP).min(GULP);
        let (_, count) = recv(stream, &mut nothing[..most], RecvFlags::TRUNC)?;
        Ok(count as u64)
    })
}

/// Throws `left` bytes away.
///
/// # Errors
///
/// Those of the socket; [`io::ErrorKind::UnexpectedEof`] when it ends earlier.
pub async fn discard(stream: &TcpStream, mut left: u64) -> io::Result<()> {
    while left > 0 {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || take(stream, left)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => left = left.saturating_sub(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends `left` bytes of filler.
pub async fn send_fill<W: AsyncWrite + Unpin>(stream: &mut W, mut left: u64) -> io::Result<()> {
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(FILL.len()).min(FILL.len());
        left -= stream.write(&FILL[..most]).await? as u64;
    }
    Ok(())
}

/// As [`send_fill`] while the same socket is read.
pub async fn send_shared(stream: &TcpStream, mut left: u64) -> Result<(), Failure> {
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(FILL.len());
        stream.writable().await?;
        match stream.try_write(&FILL[..most]) {
            Ok(count) => left -= count as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Allows as many descriptors as the system lets this process have.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // When it may not, fewer connections fit and say so themselves.
    let _best_effort = setrlimit(Resource::Nofile, limit);
}
