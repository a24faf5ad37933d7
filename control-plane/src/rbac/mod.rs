//! Who may do what over the API: roles and bindings of `rbac.authorization.k8s.io`, as Kubernetes means them.
//!
//! [`rule`] says what one rule allows and which rules cover others, [`grants`] is what all roles and bindings together come to, compiled once
//! for each change of them, [`builtin`] are the roles that there are from the first start. All of it is pure: the objects are read, and
//! requests judged, by [`crate::api`].

pub mod builtin;
pub mod grants;
pub mod rule;
#[cfg(test)]
mod tests;

pub use grants::{Grants, Objects};
pub use rule::{Rule, uncovered};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

/// The group whose members may do everything, whatever roles there are.
pub const MASTERS: &str = "system:masters";
/// The group of everybody who is known.
pub const AUTHENTICATED: &str = "system:authenticated";
/// What users that are service accounts begin with; then `NAMESPACE:NAME`.
pub const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Who asks: a user and its groups, as a client certificate or a token names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// Groups, [`AUTHENTICATED`] among them.
    pub groups: Vec<String>,
    /// Identity that a name which is given again does not have; empty: none.
    pub uid: String,
    /// More that is known, by name.
    pub extra: BTreeMap<String, Vec<String>>,
    /// When what it has proved itself with ends; `None`: never.
    pub until: Option<SystemTime>,
}

impl User {
    /// A user with its groups, and that of all users.
    #[must_use]
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().filter(|group| !group.is_empty()).collect();
        groups.push(AUTHENTICATED.to_owned());
        groups.dedup();
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// Whether it may do everything.
    #[must_use]
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

/// What a request would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection` and whatever roles name; of a path, its method.
    pub verb: String,
    /// To what.
    pub target: Target,
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Objects.
    Resource(Resource),
    /// A path that is of no resource.
    Path(String),
}

/// Objects that a request is about; of an empty field it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// Group of the API; the core group is empty.
    pub group: String,
    /// Plural.
    pub resource: String,
    /// `status`, `config`…
    pub subresource: String,
    /// Empty: the whole cluster.
    pub namespace: String,
    /// Empty: all of them, or one whose name is not known yet.
    pub name: String,
}

impl Resource {
    /// `resource/subresource`, as roles write it.
    #[must_use]
    pub fn combined(&self) -> String {
        match self.subresource.as_str() {
            "" => self.resource.clone(),
            subresource => format!("{}/{subresource}", self.resource),
        }
    }
}

impl Attributes {
    /// A verb on objects.
    #[must_use]
    pub fn on(verb: impl Into<String>, resource: Resource) -> Self {
        Self { verb: verb.into(), target: Target::Resource(resource) }
    }

    /// A method on a path.
    #[must_use]
    pub fn path(verb: impl Into<String>, path: impl Into<String>) -> Self {
        Self { verb: verb.into(), target: Target::Path(path.into()) }
    }

    /// Why a user may not, in the words of Kubernetes; `by whom` is left to the caller where there is no resource.
    #[must_use]
    pub fn denied(&self, user: &str) -> String {
        match &self.target {
            Target::Path(path) => format!("User {user:?} cannot {} path {path:?}", self.verb),
            Target::Resource(resource) => {
                let place = match resource.namespace.as_str() {
                    "" => "at the cluster scope".to_owned(),
                    namespace => format!("in the namespace {namespace:?}"),
                };
                format!(
                    "User {user:?} cannot {} resource {:?} in API group {:?} {place}",
                    self.verb,
                    resource.combined(),
                    resource.group
                )
            }
        }
    }
}

/// Who asks, and what that may do at this moment. It travels with a request to the pages that must look closer.
#[derive(Clone, Debug)]
pub struct Asking {
    /// Who.
    pub user: Arc<User>,
    /// What everybody may do.
    pub grants: Arc<Grants>,
}

impl Asking {
    /// Whether it may.
    #[must_use]
    pub fn may(&self, attributes: &Attributes) -> bool {
        self.grants.allows(&self.user, attributes).is_some()
    }
}
