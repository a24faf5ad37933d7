//! What a policy object learns of its fate, before it is put into the shape of a status.
//!
//! Types and reasons are those of the Gateway API (`RouteConditionType`, `RouteConditionReason`) where it has one. Who writes them, and
//! what `Programmed` says, is [`crate::world::status`]'s business.

use crate::kinds::check::Findings;
use crate::xds::convergence::Key;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// The kinds that are told their fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `gateway.networking.k8s.io/v1` HTTPRoute.
    HttpRoute,
    /// `gateway.networking.k8s.io/v1` GRPCRoute.
    GrpcRoute,
    /// `gateway.networking.k8s.io/v1` TLSRoute.
    TlsRoute,
    /// `gateway.networking.k8s.io/v1` TCPRoute.
    TcpRoute,
    /// `weft.mesh/v1alpha1` TrafficPolicy.
    TrafficPolicy,
    /// `weft.mesh/v1alpha1` AuthorizationPolicy.
    AuthorizationPolicy,
    /// `weft.mesh/v1alpha1` MeshTLS.
    MeshTls,
    /// `weft.mesh/v1alpha1` RateLimitPolicy.
    RateLimitPolicy,
    /// `weft.mesh/v1alpha1` RequestAuthentication.
    RequestAuthentication,
    /// `weft.mesh/v1alpha1` MeshSettings.
    MeshSettings,
}

impl Kind {
    /// The kinds of routes; of those on one port of a Service the earlier wins (GEP-1426).
    pub const ROUTES: [Self; 4] = [Self::GrpcRoute, Self::HttpRoute, Self::TlsRoute, Self::TcpRoute];

    /// Whether its status is one list of conditions for each parent.
    #[must_use]
    pub fn is_route(self) -> bool {
        Self::ROUTES.contains(&self)
    }

    /// The name of the kind, as in objects.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::MeshTls => "MeshTLS",
            Self::RateLimitPolicy => "RateLimitPolicy",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::MeshSettings => "MeshSettings",
        }
    }
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `Accepted`, `ResolvedRefs`, `JwksFetched`.
    pub r#type: &'static str,
    /// True or False.
    pub status: bool,
    /// CamelCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Condition {
    /// `Accepted=True`.
    #[must_use]
    pub fn accepted() -> Self {
        Self { r#type: "Accepted", status: true, reason: "Accepted", message: String::new() }
    }

    /// `Accepted=False`.
    #[must_use]
    pub fn refused(reason: &'static str, message: impl Into<String>) -> Self {
        Self { r#type: "Accepted", status: false, reason, message: message.into() }
    }

    /// `ResolvedRefs`: of what does not resolve the first gives the reason, all are told.
    #[must_use]
    pub fn resolved(unresolved: &[(&'static str, String)]) -> Self {
        let Some((reason, _)) = unresolved.first() else {
            return Self { r#type: "ResolvedRefs", status: true, reason: "ResolvedRefs", message: String::new() };
        };
        let all: Vec<_> = unresolved.iter().map(|(_, text)| text.as_str()).collect();
        Self { r#type: "ResolvedRefs", status: false, reason, message: all.join("; ") }
    }
}

/// The first thing about a policy that its kind's check finds wrong, its targets apart: a cluster's API server knows the schemas alone.
pub(super) fn misfit(policy: &impl Serialize, check: fn(&Value, &mut Findings)) -> Result<(), String> {
    let object = serde_json::to_value(policy).map_err(|error| error.to_string())?;
    let mut findings = Findings::default();
    check(&object, &mut findings);
    match findings.0.into_iter().find(|cause| !cause.field.starts_with("spec.targetRefs")) {
        Some(cause) => Err(format!("{}: {}", cause.field, cause.message)),
        None => Ok(()),
    }
}

/// How far a staged rollout of a change has got. [`crate::rollout`] decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In force nowhere yet.
    Waiting,
    /// In force for the sample.
    Trying,
    /// In force nowhere: it made things worse.
    RolledBack,
}

/// What keeps an object from being in force for all as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How far its rollout has got.
    pub stage: Stage,
    /// For people.
    pub message: String,
}

impl Note {
    /// The reason of `Programmed=False`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self.stage {
            Stage::Waiting | Stage::Trying => "RollingOut",
            Stage::RolledBack => "RolledBack",
        }
    }
}

/// The fate of an object under one parent, or its only one.
#[derive(Clone, Debug, PartialEq)]
pub struct ParentVerdict {
    /// The `parentRef` as it was written; `None` for kinds without.
    pub parent: Option<serde_json::Value>,
    /// What was found.
    pub conditions: Vec<Condition>,
    /// The resources that the object shapes through this parent: sidecars that hold their newest versions run it.
    pub shapes: BTreeSet<Key>,
}

impl ParentVerdict {
    /// Whether the object is in force here as it is written.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.conditions.iter().all(|c| c.r#type != "Accepted" || c.status)
    }
}

/// The fate of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for one of the whole cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `metadata.uid`: another object of the same name has another fate.
    pub uid: String,
    /// `metadata.generation` of the edition that was compiled.
    pub generation: i64,
    /// One for each parent that is ours, in the order written; kinds without parents have exactly one.
    pub parents: Vec<ParentVerdict>,
    /// Its rollout, while there is one or after one that failed.
    pub rollout: Option<Note>,
}

impl Verdict {
    /// Whether it is in force under all of its parents, or would be.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.parents.iter().all(ParentVerdict::is_accepted)
    }
}
