//! `weft.v1.Tracing` and `weft.v1.AccessLog`: what a sidecar tells of the calls that it carries. What spans and lines say is the sidecar's.

use std::sync::Arc;

use weft_proto::v1;

use super::Refusal;
use crate::trace::Formats;

/// Where spans of calls go, and which calls are traced.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// Receiver of the OpenTelemetry protocol.
    pub receiver: Receiver,
    /// How it is spoken to.
    pub transport: Transport,
    /// Share of the calls that begin a trace here, 0 to 1. What a caller decided holds whatever this is.
    pub ratio: f64,
    /// How a trace that begins here is written.
    pub formats: Formats,
}

/// An address that spans are sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// Whether it is asked for TLS.
    pub tls: bool,
    /// Name or IP address, without brackets.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
    /// What comes before `/v1/traces`, without a slash at its end; empty with gRPC.
    pub path: Arc<str>,
}

/// How the OpenTelemetry protocol travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// gRPC.
    #[default]
    Grpc,
    /// Protobuf in the body of an HTTP/1.1 request.
    Http,
}

/// Which calls leave a line in the access log, and how it looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AccessLog {
    /// Which ones.
    pub calls: LoggedCalls,
    /// Share of the calls that went well to write, 0 to 1.
    pub ratio: f64,
    /// How a line looks.
    pub layout: LogLayout,
}

/// Calls that leave a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoggedCalls {
    /// All of them.
    #[default]
    All,
    /// Those that failed.
    Errors,
    /// None.
    None,
}

/// Layout of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLayout {
    /// One JSON object.
    #[default]
    Json,
    /// Apache's combined log.
    Apache,
}

/// Share of calls that are traced where nothing is said, in percent.
pub const DEFAULT_SAMPLING: f64 = 1.0;
/// Longest text of an endpoint.
const ENDPOINT: usize = 1024;

impl Receiver {
    /// Reads `http://host[:port][/path]` or `https://…`; without a port it is the transport's own: 4317 of gRPC, 4318 of HTTP.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str, transport: Transport) -> Result<Self, String> {
        if text.len() > ENDPOINT {
            return Err(format!("is longer than {ENDPOINT} bytes"));
        }
        let refuse = || format!("{text:?} is no endpoint such as http://192.0.2.7:4317");
        let uri: http::Uri = text.parse().map_err(|_| refuse())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(refuse()),
        };
        let authority = uri.authority().ok_or_else(refuse)?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(format!("{text:?} may hold neither a user nor a query"));
        }
        let default = match transport {
            Transport::Grpc => 4317,
            Transport::Http => 4318,
        };
        let port = match authority.port() {
            Some(_) => authority.port_u16().filter(|port| *port != 0).ok_or_else(refuse)?,
            None => default,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let path = uri.path().trim_end_matches('/');
        if transport == Transport::Grpc && !path.is_empty() {
            return Err(format!("{text:?} has a path, which gRPC has no use for"));
        }
        if host.is_empty() {
            return Err(refuse());
        }
        Ok(Self { tls, host: host.into(), port, path: path.into() })
    }
}

impl std::fmt::Display for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{}{close}:{}{}", self.host, self.port, self.path)
    }
}

impl Tracing {
    /// Converts and checks.
    ///
    /// # Errors
    /// The first field that is malformed.
    pub fn from_wire(field: &str, wire: &v1::Tracing) -> Result<Self, Refusal> {
        let transport = match v1::OtlpTransport::try_from(wire.transport) {
            Ok(v1::OtlpTransport::Grpc) => Transport::Grpc,
            Ok(v1::OtlpTransport::Http) => Transport::Http,
            Err(_) => {
                return Err(Refusal::new(format!("{field}.transport"), format!("{} is no transport", wire.transport)));
            }
        };
        let receiver =
            Receiver::parse(&wire.endpoint, transport).map_err(|why| Refusal::new(format!("{field}.endpoint"), why))?;
        let mut formats = Formats::default();
        for (i, format) in wire.formats.iter().enumerate() {
            match v1::TraceFormat::try_from(*format) {
                Ok(v1::TraceFormat::W3c) => formats.w3c = true,
                Ok(v1::TraceFormat::B3) => formats.b3_single = true,
                Ok(v1::TraceFormat::B3Multi) => formats.b3_multi = true,
                Err(_) => {
                    return Err(Refusal::new(format!("{field}.formats[{i}]"), format!("{format} is no format")));
                }
            }
        }
        let ratio = ratio(&format!("{field}.sampling"), wire.sampling, DEFAULT_SAMPLING)?;
        Ok(Self { receiver, transport, ratio, formats })
    }
}

