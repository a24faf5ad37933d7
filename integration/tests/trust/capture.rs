//! What tcpdump saw on the loopback of a mesh's namespace, put together again: one byte sequence for each direction of each connection.
//! The file is libpcap's classic format; only Ethernet, IPv4 and TCP are looked at, which is all there is on that loopback.

use crate::stage::text;
use rustix::process::Signal;
use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use weft_integration::rig::{Mesh, Process, program};

/// A capture that runs.
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// One direction of one connection.
pub struct Flow {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub bytes: Vec<u8>,
}

impl Flow {
    /// Whether it goes to or comes from this port.
    pub fn touches(&self, port: u16) -> bool {
        self.from.port() == port || self.to.port() == port
    }

    /// Whether these bytes are in it.
    pub fn contains(&self, needle: &[u8]) -> bool {
        self.bytes.windows(needle.len()).any(|window| window == needle)
    }

    /// How many TLS records it is made of (RFC 8446 §5.1).
    ///
    /// # Errors
    /// Where it is anything else; a last record that has not ended is none.
    pub fn tls_records(&self) -> Result<usize, String> {
        let (mut at, mut count) = (0, 0);
        while let Some(head) = self.bytes.get(at..at + 5) {
            let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
            if !(20..=23).contains(&head[0]) || head[1] != 3 || length > (1 << 14) + 256 {
                return Err(format!("{} → {}: byte {at} begins no TLS record: {head:02x?}", self.from, self.to));
            }
            (at, count) = (at + 5 + length, count + 1);
        }
        Ok(count)
    }
}

impl Capture {
    /// Starts to listen; returns once it does.
    #[track_caller]
    pub fn start(mesh: &Mesh) -> Self {
        let file = mesh.folder().join("loopback.pcap");
        let namespace = mesh.namespace().expect("a mesh in a namespace of its own");
        let arguments = ["-i", "lo", "-U", "--immediate-mode", "-B", "65536", "-Z", "root", "-w", text(&file), "tcp"];
        let mut command = namespace.command(program("tcpdump"), &arguments);
        let mut process = Process::start(mesh.folder(), "tcpdump", &mut command);
        process.wait_for_log("listening on lo");
        Self { process, file }
    }

    /// Stops, and puts together what was seen.
    #[track_caller]
    pub fn stop(mut self) -> Vec<Flow> {
        self.process.signal(Signal::INT);
        self.process.wait();
        let log = self.process.log();
        assert!(log.contains("0 packets dropped by kernel"), "{log}");
        flows(&std::fs::read(&self.file).unwrap())
    }
}

#[derive(Default)]
struct Segments {
    /// Sequence number of the first byte.
    base: u32,
    by_offset: BTreeMap<u32, Vec<u8>>,
}

impl Segments {
    fn joined(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (offset, segment) in self.by_offset {
            let known = bytes.len().checked_sub(offset as usize);
            let known = known.unwrap_or_else(|| panic!("the capture lacks bytes {}..{offset}", bytes.len()));
            bytes.extend(segment.get(known..).unwrap_or_default());
        }
        bytes
    }
}

fn flows(file: &[u8]) -> Vec<Flow> {
    assert_eq!(file.get(..4), Some(&[0xd4, 0xc3, 0xb2, 0xa1][..]), "a little-endian pcap file");
    let word = |at: usize| file.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
    assert_eq!(word(20), Some(1), "the loopback is captured as Ethernet");
    let (mut at, mut ended) = (24, Vec::new());
    let mut open: HashMap<(SocketAddrV4, SocketAddrV4), Segments> = HashMap::new();
    while let Some(length) = word(at + 8) {
        let packet = &file[at + 16..at + 16 + length as usize];
        at += 16 + length as usize;
        let Some((from, to, sequence, syn, payload)) = tcp(packet) else { continue };
        if syn
            && let Some(previous) =
                open.insert((from, to), Segments { base: sequence.wrapping_add(1), ..Segments::default() })
        {
            ended.push((from, to, previous));
        }
        if !payload.is_empty() {
            let segments = open.entry((from, to)).or_insert_with(|| Segments { base: sequence, ..Segments::default() });
            let segment = segments.by_offset.entry(sequence.wrapping_sub(segments.base)).or_default();
            if segment.len() < payload.len() {
                *segment = payload.to_vec();
            }
        }
    }
    ended.extend(open.into_iter().map(|((from, to), segments)| (from, to, segments)));
    ended.into_iter().map(|(from, to, segments)| Flow { from, to, bytes: segments.joined() }).collect()
}

/// Source, destination, sequence number, SYN and payload of an Ethernet frame that carries TCP over IPv4.
fn tcp(frame: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4, u32, bool, &[u8])> {
    let ip = frame.get(14..).filter(|_| frame.get(12..14) == Some(&[8, 0]))?;
    let header = usize::from(ip.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    // A segment of 64 KiB and more (BIG TCP) says zero.
    let ip = if total == 0 { ip } else { ip.get(..total)? };
    let segment = ip.get(header..).filter(|_| ip.get(9) == Some(&6))?;
    let short = |at: usize| Some(u16::from_be_bytes([*segment.get(at)?, *segment.get(at + 1)?]));
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
    let from = SocketAddrV4::new(address(12)?, short(0)?);
    let to = SocketAddrV4::new(address(16)?, short(2)?);
    let sequence = u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?);
    let payload = segment.get(usize::from(segment.get(12)? >> 4) * 4..)?;
    Some((from, to, sequence, segment.get(13)? & 2 != 0, payload))
}
