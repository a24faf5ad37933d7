//! `docs/src/howto/tracing.md`. In a network namespace, whose port 4317 is a receiver's.

use crate::page::Page;
use std::path::Path;
use weft_integration::rig::stage::{services, text};
use weft_integration::rig::{Mesh, Process, Run, binary, python_env, wait_for};

#[test]
fn a_call_is_told_to_the_receiver_that_the_settings_name() {
    let mesh = Mesh::start_in_namespace();
    services(&mesh, "shop", &["catalog"], 80, "http");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/telemetry/receiver.py");
    let namespace = mesh.namespace().expect("it runs in one");
    let mut command = namespace.command(python_env("otlp"), &[text(&script), "4317", "4318"]);
    let mut receiver = Process::start(mesh.folder(), "receiver", &mut command);
    receiver.wait_for_log("{\"grpc\": 4317");
    let shop = binary("weft-shop");
    let mut catalog = mesh.run(&Run {
        name: "catalog-1",
        services: &["catalog"],
        ports: &["80:8080:http".to_owned()],
        command: &[text(&shop), "catalog", "--listen", "127.0.0.1:8080"],
        ..Run::default()
    });
    catalog.wait_ready();
    wait_for("catalog is ready", || match mesh.object("workload", "shop", "catalog-1") {
        workload if workload["status"]["phase"] == "Ready" => Ok(()),
        workload => Err(workload.to_string()),
    });
    let mut page = Page::open("tracing", &mesh);
    page.file();
    page.run();
    wait_for("both sides have told their spans", || {
        let log = receiver.log();
        let has = |service: &str| log.contains(&format!("\"service.name\": \"{service}\""));
        if has("catalog") && has("visitor") { Ok(()) } else { Err(log) }
    });
}
