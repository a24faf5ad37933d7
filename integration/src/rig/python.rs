//! Programs from the Python environments that `integration/setup` made: grpcio and kubectl.

use super::{program, target};
use std::path::PathBuf;

/// The interpreter of an environment.
#[must_use]
pub fn python_env(name: &str) -> PathBuf {
    let path = target().join("tools").join(name).join("bin/python");
    assert!(path.exists(), "{} is missing: run `integration/setup` (make test does)", path.display());
    path
}

/// Every kubectl there is to try: the machine's own or the oldest that could be had, and the newest.
#[must_use]
pub fn kubectls() -> Vec<PathBuf> {
    let newest = find_kubectl("kubectl-newest");
    let oldest = target().join("tools/kubectl-oldest");
    let oldest = if oldest.exists() { find_kubectl("kubectl-oldest") } else { program("kubectl") };
    vec![oldest, newest]
}

fn find_kubectl(environment: &str) -> PathBuf {
    let bin = target().join("tools").join(environment).join("bin");
    let path = bin.join("kubectl");
    assert!(path.exists(), "{} is missing: run `integration/setup` (make test does)", path.display());
    path
}
