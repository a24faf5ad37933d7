//! A resource API in this process, on a port of its own, with its store, authorities and kubeconfig in a temporary directory.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::SystemTime};

use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use weft_certs::{ApiCa, ca::Credential, tls::api_server_config};
use weft_control::{
    api::{self, Api, Settings},
    store,
};

/// A running API.
pub struct Server {
    /// Holds store and kubeconfig.
    pub dir: TempDir,
    /// The API, for clients in this process.
    pub api: Api,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its authority.
    pub ca: ApiCa,
    /// The administrator's certificate.
    pub admin: Credential,
    shutdown: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// Starts it with the defaults.
    pub async fn start() -> Self {
        Self::open(tempfile::tempdir().unwrap(), Settings::default(), store::Options::default(), "127.0.0.1:0").await
    }

    /// Starts it over what a directory holds.
    pub async fn open(dir: TempDir, settings: Settings, options: store::Options, listen: &str) -> Self {
        let now = SystemTime::now();
        let ca = ApiCa::open(&dir.path().join("api"), now).unwrap();
        let server = ca.issue_server(&["localhost", "127.0.0.1", "::1"], None, now).unwrap();
        let admin = ca.issue_client("admin", &[api::ADMIN_GROUP], None, now).unwrap();
        let store = store::Embedded::open(&dir.path().join("weft.redb"), options).unwrap();
        let api = Api::open(Arc::new(store), settings).await.unwrap();
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = api::access::kubeconfig(
            &format!("https://{address}"),
            &ca.certificate_pem(),
            &admin.chain_pem(),
            &admin.key().to_pem(),
        );
        std::fs::write(dir.path().join("kubeconfig"), config).unwrap();
        let tls = api_server_config(&server, ca.certificate(), &[]).unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(api::server::serve(listener, api.clone(), tls, shutdown.clone()));
        Self { dir, api, address, ca, admin, shutdown, task }
    }

    /// The kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Stops it in order; the directory stays.
    pub async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
        self.dir
    }
}
