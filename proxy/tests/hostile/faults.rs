//! Upstreams that fail in every way that a socket allows, against the policies that callers may have. `fault` and `servers`
//! hold the faults, `table` what a caller sees of each, and the book shows the same tables.

mod fault;
mod race;
mod servers;
mod table;

use crate::mesh::{Mesh, Sidecar};
use crate::rig;
use crate::wire::{Answer, Broken, Client};
use fault::Fault;
use serde_json::{Value, json};
use servers::{Ledger, Server};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use table::{BEHIND, TABLE};

/// A caller's policy and its call.
struct Policy {
    name: &'static str,
    method: &'static str,
    /// The longest that its call may take.
    deadline: Duration,
    /// Is there a second endpoint, which is well?
    second: bool,
    /// May what was sent be sent again?
    repeats: bool,
    frontend: fn() -> Value,
}

const LONG: Duration = Duration::from_secs(3);
const SHORT: Duration = Duration::from_secs(1);

/// The columns.
const POLICIES: [Policy; 8] = [
    Policy {
        name: "GET, no retry",
        method: "GET",
        deadline: LONG,
        second: false,
        repeats: false,
        frontend: || json!({"requestTimeout": "3s", "retry": {"attempts": 0}}),
    },
    Policy {
        name: "GET",
        method: "GET",
        deadline: LONG,
        second: false,
        repeats: true,
        frontend: || json!({"requestTimeout": "3s"}),
    },
    Policy {
        name: "GET, 0.5 s a try",
        method: "GET",
        deadline: LONG,
        second: false,
        repeats: true,
        frontend: || json!({"requestTimeout": "3s", "backendRequestTimeout": "0.5s"}),
    },
    Policy {
        name: "GET, 1 s in all",
        method: "GET",
        deadline: SHORT,
        second: false,
        repeats: true,
        frontend: || json!({"requestTimeout": "1s"}),
    },
    Policy {
        name: "GET, 0.5 s a try, second endpoint",
        method: "GET",
        deadline: LONG,
        second: true,
        repeats: true,
        frontend: || json!({"requestTimeout": "3s", "backendRequestTimeout": "0.5s"}),
    },
    Policy {
        name: "POST",
        method: "POST",
        deadline: LONG,
        second: false,
        repeats: false,
        frontend: || json!({"requestTimeout": "3s"}),
    },
    Policy {
        name: "POST, second endpoint",
        method: "POST",
        deadline: LONG,
        second: true,
        repeats: false,
        frontend: || json!({"requestTimeout": "3s"}),
    },
    Policy {
        name: "POST repeatable, 0.5 s a try, second endpoint",
        method: "POST",
        deadline: LONG,
        second: true,
        repeats: true,
        frontend: || json!({"requestTimeout": "3s", "backendRequestTimeout": "0.5s", "retry": {"methods": ["POST"]}}),
    },
];

/// Faults at once: each is met by eight calls, and tries that end after half a second must not wait for a processor.
const TOGETHER: usize = 6;

fn one(sidecar: &Sidecar, fault: Fault, policy: &Policy, host: &str, id: &str) -> Result<Answer, Broken> {
    let mut client = Client::connect(sidecar.address("outbound"));
    client.patience(policy.deadline + Duration::from_secs(2));
    let body = if policy.method == "POST" { "x".repeat(fault.body()) } else { String::new() };
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let waits = fault.expects() && !body.is_empty();
    let expect = if waits { "Expect: 100-continue\r\n" } else { "" };
    client.send(format!("{} /{id} HTTP/1.1\r\nHost: {host}\r\n{length}{expect}\r\n", policy.method).as_bytes());
    if waits {
        let interim = client.one(false)?;
        if interim.status != 100 {
            return Ok(interim);
        }
    }
    client.send(body.as_bytes());
    client.answer(false)
}

/// One pair of the table.
struct Pair<'p> {
    fault: Fault,
    policy: &'p Policy,
    host: String,
    ledger: Arc<Ledger>,
}

