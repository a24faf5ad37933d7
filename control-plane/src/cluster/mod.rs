//! What a control plane does in a Kubernetes cluster beside reading its objects ([`crate::world`]) and remembering its own ([`crate::store`]):
//! its keys are in a Secret, and what pods trust is in a ConfigMap of every namespace.

pub mod papers;
pub mod roots;

use std::time::Duration;

/// How the control plane signs what it writes into the cluster.
pub const MANAGER: &str = "weft-control";
/// How long the API server may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why something of the cluster could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or cannot be reached.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// It did not answer.
    #[error("the API server did not answer in {DEADLINE:?}")]
    Late,
    /// The data directory.
    #[error("{0}")]
    File(String),
}

pub(crate) async fn within<T>(asked: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    tokio::time::timeout(DEADLINE, asked).await.map_err(|_| Error::Late)?.map_err(Error::from)
}
