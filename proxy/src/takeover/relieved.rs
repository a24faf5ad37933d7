//! Processes that were relieved and still serve what they have. Whoever serves now follows all of them: what is open
//! there counts as its own, and they leave when it leaves. A successor goes on with their conversations, so that nobody
//! stays for the sake of another.

use super::Turn;
use super::message::{Earlier, Given, Messages, Taken, encode};
use crate::drain::{Drain, Session, Side};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as Blocking;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

/// Those that are followed.
#[derive(Clone, Debug, Default)]
pub struct Relieved(Arc<Mutex<Vec<Followed>>>);

#[derive(Debug)]
struct Followed {
    earlier: Earlier,
    conversation: OwnedFd,
}

impl Relieved {
    /// For operators: `[{pid, version, connections: {inbound, outbound}}]`.
    #[must_use]
    pub fn shown(&self) -> Value {
        let all = self.0.lock();
        let shown = all.iter().map(|Followed { earlier, .. }| {
            let connections =
                earlier.open.map(|(inbound, outbound)| json!({ "inbound": inbound, "outbound": outbound }));
            json!({ "pid": earlier.pid, "version": earlier.version, "connections": connections })
        });
        shown.collect()
    }

    /// All of them, and copies of the conversations.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn copies(&self) -> io::Result<Vec<(Earlier, OwnedFd)>> {
        self.0.lock().iter().map(|one| Ok((one.earlier.clone(), one.conversation.try_clone()?))).collect()
    }

    fn note(&self, pid: u32, open: (usize, usize)) {
        let mut all = self.0.lock();
        if let Some(one) = all.iter_mut().find(|one| one.earlier.pid == pid) {
            one.earlier.open = Some(open);
        }
    }
}

/// The conversation with a process that was relieved, or is about to be.
#[derive(Debug)]
pub struct Conversation {
    pub(super) earlier: Earlier,
    pub(super) messages: Messages<UnixStream>,
}

impl Conversation {
    /// Goes on within a runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn new(earlier: Earlier, stream: impl Into<OwnedFd>) -> io::Result<Self> {
        let stream = Blocking::from(stream.into());
        stream.set_nonblocking(true)?;
        Ok(Self { earlier, messages: Messages::new(UnixStream::from_std(stream)?) })
    }

    /// Follows the process to its end, or to that of this one's turn. When this process leaves, the other is told to,
    /// `within` that time.
    pub async fn follow(mut self, drain: Drain, within: Duration, relieved: Relieved, turn: Turn) {
        let pid = self.earlier.pid;
        let conversation = match self.messages.io.as_fd().try_clone_to_owned() {
            Ok(copy) => copy,
            Err(error) => return tracing::warn!(pid, %error, "a relieved process is not followed"),
        };
        relieved.0.lock().push(Followed { earlier: self.earlier.clone(), conversation });
        let ended = self.listen(&drain, within, &relieved, &turn).await;
        relieved.0.lock().retain(|one| one.earlier.pid != pid);
        if ended {
            tracing::info!(pid, "a relieved process has ended");
        }
    }

    /// Whether it ended, and not the turn.
    async fn listen(&mut self, drain: &Drain, within: Duration, relieved: &Relieved, turn: &Turn) -> bool {
        // Until it says otherwise something is open.
        let mut held: [Option<Session>; 2] = [Some(drain.session(Side::Inbound)), Some(drain.session(Side::Outbound))];
        let mut hold = |(inbound, outbound): (usize, usize)| {
            for (held, (side, open)) in held.iter_mut().zip([(Side::Inbound, inbound), (Side::Outbound, outbound)]) {
                match open {
                    0 => *held = None,
                    _ if held.is_none() => *held = Some(drain.session(side)),
                    _ => {}
                }
            }
        };
        self.earlier.open.into_iter().for_each(&mut hold);
        let leaving = drain.leave(Side::Inbound).idle;
        let mut told = false;
        loop {
            tokio::select! {
                // First: what is read later is the successor's.
                biased;
                () = turn.over() => return false,
                said = self.messages.next::<Given>() => match said {
                    Ok(Some(Given::Open { inbound, outbound })) => {
                        relieved.note(self.earlier.pid, (inbound, outbound));
                        hold((inbound, outbound));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return true,
                },
                () = leaving.cancelled(), if !told => {
                    told = true;
                    let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                    let said = match encode(&Taken::Leave { within_ms }) {
                        Ok(message) => self.messages.io.write_all(&message).await,
                        Err(error) => Err(error),
                    };
                    if said.is_err() {
                        return true;
                    }
                }
            }
        }
    }
}
