//! Reading settings and checking what their types cannot say; every error names its field.

use super::{ControlPlane, Settings, Workload};
use crate::intercept::Mode;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the resources come from: exactly one, once [`Settings::source`] has looked.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// xDS. The workload is known.
    ControlPlane(ControlPlane, Box<Workload>),
    /// A watched file.
    File(PathBuf),
}

/// A setting that cannot be used: its path in the file (`workload.ports[0].port`) and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{field}: {reason}", file.as_ref().map(|f| format!("{}: ", f.display())).unwrap_or_default())]
pub struct ConfigError {
    /// The file, when there is one.
    pub file: Option<PathBuf>,
    /// Path of the field; empty when the whole input is at fault.
    pub field: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// A refusal of `field`.
pub fn refuse(field: impl Into<String>, reason: impl Into<String>) -> ConfigError {
    ConfigError { file: None, field: field.into(), reason: reason.into() }
}

impl Settings {
    /// Reads YAML (and so JSON) text; the error names the field.
    ///
    /// # Errors
    /// Malformed text, an unknown field, a wrong type.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let value: serde_json::Value = serde_saphyr::from_str(text)
            .map_err(|e| refuse("settings", crate::discovery::file::first_line(&e.to_string())))?;
        if value.is_null() {
            return Ok(Self::default());
        }
        serde_path_to_error::deserialize(value).map_err(|e| {
            let path = e.path().to_string();
            refuse(if path == "." { "settings".into() } else { path }, e.into_inner().to_string())
        })
    }

    /// Reads a settings file.
    ///
    /// # Errors
    /// As [`Settings::parse`], and when the file cannot be read; the error names the file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let named = |mut e: ConfigError| {
            e.file = Some(path.to_owned());
            e
        };
        let text = std::fs::read_to_string(path).map_err(|e| named(refuse("settings", e.to_string())))?;
        Self::parse(&text).map_err(named)
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.source()?;
        if let Some(workload) = &self.workload {
            workload.validate()?;
        }
        if let Some(api) = &self.workload_api {
            api.validate()?;
            if self.certificates.is_some() {
                return Err(refuse("certificates", "cannot be used together with workloadApi; remove one of them"));
            }
        }
        if self.workers.0 == 0 || self.workers.0 > 256 {
            return Err(refuse("workers", "must be 1 to 256"));
        }
        if self.drain.expired_grace.0 > Duration::from_secs(24 * 3600) {
            return Err(refuse("drain.expiredGrace", "must be at most 24h"));
        }
        if self.drain.deadline.0 > Duration::from_secs(3600) {
            return Err(refuse("drain.deadline", "must be at most 1h"));
        }
        if self.take_over.deadline.0 > Duration::from_secs(24 * 3600) {
            return Err(refuse("takeOver.deadline", "must be at most 24h"));
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&self.take_over.patience.0) {
            return Err(refuse("takeOver.patience", "must be 100ms to 1h"));
        }
        if self.take_over.at_start && self.socket().is_none() {
            return Err(refuse("takeOver.atStart", "needs the private socket: stateDir or admin.socket"));
        }
        if !(0.0..=1.0).contains(&self.access_log.sample) {
            return Err(refuse("accessLog.sample", "must be 0 to 1"));
        }
        if self.access_log.path.is_empty() {
            return Err(refuse("accessLog.path", "must be off, stdout, stderr or a path"));
        }
        if let Some(tracing) = &self.tracing {
            tracing.checked()?;
        }
        for (i, tcp) in self.outbound.tcp.iter().enumerate() {
            if tcp.target().is_none() {
                return Err(refuse(format!("outbound.tcp[{i}].host"), format!("{:?} is not host:port", tcp.host)));
            }
        }
        if let Some(listen) = self.dns.listen.filter(|listen| self.transparent && listen.ip().is_unspecified()) {
            let why = format!(
                "{} must be one address, of loopback best: what is redirected there is answered from it",
                listen.ip()
            );
            return Err(refuse("dns.listen", why));
        }
        self.interception.outbound.filter("interception.outbound")?;
        self.interception.inbound.filter("interception.inbound")?;
        if self.interception.install && !self.transparent {
            return Err(refuse("interception.install", "needs transparent: true"));
        }
        if self.interception.inbound_mode == Mode::Tproxy && !(self.transparent && self.inbound.plaintext.is_some()) {
            return Err(refuse("interception.inboundMode", "tproxy needs transparent: true and inbound.plaintext"));
        }
        if let Some(credentials) = &self.outbound.credentials
            && (credentials.user.contains(':') || credentials.user.is_empty())
        {
            return Err(refuse("outbound.credentials.user", "must not be empty or contain a colon"));
        }
        for (field, n) in [
            ("limits.inboundConnections", self.limits.inbound_connections),
            ("limits.outboundConnections", self.limits.outbound_connections),
            ("limits.requests", self.limits.requests),
        ] {
            if n == 0 {
                return Err(refuse(field, "must be at least 1"));
            }
        }
        if let Some(pin) = self.control_plane.as_ref().and_then(|c| c.ca_fingerprint.as_ref())
            && (pin.len() != 64 || !pin.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(refuse("controlPlane.caFingerprint", "must be 64 hexadecimal digits (SHA-256 of the SPKI)"));
        }
        Ok(())
    }

    /// Which source of resources is meant.
    ///
    /// # Errors
    /// None or both are set, or a control plane without workload or state directory.
    pub fn source(&self) -> Result<Source, ConfigError> {
        match (&self.control_plane, &self.resources) {
            (Some(_), Some(_)) => {
                Err(refuse("resources", "cannot be used together with controlPlane; remove one of them"))
            }
            (None, None) => Err(refuse(
                "controlPlane",
                "nothing says where the configuration comes from; give --control-plane IP:PORT or --resources FILE",
            )),
            (None, Some(file)) => Ok(Source::File(file.clone())),
            (Some(control), None) => {
                if self.certificates.is_some() {
                    return Err(refuse("certificates", "belongs to resources; a control plane issues certificates"));
                }
                if self.state_dir.is_none() {
                    return Err(refuse("stateDir", "is required with controlPlane: key and certificate live there"));
                }
                let workload = self.workload.clone().ok_or_else(|| {
                    refuse("workload", "is required with controlPlane: namespace, serviceAccount and name")
                })?;
                Ok(Source::ControlPlane(control.clone(), Box::new(workload)))
            }
        }
    }

    /// Whether outbound stays until somebody says that the application is gone.
    #[must_use]
    pub fn waits_for_application(&self) -> bool {
        self.drain.wait_for_application.unwrap_or(self.until_stdin_closes || self.control_plane.is_some())
    }

    /// Where the private socket belongs, if anywhere.
    #[must_use]
    pub fn socket(&self) -> Option<PathBuf> {
        self.admin.socket.clone().or_else(|| Some(self.state_dir.as_ref()?.join("admin.sock")))
    }
}

