//! `weft-proxy intercept`: puts the rules in force, shows them and takes them back, for whoever prepares a network namespace before the
//! sidecar runs in it without privileges, as an init container of a pod does.

use super::nft::{self, Cidr, Filter, Inbound, Interface, Mode, Own, Plan};
use super::rules;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Subcommand, value_parser};

/// What to do with the rules.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Put the rules in force in this network namespace, in one transaction; whatever rules of Weft's were there are replaced
    Install(Box<Install>),
    /// Print the rules that are in force; exit code 1 if there are none
    Show,
    /// Take the rules back; rules of others stay
    Remove,
}

/// The rules, in words. Each setting has an environment variable, as a container's template likes it.
#[derive(Args, Debug)]
pub struct Install {
    /// Print the rules and change nothing
    #[arg(long)]
    dry_run: bool,
    /// User that the sidecar runs as, and the application does not: its packets pass
    #[arg(
        long,
        value_name = "UID",
        env = "WEFT_INTERCEPT_PROXY_UID",
        default_value_t = 15_000,
        conflicts_with = "proxy_mark"
    )]
    proxy_uid: u32,
    /// Tell the sidecar's packets by its mark on them instead; it needs CAP_NET_ADMIN then
    #[arg(long, env = "WEFT_INTERCEPT_PROXY_MARK")]
    proxy_mark: bool,
    /// Port of the sidecar that takes the application's calls
    #[arg(long, value_name = "PORT", env = "WEFT_INTERCEPT_OUTBOUND_PORT", default_value_t = 15_001, value_parser = port())]
    outbound_port: u16,
    /// Port of the sidecar that takes calls to the application
    #[arg(long, value_name = "PORT", env = "WEFT_INTERCEPT_INBOUND_PORT", default_value_t = 15_006, value_parser = port())]
    inbound_port: u16,
    /// Port of the sidecar's DNS server
    #[arg(long, value_name = "PORT", env = "WEFT_INTERCEPT_DNS_PORT", default_value_t = 15_053, value_parser = port())]
    dns_port: u16,
    /// How calls to the application are brought there: tproxy keeps the caller's address, and the sidecar needs CAP_NET_ADMIN then
    #[arg(long, value_name = "MODE", env = "WEFT_INTERCEPT_INBOUND_MODE", value_enum, default_value_t = Mode::Redirect, hide_possible_values = true)]
    inbound_mode: Mode,
    /// Leave calls to the application alone
    #[arg(long, env = "WEFT_INTERCEPT_NO_INBOUND")]
    no_inbound: bool,
    /// Leave DNS alone
    #[arg(long, env = "WEFT_INTERCEPT_NO_DNS")]
    no_dns: bool,
    /// Other ports of the sidecar, which peers and probes reach directly
    #[arg(long, value_name = "PORT,…", env = "WEFT_INTERCEPT_DIRECT_PORTS", value_delimiter = ',', default_value = "15008,15021", value_parser = port())]
    direct_ports: Vec<u16>,
    /// Users whose calls are left alone
    #[arg(long, value_name = "UID,…", env = "WEFT_INTERCEPT_EXCLUDE_UIDS", value_delimiter = ',')]
    exclude_uids: Vec<u32>,
    #[command(flatten)]
    filters: Filters,
}

/// What to capture in each direction.
#[derive(Debug, Default)]
struct Filters {
    outbound: Filter,
    inbound: Filter,
}

/// What the values of a flag are.
#[derive(Clone, Copy)]
enum Values {
    Ports,
    Cidrs,
    Interfaces,
}

