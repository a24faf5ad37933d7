//! Where the control plane keeps its objects, as flags of every command that opens it: the data directory's own store, or an etcd.

use crate::failure::Failure;
use std::path::PathBuf;
use weft_control::store::{EtcdFiles, EtcdSettings};

/// Flags that name a store.
#[derive(clap::Args, Debug)]
pub struct StoreArgs {
    /// Keep objects in this etcd, for several control planes: etcd://USER@HOST:PORT,HOST:PORT/PREFIX (user and prefix may be left out), or etcds:// with TLS
    #[arg(long, env = "WEFT_STORE", value_name = "ADDRESS")]
    store: Option<String>,
    /// Authority of etcd's certificates (PEM)
    #[arg(long, value_name = "FILE", requires = "store")]
    store_ca: Option<PathBuf>,
    /// Certificate (PEM) that etcd knows this client by
    #[arg(long, value_name = "FILE", requires = "store_key")]
    store_cert: Option<PathBuf>,
    /// Its private key (PEM, 0600)
    #[arg(long, value_name = "FILE", requires = "store_cert")]
    store_key: Option<PathBuf>,
    /// File (0600) whose first line is the password of etcd's user
    #[arg(long, value_name = "FILE", requires = "store")]
    store_password_file: Option<PathBuf>,
}

impl StoreArgs {
    /// The etcd that they name; `None`: the data directory's own store. `replica` is what the others know this one by.
    pub fn settings(self, replica: &str) -> Result<Option<EtcdSettings>, Failure> {
        let Some(address) = self.store else { return Ok(None) };
        let files = EtcdFiles {
            ca: self.store_ca,
            cert: self.store_cert,
            key: self.store_key,
            password: self.store_password_file,
        };
        let settings = EtcdSettings::read(&address, &files).map_err(|why| Failure::usage(format!("--store {why}")))?;
        Ok(Some(EtcdSettings { replica: replica.to_owned(), ..settings }))
    }
}

/// The name of this host, which a control plane's own name begins with.
pub fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}