impl Workload {
    fn validate(&self) -> Result<(), ConfigError> {
        for (field, value) in [
            ("workload.namespace", &self.namespace),
            ("workload.serviceAccount", &self.service_account),
            ("workload.name", &self.name),
        ] {
            if !is_label(value) {
                return Err(refuse(field, format!("{value:?} is not a DNS label (a-z, 0-9 and -, at most 63)")));
            }
        }
        for (i, service) in self.services.iter().enumerate() {
            if !is_label(service) {
                return Err(refuse(format!("workload.services[{i}]"), format!("{service:?} is not a DNS label")));
            }
        }
        for (i, port) in self.ports.iter().enumerate() {
            if port.port == 0 {
                return Err(refuse(format!("workload.ports[{i}].port"), "must be 1 to 65535"));
            }
            if self.ports[..i].iter().any(|p| p.port == port.port) {
                return Err(refuse(format!("workload.ports[{i}].port"), format!("{} is listed twice", port.port)));
            }
        }
        Ok(())
    }
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    const MINIMAL: &str = "
workload: { namespace: shop, serviceAccount: catalog, name: catalog-1, services: [catalog], ports: [{port: 8080, protocol: http}] }
controlPlane: { address: '127.0.0.1:15010' }
stateDir: /var/lib/weft
";

    #[test]
    fn a_minimal_file_gets_the_documented_defaults() {
        let settings = Settings::parse(MINIMAL).unwrap();
        settings.validate().unwrap();
        assert_eq!(settings.outbound.listen.to_string(), "127.0.0.1:15001");
        assert_eq!(settings.inbound.tunnel.to_string(), "127.0.0.1:15008");
        assert_eq!(settings.admin.listen.to_string(), "127.0.0.1:15021");
        assert_eq!(settings.workers.0, 1);
        assert_eq!(settings.drain.deadline.0, Duration::from_secs(30));
        assert_eq!(settings.socket().unwrap(), Path::new("/var/lib/weft/admin.sock"));
        assert_eq!(settings.workload.unwrap().uid(), "shop/catalog-1");
    }

    #[test]
    fn json_is_read_as_well_as_yaml_and_what_is_written_reads_back() {
        let settings = Settings::parse(MINIMAL).unwrap();
        let json = serde_json::to_string(&settings).unwrap();
        assert_eq!(Settings::parse(&json).unwrap(), settings);
    }

    #[test]
    fn an_error_names_the_field_that_is_wrong() {
        for (text, field) in [
            ("workload: {namespace: shop, name: a, ports: [{port: 70000}]}", "workload.ports[0].port"),
            ("controlPlane: {address: localhost}", "controlPlane.address"),
            ("outbound: {lisen: '127.0.0.1:1'}", "outbound.lisen"),
            ("drain: {deadline: 30}", "drain.deadline"),
        ] {
            let error = Settings::parse(text).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
        for (text, field) in [
            ("{}", "controlPlane"),
            ("resources: a.yaml\ncontrolPlane: {address: '127.0.0.1:1'}", "resources"),
            ("controlPlane: {address: '127.0.0.1:1'}", "stateDir"),
            ("resources: a.yaml\nworkers: 0", "workers"),
            ("resources: a.yaml\ntakeOver: {deadline: 25h}", "takeOver.deadline"),
            ("resources: a.yaml\ntakeOver: {patience: 0ms}", "takeOver.patience"),
            ("resources: a.yaml\ntakeOver: {atStart: true}", "takeOver.atStart"),
            ("resources: a.yaml\nworkload: {namespace: Shop, name: a}", "workload.namespace"),
            ("resources: a.yaml\noutbound: {tcp: [{listen: '127.0.0.1:0', host: db}]}", "outbound.tcp[0].host"),
        ] {
            let error = Settings::parse(text).unwrap().validate().unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
    }

    #[test]
    fn a_password_does_not_show_in_debug_output() {
        let credentials = Credentials { user: "weft".into(), password: "hunter2".into() };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