/// A flag that takes a list: its name, its variable, what it lists, its help.
type Flag = (&'static str, &'static str, Values, &'static str);

const OUTBOUND: (&str, [Flag; 5]) = (
    "The application's calls",
    [
        (
            "include-outbound-ports",
            "WEFT_INTERCEPT_INCLUDE_OUTBOUND_PORTS",
            Values::Ports,
            "Ports to capture of the application's calls [default: all]",
        ),
        ("exclude-outbound-ports", "WEFT_INTERCEPT_EXCLUDE_OUTBOUND_PORTS", Values::Ports, "Ports to leave alone"),
        (
            "include-outbound-cidrs",
            "WEFT_INTERCEPT_INCLUDE_OUTBOUND_CIDRS",
            Values::Cidrs,
            "Address ranges to capture calls to [default: all]",
        ),
        (
            "exclude-outbound-cidrs",
            "WEFT_INTERCEPT_EXCLUDE_OUTBOUND_CIDRS",
            Values::Cidrs,
            "Address ranges to leave alone",
        ),
        (
            "exclude-outbound-interfaces",
            "WEFT_INTERCEPT_EXCLUDE_OUTBOUND_INTERFACES",
            Values::Interfaces,
            "Interfaces to leave alone: docker* is all whose names begin so",
        ),
    ],
);
const INBOUND: (&str, [Flag; 4]) = (
    "Calls to the application",
    [
        (
            "include-inbound-ports",
            "WEFT_INTERCEPT_INCLUDE_INBOUND_PORTS",
            Values::Ports,
            "Ports to capture of calls to the application [default: all]",
        ),
        ("exclude-inbound-ports", "WEFT_INTERCEPT_EXCLUDE_INBOUND_PORTS", Values::Ports, "Ports to leave alone"),
        (
            "exclude-inbound-cidrs",
            "WEFT_INTERCEPT_EXCLUDE_INBOUND_CIDRS",
            Values::Cidrs,
            "Address ranges to leave alone calls from",
        ),
        (
            "exclude-inbound-interfaces",
            "WEFT_INTERCEPT_EXCLUDE_INBOUND_INTERFACES",
            Values::Interfaces,
            "Interfaces to leave alone",
        ),
    ],
);

fn argument((name, variable, values, help): Flag, heading: &'static str) -> Arg {
    let list = Arg::new(name).long(name).env(variable).value_delimiter(',').action(ArgAction::Append);
    let list = match values {
        Values::Ports => list.value_name("PORT,…").value_parser(port()),
        Values::Cidrs => list.value_name("CIDR,…").value_parser(value_parser!(Cidr)),
        Values::Interfaces => list.value_name("NAME,…").value_parser(value_parser!(Interface)),
    };
    list.help(help).help_heading(heading)
}

/// What the flags of one direction say.
fn filter(matches: &mut ArgMatches, direction: &str) -> Filter {
    fn all<T: Clone + Send + Sync + 'static>(matches: &mut ArgMatches, name: &str) -> Vec<T> {
        // Not every direction has every flag.
        matches.try_remove_many(name).ok().flatten().map(Iterator::collect).unwrap_or_default()
    }
    Filter {
        include_ports: all(matches, &format!("include-{direction}-ports")),
        exclude_ports: all(matches, &format!("exclude-{direction}-ports")),
        include_cidrs: all(matches, &format!("include-{direction}-cidrs")),
        exclude_cidrs: all(matches, &format!("exclude-{direction}-cidrs")),
        exclude_interfaces: all(matches, &format!("exclude-{direction}-interfaces")),
    }
}

impl FromArgMatches for Filters {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { outbound: filter(matches, "outbound"), inbound: filter(matches, "inbound") })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Filters {
    fn augment_args(command: clap::Command) -> clap::Command {
        let outbound = OUTBOUND.1.map(|flag| argument(flag, OUTBOUND.0));
        command.args(outbound).args(INBOUND.1.map(|flag| argument(flag, INBOUND.0)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

fn port() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..)
}

impl Install {
    fn plan(&self) -> Plan {
        Plan {
            own: if self.proxy_mark { Own::Mark(super::MARK) } else { Own::Uid(self.proxy_uid) },
            exclude_uids: self.exclude_uids.clone(),
            outbound: self.outbound_port,
            inbound: (!self.no_inbound).then_some(Inbound { mode: self.inbound_mode, port: self.inbound_port }),
            dns: (!self.no_dns).then_some(self.dns_port),
            direct: self.direct_ports.clone(),
            outbound_filter: self.filters.outbound.clone(),
            inbound_filter: self.filters.inbound.clone(),
        }
    }
}

/// Does it.
///
/// # Errors
/// What [`rules`] says; that there are no rules to show.
pub fn run(command: &Command) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    match command {
        Command::Install(install) if install.dry_run => print!("{}", nft::script(&install.plan())),
        Command::Install(install) => rules::install(&install.plan()).map_err(said)?,
        Command::Show => match rules::show().map_err(said)? {
            Some(rules) => print!("{rules}"),
            None => return Err("no interception rules are in force in this network namespace".into()),
        },
        Command::Remove => rules::remove().map_err(said)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser, Debug)]
    struct Program {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn every_flag_of_either_direction_reaches_the_rules() {
        let mut words = vec!["weft-proxy".to_owned(), "install".into(), "--inbound-mode".into(), "tproxy".into()];
        for (i, (name, _, values, _)) in OUTBOUND.1.iter().chain(&INBOUND.1).enumerate() {
            let value = match values {
                Values::Ports => format!("{},{}", 100 + i, 200 + i),
                Values::Cidrs => format!("192.0.2.{i}/32"),
                Values::Interfaces => format!("eth{i}"),
            };
            words.extend([format!("--{name}"), value]);
        }
        let Command::Install(install) = Program::try_parse_from(words).unwrap().command else { panic!("no install") };
        let script = nft::script(&install.plan());
        for expected in [
            "tcp dport != { 100, 200 } return",
            "tcp dport { 101, 201 } return",
            "ip daddr != { 192.0.2.2/32 } return",
            "ip daddr { 192.0.2.3/32 } return",
            "oifname \"eth4\" return",
            "tcp dport != { 105, 205 } return",
            "tcp dport { 106, 206 } return",
            "ip saddr { 192.0.2.7/32 } return",
            "iifname \"eth8\" return",
            "tproxy to :15006",
        ] {
            assert!(script.contains(expected), "{expected} in\n{script}");
        }
        // Each variable is the flag's.
        for (name, variable, ..) in OUTBOUND.1.iter().chain(&INBOUND.1) {
            assert_eq!(*variable, format!("WEFT_INTERCEPT_{}", name.to_uppercase().replace('-', "_")));
        }
    }
}
