//! The DNS server over real sockets on loopback, with a real directory and a real upstream.

use super::*;
use crate::discovery::Publisher;
use crate::discovery::file::FileSource;
use crate::takeover::Turn;
use hickory_proto::rr::Name;
use std::str::FromStr as _;
use tokio::sync::mpsc;

const RESOURCES: &str = "
settings: { trustDomain: weft.local, domain: cluster.local }
services:
- name: shop/catalog
  hostnames: [catalog, catalog.shop, catalog.shop.svc.cluster.local]
  vips: [198.51.100.7, '2001:db8::7']
  ports: [{ port: 80, protocol: PROTOCOL_HTTP1, frontend: {}, backend: {} }]
- name: shop/rates
  hostnames: [rates, rates.shop, api.rates.example.com]
  ports: [{ port: 80, protocol: PROTOCOL_HTTP1, frontend: {}, backend: { external: { host: api.rates.example.com, port: 80 } } }]
";

struct Server {
    address: SocketAddr,
    stand_ins: Arc<StandIns>,
    _tasks: JoinSet<()>,
    _dir: tempfile::TempDir,
}

/// A server on loopback; its upstream answers every A question with 203.0.113.9.
async fn server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mesh.yaml");
    std::fs::write(&path, RESOURCES).unwrap();
    let (directory, publisher, _asks) = Publisher::new();
    let source = FileSource::open(&path, publisher, mpsc::channel(1).1).unwrap();
    let mut tasks = JoinSet::new();
    let upstream = both().await;
    let upstream_address = upstream.0.local_addr().unwrap();
    tasks.spawn(answer_everything(upstream.0, upstream.1));
    let (udp, tcp) = both().await;
    let address = udp.local_addr().unwrap();
    let stand_ins = Arc::<StandIns>::default();
    let given = Arc::clone(&stand_ins);
    tasks.spawn(async move {
        let _source = source;
        Resolver::new(directory, vec![upstream_address], given).serve(udp.into(), tcp.into(), Turn::now()).await;
    });
    Server { address, stand_ins, _tasks: tasks, _dir: dir }
}

async fn both() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

fn reply(question: &[u8]) -> Vec<u8> {
    let message = Message::from_vec(question).unwrap();
    let mut answer = Message::response(message.metadata.id, OpCode::Query);
    let query = message.queries[0].clone();
    answer.add_answer(Record::from_rdata(query.name.clone(), 60, RData::A(Ipv4Addr::new(203, 0, 113, 9).into())));
    answer.add_query(query);
    answer.to_vec().unwrap()
}

async fn answer_everything(udp: UdpSocket, tcp: TcpListener) {
    let mut buffer = vec![0; 4096];
    loop {
        tokio::select! {
            Ok((n, from)) = udp.recv_from(&mut buffer) => {
                // A forged answer first: another id, from the same place.
                let mut forged = reply(&buffer[..n]);
                forged[0] ^= 0xff;
                udp.send_to(&forged, from).await.unwrap();
                udp.send_to(&reply(&buffer[..n]), from).await.unwrap();
            }
            Ok((mut stream, _)) = tcp.accept() => {
                let question = read_framed(&mut stream).await.unwrap();
                write_framed(&mut stream, &reply(&question)).await.unwrap();
            }
        }
    }
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn over_udp(server: &Server, question: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.address).await.unwrap();
    socket.send(question).await.unwrap();
    let mut buffer = vec![0; 4096];
    let n = timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..n]).unwrap()
}

async fn over_tcp(server: &Server, questions: &[Vec<u8>]) -> Vec<Message> {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut answers = Vec::new();
    for question in questions {
        write_framed(&mut stream, question).await.unwrap();
        let answer = timeout(Duration::from_secs(10), read_framed(&mut stream)).await.unwrap().unwrap();
        answers.push(Message::from_vec(&answer).unwrap());
    }
    answers
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    let ip = |record: &Record| match &record.data {
        RData::A(a) => IpAddr::V4(a.0),
        RData::AAAA(a) => IpAddr::V6(a.0),
        other => panic!("{other:?}"),
    };
    message.answers.iter().map(ip).collect()
}

