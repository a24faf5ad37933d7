//! Descriptors over a Unix socket (SCM_RIGHTS, unix(7)): each message is one byte of no meaning and as many descriptors
//! as it may carry.

use super::message::MOST_SOCKETS;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Of one message; the kernel takes up to 253.
const BATCH: usize = 128;

/// Sends them in order.
///
/// # Errors
/// Those of `sendmsg`.
pub async fn send(stream: &UnixStream, descriptors: &[OwnedFd]) -> io::Result<()> {
    for batch in descriptors.chunks(BATCH) {
        let batch: Vec<_> = batch.iter().map(AsFd::as_fd).collect();
        stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !control.push(SendAncillaryMessage::ScmRights(&batch)) {
                    return Err(io::Error::other("no room for the descriptors"));
                }
                Ok(sendmsg(stream, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?)
            })
            .await?;
    }
    Ok(())
}

/// Receives `count` of them, over a socket that blocks.
///
/// # Errors
/// Those of `recvmsg`; when other things come, or the other side ends before.
pub fn receive(stream: &std::os::unix::net::UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let invalid = |why: &'static str| io::Error::new(io::ErrorKind::InvalidData, why);
    if count > MOST_SOCKETS {
        return Err(invalid("more sockets than anybody has"));
    }
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let before = all.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                all.extend(descriptors);
            }
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(invalid("not all descriptors could be received: too many are open"));
        }
        if all.len() == before {
            return Err(invalid("a message without descriptors"));
        }
    }
    if all.len() > count { Err(invalid("more descriptors than were promised")) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    fn pair() -> (UnixStream, std::os::unix::net::UnixStream) {
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        there.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        (UnixStream::from_std(here).unwrap(), there)
    }

    #[tokio::test]
    async fn more_descriptors_than_one_message_carries_arrive_in_order() {
        let (here, there) = pair();
        let (mut ends, mut sent) = (Vec::new(), Vec::new());
        for _ in 0..BATCH + 5 {
            let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
            ends.push(one);
            sent.push(OwnedFd::from(other));
        }
        let receiving = std::thread::spawn(move || receive(&there, BATCH + 5).unwrap());
        send(&here, &sent).await.unwrap();
        drop(sent);
        let received = receiving.join().unwrap();
        for (n, (mut end, descriptor)) in ends.into_iter().zip(received).enumerate() {
            end.write_all(&[u8::try_from(n).unwrap()]).unwrap();
            let mut byte = [0];
            std::os::unix::net::UnixStream::from(descriptor).read_exact(&mut byte).unwrap();
            assert_eq!(usize::from(byte[0]), n);
        }
    }

    #[tokio::test]
    async fn an_end_bytes_without_descriptors_and_too_many_are_errors() {
        let (here, there) = pair();
        let descriptor = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(receive(&there, MOST_SOCKETS + 1).is_err());
        send(&here, &[descriptor(), descriptor()]).await.unwrap();
        assert!(receive(&there, 1).unwrap_err().to_string().contains("more descriptors"));
        here.try_write(b"x").unwrap();
        assert!(receive(&there, 1).unwrap_err().to_string().contains("without descriptors"));
        drop(here);
        assert_eq!(receive(&there, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
