//! The state of one HTTP/2 connection (RFC 9113 §5, §6.9), without its I/O: bytes come in through `receive`, what is to be written lies in
//! [`Outgoing`], and calls get at their streams by [`Key`].
//!
//! A stream holds what has arrived for it and nothing that is to be sent: whoever sends waits until there is room for what it has. Who
//! drives the connection is told by [`Engine::kick`] that there is something to write, unless it is at it anyway.

use super::abuse::Abuse;
use super::fault::{By, Fault};
use super::frame::{self, Code, MAX_31, setting};
use super::hpack::{Decoder, Encoder};
use super::outgoing::Outgoing;
use super::state::{Stream, register};
use crate::Error;
use crate::{Limits, RequestHead};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Waker};
use tokio::sync::Notify;

/// The window that both sides start with (RFC 9113 §6.9.2).
const INITIAL: u32 = 65_535;
/// Streams that are closed and whose calls are not done yet, beside those that are open.
const LINGERING: usize = 100;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

/// What we allow the peer.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub stream_window: u32,
    pub connection_window: u32,
    pub max_streams: u32,
    /// Size of a header section.
    pub max_head: usize,
}

impl Local {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            stream_window: limits.stream_window.min(MAX_31),
            connection_window: limits.connection_window.clamp(INITIAL, MAX_31),
            max_streams: limits.max_streams,
            max_head: limits.max_head_bytes,
        }
    }
}

/// What the peer allows us.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    /// Its first SETTINGS have arrived.
    pub known: bool,
    pub initial_window: u32,
    pub max_frame: usize,
    pub max_streams: u32,
    /// Extended CONNECT (RFC 8441).
    pub connect_protocol: bool,
}

/// Names a stream. Invariant: an id is never used again, so that a key outlives its stream harmlessly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub slot: u32,
    pub id: u32,
}

/// Something for the server's calls.
#[derive(Debug)]
pub(super) enum Event {
    Call(Key, Box<RequestHead>, Option<u64>),
    /// A request was answered here, with this error.
    Rejected(Error),
}

/// A header block whose end is still to come.
pub(super) struct Block {
    pub stream: u32,
    pub end: bool,
    pub bytes: Vec<u8>,
    pub frames: usize,
}

/// How far we are in leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// GOAWAY 2³¹−1 was sent, and a PING behind it.
    Announced,
    /// The last stream was named.
    Told(u32),
}

/// The state of a connection.
pub(super) struct Engine {
    pub role: Role,
    pub local: Local,
    pub remote: Remote,
    pub out: Outgoing,
    pub encoder: Encoder,
    pub decoder: Decoder,
    pub(super) streams: Vec<Option<Box<Stream>>>,
    free: Vec<u32>,
    by_id: HashMap<u32, u32, foldhash::fast::FixedState>,
    /// Streams that count towards the limit.
    pub open: u32,
    /// The peer's highest stream that was looked at (server).
    pub last_seen: u32,
    /// Streams that the peer passed over, first and last, the latest runs (server).
    pub(super) skipped: VecDeque<(u32, u32)>,
    /// Our next stream (client).
    pub next_id: u32,
    pub send_window: i64,
    pub recv_window: i64,
    /// Consumed on all streams and not returned to the peer yet.
    pub owed: u32,
    /// Before our SETTINGS are acknowledged the peer may go by the initial window.
    pub settled: bool,
    pub block: Option<Block>,
    pub abuse: Abuse,
    pub leaving: Leaving,
    /// The peer said GOAWAY.
    pub left: bool,
    /// The preface is still to come (server).
    pub preface: bool,
    pub ended: Option<Fault>,
    /// What the peer did wrong.
    pub why: &'static str,
    pub events: VecDeque<Event>,
    /// Streams that wait for room in `out` or in the connection's window.
    pub room: VecDeque<Key>,
    /// Counts what was written; see `send`.
    pub turn: u32,
    /// Told when another stream may be opened (client).
    pub slots: Arc<Notify>,
    driver: Option<Waker>,
    /// The driver waits, and must be woken to write.
    parked: bool,
}