#[tokio::test]
async fn names_of_the_mesh_are_answered_with_its_virtual_addresses() {
    let server = server().await;
    for name in ["catalog.", "CATALOG.shop.", "catalog.shop.svc.cluster.local."] {
        let answer = over_udp(&server, &question(name, RecordType::A)).await;
        assert_eq!(addresses(&answer), ["198.51.100.7".parse::<IpAddr>().unwrap()], "{name}");
        assert_eq!(answer.metadata.id, 4711);
        let answer = over_udp(&server, &question(name, RecordType::AAAA)).await;
        assert_eq!(addresses(&answer), ["2001:db8::7".parse::<IpAddr>().unwrap()], "{name}");
    }
    let other = over_udp(&server, &question("catalog.", RecordType::TXT)).await;
    assert_eq!((other.metadata.response_code, other.answers.len()), (ResponseCode::NoError, 0));
}

#[tokio::test]
async fn a_registered_host_outside_is_answered_with_an_address_that_stands_in_for_it() {
    let server = server().await;
    let mut given = Vec::new();
    for name in ["api.rates.example.com.", "rates.shop."] {
        let answer = over_udp(&server, &question(name, RecordType::A)).await;
        assert_eq!(addresses(&answer), addresses(&over_udp(&server, &question(name, RecordType::A)).await));
        let name = server.stand_ins.name(addresses(&answer)[0]);
        given.push(name.expect("an address that stands in for a name").to_string());
        // In the other family too, one of its own: there is no other way to it.
        let answer = over_udp(&server, &question("api.rates.example.com.", RecordType::AAAA)).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 1));
        let name = server.stand_ins.name(addresses(&answer)[0]);
        assert_eq!(name.as_deref(), Some("api.rates.example.com"));
    }
    assert_eq!(given, ["api.rates.example.com", "rates.shop"]);
}

#[tokio::test]
async fn a_name_of_the_mesh_that_does_not_exist_is_not_asked_for_elsewhere() {
    let server = server().await;
    let answer = over_udp(&server, &question("books.shop.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn other_names_are_forwarded_and_a_forged_answer_is_passed_over() {
    let server = server().await;
    let answer = over_udp(&server, &question("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.id, 4711);
    assert_eq!(addresses(&answer), ["203.0.113.9".parse::<IpAddr>().unwrap()]);
}

#[tokio::test]
async fn a_tcp_connection_takes_one_question_after_another() {
    let server = server().await;
    let questions = [question("catalog.", RecordType::A), question("example.com.", RecordType::A)];
    let answers = over_tcp(&server, &questions).await;
    assert_eq!(addresses(&answers[0]), ["198.51.100.7".parse::<IpAddr>().unwrap()]);
    assert_eq!(addresses(&answers[1]), ["203.0.113.9".parse::<IpAddr>().unwrap()]);
}

#[tokio::test]
async fn what_is_no_question_is_refused_or_ignored() {
    let server = server().await;
    let mut broken = question("catalog.", RecordType::A);
    broken.truncate(14);
    assert_eq!(over_udp(&server, &broken).await.metadata.response_code, ResponseCode::FormErr);
    let mut update = Message::new(1, MessageType::Query, OpCode::Update);
    update.add_query(Query::query(Name::from_str("catalog.").unwrap(), RecordType::A));
    let answer = over_udp(&server, &update.to_vec().unwrap()).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NotImp);
    assert!(refusal(&[0, 1, 0x80], ResponseCode::FormErr).is_none(), "an answer is never answered");
    assert!(refusal(&[0], ResponseCode::FormErr).is_none());
}

#[test]
fn the_systems_resolvers_are_read_without_ourselves() {
    let own = ["127.0.0.1:53".parse().unwrap()];
    let text = "# comment\nsearch shop.svc.cluster.local\nnameserver 127.0.0.1\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\n";
    assert_eq!(system_upstream(text, &own), ["192.0.2.53:53".parse().unwrap()]);
}
