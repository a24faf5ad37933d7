//! The Kubernetes resource API, served by Weft itself: kubectl, client libraries and GitOps tools work against it.
