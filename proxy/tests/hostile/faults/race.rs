//! An upstream that closes idle connections just as requests arrive: the oldest race of HTTP/1 (RFC 9112 section 9.3.1).

use crate::mesh::Mesh;
use crate::rig;
use crate::wire::Client;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

/// Rounds of each method, each with a connection that is closed in it.
const ROUNDS: usize = 150;

#[test]
fn a_connection_that_closes_as_a_request_arrives_loses_no_get_and_repeats_no_post() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let executed = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
    let counted = Arc::clone(&executed);
    // Ends with the test process.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let counted = Arc::clone(&counted);
            std::thread::spawn(move || {
                let (mut stream, mut read, mut buffer) = (stream, Vec::new(), [0; 4096]);
                stream.set_nodelay(true).unwrap();
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    read.extend_from_slice(&buffer[..count]);
                    if !read.windows(4).any(|w| w == b"\r\n\r\n") {
                        continue;
                    }
                    let text = String::from_utf8_lossy(&read).into_owned();
                    let id = text.split(' ').nth(1).unwrap_or_default().to_owned();
                    *counted.lock().entry(id.clone()).or_default() += 1;
                    // The answer and the FIN leave a little apart, and the connection never said that it closes.
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                    // From no pause at all to more than a round takes.
                    let pause = id.bytes().fold(0u64, |sum, byte| sum * 10 + u64::from(byte % 10)) % 8;
                    (0..pause * 20_000).for_each(|n| {
                        std::hint::black_box(n);
                    });
                    return;
                }
            });
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let mesh = Mesh::new(folder.path());
    let budget = json!({"retryBudget": {"percent": 100, "minPerSecond": 1000}});
    let services = vec![rig::service("orders", "PROTOCOL_HTTP1", &budget, &[rig::bare("orders-1", at)])];
    let sidecar = rig::sidecar(&mesh, "client", "storefront", &json!({}), rig::calls(services));
    let mut client = Client::connect(sidecar.address("outbound"));
    let (mut lost, mut answered) = (0, 0);
    for round in 0..ROUNDS {
        let get = client.get("orders", &format!("/get-{round}"));
        assert!(get.as_ref().is_ok_and(|answer| answer.status == 200), "round {round}: {get:?}");
        let id = format!("/post-{round}");
        client.send(format!("POST {id} HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n").as_bytes());
        match client.answer(false) {
            Ok(answer) if answer.status == 200 => answered += 1,
            // It may have been executed, and nobody can tell: the caller is told so, and it is not sent again.
            Ok(answer) if answer.status == 502 => lost += 1,
            other => panic!("round {round}: {other:?}"),
        }
        let times = executed.lock().get(&id).copied().unwrap_or_default();
        assert!(times <= 1, "{id} was executed {times} times");
    }
    println!(
        "{ROUNDS} rounds: every GET answered; of as many POSTs {answered} answered, {lost} lost to the race and not repeated"
    );
}
