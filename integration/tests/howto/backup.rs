//! `docs/src/howto/backup.md`

use crate::page::Page;
use serde_json::Value;
use weft_integration::rig::stage::services;
use weft_integration::rig::{Mesh, Output};

fn objects(mesh: &Mesh) -> Vec<(String, String)> {
    let kinds = ["namespaces", "services"];
    let list = |kind: &str| -> Vec<(String, String)> {
        let text = mesh.weft(&["get", kind, "-A", "-o", "json"]).ok();
        let list: Value = serde_json::from_str(&text).unwrap();
        let name =
            |o: &Value| (o["metadata"]["name"].to_string(), o["metadata"]["uid"].to_string() + &o["spec"].to_string());
        list["items"].as_array().unwrap().iter().map(name).collect()
    };
    kinds.iter().flat_map(|kind| list(kind)).collect()
}

#[test]
fn what_was_backed_up_is_there_again_after_the_store_is_lost() {
    let mut mesh = Mesh::start();
    services(&mesh, "shop", &["cart", "catalog"], 80, "http");
    mesh.weft(&["token", "create", "-n", "shop", "--service", "cart"]).ok();
    let before = objects(&mesh);
    assert!(before.len() >= 4, "{before:?}");
    std::os::unix::fs::symlink(mesh.data(), mesh.folder().join(".weft")).unwrap();

    let backup;
    {
        let mut page = Page::open("backup", &mesh);
        let said = page.run();
        assert!(said.contains("objects of weft.local at revision"), "{said}");
        let file = mesh.folder().join("weft.backup");
        backup = std::fs::read_to_string(&file).unwrap();
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!backup.contains("PRIVATE KEY") && !backup.contains("internal.weft.mesh/jointokens"));

        // While the control plane runs, its store is its own.
        let Output { code, err, .. } = mesh.weft(&["admin", "restore", "weft.backup", "--data-dir", ".weft"]);
        assert!(code == 1 && err.contains("end the control plane"), "{err}");
        let pid = mesh_pid(&mesh);
        terminate(pid);
        std::fs::remove_file(mesh.data().join("weft.redb")).unwrap();
        let said = page.run();
        assert!(said.contains("0 removed"), "{said}");
        let said = page.run();
        assert!(said.contains("bytes before"), "{said}");
        // Once more: nothing is replaced unasked.
        let Output { code, err, .. } = mesh.weft(&["admin", "restore", "weft.backup", "--data-dir", ".weft"]);
        assert!(code == 1 && err.contains("--force"), "{err}");
        mesh.weft(&["admin", "restore", "weft.backup", "--data-dir", ".weft", "--force"]).ok();
        std::fs::write(mesh.folder().join("cut"), &backup[..backup.len() / 2]).unwrap();
        let Output { code, err, .. } = mesh.weft(&["admin", "restore", "cut", "--data-dir", ".weft", "--force"]);
        assert!(code == 1 && err.contains("no whole backup"), "{err}");
    }
    mesh.kill();
    mesh.up(&[]);
    assert_eq!(objects(&mesh), before);
    let tokens = mesh.weft(&["token", "list", "-o", "json"]).ok();
    assert!(!tokens.contains("\"cart\""), "{tokens}");
}

fn mesh_pid(mesh: &Mesh) -> String {
    let text = std::fs::read_to_string(mesh.data().join("endpoints.json")).unwrap();
    let endpoints: Value = serde_json::from_str(&text).unwrap();
    endpoints["pid"].to_string()
}

/// In order, and waited for: its parent has not asked for its end.
fn terminate(pid: String) {
    weft_integration::rig::run(std::process::Command::new("kill").args(["-TERM", &pid])).ok();
    weft_integration::rig::wait_for("the control plane has ended", || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") { Ok(()) } else { Err(state) }
    });
}
