//! Registered external hosts: resolved by the sidecar, again when their records expire.

use crate::resources;
use crate::sidecar::app::{App, Said};
use crate::sidecar::client::Client;
use crate::sidecar::{PATIENCE, Sidecar, route};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use parking_lot::Mutex;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A name server that knows one name.
struct Dns {
    at: SocketAddr,
    address: Arc<Mutex<Option<Ipv4Addr>>>,
    asked: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Dns {
    async fn start(name: &'static str, address: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        let (address, asked) = (Arc::new(Mutex::new(Some(address))), Arc::new(AtomicUsize::new(0)));
        let (known, counted) = (Arc::clone(&address), Arc::clone(&asked));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let Ok(mut message) = Message::from_vec(&buffer[..length]) else { continue };
                counted.fetch_add(1, SeqCst);
                message.metadata.message_type = MessageType::Response;
                let question = message.queries[0].clone();
                let ours = question.name.to_string().trim_end_matches('.') == name;
                let address = *known.lock();
                match address {
                    Some(address) if ours && question.query_type == RecordType::A => {
                        message.add_answer(Record::from_rdata(question.name.clone(), 1, RData::A(address.into())));
                    }
                    Some(_) if ours => {}
                    _ => message.metadata.response_code = ResponseCode::ServFail,
                }
                let _ = socket.send_to(&message.to_vec().unwrap(), from).await;
            }
        });
        Self { at, address, asked, _task: task }
    }
}

async fn until_answered_by(client: &mut Client, name: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = client.get("front", "/", "").await;
        if answer.status == 200 && answer.text() == name {
            return;
        }
        assert!(Instant::now() < until, "{answer:?}, not {name}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_host_is_followed_to_its_new_address_and_outlives_its_name_server() {
    let first = App::named("first").await;
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], first.at.port()));
    let second = App::start_on(elsewhere, "second", |call| async move {
        Said::ok(if call.host == "api.example.com" { "second" } else { "a wrong host" })
    });
    let _second = second.await;
    let dns = Dns::start("api.example.com", Ipv4Addr::LOCALHOST).await;
    let external = json!({"external": {"host": "api.example.com", "port": first.at.port()}});
    // The host that the application outside knows itself by.
    let named = json!({"filters": [{"rewrite": {"hostname": "api.example.com"}}]});
    let frontend = json!({"routes": [route("ROUTE_KIND_HTTP", &[("api", 1)], named)]});
    let sidecar =
        Sidecar::start_with(&resources(frontend, &[("api", &[], external)]), &json!({"dns": {"upstream": [dns.at]}}));
    let mut client = Client::tunnel(sidecar.at("outbound"), "front:80").await;
    until_answered_by(&mut client, "first").await;
    *dns.address.lock() = Some(Ipv4Addr::new(127, 0, 0, 2));
    until_answered_by(&mut client, "second").await;
    // The name server fails: the last addresses hold.
    *dns.address.lock() = None;
    let (asked, until) = (dns.asked.load(SeqCst), Instant::now() + PATIENCE);
    while dns.asked.load(SeqCst) < asked + 2 {
        assert_eq!(client.get("front", "/", "").await.text(), "second");
        assert!(Instant::now() < until, "it asks again");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(client.get("front", "/", "").await.text(), "second");
}
