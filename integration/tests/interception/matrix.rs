//! Every way in × every protocol × who calls whom: what arrives, whom the application and its sidecar see, and what is on the wire. One row
//! each, written to `target/interception-matrix.md`.

use crate::clients::{Protocol, Seen, Talk};
use crate::lab::{BRIDGE, Lab, Machine};
use crate::mesh::{CART_VIPS, LEGACY_VIPS, Mesh, Mode, STRICT, Sidecar, caller_resources, cart_resources, id};
use crate::servers::Servers;
use crate::wire::{Capture, Segment};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};
use weft_integration::rig::wait_for;

/// Who calls whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pair {
    MeshedToMeshed,
    MeshedToPlain,
    PlainToPermissive,
    PlainToStrict,
    Itself,
    External,
}

impl Pair {
    const ALL: [Self; 6] = [
        Self::MeshedToMeshed,
        Self::MeshedToPlain,
        Self::PlainToPermissive,
        Self::PlainToStrict,
        Self::Itself,
        Self::External,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::MeshedToMeshed => "meshed → meshed (strict)",
            Self::MeshedToPlain => "meshed → plain",
            Self::PlainToPermissive => "plain → meshed (permissive)",
            Self::PlainToStrict => "plain → meshed (strict)",
            Self::Itself => "pod → itself",
            Self::External => "pod → external",
        }
    }
}

/// One row's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    mode: Mode,
    v4: bool,
    protocol: Protocol,
    pair: Pair,
}

/// What is on the wire of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    /// Between the sidecars, and nothing besides.
    Mtls,
    /// The application's own bytes.
    Plain,
    /// Nothing.
    Nothing,
    /// Something else: bytes of a tunnel, others, and whether the marker was among them.
    Odd(usize, usize, bool),
}

/// What came of a cell.
#[derive(Debug)]
struct Row {
    cell: Cell,
    talked: Result<Seen, String>,
    /// The line of the cart's sidecar.
    line: Option<Value>,
    wire: Wire,
    took: Duration,
}

/// A conversation as short as this is none: what HTTP/2 says by itself.
const LITTLE: usize = 512;

fn marker(cell: &Cell) -> String {
    let Cell { mode, v4, protocol, pair } = cell;
    let name = format!("weft-cell-{}-{}-{protocol:?}-{pair:?}-", mode.name(), if *v4 { 4 } else { 6 });
    format!("{name:x<600}")
}

/// Bytes each way of a bulk transfer: 64 MiB, or as many MiB as `WEFT_MATRIX_BULK_MIB` says.
fn bulk_of(cell: &Cell) -> u64 {
    let said = std::env::var("WEFT_MATRIX_BULK_MIB").ok().and_then(|text| text.parse::<u64>().ok());
    // One whole GiB through all there is.
    let long = cell.mode == Mode::Tproxy && cell.v4 && cell.pair == Pair::MeshedToMeshed;
    let mib = if long { said.map_or(1024, |said| said.max(1024)) } else { said.unwrap_or(64) };
    mib << 20
}

/// Where the client of a cell runs, what it calls, and which name it says.
fn route(lab: &Lab, cell: Cell) -> (&Machine, SocketAddr, &'static str) {
    let (port, family) = (cell.protocol.port(), usize::from(!cell.v4));
    let at = |text: &str, port| SocketAddr::new(text.parse().unwrap(), port);
    match cell.pair {
        Pair::MeshedToMeshed => (&lab.caller, at(CART_VIPS[family], port), ["cart4", "cart6"][family]),
        Pair::MeshedToPlain => (&lab.caller, at(LEGACY_VIPS[family], port), ["legacy4", "legacy6"][family]),
        Pair::PlainToPermissive => (&lab.visitor, (lab.cart.ip(cell.v4), port).into(), "cart"),
        Pair::PlainToStrict => (&lab.visitor, (lab.cart.ip(cell.v4), port + STRICT).into(), "cart"),
        Pair::Itself => (&lab.cart, (lab.cart.ip(cell.v4), port).into(), "cart"),
        Pair::External => (&lab.caller, (lab.world.ip(cell.v4), port).into(), "world.example.com"),
    }
}

