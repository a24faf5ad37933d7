//! `weft-proxy intercept`: puts the rules in force, shows them and takes them back, for whoever prepares a network namespace before the
//! sidecar runs in it without privileges, as an init container of a pod does.

use super::nft::{self, Cidr, Filter, Interface, Own, Plan};
use clap::{Args, Subcommand};

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

    /// Ports to capture of the application's calls [default: all]
    #[arg(long, value_name = "PORT,…", env = "WEFT_INTERCEPT_INCLUDE_OUTBOUND_PORTS", value_delimiter = ',', value_parser = port(), help_heading = "The application's calls")]
    include_outbound_ports: Vec<u16>,
    /// Ports to leave alone
    #[arg(long, value_name = "PORT,…", env = "WEFT_INTERCEPT_EXCLUDE_OUTBOUND_PORTS", value_delimiter = ',', value_parser = port(), help_heading = "The application's calls")]
    exclude_outbound_ports: Vec<u16>,
    /// Address ranges to capture calls to [default: all]
    #[arg(
        long,
        value_name = "CIDR,…",
        env = "WEFT_INTERCEPT_INCLUDE_OUTBOUND_CIDRS",
        value_delimiter = ',',
        help_heading = "The application's calls"
    )]
    include_outbound_cidrs: Vec<Cidr>,
    /// Address ranges to leave alone
    #[arg(
        long,
        value_name = "CIDR,…",
        env = "WEFT_INTERCEPT_EXCLUDE_OUTBOUND_CIDRS",
        value_delimiter = ',',
        help_heading = "The application's calls"
    )]
    exclude_outbound_cidrs: Vec<Cidr>,
    /// Interfaces to leave alone: docker* is all whose names begin so
    #[arg(
        long,
        value_name = "NAME,…",
        env = "WEFT_INTERCEPT_EXCLUDE_OUTBOUND_INTERFACES",
        value_delimiter = ',',
        help_heading = "The application's calls"
    )]
    exclude_outbound_interfaces: Vec<Interface>,

    /// Ports to capture of calls to the application [default: all]
    #[arg(long, value_name = "PORT,…", env = "WEFT_INTERCEPT_INCLUDE_INBOUND_PORTS", value_delimiter = ',', value_parser = port(), help_heading = "Calls to the application")]
    include_inbound_ports: Vec<u16>,
    /// Ports to leave alone
    #[arg(long, value_name = "PORT,…", env = "WEFT_INTERCEPT_EXCLUDE_INBOUND_PORTS", value_delimiter = ',', value_parser = port(), help_heading = "Calls to the application")]
    exclude_inbound_ports: Vec<u16>,
    /// Address ranges to leave alone calls from
    #[arg(
        long,
        value_name = "CIDR,…",
        env = "WEFT_INTERCEPT_EXCLUDE_INBOUND_CIDRS",
        value_delimiter = ',',
        help_heading = "Calls to the application"
    )]
    exclude_inbound_cidrs: Vec<Cidr>,
    /// Interfaces to leave alone
    #[arg(
        long,
        value_name = "NAME,…",
        env = "WEFT_INTERCEPT_EXCLUDE_INBOUND_INTERFACES",
        value_delimiter = ',',
        help_heading = "Calls to the application"
    )]
    exclude_inbound_interfaces: Vec<Interface>,
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
            inbound: (!self.no_inbound).then_some(self.inbound_port),
            dns: (!self.no_dns).then_some(self.dns_port),
            direct: self.direct_ports.clone(),
            outbound_filter: Filter {
                include_ports: self.include_outbound_ports.clone(),
                exclude_ports: self.exclude_outbound_ports.clone(),
                include_cidrs: self.include_outbound_cidrs.clone(),
                exclude_cidrs: self.exclude_outbound_cidrs.clone(),
                exclude_interfaces: self.exclude_outbound_interfaces.clone(),
            },
            inbound_filter: Filter {
                include_ports: self.include_inbound_ports.clone(),
                exclude_ports: self.exclude_inbound_ports.clone(),
                include_cidrs: Vec::new(),
                exclude_cidrs: self.exclude_inbound_cidrs.clone(),
                exclude_interfaces: self.exclude_inbound_interfaces.clone(),
            },
        }
    }
}

/// Does it.
///
/// # Errors
/// What [`nft::run`] and [`nft::show`] say; that there are no rules to show.
pub fn run(command: &Command) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    match command {
        Command::Install(install) if install.dry_run => print!("{}", nft::script(&install.plan())),
        Command::Install(install) => nft::run(&nft::script(&install.plan())).map_err(said)?,
        Command::Show => match nft::show().map_err(said)? {
            Some(rules) => print!("{rules}"),
            None => return Err("no interception rules are in force in this network namespace".into()),
        },
        Command::Remove => nft::run(nft::REMOVE).map_err(said)?,
    }
    Ok(())
}
