//! The nftables rules that bring a workload's traffic to its sidecar: a pure function from a plan to a script, and running `nft` on it.
//!
//! One table, `inet weft`, is replaced as a whole in one transaction, so that installing is atomic and can be repeated, and removing
//! leaves nothing. The rules belong to the network namespace of the workload; they are never meant for a host's own. Who may change them,
//! and what routing has to know, is `rules`' business.

use super::DIVERTED;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::process::{Command, Output, Stdio};

/// How the sidecar's own packets are told from the workload's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// By SO_MARK ([`super::MARK`]).
    Mark(u32),
    /// By the user that the sidecar runs as and the application does not.
    Uid(u32),
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// Any address of the range.
    pub address: IpAddr,
    /// Bits that count.
    pub prefix: u8,
}

impl std::str::FromStr for Cidr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| format!("{text:?} is no address range"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|p| *p <= most),
            None => Some(most),
        };
        Ok(Self { address, prefix: prefix.ok_or_else(|| format!("{text:?}: the prefix must be 0 to {most}"))? })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The name of a network interface, or the beginning of several with `*` at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface(String);

impl std::str::FromStr for Interface {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix('*').unwrap_or(text);
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
        // IFNAMSIZ, with the zero at its end.
        if name.is_empty() || text.len() > 15 || !name.chars().all(known) {
            return Err(format!(
                "{text:?} is no name of an interface: 1 to 15 letters, digits, '.', '_', '-' or '@', and '*' at the end for all that begin so"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// What to capture in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Ports to capture; empty: all.
    pub include_ports: Vec<u16>,
    /// Ports to leave alone.
    pub exclude_ports: Vec<u16>,
    /// Remote ranges to capture; empty: all.
    pub include_cidrs: Vec<Cidr>,
    /// Remote ranges to leave alone.
    pub exclude_cidrs: Vec<Cidr>,
    /// Interfaces to leave alone: those that packets leave by, or come in by.
    pub exclude_interfaces: Vec<Interface>,
}

/// How calls to the workload are brought to the sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The destination is rewritten; the sidecar needs no privilege for it, and the application sees the sidecar's address.
    #[default]
    Redirect,
    /// Packets stay as they are and are given to the sidecar's socket; the application sees the caller's address.
    Tproxy,
}

/// Calls to the workload: how they are taken, and the sidecar's port for plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// How.
    pub mode: Mode,
    /// Where to.
    pub port: u16,
}

/// Everything a script is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Whose packets pass.
    pub own: Own,
    /// Other users whose packets pass.
    pub exclude_uids: Vec<u32>,
    /// The sidecar's outbound port.
    pub outbound: u16,
    /// Calls to the workload; `None`: they are left alone.
    pub inbound: Option<Inbound>,
    /// The sidecar's DNS port; `None`: DNS is left alone.
    pub dns: Option<u16>,
    /// The sidecar's other ports, which are reached directly (tunnel, admin).
    pub direct: Vec<u16>,
    /// The workload's calls.
    pub outbound_filter: Filter,
    /// Calls to the workload.
    pub inbound_filter: Filter,
}

/// The script that removes every rule, whether or not there are any.
pub const REMOVE: &str = "add table inet weft\ndelete table inet weft\n";

/// The script that puts the plan in force, whatever was there before.
#[must_use]
pub fn script(plan: &Plan) -> String {
    let mut out = String::from(REMOVE);
    out.push_str("table inet weft {\n  chain output {\n    type nat hook output priority -100; policy accept;\n");
    let mut rule = |text: &str| {
        let _ = writeln!(out, "    {text}");
    };
    match plan.own {
        Own::Mark(mark) => rule(&format!("meta mark {mark:#x} return")),
        Own::Uid(uid) => rule(&format!("meta skuid {uid} return")),
    }
    if matches!(plan.inbound, Some(Inbound { mode: Mode::Tproxy, .. })) {
        rule(&format!("meta mark {DIVERTED:#x} return"));
    }
    if !plan.exclude_uids.is_empty() {
        rule(&format!("meta skuid {} return", set(&plan.exclude_uids)));
    }
    if let Some(port) = plan.dns {
        // Before loopback passes: a stub resolver may stand there.
        rule(&format!("udp dport 53 redirect to :{port}"));
        rule(&format!("tcp dport 53 redirect to :{port}"));
    }
    // Loopback, and the workload's own addresses: what it asks of itself is nobody else's business.
    rule("fib daddr type { local, broadcast, multicast } return");
    filter(&mut rule, &plan.outbound_filter, "oifname", "daddr");
    rule(&format!("meta l4proto tcp redirect to :{}", plan.outbound));
    out.push_str("  }\n");
    match plan.inbound {
        Some(Inbound { mode: Mode::Redirect, port }) => redirected(&mut out, plan, port),
        Some(Inbound { mode: Mode::Tproxy, port }) => diverted(&mut out, plan, port),
        None => {}
    }
    out.push_str("}\n");
    out
}

