//! The commands that look at a running mesh, as people type them: `routes`, `endpoints`, `proxy stats`, `check`, `diagnose`, `top`. Real
//! processes and real calls; what is asserted is what is printed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod check;
mod diagnose;
mod seeing;
mod top;

use serde_json::Value;
use weft_integration::rig::stage::{Caller, Instance, services};
use weft_integration::rig::{Mesh, wait_for};

/// A shop of one catalog that is called.
struct Shop {
    mesh: Mesh,
    catalog: Instance,
    caller: Caller,
}

impl Shop {
    #[track_caller]
    fn open() -> Self {
        let mesh = Mesh::start();
        services(&mesh, "shop", &["catalog", "catalog-v2"], 80, "http");
        let catalog = Instance::catalog(&mesh, "catalog-1", "v1");
        let caller = Caller::start(&mesh, "shop", "caller");
        assert_eq!(caller.get("http://catalog/items").status, 200);
        Self { mesh, catalog, caller }
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
