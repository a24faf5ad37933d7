//! What an SVID opens at the control plane: the Inbound of a workload that is its own, services as its own namespace sees them, and the
//! control stream of its own workload. Nothing that a client says of itself changes that.

use crate::peer::{Peer, Token, block};
use crate::stage::StandIn;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use weft_integration::rig::Mesh;
use weft_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_proto::v1::control_client::ControlClient;
use weft_proto::v1::{ControlUp, Hello, Readiness, control_up};
use weft_proto::{core, type_url, v1};

const ANSWER: Duration = Duration::from_secs(20);

/// An xDS stream by hand.
struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Stream {
    async fn open(channel: Channel) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(8);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    /// Asks for resources by name, and says of itself that it is `node`.
    async fn ask(&mut self, url: &str, names: &[&str], node: &str) -> Result<DeltaDiscoveryResponse, Status> {
        let node = core::Node { id: node.to_owned(), cluster: node.to_owned(), ..Default::default() };
        let request = DeltaDiscoveryRequest {
            node: Some(node),
            type_url: url.to_owned(),
            resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
            ..Default::default()
        };
        self.requests.send(request).await.expect("the stream takes requests");
        let answer = tokio::time::timeout(ANSWER, self.responses.message()).await.expect("the control plane answers");
        answer?.ok_or_else(|| Status::cancelled("the stream ended"))
    }
}

/// A mesh with sidecars of cart and payments, and one more holder of cart's identity: the test.
fn scene() -> (Mesh, StandIn, StandIn, Peer) {
    let mesh = Mesh::start();
    let cart = StandIn::start(&mesh, "cart", "http");
    let payments = StandIn::start(&mesh, "payments", "http");
    let peer = block(Peer::join(&mesh, "cart"));
    (mesh, cart, payments, peer)
}

#[test]
fn an_svid_of_cart_does_not_get_the_inbound_of_payments() {
    let (_mesh, _cart, _payments, peer) = scene();
    block(async {
        // Its own, so that the question is one that is answered.
        let mut stream = Stream::open(peer.channel()).await.unwrap();
        let answer = stream.ask(type_url::INBOUND, &["shop/cart"], "shop/cart").await.unwrap();
        assert_eq!(answer.resources.len(), 1, "{answer:?}");
        assert_eq!(answer.resources[0].name, "shop/cart");
        // That of payments is not there for it, whatever it calls itself and however it asks.
        for node in ["shop/payments", "shop/cart", "", "spiffe://weft.local/ns/shop/sa/payments"] {
            let mut stream = Stream::open(peer.channel()).await.unwrap();
            let answer = stream.ask(type_url::INBOUND, &["shop/payments"], node).await.unwrap();
            assert!(answer.resources.is_empty(), "as {node:?}: {answer:?}");
            assert_eq!(answer.removed_resources, ["shop/payments"], "absent, said at once");
        }
        let mut stream = Stream::open(peer.channel()).await.unwrap();
        let answer = stream.ask(type_url::INBOUND, &["shop/cart", "shop/payments"], "shop/payments").await.unwrap();
        assert!(answer.resources.iter().all(|r| r.name == "shop/cart"), "{answer:?}");
        // Nor everything at once.
        for names in [&["*"][..], &[]] {
            for url in [type_url::INBOUND, type_url::SERVICE, type_url::ENDPOINTS] {
                let mut stream = Stream::open(peer.channel()).await.unwrap();
                let status = stream.ask(url, names, "shop/cart").await.unwrap_err();
                assert!(status.code() == Code::InvalidArgument && status.message().contains("wildcard"), "{status:?}");
            }
        }
    });
}

#[test]
fn without_an_svid_there_is_no_discovery_and_no_control_stream() {
    let (mesh, _cart, _payments, _peer) = scene();
    let token = Token::create(&mesh, "cart", &[]);
    block(async {
        let mut stream = Stream::open(token.channel(mesh.grpc())).await;
        if let Ok(stream) = &mut stream {
            // The refusal may come with the first message instead.
            let status = stream.ask(type_url::INBOUND, &["shop/cart"], "shop/cart").await.unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        } else {
            assert_eq!(stream.err().map(|s| s.code()), Some(Code::Unauthenticated));
        }
        let status = control(token.channel(mesh.grpc()), "shop/cart").await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    });
}

/// Opens a control stream as `workload`; an error is what the control plane says to that. Accepted is who, having said that it leaves,
/// gets the acknowledgement.
async fn control(channel: Channel, workload: &str) -> Result<(), Status> {
    let (sender, outgoing) = mpsc::channel(8);
    let hello = Hello { workload: workload.to_owned(), version: "test".to_owned() };
    let withdraw = Readiness { ready: false, withdraw: true };
    for message in [control_up::Message::Hello(hello), control_up::Message::Readiness(withdraw)] {
        sender.send(ControlUp { message: Some(message) }).await.expect("room for two");
    }
    let mut down = ControlClient::new(channel).stream(ReceiverStream::new(outgoing)).await?.into_inner();
    loop {
        let answer = tokio::time::timeout(ANSWER, down.message()).await.expect("the control plane answers")?;
        match answer.and_then(|down| down.message) {
            Some(v1::control_down::Message::WithdrawalAck(_)) => return Ok(()),
            // Commands, which a sidecar is given whenever it comes.
            Some(v1::control_down::Message::Command(_)) => {}
            other => return Err(Status::unknown(format!("{other:?}"))),
        }
    }
}

#[test]
fn an_svid_of_cart_does_not_speak_for_payments() {
    let (mesh, _cart, _payments, peer) = scene();
    block(async {
        for workload in ["shop/payments", "bank/payments", "payments", "", "shop/", "/", "shop/nobody"] {
            let status = control(peer.channel(), workload).await.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied, "{workload:?}: {status:?}");
        }
    });
    // So it could not withdraw payments, which is as ready as it was.
    let workload = mesh.object("workload", "shop", "payments");
    assert_eq!(workload["status"]["phase"], "Ready", "{workload}");
    // Its own it can.
    block(async { control(peer.channel(), "shop/cart").await }).unwrap();
}