/// Whom the application is to see, and where called; `None`: it is not called at all.
fn expected_seen(lab: &Lab, cell: Cell) -> Option<Seen> {
    let v4 = cell.v4;
    let seen = |peer: IpAddr, local: IpAddr| Some(Seen { peer, local });
    // The sidecar calls under its own address, at the place that configuration gives.
    let by_the_sidecar = seen(lab.cart.ip(true), lab.cart.ip(true));
    match (cell.pair, cell.mode) {
        (Pair::MeshedToMeshed | Pair::PlainToPermissive, Mode::Redirect) => by_the_sidecar,
        (Pair::MeshedToMeshed, Mode::Tproxy) => seen(lab.caller.ip(v4), lab.cart.ip(v4)),
        (Pair::PlainToPermissive, Mode::Tproxy) => seen(lab.visitor.ip(v4), lab.cart.ip(v4)),
        (Pair::MeshedToPlain, _) => seen(lab.caller.ip(v4), lab.legacy.ip(v4)),
        (Pair::PlainToStrict, _) => None,
        (Pair::Itself, _) => seen(lab.cart.ip(v4), lab.cart.ip(v4)),
        (Pair::External, _) => seen(lab.caller.ip(v4), lab.world.ip(v4)),
    }
}

/// Source address and identity of the line that the cart's sidecar writes, where it has to do with the cell.
fn expected_line(lab: &Lab, cell: Cell) -> Option<(IpAddr, String)> {
    match cell.pair {
        Pair::MeshedToMeshed => Some((lab.caller.ip(cell.v4), id("caller"))),
        Pair::PlainToPermissive => Some((lab.visitor.ip(cell.v4), String::new())),
        _ => None,
    }
}

const fn expected_wire(pair: Pair) -> Wire {
    match pair {
        Pair::MeshedToMeshed => Wire::Mtls,
        Pair::Itself => Wire::Nothing,
        _ => Wire::Plain,
    }
}

fn wire(segments: &[Segment], cell: &Cell, window: (SystemTime, SystemTime)) -> Wire {
    let marker = marker(cell);
    let needle = marker.trim_end_matches('x').as_bytes();
    let (mut tunnel, mut other, mut found) = (0, 0, false);
    for segment in segments.iter().filter(|segment| segment.at >= window.0 && segment.at <= window.1) {
        let place = if segment.ports.contains(&15_008) { &mut tunnel } else { &mut other };
        *place += segment.length;
        found |= segment.contains(needle);
    }
    // What the application seals itself shows nothing of what it says.
    let shown = cell.protocol != Protocol::Tls;
    match (tunnel, other) {
        (0..LITTLE, 0) if !found => Wire::Nothing,
        (LITTLE.., 0) if !found => Wire::Mtls,
        (0..LITTLE, LITTLE..) if found == shown => Wire::Plain,
        _ => Wire::Odd(tunnel, other, found),
    }
}

/// All cells of a mode, one after the other.
fn rows(mode: Mode) -> Vec<Row> {
    let lab = Lab::new();
    let _servers = [&lab.cart, &lab.legacy, &lab.world].map(Servers::start);
    let mesh = Mesh::new(mode);
    let cart = mesh.join(&lab.cart, "cart", &cart_resources(&lab));
    let _caller = mesh.join(&lab.caller, "caller", &caller_resources(&lab));
    let capture = Capture::start(&lab.nodes[1], BRIDGE, mesh.folder.path());
    let mut made = Vec::new();
    for pair in Pair::ALL {
        for v4 in [true, false] {
            for protocol in Protocol::ALL {
                made.push(one(&lab, &cart, Cell { mode, v4, protocol, pair }));
            }
        }
    }
    let segments = capture.stop();
    for (row, window) in &mut made {
        row.wire = wire(&segments, &row.cell, *window);
    }
    made.into_iter().map(|(row, _)| row).collect()
}

/// One cell; what is on the wire is looked at later.
fn one(lab: &Lab, cart: &Sidecar, cell: Cell) -> (Row, (SystemTime, SystemTime)) {
    let (from, to, host) = route(lab, cell);
    let marker = marker(&cell);
    let before = cart.inbound().len();
    let began = SystemTime::now();
    let talk = Talk { space: &from.space, to, host, marker: &marker, bulk: bulk_of(&cell) };
    let talked = talk.talk(cell.protocol);
    // A line is written when a connection has ended, and soon after.
    let line = expected_line(lab, cell).filter(|_| talked.is_ok()).map(|_| {
        // The client of redis is run twice; all its lines are waited for, or the next cell would take them for its own.
        let last = before + if cell.protocol == Protocol::Redis { 2 } else { 1 } - 1;
        wait_for("the cart's sidecar logs the call", || {
            cart.inbound().get(last).cloned().ok_or_else(|| format!("no line for {cell:?}"))
        })
    });
    let ended = SystemTime::now();
    let took = ended.duration_since(began).unwrap_or_default();
    (Row { cell, talked, line, wire: Wire::Nothing, took }, (began, ended))
}

