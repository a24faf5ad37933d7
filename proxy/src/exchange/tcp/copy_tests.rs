//! Copies between real sockets: what is spliced, what is copied, and how both end.

use super::super::splice::kept;
use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;

/// Both far ends of a copy, and the copy.
struct Between {
    client: TcpStream,
    upstream: TcpStream,
    copying: JoinHandle<Result<(), ProxyError>>,
    to_client: Arc<AtomicU64>,
    to_upstream: Arc<AtomicU64>,
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (far, listener.accept().await.unwrap().0)
}

/// Everything runs on the test's own thread, which therefore owns the pipes.
async fn between(idle: Option<Duration>) -> Between {
    let ((client, near), (upstream, far)) = (sockets().await, sockets().await);
    for socket in [&client, &near, &upstream, &far] {
        // The kernel would let them grow to 32 MiB.
        let socket = socket2::SockRef::from(socket);
        socket.set_recv_buffer_size(512 * 1024).unwrap();
        socket.set_send_buffer_size(512 * 1024).unwrap();
    }
    let (to_client, to_upstream) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (down, up) = (to_client.clone(), to_upstream.clone());
    let copying = tokio::spawn(async move {
        let (mut client, mut upstream) = (Io::from(near), Io::from(far));
        let moved = |d, u| {
            down.fetch_add(d, Relaxed);
            up.fetch_add(u, Relaxed);
        };
        let result = copy(&mut client, &mut upstream, idle, moved).await;
        if result.is_err() {
            client.abort();
            upstream.abort();
        }
        result
    });
    Between { client, upstream, copying, to_client, to_upstream }
}

/// Bytes that tell where they belong.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut all = Vec::with_capacity(length + 8);
    while all.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        all.extend_from_slice(&(state >> 11).to_le_bytes());
    }
    all.truncate(length);
    all
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waiting = async {
        while !is() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} within {PATIENCE:?}"));
}

async fn ended(copying: JoinHandle<Result<(), ProxyError>>) -> Result<(), ProxyError> {
    timeout(PATIENCE, copying).await.expect("the copy ends").expect("no panic")
}

#[tokio::test]
async fn much_goes_both_ways_at_once_through_pipes_and_arrives_as_it_was_sent() {
    let Between { client, upstream, copying, to_client, to_upstream } = between(None).await;
    let (up, down) = (noise(9 * MIB + 12_345, 1), noise(7 * MIB + 777, 2));
    let (mut client_in, mut client_out) = client.into_split();
    let (mut upstream_in, mut upstream_out) = upstream.into_split();
    let (mut arrived_up, mut arrived_down) = (Vec::new(), Vec::new());
    let all = async {
        tokio::join!(
            async {
                client_out.write_all(&up).await.unwrap();
                client_out.shutdown().await.unwrap();
            },
            async {
                upstream_out.write_all(&down).await.unwrap();
                upstream_out.shutdown().await.unwrap();
            },
            async { upstream_in.read_to_end(&mut arrived_up).await.unwrap() },
            async { client_in.read_to_end(&mut arrived_down).await.unwrap() },
        )
    };
    timeout(PATIENCE, all).await.expect("in time");
    ended(copying).await.expect("orderly");
    assert!(arrived_up == up && arrived_down == down, "byte for byte");
    assert_eq!((to_upstream.load(Relaxed), to_client.load(Relaxed)), (up.len() as u64, down.len() as u64));
    assert!(kept() >= 1, "they were spliced");
}

#[tokio::test]
async fn a_half_close_of_either_side_lets_the_other_go_on() {
    for client_first in [true, false] {
        let Between { client, upstream, copying, .. } = between(None).await;
        let (mut first, mut second) = if client_first { (client, upstream) } else { (upstream, client) };
        let question = noise(2 * MIB, 3);
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        let asking = async {
            first.write_all(&question).await.unwrap();
            first.shutdown().await.unwrap();
            first.read_to_end(&mut answered).await.unwrap();
        };
        let answering = async {
            second.read_to_end(&mut asked).await.unwrap();
            second.write_all(&asked).await.unwrap();
            second.shutdown().await.unwrap();
        };
        timeout(PATIENCE, async { tokio::join!(asking, answering) }).await.expect("in time");
        assert!(asked == question && answered == question);
        ended(copying).await.expect("orderly");
    }
}

#[tokio::test]
async fn a_side_that_breaks_in_the_middle_is_named_and_the_other_hears_of_it() {
    for client_breaks in [true, false] {
        let Between { client, upstream, copying, to_client, to_upstream } = between(None).await;
        let (mut breaking, mut other) = if client_breaks { (client, upstream) } else { (upstream, client) };
        let counted = if client_breaks { to_upstream } else { to_client };
        breaking.write_all(&noise(MIB, 4)).await.unwrap();
        let mut some = vec![0; MIB / 2];
        timeout(PATIENCE, other.read_exact(&mut some)).await.expect("in time").unwrap();
        assert!(counted.load(Relaxed) > 0);
        socket2::SockRef::from(&breaking).set_linger(Some(Duration::ZERO)).unwrap();
        drop(breaking);
        let error = ended(copying).await.expect_err("it broke");
        assert_eq!(error.kind, if client_breaks { Kind::ClientGone } else { Kind::UpstreamReset });
        let mut rest = Vec::new();
        timeout(PATIENCE, other.read_to_end(&mut rest)).await.expect("in time").expect_err("a reset, no orderly end");
    }
}