fn redirected(out: &mut String, plan: &Plan, port: u16) {
    out.push_str("  chain prerouting {\n    type nat hook prerouting priority -100; policy accept;\n");
    let mut rule = |text: &str| {
        let _ = writeln!(out, "    {text}");
    };
    inbound(&mut rule, plan);
    rule(&format!("meta l4proto tcp redirect to :{port}"));
    out.push_str("  }\n");
}

/// What routing does with the mark is in `route`.
fn diverted(out: &mut String, plan: &Plan, port: u16) {
    out.push_str("  chain prerouting {\n    type filter hook prerouting priority -150; policy accept;\n");
    let mut rule = |text: &str| {
        let _ = writeln!(out, "    {text}");
    };
    inbound(&mut rule, plan);
    rule(&format!("meta l4proto tcp tproxy to :{port} meta mark set {DIVERTED:#x} accept"));
    // No socket of the sidecar's: what is begun now would reach the application past all policy.
    rule("meta l4proto tcp ct state new reject with tcp reset");
    out.push_str("  }\n  chain replies {\n    type route hook output priority -150; policy accept;\n");
    let mut rule = |text: &str| {
        let _ = writeln!(out, "    {text}");
    };
    // The sidecar calls the application under its caller's address: what the application answers must not leave.
    rule(&format!("meta mark {DIVERTED:#x} ct mark set {DIVERTED:#x}"));
    rule(&format!("ct mark {DIVERTED:#x} ct direction reply meta mark set {DIVERTED:#x}"));
    out.push_str("  }\n");
}

/// What of the calls to the workload is left alone.
fn inbound(rule: &mut impl FnMut(&str), plan: &Plan) {
    rule("iif lo return");
    if !plan.direct.is_empty() {
        rule(&format!("tcp dport {} return", set(&plan.direct)));
    }
    rule("fib daddr type != local return");
    filter(rule, &plan.inbound_filter, "iifname", "saddr");
}

fn filter(rule: &mut impl FnMut(&str), filter: &Filter, interface: &str, remote: &str) {
    for Interface(name) in &filter.exclude_interfaces {
        rule(&format!("{interface} \"{name}\" return"));
    }
    if !filter.exclude_ports.is_empty() {
        rule(&format!("tcp dport {} return", set(&filter.exclude_ports)));
    }
    if !filter.include_ports.is_empty() {
        rule(&format!("tcp dport != {} return", set(&filter.include_ports)));
    }
    for (family, v4) in [("ip", true), ("ip6", false)] {
        let of = |cidrs: &[Cidr]| cidrs.iter().copied().filter(|c| c.address.is_ipv4() == v4).collect::<Vec<_>>();
        let exclude = of(&filter.exclude_cidrs);
        if !exclude.is_empty() {
            rule(&format!("{family} {remote} {} return", set(&exclude)));
        }
        let include = of(&filter.include_cidrs);
        if !include.is_empty() {
            rule(&format!("{family} {remote} != {} return", set(&include)));
        } else if !filter.include_cidrs.is_empty() {
            // Ranges of the other family alone are included.
            rule(&format!("meta nfproto {} return", if v4 { "ipv4" } else { "ipv6" }));
        }
    }
}

fn set<T: std::fmt::Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", items.join(", "))
}

/// Runs `nft` on a script, in the network namespace of the calling process. `lock` is held as long as it runs.
///
/// # Errors
/// When `nft` is missing (the text says what to install) or refuses (the text is what it printed).
pub(super) fn run(script: &str, lock: OwnedFd) -> io::Result<()> {
    use std::io::Write as _;
    let mut nft = program(&["-f", "-"]);
    // It prints nothing there, and as long as it runs the lock is held, whatever becomes of this process.
    let mut child = nft.stdin(Stdio::piped()).stdout(lock).stderr(Stdio::piped()).spawn().map_err(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes())?;
    }
    succeeded(&child.wait_with_output()?)
}

/// The rules in force as `nft` prints them; `None`: there are none of ours.
///
/// # Errors
/// As for [`run`].
pub(super) fn show() -> io::Result<Option<String>> {
    let tables = program(&["list", "tables", "inet"]).output().map_err(missing)?;
    succeeded(&tables)?;
    if !String::from_utf8_lossy(&tables.stdout).lines().any(|line| line == "table inet weft") {
        return Ok(None);
    }
    let rules = program(&["list", "table", "inet", "weft"]).output().map_err(missing)?;
    succeeded(&rules)?;
    Ok(Some(String::from_utf8_lossy(&rules.stdout).into_owned()))
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new("nft");
    command.args(arguments);
    command
}

