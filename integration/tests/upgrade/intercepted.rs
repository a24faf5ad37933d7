//! Where connections are intercepted: the rules stay in force, and names and addresses stay what they are. In network
//! namespaces; needs root.

use crate::install;
use crate::meshed::upgrade;
use std::process::Command;
use weft_integration::rig::stage::{services, text};
use weft_integration::rig::{Mesh, Output, Run, Sidecar, binary, program, run, wait_for};

/// Runs a program in the network namespace of a sidecar.
fn inside(sidecar: &Sidecar, name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program("nsenter"));
    command.arg(format!("--net=/proc/{}/ns/net", sidecar.sidecar_pid().unwrap())).arg("--").arg(program(name));
    run(command.args(arguments))
}

#[test]
fn interception_and_names_go_on_through_an_upgrade() {
    let mesh = Mesh::start_in_namespace();
    services(&mesh, "shop", &["catalog"], 80, "http");
    let installed = mesh.folder().join("bin/weft-proxy");
    std::fs::create_dir(installed.parent().unwrap()).unwrap();
    install(&binary("weft-proxy"), &installed);
    let variable = format!("WEFT_PROXY={}", text(&installed));
    let (shop, sleep) = (binary("weft-shop"), program("sleep"));
    let flags = ["--isolation", "netns", "--death", "kill"];
    let any = Run { before: &["env", &variable], flags: &flags, ..Run::default() };
    let mut catalog = mesh.run_ready(&Run {
        name: "catalog-1",
        services: &["catalog"],
        ports: &["80:8080:http".to_owned()],
        command: &[text(&shop), "catalog", "--listen", "127.0.0.1:8080"],
        ..any.clone()
    });
    let mut caller = mesh.run_ready(&Run { name: "caller", command: &[text(&sleep), "infinity"], ..any });
    let address = mesh.object("service", "shop", "catalog")["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let url = format!("http://{address}/items");
    let call =
        |caller: &Sidecar| inside(caller, "curl", &["-sS", "--fail", "--noproxy", "*", "--max-time", "10", &url]);
    wait_for("the catalog answers", || match call(&caller) {
        output if output.code == 0 => Ok(()),
        output => Err(output.err),
    });
    let rules = |sidecar: &Sidecar| inside(sidecar, "nft", &["list", "table", "inet", "weft"]).ok();
    let before = [&catalog, &caller].map(rules);

    let first = caller.sidecar_pid().unwrap();
    for sidecar in [&catalog, &caller, &caller] {
        upgrade(sidecar, &installed);
        assert!(call(&caller).ok().contains("shuttle"));
        for transport in ["+notcp", "+tcp"] {
            let asked = ["@192.0.2.53", transport, "+short", "+time=5", "+tries=1", "catalog.shop.svc.cluster.local"];
            assert_eq!(inside(&caller, "dig", &asked).ok().trim(), address);
        }
    }
    assert_eq!([&catalog, &caller].map(rules), before);
    assert_ne!(caller.sidecar_pid(), Some(first));
    assert!(
        caller.metric("weft_requests_total", &["direction=\"outbound\"", "tls=\"mutual\""]) > 0.0,
        "it is captured"
    );
    for sidecar in [&mut caller, &mut catalog] {
        sidecar.process.stop();
    }
}
