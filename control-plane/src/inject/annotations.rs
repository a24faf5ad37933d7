//! What a sidecar is made with: the settings of the installation, and what a pod's annotations say over them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The prefix of the annotations that change a pod's sidecar. An unknown one is a mistake, and said to be one.
const PREFIX: &str = "config.weft.mesh/";

/// Why something cannot be injected: the field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Refusal {
    /// `metadata.annotations[config.weft.mesh/proxy-uid]`
    pub field: String,
    /// In plain words.
    pub reason: String,
}

impl Refusal {
    pub(super) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// How calls to the application are brought to its sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Interception {
    /// The sidecar has no capability, and the application sees its address.
    #[default]
    Redirect,
    /// The application sees the caller's address; the sidecar has CAP_NET_ADMIN.
    Tproxy,
}

/// How sidecars are made; the defaults are those of `weft install`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The image with `weft-proxy` and `nft`.
    pub image: String,
    /// `Always`, `IfNotPresent`, `Never`; empty: Kubernetes' own default.
    pub image_pull_policy: String,
    /// Host and port of the control plane.
    pub control_plane: String,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// Which control plane this is, where there are several.
    pub revision: String,
    /// The user that sidecars run as and applications do not.
    pub proxy_uid: u32,
    /// What the sidecar asks of a node, and may use; empty: nothing is said.
    pub cpu_request: String,
    /// See `cpu_request`.
    pub cpu_limit: String,
    /// See `cpu_request`.
    pub memory_request: String,
    /// See `cpu_request`.
    pub memory_limit: String,
    /// Data threads.
    pub workers: u16,
    /// Log filter.
    pub log: String,
    /// `off`, `stdout` or `stderr`.
    pub access_log: String,
    /// How long leaving may take: `30s`.
    pub drain_deadline: String,
    /// Whether kubelet's probes are asked through the sidecar.
    pub rewrite_probes: bool,
    /// How calls to the application are captured.
    pub interception_mode: Interception,
    /// Whether calls to the application are captured.
    pub intercept_inbound: bool,
    /// Whether DNS is captured.
    pub intercept_dns: bool,
    /// See `weft-proxy intercept install`, whose flags these are.
    pub include_outbound_ports: Vec<u16>,
    /// Likewise.
    pub exclude_outbound_ports: Vec<u16>,
    /// Likewise.
    pub include_outbound_cidrs: Vec<String>,
    /// Likewise.
    pub exclude_outbound_cidrs: Vec<String>,
    /// Likewise.
    pub exclude_outbound_interfaces: Vec<String>,
    /// Likewise.
    pub include_inbound_ports: Vec<u16>,
    /// Likewise.
    pub exclude_inbound_ports: Vec<u16>,
    /// Likewise.
    pub exclude_uids: Vec<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            image: concat!("weft-proxy:", env!("CARGO_PKG_VERSION")).into(),
            image_pull_policy: String::new(),
            control_plane: "weft-control.weft-system:15010".into(),
            trust_domain: "weft.local".into(),
            revision: "default".into(),
            proxy_uid: 15_000,
            cpu_request: "10m".into(),
            cpu_limit: String::new(),
            memory_request: "16Mi".into(),
            memory_limit: "256Mi".into(),
            workers: 1,
            log: "info".into(),
            access_log: "off".into(),
            drain_deadline: "30s".into(),
            rewrite_probes: true,
            interception_mode: Interception::Redirect,
            intercept_inbound: true,
            intercept_dns: true,
            include_outbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            include_outbound_cidrs: Vec::new(),
            exclude_outbound_cidrs: Vec::new(),
            exclude_outbound_interfaces: Vec::new(),
            include_inbound_ports: Vec::new(),
            exclude_inbound_ports: Vec::new(),
            exclude_uids: Vec::new(),
        }
    }
}

/// Of which kind a setting is, as an annotation says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Quantity,
    Number(u64, u64),
    Flag,
    Mode,
    Numbers(u64, u64),
    Texts,
}