impl Engine {
    /// A connection that has just begun: our SETTINGS are queued.
    pub(super) fn new(role: Role, local: Local) -> Self {
        let mut engine = Self {
            role,
            remote: Remote {
                known: false,
                initial_window: INITIAL,
                max_frame: frame::MAX_PAYLOAD,
                max_streams: u32::MAX,
                connect_protocol: false,
            },
            out: Outgoing::default(),
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            streams: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::default(),
            open: 0,
            last_seen: 0,
            skipped: VecDeque::new(),
            next_id: 1,
            send_window: i64::from(INITIAL),
            recv_window: i64::from(local.connection_window),
            owed: 0,
            settled: local.stream_window >= INITIAL,
            block: None,
            abuse: Abuse::default(),
            leaving: Leaving::No,
            left: false,
            preface: role == Role::Server,
            ended: None,
            why: "",
            events: VecDeque::new(),
            room: VecDeque::new(),
            turn: 0,
            slots: Arc::new(Notify::new()),
            driver: None,
            parked: false,
            local,
        };
        engine.greet();
        engine
    }

    fn greet(&mut self) {
        let head = u32::try_from(self.local.max_head).unwrap_or(u32::MAX);
        let shared = [(setting::INITIAL_WINDOW_SIZE, self.local.stream_window), (setting::MAX_HEADER_LIST_SIZE, head)];
        let window = self.local.connection_window - INITIAL;
        let out = self.out.bytes();
        match self.role {
            Role::Server => {
                let own =
                    [(setting::MAX_CONCURRENT_STREAMS, self.local.max_streams), (setting::ENABLE_CONNECT_PROTOCOL, 1)];
                frame::settings(out, &[own, shared].concat());
            }
            Role::Client => {
                out.extend_from_slice(frame::PREFACE);
                frame::settings(out, &[&[(setting::ENABLE_PUSH, 0)], &shared[..]].concat());
            }
        }
        if window > 0 {
            frame::window_update(out, 0, window);
        }
    }

    /// The window that new streams have for what the peer sends.
    fn first_window(&self) -> i64 {
        let window = if self.settled { self.local.stream_window } else { self.local.stream_window.max(INITIAL) };
        i64::from(window)
    }

