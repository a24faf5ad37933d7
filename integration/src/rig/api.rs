//! The resource API as programs other than `weft` reach it: the administrator's papers as files, and documents fetched with curl.

use super::{Mesh, program, run};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// What a client of the API needs, out of the kubeconfig, in PEM files.
pub struct Papers {
    /// Root that the server's certificate chains to.
    pub root: PathBuf,
    /// The administrator's certificate.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Mesh {
    /// The administrator's papers, in files of the test's folder.
    #[must_use]
    pub fn papers(&self) -> Papers {
        let text = std::fs::read_to_string(self.kubeconfig()).expect("weft up wrote a kubeconfig");
        let config: Value = serde_json::from_str(&text).expect("the kubeconfig is JSON");
        let write = |name: &str, pointer: &str| {
            let encoded =
                config.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer}: {config}"));
            let path = self.folder().join(name);
            std::fs::write(&path, STANDARD.decode(encoded).expect("base64")).expect("the test's folder is writable");
            path
        };
        Papers {
            root: write("api-root.pem", "/clusters/0/cluster/certificate-authority-data"),
            chain: write("admin.pem", "/users/0/user/client-certificate-data"),
            key: write("admin.key", "/users/0/user/client-key-data"),
        }
    }

    /// The JSON document at a path of the API, fetched as the administrator.
    #[must_use]
    #[track_caller]
    pub fn fetch(&self, path: &str) -> Value {
        let Papers { root, chain, key } = self.papers();
        let mut curl = Command::new(program("curl"));
        curl.args(["-sS", "--fail", "--noproxy", "*", "--max-time", "20"]);
        curl.arg("--cacert").arg(root).arg("--cert").arg(chain).arg("--key").arg(key);
        let body = run(curl.arg(format!("{}{path}", self.api()))).ok();
        serde_json::from_str(&body).expect("the API answers in JSON")
    }
}
