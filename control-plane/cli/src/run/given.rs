//! Identities that do not come from a join token: from an agent of the SPIFFE Workload API, or by a service-account token that lies in a
//! file. `weft run` only passes on to the sidecar where they are. Beside an agent a join token still says which services a workload may
//! join; a service-account token says that too.

use crate::failure::Failure;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Flags of `weft run` that say where the sidecar's identity comes from instead.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Given {
    /// Take the identity from an agent of the SPIFFE Workload API: unix:///run/spire/agent.sock, or env for $SPIFFE_ENDPOINT_SOCKET
    #[arg(long, value_name = "ENDPOINT", conflicts_with = "service_account_token_file")]
    workload_api: Option<String>,
    /// Join with the service-account token in this file, which is read whenever it is needed
    #[arg(long, value_name = "FILE", requires = "roots_file", conflicts_with = "join_token_file")]
    service_account_token_file: Option<PathBuf>,
    /// Roots (PEM) by which the sidecar knows the control plane, where no join token says so: see weft identity bundle
    #[arg(long, value_name = "FILE")]
    roots_file: Option<PathBuf>,
    /// Trust domain of the mesh, for --service-account-token-file (default: weft.local)
    #[arg(long, value_name = "NAME", requires = "service_account_token_file")]
    trust_domain: Option<String>,
}

impl Given {
    /// Whether it is joined without a join token.
    pub fn joins(&self) -> bool {
        self.service_account_token_file.is_some()
    }

    /// Whether there is an identity without joining.
    pub fn has_identity(&self) -> bool {
        self.workload_api.is_some()
    }

    /// Says so in the settings of the sidecar, which has another working directory.
    ///
    /// # Errors
    /// When a file is not there.
    pub fn settle(&self, settings: &mut Value) -> Result<(), Failure> {
        let found = |flag: &str, path: &Path| {
            let whole = std::path::absolute(path).ok().filter(|path| path.is_file());
            whole.ok_or_else(|| Failure::usage(format!("{flag} {}: no such file", path.display())))
        };
        if let Some(endpoint) = &self.workload_api {
            settings["workloadApi"] = json!({ "endpoint": endpoint });
        }
        if let Some(file) = &self.service_account_token_file {
            settings["serviceAccountTokenFile"] = json!(found("--service-account-token-file", file)?);
        }
        if let Some(file) = &self.roots_file {
            settings["controlPlane"]["rootsFile"] = json!(found("--roots-file", file)?);
        }
        if let Some(domain) = &self.trust_domain {
            settings["controlPlane"]["trustDomain"] = json!(domain);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_stands_in_the_settings_with_whole_paths() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, "x").unwrap();
            path
        };
        let mut settings = json!({ "controlPlane": { "address": "127.0.0.1:15010" } });
        let given = Given {
            service_account_token_file: Some(file("token")),
            roots_file: Some(file("roots.pem")),
            trust_domain: Some("shop.example".into()),
            ..Given::default()
        };
        given.settle(&mut settings).unwrap();
        assert_eq!(settings["serviceAccountTokenFile"], json!(dir.path().join("token")));
        assert_eq!(settings["controlPlane"]["rootsFile"], json!(dir.path().join("roots.pem")));
        assert_eq!(settings["controlPlane"]["trustDomain"], "shop.example");
        let gone = Given { roots_file: Some("/nowhere/roots.pem".into()), ..Given::default() };
        assert!(gone.settle(&mut settings).unwrap_err().message.contains("--roots-file /nowhere/roots.pem"));
        let agent = Given { workload_api: Some("unix:///run/agent.sock".into()), ..Given::default() };
        let mut settings = json!({});
        agent.settle(&mut settings).unwrap();
        assert!(agent.has_identity() && !agent.joins() && given.joins());
        assert_eq!(settings, json!({ "workloadApi": { "endpoint": "unix:///run/agent.sock" } }));
    }
}
