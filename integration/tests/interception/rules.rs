//! The rules by themselves: what installing, crashing and removing leave of a ruleset that others write to as well.

use rand::{RngExt, SeedableRng};
use std::process::{Command, Stdio};
use std::time::Duration;
use weft_integration::rig::{Namespace, binary, program, run};

const ANOTHER_OWNER: &str = "\
table ip kube-like {
  chain output { type nat hook output priority -100; policy accept; ip daddr 198.51.100.7 tcp dport 443 dnat to 192.0.2.9:8443; }
  chain postrouting { type nat hook postrouting priority 100; policy accept; oifname \"eth9\" masquerade; }
}
table inet firewall {
  set blocked { type ipv4_addr; elements = { 203.0.113.5, 203.0.113.6 } }
  chain input { type filter hook input priority 0; policy accept; ip saddr @blocked counter drop; }
}
";

fn ruleset(namespace: &Namespace) -> String {
    run(&mut namespace.command(program("nft"), &["list", "ruleset"])).ok()
}

/// Rules and routes of routing, of either family.
fn routing(namespace: &Namespace) -> String {
    let ip = |words: &[&str]| run(&mut namespace.command(program("ip"), words)).ok();
    let routes = ["-4", "-6"].map(|family| ip(&[family, "rule"]) + &ip(&[family, "route", "show", "table", "all"]));
    routes.concat()
}

fn intercept(namespace: &Namespace, arguments: &[&str]) -> Command {
    namespace.command(binary("weft-proxy"), &[&["intercept"], arguments].concat())
}

fn with_another_owner() -> (Namespace, String) {
    let namespace = Namespace::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.nft");
    std::fs::write(&file, ANOTHER_OWNER).unwrap();
    run(&mut namespace.command(program("nft"), &["-f", file.to_str().unwrap()])).ok();
    let before = ruleset(&namespace);
    assert!(before.contains("kube-like") && before.contains("203.0.113.5"), "{before}");
    (namespace, before)
}

#[test]
fn whatever_moment_an_installation_dies_at_the_next_one_holds_and_removing_restores_every_byte() {
    dies_at_any_moment(&["install"], "redirect to :15006");
}

#[test]
fn an_installation_for_tproxy_and_its_routes_may_die_at_any_moment_too() {
    dies_at_any_moment(&["install", "--inbound-mode", "tproxy"], "tproxy to :15006");
}

