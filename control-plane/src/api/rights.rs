//! Who may do what at this moment: the roles and bindings of the store, compiled once for each change of them; what is there of them from the
//! first start; and what nobody may give who does not have it.
//!
//! A write through this API is in force when it is answered. What other replicas write arrives with [`Rights::follow`].

use std::sync::Arc;

use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Error, Inner,
    failure::{Failure, Result},
    object, resource,
    route::Call,
};
use crate::kinds::{self, Kind, RBAC_GROUP, check::Cause, check::Reason};
use crate::rbac::{Attributes, Grants, Objects, Resource, Rule, User, builtin, grants, uncovered};
use crate::store::{Expect, Key, Scope, Store, StoreError, Write};

/// How often a start tries again when another replica starts at the same time.
const ATTEMPTS: usize = 8;
/// Rules of a refusal that are shown.
const SHOWN: usize = 16;
/// Between two tries to read the store.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// What is in force.
#[derive(Debug, Default)]
pub(super) struct Rights {
    grants: watch::Sender<Arc<Grants>>,
    /// Held while the objects are read, so that what was read later is in force later.
    reading: Mutex<()>,
}

fn kind(plural: &str) -> Option<&'static Kind> {
    kinds::find(RBAC_GROUP, "v1", plural)
}

fn scope(plural: &str) -> Scope {
    Scope { resource: format!("{RBAC_GROUP}/{plural}").into(), namespace: None }
}

const PLURALS: [&str; 4] = ["roles", "clusterroles", "rolebindings", "clusterrolebindings"];

impl Rights {
    /// As they are now.
    pub fn now(&self) -> Arc<Grants> {
        self.grants.borrow().clone()
    }

    /// From now on these.
    pub fn put(&self, grants: Arc<Grants>) {
        self.grants.send_replace(grants);
    }

