//! One call: a head and frames of the codec on one side, a request and a response of tonic on the other.
//!
//! Nothing is gathered here: a frame is taken from either side when the other has taken the one before, so that a peer that does not read
//! holds up its own call and no other. A caller that goes drops its answer, which is how a service learns of it.

use super::{Answering, Caller, Services};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use weft_codec::{
    Error, Frame, Handler, Headers, Kind, Reply, RequestBody, RequestHead, ResetCode, ResponseHead, Version,
};
use weft_policy::deadline::{GRPC_TIMEOUT, parse_grpc_timeout};

/// The calls of one connection.
pub(super) struct Calls<'s, S> {
    pub services: &'s S,
    pub caller: Arc<Caller>,
}

impl<S: Services> Handler for Calls<'_, S> {
    fn call<'c>(
        &'c self,
        head: RequestHead,
        body: RequestBody<'c>,
        mut reply: Reply<'c>,
    ) -> impl Future<Output = ()> + Send + 'c {
        // Before the future that lasts as long as the call, which would keep room for the head.
        let answering = self.answer(head, body);
        async move {
            let told = match answering {
                Ok(answering) => tell(answering, &mut reply).await,
                Err(error) => Err(error),
            };
            // A caller that cancels does nothing wrong.
            if let Err(error) = told
                && error.kind != Kind::ClientGone
            {
                tracing::debug!(%error, peer = %self.caller.address, "a gRPC call broke");
            }
        }
    }

    fn rejected(&self, error: &Error) {
        tracing::debug!(%error, peer = %self.caller.address, "refused a gRPC call");
    }
}

impl<S: Services> Calls<'_, S> {
    fn answer(&self, head: RequestHead, body: RequestBody<'_>) -> Result<Answering, Error> {
        let within = head.headers.get(&GRPC_TIMEOUT).and_then(|limit| parse_grpc_timeout(limit.as_bytes()));
        let answering = self.services.call(self.request(head, body)?);
        let Some(within) = within else { return Ok(answering) };
        Ok(Box::pin(async move {
            let late = |_| Status::deadline_exceeded("the call's deadline has passed").into_http();
            tokio::time::timeout(within, answering).await.unwrap_or_else(late)
        }))
    }

    fn request(&self, head: RequestHead, body: RequestBody<'_>) -> Result<Request<Body>, Error> {
        let mut request = Request::new(Body::new(Asked(body.detach()?)));
        *request.method_mut() = head.method;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = Uri::try_from(head.path.as_str())
            .map_err(|error| Error::caused(Kind::BadRequest, error).detail("the path of a call"))?;
        *request.headers_mut() = map(&head.headers);
        request.extensions_mut().insert(self.caller.clone());
        Ok(request)
    }
}

/// Sends the answer as it comes.
async fn tell(answering: Answering, reply: &mut Reply<'_>) -> Result<(), Error> {
    let (head, mut body) = response(reply.while_open(answering).await?);
    let end = body.is_end_stream();
    reply.send_head(head, end).await?;
    if end {
        return Ok(());
    }
    loop {
        match reply.while_open(body.frame()).await? {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    if !data.is_empty() {
                        reply.data(data).await?;
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return reply.trailers(headers(&trailers)).await;
                }
            },
            Some(Err(status)) => {
                reply.reset(ResetCode::Internal);
                return Err(Error::caused(Kind::Internal, status));
            }
            None => return reply.finish().await,
        }
    }
}

fn response(response: Response<Body>) -> (ResponseHead, Body) {
    let (parts, body) = response.into_parts();
    let head =
        ResponseHead { status: parts.status, reason: None, headers: headers(&parts.headers), version: Version::Http2 };
    (head, body)
}

fn headers(map: &HeaderMap) -> Headers {
    let mut headers = Headers::with_capacity(map.len());
    for (name, value) in map {
        headers.append(name.clone(), value.clone());
    }
    headers
}

fn map(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(headers.len());
    for field in headers.iter() {
        if let Some(value) = field.value.to_header_value() {
            map.append(field.name.clone(), value);
        }
    }
    map
}

/// The body of a request, as tonic reads it.
struct Asked(RequestBody<'static>);

impl http_body::Body for Asked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        self.get_mut().0.poll_frame(cx).map(|next| {
            Some(match next? {
                Ok(Frame::Data(data)) => Ok(http_body::Frame::data(data)),
                Ok(Frame::Trailers(trailers)) => Ok(http_body::Frame::trailers(map(&trailers))),
                Err(error) if error.kind == Kind::ClientGone => Err(Status::cancelled(error.to_string())),
                Err(error) => Err(Status::internal(error.to_string())),
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end()
    }
}