impl Pair<'_> {
    /// Makes the pair's calls: one, or with a second endpoint two, of which one begins at the faulty one. What the caller saw, or what is
    /// wrong with it whatever the table says.
    fn meet(&self, sidecar: &Sidecar) -> Result<String, String> {
        let mut cell = String::new();
        for n in 0..if self.policy.second { 2 } else { 1 } {
            let id = format!("{}-{n}", self.host);
            self.ledger.begin(&id);
            let began = Instant::now();
            let seen = one(sidecar, self.fault, self.policy, &self.host, &id);
            let took = began.elapsed();
            if took > self.policy.deadline + Duration::from_secs(1) {
                return Err(format!("took {took:?}: {seen:?}"));
            }
            let executed = self.ledger.executed(&id);
            if executed > 1 && !self.policy.repeats {
                return Err(format!("executed {executed} times"));
            }
            let mut text = match seen {
                Ok(answer) => match answer.header("weft-error") {
                    Some(error) => format!("{} `{error}`", answer.status),
                    None => answer.status.to_string(),
                },
                Err(Broken::Cut(_) | Broken::Closed) => "cut".to_owned(),
                Err(other) => return Err(format!("{other:?}")),
            };
            if executed > 1 {
                let _ = write!(text, " ×{executed}");
            }
            // What went well says nothing of the fault, as long as something did not.
            if cell.is_empty() || text != "200" {
                cell = text;
            }
        }
        if self.policy.second && self.ledger.healthy() == 0 {
            return Err("the healthy endpoint was never used".into());
        }
        Ok(cell)
    }
}

fn markdown(rows: &[(Fault, Vec<String>)]) -> String {
    let mut out = String::from("| upstream |");
    POLICIES.iter().for_each(|policy| {
        let _ = write!(out, " {} |", policy.name);
    });
    let _ = writeln!(out, "\n| --- |{}", " --- |".repeat(POLICIES.len()));
    for (fault, cells) in rows {
        let _ = writeln!(out, "| {} | {} |", fault.name(), cells.join(" | "));
    }
    out
}

/// A pair and the servers that its calls meet.
struct Row<'p> {
    pair: Pair<'p>,
    servers: Vec<(&'static str, Server)>,
}

fn rows(mesh: &Mesh, prefix: &str, faults: impl Iterator<Item = Fault>) -> Vec<Row<'static>> {
    let all = faults.enumerate().flat_map(|(row, fault)| {
        POLICIES.iter().enumerate().map(move |(column, policy)| (format!("{prefix}{row}p{column}"), fault, policy))
    });
    all.map(|(host, fault, policy)| {
        let ledger = Arc::new(Ledger::default());
        let mut servers = vec![("faulty", Server::faulty(mesh, fault, &ledger))];
        if policy.second {
            servers.push(("healthy", Server::healthy(fault, &ledger)));
        }
        Row { pair: Pair { fault, policy, host, ledger }, servers }
    })
    .collect()
}

impl Row<'_> {
    fn service(&self, mesh: &Mesh, tunnel: Option<SocketAddr>) -> (Value, Value) {
        let Pair { fault, policy, host, .. } = &self.pair;
        let endpoints: Vec<_> = self.servers.iter().map(|(uid, at)| at.endpoint(mesh, uid, tunnel)).collect();
        let (mut service, slice) = rig::service(host, fault.protocol(), &(policy.frontend)(), &endpoints);
        service["ports"][0]["backend"]["balancer"] = "BALANCER_ROUND_ROBIN".into();
        (service, slice)
    }
}