    /// Says when they change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Grants>> {
        self.grants.subscribe()
    }

    /// Reads all roles and bindings and puts them in force. Returns a revision that they are not older than.
    pub async fn read(&self, store: &dyn Store) -> std::result::Result<u64, StoreError> {
        let _reading = self.reading.lock().await;
        let revision = store.revision().await?;
        let mut lists = Vec::with_capacity(PLURALS.len());
        for plural in PLURALS {
            let page = store.list(&scope(plural), None, 0, None).await?;
            let read = page.items.iter().filter_map(|record| serde_json::from_slice::<Value>(&record.value).ok());
            lists.push(read.collect::<Vec<_>>());
        }
        let mut lists = lists.into_iter();
        let mut next = || lists.next().unwrap_or_default();
        let objects =
            Objects { roles: next(), cluster_roles: next(), role_bindings: next(), cluster_role_bindings: next() };
        self.grants.send_replace(Arc::new(Grants::compile(&objects)));
        Ok(revision)
    }

    /// Reads them again whenever somebody else changes them, until `shutdown`.
    pub async fn follow(&self, store: &dyn Store, shutdown: &CancellationToken) {
        loop {
            let followed = tokio::select! {
                followed = self.follow_from_now(store) => followed,
                () = shutdown.cancelled() => return,
            };
            // History that is gone is no fault; all is read again either way.
            if let Err(error) = followed {
                tracing::debug!(%error, "roles and bindings are read again");
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn follow_from_now(&self, store: &dyn Store) -> std::result::Result<(), StoreError> {
        let mut revision = self.read(store).await?;
        loop {
            let mut watches = Vec::with_capacity(PLURALS.len());
            for plural in PLURALS {
                watches.push(store.watch(&scope(plural), revision).await?);
            }
            let changed = futures_util::future::select_all(watches.iter_mut().map(|watch| {
                Box::pin(async move {
                    loop {
                        if !watch.next().await?.events.is_empty() {
                            return Ok(());
                        }
                    }
                })
            }));
            let (changed, ..) = changed.await;
            let () = changed?;
            revision = self.read(store).await?;
        }
    }
}

/// Whether a change of these objects changes who may do what: of a namespace too, which takes its roles along.
pub(super) fn concerns(kind: &Kind) -> bool {
    kind.group == RBAC_GROUP || kind.plural == "namespaces"
}

/// Makes the roles and bindings that are there from the first start, and mends those of an older one.
pub(super) async fn bootstrap(api: &Inner) -> std::result::Result<(), Error> {
    for _ in 0..ATTEMPTS {
        let mut writes = Vec::new();
        let all = builtin::cluster_roles().into_iter().map(|role| ("clusterroles", role));
        let all = all.chain(builtin::cluster_role_bindings().into_iter().map(|b| ("clusterrolebindings", b)));
        for (plural, mut wanted) in all {
            let Some(kind) = kind(plural) else { continue };
            let key = Key::new(kind.resource(), "", object::name(&wanted));
            match api.store.get(&key).await? {
                None => {
                    object::born(kind, &mut wanted, rand::random(), OffsetDateTime::now_utc())
                        .map_err(|f| Error::Settings(f.status()["message"].to_string()))?;
                    writes.push(Write { key, expect: Expect::Absent, value: Some(resource::stored(wanted)) });
                }
                Some(found) => {
                    let object: Value = serde_json::from_slice(&found.value).unwrap_or_default();
                    if let Some(mended) = builtin::mended(&object, &wanted) {
                        let expect = Expect::Revision(found.revision);
                        writes.push(Write { key, expect, value: Some(resource::stored(mended)) });
                    }
                }
            }
        }
        if writes.is_empty() {
            break;
        }
        match api.store.transact(writes).await {
            Ok(_) => break,
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    api.rights.read(&*api.store).await?;
    Ok(())
}

/// Refuses a role or binding that gives what its writer does not have, unless the writer may `escalate`, or `bind` the role that is named; and
/// a binding to another role than before. Other kinds pass.
pub(super) fn may_give(api: &Inner, call: &Call, old: Option<&Value>, new: &Value) -> Result<()> {
    let kind = call.kind;
    if kind.group != RBAC_GROUP {
        return Ok(());
    }
    let name = object::name(new);
    if let Some(old) = old.filter(|old| old.get("roleRef") != new.get("roleRef")) {
        let message = format!("Invalid value: {}: cannot change roleRef from {}", new["roleRef"], old["roleRef"]);
        let cause = Cause { reason: Reason::Invalid, field: "roleRef".into(), message };
        return Err(Failure::invalid(kind, name, &[cause]));
    }
    let Some(user) = call.user.as_ref().filter(|user| !user.is_master()) else { return Ok(()) };
    let grants = api.rights.now();
    let namespace = call.namespace.as_deref().unwrap_or_default();
    let may = |verb: &str, resource: &str, name: &str| {
        let (group, namespace) =
            (RBAC_GROUP.to_owned(), if resource == "roles" || kind.namespaced { namespace } else { "" });
        let (resource, name) = (resource.to_owned(), name.to_owned());
        let about = Resource { group, resource, namespace: namespace.to_owned(), name, ..Resource::default() };
        grants.allows(user, &Attributes::on(verb, about)).is_some()
    };
    let wanted: Vec<Rule> = match new.get("roleRef") {
        None if may("escalate", kind.plural, name) => return Ok(()),
        None => {
            let everything = || {
                let all = || vec!["*".to_owned()];
                let objects = Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() };
                [objects, Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() }]
            };
            let had = || grants.rules(user, namespace);
            if new.get("aggregationRule").is_some() && !uncovered(&had(), &everything()).is_empty() {
                let why = "must have cluster-admin privileges to use an aggregationRule";
                return Err(Failure::protected(kind, name, why));
            }
            grants::rules(new)
        }
        Some(role) => {
            let text = |field: &str| role[field].as_str().unwrap_or_default();
            let plural = if text("kind") == "Role" { "roles" } else { "clusterroles" };
            if may("bind", plural, text("name")) {
                return Ok(());
            }
            match grants.role(text("kind"), namespace, text("name")) {
                Some(rules) => rules.to_vec(),
                None => match self::kind(plural) {
                    Some(kind) => return Err(Failure::not_found(kind, text("name"))),
                    None => return Ok(()),
                },
            }
        }
    };
    let missing = uncovered(&grants.rules(user, namespace), &wanted);
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::protected(kind, name, &not_had(user, &missing)))
}

/// As Kubernetes words it, but for what is too long.
fn not_had(user: &User, missing: &[Rule]) -> String {
    let mut lines: Vec<String> = missing.iter().take(SHOWN).map(ToString::to_string).collect();
    if missing.len() > SHOWN {
        lines.push(format!("and {} more", missing.len() - SHOWN));
    }
    format!(
        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        user.groups,
        lines.join("\n")
    )
}
