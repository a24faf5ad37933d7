//! What is on the wire between two sidecars, seen by tcpdump in the namespace of a mesh. Needs root.

use crate::capture::{Capture, Flow};
use crate::stage::text;
use std::path::Path;
use weft_integration::rig::{Mesh, Run, python_env, wait_for};

const MARKER: &str = "saffron-thread-5f1c0b7e";

#[test]
fn between_two_sidecars_no_plaintext_crosses_the_wire() {
    let mesh = Mesh::start_in_namespace();
    let capture = Capture::start(&mesh);
    let python = python_env("grpc");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trust/witness.py");
    // In a namespace of its own every port is free but those that the system gives out, which are higher.
    let (web, raw, grpc, outbound) = (18_080_u16, 19_000_u16, 18_051_u16, 17_000_u16);
    let ports = [format!("web=8080:{web}:http"), format!("raw=9000:{raw}:tcp"), format!("rpc=50051:{grpc}:grpc")];
    let (web_, raw_, grpc_) = (web.to_string(), raw.to_string(), grpc.to_string());
    let mut server = mesh.run(&Run {
        name: "vault",
        services: &["vault"],
        ports: &ports,
        command: &[text(&python), text(&script), "serve", &web_, &raw_, &grpc_],
        ..Run::default()
    });
    server.process.wait_for_log("witness serves");
    let named = format!("127.0.0.1:{outbound}=vault:9000");
    let outbound_ = outbound.to_string();
    let said = wait_for("the witness gets its markers back", || {
        let output = mesh.call(&Run {
            name: "client",
            flags: &["--tcp", &named],
            command: &[text(&python), text(&script), "call", MARKER, "http://vault:8080/", &outbound_, "vault:50051"],
            ..Run::default()
        });
        if output.code == 0 { Ok(output.out) } else { Err(format!("{} {}", output.out, output.err)) }
    });
    let proxy: u16 =
        said.trim().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("the client names its proxy");
    let ready = server.ready_file().expect("a sidecar that serves has a ready file");
    let tunnel: u16 = ready["tunnel"].as_str().and_then(|a| a.rsplit_once(':')?.1.parse().ok()).unwrap();

    let flows = capture.stop();
    let seen = |port: u16| flows.iter().filter(|f| f.touches(port)).collect::<Vec<&Flow>>();
    // The capture sees plaintext where there is some: from the client to its own sidecar, and from the server's sidecar to the server.
    for (what, port) in
        [("http_proxy", proxy), ("named outbound", outbound), ("http", web), ("tcp", raw), ("grpc", grpc)]
    {
        let (there, back): (Vec<&Flow>, Vec<&Flow>) =
            seen(port).into_iter().filter(|f| f.contains(MARKER.as_bytes())).partition(|f| f.to.port() == port);
        assert!(!there.is_empty() && !back.is_empty(), "{what}: the marker should be seen both ways on port {port}");
    }
    let header = format!("X-Marker: {MARKER}");
    assert!(seen(web).iter().any(|f| f.contains(header.as_bytes())), "the header with the marker reaches the server");
    // Between the sidecars there are TLS records and nothing else.
    let between = seen(tunnel);
    let carried: usize = between.iter().map(|f| f.bytes.len()).sum();
    assert!(carried > 3 * MARKER.len() && between.iter().any(|f| f.to.port() == tunnel), "{carried} bytes");
    for flow in &between {
        let records = flow.tls_records().unwrap();
        assert!(records > 0 || flow.bytes.is_empty(), "{} → {} carries {} bytes", flow.from, flow.to, flow.bytes.len());
        assert!(!flow.contains(MARKER.as_bytes()), "{} → {} shows the marker", flow.from, flow.to);
    }
    // Nor anywhere else.
    let own = [proxy, outbound, web, raw, grpc];
    for flow in flows.iter().filter(|f| f.contains(MARKER.as_bytes())) {
        assert!(own.iter().any(|port| flow.touches(*port)), "{} → {} shows the marker", flow.from, flow.to);
    }
}
