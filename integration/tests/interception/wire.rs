//! What tcpdump saw on a bridge: the TCP segments that carried something, with their time, ports and first bytes. The file is libpcap's
//! classic format; Ethernet, IPv4 and IPv6 without extension headers.

use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weft_integration::rig::{Namespace, Process, program};

/// Bytes kept of each frame: all of a small message, and of bulk what tells it.
const KEPT: &str = "1600";

/// A capture that runs.
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// A segment with a payload.
pub struct Segment {
    pub at: SystemTime,
    /// Source and destination.
    pub ports: [u16; 2],
    /// Bytes of payload.
    pub length: usize,
    /// The first of them.
    pub bytes: Vec<u8>,
}

impl Segment {
    /// Whether this is in what was kept of it.
    pub fn contains(&self, needle: &[u8]) -> bool {
        self.bytes.windows(needle.len()).any(|window| window == needle)
    }
}

impl Capture {
    /// Starts to listen to everything that crosses an interface; returns once it does.
    #[track_caller]
    pub fn start(namespace: &Namespace, interface: &str, folder: &Path) -> Self {
        let file = folder.join("wire.pcap");
        let words =
            ["-i", interface, "-s", KEPT, "-U", "-B", "65536", "-Z", "root", "-w", file.to_str().unwrap(), "tcp"];
        let mut process = Process::start(folder, "tcpdump", &mut namespace.command(program("tcpdump"), &words));
        process.wait_for_log(&format!("listening on {interface}"));
        Self { process, file }
    }

    /// Stops, and gives what was seen in the order of time.
    #[track_caller]
    pub fn stop(mut self) -> Vec<Segment> {
        self.process.signal(Signal::INT);
        self.process.wait();
        let log = self.process.log();
        assert!(log.contains("0 packets dropped by kernel"), "{log}");
        segments(&std::fs::read(&self.file).unwrap())
    }
}

fn segments(file: &[u8]) -> Vec<Segment> {
    assert_eq!(file.get(..4), Some(&[0xd4, 0xc3, 0xb2, 0xa1][..]), "a little-endian pcap file");
    let word = |at: usize| file.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
    assert_eq!(word(20), Some(1), "a bridge is captured as Ethernet");
    let (mut at, mut all) = (24, Vec::new());
    while let (Some(seconds), Some(micros), Some(kept), Some(whole)) =
        (word(at), word(at + 4), word(at + 8), word(at + 12))
    {
        let frame = &file[at + 16..at + 16 + kept as usize];
        at += 16 + kept as usize;
        let when = UNIX_EPOCH + Duration::from_secs(seconds.into()) + Duration::from_micros(micros.into());
        if let Some((ports, offset)) = tcp(frame)
            && let Some(length) = length(frame, offset, whole as usize)
            && length > 0
        {
            let bytes = frame.get(offset..).unwrap_or_default();
            all.push(Segment { at: when, ports, length, bytes: bytes[..bytes.len().min(length)].to_vec() });
        }
    }
    all.sort_by_key(|segment| segment.at);
    all
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// Where the payload of a segment begins in its frame, and its ports.
fn tcp(frame: &[u8]) -> Option<([u16; 2], usize)> {
    let header = match short(frame, 12)? {
        0x0800 if *frame.get(23)? == 6 => 14 + usize::from(*frame.get(14)? & 0x0f) * 4,
        0x86dd if *frame.get(20)? == 6 => 14 + 40,
        _ => return None,
    };
    let ports = [short(frame, header)?, short(frame, header + 2)?];
    Some((ports, header + usize::from(*frame.get(header + 12)? >> 4) * 4))
}

/// Bytes of payload: what the header of IP says, as a short frame is padded; of a segment of 64 KiB and more it says zero (BIG TCP).
fn length(frame: &[u8], offset: usize, whole: usize) -> Option<usize> {
    let end = match (short(frame, 12)?, short(frame, 16)?, short(frame, 18)?) {
        (0x0800, 0, _) | (0x86dd, _, 0) => whole,
        (0x0800, total, _) => 14 + usize::from(total),
        (_, _, payload) => 14 + 40 + usize::from(payload),
    };
    end.checked_sub(offset)
}