    /// Adds a stream with `handles`, and counts it.
    pub(super) fn insert(&mut self, mut stream: Box<Stream>) -> Key {
        stream.counted = true;
        stream.send_window = i64::from(self.remote.initial_window);
        stream.recv_window = self.first_window();
        self.open += 1;
        let id = stream.id;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.streams[slot as usize] = Some(stream);
                slot
            }
            None => {
                self.streams.push(Some(stream));
                (self.streams.len() - 1) as u32
            }
        };
        self.by_id.insert(id, slot);
        Key { slot, id }
    }

    /// Are there more streams than the limit allows?
    pub(super) fn is_full(&self) -> bool {
        self.open >= self.local.max_streams || self.by_id.len() >= self.local.max_streams as usize + LINGERING
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn find(&self, id: u32) -> Option<Key> {
        self.by_id.get(&id).map(|slot| Key { slot: *slot, id })
    }

    pub(super) fn stream(&mut self, key: Key) -> Option<&mut Stream> {
        let stream = self.streams.get_mut(key.slot as usize)?.as_deref_mut()?;
        (stream.id == key.id).then_some(stream)
    }

    /// After a change of state: a stream that has ended makes room for another, and is forgotten once no call holds it.
    pub(super) fn settle(&mut self, key: Key) {
        let Some(stream) = self.stream(key) else { return };
        if !stream.is_closed() {
            return;
        }
        let (counted, held) = (std::mem::take(&mut stream.counted), stream.handles > 0);
        if counted {
            self.open -= 1;
            if self.role == Role::Client {
                self.slots.notify_one();
            }
        }
        if held {
            return;
        }
        let unread = self.streams.get_mut(key.slot as usize).and_then(Option::take).map_or(0, |s| s.buffered());
        self.by_id.remove(&key.id);
        self.credit(unread);
        if self.by_id.is_empty() {
            // What a burst needed is not kept.
            self.free.clear();
            self.streams.clear();
            if self.streams.capacity() > 64 {
                (self.streams, self.free, self.by_id) = (Vec::new(), Vec::new(), HashMap::default());
            }
        } else {
            self.free.push(key.slot);
        }
    }

    /// A call has dropped a handle; `reading`: the one by which it read.
    pub(super) fn release(&mut self, key: Key, reading: bool) {
        let server = self.role == Role::Server;
        let Some(stream) = self.stream(key) else { return };
        stream.handles = stream.handles.saturating_sub(1);
        if reading {
            stream.discard = true;
            let unread = stream.forget();
            self.credit(unread);
        }
        let Some(stream) = self.stream(key) else { return };
        if stream.handles == 0 && !stream.is_closed() {
            // RFC 9113 §8.1: the answer is complete, and the rest of the request is not wanted.
            let code = if server && stream.sent_end { Code::NO_ERROR } else { Code::CANCEL };
            self.reset(key, code);
        }
        self.settle(key);
    }

    /// Ends a stream with RST_STREAM, unless it has ended.
    pub(super) fn reset(&mut self, key: Key, code: Code) {
        let Some(stream) = self.stream(key).filter(|stream| !stream.is_closed()) else { return };
        stream.fault = Some(Fault::Reset(code, By::Us));
        stream.trailers = None;
        let unread = stream.forget();
        stream.wake();
        self.credit(unread);
        frame::reset(self.out.bytes(), key.id, code);
        self.settle(key);
        self.kick();
    }

    /// Returns credit of the connection to the peer, in portions of half a window.
    pub(super) fn credit(&mut self, count: usize) {
        // Below 2³¹, since no more was ever received.
        self.owed += count as u32;
        if self.owed > 0 && self.owed >= self.local.connection_window / 2 && self.ended.is_none() {
            frame::window_update(self.out.bytes(), 0, self.owed);
            self.recv_window += i64::from(std::mem::take(&mut self.owed));
            self.kick();
        }
    }

    /// A call has consumed so many bytes of a stream.
    pub(super) fn consumed(&mut self, key: Key, count: usize) {
        self.credit(count);
        let portion = self.local.stream_window / 2;
        let Some(stream) = self.stream(key).filter(|stream| !stream.got_end && stream.fault.is_none()) else { return };
        stream.owed += count as u32;
        if stream.owed > 0 && stream.owed >= portion {
            let owed = std::mem::take(&mut stream.owed);
            stream.recv_window += i64::from(owed);
            frame::window_update(self.out.bytes(), key.id, owed);
            self.kick();
        }
    }

    /// Whoever drives the connection is at it: nothing that is queued needs to wake it.
    pub(super) const fn begin(&mut self) {
        self.parked = false;
    }

    /// It waits from now on.
    pub(super) fn park(&mut self, cx: &Context<'_>) {
        register(&mut self.driver, cx);
        self.parked = true;
    }

    /// There is something to write.
    pub(super) fn kick(&mut self) {
        if std::mem::take(&mut self.parked)
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
    }

    /// The peer broke the protocol: GOAWAY, and the end.
    pub(super) fn fail(&mut self, code: Code, why: &'static str) {
        if self.ended.is_none() {
            frame::goaway(self.out.bytes(), self.last_seen, code);
            self.why = why;
            self.end(Fault::GoAway(code, By::Us));
        }
    }

    /// Nothing more is read or written on any stream.
    pub(super) fn end(&mut self, fault: Fault) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(fault);
        for at in 0..self.streams.len() {
            let Some(stream) = self.streams.get_mut(at).and_then(Option::as_deref_mut) else { continue };
            if !stream.is_closed() {
                stream.fault = Some(fault);
            }
            stream.wake();
            let key = Key { slot: at as u32, id: stream.id };
            self.settle(key);
        }
        self.slots.notify_waiters();
        self.kick();
    }

    /// Says goodbye: no new streams, while those that are open go on to their end.
    pub(super) fn leave(&mut self) {
        if self.leaving != Leaving::No || self.ended.is_some() {
            return;
        }
        let out = self.out.bytes();
        match self.role {
            Role::Server => {
                // RFC 9113 §6.8: the peer gets time to see it before the last stream is named.
                frame::goaway(out, MAX_31, Code::NO_ERROR);
                frame::ping(out, 0, LAST);
                self.leaving = Leaving::Announced;
            }
            Role::Client => {
                frame::goaway(out, 0, Code::NO_ERROR);
                self.leaving = Leaving::Told(0);
            }
        }
        self.kick();
    }

    /// Asks the peer for a sign of life.
    pub(super) fn ping(&mut self) {
        frame::ping(self.out.bytes(), 0, ALIVE);
        self.kick();
    }

    /// Is there nothing left to do, after either side has said goodbye?
    pub(super) fn is_done(&self) -> bool {
        self.is_empty() && self.events.is_empty() && (self.left || matches!(self.leaving, Leaving::Told(_)))
    }
}

/// Payload of the PING that precedes the final GOAWAY.
pub(super) const LAST: [u8; 8] = *b"weftlast";
/// Payload of PINGs that ask for a sign of life.
const ALIVE: [u8; 8] = *b"weftping";
