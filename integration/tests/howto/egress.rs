//! `docs/src/howto/egress.md`. In a network namespace: the host outside is an address of it, its name stands in a hosts file that only
//! these sidecars see.

use crate::page::Page;
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

    /// Words that give the command after them the hosts file.
    fn with_hosts(&self) -> [&str; 6] {
        ["unshare", "--mount", "sh", "-c", r#"mount --bind "$0" /etc/hosts && exec "$@""#, &self.hosts]
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