#[tokio::test]
async fn a_receiver_that_stalls_holds_its_sender_back_and_loses_nothing() {
    let Between { mut client, upstream, copying, to_client, .. } = between(None).await;
    let (mut upstream_in, mut upstream_out) = upstream.into_split();
    let sent = Arc::new(AtomicU64::new(0));
    let counting = sent.clone();
    let all = noise(64 * MIB, 5);
    let whole = all.clone();
    let sending = tokio::spawn(async move {
        for piece in whole.chunks(32 * 1024) {
            upstream_out.write_all(piece).await.unwrap();
            counting.fetch_add(piece.len() as u64, Relaxed);
        }
        upstream_out.shutdown().await.unwrap();
    });
    // Stalled: nothing moves any more, however often both tasks have their turn.
    let (mut last, mut turns) = ((0, 0), 0);
    until("the sender is held back", || {
        let now = (sent.load(Relaxed), to_client.load(Relaxed));
        turns = if now == last { turns + 1 } else { 0 };
        last = now;
        now.1 > 0 && turns > 20_000
    })
    .await;
    let (taken, passed) = (sent.load(Relaxed), to_client.load(Relaxed));
    assert!(taken < all.len() as u64, "{taken} bytes were taken from the sender");
    // Between both sockets there is no more than a pipe and what its 64 entries can point at.
    assert!(taken - passed < 8 * MIB as u64, "{} bytes wait in between", taken - passed);
    let mut arrived = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut arrived)).await.expect("in time").unwrap();
    assert!(arrived == all, "byte for byte");
    client.shutdown().await.unwrap();
    assert_eq!(timeout(PATIENCE, upstream_in.read(&mut [0; 1])).await.expect("in time").unwrap(), 0);
    sending.await.unwrap();
    ended(copying).await.expect("orderly");
}

#[tokio::test]
async fn a_short_exchange_takes_no_pipe_and_an_idle_connection_has_given_its_own_back() {
    let Between { mut client, mut upstream, copying, .. } = between(None).await;
    let mut text = [0; 5];
    for _ in 0..10 {
        client.write_all(b"hello").await.unwrap();
        timeout(PATIENCE, upstream.read_exact(&mut text)).await.expect("in time").unwrap();
    }
    assert_eq!(kept(), 0, "no pipe was made");
    let much = noise(4 * MIB, 6);
    let mut arrived = vec![0; much.len()];
    let moving = async { tokio::join!(client.write_all(&much), upstream.read_exact(&mut arrived)) };
    let (written, read) = timeout(PATIENCE, moving).await.expect("in time");
    written.unwrap();
    read.unwrap();
    assert!(arrived == much);
    until("the pipe comes back", || kept() == 1).await;
    // The connection is open all the while, and still works.
    client.write_all(b"again").await.unwrap();
    timeout(PATIENCE, upstream.read_exact(&mut text)).await.expect("in time").unwrap();
    assert_eq!(&text, b"again");
    drop((client, upstream));
    ended(copying).await.expect("orderly");
}

#[tokio::test]
async fn bytes_that_were_put_back_come_before_those_that_are_spliced() {
    let ((mut client, near), (mut upstream, far)) = (sockets().await, sockets().await);
    let copying = tokio::spawn(async move {
        let mut near = Io::from(near).with_prefix(Bytes::from(noise(100_000, 7)));
        copy(&mut near, &mut Io::from(far), None, |_, _| {}).await
    });
    let rest = noise(3 * MIB, 8);
    let mut arrived = Vec::new();
    let moving = async {
        tokio::join!(
            async {
                client.write_all(&rest).await.unwrap();
                client.shutdown().await.unwrap();
            },
            async { upstream.read_to_end(&mut arrived).await.unwrap() },
        )
    };
    timeout(PATIENCE, moving).await.expect("in time");
    assert!(arrived[..100_000] == noise(100_000, 7) && arrived[100_000..] == rest);
    drop((client, upstream));
    ended(copying).await.expect("orderly");
}

#[tokio::test]
async fn a_silent_connection_ends_and_one_that_splices_does_not() {
    let Between { mut client, mut upstream, copying, .. } = between(Some(Duration::from_millis(300))).await;
    let piece = noise(MIB, 9);
    let mut arrived = vec![0; piece.len()];
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(900) {
        let (written, read) = tokio::join!(client.write_all(&piece), upstream.read_exact(&mut arrived));
        written.unwrap();
        read.unwrap();
    }
    assert!(!copying.is_finished());
    assert_eq!(ended(copying).await.expect_err("silence").kind, Kind::IdleTimeout);
}

#[tokio::test]
async fn what_is_in_a_pipe_can_be_taken_out_again() {
    let (mut far, near) = sockets().await;
    let text = noise(150_000, 10);
    far.write_all(&text).await.unwrap();
    let mut pipe = Pipe::take().expect("a pipe");
    let mut out = Vec::new();
    while out.len() < text.len() {
        let fill = timeout(PATIENCE, std::future::poll_fn(|cx| pipe.poll_fill(cx, &near))).await.expect("in time");
        assert!(matches!(fill.unwrap(), Fill::Bytes(count) if count == pipe.held()));
        out.extend_from_slice(&pipe.empty().unwrap());
        assert_eq!(pipe.held(), 0);
    }
    assert!(out == text);
    drop(pipe);
    assert_eq!(kept(), 1);
}