const PORTS: Kind = Kind::Numbers(1, 65_535);
/// Annotation (without the prefix), the field that it sets, and what it must look like.
const KNOWN: [(&str, &str, Kind); 24] = [
    ("proxy-image", "image", Kind::Text),
    ("proxy-image-pull-policy", "imagePullPolicy", Kind::Text),
    ("proxy-uid", "proxyUid", Kind::Number(1, 4_294_967_294)),
    ("proxy-cpu-request", "cpuRequest", Kind::Quantity),
    ("proxy-cpu-limit", "cpuLimit", Kind::Quantity),
    ("proxy-memory-request", "memoryRequest", Kind::Quantity),
    ("proxy-memory-limit", "memoryLimit", Kind::Quantity),
    ("proxy-workers", "workers", Kind::Number(1, 64)),
    ("proxy-log", "log", Kind::Text),
    ("access-log", "accessLog", Kind::Text),
    ("drain-deadline", "drainDeadline", Kind::Text),
    ("rewrite-probes", "rewriteProbes", Kind::Flag),
    ("interception-mode", "interceptionMode", Kind::Mode),
    ("intercept-inbound", "interceptInbound", Kind::Flag),
    ("intercept-dns", "interceptDns", Kind::Flag),
    ("include-outbound-ports", "includeOutboundPorts", PORTS),
    ("exclude-outbound-ports", "excludeOutboundPorts", PORTS),
    ("include-outbound-cidrs", "includeOutboundCidrs", Kind::Texts),
    ("exclude-outbound-cidrs", "excludeOutboundCidrs", Kind::Texts),
    ("exclude-outbound-interfaces", "excludeOutboundInterfaces", Kind::Texts),
    ("include-inbound-ports", "includeInboundPorts", PORTS),
    ("exclude-inbound-ports", "excludeInboundPorts", PORTS),
    ("exclude-uids", "excludeUids", Kind::Numbers(0, 4_294_967_294)),
    ("revision", "revision", Kind::Text),
];

impl Settings {
    /// With what the pod's annotations say.
    pub(super) fn for_pod(&self, pod: &Value) -> Result<Self, Refusal> {
        let annotations = pod.pointer("/metadata/annotations").and_then(Value::as_object);
        let ours =
            annotations.into_iter().flatten().filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value)));
        let mut over = Map::new();
        for (name, value) in ours {
            let field = format!("metadata.annotations[{PREFIX}{name}]");
            let Some((_, setting, kind)) = KNOWN.iter().find(|(known, ..)| *known == name) else {
                return Err(Refusal::new(field, format!("there is no such setting; there are {}", known())));
            };
            let text = value.as_str().ok_or_else(|| Refusal::new(&*field, "must be a string"))?;
            let value = kind.read(text).map_err(|reason| Refusal::new(field, reason))?;
            over.insert((*setting).to_owned(), value);
        }
        let made = (|| {
            let mut all = serde_json::to_value(self)?;
            if let Some(all) = all.as_object_mut() {
                all.extend(over);
            }
            serde_json::from_value(all)
        })();
        made.map_err(|e: serde_json::Error| Refusal::new("metadata.annotations", e.to_string()))
    }

    /// Whether calls to this port of the application come through the sidecar.
    pub(super) fn captures(&self, port: u16) -> bool {
        self.intercept_inbound
            && !self.exclude_inbound_ports.contains(&port)
            && (self.include_inbound_ports.is_empty() || self.include_inbound_ports.contains(&port))
    }
}

fn known() -> String {
    KNOWN.map(|(name, ..)| name).join(", ")
}

impl Kind {
    fn read(self, text: &str) -> Result<Value, String> {
        let number = |text: &str, least: u64, most: u64| {
            let number = text.trim().parse().ok().filter(|n| (least..=most).contains(n));
            number.ok_or_else(|| format!("{text:?} is no number from {least} to {most}"))
        };
        let parts = || text.split(',').map(str::trim).filter(|part| !part.is_empty());
        Ok(match self {
            Self::Text if text.trim().is_empty() => return Err("must not be empty".into()),
            Self::Text => text.trim().into(),
            Self::Quantity if !is_quantity(text) => {
                return Err(format!("{text:?} is no quantity such as 100m, 1, 64Mi or 1Gi"));
            }
            Self::Quantity => text.into(),
            Self::Number(least, most) => number(text, least, most)?.into(),
            Self::Flag => match text {
                "true" | "enabled" => true.into(),
                "false" | "disabled" => false.into(),
                _ => return Err(format!("{text:?} is neither true nor false")),
            },
            Self::Mode => match text {
                "REDIRECT" | "TPROXY" => text.into(),
                _ => return Err(format!("{text:?} is neither REDIRECT nor TPROXY")),
            },
            Self::Numbers(least, most) => {
                Value::Array(parts().map(|part| number(part, least, most).map(Value::from)).collect::<Result<_, _>>()?)
            }
            Self::Texts => parts().map(Value::from).collect(),
        })
    }
}

/// A quantity of Kubernetes: a number with a suffix.
fn is_quantity(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffixes = ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"];
    suffixes.contains(&&text[digits.len()..])
        && digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.parse::<f64>().is_ok_and(f64::is_finite)
}
