//! In a mesh, on both sides of the calls: a thousand a second and a hundred websockets, through three upgrades in a
//! row.

use crate::app;
use crate::traffic::{Door, Traffic};
use crate::{install, lives};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::Path;
use weft_integration::rig::stage::text;
use weft_integration::rig::{Caller, Mesh, Run, Sidecar, binary, program, wait_for};

fn process(sidecar: &Sidecar) -> Result<Value, String> {
    serde_json::from_str(&sidecar.admin("/process")?).map_err(|e| e.to_string())
}

/// Installs another file and asks the process that serves to make place for it; its id before and after.
pub fn upgrade(sidecar: &Sidecar, installed: &Path) -> (u64, u64) {
    install(&binary("weft-proxy"), installed);
    let before = process(sidecar).unwrap()["pid"].as_u64().unwrap();
    let pid = sidecar.sidecar_pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::USR2).unwrap();
    let after = wait_for("another process serves", || match process(sidecar)?["pid"].as_u64() {
        Some(pid) if pid != before => Ok(pid),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(sidecar.sidecar_pid().map(u64::from), Some(after), "ready.json names who serves");
    (before, after)
}

#[test]
fn three_upgrades_of_both_sidecars_under_load_lose_no_call_and_no_websocket() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let application = runtime.block_on(app::start());
    let mut mesh = Mesh::start();
    let installed = mesh.folder().join("bin/weft-proxy");
    std::fs::create_dir(installed.parent().unwrap()).unwrap();
    install(&binary("weft-proxy"), &installed);
    let variable = format!("WEFT_PROXY={}", text(&installed));
    let sleep = program("sleep");
    let run = Run { before: &["env", &variable], command: &[text(&sleep), "infinity"], ..Run::default() };
    let ports = [format!("80:{}:http", application.port())];
    let mut callee = mesh.run_ready(&Run { name: "echo-1", services: &["echo"], ports: &ports, ..run.clone() });
    let caller = mesh.run_ready(&Run { name: "caller", flags: &["--service-account", "caller"], ..run });
    let mut caller = Caller::of(caller, "shop");
    caller.until("the callee is known", "http://echo/", |answer| answer.status == 200);
    let (address, credentials) = caller.proxy();
    let fields = format!("Proxy-Authorization: Basic {credentials}\r\n");
    let door = Door { address, base: "http://echo".to_owned(), fields };
    let traffic = Traffic::start(&runtime, &door, 1000, 100);
    traffic.go_on_well(2000);

    let mut relieved = Vec::new();
    let firsts = [&callee, &caller.sidecar].map(|sidecar| process(sidecar).unwrap()["pid"].as_u64().unwrap());
    for round in 1..=3 {
        for sidecar in [&callee, &caller.sidecar] {
            let (before, after) = upgrade(sidecar, &installed);
            traffic.go_on_well(1000);
            println!("round {round}: {before} → {after}; {} calls so far, none failed", traffic.calls());
            relieved.push(before);
        }
    }
    // The websockets are in the processes that they came to; those between have nothing left to do.
    relieved.retain(|pid| !firsts.contains(pid));
    assert_eq!(relieved.len(), 4);
    for pid in relieved {
        wait_for(
            "who has nothing open any more ends",
            || if lives(pid) { Err(format!("{pid} lives")) } else { Ok(()) },
        );
    }
    assert!(firsts.into_iter().all(lives));
    traffic.go_on_well(1000);
    let rate = traffic.rate();
    println!("{} calls ({rate:.0} a second), {} echoes, none failed", traffic.calls(), traffic.echoed());
    // It is a thousand where the machine does not do other things at the same time.
    assert!(rate > 500.0, "{rate} calls a second");
    traffic.stop(&runtime);

    let up = mesh.control_plane().log();
    assert!(!up.contains("has been lost") && !up.contains("panicked"), "{up}");
    for (name, sidecar) in [("echo-1", &callee), ("caller", &caller.sidecar)] {
        assert_eq!(mesh.object("workload", "shop", name)["status"]["phase"], "Ready", "{}", sidecar.process.log());
    }
    // `weft run` saw one process all the time, and ends it as ever: the program's end by a signal is what it reports.
    for sidecar in [&mut caller.sidecar, &mut callee] {
        let serves = sidecar.sidecar_pid().map(u64::from).unwrap();
        assert_eq!(sidecar.process.stop(), 128 + Signal::TERM.as_raw(), "{}", sidecar.process.log());
        assert!(!lives(serves), "the one that served has ended too");
    }
}
