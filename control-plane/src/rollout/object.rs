//! The objects whose changes are rolled out, whatever their kind: how they are found in a world, put into one, and kept as documents.

use crate::compile::{Kind, Verdict};
use crate::kinds::{
    AuthorizationPolicy, MeshTls, ROLLOUT, RateLimitPolicy, RequestAuthentication, RolloutKind, TlsMode, TrafficPolicy,
    Wish,
};
use crate::world::{Route, Table, Text, World};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;

/// Kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Its kind.
    pub kind: Kind,
    /// `namespace/name`, as worlds have it.
    pub key: String,
}

impl Id {
    /// Of the object that a verdict is about.
    #[must_use]
    pub fn of(verdict: &Verdict) -> Self {
        Self { kind: verdict.kind, key: format!("{}/{}", verdict.namespace, verdict.name) }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.key)
    }
}

/// The kinds whose changes can be rolled out.
pub const KINDS: [Kind; 9] = [
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TlsRoute,
    Kind::TcpRoute,
    Kind::TrafficPolicy,
    Kind::AuthorizationPolicy,
    Kind::MeshTls,
    Kind::RateLimitPolicy,
    Kind::RequestAuthentication,
];

/// The kind that settings name.
#[must_use]
pub const fn kind_of(named: RolloutKind) -> Kind {
    match named {
        RolloutKind::AuthorizationPolicy => Kind::AuthorizationPolicy,
        RolloutKind::GrpcRoute => Kind::GrpcRoute,
        RolloutKind::HttpRoute => Kind::HttpRoute,
        RolloutKind::MeshTls => Kind::MeshTls,
        RolloutKind::RateLimitPolicy => Kind::RateLimitPolicy,
        RolloutKind::RequestAuthentication => Kind::RequestAuthentication,
        RolloutKind::TcpRoute => Kind::TcpRoute,
        RolloutKind::TlsRoute => Kind::TlsRoute,
        RolloutKind::TrafficPolicy => Kind::TrafficPolicy,
    }
}

/// One edition of an object. A copy shares it.
#[derive(Clone, Debug)]
pub enum Object {
    /// A route of any kind.
    Route(Arc<Route>),
    /// A TrafficPolicy.
    Traffic(Arc<TrafficPolicy>),
    /// An AuthorizationPolicy.
    Authorization(Arc<AuthorizationPolicy>),
    /// A MeshTLS.
    MeshTls(Arc<MeshTls>),
    /// A RateLimitPolicy.
    Limits(Arc<RateLimitPolicy>),
    /// A RequestAuthentication.
    Authentication(Arc<RequestAuthentication>),
}

/// Does the same for each kind of policy.
macro_rules! each {
    ($object:expr, $route:ident => $of_route:expr, $policy:ident => $of_policy:expr) => {
        match $object {
            Object::Route($route) => $of_route,
            Object::Traffic($policy) => $of_policy,
            Object::Authorization($policy) => $of_policy,
            Object::MeshTls($policy) => $of_policy,
            Object::Limits($policy) => $of_policy,
            Object::Authentication($policy) => $of_policy,
        }
    };
}

impl Object {
    /// `metadata.uid`
    #[must_use]
    pub fn uid(&self) -> &str {
        each!(self, route => &route.uid, policy => policy.metadata.uid.as_deref().unwrap_or_default())
    }

    /// `metadata.generation`
    #[must_use]
    pub fn generation(&self) -> i64 {
        each!(self, route => route.generation, policy => policy.metadata.generation.unwrap_or_default())
    }

    /// What its annotation says; one that cannot be read says nothing.
    #[must_use]
    pub fn wish(&self) -> Option<Wish> {
        let said = each!(self, route => route.rollout.as_ref(), policy => {
            policy.metadata.annotations.as_ref().and_then(|all| all.get(ROLLOUT))
        });
        said?.parse().ok()
    }

    /// Whether both want the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Route(a), Self::Route(b)) => a.spec == b.spec,
            (Self::Traffic(a), Self::Traffic(b)) => a.spec == b.spec,
            (Self::Authorization(a), Self::Authorization(b)) => a.spec == b.spec,
            (Self::MeshTls(a), Self::MeshTls(b)) => a.spec == b.spec,
            (Self::Limits(a), Self::Limits(b)) => a.spec == b.spec,
            (Self::Authentication(a), Self::Authentication(b)) => a.spec == b.spec,
            _ => false,
        }
    }

    /// Whether it changes how callers call, and at the same time what is called: a MeshTLS that disables TLS.
    #[must_use]
    pub fn concerns_both_sides(&self) -> bool {
        let Self::MeshTls(policy) = self else { return false };
        let mut modes = policy.spec.ports.iter().map(|port| port.mode).chain([policy.spec.mode]);
        modes.any(|mode| mode == TlsMode::Disabled)
    }

    /// As it is kept; without its status. [`Object::read`] reads it.
    #[must_use]
    pub fn document(&self) -> Value {
        fn of(policy: &impl Serialize) -> Value {
            let mut document = serde_json::to_value(policy).unwrap_or_default();
            if let Some(fields) = document.as_object_mut() {
                fields.remove("status");
            }
            document
        }
        each!(self, route => json!({
            "namespace": route.namespace, "name": route.name, "uid": route.uid,
            "generation": route.generation, "created": route.created, "rollout": route.rollout, "spec": route.spec.read(),
        }), policy => of(&**policy))
    }

    /// What was kept of an object of a kind; `None` where that is no such object.
    #[must_use]
    pub fn read(kind: Kind, document: &Value) -> Option<Self> {
        fn of<T: DeserializeOwned>(document: &Value) -> Option<Arc<T>> {
            serde_json::from_value(document.clone()).ok().map(Arc::new)
        }
        match kind {
            Kind::TrafficPolicy => of(document).map(Self::Traffic),
            Kind::AuthorizationPolicy => of(document).map(Self::Authorization),
            Kind::MeshTls => of(document).map(Self::MeshTls),
            Kind::RateLimitPolicy => of(document).map(Self::Limits),
            Kind::RequestAuthentication => of(document).map(Self::Authentication),
            Kind::MeshSettings => None,
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => {
                let text = |field: &str| document.get(field)?.as_str().map(str::to_owned);
                Some(Self::Route(Arc::new(Route {
                    kind,
                    namespace: text("namespace")?,
                    name: text("name")?,
                    uid: text("uid")?,
                    generation: document.get("generation")?.as_i64()?,
                    created: document.get("created")?.as_i64()?,
                    rollout: text("rollout"),
                    spec: document.get("spec")?.into(),
                    status: Text::default(),
                })))
            }
        }
    }
}