/// Meets every pair, a few faults at a time: what callers saw of each fault.
fn meet(rows: &[Row<'_>], sidecar: &Sidecar, problems: &mut String) -> Vec<(Fault, Vec<String>)> {
    let mut seen: Vec<(Fault, Vec<String>)> = Vec::new();
    for batch in rows.chunks(POLICIES.len() * TOGETHER) {
        let met: Vec<_> = std::thread::scope(|scope| {
            let calling: Vec<_> = batch.iter().map(|row| scope.spawn(|| row.pair.meet(sidecar))).collect();
            calling.into_iter().map(|call| call.join().unwrap()).collect()
        });
        for (Row { pair, .. }, cell) in batch.iter().zip(met) {
            if seen.last().is_none_or(|(fault, _)| *fault != pair.fault) {
                seen.push((pair.fault, Vec::new()));
            }
            let cell = cell.unwrap_or_else(|what| {
                let _ = writeln!(problems, "{}: {}: {what}", pair.fault.name(), pair.policy.name);
                "wrong".into()
            });
            seen.last_mut().unwrap().1.push(cell);
        }
    }
    seen
}

/// Holds what was seen against the table.
fn compare(seen: &[(Fault, Vec<String>)], table: &[(Fault, [&str; 8])], problems: &mut String) {
    println!("{}", markdown(seen));
    for ((fault, cells), (expected, wanted)) in seen.iter().zip(table) {
        assert_eq!(fault, expected, "the rows of the table are those of the faults");
        for ((cell, wanted), policy) in cells.iter().zip(wanted).zip(&POLICIES) {
            // Where the table has several, a race decides between them; an error without a status has that of the one before.
            let status = wanted.split(' ').rfind(|word| word.parse::<u16>().is_ok()).unwrap_or_default();
            let once = cell.split(" ×").next().unwrap_or_default();
            let seen = if wanted.contains(" or ") { once } else { cell };
            let may_be = |wanted: &str| wanted == seen || format!("{status} {wanted}") == seen;
            if !wanted.split(" or ").any(may_be) {
                let _ = writeln!(problems, "{}: {}: {cell}, not {wanted}", fault.name(), policy.name);
            }
        }
    }
    assert_eq!(seen.len(), table.len());
}

#[test]
fn each_fault_ends_each_call_in_time_and_as_the_tables_say() {
    let folder = tempfile::tempdir().unwrap();
    let mesh = Mesh::new(folder.path());
    let direct = rows(&mesh, "d", Fault::ALL.into_iter());
    let behind = rows(&mesh, "b", Fault::ALL.into_iter().filter(|fault| fault.is_plain()));
    let applications: Vec<_> = behind.iter().flat_map(|row| row.servers.iter().map(|(_, server)| server.at)).collect();
    let served = rig::serves(&mesh, &applications, "PROTOCOL_HTTP1");
    let before = rig::sidecar(&mesh, "server", "orders", &json!({}), served);
    let tunnel = Some(before.address("tunnel"));
    let services = direct.iter().map(|row| row.service(&mesh, None));
    let services = services.chain(behind.iter().map(|row| row.service(&mesh, tunnel)));
    let sidecar = rig::sidecar(&mesh, "client", "storefront", &json!({}), rig::calls(services.collect()));
    let mut problems = String::new();
    let seen = [&direct, &behind].map(|rows| meet(rows, &sidecar, &mut problems));
    // Nothing is under way any more.
    drop((sidecar, before));
    for Row { pair, .. } in direct.iter().chain(&behind).filter(|row| !row.pair.policy.repeats) {
        let times = pair.ledger.most();
        if times > 1 {
            let _ = writeln!(problems, "{}: {}: executed {times} times", pair.fault.name(), pair.policy.name);
        }
    }
    for (seen, table) in seen.iter().zip([TABLE, BEHIND]) {
        compare(seen, table, &mut problems);
    }
    assert!(problems.is_empty(), "\n{problems}");
}

#[test]
fn the_book_shows_the_tables() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/reference/failures.md");
    let book = std::fs::read_to_string(page).unwrap();
    for table in [TABLE, BEHIND] {
        let rows: Vec<_> = table.iter().map(|(fault, cells)| (*fault, cells.map(str::to_owned).to_vec())).collect();
        let table = markdown(&rows);
        assert!(book.contains(&table), "{page} should contain\n{table}");
    }
}