fn dies_at_any_moment(install: &[&str], shows: &str) {
    let (namespace, before) = with_another_owner();
    let routes_before = routing(&namespace);
    run(&mut intercept(&namespace, install)).ok();
    let (installed, routes_installed) = (ruleset(&namespace), routing(&namespace));
    assert!(installed.contains(shows), "{installed}");
    let tproxy = install.len() > 1;
    assert_eq!(tproxy, routes_installed.contains("lookup 15006") && routes_installed.contains("table 15006"));
    assert_eq!(routes_installed != routes_before, tproxy, "{routes_installed}");
    assert!(installed.starts_with(&before) || installed.contains("kube-like"), "{installed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let (mut whole, mut nothing) = (0, 0);
    for turn in 0..60 {
        let begins = if turn % 2 == 0 { &["remove"] } else { install };
        run(&mut intercept(&namespace, begins)).ok();
        let dies = if turn % 4 < 2 { install } else { &["remove"] };
        let mut child = intercept(&namespace, dies).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random.random_range(0..12_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        // All or none of it, whoever is still at work.
        let now = ruleset(&namespace);
        assert!(now == installed || now == before, "after {dies:?} died:\n{now}");
        if now == installed {
            // Rules never stand without the routes that they need.
            assert_eq!(routing(&namespace), routes_installed, "after {dies:?} died");
            whole += 1;
        } else {
            nothing += 1;
        }
        run(&mut intercept(&namespace, install)).ok();
        assert_eq!(ruleset(&namespace), installed, "turn {turn}");
        assert_eq!(routing(&namespace), routes_installed, "turn {turn}");
        run(&mut intercept(&namespace, &["remove"])).ok();
        assert_eq!(ruleset(&namespace), before, "turn {turn}");
        assert_eq!(routing(&namespace), routes_before, "turn {turn}");
    }
    assert!(whole > 5 && nothing > 5, "{whole} died with the rules in force, {nothing} without");
}

#[test]
fn installing_twice_is_installing_once_and_removing_nothing_is_no_error() {
    let (namespace, before) = with_another_owner();
    run(&mut intercept(&namespace, &["remove"])).ok();
    assert_eq!(ruleset(&namespace), before);
    let shown = run(&mut intercept(&namespace, &["show"]));
    assert_eq!(shown.code, 1);
    assert!(shown.err.contains("no interception rules are in force"), "{}", shown.err);
    for _ in 0..2 {
        run(&mut intercept(&namespace, &["install", "--exclude-outbound-ports", "3306,5432"])).ok();
    }
    let shown = run(&mut intercept(&namespace, &["show"])).ok();
    assert_eq!(shown.matches("redirect to :15001").count(), 1, "{shown}");
    assert!(shown.contains("tcp dport { 3306, 5432 } return"), "{shown}");
    // Another way to take calls takes the place of the first, and leaves nothing of it.
    let routes = routing(&namespace);
    run(&mut intercept(&namespace, &["install", "--inbound-mode", "tproxy"])).ok();
    let shown = run(&mut intercept(&namespace, &["show"])).ok();
    assert!(shown.contains("tproxy to :15006") && !shown.contains("redirect to :15006"), "{shown}");
    for family in ["IPv4", "IPv6"] {
        assert!(shown.contains(&format!("# {family}: packets with mark 0x77656664 are local")), "{shown}");
    }
    run(&mut intercept(&namespace, &["install"])).ok();
    assert_eq!(routing(&namespace), routes);
    // What was said the second time alone holds.
    run(&mut intercept(&namespace, &["install", "--no-dns", "--exclude-outbound-interfaces", "tun*"])).ok();
    let shown = run(&mut intercept(&namespace, &["show"])).ok();
    assert!(
        !shown.contains("3306") && !shown.contains(":15053") && shown.contains("oifname \"tun*\" return"),
        "{shown}"
    );
}

#[test]
fn several_that_install_at_once_wait_for_one_another() {
    let (namespace, before) = with_another_owner();
    let mut children: Vec<_> = (0..8)
        .map(|n| {
            let what: &[&str] = if n % 2 == 0 { &["install"] } else { &["remove"] };
            intercept(&namespace, what).spawn().unwrap()
        })
        .collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    run(&mut intercept(&namespace, &["remove"])).ok();
    assert_eq!(ruleset(&namespace), before);
}

#[test]
fn what_cannot_be_a_rule_is_refused_with_its_flag_and_the_rules_stay_as_they_are() {
    let namespace = Namespace::new();
    run(&mut intercept(&namespace, &["install"])).ok();
    let before = ruleset(&namespace);
    for (flag, value) in [
        ("--exclude-outbound-cidrs", "192.0.2.0/33"),
        ("--include-outbound-ports", "0"),
        ("--include-inbound-ports", "http"),
        ("--exclude-outbound-interfaces", "eth0\"; flush ruleset; \""),
        ("--exclude-uids", "nobody"),
        ("--inbound-mode", "dnat"),
    ] {
        let refused = run(&mut intercept(&namespace, &["install", flag, value]));
        assert_eq!(refused.code, 2, "{flag}: {}", refused.err);
        assert!(refused.err.contains(flag), "{flag}: {}", refused.err);
        assert_eq!(ruleset(&namespace), before, "{flag}");
    }
    // Looked at, not done.
    let script = run(&mut intercept(&namespace, &["install", "--dry-run", "--no-inbound"])).ok();
    assert!(script.contains("redirect to :15001") && !script.contains("prerouting"), "{script}");
    assert_eq!(ruleset(&namespace), before);
}

#[test]
fn without_the_right_to_change_rules_the_error_says_so() {
    let namespace = Namespace::new();
    let proxy = binary("weft-proxy");
    let words = ["--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--"];
    let words: Vec<&str> = words.iter().copied().chain([proxy.to_str().unwrap(), "intercept", "install"]).collect();
    let refused = run(&mut namespace.command(program("setpriv"), &words));
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("Operation not permitted"), "{}", refused.err);
}
