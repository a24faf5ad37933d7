//! The control plane is killed: nobody who calls notices, sidecars that start without it serve what they knew, and when it is back
//! nothing is sent again.

use crate::stage::{Caller, Instance, Load, assert_all_well, kill_sidecar, text};
use serde_json::Value;
use weft_integration::rig::{Mesh, Sidecar, kubectls, run, wait_for};

/// What the control plane says of itself and its sidecars.
fn fleet(mesh: &Mesh) -> Value {
    let kubectl = kubectls().pop().expect("there is a kubectl");
    let mut command = std::process::Command::new(kubectl);
    command.args(["--kubeconfig", text(&mesh.kubeconfig()), "get", "--raw", "/weft/v1/fleet"]);
    let output = run(command.env("HOME", mesh.folder()));
    serde_json::from_str(&output.ok()).expect("the fleet is JSON")
}

/// Resources that a sidecar received since it started.
fn received(sidecar: &Sidecar) -> f64 {
    sidecar.metric("weft_xds_resources_total", &[])
}

#[track_caller]
fn wait_connected(sidecars: &[&Sidecar], streams: f64) {
    for sidecar in sidecars {
        wait_for("the stream to the control plane is open", || {
            let (open, all) =
                (sidecar.metric("weft_xds_connected", &[]), sidecar.metric("weft_xds_streams_total", &[]));
            if open > 0.5 && all >= streams { Ok(()) } else { Err(format!("open {open}, streams {all}")) }
        });
    }
}

#[test]
fn no_call_fails_when_the_control_plane_is_killed_and_nothing_is_sent_again_when_it_is_back() {
    let mut mesh = Mesh::start();
    let one = Instance::catalog(&mesh, "catalog-1", "v1");
    let two = Instance::catalog(&mesh, "catalog-2", "v1");
    let mut load = Load::start(&mesh, "http://catalog", 150);
    load.go_on_well(200);
    wait_connected(&[&one.sidecar, &two.sidecar, &load.sidecar], 1.0);
    let before = [&one.sidecar, &two.sidecar, &load.sidecar].map(received);

    mesh.kill();
    load.go_on_well(450);
    mesh.up(&[]);
    wait_connected(&[&one.sidecar, &two.sidecar, &load.sidecar], 2.0);
    // Its own counts: every sidecar resumed with what it held.
    let fleet = wait_for("every sidecar is back", || {
        let fleet = fleet(&mesh);
        let xds = &fleet["xds"];
        // Each holds its Inbound, the trust bundle and the settings; load holds catalog and its endpoints besides.
        let back = xds["connected"] == 3 && xds["resourcesResumed"].as_u64() >= Some(3 * 3 + 2);
        if back { Ok(fleet) } else { Err(fleet.to_string()) }
    });
    load.go_on_well(300);
    let after = [&one.sidecar, &two.sidecar, &load.sidecar].map(received);
    println!("before {before:?}, after {after:?}, {}", fleet["xds"]);
    assert_eq!(before, after, "resources were sent again: {fleet:#}");
    assert_eq!(self::fleet(&mesh)["xds"]["resourcesSent"], 0, "{fleet:#}");
    assert_all_well(&load.stop());
}

#[test]
fn a_sidecar_that_starts_while_the_control_plane_is_away_serves_what_it_knew() {
    let mut mesh = Mesh::start();
    let catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let caller = Caller::start(&mesh, "shop", "caller");
    assert_eq!(caller.get("http://catalog/items").status, 200);
    // What is known is written within a second or so: it names the service once it is there.
    wait_for("last-known-good names catalog", || {
        let known = std::fs::read(caller.sidecar.state.join("last-known-good")).map_err(|e| e.to_string())?;
        let known = String::from_utf8_lossy(&known);
        if known.contains("shop/catalog:80") { Ok(()) } else { Err("not yet".to_owned()) }
    });
    mesh.kill();

    // All of `weft run`, started anew from the same state directory.
    let Caller { sidecar: mut first, .. } = caller;
    assert_eq!(first.process.stop(), 143, "{}", first.process.log());
    let caller = Caller::start(&mesh, "shop", "caller");
    for _ in 0..20 {
        let answer = caller.get("http://catalog/items");
        assert_eq!(answer.status, 200, "{answer:?}\n{}", caller.sidecar.process.log());
    }
    assert!(caller.sidecar.metric("weft_xds_connected", &[]) < 0.5, "there is nobody to be connected to");

    // The sidecar of the server, killed alone: `weft run` starts it again where peers know it.
    kill_sidecar(&catalog.sidecar);
    let answer = caller.until("catalog answers again", "http://catalog/items", |answer| answer.status == 200);
    println!("with both sidecars restarted: {}", answer.head.lines().next().unwrap_or_default());

    // And when it is back, so are they.
    mesh.up(&[]);
    wait_connected(&[&catalog.sidecar, &caller.sidecar], 1.0);
    assert_eq!(caller.get("http://catalog/items").status, 200);
}
