//! `weft check --pre`: whether a control plane and sidecars can run on this machine. Nothing is changed, and no control plane is asked.

use super::{Category, Fact};
use crate::run::netns;
use crate::trampoline;
use rustix::process::{Resource, geteuid, getrlimit};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where a control plane listens unless it is told otherwise.
const PORTS: [(u16, &str); 2] = [(15010, "--grpc"), (15080, "--api")];
/// Each connection is a descriptor.
const FILES: u64 = 4096;
/// A clock that shows less was never set: 2025.
const YEAR: i64 = 1_735_689_600;

/// All of them.
pub fn facts() -> Vec<Fact> {
    let mut found = Category::new("pre-flight");
    let sidecar = "weft-proxy is found";
    match trampoline::sibling("weft-proxy", "WEFT_PROXY") {
        Ok(path) => found.good(sidecar, path.display().to_string()),
        Err(failure) => found.error(sidecar, failure.message, failure.hint.as_deref().unwrap_or("install it")),
    }
    ports(&mut found);
    directory(Path::new("./.weft"), &mut found);
    let files = "enough files may be open";
    match getrlimit(Resource::Nofile).maximum {
        Some(most) if most < FILES => {
            found.warning(files, format!("{most}"), "raise it with ulimit -n, or LimitNOFILE= of the unit");
        }
        most => found.good(files, most.map_or_else(|| "unlimited".to_owned(), |most| most.to_string())),
    }
    let clock = "the clock is set";
    match crate::output::now() {
        now if now < YEAR => {
            found.error(clock, format!("{now} s since 1970"), "set it: certificates begin and end by it")
        }
        _ => found.good(clock, ""),
    }
    isolation(&mut found);
    found.facts
}

fn ports(found: &mut Category) {
    let name = "the ports of the control plane are free";
    let taken: Vec<String> = PORTS
        .iter()
        .filter_map(|(port, flag)| {
            let error = TcpListener::bind(("127.0.0.1", *port)).err()?;
            Some(format!("{port} ({flag}): {error}"))
        })
        .collect();
    if taken.is_empty() {
        found.good(name, PORTS.map(|(port, _)| port.to_string()).join(", "));
    } else {
        let hint = "does a control plane run here already? else give others, as with --api 127.0.0.1:16080";
        found.warning(name, taken.join("; "), hint);
    }
}

fn directory(path: &Path, found: &mut Category) {
    let name = "the data directory is private";
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            found.skipped(name, format!("there is no {} yet", path.display()));
        }
        Err(error) => found.error(name, format!("{}: {error}", path.display()), "give --data-dir another one"),
        Ok(meta) if meta.uid() != geteuid().as_raw() => {
            let detail = format!("{} is of the user {}", path.display(), meta.uid());
            found.warning(name, detail, "run weft up as its owner, or give --data-dir another one");
        }
        Ok(meta) if meta.mode() & 0o077 != 0 => {
            let detail = format!("{} has mode {:o}", path.display(), meta.mode() & 0o777);
            found.error(name, detail, "chmod 700 it: it holds keys");
        }
        Ok(_) => found.good(name, path.display().to_string()),
    }
}

/// What `--isolation netns` takes; without it programs find the mesh by http_proxy.
fn isolation(found: &mut Category) {
    let only = "without it only --isolation none works";
    for (name, program, arguments) in [
        ("ip is installed", "ip", ["-Version"].as_slice()),
        ("nsenter is installed", "nsenter", &["--version"]),
        ("nftables is installed and works", "nft", if is_root() { &["list", "tables"] } else { &["--version"] }),
    ] {
        match netns::output(program, arguments) {
            Ok(said) => found.good(name, said.lines().next().unwrap_or_default().to_owned()),
            Err(error) => found.warning(name, error, &format!("install {program}; {only}")),
        }
    }
    let name = "network namespaces can be made";
    if !is_root() {
        return found.warning(name, "this user is not root", only);
    }
    // In a process of its own, which it ends with.
    match netns::output("unshare", &["--net", "true"]) {
        Ok(_) => found.good(name, ""),
        Err(error) => found.warning(name, error, "a container needs CAP_NET_ADMIN and CAP_SYS_ADMIN for it"),
    }
}

fn is_root() -> bool {
    geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_that_others_may_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let judge = |path: &Path| {
            let mut found = Category::new("pre-flight");
            directory(path, &mut found);
            found.facts[0].result
        };
        assert_eq!(judge(&dir.path().join("none")), Outcome::Skipped);
        for (mode, expected) in [(0o700, Outcome::Ok), (0o750, Outcome::Error), (0o704, Outcome::Error)] {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(judge(dir.path()), expected, "{mode:o}");
        }
    }

    #[test]
    fn every_fact_of_this_command_is_in_the_page_that_explains_it() {
        let page = include_str!("../../../../docs/src/reference/checks.md");
        for fact in facts() {
            assert!(page.contains(&format!("| {} |", fact.name)), "the page does not have {:?}", fact.name);
            assert_eq!(fact.hint.is_some(), matches!(fact.result, Outcome::Warning | Outcome::Error), "{fact:?}");
        }
    }
}
