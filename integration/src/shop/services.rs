//! The services of the shop. An upstream that fails is named in `x-shop-error: <upstream>; status=…; weft-error=…`, passed on by those
//! who called it, so that a failure at the edge says where it began.

use super::client::{Client, Proxy, trace_headers};
use super::proto::users_client::UsersClient;
use super::proto::users_server::{Users, UsersServer};
use super::proto::{FindRequest, ImportSummary, ListRequest, User};
use super::server::{self, Call, json};
use super::{Command, Error, Listen};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rand::RngExt;
use serde_json::{Value, json as object};
use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

type Answer = Response<Full<Bytes>>;

/// payments remembers this many keys.
const KEYS: usize = 100_000;

pub async fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Storefront { listen, catalog, orders } => {
            let shop = Arc::new((Client::new(&catalog)?, Client::new(&orders)?));
            server::serve("storefront", &listen, move |call| {
                let shop = shop.clone();
                async move { storefront(&shop.0, &shop.1, call).await }
            })
            .await
        }
        Command::Catalog { listen } => {
            let version = listen.version.clone();
            server::serve("catalog", &listen, move |_| {
                let items = object!({"version": version, "items": ["warp", "weft", "shuttle", "reed"]});
                let mut answer = json(StatusCode::OK, &items);
                if let Ok(value) = HeaderValue::from_str(&version) {
                    answer.headers_mut().insert("x-catalog-version", value);
                }
                async move { answer }
            })
            .await
        }
        Command::Orders { listen, inventory, payments, users } => {
            let orders = Arc::new(Orders {
                inventory: Client::new(&inventory)?,
                payments: Client::new(&payments)?,
                users: users_channel(&users)?,
            });
            server::serve("orders", &listen, move |call| {
                let orders = orders.clone();
                async move { orders.place(call).await }
            })
            .await
        }
        Command::Inventory { listen, slow_percent, slow_for } => {
            server::serve("inventory", &listen, move |_| async move {
                if chance(slow_percent) {
                    tokio::time::sleep(slow_for).await;
                }
                json(StatusCode::OK, &object!({"left": 7}))
            })
            .await
        }
        Command::Payments { listen, fail_percent } => {
            let charged = Arc::new(Charged::default());
            server::serve("payments", &listen, move |call| {
                let charged = charged.clone();
                async move { charged.charge(&call, fail_percent) }
            })
            .await
        }
        Command::Users { listen } => users_server(&listen, server::stopped()).await,
        Command::Load(_) => Err("the load driver is not a service".into()),
    }
}

fn chance(percent: u32) -> bool {
    rand::rng().random_range(0..100) < percent
}

/// What an upstream that failed leaves behind.
struct Failure {
    cause: HeaderValue,
}

impl Failure {
    fn new(upstream: &str, status: Option<StatusCode>, headers: Option<&HeaderMap>) -> Self {
        // The innermost cause wins: whoever answered with one passes it on.
        if let Some(inner) = headers.and_then(|h| h.get("x-shop-error")) {
            return Self { cause: inner.clone() };
        }
        let status = status.map_or_else(|| "none".to_owned(), |s| s.as_u16().to_string());
        let mesh = headers.and_then(|h| h.get("weft-error")).and_then(|v| v.to_str().ok()).unwrap_or("-");
        let text = format!("{upstream}; status={status}; weft-error={mesh}");
        Self { cause: HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("unprintable")) }
    }

    fn answer(self) -> Answer {
        let mut answer = json(StatusCode::BAD_GATEWAY, &object!({"error": self.cause.to_str().unwrap_or_default()}));
        answer.headers_mut().insert("x-shop-error", self.cause);
        answer
    }
}

/// A call to `upstream` that must end with 2xx.
async fn ask(
    upstream: &str,
    client: &Client,
    method: Method,
    path: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response<Bytes>, Failure> {
    match client.call(method, path, headers, body).await {
        Ok(answer) if answer.status().is_success() => Ok(answer),
        Ok(answer) => Err(Failure::new(upstream, Some(answer.status()), Some(answer.headers()))),
        Err(_) => Err(Failure::new(upstream, None, None)),
    }
}

async fn storefront(catalog: &Client, orders: &Client, call: Call) -> Answer {
    let headers = trace_headers(&call.headers);
    let page = match ask("catalog", catalog, Method::GET, "/items", &headers, Bytes::new()).await {
        Ok(page) => page,
        Err(failure) => return failure.answer(),
    };
    let mut answer = match (call.method.as_str(), call.path.as_str()) {
        ("GET", _) => json(StatusCode::OK, &object!({"catalog": text(page.body())})),
        ("POST", "/checkout") => match ask("orders", orders, Method::POST, "/orders", &headers, call.body).await {
            Ok(order) => json(StatusCode::OK, &object!({"order": text(order.body())})),
            Err(failure) => failure.answer(),
        },
        _ => json(StatusCode::NOT_FOUND, &object!({"error": "GET / or POST /checkout"})),
    };
    if let Some(version) = page.headers().get("x-catalog-version") {
        answer.headers_mut().insert("x-catalog-version", version.clone());
    }
    answer
}

/// A JSON body as JSON, anything else as a string.
fn text(body: &Bytes) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()))
}

struct Orders {
    inventory: Client,
    payments: Client,
    users: Channel,
}

