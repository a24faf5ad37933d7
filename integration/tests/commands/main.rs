//! The commands that look at a running mesh, as people type them: `routes`, `endpoints`, `edges`, `proxy stats`, `check`, `diagnose`, `dashboard`,
//! `top`; and the pages that they and the dashboard read. Real processes and real calls; what is asserted is what is printed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod addressed;
mod check;
mod dashboard;
mod diagnose;
mod live;
mod plan;
mod ranges;
mod seeing;
mod tap;
mod top;

use serde_json::Value;
use weft_integration::rig::stage::{Caller, Instance, services};
use weft_integration::rig::{Mesh, program, run, wait_for};

/// A shop of one catalog that is called.
struct Shop {
    mesh: Mesh,
    catalog: Instance,
    caller: Caller,
}

impl Shop {
    #[track_caller]
    fn open() -> Self {
        Self::open_with(&[])
    }

    /// The same with more flags of `weft up`.
    #[track_caller]
    fn open_with(flags: &[&str]) -> Self {
        let mesh = Mesh::start_with(flags);
        services(&mesh, "shop", &["catalog", "catalog-v2"], 80, "http");
        let catalog = Instance::catalog(&mesh, "catalog-1", "v1");
        let caller = Caller::start(&mesh, "shop", "caller");
        assert_eq!(caller.get("http://catalog/items").status, 200);
        Self { mesh, catalog, caller }
    }

    /// Status and text of a page, as the administrator gets it.
    #[track_caller]
    fn ask(&self, path: &str) -> (u16, String) {
        let papers = self.mesh.papers();
        let mut curl = std::process::Command::new(program("curl"));
        curl.args(["-sS", "--noproxy", "*", "--max-time", "20", "-w", "\n%{http_code}"]);
        curl.arg("--cacert").arg(papers.root).arg("--cert").arg(papers.chain).arg("--key").arg(papers.key);
        let answer = run(curl.arg(format!("{}{path}", self.mesh.api()))).ok();
        let (text, code) = answer.rsplit_once('\n').expect("the code is on a line of its own");
        (code.parse().expect("a code"), text.to_owned())
    }

    /// What a command prints as JSON, once it is as wanted.
    #[track_caller]
    fn until(&self, arguments: &[&str], what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || {
            self.caller.get("http://catalog/items");
            let answer = json(self.mesh.weft(arguments).ok());
            if is_so(&answer) { Ok(answer) } else { Err(answer.to_string()) }
        })
    }
}

#[track_caller]
fn json(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("no JSON document: {error}\n{text}"))
}
