//! Where the agent of the SPIFFE Workload API listens, and what is wanted of it.

use super::{ConfigError, Settings, WorkloadApi, refuse};
use crate::identity::Wanted;
use std::path::PathBuf;
use weft_certs::SpiffeId;

/// Where SPIFFE libraries look for the agent's address (SPIFFE Workload Endpoint §4). Only `env` asks for it: a variable that some tool has
/// left behind must not decide who a sidecar is.
pub const SOCKET_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
const ENV: &str = "env";

impl WorkloadApi {
    /// The path of the agent's socket; `variable` is what [`SOCKET_VARIABLE`] says.
    ///
    /// # Errors
    /// It is none.
    pub fn socket(&self, variable: Option<&str>) -> Result<PathBuf, ConfigError> {
        let (endpoint, whose) = match (self.endpoint.as_str(), variable.filter(|text| !text.is_empty())) {
            (ENV, Some(text)) => (text, format!("{SOCKET_VARIABLE} says ")),
            (ENV, None) => return Err(refuse("workloadApi.endpoint", format!("{SOCKET_VARIABLE} is not set"))),
            (given, _) => (given, String::new()),
        };
        let path = endpoint.strip_prefix("unix:").map(|rest| rest.strip_prefix("//").unwrap_or(rest));
        match path {
            Some(path) if path.starts_with('/') && !path.contains(['?', '#', '\0']) => Ok(path.into()),
            _ => Err(refuse(
                "workloadApi.endpoint",
                format!(
                    "{whose}{endpoint:?}, which is no absolute path of a Unix socket: write unix:///run/spire/agent.sock"
                ),
            )),
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.endpoint != ENV {
            self.socket(None)?;
        }
        self.id()?;
        if self.spiffe_id.is_some() && self.hint.is_some() {
            return Err(refuse("workloadApi.hint", "cannot be used together with spiffeId; remove one of them"));
        }
        if self.hint.as_ref().is_some_and(|hint| hint.is_empty() || hint.len() > 1024) {
            return Err(refuse("workloadApi.hint", "must be 1 to 1024 bytes"));
        }
        Ok(())
    }

    fn id(&self) -> Result<Option<SpiffeId>, ConfigError> {
        let parse = |text: &String| SpiffeId::new(text).map_err(|e| refuse("workloadApi.spiffeId", e.to_string()));
        self.spiffe_id.as_ref().map(parse).transpose()
    }
}

impl Settings {
    /// Socket and wishes, where the identity is to come from an agent.
    ///
    /// # Errors
    /// The endpoint is none.
    pub fn agent(&self) -> Result<Option<(PathBuf, Wanted)>, ConfigError> {
        let Some(api) = &self.workload_api else { return Ok(None) };
        let variable = std::env::var(SOCKET_VARIABLE).ok();
        let known = self.workload.as_ref().filter(|_| self.control_plane.is_some());
        let workload = known.map(|known| (known.namespace.clone(), known.service_account.clone()));
        Ok(Some((api.socket(variable.as_deref())?, Wanted { id: api.id()?, hint: api.hint.clone(), workload })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(endpoint: &str) -> WorkloadApi {
        WorkloadApi { endpoint: endpoint.to_owned(), spiffe_id: None, hint: None }
    }

    #[test]
    fn an_endpoint_is_the_absolute_path_of_a_unix_socket() {
        for endpoint in ["unix:///run/agent.sock", "unix:/run/agent.sock"] {
            assert_eq!(api(endpoint).socket(None).unwrap(), PathBuf::from("/run/agent.sock"));
        }
        for endpoint in
            ["", "/run/agent.sock", "unix:agent.sock", "unix://agent/socket", "tcp://127.0.0.1:80", "unix:///a?b"]
        {
            let error = api(endpoint).validate().unwrap_err();
            assert!(error.field == "workloadApi.endpoint" && error.reason.contains("unix:///"), "{endpoint}: {error}");
        }
    }

    #[test]
    fn the_variable_counts_only_where_it_is_asked_for() {
        let said = Some("unix:///said.sock");
        assert_eq!(api("unix:///given.sock").socket(said).unwrap(), PathBuf::from("/given.sock"));
        assert_eq!(api("env").socket(said).unwrap(), PathBuf::from("/said.sock"));
        for (variable, why) in
            [(None, "is not set"), (Some(""), "is not set"), (Some("tcp://127.0.0.1:1"), "says \"tcp:")]
        {
            let error = api("env").socket(variable).unwrap_err().to_string();
            assert!(error.contains("SPIFFE_ENDPOINT_SOCKET") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn an_id_that_is_none_and_two_wishes_are_refused_by_field() {
        let with = |id: &str, hint: Option<&str>| WorkloadApi {
            spiffe_id: Some(id.to_owned()),
            hint: hint.map(str::to_owned),
            ..api("env")
        };
        assert_eq!(with("https://example.org", None).validate().unwrap_err().field, "workloadApi.spiffeId");
        assert_eq!(with("spiffe://example.org/web", Some("web")).validate().unwrap_err().field, "workloadApi.hint");
        with("spiffe://example.org/web", None).validate().unwrap();
    }
}