impl AccessLog {
    /// Converts and checks.
    ///
    /// # Errors
    /// The first field that is malformed.
    pub fn from_wire(field: &str, wire: &v1::AccessLog) -> Result<Self, Refusal> {
        let calls = match v1::AccessLogCalls::try_from(wire.calls) {
            Ok(v1::AccessLogCalls::All) => LoggedCalls::All,
            Ok(v1::AccessLogCalls::Errors) => LoggedCalls::Errors,
            Ok(v1::AccessLogCalls::None) => LoggedCalls::None,
            Err(_) => return Err(Refusal::new(format!("{field}.calls"), format!("{} is no choice", wire.calls))),
        };
        let layout = match v1::AccessLogLayout::try_from(wire.layout) {
            Ok(v1::AccessLogLayout::Json) => LogLayout::Json,
            Ok(v1::AccessLogLayout::Apache) => LogLayout::Apache,
            Err(_) => return Err(Refusal::new(format!("{field}.layout"), format!("{} is no layout", wire.layout))),
        };
        Ok(Self { calls, ratio: ratio(&format!("{field}.sampling"), wire.sampling, 100.0)?, layout })
    }
}

/// A share given in percent, as one of 1.
fn ratio(field: &str, percent: Option<f64>, default: f64) -> Result<f64, Refusal> {
    let percent = percent.unwrap_or(default);
    if !(0.0..=100.0).contains(&percent) {
        return Err(Refusal::new(field, format!("{percent} is not within 0 and 100")));
    }
    Ok(percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_scheme_host_and_the_port_of_its_transport_unless_it_has_another() {
        let grpc = |text: &str| Receiver::parse(text, Transport::Grpc).map(|receiver| receiver.to_string());
        let http = |text: &str| Receiver::parse(text, Transport::Http).map(|receiver| receiver.to_string());
        for (given, read) in [
            ("http://192.0.2.7:4317", "http://192.0.2.7:4317"),
            ("https://otel.example.com", "https://otel.example.com:4317"),
            ("http://[2001:db8::7]:1/", "http://[2001:db8::7]:1"),
        ] {
            assert_eq!(grpc(given).as_deref(), Ok(read));
        }
        assert_eq!(http("http://otel.example.com/tenant/7/").as_deref(), Ok("http://otel.example.com:4318/tenant/7"));
        for text in
            ["", "otel.example.com:4317", "ftp://192.0.2.7", "http://u@192.0.2.7", "http://192.0.2.7:0", "http://"]
        {
            assert!(grpc(text).is_err(), "{text}");
        }
        assert!(grpc("http://192.0.2.7:4317/v1/traces").is_err() && http("http://192.0.2.7?a=b").is_err());
        assert!(http(&format!("http://192.0.2.7/{}", "x".repeat(ENDPOINT))).is_err());
    }

    #[test]
    fn what_is_left_out_is_a_hundredth_of_the_calls_in_w3c_over_grpc() {
        let wire = v1::Tracing { endpoint: "http://192.0.2.7:4317".into(), ..Default::default() };
        let read = Tracing::from_wire("tracing", &wire).unwrap();
        assert_eq!((read.ratio, read.transport, read.formats), (0.01, Transport::Grpc, Formats::default()));
        let log = AccessLog::from_wire("accessLog", &v1::AccessLog::default()).unwrap();
        assert_eq!(log, AccessLog { calls: LoggedCalls::All, ratio: 1.0, layout: LogLayout::Json });
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field() {
        let fine = v1::Tracing { endpoint: "http://192.0.2.7:4317".into(), ..Default::default() };
        for (wire, field) in [
            (v1::Tracing { endpoint: "nowhere".into(), ..fine.clone() }, "tracing.endpoint"),
            (v1::Tracing { transport: 7, ..fine.clone() }, "tracing.transport"),
            (v1::Tracing { sampling: Some(100.5), ..fine.clone() }, "tracing.sampling"),
            (v1::Tracing { sampling: Some(f64::NAN), ..fine.clone() }, "tracing.sampling"),
            (v1::Tracing { formats: vec![0, 9], ..fine.clone() }, "tracing.formats[1]"),
        ] {
            assert_eq!(Tracing::from_wire("tracing", &wire).unwrap_err().field, field);
        }
        for (wire, field) in [
            (v1::AccessLog { calls: 9, ..Default::default() }, "accessLog.calls"),
            (v1::AccessLog { layout: 9, ..Default::default() }, "accessLog.layout"),
            (v1::AccessLog { sampling: Some(-1.0), ..Default::default() }, "accessLog.sampling"),
        ] {
            assert_eq!(AccessLog::from_wire("accessLog", &wire).unwrap_err().field, field);
        }
    }
}
