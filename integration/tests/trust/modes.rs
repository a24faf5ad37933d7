//! MeshTLS at each level, and which wins: the port, what is named, the namespace, the mesh. What a stranger gets in plaintext and how
//! sidecars call are both looked at, since a mode is about both.

use crate::peer::Token;
use crate::stage::text;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use weft_integration::rig::stage::{Caller, apply};
use weft_integration::rig::{DEADLINE, Mesh, Process, Upstream, binary, wait_for};

/// The workload `door`, with a listener for plaintext as interception would have it.
struct Door {
    _process: Process,
    plaintext: SocketAddr,
    port: u16,
    caller: Caller,
}

impl Door {
    #[track_caller]
    fn start(mesh: &Mesh, application: &Upstream) -> Self {
        let port = application.port;
        apply(
            mesh,
            &format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop}}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: weft-system}}\n---\n\
                 apiVersion: v1\nkind: Service\nmetadata: {{name: door, namespace: shop}}\nspec: {{ports: [{{name: http, port: 80, targetPort: {port}, appProtocol: http}}]}}\n"
            ),
        );
        let (state, token) = (mesh.folder().join("door-state"), mesh.folder().join("door-token"));
        std::fs::write(&token, Token::create(mesh, "door", &[]).0).unwrap();
        let mut command = Command::new(binary("weft-proxy"));
        command.args(["--namespace", "shop", "--name", "door-1", "--service-account", "door", "--service", "door"]);
        for listener in ["--outbound", "--tunnel", "--plaintext", "--admin"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        command.args(["--port", &format!("{port}:http"), "--control-plane", &mesh.grpc().to_string()]);
        command.args(["--state-dir", text(&state), "--join-token-file", text(&token)]);
        let process = Process::start(mesh.folder(), "door", &mut command);
        let plaintext = wait_for("the sidecar listens for plaintext", || {
            let ready = std::fs::read(state.join("ready.json")).map_err(|e| e.to_string())?;
            let ready: Value = serde_json::from_slice(&ready).map_err(|e| e.to_string())?;
            ready["plaintext"].as_str().and_then(|at| at.parse().ok()).ok_or_else(|| ready.to_string())
        });
        let caller = Caller::start(mesh, "shop", "caller");
        caller.until("the door takes calls", "http://door/", |answer| answer.status == 200);
        Self { _process: process, plaintext, port, caller }
    }

    /// Whether a stranger is let in without TLS, and how a sidecar calls.
    fn seen(&self) -> (bool, &'static str) {
        let mut stream = TcpStream::connect(self.plaintext).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: door\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let admitted = answer.starts_with("HTTP/1.1 200");
        // Open while the port becomes strict, it is cut.
        assert!(admitted || answer.is_empty() || answer.contains("weft-error: plaintext-refused"), "{answer}");
        let count = |tls: &str| {
            self.caller.sidecar.metric("weft_requests_total", &["direction=\"outbound\"", "code=\"200\"", tls])
        };
        let before = count("tls=\"mutual\"");
        assert_eq!(self.caller.get("http://door/").status, 200);
        (admitted, if count("tls=\"mutual\"") > before { "mutual" } else { "none" })
    }

    #[track_caller]
    fn becomes(&self, what: &str, admitted: bool, tls: &'static str) {
        wait_for(what, || match self.seen() {
            seen if seen == (admitted, tls) => Ok(()),
            seen => Err(format!("{seen:?}")),
        });
    }
}

fn mesh_tls(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: MeshTLS\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

#[test]
fn the_port_wins_over_what_is_named_and_that_over_the_namespace_and_the_mesh() {
    let mesh = Mesh::start();
    let application = Upstream::start(|_| (200, "well".to_owned()));
    let door = Door::start(&mesh, &application);
    let named = "targetRefs: [{kind: Service, name: door}]";
    door.becomes("strict is the default", false, "mutual");
    apply(&mesh, &mesh_tls("weft-system", "mesh", "mode: Permissive"));
    door.becomes("permissive by the mesh", true, "mutual");
    apply(&mesh, &mesh_tls("shop", "namespace", "mode: Disabled"));
    door.becomes("disabled by the namespace", true, "none");
    apply(&mesh, &mesh_tls("shop", "named", &format!("{named}, mode: Strict")));
    door.becomes("strict by name", false, "mutual");
    // It is younger than the one by name, and says the same of ports that it does not list.
    let port = format!("{named}, mode: Strict, ports: [{{port: {}, mode: Disabled}}]", door.port);
    apply(&mesh, &mesh_tls("shop", "port", &port));
    door.becomes("disabled by port", true, "none");
    let port = format!("{named}, mode: Strict, ports: [{{port: {}, mode: Permissive}}]", door.port);
    apply(&mesh, &mesh_tls("shop", "port", &port));
    door.becomes("permissive by port", true, "mutual");
    for (namespace, name, admitted, tls) in [
        ("shop", "port", false, "mutual"),
        ("shop", "named", true, "none"),
        ("shop", "namespace", true, "mutual"),
        ("weft-system", "mesh", false, "mutual"),
    ] {
        mesh.weft(&["delete", "mtls", name, "-n", namespace]).ok();
        door.becomes(&format!("without {name}"), admitted, tls);
    }
    // Whoever comes later is under the mesh's mode too.
    apply(&mesh, &mesh_tls("weft-system", "mesh", "mode: Disabled"));
    let late = Upstream::start(|_| (200, "late".to_owned()));
    let _late = late.instance(&mesh, "late", "late-1");
    let plain = || door.caller.sidecar.metric("weft_requests_total", &["destination=\"shop/late\"", "tls=\"none\""]);
    wait_for("a workload that comes later is called in plaintext", || {
        door.caller.get("http://late/");
        if plain() > 0.0 { Ok(()) } else { Err(door.caller.sidecar.metrics()) }
    });
}
