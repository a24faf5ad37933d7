//! What a sidecar is told at its start of spans and of its access log. What the mesh's settings say of either goes before it, but for where
//! lines go, which is the sidecar's alone.

use super::check::{ConfigError, refuse};
use serde::{Deserialize, Serialize};
use weft_policy::config::{self as policy, Receiver, Transport};
use weft_policy::trace::Formats;

/// Where spans of calls go.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tracing {
    /// Receiver of the OpenTelemetry protocol, `http://192.0.2.7:4317`; `https://` for TLS.
    pub endpoint: String,
    /// How it is spoken to.
    #[serde(default)]
    pub protocol: OtlpProtocol,
    /// Share of the calls that begin a trace here, in percent. Default: 1.
    #[serde(default)]
    pub sampling: Option<f64>,
    /// How a trace that begins here is written. Empty: W3C.
    #[serde(default)]
    pub propagation: Vec<Propagation>,
}

/// How the OpenTelemetry protocol travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OtlpProtocol {
    /// gRPC.
    #[default]
    Grpc,
    /// Protobuf over HTTP/1.1.
    Http,
}

/// How a call carries its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// `traceparent`.
    W3c,
    /// `b3`.
    B3,
    /// `x-b3-traceid` and its like.
    B3multi,
}

impl Tracing {
    /// As the data path needs it.
    ///
    /// # Errors
    /// The setting that cannot be used.
    pub fn checked(&self) -> Result<policy::Tracing, ConfigError> {
        let transport = match self.protocol {
            OtlpProtocol::Grpc => Transport::Grpc,
            OtlpProtocol::Http => Transport::Http,
        };
        let receiver = Receiver::parse(&self.endpoint, transport).map_err(|why| refuse("tracing.endpoint", why))?;
        let percent = self.sampling.unwrap_or(policy::DEFAULT_SAMPLING);
        if !(0.0..=100.0).contains(&percent) {
            return Err(refuse("tracing.sampling", "must be 0 to 100, in percent"));
        }
        let has = |wanted: Propagation| self.propagation.contains(&wanted);
        let formats = Formats {
            w3c: has(Propagation::W3c),
            b3_single: has(Propagation::B3),
            b3_multi: has(Propagation::B3multi),
        };
        Ok(policy::Tracing { receiver, transport, ratio: percent / 100.0, formats })
    }

    /// What OpenTelemetry's own variables say ("OpenTelemetry Environment Variable Specification"), of which every call is traced unless
    /// `OTEL_TRACES_SAMPLER_ARG` says which share. `None`: no endpoint.
    ///
    /// # Errors
    /// A variable that says nothing that can be used.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, ConfigError> {
        let said = |name: &str| variable(name).filter(|value| !value.is_empty());
        let Some(endpoint) = said("OTEL_EXPORTER_OTLP_ENDPOINT") else { return Ok(None) };
        let protocol = match said("OTEL_EXPORTER_OTLP_PROTOCOL").as_deref() {
            None | Some("grpc") => OtlpProtocol::Grpc,
            Some("http/protobuf") => OtlpProtocol::Http,
            Some(other) => {
                let why = format!("{other:?} is neither grpc nor http/protobuf");
                return Err(refuse("OTEL_EXPORTER_OTLP_PROTOCOL", why));
            }
        };
        let share = match said("OTEL_TRACES_SAMPLER_ARG") {
            None => 1.0,
            Some(text) => {
                let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
                share.ok_or_else(|| refuse("OTEL_TRACES_SAMPLER_ARG", format!("{text:?} is not within 0 and 1")))?
            }
        };
        Ok(Some(Self { endpoint, protocol, sampling: Some(share * 100.0), propagation: Vec::new() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_of_opentelemetry_are_understood_and_say_nothing_without_an_endpoint() {
        let of = |set: &[(&str, &str)]| {
            let set: Vec<_> = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Tracing::from_environment(move |name| {
                set.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            })
        };
        assert_eq!(of(&[("OTEL_TRACES_SAMPLER_ARG", "2")]), Ok(None));
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://192.0.2.7:4317");
        let all = of(&[endpoint]).unwrap().unwrap().checked().unwrap();
        assert_eq!((all.ratio, all.transport), (1.0, Transport::Grpc));
        let some =
            of(&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"), ("OTEL_TRACES_SAMPLER_ARG", "0.25")]);
        let some = some.unwrap().unwrap().checked().unwrap();
        assert_eq!((some.ratio, some.transport), (0.25, Transport::Http));
        for (name, value) in [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), ("OTEL_TRACES_SAMPLER_ARG", "2")] {
            assert_eq!(of(&[endpoint, (name, value)]).unwrap_err().field, name);
        }
    }

    #[test]
    fn an_endpoint_alone_is_enough_and_what_is_wrong_is_named() {
        let of = |endpoint: &str, sampling| Tracing { endpoint: endpoint.into(), sampling, ..Tracing::default() };
        assert_eq!(of("http://192.0.2.7:4317", None).checked().unwrap().ratio, 0.01);
        assert_eq!(of("192.0.2.7:4317", None).checked().unwrap_err().field, "tracing.endpoint");
        assert_eq!(of("http://192.0.2.7", Some(101.0)).checked().unwrap_err().field, "tracing.sampling");
        let both =
            Tracing { propagation: vec![Propagation::W3c, Propagation::B3multi], ..of("http://192.0.2.7", None) };
        let formats = both.checked().unwrap().formats;
        assert!(formats.w3c && formats.b3_multi && !formats.b3_single);
    }
}