/// The object in a world.
#[must_use]
pub fn get(world: &World, id: &Id) -> Option<Object> {
    let key = &id.key;
    match id.kind {
        Kind::TrafficPolicy => world.traffic.get(key).cloned().map(Object::Traffic),
        Kind::AuthorizationPolicy => world.authorization.get(key).cloned().map(Object::Authorization),
        Kind::MeshTls => world.mesh_tls.get(key).cloned().map(Object::MeshTls),
        Kind::RateLimitPolicy => world.limits.get(key).cloned().map(Object::Limits),
        Kind::RequestAuthentication => world.authentication.get(key).cloned().map(Object::Authentication),
        Kind::MeshSettings => None,
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => {
            world.routes(id.kind)?.get(key).cloned().map(Object::Route)
        }
    }
}

fn set<T>(table: &mut Table<Arc<T>>, key: &str, object: Option<Arc<T>>) {
    match object {
        Some(object) => drop(table.insert(key.to_owned(), object)),
        None => drop(table.remove(key)),
    }
}

/// Puts another edition into a world, or takes the object out.
pub fn put(world: &mut World, id: &Id, object: Option<Object>) {
    let key = &id.key;
    match (id.kind, object) {
        (Kind::TrafficPolicy, Some(Object::Traffic(object))) => set(&mut world.traffic, key, Some(object)),
        (Kind::TrafficPolicy, _) => set(&mut world.traffic, key, None),
        (Kind::AuthorizationPolicy, Some(Object::Authorization(o))) => set(&mut world.authorization, key, Some(o)),
        (Kind::AuthorizationPolicy, _) => set(&mut world.authorization, key, None),
        (Kind::MeshTls, Some(Object::MeshTls(object))) => set(&mut world.mesh_tls, key, Some(object)),
        (Kind::MeshTls, _) => set(&mut world.mesh_tls, key, None),
        (Kind::RateLimitPolicy, Some(Object::Limits(object))) => set(&mut world.limits, key, Some(object)),
        (Kind::RateLimitPolicy, _) => set(&mut world.limits, key, None),
        (Kind::RequestAuthentication, Some(Object::Authentication(o))) => {
            set(&mut world.authentication, key, Some(o));
        }
        (Kind::RequestAuthentication, _) => set(&mut world.authentication, key, None),
        (Kind::MeshSettings, _) => {}
        (kind, object) => {
            let route = object.and_then(|object| if let Object::Route(route) = object { Some(route) } else { None });
            let table = match kind {
                Kind::GrpcRoute => &mut world.grpc_routes,
                Kind::TlsRoute => &mut world.tls_routes,
                Kind::TcpRoute => &mut world.tcp_routes,
                _ => &mut world.http_routes,
            };
            set(table, key, route);
        }
    }
}

/// What of a world can be rolled out, and nothing else.
#[must_use]
pub fn only(world: &World) -> World {
    World {
        http_routes: world.http_routes.clone(),
        grpc_routes: world.grpc_routes.clone(),
        tls_routes: world.tls_routes.clone(),
        tcp_routes: world.tcp_routes.clone(),
        traffic: world.traffic.clone(),
        authorization: world.authorization.clone(),
        mesh_tls: world.mesh_tls.clone(),
        limits: world.limits.clone(),
        authentication: world.authentication.clone(),
        ..World::default()
    }
}

/// The objects in which two worlds differ, with what was and what is.
#[must_use]
pub fn changes(before: &World, world: &World) -> Vec<(Id, Option<Object>, Option<Object>)> {
    let names = |kind: Kind| -> Vec<String> {
        fn of<T>(before: &Table<Arc<T>>, is: &Table<Arc<T>>) -> Vec<String> {
            is.changes(before, Arc::ptr_eq).into_iter().map(|(key, _, _)| key.to_string()).collect()
        }
        match kind {
            Kind::TrafficPolicy => of(&before.traffic, &world.traffic),
            Kind::AuthorizationPolicy => of(&before.authorization, &world.authorization),
            Kind::MeshTls => of(&before.mesh_tls, &world.mesh_tls),
            Kind::RateLimitPolicy => of(&before.limits, &world.limits),
            Kind::RequestAuthentication => of(&before.authentication, &world.authentication),
            Kind::MeshSettings => Vec::new(),
            route => before.routes(route).zip(world.routes(route)).map(|(was, is)| of(was, is)).unwrap_or_default(),
        }
    };
    let ids = KINDS.into_iter().flat_map(|kind| names(kind).into_iter().map(move |key| Id { kind, key }));
    ids.map(|id| (get(before, &id), get(world, &id), id)).map(|(was, is, id)| (id, was, is)).collect()
}
