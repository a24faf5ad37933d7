//! Connections kept for the next call: idle HTTP/1.1 connections (plain or virtual) on a [`Rack`], and the few HTTP/2 connections to
//! one destination in a [`Group`].
//!
//! Pools belong to one worker; their locks are never contended. How a connection is made is told by the caller; which endpoint it leads
//! to is the caller's choice.

use super::bound::{ConnectionLimit, ConnectionPermit};
use crate::codec::h1::{Client, Idle, Shelf};
use crate::codec::h2::{Call, Connection, Tasks};
use crate::error::ProxyError;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A connection that idled longer than this is looked at closely before its reuse; under load that system call is saved.
const RESTED: Duration = Duration::from_millis(20);

/// Idle HTTP/1.1 connections to one destination, newest on top.
pub(super) struct Rack {
    idle: Mutex<Vec<(Idle, Instant)>>,
    most: usize,
    timeout: Duration,
}

impl Rack {
    pub(super) fn new(most: usize, timeout: Duration) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::new(Vec::new()), most, timeout })
    }

    /// The connection that was used last, since it is the least likely to have been closed meanwhile. Stale ones are dropped.
    pub(super) fn take(self: &Arc<Self>) -> Option<Client> {
        loop {
            let (idle, since) = self.idle.lock().pop()?;
            let rested = since.elapsed();
            if rested < self.timeout && idle.is_fresh(rested > RESTED) {
                return Some(idle.checkout(self.clone()));
            }
        }
    }

    /// Drops what is stale or has idled too long; whether nothing is left.
    pub(super) fn sweep(&self) -> bool {
        let mut idle = self.idle.lock();
        idle.retain(|(idle, since)| since.elapsed() < self.timeout && idle.is_fresh(true));
        idle.is_empty()
    }

    /// Drops everything that idles.
    pub(super) fn clear(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        drop(idle);
    }

    /// Connections that idle here.
    pub(super) fn len(&self) -> usize {
        self.idle.lock().len()
    }
}

impl Shelf for Rack {
    fn put(&self, idle: Idle) {
        let mut all = self.idle.lock();
        if all.len() < self.most {
            all.push((idle, Instant::now()));
        }
    }
}

/// When a group opens another connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Calls on each connection before another is opened.
    pub spread: usize,
    /// Connections at most.
    pub most: usize,
}

/// A connection that was made for a group.
pub(super) struct Dialled {
    pub connection: Connection,
    /// Its place within the bound of the backend that it was made for, as long as it takes calls. What carries CONNECT streams has none:
    /// each of those has.
    pub place: Option<ConnectionPermit>,
}

struct Member {
    dialled: Dialled,
    /// Of the identity that it was made with.
    generation: u64,
}

/// HTTP/2 connections to one destination.
pub(super) struct Group {
    members: Mutex<Vec<Member>>,
    shape: Shape,
    /// Held by whoever dials while there is no connection: the others wait for its outcome instead of dialling too.
    gate: tokio::sync::Mutex<()>,
    failure: Mutex<Option<(Instant, ProxyError)>>,
    growing: AtomicBool,
}

/// Makes a connection of a group.
pub(super) type Dial = BoxFuture<'static, Result<Dialled, ProxyError>>;

impl Group {
    pub(super) fn new(shape: Shape) -> Arc<Self> {
        Arc::new(Self {
            members: Mutex::new(Vec::new()),
            shape,
            gate: tokio::sync::Mutex::new(()),
            failure: Mutex::new(None),
            growing: AtomicBool::new(false),
        })
    }

    /// A call on the least loaded connection; dials when there is none, and beside the call when all are busy. `generation` is that of
    /// the identity: connections of an older one take no more calls. Whoever calls bounds the time.
    pub(super) async fn call(
        self: &Arc<Self>,
        generation: u64,
        tasks: &Tasks,
        dial: impl Fn() -> Dial,
    ) -> Result<Call, ProxyError> {
        if let Some(call) = self.pick(generation, tasks, &dial) {
            return Ok(call);
        }
        let asked = Instant::now();
        let _gate = self.gate.lock().await;
        if let Some(call) = self.pick(generation, tasks, &dial) {
            return Ok(call);
        }
        // Whoever held the gate while this caller waited has found out already.
        if let Some((at, error)) = &*self.failure.lock()
            && *at >= asked
        {
            return Err(error.clone());
        }
        match dial().await {
            Ok(dialled) => {
                let call = dialled.connection.call();
                self.members.lock().push(Member { dialled, generation });
                Ok(call)
            }
            Err(error) => {
                *self.failure.lock() = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// A call on an open connection, if there is one that takes it.
    pub(super) fn pick(self: &Arc<Self>, generation: u64, tasks: &Tasks, dial: &impl Fn() -> Dial) -> Option<Call> {
        let mut members = self.members.lock();
        members.retain(|member| {
            if member.generation != generation {
                member.connection().close();
            }
            !member.connection().is_closing()
        });
        let open = members.iter().map(Member::connection);
        let best = open.min_by_key(|connection| (!connection.is_usable(), connection.active()))?;
        let room = members.len() < self.shape.most;
        if !best.is_usable() && room {
            return None;
        }
        if best.active() >= self.shape.spread && room && !self.growing.swap(true, Ordering::AcqRel) {
            let (group, dial) = (self.clone(), dial());
            let stop = tasks.stop.clone();
            tasks.tracker.spawn(async move {
                if let Some(Ok(dialled)) = stop.run_until_cancelled(dial).await {
                    group.members.lock().push(Member { dialled, generation });
                }
                group.growing.store(false, Ordering::Release);
            });
        }
        Some(best.call())
    }

    /// Drops connections that carried no call for `timeout`; whether none is left.
    pub(super) fn sweep(&self, timeout: Duration) -> bool {
        let mut members = self.members.lock();
        members.retain(|member| {
            let connection = member.connection();
            !connection.is_closing() && connection.idle_since().is_none_or(|since| since.elapsed() < timeout)
        });
        members.is_empty() && self.gate.try_lock().is_ok()
    }

    /// Drops one connection that carries no call and has a place within this bound; whether there was one.
    pub(super) fn make_room(&self, within: &Arc<ConnectionLimit>) -> bool {
        let mut members = self.members.lock();
        let in_the_way = |member: &Member| {
            member.connection().active() == 0 && member.dialled.place.as_ref().is_some_and(|place| place.is_of(within))
        };
        members.iter().position(in_the_way).map(|position| members.swap_remove(position)).is_some()
    }

    /// Connections open.
    pub(super) fn len(&self) -> usize {
        self.members.lock().len()
    }
}

impl Member {
    fn connection(&self) -> &Connection {
        &self.dialled.connection
    }
}