/// What of a row is not as it should be.
fn fault(lab: &Lab, row: &Row) -> Option<String> {
    let Row { cell, talked, line, wire, .. } = row;
    match (talked, expected_seen(lab, *cell)) {
        (Err(why), Some(_)) => return Some(format!("nothing came of it: {why}")),
        (Ok(seen), None) => return Some(format!("should have been refused, but the server saw {seen:?}")),
        (Ok(seen), Some(expected)) if *seen != expected => {
            return Some(format!("the application saw {seen:?} and not {expected:?}"));
        }
        (Err(why), None) if !is_refusal(cell.protocol, why) => return Some(format!("refused otherwise: {why}")),
        _ => {}
    }
    if let Some((address, identity)) = expected_line(lab, *cell) {
        let said = |name: &str| line.as_ref().and_then(|line| line[name].as_str()).unwrap_or_default();
        if said("sourceAddress") != address.to_string() || said("sourceIdentity") != identity {
            return Some(format!("the sidecar logged {line:?}"));
        }
    }
    // Who is refused has said something in plaintext before it knew, or nothing.
    let strict = cell.pair == Pair::PlainToStrict;
    (!strict && *wire != expected_wire(cell.pair)).then(|| format!("on the wire: {wire:?}"))
}

/// A strict port answers HTTP in HTTP, and closes everything else.
fn is_refusal(protocol: Protocol, why: &str) -> bool {
    match protocol {
        Protocol::Http1 | Protocol::Http2 => why.starts_with("status 403"),
        Protocol::Grpc => why.starts_with("status 200, grpc-status Some(\"7\")"),
        _ => !why.contains("timed out") && !why.contains("in time"),
    }
}

fn table(rows: &[Row], faults: &BTreeMap<usize, String>) -> String {
    let mut summary: BTreeMap<(Pair, &str), (usize, usize)> = BTreeMap::new();
    let mut out = String::from("# Interception: who calls whom, and what arrives\n\n");
    let mut all = String::from(
        "| mode | family | protocol | who | arrives | the application sees | at | identity | wire | ms | |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for (i, row) in rows.iter().enumerate() {
        let Cell { mode, v4, protocol, pair } = row.cell;
        let count = summary.entry((pair, mode.name())).or_default();
        count.1 += 1;
        count.0 += usize::from(!faults.contains_key(&i));
        let (arrives, peer, local) = match &row.talked {
            Ok(seen) => ("yes", seen.peer.to_string(), seen.local.to_string()),
            Err(_) => ("refused", "–".into(), "–".into()),
        };
        let identity = row.line.as_ref().and_then(|line| line["sourceIdentity"].as_str()).unwrap_or("–");
        let wire = match row.wire {
            _ if pair == Pair::PlainToStrict => "–".to_owned(),
            Wire::Mtls => "mTLS".to_owned(),
            Wire::Plain if protocol == Protocol::Tls => "the application's TLS".to_owned(),
            Wire::Plain => "plaintext".to_owned(),
            Wire::Nothing => "nothing".to_owned(),
            odd @ Wire::Odd(..) => format!("{odd:?}"),
        };
        let _ = writeln!(
            all,
            "| {} | IPv{} | {} | {} | {arrives} | {peer} | {local} | {identity} | {wire} | {} | {} |",
            mode.name(),
            if v4 { 4 } else { 6 },
            protocol.name(),
            pair.name(),
            row.took.as_millis(),
            faults.get(&i).map_or("", String::as_str),
        );
    }
    out.push_str("| who | mode | as it should be |\n| --- | --- | --- |\n");
    for ((pair, mode), (good, of)) in &summary {
        let _ = writeln!(out, "| {} | {mode} | {good} of {of} |", pair.name());
    }
    format!("{out}\n{all}")
}

fn target() -> std::path::PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors()
        .find(|path| path.join("debug").exists() || path.join("release").exists())
        .unwrap_or(Path::new("."))
        .into()
}

#[test]
fn in_every_mode_family_and_protocol_each_caller_arrives_as_itself_or_is_refused() {
    let labs = [Mode::Redirect, Mode::Tproxy].map(|mode| std::thread::spawn(move || rows(mode)));
    let rows: Vec<Row> = labs.into_iter().flat_map(|lab| lab.join().unwrap()).collect();
    // Addresses alone: nothing runs there any more.
    let lab = Lab::new();
    let faults: BTreeMap<usize, String> =
        rows.iter().enumerate().filter_map(|(i, row)| Some((i, fault(&lab, row)?))).collect();
    let table = table(&rows, &faults);
    std::fs::write(target().join("interception-matrix.md"), &table).unwrap();
    println!("{}", table.split("\n\n").take(2).collect::<Vec<_>>().join("\n\n"));
    let told: Vec<String> = faults.iter().map(|(i, fault)| format!("{:?}: {fault}", rows[*i].cell)).collect();
    assert_eq!(rows.len(), 2 * 2 * 10 * 6);
    assert!(told.is_empty(), "{} of {} rows:\n{}", told.len(), rows.len(), told.join("\n"));
}
