//! The attacks, each on one connection to a sidecar of its own: RFC 9113 section 10.5, CVE-2019-9511 to 9518, CVE-2023-44487, CVE-2024-27316
//! and their like. What is sent is in `attacks`.

use super::attacks::{ATTACKS, Attack, Must};
use super::{Door, Stage};
use crate::frames::{self, ACK, Framed, GOAWAY, Next, PING};
use crate::wire::Link;
use std::time::{Duration, Instant};

/// How long an attack goes on that nobody ends, and how long its connection may then take to settle.
const ENOUGH: Duration = Duration::from_secs(4);
/// How long an attacker that was taken in stays: what it asked for piles up meanwhile.
const DWELL: Duration = Duration::from_millis(1500);
/// What an attacker sends at most.
const MOST: usize = 64 << 20;

/// What became of the attacker's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Closed, or told GOAWAY with an error: the code, or nothing where the connection just ended.
    Ended(Option<u32>),
    /// No longer read from, or no longer answered.
    HeldBack,
    /// Everything was taken.
    Taken,
}

/// Whom the attacker's requests address, and how.
pub struct Target {
    door: Door,
    authority: String,
}

impl Target {
    /// Fields of an acceptable request.
    pub fn fields(&self, path: &str) -> Vec<(String, String)> {
        match self.door {
            Door::Hbone => vec![(":method".into(), "CONNECT".into()), (":authority".into(), self.authority.clone())],
            Door::Explicit | Door::Native => frames::call("GET", &self.authority, path),
        }
    }

    /// One acceptable request.
    pub fn request(&self, stream: u32, flags: u8, path: &str) -> Vec<u8> {
        let block = frames::block(&self.fields(path));
        frames::frame(frames::HEADERS, frames::END_HEADERS | flags, stream, &block)
    }
}

/// Sends it all, or until the sidecar does not take it any more, and reads what it answers last.
fn fate(link: Link, attack: &Attack, to: &Target) -> Fate {
    let until = Instant::now() + ENOUGH;
    link.patience(Duration::from_millis(500));
    let mut connection = Framed::client(link, attack.settings);
    // A peer that answered everything would wait for itself.
    connection.mute = true;
    let mut sent = 0;
    let mut taken = connection.send(&(attack.first)(to));
    let mut n = 0;
    while taken && n < attack.pieces && sent < MOST && Instant::now() < until {
        let piece = (attack.piece)(to, n);
        sent += piece.len();
        taken = connection.send(&piece);
        n += 1;
    }
    // Everything that was said, to the last word: an error, the end, or an answer to this.
    let asked = taken && connection.send(&frames::frame(PING, 0, 0, b"are-you?"));
    let mut until = Instant::now() + ENOUGH;
    let mut fate = Fate::HeldBack;
    while Instant::now() < until {
        match connection.next() {
            Next::Frame(frame) if frame.kind == GOAWAY && frame.code() != 0 => return Fate::Ended(Some(frame.code())),
            Next::Frame(frame) if frame.kind == PING && frame.flags & ACK != 0 && frame.payload == b"are-you?" => {
                (fate, until) = (Fate::Taken, Instant::now() + DWELL);
            }
            Next::Ended => return Fate::Ended(None),
            Next::Silence if !asked => return Fate::HeldBack,
            Next::Frame(_) | Next::Silence => {}
        }
    }
    fate
}

fn endure_all(door: Door) {
    let mut problems = Vec::new();
    for attack in ATTACKS {
        let stage = Stage::new();
        let authority = match door {
            Door::Explicit => "orders".to_owned(),
            Door::Hbone | Door::Native => stage.application.to_string(),
        };
        let to = Target { door, authority };
        let (fate, bounds) = stage.endure(attack.name, || fate(stage.enter(door), attack, &to));
        println!("    {fate:?}");
        problems.extend(bounds.err());
        if attack.must == Must::End && !matches!(fate, Fate::Ended(_)) {
            problems.push(format!("{}: {fate:?}", attack.name));
        }
    }
    println!("{} attacks", ATTACKS.len());
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn the_explicit_listener_endures_every_flood() {
    endure_all(Door::Explicit);
}

#[test]
fn the_tunnel_listener_endures_every_flood() {
    endure_all(Door::Hbone);
}

#[test]
fn a_native_connection_endures_every_flood() {
    endure_all(Door::Native);
}
