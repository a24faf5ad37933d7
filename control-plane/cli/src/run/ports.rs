//! What people write after `--port` and `--tcp`: parsed into plain data, refused with the spelling that would be right.
//!
//! `[NAME=][SERVICEPORT:]PORT[:PROTOCOL]`: `8080`, `8080:http`, `http=8080`, `80:8080:http`, `db=5432:tcp`.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::str::FromStr;

/// What an application speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Sniffed.
    Detect,
    /// HTTP/1.
    Http,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// gRPC.
    Grpc,
    /// Opaque bytes.
    Tcp,
}

impl Protocol {
    /// As settings and Workloads spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Detect => "detect",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    /// As `appProtocol` of a Service port spells it; `None` says nothing.
    fn app_protocol(self) -> Option<&'static str> {
        match self {
            Self::Detect => None,
            Self::Http => Some("http"),
            Self::Http2 => Some("kubernetes.io/h2c"),
            Self::Grpc => Some("grpc"),
            Self::Tcp => Some("tcp"),
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "detect" | "auto" => Self::Detect,
            "http" | "http1" => Self::Http,
            "http2" | "h2c" => Self::Http2,
            "grpc" => Self::Grpc,
            "tcp" => Self::Tcp,
            _ => return Err(format!("'{text}' is no protocol; there are http, http2, grpc, tcp and detect")),
        })
    }
}

/// One port of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// As written, or the protocol's name, or `port-8080`.
    pub name: String,
    /// The port by which callers know it in the service.
    pub service: u16,
    /// Where the application listens.
    pub app: u16,
    /// What it speaks.
    pub protocol: Protocol,
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is no port; write 8080, 8080:http, http=8080 or 80:8080:http");
        let (name, rest) = text.split_once('=').map_or((None, text), |(name, rest)| (Some(name), rest));
        let mut numbers = Vec::new();
        let mut protocol = None;
        for part in rest.split(':') {
            match part.parse::<u16>() {
                Ok(number) if protocol.is_none() && number > 0 => numbers.push(number),
                Err(_) if !numbers.is_empty() && protocol.is_none() => protocol = Some(part.parse::<Protocol>()?),
                _ => return Err(bad()),
            }
        }
        let (service, app) = match numbers.as_slice() {
            [port] => (*port, *port),
            [service, app] => (*service, *app),
            _ => return Err(bad()),
        };
        let protocol = match (protocol, name) {
            (Some(protocol), _) => protocol,
            // A port called http or grpc-api speaks that, as in Kubernetes.
            (None, Some(name)) => name.split('-').next().unwrap_or_default().parse().unwrap_or(Protocol::Detect),
            (None, None) => Protocol::Detect,
        };
        let name = match name {
            Some(name) if is_label(name) => name.to_owned(),
            Some(name) => return Err(format!("'{name}' is no port name: a-z, 0-9 and -, at most 15")),
            None if protocol == Protocol::Detect => format!("port-{service}"),
            None => protocol.name().to_owned(),
        };
        Ok(Self { name, service, app, protocol })
    }
}

fn is_label(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Gives every port a name of its own, and refuses the same port twice.
pub fn distinct(mut ports: Vec<Port>) -> Result<Vec<Port>, String> {
    for index in 0..ports.len() {
        let (before, rest) = ports.split_at_mut(index);
        let Some(port) = rest.first_mut() else { continue };
        if before.iter().any(|other| other.app == port.app || other.service == port.service) {
            return Err(format!("port {} is given twice", port.service));
        }
        if before.iter().any(|other| other.name == port.name) {
            port.name = format!("{}-{}", port.name, port.service);
        }
    }
    Ok(ports)
}

/// The ports of the Service that is made when there is none.
pub fn service_ports(ports: &[Port]) -> Vec<Value> {
    let one = |port: &Port| {
        let mut value = json!({"name": port.name, "port": port.service, "targetPort": port.name, "protocol": "TCP"});
        if let (Some(protocol), Some(object)) = (port.protocol.app_protocol(), value.as_object_mut()) {
            object.insert("appProtocol".into(), protocol.into());
        }
        value
    };
    ports.iter().map(one).collect()
}

/// A local listener whose connections go to one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpOutbound {
    /// Where the application connects.
    pub listen: SocketAddr,
    /// `host:port` of the service.
    pub host: String,
}

impl FromStr for TcpOutbound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is no TCP outbound; write 127.0.0.1:5432=db.shop:5432");
        let (listen, host) = text.split_once('=').ok_or_else(bad)?;
        let listen: SocketAddr = listen.parse().map_err(|_| bad())?;
        if !listen.ip().is_loopback() {
            return Err(format!("'{listen}' is not on loopback: whoever reaches it would speak as this workload"));
        }
        let (name, port) = host.rsplit_once(':').ok_or_else(bad)?;
        if name.is_empty() || port.parse::<u16>().map_or(true, |port| port == 0) {
            return Err(bad());
        }
        Ok(Self { listen, host: host.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(text: &str) -> (String, u16, u16, Protocol) {
        let port: Port = text.parse().unwrap();
        (port.name, port.service, port.app, port.protocol)
    }

    #[test]
    fn a_port_is_read_in_every_spelling() {
        assert_eq!(port("8080"), ("port-8080".into(), 8080, 8080, Protocol::Detect));
        assert_eq!(port("8080:http"), ("http".into(), 8080, 8080, Protocol::Http));
        assert_eq!(port("http=8080"), ("http".into(), 8080, 8080, Protocol::Http));
        assert_eq!(port("grpc-api=9000"), ("grpc-api".into(), 9000, 9000, Protocol::Grpc));
        assert_eq!(port("web=80:8080:h2c"), ("web".into(), 80, 8080, Protocol::Http2));
        assert_eq!(port("db=5432:tcp"), ("db".into(), 5432, 5432, Protocol::Tcp));
    }

    #[test]
    fn what_is_no_port_is_refused_with_what_would_be_right() {
        for text in ["", "0", "http", "8080:", "8080:smtp", "1:2:3", "8080:http:80", "70000", "A=80"] {
            assert!(text.parse::<Port>().is_err(), "{text}");
        }
        assert!("8080:smtp".parse::<Port>().unwrap_err().contains("there are http"));
    }

    #[test]
    fn two_unnamed_ports_of_one_protocol_get_distinct_names() {
        let ports = ["8080:http", "8081:http"].map(|text| text.parse().unwrap()).to_vec();
        let names: Vec<String> = distinct(ports).unwrap().into_iter().map(|port| port.name).collect();
        assert_eq!(names, ["http", "http-8081"]);
        assert!(distinct(vec!["80".parse().unwrap(), "80".parse().unwrap()]).is_err());
    }

    #[test]
    fn a_tcp_outbound_listens_on_loopback_only() {
        let outbound: TcpOutbound = "127.0.0.1:5432=db.shop:5432".parse().unwrap();
        assert_eq!(outbound.host, "db.shop:5432");
        assert!("192.0.2.1:5432=db:5432".parse::<TcpOutbound>().unwrap_err().contains("loopback"));
        for text in ["127.0.0.1:5432", "127.0.0.1:5432=db", "127.0.0.1:5432=:1", "x=db:1", "127.0.0.1:1=db:0"] {
            assert!(text.parse::<TcpOutbound>().is_err(), "{text}");
        }
    }
}