fn missing(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(
            error.kind(),
            "transparent interception needs the nft program; install the package nftables, or use explicit mode",
        ),
        _ => error,
    }
}

fn succeeded(output: &Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("nft refused ({}): {}", output.status, said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            own: Own::Mark(super::super::MARK),
            exclude_uids: vec![101, 102],
            outbound: 15001,
            inbound: Some(Inbound { mode: Mode::Redirect, port: 15006 }),
            dns: Some(15053),
            direct: vec![15008, 15021],
            outbound_filter: Filter {
                exclude_ports: vec![22],
                exclude_cidrs: vec!["169.254.0.0/16".parse().unwrap(), "fe80::/10".parse().unwrap()],
                exclude_interfaces: vec!["tun0".parse().unwrap(), "docker*".parse().unwrap()],
                ..Filter::default()
            },
            inbound_filter: Filter { include_ports: vec![8080, 9090], ..Filter::default() },
        }
    }

    #[test]
    fn the_script_is_as_it_was_reviewed() {
        let expected = "\
add table inet weft
delete table inet weft
table inet weft {
  chain output {
    type nat hook output priority -100; policy accept;
    meta mark 0x77656674 return
    meta skuid { 101, 102 } return
    udp dport 53 redirect to :15053
    tcp dport 53 redirect to :15053
    fib daddr type { local, broadcast, multicast } return
    oifname \"tun0\" return
    oifname \"docker*\" return
    tcp dport { 22 } return
    ip daddr { 169.254.0.0/16 } return
    ip6 daddr { fe80::/10 } return
    meta l4proto tcp redirect to :15001
  }
  chain prerouting {
    type nat hook prerouting priority -100; policy accept;
    iif lo return
    tcp dport { 15008, 15021 } return
    fib daddr type != local return
    tcp dport != { 8080, 9090 } return
    meta l4proto tcp redirect to :15006
  }
}
";
        assert_eq!(script(&plan()), expected);
    }

    #[test]
    fn tproxy_leaves_packets_as_they_are_and_lets_nothing_past_a_sidecar_that_is_gone() {
        let plan = Plan { inbound: Some(Inbound { mode: Mode::Tproxy, port: 15006 }), ..plan() };
        let expected = "\
  chain prerouting {
    type filter hook prerouting priority -150; policy accept;
    iif lo return
    tcp dport { 15008, 15021 } return
    fib daddr type != local return
    tcp dport != { 8080, 9090 } return
    meta l4proto tcp tproxy to :15006 meta mark set 0x77656674 accept
    meta l4proto tcp ct state new reject with tcp reset
  }
  chain replies {
    type route hook output priority -150; policy accept;
    meta mark 0x77656674 ct mark set 0x77656674
    ct mark 0x77656674 ct direction reply meta mark set 0x77656674
  }
}
"
        .replace("0x77656674", "0x77656664");
        let script = script(&plan);
        assert!(script.ends_with(&expected), "{script}");
        assert!(script.contains("    meta mark 0x77656674 return\n    meta mark 0x77656664 return\n"), "{script}");
    }

    #[test]
    fn ranges_of_one_family_exclude_the_other_family() {
        let plan = Plan {
            own: Own::Uid(1337),
            inbound: None,
            dns: None,
            outbound_filter: Filter { include_cidrs: vec!["10.96.0.0/16".parse().unwrap()], ..Filter::default() },
            ..plan()
        };
        let script = script(&plan);
        assert!(script.contains("meta skuid 1337 return"), "{script}");
        assert!(script.contains("ip daddr != { 10.96.0.0/16 } return"), "{script}");
        assert!(script.contains("meta nfproto ipv6 return"), "{script}");
        assert!(!script.contains("prerouting") && !script.contains("15053"), "{script}");
    }

    #[test]
    fn ranges_read_with_and_without_a_prefix_and_refuse_what_is_none() {
        assert_eq!("10.0.0.1".parse::<Cidr>().unwrap().to_string(), "10.0.0.1/32");
        assert_eq!("::1".parse::<Cidr>().unwrap().to_string(), "::1/128");
        for text in ["10.0.0.0/33", "shop", "10.0.0.0/", "/8"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_of_an_interface_cannot_leave_its_quotes() {
        for text in ["eth0", "veth-1.2", "docker*", "if@2"] {
            assert!(text.parse::<Interface>().is_ok(), "{text}");
        }
        for text in ["", "*", "a*b", "sixteen-letters-", "a b", "a\"; flush ruleset; \"", "eth0\n"] {
            assert!(text.parse::<Interface>().is_err(), "{text}");
        }
    }
}
