//! `--isolation netns`: a network namespace for one program, with an address of the mesh's own range, joined by the bridge `weft0`.
//!
//! Made with the `ip` program and undone when the value drops; what a process that was killed left behind is undone by the next
//! that takes its address (`lease`). Interception itself is the sidecar's; the relay by which it reaches a control plane on this
//! host's loopback is `relay`.

mod lease;
pub mod relay;

use crate::failure::Failure;
use lease::Lease;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The bridge that joins the programs of this host.
const BRIDGE: &str = "weft0";
/// Bits of the network part of the mesh's range: 198.19.0.0/16, the half of the benchmarking range (RFC 2544) that services do not use.
const PREFIX: u8 = 16;
/// What must be there, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("sh", "dash"),
];
/// Where administrators' programs are, which a user's PATH may lack.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// A namespace that is ready for a sidecar and a program.
pub struct Netns {
    name: String,
    link: String,
    resolv: PathBuf,
    lease: Lease,
}

impl Netns {
    /// Makes the namespace, its link and its address.
    ///
    /// # Errors
    /// Without the privileges or programs that it takes; the message says which.
    pub fn create(state_dir: &Path, namespace: &str, domain: &str) -> Result<Self, Failure> {
        require()?;
        let lease = Lease::take()?;
        let number = lease.number();
        let name = format!("weft-{:x}-{number}", lease.parent());
        let link = format!("weftv{number}");
        let resolv = state_dir.join("resolv.conf");
        let netns = Self { name, link, resolv, lease };
        // Left behind by a process that had this address and was killed.
        netns.remove();
        netns.lease.exclusively(bridge)?;
        let address = format!("{}/{PREFIX}", netns.address());
        let gateway = Lease::gateway().to_string();
        let (name, link) = (netns.name.as_str(), netns.link.as_str());
        ip(&["netns", "add", name])?;
        ip(&["link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["link", "set", link, "master", BRIDGE, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "address", "add", &address, "dev", "eth0"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        // The addresses of services are nobody's: packets to them need a way out before they are redirected to the sidecar.
        ip(&["-n", name, "route", "add", "default", "via", &gateway])?;
        std::fs::write(&netns.resolv, resolv_conf(namespace, domain))
            .map_err(|error| Failure::not_well(format!("cannot write {}: {error}", netns.resolv.display())))?;
        Ok(netns)
    }

    /// The program's address.
    pub fn address(&self) -> Ipv4Addr {
        self.lease.address()
    }

    /// This host's address on the bridge.
    pub fn gateway(&self) -> Ipv4Addr {
        Lease::gateway()
    }

    /// Words that put the command after them into the namespace.
    pub fn enter(&self) -> Vec<OsString> {
        vec!["nsenter".into(), format!("--net=/run/netns/{}", self.name).into(), "--".into()]
    }

    /// Words that put the command after them into the namespace, with names resolved by the sidecar.
    pub fn enter_with_names(&self) -> Vec<OsString> {
        let mut words = self.enter();
        let script = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
        words.extend(["unshare", "--mount", "--", "sh", "-c", script].map(OsString::from));
        words.push(self.resolv.clone().into());
        words
    }

    /// Changes a sidecar's settings from explicit mode to interception.
    pub fn intercept(&self, settings: &mut Value) {
        let at = |port: u16| Value::from(SocketAddr::new(self.address().into(), port).to_string());
        let Some(settings) = settings.as_object_mut() else { return };
        let tcp =
            settings.get("outbound").and_then(|outbound| outbound.get("tcp")).cloned().unwrap_or_else(|| json!([]));
        settings.insert("outbound".into(), json!({"listen": "127.0.0.1:15001", "tcp": tcp}));
        settings.insert("inbound".into(), json!({"tunnel": at(15008), "plaintext": at(15006)}));
        settings.insert("dns".into(), json!({"listen": "127.0.0.1:15053"}));
        settings.insert("transparent".into(), true.into());
        settings.insert("interception".into(), json!({"install": true}));
        if let Some(admin) = settings.get_mut("admin").and_then(Value::as_object_mut) {
            admin.insert("listen".into(), at(15021));
        }
    }

    fn remove(&self) {
        // Whatever the program left running has no network any more: a namespace ends with its program.
        if let Ok(pids) = output("ip", &["netns", "pids", &self.name]) {
            for pid in pids.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = output("ip", &["link", "delete", &self.link]);
        let _ = output("ip", &["netns", "delete", &self.name]);
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.remove();
        let _ = std::fs::remove_file(&self.resolv);
        let _ = self.lease.exclusively(|| {
            // The last one takes the bridge with it.
            if let Ok(members) = output("ip", &["-o", "link", "show", "master", BRIDGE])
                && members.trim().is_empty()
            {
                let _ = output("ip", &["link", "delete", BRIDGE]);
            }
            Ok(())
        });
    }
}

/// A PATH in which the programs are found, for this process's children.
pub fn path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(SYSTEM_PATH);
    path
}

fn require() -> Result<(), Failure> {
    let none = "or use --isolation none, which needs no privileges";
    let path = path();
    let found = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let missing: Vec<(&str, &str)> = PROGRAMS.into_iter().filter(|(name, _)| !found(name)).collect();
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
        let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
        packages.dedup();
        return Err(Failure::not_well(format!(
            "--isolation netns needs {}, which this host lacks",
            names.join(" and ")
        ))
        .hint(format!(
            "install {} (Debian: apt-get install {}), {none}",
            names.join(" and "),
            packages.join(" ")
        )));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::not_well(
            "--isolation netns needs root: it makes network namespaces (CAP_SYS_ADMIN) and links (CAP_NET_ADMIN)",
        )
        .hint(format!("run it with sudo, {none}")));
    }
    Ok(())
}

/// The bridge, made if it is not there.
fn bridge() -> Result<(), Failure> {
    if output("ip", &["link", "show", BRIDGE]).is_err() {
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
    }
    let address = format!("{}/{PREFIX}", Lease::gateway());
    let has = output("ip", &["-o", "-4", "address", "show", "dev", BRIDGE]).unwrap_or_default();
    if !has.contains(&format!(" {address} ")) {
        ip(&["address", "add", &address, "dev", BRIDGE])?;
    }
    ip(&["link", "set", BRIDGE, "up"])
}

fn resolv_conf(namespace: &str, domain: &str) -> String {
    format!(
        "# The sidecar's names (weft run).\nnameserver 127.0.0.1\nsearch {namespace}.svc.{domain} svc.{domain} {domain}\n"
    )
}

fn ip(arguments: &[&str]) -> Result<(), Failure> {
    output("ip", arguments).map(drop).map_err(|said| {
        let failure = Failure::not_well(format!("ip {}: {said}", arguments.join(" ")));
        if said.contains("not permitted") || said.contains("denied") {
            failure.hint(
                "this root may not make namespaces or links: in a container it needs CAP_NET_ADMIN and CAP_SYS_ADMIN; \
                 or use --isolation none",
            )
        } else {
            failure
        }
    })
}

/// What a program printed; the error is what it said on stderr.
pub fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new(program).args(arguments).env("PATH", path()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(if said.is_empty() { output.status.to_string() } else { said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_searched_as_in_a_cluster() {
        assert_eq!(
            resolv_conf("shop", "cluster.local"),
            "# The sidecar's names (weft run).\nnameserver 127.0.0.1\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\n"
        );
    }

    #[test]
    fn the_search_path_has_the_administrators_programs() {
        let path = path();
        assert!(std::env::split_paths(&path).any(|dir| dir == Path::new("/usr/sbin")));
    }
}
