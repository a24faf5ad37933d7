//! `docs/src/howto/egress.md`. In a network namespace: the host outside is an address of it, its name stands in a hosts file that only
//! these sidecars see.

use crate::page::{Page, example};
use std::cell::RefCell;
use weft_integration::rig::stage::{services, text};
use weft_integration::rig::{Caller, Mesh, Output, Process, Run, binary, program, run, wait_for};

/// An address of documentation (RFC 5737), which is the test's in its namespace.
const OUTSIDE: &str = "203.0.113.9";

/// A mesh, and the world outside of it.
struct World {
    mesh: Mesh,
    outside: RefCell<Process>,
    hosts: String,
}

impl World {
    fn new(flags: &[&str]) -> Self {
        let mesh = Mesh::start_in_namespace_with(flags);
        services(&mesh, "shop", &[], 80, "http");
        let namespace = mesh.namespace().expect("it runs in one");
        run(&mut namespace.command(program("ip"), &["address", "add", &format!("{OUTSIDE}/32"), "dev", "lo"])).ok();
        let outside = Self::outside(&mesh, "80");
        let hosts = mesh.folder().join("hosts");
        std::fs::write(&hosts, format!("127.0.0.1 localhost\n{OUTSIDE} api.rates.example.com\n")).unwrap();
        let hosts = text(&hosts).to_owned();
        Self { mesh, outside: RefCell::new(outside), hosts }
    }

    fn outside(mesh: &Mesh, port: &str) -> Process {
        let namespace = mesh.namespace().expect("it runs in one");
        let listen = format!("{OUTSIDE}:{port}");
        let shop = binary("weft-shop");
        let mut command = namespace.command(shop, &["catalog", "--listen", &listen, "--version", "outside"]);
        let mut process = Process::start(mesh.folder(), &format!("outside-{port}"), &mut command);
        process.wait_for_log("listening");
        process
    }

    /// Words that give the command after them the hosts file, and no name servers.
    fn with_hosts(&self) -> [&str; 6] {
        let script = r#"mount --bind "$0" /etc/hosts && mount --bind /dev/null /etc/resolv.conf && exec "$@""#;
        ["unshare", "--mount", "sh", "-c", script, &self.hosts]
    }

    /// A workload in the namespace, for which `curl` calls.
    fn caller(&self) -> Caller {
        let sleep = program("sleep");
        let (before, command) = (self.with_hosts(), [text(&sleep), "infinity"]);
        let what = Run { name: "caller", before: &before, command: &command, ..Run::default() };
        Caller::of(self.mesh.run_ready(&what), "shop")
    }

    /// A call through its sidecar: the body, and the status after it.
    fn call(&self, caller: &Caller, url: &str) -> String {
        let (outbound, credentials) = caller.proxy();
        let proxy = format!("http://{outbound}");
        let authorization = format!("Proxy-Authorization: Basic {credentials}");
        self.curl(&["--proxy", &proxy, "--proxy-header", &authorization, url]).out
    }

    fn curl(&self, words: &[&str]) -> Output {
        let common = ["-sS", "-m", "20", "-w", "%{http_code}"];
        let namespace = self.mesh.namespace().expect("it runs in one");
        run(&mut namespace.command(program("curl"), &[&common, words].concat()))
    }
}

#[test]
fn a_registered_host_is_a_service_and_what_is_not_registered_is_none() {
    let world = World::new(&[]);
    let mut page = Page::open("egress", &world.mesh);
    page.file();
    let said = page.run_after(&world.with_hosts());
    let answered = said.lines().filter(|line| line.trim() == "x-catalog-version: outside").count();
    assert_eq!(answered, 2, "by the host's own name and by the Service's: {said}");

    let caller = world.caller();
    let answers = |what: &str, url: &str, right: &dyn Fn(&str) -> bool| {
        wait_for(what, || match world.call(&caller, url) {
            answer if right(&answer) => Ok(()),
            answer => Err(answer),
        });
    };
    let outside = |answer: &str| answer.contains("\"version\":\"outside\"") && answer.ends_with("200");
    assert!(world.call(&caller, "http://unregistered.example.com/").ends_with("421"));
    answers("the host answers", "http://api.rates.example.com/latest", &outside);
    let counted = caller.sidecar.metric("weft_requests_total", &["destination=\"shop/rates\"", "code=\"200\""]);
    assert!(counted > 0.5, "{}", caller.sidecar.metrics());
    // The host goes, and its fallback answers; it returns.
    world.outside.borrow_mut().stop();
    answers("the fallback answers", "http://rates/latest", &|answer| answer == "{}200");
    *world.outside.borrow_mut() = World::outside(&world.mesh, "80");
    answers("the host answers again", "http://rates/latest", &outside);
    page.run();
    answers("it is unregistered", "http://api.rates.example.com/latest", &|answer| answer.ends_with("421"));
}

/// A host that is registered by its address alone.
const BY_ADDRESS: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: fixed, namespace: shop}
spec: {type: ExternalName, externalName: 203.0.113.9, ports: [{name: http, port: 82}]}
";

/// What a program gets that knows nothing of the mesh: whether each call reached the host outside. And whom its sidecar counted.
fn intercepted(flags: &[&str]) -> (Vec<bool>, Vec<String>) {
    let world = World::new(flags);
    let _others = ["81", "82"].map(|port| World::outside(&world.mesh, port));
    world.mesh.apply(&(example("egress") + BY_ADDRESS)).ok();
    // The program has no hosts file: it asks the sidecar's DNS, as it would anywhere.
    let script = r#"umount /etc/hosts
        for url in http://api.rates.example.com/ http://rates/ http://203.0.113.9:82/ http://api.rates.example.com:81/ http://203.0.113.9/
        do curl -sS -m 10 -o /dev/null -w 'answered by %header{x-catalog-version}\n' $url || true; done"#;
    let (before, command) = (world.with_hosts(), ["unshare", "--mount", "sh", "-c", script]);
    let flags = ["--isolation", "netns"];
    let what = Run { name: "caller", flags: &flags, before: &before, command: &command, ..Run::default() };
    let mut caller = world.mesh.run(&what);
    assert_eq!(caller.process.wait(), 0, "{}", caller.process.log());
    let log = caller.process.log();
    let sidecar = std::fs::read_to_string(caller.state.join("sidecar.log")).unwrap_or_default();
    println!("{log}{sidecar}");
    let reached = log.lines().filter_map(|line| Some(line.strip_prefix("answered by")?.trim() == "outside")).collect();
    let destinations =
        caller.access().iter().filter_map(|call| Some(call["destination"].as_str()?.to_owned())).collect();
    (reached, destinations)
}

#[test]
fn where_everything_is_intercepted_what_is_not_registered_passes() {
    let (reached, destinations) = intercepted(&[]);
    assert_eq!(reached, [true; 5]);
    assert_eq!(destinations[..3], ["shop/rates", "shop/rates", "shop/fixed"], "{destinations:?}");
}

#[test]
fn where_everything_is_intercepted_what_is_not_registered_is_refused_if_the_control_plane_says_so() {
    let (reached, destinations) = intercepted(&["--egress", "registered-only"]);
    assert_eq!(reached, [true, true, true, false, false]);
    assert_eq!(destinations[..3], ["shop/rates", "shop/rates", "shop/fixed"], "{destinations:?}");
}
