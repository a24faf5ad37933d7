//! The predecessor's half: offers what it has to whoever asks, and hands over to a process that is ready.

use super::message::{Given, Kind, Messages, Offer, Passed, Taken, encode};
use super::{PROTOCOL, Relieved, Shelf, Turn, descriptors};
use crate::drain::{Drain, Side};
use crate::intercept::StandIns;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long the other side may take to read.
const WRITE: Duration = Duration::from_secs(5);
/// How often is looked how much is open.
const LOOK: Duration = Duration::from_millis(100);

/// What can be handed over, and to whom it was.
pub struct Giver {
    /// The sockets.
    pub shelf: Shelf,
    /// The state directory, and its lock.
    pub lock: Option<(PathBuf, File)>,
    /// What the application's DNS gave.
    pub stand_ins: Arc<StandIns>,
    /// Ended by handing over.
    pub turn: Turn,
    /// Asked to end what is open.
    pub drain: Drain,
    /// Whether there is anything to hand over yet.
    pub ready: watch::Receiver<bool>,
    /// How long a successor may take to become ready.
    pub patience: Duration,
    /// How long what is open has to end.
    pub deadline: Duration,
    /// One at a time.
    pub one: tokio::sync::Mutex<()>,
    /// Those whose place this process has taken, and who serve what they have.
    pub relieved: Relieved,
    /// The process that took over, where the system says which.
    pub successor: watch::Sender<Option<u32>>,
}

impl std::fmt::Debug for Giver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Giver")
    }
}

/// Why somebody gets nothing: an HTTP status and a line.
type Refusal = (u16, String);

impl Giver {
    /// Whether there is something for who asks with this `Upgrade`.
    fn admit(&self, upgrade: &str) -> Result<(), Refusal> {
        if upgrade != PROTOCOL {
            let why =
                format!("this process ({}) hands over by {PROTOCOL}, not by {upgrade:?}", env!("CARGO_PKG_VERSION"));
            return Err((426, why));
        }
        if self.drain.begun() {
            return Err((409, "this process is leaving: there is nothing to take over".to_owned()));
        }
        if !self.turn.is_now() || !*self.ready.borrow() {
            return Err((409, "this process does not serve itself".to_owned()));
        }
        Ok(())
    }

    /// Everything from the answer to the request on. Returns when the conversation is over.
    ///
    /// # Errors
    /// The answer for whoever asked, if it is to get nothing.
    pub async fn give(&self, stream: UnixStream, upgrade: &str) -> Result<(), (Refusal, UnixStream)> {
        if let Err(refusal) = self.admit(upgrade) {
            return Err((refusal, stream));
        }
        let Ok(one) = self.one.try_lock() else {
            return Err(((409, "another process is taking over just now".to_owned()), stream));
        };
        let pid = stream.peer_cred().ok().and_then(|cred| cred.pid()).and_then(|pid| u32::try_from(pid).ok());
        tracing::info!(pid, "a process asks to take over");
        let mut messages = Messages::new(stream);
        let handed = self.hand_over(&mut messages, pid).await;
        drop(one);
        match handed {
            Ok(()) => self.linger(&mut messages).await,
            Err(reason) => {
                tracing::warn!(pid, "nobody took over: {reason}; this process goes on");
                let _ = say(&mut messages, &Given::Refused { reason }).await;
            }
        }
        Ok(())
    }

    async fn hand_over(&self, messages: &mut Messages<UnixStream>, pid: Option<u32>) -> Result<(), String> {
        let ready = async {
            self.offer(messages).await?;
            messages.next::<Taken>().await
        };
        match timeout(self.patience, ready).await {
            Ok(Ok(Some(Taken::Ready))) => {}
            Ok(Ok(Some(Taken::Leave { .. }) | None)) => {
                return Err("the new process ended before it was ready".to_owned());
            }
            Ok(Err(error)) => return Err(format!("the new process broke off: {error}")),
            Err(_) => return Err(format!("the new process was not ready within {:?}", self.patience)),
        }
        // Nothing waits between this and the answer: it is handed over, or it is not.
        if !self.drain.relieve(self.deadline) {
            return Err("this process has begun to leave".to_owned());
        }
        self.turn.end();
        self.successor.send_replace(pid);
        let (inbound, outbound) = (self.drain.open(Side::Inbound), self.drain.open(Side::Outbound));
        tracing::info!(pid, inbound, outbound, deadline = ?self.deadline, "handed over; what is open is served to its end");
        if let Err(error) = say(messages, &Given::Taken).await {
            tracing::error!(pid, "the process that took over does not listen: {error}");
        }
        Ok(())
    }

    async fn offer(&self, messages: &mut Messages<UnixStream>) -> io::Result<()> {
        let (mut sockets, mut copies) = self.shelf.copies()?;
        if let Some((dir, lock)) = &self.lock {
            let address = dir.display().to_string();
            sockets.push(Passed { kind: Kind::Lock, setting: "stateDir".to_owned(), address });
            copies.push(lock.try_clone()?.into());
        }
        let mut earlier = Vec::new();
        for (one, conversation) in self.relieved.copies()? {
            sockets.push(Passed { kind: Kind::Earlier, setting: String::new(), address: one.pid.to_string() });
            copies.push(conversation);
            earlier.push(one);
        }
        let offer = Offer {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sockets,
            stand_ins: self.stand_ins.all(),
            earlier,
        };
        let head = format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n\r\n");
        messages.io.write_all(head.as_bytes()).await?;
        messages.io.write_all(&encode(&offer)?).await?;
        descriptors::send(&messages.io, &copies).await
    }

    /// Tells the successor what is open, and hears of it when it leaves.
    async fn linger(&self, messages: &mut Messages<UnixStream>) {
        let mut told = None;
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                said = messages.next::<Taken>() => match said {
                    Ok(Some(Taken::Leave { within_ms })) => {
                        let within = Duration::from_millis(within_ms);
                        tracing::info!(?within, "the process that took over leaves, and so does this one");
                        // It was relieved: this only shortens its time.
                        let _ = self.drain.relieve(within);
                    }
                    Ok(Some(Taken::Ready)) => {}
                    Ok(None) | Err(_) => return,
                },
                _ = looks.tick() => {
                    let open = (self.drain.open(Side::Inbound), self.drain.open(Side::Outbound));
                    if told != Some(open) {
                        told = Some(open);
                        if say(messages, &Given::Open { inbound: open.0, outbound: open.1 }).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }
}

async fn say(messages: &mut Messages<UnixStream>, what: &Given) -> io::Result<()> {
    timeout(WRITE, messages.io.write_all(&encode(what)?)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