impl Orders {
    async fn place(&self, call: Call) -> Answer {
        if call.method != Method::POST {
            return json(StatusCode::METHOD_NOT_ALLOWED, &object!({"error": "POST /orders"}));
        }
        match self.order(&call).await {
            Ok(order) => json(StatusCode::OK, &order),
            Err(failure) => failure.answer(),
        }
    }

    async fn order(&self, call: &Call) -> Result<Value, Failure> {
        let mut headers = trace_headers(&call.headers);
        let user = self.user(&headers).await?;
        ask("inventory", &self.inventory, Method::GET, "/stock", &headers, Bytes::new()).await?;
        let key = format!("{:032x}", rand::rng().random::<u128>());
        if let Ok(value) = HeaderValue::from_str(&key) {
            headers.insert("idempotency-key", value);
        }
        let body = Bytes::from(object!({"amount": 42}).to_string());
        let paid = ask("payments", &self.payments, Method::POST, "/charges", &headers, body).await?;
        Ok(object!({"user": user, "payment": text(paid.body())}))
    }

    async fn user(&self, headers: &HeaderMap) -> Result<String, Failure> {
        let mut request = Request::new(FindRequest { id: rand::rng().random_range(1..=1000) });
        *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers.clone());
        request.set_timeout(Duration::from_secs(5));
        match UsersClient::new(self.users.clone()).find(request).await {
            Ok(user) => Ok(user.into_inner().name),
            Err(status) => {
                let headers = status.metadata().clone().into_headers();
                Err(Failure::new(&format!("users; grpc={:?}", status.code()), None, Some(&headers)))
            }
        }
    }
}

/// A channel to `base` (`http://host:port`), by CONNECT through `grpc_proxy` or `http_proxy` where one is set.
fn users_channel(base: &str) -> Result<Channel, Error> {
    let uri: Uri = base.parse().map_err(|e| format!("`{base}`: {e}"))?;
    let authority = uri.authority().ok_or_else(|| format!("`{base}` names no host"))?;
    let target = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let proxy = Proxy::from_environment(&["grpc_proxy", "http_proxy", "HTTP_PROXY"])?;
    let connect = tower::service_fn(move |_: Uri| {
        let (target, proxy) = (target.clone(), proxy.clone());
        async move {
            let stream = match proxy {
                Some(proxy) => proxy.tunnel(&target).await?,
                None => {
                    let stream = tokio::net::TcpStream::connect(&target).await?;
                    stream.set_nodelay(true)?;
                    stream
                }
            };
            Ok::<_, Error>(TokioIo::new(stream))
        }
    });
    Ok(Endpoint::from_shared(base.to_owned())?.connect_with_connector_lazy(connect))
}

/// Charges once per key: the same key gives the same answer. Forgets the oldest keys.
#[derive(Default)]
struct Charged {
    keys: Mutex<(HashSet<String>, VecDeque<String>)>,
}

impl Charged {
    fn charge(&self, call: &Call, fail_percent: u32) -> Answer {
        let key = call.headers.get("idempotency-key").and_then(|v| v.to_str().ok()).filter(|k| !k.is_empty());
        let Some(key) = key else {
            return json(StatusCode::BAD_REQUEST, &object!({"error": "POST needs an Idempotency-Key"}));
        };
        if chance(fail_percent) {
            return json(StatusCode::SERVICE_UNAVAILABLE, &object!({"error": "the bank is closed"}));
        }
        let mut guard = self.keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (keys, order) = &mut *guard;
        if keys.insert(key.to_owned()) {
            order.push_back(key.to_owned());
        }
        if order.len() > KEYS
            && let Some(oldest) = order.pop_front()
        {
            keys.remove(&oldest);
        }
        json(StatusCode::OK, &object!({"charge": key}))
    }
}

/// Serves the shop's gRPC users until `stop`.
///
/// # Errors
/// When it cannot listen, or the transport fails.
pub async fn users_server(listen: &Listen, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let address: SocketAddr = listen.listen;
    let listener =
        tokio::net::TcpListener::bind(address).await.map_err(|e| format!("cannot listen on {address}: {e}"))?;
    eprintln!("weft-shop users {} listening on {}", listen.version, listener.local_addr()?);
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder()
        .add_service(UsersServer::new(People))
        .serve_with_incoming_shutdown(incoming, stop)
        .await?;
    Ok(())
}

struct People;

fn person(id: u64) -> User {
    User { id, name: format!("user {id}") }
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Users for People {
    type ListStream = Replies<User>;
    type EchoStream = Replies<User>;

    async fn find(&self, request: Request<FindRequest>) -> Result<tonic::Response<User>, Status> {
        match request.into_inner().id {
            0 => Err(Status::not_found("there is no user 0")),
            id => Ok(tonic::Response::new(person(id))),
        }
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<tonic::Response<Self::ListStream>, Status> {
        let users = (1..=request.into_inner().count).map(|id| Ok(person(id)));
        Ok(tonic::Response::new(Box::pin(tokio_stream::iter(users))))
    }

    async fn import(&self, request: Request<Streaming<User>>) -> Result<tonic::Response<ImportSummary>, Status> {
        let mut users = request.into_inner();
        let mut count = 0;
        while users.message().await?.is_some() {
            count += 1;
        }
        Ok(tonic::Response::new(ImportSummary { count }))
    }

    async fn echo(&self, request: Request<Streaming<User>>) -> Result<tonic::Response<Self::EchoStream>, Status> {
        Ok(tonic::Response::new(Box::pin(request.into_inner().map(|user| user))))
    }
}
